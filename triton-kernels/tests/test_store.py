"""Storing a step against the reference: identical bytes without clipping, equal errors with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from batches import Row, Step

from vllm_kivi import reference
from vllm_kivi.config import PRESETS
from vllm_kivi.kernels.many import store_many
from vllm_kivi.kernels.staging import stage_newest

ROWS = [Row(100, 60), Row(0, 5), Row(0, 0), Row(127, 130), Row(255, 1)]


def stored(preset: str, head_size: int, block_size: int, dtype: torch.dtype, clipping: bool) -> Step:
    """A step without rotation, so that both sides quantize the same numbers."""
    config = replace(PRESETS[preset], rotation=False, clipping=clipping)
    step = Step(config, ROWS, head_size, 2, 1, dtype, block_size).ready()
    fresh = step.fresh_key, step.fresh_value
    store_many(step.layout, step.pages, step.batch, step.slot_mapping, fresh, fresh, step.rings, clipping, False)
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
    step = stored(preset, head_size, block_size, dtype, clipping=False)
    assert (step.pages.cpu() != step.before_pages).any()
    assert step.wrong_bytes() == 0


@pytest.mark.parametrize(("preset", "head_size"), [("k4v2", 64), ("k2v2", 96)])
def test_clipping_finds_ranges_as_good_as_the_references(preset: str, head_size: int) -> None:
    step = stored(preset, head_size, 128, torch.float16, clipping=True)

    def squared_error(pages: torch.Tensor) -> list[torch.Tensor]:
        errors = []
        for row, length in enumerate(step.lengths):
            if not length:
                continue
            blocks = step.table[row, : -(-length // 128)]
            key, value = reference.load_blocks(step.layout, pages, blocks)
            closed = length // step.layout.key_group * step.layout.key_group
            errors.append((key[:, :closed] - step.key[row][:closed].transpose(0, 1).float()).square().sum())
            errors.append((value[:, :length] - step.value[row].transpose(0, 1).float()).square().sum())
        return errors

    got, want = squared_error(step.pages.cpu()), squared_error(step.expected_pages())
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert step.wrong_bytes() < 1e-3 * step.pages.numel()


def test_rings_hold_the_newest_tokens_after_a_long_chunk() -> None:
    """More tokens than a ring holds, and fewer; what older steps staged and is still needed stays."""
    step = stored("k4v4", 64, 128, torch.float16, clipping=False)
    assert step.ring_error() > 0
    stage_newest(step.rings, step.batch, (step.fresh_key, step.fresh_value))
    assert step.ring_error() == 0
