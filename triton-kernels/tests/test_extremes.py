"""Keys and values that are no numbers, infinite or far too large, and steps without tokens, through whole kernels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from batches import Row, Step
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_kivi import reference
from vllm_kivi.config import PRESETS, KiviConfig
from vllm_kivi.kernels.helpers import INTERPRETED
from vllm_kivi.kernels.staging import stage_heads

K4V4 = PRESETS["k4v4"]
PLAIN = replace(K4V4, rotation=False)
K2V2 = replace(PRESETS["k2v2"], rotation=False)
BAD = [math.nan, math.inf, -math.inf, 65504.0, -65504.0]


def spoil_second_row(step: Step) -> None:
    """No numbers, infinities and outliers in single channels, whole tokens, and a constant channel."""
    for row, number in ((step.raw_key[1], math.nan), (step.raw_value[1], math.inf)):
        row[3::7, :, 5] = number
        row[-1] = -number
        row[2] = 65504.0
        row[..., 9] = -3.0


@pytest.mark.parametrize(
    ("config", "dtype", "few"),
    [
        (PLAIN, torch.bfloat16, True),
        (K4V4, torch.float16, True),
        (K4V4, torch.bfloat16, False),
        (K2V2, torch.float16, False),
    ],
    ids=("plain-decode", "k4v4-decode", "k4v4-prefill", "k2v2-prefill"),
)
def test_one_rows_numbers_never_reach_another_row(config: KiviConfig, dtype: torch.dtype, few: bool) -> None:
    """The spoiled row closes a group in this step; the others' pages, rings and outputs stay the same to the bit."""
    rows = [Row(255, 1), Row(127, 1), Row(3, 1)] if few else [Row(120, 20), Row(100, 40), Row(0, 9)]

    def run(spoil: Callable[[Step], object] | None) -> Step:
        step = Step(config, rows, 64, 1, 2, dtype, spoil=spoil).ready()
        step.run_few(2) if few else step.run_many()
        return step

    clean, spoiled = run(None), run(spoil_second_row)
    assert spoiled.out.isfinite().all()
    own = slice(1, 2) if few else slice(20, 60)
    others = torch.ones(len(spoiled.out), dtype=torch.bool)
    others[own] = False
    assert spoiled.out[others].equal(clean.out[others])
    assert not spoiled.out[own].equal(clean.out[own])
    pages = torch.ones(len(spoiled.pages), dtype=torch.bool)
    pages[spoiled.table[1].long()] = False
    assert spoiled.pages[pages].equal(clean.pages[pages])
    for got, want in zip(spoiled.rings, clean.rings, strict=True):
        slots = torch.arange(len(got)) != spoiled.slots[1]
        assert got[slots].equal(want[slots])
    if not config.rotation:  # whose sums are of another order
        assert spoiled.wrong_bytes() == 0
        assert spoiled.ring_error() == 0


@pytest.mark.skipif(not INTERPRETED, reason="hands CPU tensors to the kernels")
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**31),
    st.lists(st.tuples(st.integers(0, 159), st.sampled_from([*BAD, 1e30, -3e38])), max_size=8),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_staging_is_the_references(seed: int, bad: list[tuple[int, float]], dtype: torch.dtype) -> None:
    x = torch.randn(2, 1, 80, generator=torch.Generator().manual_seed(seed))
    for at, number in bad:
        x.view(-1)[at] = number
    x = x.to(dtype)
    out, again = torch.empty_like(x), torch.empty_like(x)
    stage_heads((out, again), (x, x), rotation=False)
    assert out.equal(again)
    assert out.isfinite().all()
    assert out.float().equal(reference.stage(reference.prepare(x, False)).to(dtype).float())


@pytest.mark.parametrize("few", [True, False], ids=("decode", "prefill"))
def test_a_step_of_padding_alone_changes_nothing(few: bool) -> None:
    step = Step(PLAIN, [Row(5, 1), Row(7, 1)], 64, 2, 2, torch.float16).ready()
    before = step.pages.clone(), *(ring.clone() for ring in step.rings)
    step.batch = step.batch._replace(
        query_start=torch.zeros_like(step.batch.query_start), seq_lens=torch.zeros_like(step.batch.seq_lens)
    )
    step.slot_mapping = torch.full_like(step.slot_mapping, -1)
    step.run_few(1) if few else step.run_many()
    after = step.pages, *step.rings
    assert all(a.equal(b) for a, b in zip(after, before, strict=True))
