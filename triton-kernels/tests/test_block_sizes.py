"""Blocks of several key groups, and of numbers of tokens that are no power of two, as they are beside windows."""

from __future__ import annotations

import pytest
import torch
from batches import Row, Step

from vllm_kivi.config import PRESETS


@pytest.mark.parametrize(
    ("preset", "block_size"), [("k4v4", 256), ("k4v2", 384), ("k2v2", 192)], ids=("k4v4", "k4v2", "k2v2")
)
def test_decode_and_prefill(preset: str, block_size: int) -> None:
    config = PRESETS[preset]
    few = Step(config, [Row(127, 1), Row(400, 1)], 64, 1, 4, torch.float16, block_size=block_size).ready()
    few.run_few(2)
    many = Step(config, [Row(100, 60), Row(380, 20)], 64, 1, 4, torch.float16, block_size=block_size).ready()
    many.run_many()
    for step in (few, many):
        assert step.output_error() < 4e-3
        assert step.wrong_bytes() < 1e-2 * step.pages.numel()
