"""Storing a step against the reference: identical bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from batches import Row, Step

from vllm_kivi.config import PRESETS
from vllm_kivi.kernels.many import store_many
from vllm_kivi.kernels.staging import stage_newest

ROWS = [Row(100, 60), Row(0, 5), Row(0, 0), Row(127, 130), Row(255, 1)]


def stored(preset: str, head_size: int, block_size: int, dtype: torch.dtype) -> Step:
    """A step without rotation, so that both sides quantize the same numbers."""
    config = replace(PRESETS[preset], rotation=False)
    step = Step(config, ROWS, head_size, 2, 1, dtype, block_size).ready()
    fresh = step.fresh_key, step.fresh_value
    store_many(step.layout, step.pages, step.batch, step.slot_mapping, fresh, fresh, step.rings, config.clipping, False)
    return step


@pytest.mark.parametrize(
    ("preset", "head_size", "block_size", "dtype"),
    [
        ("k4v4", 128, 128, torch.bfloat16),
        ("k4v4", 80, 128, torch.float16),
        ("k4v4", 256, 256, torch.bfloat16),
        ("k4v2", 64, 256, torch.float16),
        ("k4v2", 96, 128, torch.bfloat16),
        ("k2v2", 80, 128, torch.float32),
        ("k2v2", 128, 128, torch.float16),
    ],
    ids=str,
)
def test_bytes_are_the_references(preset: str, head_size: int, block_size: int, dtype: torch.dtype) -> None:
    step = stored(preset, head_size, block_size, dtype)
    assert (step.pages.cpu() != step.before_pages).any()
    assert step.wrong_bytes() == 0


def test_rings_hold_the_newest_tokens_after_a_long_chunk() -> None:
    """More tokens than a ring holds, and fewer; what older steps staged and is still needed stays."""
    step = stored("k4v4", 64, 128, torch.float16)
    assert step.ring_error() > 0
    stage_newest(step.rings, step.batch, (step.fresh_key, step.fresh_value))
    assert step.ring_error() == 0
