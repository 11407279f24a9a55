"""Offsets past 2^31: blocks, ring slots and tokens far into tensors whose untouched memory is never committed."""

from __future__ import annotations

import pytest
import torch
from batches import Row, Step

from vllm_kivi.config import PRESETS
from vllm_kivi.kernels.helpers import INTERPRETED

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="hands CPU tensors to the kernels")

FAR = 2**31 + 4096


def far_copy(x: torch.Tensor, places: int) -> torch.Tensor:
    """x at the end of a tensor of that many places along the first dimension, the rest untouched."""
    far = torch.empty(places, *x.shape[1:], dtype=x.dtype)
    far[places - x.shape[0] :] = x
    return far


def test_pages_and_rings_past_2_31() -> None:
    for few in (True, False):
        step = Step(PRESETS["k2v2"], [Row(190, 3)], 64, 1, 2, torch.float16, drafts=2).ready()
        pages = far_copy(step.pages, FAR // step.pages.stride(0) + step.pages.shape[0])
        blocks = pages.shape[0] - step.pages.shape[0]
        rings = [far_copy(ring, FAR // ring.stride(0) + ring.shape[0]) for ring in step.rings]
        assert blocks * pages.stride(0) > 2**31 - pages.stride(0)
        slots = rings[0].shape[0] - step.rings[0].shape[0]
        near, first_pages = step.rings, step.pages
        step.pages, step.rings = pages, (rings[0], far_copy(near[1], rings[0].shape[0]))
        step.batch = step.batch._replace(block_table=step.batch.block_table + blocks, slots=step.batch.slots + slots)
        step.slot_mapping += blocks * step.block_size
        step.run_few(1) if few else step.run_many()
        assert step.output_error() < 4e-3
        assert (pages[blocks:] != first_pages).any()


def test_tokens_of_a_step_past_2_31() -> None:
    step = Step(PRESETS["k4v4"], [Row(126, 3)], 64, 1, 1, torch.float16, drafts=2).ready()
    for name in ("fresh_query", "fresh_key", "fresh_value"):
        tokens = getattr(step, name)
        stride = FAR // 2
        wide = torch.empty_strided(tokens.shape, (stride, *tokens.stride()[1:]), dtype=tokens.dtype)
        wide.copy_(tokens)
        setattr(step, name, wide)
    step.run_few(1)
    assert step.output_error() < 4e-3
