"""Prefill of one row against a plain loop of the reference over its queries, for chunks of every kind."""

import pytest
import torch
from cases import CASES, RESIDUAL, Case, poisoned_pages, put_keys, put_values, random_kv, slot_mapping

from vllm_kivi.backend.cpu import prefill
from vllm_kivi.backend.cpu.metadata import PrefillRow, build_metadata
from vllm_kivi.cache.staging import Slot
from vllm_kivi.reference import attention_over, closed_keys, load_blocks, rough_values

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

TOLERANCE = 3e-5
"""Both sum in float32, in another order; outputs are averages of values of size 1 to 4."""


def one_row(
    case: Case, computed: int, length: int, windows: tuple[int, int], hit: int
) -> tuple[PrefillRow, torch.Tensor]:
    block_ids = torch.randperm(
        -(-length // case.layout.block_size) + 2, generator=torch.Generator().manual_seed(1)
    ).int()
    count = length - computed
    slots = slot_mapping(case, block_ids, computed, length)
    meta = build_metadata(case.config(*windows), [0, count], [length], [Slot(0, hit)], block_ids[None], slots)
    return meta.prefill[0], block_ids


def run(
    case: Case, computed: int, length: int, generator: torch.Generator, windows: tuple[int, int] = (0, 0), hit: int = 0
) -> None:
    """Prefill of tokens [computed, length) after a prefix of ``hit``, compared at all edges and every fifth query.

    windows: of keys and of values.
    """
    layout, group = case.layout, case.layout.key_group
    row, block_ids = one_row(case, computed, length, windows, hit)
    key, value = random_kv(case, length, generator)
    query = torch.randn(length - computed, case.heads * case.ratio, case.head_size, generator=generator) * 2
    before, after = computed // group, length // group
    pages = poisoned_pages(case, len(block_ids))
    put_keys(case, pages, block_ids, 0, before, key)  # by earlier chunks, or by the request that left the prefix
    put_values(case, pages, block_ids, 0, length, value)
    untouched = pages.clone()
    exact_key, exact_value = key[row.key_start :].clone(), value[row.value_start :].clone()
    prefill.close_groups(case.kernels, layout, pages, row, exact_key)
    out = prefill.attend_row(case.kernels, layout, pages, row, query, exact_key, exact_value, case.scale)

    # What the row closed: the store kernel's bytes, and nothing else in the pages has changed.
    closing = torch.arange(before, after) * group
    if len(closing):
        case.kernels.store_keys(
            untouched.numpy(),
            block_ids[closing // layout.block_size].long().numpy(),
            (closing % layout.block_size // group).numpy(),
            key[before * group : after * group].unflatten(0, (-1, group)).contiguous().numpy(),
        )
    assert pages.equal(untouched)

    assert out.isfinite().all()
    key_window, value_window = windows
    edges = {edge + off for segment in row.segments for edge in segment[:2] for off in (-2, -1, 0, 1)}
    picked = {p for p in range(computed, length) if p in edges or p % 5 == 0}
    # reference.attend, with the pages read once instead of once a query.
    stored_key, stored_value = load_blocks(layout, pages, block_ids[: -(-length // layout.block_size)])
    for position in sorted(picked):
        closed = closed_keys(position, group, key_window, hit)
        rough = rough_values(position, RESIDUAL, value_window, hit)
        context_key, context_value = (
            torch.cat([stored[:, :first], exact[first : position + 1].transpose(0, 1)], 1)
            for stored, exact, first in ((stored_key, key, closed), (stored_value, value, rough))
        )
        wanted, _ = attention_over(query[position - computed], context_key, context_value, case.scale)
        torch.testing.assert_close(
            out[position - computed], wanted, atol=TOLERANCE, rtol=0, msg=lambda m, p=position: f"query {p}: {m}"
        )


@pytest.fixture(autouse=True)
def fewer_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of one or two groups, so that short contexts already take several."""
    monkeypatch.setattr(prefill, "SLAB_TOKENS", 256)


@each_case
@pytest.mark.parametrize(
    ("computed", "length"),
    [
        pytest.param((0, 0), (1, 1), id="whole prompt, one past a group"),
        pytest.param((0, 0), (2, 0), id="whole prompt, two groups exactly"),
        pytest.param((0, 0), (0, 7), id="first chunk inside a group"),
        pytest.param((0, 7), (1, -1), id="chunk inside a group, up to its last but one"),
        pytest.param((0, 7), (1, 0), id="chunk that completes a group"),
        pytest.param((1, -1), (1, 1), id="two tokens across the edge"),
        pytest.param((1, 0), (1, 5), id="chunk that starts at the edge"),
        pytest.param((1, 9), (3, 2), id="chunk that closes two groups, started mid-group"),
        pytest.param((3, 0), (3, 2), id="context of several slabs"),
    ],
)
def test_chunks(case: Case, computed: tuple[int, int], length: tuple[int, int], seeded: torch.Generator) -> None:
    group = case.layout.key_group
    start, end = (groups * group + tokens for groups, tokens in (computed, length))
    run(case, start, end, seeded)


WINDOWS = [(1, 0), (40, 0), (200, 0), (0, 1), (0, 40), (0, 200), (40, 40), (40, 200), (200, 40)]


@each_case
@pytest.mark.parametrize("windows", WINDOWS)
def test_window(case: Case, windows: tuple[int, int], seeded: torch.Generator) -> None:
    group = case.layout.key_group
    run(case, group + 3, 2 * group + max(windows) + 2, seeded, windows)


@each_case
@pytest.mark.parametrize("windows", WINDOWS)
def test_whole_prompt_with_a_window(case: Case, windows: tuple[int, int], seeded: torch.Generator) -> None:
    run(case, 0, case.layout.key_group + max(windows) + 5, seeded, windows)


@each_case
@pytest.mark.parametrize("windows", [(0, 0), (150, 0), (0, 150), (150, 150)])
def test_after_a_prefix_hit(case: Case, windows: tuple[int, int], seeded: torch.Generator) -> None:
    """The rings hold nothing from before the hit's end: queries read it quantized, whatever the windows ask for."""
    block, group = case.layout.block_size, case.layout.key_group
    row, _ = one_row(case, block, block + group + 9, windows, hit=block)
    assert row.key_start == block
    assert row.value_start == block
    run(case, block, block + group + 9, seeded, windows, hit=block)


@pytest.mark.parametrize("slab", [128, 256, 384, 4096])
def test_the_slab_size_does_not_matter(slab: int, monkeypatch: pytest.MonkeyPatch, seeded: torch.Generator) -> None:
    monkeypatch.setattr(prefill, "SLAB_TOKENS", slab)
    run(CASES[0], 640, 660, seeded)


def test_slabs_bound_the_scratch(monkeypatch: pytest.MonkeyPatch, seeded: torch.Generator) -> None:
    case, sizes = CASES[0], []
    attend_over = prefill._attend
    monkeypatch.setattr(prefill, "_attend", lambda q, k, *rest: sizes.append(k.shape[1]) or attend_over(q, k, *rest))
    monkeypatch.setattr(prefill, "SLAB_TOKENS", 128)
    run(case, 640, 650, seeded)
    assert sizes
    assert max(sizes) <= 128


def test_a_query_reads_the_group_that_it_completes_in_full_precision(seeded: torch.Generator) -> None:
    """The query at 127 completes the group of 128 tokens that the one at 128 reads quantized."""
    row, _ = one_row(CASES[0], 127, 129, (0, 0), 0)
    assert [(first, last, closed) for first, last, closed, _ in row.segments] == [(127, 128, 0), (128, 129, 128)]
    run(CASES[0], 126, 128, seeded)
    run(CASES[0], 127, 129, seeded)
