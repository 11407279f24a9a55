"""The compiled CPU kernels against the reference. Unused pages are 0xFF, unused ring rows NaN: a stray read shows."""

import numpy as np
import pytest
import torch
from cases import CASES, Batch, Case, build_batch, poisoned_pages, random_kv, ring_array, store
from numba.core.dispatcher import Dispatcher

from vllm_kivi.backend.cpu.kernels import SPLIT_TOKENS, use_threads
from vllm_kivi.reference import attend, closed_tokens, load_blocks, store_groups

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

DECODE_TOLERANCE = 3e-5
"""Outputs are averages of values of size 1 to 4; the kernel sums in float32 in another order and its exponential is
exact to 1e-6. Observed: at most 5e-6."""


@pytest.fixture(autouse=True, scope="module")
def two_threads() -> None:
    use_threads(2)


def awkward_groups(case: Case, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Groups [n, G, H, D]: ordinary, constant, zero, tiny, beyond the format's range, one-sided, with outliers."""
    group = case.layout.key_group
    key, value = (x.unflatten(0, (-1, group)).clone() for x in random_kv(case, 8 * group, generator))
    for x in (key, value):
        x[1] = 0.75
        x[2] = 0
        x[3] *= 1e-6
        x[4] *= 1e6
        x[5] = x[5].abs() + 100
        x[6, 0, :, 0] = 1000
    return key, value


@each_case
def test_store_writes_the_references_bytes(case: Case, seeded: torch.Generator) -> None:
    layout, clipping = case.layout, case.config().clipping
    key, value = awkward_groups(case, seeded)
    places = torch.randperm(3 * len(key), generator=seeded)[: len(key)]  # in no order, with gaps
    blocks, groups = places // layout.key_groups, places % layout.key_groups
    wanted = poisoned_pages(case, 3 * len(key))
    got = wanted.clone()
    store_groups(layout, wanted, blocks, groups, key, value, clipping)
    case.kernels.store(got.numpy(), blocks.numpy(), groups.numpy(), key.numpy(), value.numpy())
    if not clipping:
        assert got.equal(wanted)
        return
    # The search compares sums of squares, which the two add up in a different order: near-ties may fall either way.
    touched = blocks.unique()
    assert got[[b for b in range(len(got)) if b not in touched]].eq(0xFF).all()
    assert float(got.eq(wanted).float().mean()) >= 0.999
    errors = []
    for pages in (wanted, got):
        error = []
        for n, (block, group) in enumerate(zip(blocks, groups, strict=True)):
            at = slice(int(group) * layout.key_group, (int(group) + 1) * layout.key_group)
            stored = load_blocks(layout, pages, block[None])
            error += [
                float(((s[:, at].transpose(0, 1) - x[n]).double() ** 2).sum())
                for s, x in zip(stored, (key, value), strict=True)
            ]
        errors.append(torch.tensor(error))
    assert (errors[1] <= errors[0] * (1 + 1e-5)).all()


@each_case
def test_load_is_exact_and_writes_only_what_was_asked(case: Case, seeded: torch.Generator) -> None:
    layout, group = case.layout, case.layout.key_group
    length = 3 * layout.block_size
    pages = poisoned_pages(case, 7)
    block_ids = torch.tensor([5, 0, 3], dtype=torch.int32)
    store(case, pages, block_ids, 0, length // group, *random_kv(case, length, seeded))
    wanted_key, wanted_value = load_blocks(layout, pages, block_ids)
    last = length // group
    for first, end in {(0, 1), (0, last), (1, last), (last - 1, last), (last // 2, last // 2 + 1), (1, 1)}:
        tokens = (end - first) * group
        key = torch.full((case.heads, tokens + 5, case.head_size), float("nan"))
        value = key.clone()
        case.kernels.load(pages.numpy(), block_ids.numpy(), first, end, key.numpy(), value.numpy())
        at = slice(first * group, end * group)
        assert key[:, :tokens].equal(wanted_key[:, at])
        assert value[:, :tokens].equal(wanted_value[:, at])
        assert key[:, tokens:].isnan().all()
        assert value[:, tokens:].isnan().all()


def decode(batch: Batch, query: torch.Tensor, lengths: list[int], closed: list[int], splits: int) -> torch.Tensor:
    """The decode kernel's output [rows, Hq, D]; scratch and output start as NaN."""
    case = batch.case
    out = torch.full_like(query, float("nan"))
    rows, heads = len(lengths), case.heads * case.ratio
    case.kernels.decode(
        out.numpy(),
        query.numpy(),
        batch.pages.numpy(),
        batch.block_table.numpy(),
        np.array(closed, np.int64),
        ring_array(batch.ring.key),
        ring_array(batch.ring.value),
        batch.slots.numpy(),
        np.array(lengths, np.int64),
        np.float32(case.scale),
        np.full((rows, splits, heads, case.head_size), np.nan, np.float32),
        np.full((rows, splits, heads, 2), np.nan, np.float32),
    )
    return out


def compare(case: Case, lengths: list[int], closed: list[int], window: int, generator: torch.Generator) -> None:
    batch = build_batch(case, lengths, closed, window, generator)
    query = torch.randn(len(lengths), case.heads * case.ratio, case.head_size, generator=generator) * 2
    out = decode(batch, query, lengths, closed, max(-(-max(closed) // SPLIT_TOKENS), 1))
    for row, done in enumerate(closed):
        open_key, open_value = (x[row][done:].transpose(0, 1) for x in (batch.key, batch.value))
        wanted = attend(
            case.layout, batch.pages, batch.block_table[row].long(), done, query[row], open_key, open_value, case.scale
        )
        torch.testing.assert_close(
            out[row], wanted, atol=DECODE_TOLERANCE, rtol=0, msg=lambda m, row=row: f"length {lengths[row]}: {m}"
        )


@each_case
@pytest.mark.parametrize("window", [0, 40])
def test_decode_of_a_ragged_batch_around_every_edge(case: Case, window: int, seeded: torch.Generator) -> None:
    group, block = case.layout.key_group, case.layout.block_size
    edges = {1, 2, 127, *(edge + off for edge in (group, 2 * group, block, 2 * block) for off in (-1, 0, 1))}
    edges |= {group + window - 1, group + window, group + window + 1, 3 * block + window}
    lengths = sorted(edges)
    closed = [closed_tokens(length - 1, group, window) for length in lengths]
    assert len(set(closed)) >= 3
    compare(case, lengths, closed, window, seeded)


@each_case
def test_decode_in_splits(case: Case, seeded: torch.Generator) -> None:
    group = case.layout.key_group
    lengths = [3, SPLIT_TOKENS, SPLIT_TOKENS + 1, SPLIT_TOKENS + group + 5, 2 * SPLIT_TOKENS + group - 1]
    closed = [closed_tokens(length - 1, group, 0) for length in lengths]
    compare(case, lengths, closed, 0, seeded)


@each_case
def test_decode_after_a_prefix_hit_reads_pages_inside_the_window(case: Case, seeded: torch.Generator) -> None:
    group, block, window = case.layout.key_group, case.layout.block_size, 300
    readable_from = [block, 2 * block, 0]
    lengths = [block + 1, 2 * block + group - 1, block + 1]
    closed = [closed_tokens(n - 1, group, window, hit) for n, hit in zip(lengths, readable_from, strict=True)]
    assert closed[:2] == readable_from[:2]
    compare(case, lengths, closed, window, seeded)


def test_decode_does_not_depend_on_the_other_rows(seeded: torch.Generator) -> None:
    case = CASES[0]
    lengths, closed = [129, 2500, 300], [128, 2432, 256]
    batch = build_batch(case, lengths, closed, 0, seeded)
    query = torch.randn(3, case.heads * case.ratio, case.head_size, generator=seeded)
    together = decode(batch, query, lengths, closed, 2)
    batch.block_table, batch.slots = batch.block_table[:1], batch.slots[:1]
    alone = decode(batch, query[:1].contiguous(), lengths[:1], closed[:1], 1)
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=0)


def test_scores_of_any_size_stay_finite(seeded: torch.Generator) -> None:
    case = CASES[0]
    lengths, closed = [200], [128]
    batch = build_batch(case, lengths, closed, 0, seeded)
    query = torch.randn(1, case.heads * case.ratio, case.head_size, generator=seeded) * 1e4
    out = decode(batch, query, lengths, closed, 1)
    keys = [x[0][128:].transpose(0, 1) for x in (batch.key, batch.value)]
    wanted = attend(case.layout, batch.pages, batch.block_table[0].long(), 128, query[0], *keys, case.scale)
    assert out.isfinite().all()
    # Scores of 1e5 carry a rounding error of 0.01 each, so weights agree to a few per cent only.
    torch.testing.assert_close(out[0], wanted, atol=0.2, rtol=0)


@each_case
def test_kernels_can_be_cached_on_disk(case: Case) -> None:
    """A compiled function in a kernel's closure is pickled with an id of its process, and Numba's cache never hits."""
    for kernel in case.kernels:
        captured = [cell.cell_contents for cell in kernel.py_func.__closure__]
        assert captured
        assert not [c for c in captured if isinstance(c, Dispatcher)]
