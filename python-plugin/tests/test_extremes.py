"""Numbers that are no numbers, infinite or far too large: what the cache makes of them, and that it goes no further."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import CASES, Case, build_batch, poisoned_pages
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_kernels import decode

from vllm_kivi import reference
from vllm_kivi.backend.cpu.metadata import build_metadata
from vllm_kivi.cache.staging import Slot
from vllm_kivi.reference import LARGEST

SMALLEST_SCALE = 2.0**-14
FLOAT16 = torch.finfo(torch.float16)
NUMBERS = [0.0, -0.0, 1e-45, 1e-30, 1.0, -1.0, LARGEST, -LARGEST, 65504.0, -65504.0, 1e30, -1e30, 3.38e38, -3.38e38]
NO_NUMBERS = [math.nan, math.inf, -math.inf]
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])


def tensors(elements: list[float], groups: int = 4, members: int = 32) -> st.SearchStrategy[torch.Tensor]:
    """Float32 [groups, members]: ordinary numbers of any size with some of ``elements``, and constant groups."""

    def build(seed: int, scale: float, few: list[tuple[int, float]], constant: float | None) -> torch.Tensor:
        x = torch.randn(groups, members, generator=torch.Generator().manual_seed(seed)) * scale
        for at, element in few:
            x.view(-1)[at] = element
        if constant is not None:
            x[1] = constant
        return x

    places = st.tuples(st.integers(0, groups * members - 1), st.sampled_from(elements))
    scales = st.sampled_from([0.0, 1e-40, 1e-6, 1.0, 1e4, 1e30])
    constants = st.one_of(st.none(), st.sampled_from(elements))
    return st.builds(build, st.integers(0, 2**31), scales, st.lists(places, max_size=6), constants)


@given(tensors(NUMBERS + NO_NUMBERS), dtypes, st.booleans())
@example(torch.full((1, 64), 3.38e38), torch.bfloat16, True)
@example(torch.full((1, 64), math.nan), torch.float16, True)
def test_what_is_admitted_is_finite_and_otherwise_unchanged(
    x: torch.Tensor, dtype: torch.dtype, rotation: bool
) -> None:
    x = x.to(dtype)
    admitted = reference.admit(x)
    assert admitted.abs().le(LARGEST).all()
    usual = x.float().abs() <= LARGEST
    assert admitted[usual].equal(x.float()[usual])
    assert admitted[x.isnan()].eq(0).all()
    assert admitted[x.float() > LARGEST].eq(LARGEST).all()
    assert admitted[x.float() < -LARGEST].eq(-LARGEST).all()
    prepared = reference.prepare(x, rotation)
    assert prepared.dtype == dtype
    assert prepared.float().abs().le(LARGEST).all()
    staged = reference.stage(prepared)
    assert staged.abs().le(LARGEST).all()
    assert staged.to(dtype).float().equal(staged) or dtype == torch.float16  # whose smallest numbers are coarser
    assert staged.half().isfinite().all()


@given(tensors(NUMBERS), st.sampled_from([2, 4]), st.booleans())
def test_no_scale_is_zero_or_no_number(x: torch.Tensor, bits: int, clipping: bool) -> None:
    """Also of numbers that were never admitted."""
    x = x.clamp(-1e38, 1e38)  # the greatest difference is a float32 too
    codes, zero_bits, scale_bits = reference.quantize(x, bits, 1, clipping)
    zero, scale = reference.decode(zero_bits, scale_bits)
    assert scale.ge(SMALLEST_SCALE).all()
    assert scale.isfinite().all()
    assert (codes * scale + zero).isfinite().all()


@given(tensors(NUMBERS + NO_NUMBERS), st.sampled_from([2, 4]), st.booleans())
@example(torch.tensor([[LARGEST, -LARGEST] * 16]), 4, False)
@example(torch.tensor([[LARGEST, -LARGEST] * 16]), 2, False)
def test_what_is_stored_reads_as_float16(x: torch.Tensor, bits: int, clipping: bool) -> None:
    """And is off by no more than half a step of the range, with the rounding of zero and scale."""
    x = reference.admit(x)
    codes, zero_bits, scale_bits = reference.quantize(x, bits, 1, clipping)
    zero, scale = reference.decode(zero_bits, scale_bits)
    restored = codes * scale + zero
    assert restored.abs().max() <= FLOAT16.max
    if not clipping:
        span = x.amax(1, keepdim=True) - x.amin(1, keepdim=True)
        allowed = span / (2**bits - 1) * 0.51 + span * 2**-5 + zero.abs() * 2**-8 + 2 * SMALLEST_SCALE * 2**bits
        assert ((restored - x).abs() <= allowed).all()


each_case = pytest.mark.parametrize("case", CASES[:3], ids=lambda case: case.name)


@each_case
@settings(max_examples=8)
@given(x=tensors(NUMBERS + NO_NUMBERS, 2, 4096), dtype=dtypes)
def test_kernels_store_the_references_bytes(case: Case, x: torch.Tensor, dtype: torch.dtype) -> None:
    layout, clipping = case.layout, case.config().clipping
    d, group = case.head_size, layout.key_group
    tokens = 2 * group
    x = x.view(-1).repeat(-(-2 * tokens * case.heads * d // x.numel()))[: 2 * tokens * case.heads * d]
    prepared = reference.prepare(x.view(2, tokens, case.heads, d).to(dtype), case.config().rotation).float()
    key, value = prepared[0].unflatten(0, (2, group)).contiguous(), prepared[1].contiguous()
    blocks, places = torch.tensor([1, 1]), torch.arange(2) % layout.key_groups
    blocks += torch.arange(2) // layout.key_groups
    slots = torch.arange(tokens) + layout.block_size
    want = poisoned_pages(case, 5)
    got = want.clone()
    reference.store_keys(layout, want, blocks, places, key, clipping)
    reference.store_values(layout, want, slots, value, clipping)
    case.kernels.store_keys(got.numpy(), blocks.numpy(), places.numpy(), key.numpy())
    case.kernels.store_values(got.numpy(), slots.numpy(), value.numpy())
    assert got.equal(want)


@each_case
@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e38], ids=str)
def test_a_query_that_is_no_number_spoils_its_own_output_alone(case: Case, bad: float, seeded: torch.Generator) -> None:
    batch = build_batch(case, [129, 300, 77], seeded)
    query = torch.randn(3, case.heads * case.ratio, case.head_size, generator=seeded)
    alone = decode(batch, query, 1)
    query[1] = bad
    together = decode(batch, query, 1)
    assert together[[0, 2]].equal(alone[[0, 2]])


@each_case
def test_what_an_earlier_owner_left_in_a_slot_or_page_is_never_read(case: Case, seeded: torch.Generator) -> None:
    """Rings that hold NaN and infinities, and pages of 0xFF, wherever the new owner has written nothing."""
    batch = build_batch(case, [1, 129, 300], seeded)
    query = torch.randn(3, case.heads * case.ratio, case.head_size, generator=seeded)
    first = decode(batch, query, 1)
    for ring in (batch.ring.key, batch.ring.value):
        ring[ring.isnan()] = math.inf
    assert first.isfinite().all()
    assert decode(batch, query, 1).equal(first)


@pytest.mark.parametrize("padding", [1, 3])
def test_a_step_of_padding_alone_asks_for_nothing(padding: int) -> None:
    config = CASES[0].config()
    slots, table = [Slot(5, 0)] * padding, torch.zeros(padding, 4, dtype=torch.int32)
    nothing = torch.empty(0, dtype=torch.int64)
    meta = build_metadata(config, [0] * (padding + 1), [0] * padding, slots, table, nothing)
    assert (meta.num_tokens, meta.decode, meta.prefill) == (0, None, [])
    assert meta.staged_keys.tokens.numel() == meta.staged_values.tokens.numel() == 0


@each_case
def test_kernels_take_batches_of_nothing(case: Case) -> None:
    pages = poisoned_pages(case, 1)
    none, d = np.empty(0, np.int64), case.head_size
    case.kernels.store_keys(pages.numpy(), none, none, np.empty((0, case.layout.key_group, case.heads, d), np.float32))
    case.kernels.store_values(pages.numpy(), none, np.empty((0, case.heads, d), np.float32))
    assert pages.eq(0xFF).all()
    assert decode(build_batch(case, [1], torch.Generator()), torch.empty(0, case.heads * case.ratio, d), 1).numel() == 0
