"""The compiled CPU kernels against the reference. Unused pages are 0xFF, unused ring rows NaN: a stray read shows."""

import numpy as np
import pytest
import torch
from cases import CASES, Batch, Case, build_batch, poisoned_pages, put_keys, put_values, random_kv
from numba.core.dispatcher import Dispatcher

from vllm_kivi.backend.cpu.kernels import SPLIT_TOKENS, use_threads
from vllm_kivi.reference import attend, load_blocks, store_keys, store_values

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
def test_store_keys_writes_the_references_bytes(case: Case, seeded: torch.Generator) -> None:
    layout, clipping = case.layout, case.config().clipping
    key, _ = awkward_groups(case, seeded)
    places = torch.randperm(3 * len(key), generator=seeded)[: len(key)]  # in no order, with gaps
    blocks, groups = places // layout.key_groups, places % layout.key_groups
    wanted = poisoned_pages(case, 3 * len(key))
    got = wanted.clone()
    store_keys(layout, wanted, blocks, groups, key, clipping)
    case.kernels.store_keys(got.numpy(), blocks.numpy(), groups.numpy(), key.numpy())
    assert got.equal(wanted)


@each_case
def test_store_values_writes_the_references_bytes(case: Case, seeded: torch.Generator) -> None:
    layout, clipping = case.layout, case.config().clipping
    value = awkward_groups(case, seeded)[1].flatten(0, 1)
    tokens, size = len(value), case.layout.block_size
    slots = torch.randperm(2 * tokens, generator=seeded)[:tokens]  # in no order, with gaps
    slots[::7] = -1  # padding
    wanted = poisoned_pages(case, -(-2 * tokens // size))
    got = wanted.clone()
    store_values(layout, wanted, slots, value, clipping)
    case.kernels.store_values(got.numpy(), slots.numpy(), value.numpy())
    assert got.equal(wanted)


@each_case
def test_storing_a_token_leaves_the_other_tokens_values_alone(case: Case, seeded: torch.Generator) -> None:
    layout = case.layout
    together, one_by_one = poisoned_pages(case, 2), poisoned_pages(case, 2)
    _, value = random_kv(case, layout.block_size, seeded)
    slots = layout.block_size + torch.randperm(layout.block_size, generator=seeded)
    case.kernels.store_values(together.numpy(), slots.numpy(), value.numpy())
    for n in range(layout.block_size):
        case.kernels.store_values(one_by_one.numpy(), slots[n : n + 1].numpy(), value[n : n + 1].numpy())
    assert together.equal(one_by_one)


@each_case
def test_load_is_exact_and_writes_only_what_was_asked(case: Case, seeded: torch.Generator) -> None:
    layout, group = case.layout, case.layout.key_group
    length = 3 * layout.block_size
    pages = poisoned_pages(case, 7)
    block_ids = torch.tensor([5, 0, 3], dtype=torch.int32)
    key, value = random_kv(case, length, seeded)
    put_keys(case, pages, block_ids, 0, length // group, key)
    put_values(case, pages, block_ids, 0, length, value)
    wanted_key, wanted_value = load_blocks(layout, pages, block_ids)
    last = length // group
    ranges = {(0, 1), (0, last), (1, last), (last - 1, last), (last // 2, last // 2 + 1), (1, 1)}
    for load, wanted, unit, first, end in [
        *((case.kernels.load_keys, wanted_key, group, first, end) for first, end in ranges),
        *((case.kernels.load_values, wanted_value, 1, first * group, end * group) for first, end in ranges),
        *((case.kernels.load_values, wanted_value, 1, first, end) for first, end in ((0, 1), (7, 301), (383, 384))),
    ]:
        tokens = (end - first) * unit
        got = torch.full((case.heads, tokens + 5, case.head_size), float("nan"))
        load(pages.numpy(), block_ids.numpy(), first, end, got.numpy())
        assert got[:, :tokens].equal(wanted[:, first * unit : end * unit])
        assert got[:, tokens:].isnan().all()


def decode(batch: Batch, query: torch.Tensor, splits: int) -> torch.Tensor:
    """The decode kernel's output [rows, Hq, D]; scratch and output start as NaN."""
    case, rows = batch.case, len(query)
    out = torch.full_like(query, float("nan"))
    heads = case.heads * case.ratio
    case.kernels.decode(
        out.numpy(),
        query.numpy(),
        batch.pages.numpy(),
        batch.block_table.numpy(),
        np.array(batch.closed[:rows], np.int64),
        np.array(batch.rough[:rows], np.int64),
        batch.ring.key_array(),
        batch.ring.value_array(),
        batch.slots.numpy(),
        np.array([len(key) for key in batch.key[:rows]], np.int64),
        np.float32(case.scale),
        np.full((rows, splits, heads, case.head_size), np.nan, np.float32),
        np.full((rows, splits, heads, 2), np.nan, np.float32),
    )
    return out


def wanted_of(batch: Batch, row: int, query: torch.Tensor) -> torch.Tensor:
    """The reference's output [Hq, D] of one row."""
    key, value = batch.key[row][batch.closed[row] :], batch.value[row][batch.rough[row] :]
    return attend(
        batch.case.layout,
        batch.pages,
        batch.block_table[row].long(),
        query[row],
        key.transpose(0, 1),
        value.transpose(0, 1),
        len(batch.key[row]),
        batch.case.scale,
    )


def compare(batch: Batch, generator: torch.Generator) -> None:
    case, lengths = batch.case, [len(key) for key in batch.key]
    query = torch.randn(len(lengths), case.heads * case.ratio, case.head_size, generator=generator) * 2
    out = decode(batch, query, -(-max(lengths) // SPLIT_TOKENS))
    for row, length in enumerate(lengths):
        torch.testing.assert_close(
            out[row],
            wanted_of(batch, row, query),
            atol=DECODE_TOLERANCE,
            rtol=0,
            msg=lambda m, length=length: f"length {length}: {m}",
        )


@each_case
@pytest.mark.parametrize(("key_window", "value_window"), [(0, 0), (40, 0), (0, 40), (40, 200), (200, 1)])
def test_decode_of_a_ragged_batch_around_every_edge(
    case: Case, key_window: int, value_window: int, seeded: torch.Generator
) -> None:
    group, block = case.layout.key_group, case.layout.block_size
    edges = {1, 2, 127, *(edge + off for edge in (group, 2 * group, block, 2 * block) for off in (-1, 0, 1))}
    edges |= {group + key_window + off for off in (-1, 0, 1, 2)} | {3 * block + key_window}
    edges |= {value_window + off for off in (1, 2)} | {block + value_window}
    batch = build_batch(case, sorted(edges), seeded, key_window, value_window)
    assert len(set(batch.closed)) >= 3
    assert value_window == 0 or len(set(batch.rough)) >= 3
    compare(batch, seeded)


@each_case
def test_decode_in_splits(case: Case, seeded: torch.Generator) -> None:
    group = case.layout.key_group
    lengths = [3, SPLIT_TOKENS, SPLIT_TOKENS + 1, SPLIT_TOKENS + group + 5, 2 * SPLIT_TOKENS + group - 1]
    compare(build_batch(case, lengths, seeded), seeded)


@each_case
def test_decode_after_a_prefix_hit_reads_pages_inside_the_window(case: Case, seeded: torch.Generator) -> None:
    group, block = case.layout.key_group, case.layout.block_size
    readable_from = [block, 2 * block, 0]
    lengths = [block + 1, 2 * block + group - 1, block + 1]
    batch = build_batch(case, lengths, seeded, 300, 2 * block, readable_from)
    assert batch.closed[:2] == batch.rough[:2] == readable_from[:2]
    compare(batch, seeded)


def test_decode_does_not_depend_on_the_other_rows(seeded: torch.Generator) -> None:
    case = CASES[0]
    batch = build_batch(case, [129, 2500, 300], seeded)
    query = torch.randn(3, case.heads * case.ratio, case.head_size, generator=seeded)
    together = decode(batch, query, 2)
    batch.block_table, batch.slots = batch.block_table[:1], batch.slots[:1]
    alone = decode(batch, query[:1].contiguous(), 1)
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=0)


def test_scores_of_any_size_stay_finite(seeded: torch.Generator) -> None:
    case = CASES[0]
    batch = build_batch(case, [200], seeded)
    query = torch.randn(1, case.heads * case.ratio, case.head_size, generator=seeded) * 1e4
    out = decode(batch, query, 1)
    assert out.isfinite().all()
    # Scores of 1e5 carry a rounding error of 0.01 each, so weights agree to a few per cent only.
    torch.testing.assert_close(out[0], wanted_of(batch, 0, query), atol=0.2, rtol=0)


@each_case
def test_kernels_can_be_cached_on_disk(case: Case) -> None:
    """A compiled function in a kernel's closure is pickled with an id of its process, and Numba's cache never hits."""
    for kernel in case.kernels:
        captured = [cell.cell_contents for cell in kernel.py_func.__closure__]
        assert captured
        assert not [c for c in captured if isinstance(c, Dispatcher)]
