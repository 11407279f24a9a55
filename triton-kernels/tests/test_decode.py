"""decode and merge against reference.attend, one row at a time: ragged batches, lengths around every edge, and poison
in all that is not to be read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from vllm_kivi import reference
from vllm_kivi.config import PRESETS
from vllm_kivi.kernels.decode import decode, decode_scratch, decode_splits
from vllm_kivi.layout import CacheLayout

# Relative RMS error. float16 is what its rounding of scaled queries and probabilities leaves; bfloat16 rings are
# multiplied in float32 here (helpers.dot_type), as float32 ones.
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 2e-5, torch.float32: 2e-5}


@dataclass
class Batch:
    """A decode step's arguments, and what the reference makes of it."""

    layout: CacheLayout
    query: torch.Tensor
    pages: torch.Tensor
    block_table: torch.Tensor
    closed: torch.Tensor
    seq_lens: torch.Tensor
    slots: torch.Tensor
    ring_key: torch.Tensor
    ring_value: torch.Tensor
    want: torch.Tensor
    want_lse: torch.Tensor

    def decode(
        self, splits: int, out_dtype: torch.dtype = torch.float32, rotate_out: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, heads_q, d = self.query.shape
        out = torch.full((rows, heads_q, d), float("nan"), dtype=out_dtype)
        lse = torch.full((rows, heads_q), float("nan"))
        scratch = decode_scratch(self.layout, rows + 1, heads_q, splits, out.device)
        for part in scratch:
            part.fill_(float("nan"))
        decode(
            self.layout, out, self.query, self.pages, self.block_table, self.closed, self.seq_lens, self.slots,
            self.ring_key, self.ring_value, d**-0.5, scratch, rotate_out, lse,
        )  # fmt: skip
        return out, lse


def batch(
    layout: CacheLayout,
    lengths: list[int],
    ratio: int,
    dtype: torch.dtype,
    heads: int = 1,
    window: int = 0,
    seed: int = 0,
) -> Batch:
    """Rows of these lengths over shuffled blocks; unused pages and ring rows are poisoned, a length of 0 is padding."""
    generator = torch.Generator().manual_seed(seed)
    rows, d, group, block_size = len(lengths), layout.head_size, layout.key_group, layout.block_size
    blocks = -(-max(*lengths, 1) // block_size)
    ring_tokens = group + window + 3
    poison = rows * blocks  # a block whose zeros and scales are the largest there are
    pages = torch.full((poison + 1, heads, layout.record_bytes), 0xFF, dtype=torch.uint8)
    ids = torch.randperm(poison, generator=generator).view(rows, blocks).int()
    ring_key, ring_value = (torch.full((rows + 2, heads, ring_tokens, d), float("nan"), dtype=dtype) for _ in range(2))
    slots = torch.randperm(rows + 2, generator=generator)[:rows]
    query = torch.randn(rows, heads * ratio, d, generator=generator).to(dtype)
    closed, want, want_lse = [], torch.zeros(query.shape), torch.full(query.shape[:-1], float("-inf"))
    for row, length in enumerate(lengths):
        count = reference.closed_tokens(length - 1, group, window) if length else 0
        closed.append(count)
        if length == 0:
            continue
        key, value = ((torch.randn(length, heads, d, generator=generator) + 0.5).to(dtype) for _ in range(2))
        starts = torch.arange(0, count, group)
        shape = (-1, group, heads, d)
        at_blocks, at_groups = ids[row, starts // block_size].long(), starts % block_size // group
        closed_key, closed_value = key[:count].view(shape), value[:count].view(shape)
        reference.store_groups(layout, pages, at_blocks, at_groups, closed_key, closed_value, False)
        at = torch.arange(count, length) % ring_tokens
        slot = int(slots[row])
        ring_key[slot][:, at], ring_value[slot][:, at] = key[count:].transpose(0, 1), value[count:].transpose(0, 1)
        open_key, open_value = key[count:].transpose(0, 1), value[count:].transpose(0, 1)
        want[row] = reference.attend(layout, pages, ids[row], count, query[row], open_key, open_value, d**-0.5)
        closed_key, _ = reference.load_blocks(layout, pages, ids[row, : -(-count // block_size)])
        scores = query[row].float().view(heads, ratio, d) @ torch.cat(
            [closed_key[:, :count], open_key.float()], 1
        ).transpose(1, 2)
        want_lse[row] = (scores * d**-0.5).logsumexp(-1).flatten()
        ids[row, -(-count // block_size) :] = poison
    as_int = torch.int32 if seed % 2 else torch.int64
    lens = torch.tensor(lengths, dtype=as_int)
    return Batch(
        layout,
        query,
        pages,
        ids,
        torch.tensor(closed, dtype=as_int),
        lens,
        slots.to(as_int),
        ring_key,
        ring_value,
        want,
        want_lse,
    )


def check(step: Batch, out: torch.Tensor, lse: torch.Tensor, tolerance: float) -> None:
    live = step.seq_lens > 0
    error = (out.float() - step.want)[live].norm(dim=-1) / step.want[live].norm(dim=-1)
    assert error.max() < tolerance  # NaN fails
    torch.testing.assert_close(lse, step.want_lse, rtol=0, atol=10 * tolerance)
    assert torch.equal(out[~live], torch.zeros_like(out[~live]))


def edges(group: int) -> list[int]:
    return [1, group - 1, 0, group, group + 1, 2 * group - 1, 2 * group, 2 * group + 1]


# Pairwise over preset, head size, GQA ratio, dtype and window. With 96 and 80 channels at 2 bits channel groups cut
# through a part.
@pytest.mark.parametrize(
    ("preset", "head_size", "ratio", "dtype", "window"),
    [
        ("k4v4", 128, 4, torch.float16, 0),
        ("k4v4", 64, 8, torch.bfloat16, 20),
        ("k4v4", 80, 3, torch.float32, 0),
        ("k4v4", 256, 1, torch.float16, 0),
        ("k4v2", 128, 8, torch.float32, 0),
        ("k4v2", 96, 1, torch.bfloat16, 0),
        ("k4v2", 80, 4, torch.float16, 40),
        ("k2v2", 128, 1, torch.bfloat16, 0),
        ("k2v2", 64, 3, torch.float16, 0),
        ("k2v2", 96, 4, torch.float32, 5),
        ("k2v2", 256, 8, torch.bfloat16, 0),
    ],
    ids=str,
)
def test_lengths_around_every_edge(preset: str, head_size: int, ratio: int, dtype: torch.dtype, window: int) -> None:
    layout = PRESETS[preset].layout(head_size, 128)
    step = batch(layout, edges(layout.key_group), ratio, dtype, window=window, seed=head_size + ratio)
    check(step, *step.decode(splits=2), TOLERANCE[dtype])


@pytest.mark.parametrize("splits", [2, 16])
def test_splits_of_a_ragged_batch(splits: int) -> None:
    """As many splits as asked for, and more than there is work for, the last not full; two KV heads."""
    layout = PRESETS["k2v2"].layout(64, 128)
    step = batch(layout, [600, 1, 290], ratio=4, dtype=torch.float16, heads=2, seed=splits)
    check(step, *step.decode(splits), TOLERANCE[torch.float16])


@pytest.mark.parametrize(("block_size", "key_group", "ratio"), [(256, 256, 16), (256, 64, 20)], ids=str)
def test_groups_blocks_and_wide_queries(block_size: int, key_group: int, ratio: int) -> None:
    """Tiles smaller than a group, blocks of several groups, more query heads than the least tile."""
    layout = CacheLayout(
        head_size=64, block_size=block_size, key_bits=4, value_bits=4, key_group=key_group, value_group=64
    )
    step = batch(layout, [300, 555], ratio, torch.float16)
    check(step, *step.decode(splits=2), TOLERANCE[torch.float16])


def test_large_scores() -> None:
    """Scores in the hundreds, rising and falling over the context: the running maximum has to move."""
    layout = PRESETS["k2v2"].layout(64, 128)
    step = batch(layout, [200, 70], 4, torch.float32, seed=3)
    small = step.query
    step.query = small * 60
    out, lse = step.decode(splits=2)
    key, value = reference.load_blocks(layout, step.pages, step.block_table[0, :2])
    at = torch.arange(192, 200) % step.ring_key.shape[2]
    key = torch.cat([key[:, :192], step.ring_key[int(step.slots[0])][:, at]], 1)
    value = torch.cat([value[:, :192], step.ring_value[int(step.slots[0])][:, at]], 1)
    want, want_lse = reference.attention_over(step.query[0], key, value, 64**-0.5)
    assert ((out[0] - want).norm() / want.norm()).item() < 1e-4
    torch.testing.assert_close(lse[0], want_lse, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("head_size", [80, 128])
def test_rotates_back_into_the_models_dtype(head_size: int) -> None:
    layout = PRESETS["k4v2"].layout(head_size, 128)
    step = batch(layout, [130, 0, 5], 2, torch.float16)
    out, lse = step.decode(splits=1, out_dtype=torch.float16, rotate_out=True)
    step.want = reference.rotate(step.want)
    check(step, out, lse, TOLERANCE[torch.float16])


def test_strided_query_and_output() -> None:
    """Query and output as slices of wider tensors, as an engine hands them in."""
    layout = PRESETS["k2v2"].layout(64, 128)
    step = batch(layout, [40, 65], 4, torch.float16)
    wide = torch.full((2, 6, 64), float("nan"), dtype=torch.float16)
    wide[:, 1:5] = step.query
    out = torch.full((2, 6, 64), 7.0)
    scratch = decode_scratch(layout, 2, 4, 1, out.device)
    args = (
        step.pages,
        step.block_table,
        step.closed,
        step.seq_lens,
        step.slots,
        step.ring_key,
        step.ring_value,
        0.125,
        scratch,
    )
    decode(layout, out[:, 1:5], wide[:, 1:5], *args)
    check(step, out[:, 1:5], step.want_lse, TOLERANCE[torch.float16])
    assert (out[:, [0, 5]] == 7.0).all()


def test_split_count_depends_on_the_grid_alone() -> None:
    assert decode_splits(rows=16, kv_heads=8, max_tokens=32768, processors=132) == 9
    assert decode_splits(rows=256, kv_heads=8, max_tokens=32768, processors=132) == 1
    assert decode_splits(rows=1, kv_heads=8, max_tokens=512, processors=132) == 2
    assert decode_splits(rows=1, kv_heads=1, max_tokens=1 << 20, processors=132) == 64
