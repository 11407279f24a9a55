"""Rows of many tokens (prefill, chunks): store them, attend, and keep the newest for later steps.

Everything is stored before any row attends: vLLM publishes a block when it schedules it, so a row may read a group that
another row closes in the same step.
"""

from __future__ import annotations

import torch

from vllm_kivi.kernels.attend import Windows, attend
from vllm_kivi.kernels.helpers import Batch
from vllm_kivi.kernels.staging import rotate_heads, stage_heads
from vllm_kivi.kernels.store import close_groups, store_step_values
from vllm_kivi.layout import CacheLayout

Pair = tuple[torch.Tensor, torch.Tensor]
"""Of keys and of values."""


def store_many(
    layout: CacheLayout,
    pages: torch.Tensor,
    batch: Batch,
    slot_mapping: torch.Tensor,
    staged: Pair,
    fresh: Pair,
    rings: Pair,
    clipping: bool,
    rotation: bool,
) -> None:
    """Stage a step's keys and values, and quantize the values and the key groups that they complete.

    Args:
        staged: [tokens, H, D] in the model's dtype, contiguous; takes the tokens as rings hold them, rotated if the
            format rotates.
        fresh: [tokens, H, D] as the model gives them, channels contiguous.
        pages, batch, slot_mapping, rings: as for :func:`vllm_kivi.kernels.store.close_groups`.
    """
    stage_heads(staged, fresh, rotation)
    store_step_values(layout, pages, slot_mapping, staged[1], clipping)
    close_groups(layout, pages, batch, slot_mapping, staged[0], rings[0], clipping)


def attend_many(
    layout: CacheLayout,
    windows: Windows,
    out: torch.Tensor,
    query: torch.Tensor,
    rotated: torch.Tensor,
    pages: torch.Tensor,
    batch: Batch,
    rings: Pair,
    staged: Pair,
    scale: float,
    rotation: bool,
) -> None:
    """Attention with attend.py's kernel, which reads the pages themselves; :mod:`vllm_kivi.kernels.slab` is faster.

    Args:
        out, query: [tokens, Hq, D], channels contiguous; out is written in place.
        rotated: likewise, scratch for the rotated queries.
        staged: of :func:`store_many`.
    """
    if rotation:
        rotate_heads(rotated, query)
        query = rotated
    attend(layout, windows, out, query, pages, batch, *rings, *staged, scale)
    if rotation:
        rotate_heads(out, out)
