"""Attention of rows of few queries (decode, verification of drafts): decode.cu where it fits, else split and merged."""

from __future__ import annotations

from typing import NamedTuple

import torch

from vllm_kivi.kernels.attend import LOG2_E, Windows, attend_splits
from vllm_kivi.kernels.decode import blocks_to_fill, closes, decode_rows, few_closing_rows, most_tasks_on
from vllm_kivi.kernels.helpers import Batch
from vllm_kivi.kernels.merge import merge_splits
from vllm_kivi.kernels.tasks import Plan, plan_tasks
from vllm_kivi.layout import CacheLayout


class Scratch(NamedTuple):
    """What the parts of rows leave for their merging.

    Attributes:
        out: float32 [parts * Hq * D], with parts at least tokens * (1 + splits) and the tasks of a step.
        lse: float32 [parts * Hq], base 2.
        arrived: int32 [rows, H], zeros between launches.
    """

    out: torch.Tensor
    lse: torch.Tensor
    arrived: torch.Tensor


def new_scratch(
    layout: CacheLayout, rows: int, parts: int, heads: int, query_heads: int, device: torch.device
) -> Scratch:
    """Scratch of :func:`attend_few` for steps of at most ``rows`` rows."""
    if device.type == "cuda":
        parts = max(parts, most_tasks_on(layout, rows, heads, device.index or 0))
    out = torch.empty(parts * query_heads * layout.head_size, dtype=torch.float32, device=device)
    lse = torch.empty(parts * query_heads, dtype=torch.float32, device=device)
    return Scratch(out, lse, torch.zeros(rows, heads, dtype=torch.int32, device=device))


def new_plan(layout: CacheLayout, rows: int, heads: int, device: torch.device) -> Plan:
    """Room for the plans of steps of at most ``rows`` rows; tasks of fewer rows are fewer."""
    most = most_tasks_on(layout, rows, heads, device.index or 0)
    tasks = torch.full((most, 4), -1, dtype=torch.int32, device=device)
    return Plan(tasks, torch.zeros(1, dtype=torch.int32, device=device))


def plan_few(
    layout: CacheLayout, windows: Windows, plan: Plan, batch: Batch, slot_mapping: torch.Tensor, heads: int
) -> None:
    """Plan rows of one query for append.py and decode.cu, once a step, into ``plan`` of :func:`new_plan`."""
    device = plan.tasks.device
    blocks = blocks_to_fill(layout, batch.seq_lens.shape[0] * heads, device.index)
    few = few_closing_rows(layout, heads, device) if closes(layout) else None
    plan_tasks(layout, windows, plan, batch, slot_mapping, heads, blocks, few)


def attend_few(
    layout: CacheLayout,
    windows: Windows,
    out: torch.Tensor,
    query: torch.Tensor,
    pages: torch.Tensor,
    batch: Batch,
    ring_key: torch.Tensor,
    ring_value: torch.Tensor,
    scale: float,
    scratch: Scratch,
    splits: int,
    queries: int,
    dtype: torch.dtype,
    rotation: bool,
    plan: Plan | None,
) -> None:
    """Rows of few queries, after :func:`vllm_kivi.kernels.append.append_tokens`; graph-safe.

    Args:
        out: [tokens, Hq, D], channels contiguous; written in place, rotated back if the format rotates.
        query: float32 [tokens, Hq, D], contiguous, rotated if the format rotates.
        pages, batch, ring_key, ring_value, scale, queries, dtype: as for
            :func:`vllm_kivi.kernels.attend.attend_splits`.
        splits: of each row's quantized tokens, without a plan.
        plan: of :func:`plan_few`, where decode.cu takes this layout and rows have one query; it closes the key groups
            that append_tokens left under the same plan. None: the Triton kernels.
    """
    if plan is not None:
        decode_rows(
            layout, windows, out, query, pages, batch, (ring_key, ring_value), scale * LOG2_E, scratch[:2],
            scratch.arrived, plan.tasks, rotation,
        )  # fmt: skip
        return
    tokens, query_heads, d = query.shape
    shape = tokens, query_heads, 1 + splits
    parts = tokens * query_heads * (1 + splits)
    part_out, part_lse = scratch.out[: parts * d].view(*shape, d), scratch.lse[:parts].view(shape)
    attend_splits(
        layout, windows, query, pages, batch, ring_key, ring_value, scale, (part_out, part_lse), queries, dtype
    )
    merge_splits(layout, windows, out, (part_out, part_lse), batch, queries, rotation)
