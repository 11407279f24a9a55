"""Prefill of one row against a plain loop of the reference over its queries, for chunks of every kind."""

import pytest
import torch
from cases import CASES, Case, poisoned_pages, random_kv, store

from vllm_kivi.backend.cpu import prefill
from vllm_kivi.backend.metadata import PrefillRow, build_metadata
from vllm_kivi.cache.staging import Slot
from vllm_kivi.reference import attention_over, closed_tokens, load_blocks

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

TOLERANCE = 3e-5
"""Both sum in float32, in another order; outputs are averages of values of size 1 to 4."""


def one_row(case: Case, computed: int, length: int, window: int, hit: int) -> tuple[PrefillRow, torch.Tensor]:
    block_ids = torch.randperm(
        -(-length // case.layout.block_size) + 2, generator=torch.Generator().manual_seed(1)
    ).int()
    meta = build_metadata(
        case.config(window), [0, length - computed], [computed], [length], [Slot(0, hit, computed)], block_ids[None]
    )
    return meta.prefill[0], block_ids


def run(case: Case, computed: int, length: int, window: int, hit: int, generator: torch.Generator) -> None:
    """Prefill of tokens [computed, length) after a prefix of ``hit``, compared at all edges and every fifth query."""
    layout, group = case.layout, case.layout.key_group
    row, block_ids = one_row(case, computed, length, window, hit)
    key, value = random_kv(case, length, generator)
    query = torch.randn(length - computed, case.heads * case.ratio, case.head_size, generator=generator) * 2
    before, after = computed // group, length // group
    pages = poisoned_pages(case, len(block_ids))
    store(case, pages, block_ids, 0, before, key, value)  # by earlier chunks, or by the request that left the prefix
    untouched = pages.clone()
    span_key, span_value = key[row.span_start :].clone(), value[row.span_start :].clone()
    prefill.close_groups(case.kernels, layout, pages, row, span_key, span_value)
    out = prefill.attend_row(case.kernels, layout, pages, row, query, span_key, span_value, case.scale)

    # What the row closed: the store kernel's bytes, and nothing else in the pages has changed.
    closing = torch.arange(before, after) * group
    if len(closing):
        case.kernels.store(
            untouched.numpy(),
            block_ids[closing // layout.block_size].long().numpy(),
            (closing % layout.block_size // group).numpy(),
            key[before * group : after * group].unflatten(0, (-1, group)).contiguous().numpy(),
            value[before * group : after * group].unflatten(0, (-1, group)).contiguous().numpy(),
        )
    assert pages.equal(untouched)

    assert out.isfinite().all()
    edges = {edge + off for segment in row.segments for edge in segment[:2] for off in (-2, -1, 0, 1)}
    picked = {p for p in range(computed, length) if p in edges or p % 5 == 0}
    # reference.attend, with the pages read once instead of once a query.
    whole = length // group * group
    blocks = block_ids[: -(-whole // layout.block_size)]
    stored_key, stored_value = load_blocks(layout, pages, blocks) if whole else (key[:0], value[:0])
    for position in sorted(picked):
        closed = closed_tokens(position, group, window, hit)
        context_key, context_value = (x[closed : position + 1].transpose(0, 1) for x in (key, value))
        if closed:
            context_key = torch.cat([stored_key[:, :closed], context_key], 1)
            context_value = torch.cat([stored_value[:, :closed], context_value], 1)
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
    run(case, start, end, 0, 0, seeded)


@each_case
@pytest.mark.parametrize("window", [1, 40, 200])
def test_window(case: Case, window: int, seeded: torch.Generator) -> None:
    group = case.layout.key_group
    run(case, group + 3, 2 * group + window + 2, window, 0, seeded)


@each_case
@pytest.mark.parametrize("window", [0, 150])
def test_after_a_prefix_hit(case: Case, window: int, seeded: torch.Generator) -> None:
    """The ring holds nothing from before the hit's end: queries read it quantized, whatever the window asks for."""
    block, group = case.layout.block_size, case.layout.key_group
    row, _ = one_row(case, block, block + group + 9, window, hit=block)
    assert row.span_start == block
    run(case, block, block + group + 9, window, block, seeded)


@pytest.mark.parametrize("slab", [128, 256, 384, 4096])
def test_the_slab_size_does_not_matter(slab: int, monkeypatch: pytest.MonkeyPatch, seeded: torch.Generator) -> None:
    monkeypatch.setattr(prefill, "SLAB_TOKENS", slab)
    run(CASES[0], 640, 660, 0, 0, seeded)


def test_slabs_bound_the_scratch(monkeypatch: pytest.MonkeyPatch, seeded: torch.Generator) -> None:
    case, sizes = CASES[0], []
    attend_over = prefill._attend
    monkeypatch.setattr(prefill, "_attend", lambda q, k, *rest: sizes.append(k.shape[1]) or attend_over(q, k, *rest))
    monkeypatch.setattr(prefill, "SLAB_TOKENS", 128)
    run(case, 640, 650, 0, 0, seeded)
    assert sizes
    assert max(sizes) <= 128


def test_a_lone_query_that_completes_its_group_reads_only_pages(seeded: torch.Generator) -> None:
    """Its segment has no open token at all; it must not become NaN (127 and 128 in one chunk, group 128)."""
    run(CASES[0], 126, 128, 0, 0, seeded)
    run(CASES[0], 127, 129, 0, 0, seeded)
