"""What each thread block of a decode step takes: shares of the rows' contexts that are as equal as whole rows allow.

Planned once a step and read by all layers. A long row among short ones is split over many blocks, equal rows over as
many as fill the GPU once. So is planned who closes the step's key groups: append.py those of a few rows, for which many
programs take a part each, and all where a row may read a page that this very step fills (one that vLLM's prefix cache
has just given it); else decode.cu. All of it is decided on the device, so a CUDA graph replays it for other lengths.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from vllm_kivi.kernels.attend import Windows, min_groups_of_a_split, shared_groups, unpack_windows
from vllm_kivi.kernels.helpers import PER_ROW, Batch, check_layout, layout_of
from vllm_kivi.kernels.launch import Launcher
from vllm_kivi.layout import CacheLayout

MOST_SPLITS = 64
"""Of one row: what its last block has to merge."""


class Plan(NamedTuple):
    """Of a step whose rows have one query each.

    Attributes:
        tasks: int32 [>= most_tasks(rows, heads, blocks), 4]: row (-1: nothing to do), which split of its row it is, how
            many there are, key groups of a split (in whole blocks of the cache); negative where decode.cu closes the
            row's newest group with that split. A row's splits follow one another; its last also takes the tokens that
            are not quantized.
        closing: int32 [1], whether append.py closes key groups.
    """

    tasks: torch.Tensor
    closing: torch.Tensor


def most_tasks(rows: int, heads: int, blocks: int) -> int:
    """Tasks of a step, at most; the same for every step of a CUDA graph.

    Args:
        rows: of the (padded) batch.
        blocks: thread blocks that fill the GPU.
    """
    return rows + blocks // heads + 1


@triton.jit(do_not_specialize=["rows", "most", "blocks", "heads", "few"], do_not_specialize_on_alignment=PER_ROW)
def _plan_kernel(
    tasks,  # i32 [most, 4]
    closing,  # i32 [1]
    query_start,  # i32 [B + 1]
    seq_lens,  # i32 [B]
    readable_from,  # i32 [B]
    slot_mapping,  # int [tokens]
    rows,
    most,
    blocks,
    heads,
    few,  # rows that append.py leaves none of to decode.cu, with DEFERS
    LAYOUT_SPEC: tl.constexpr,
    WINDOWS_SPEC: tl.constexpr,
    MIN_GROUPS: tl.constexpr,
    MOST_SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    DEFERS: tl.constexpr,
):
    LAYOUT: tl.constexpr = layout_of(LAYOUT_SPEC)
    WINDOWS: tl.constexpr = unpack_windows(WINDOWS_SPEC)
    PER_BLOCK: tl.constexpr = LAYOUT.key_groups
    row = tl.arange(0, ROWS)
    here = row < rows
    start = tl.load(query_start + row, mask=here, other=0)
    count = tl.load(query_start + row + 1, mask=here, other=0) - start
    length = tl.load(seq_lens + row, mask=here, other=1)
    readable = tl.load(readable_from + row, mask=here, other=0)
    groups = tl.where(count > 0, shared_groups(length - 1, readable, LAYOUT, WINDOWS), 0)
    wanted = tl.maximum((tl.sum(groups) * heads + blocks - 1) // blocks, MIN_GROUPS)  # groups of a block
    # Rounded down: one block more than fit at a time would take as long as all of them.
    live = tl.minimum(tl.maximum(groups // wanted, 1), MOST_SPLITS)
    share = tl.maximum((groups + live - 1) // live, MIN_GROUPS)
    share = (share + PER_BLOCK - 1) // PER_BLOCK * PER_BLOCK
    live = tl.where(count > 0, tl.maximum((groups + share - 1) // share, 1), 0)
    first = tl.cumsum(live) - live
    completes = (count > 0) & (length % LAYOUT.key_group == 0)
    completes = completes & (tl.load(slot_mapping + start, mask=completes, other=-1) >= 0)
    complete = tl.sum(completes.to(tl.int32))
    deferred = False
    if DEFERS:
        unsettled = tl.sum(((count > 0) & (length - 1 <= readable)).to(tl.int32))
        deferred = (complete > few) & (unsettled == 0)
    tl.store(closing, ((complete > 0) & (not deferred)).to(tl.int32))
    for split in range(tl.max(live)):
        at = tasks + (first + split) * 4
        mine = split < live
        tl.store(at, row, mask=mine)
        tl.store(at + 1, tl.zeros_like(row) + split, mask=mine)
        tl.store(at + 2, live, mask=mine)
        closes = deferred & completes & (split == live - 1)
        tl.store(at + 3, tl.where(closes, -share, share), mask=mine)
    for begin in range(tl.sum(live), most, TILE):
        task = begin + tl.arange(0, TILE)
        tl.store(tasks + task * 4, tl.full([TILE], -1, tl.int32), mask=task < most)


def plan_tasks(
    layout: CacheLayout,
    windows: Windows,
    plan: Plan,
    batch: Batch,
    slot_mapping: torch.Tensor,
    heads: int,
    blocks: int,
    few: int | None,
) -> None:
    """Plan rows of one query.

    Args:
        plan: written in place.
        slot_mapping: int32 or int64 [rows], of append.py; a row whose slot is negative closes nothing.
        blocks: thread blocks that fill the GPU.
        few: rows whose groups append.py closes, at most; None: decode.cu cannot close any.
    """
    rows, most = batch.seq_lens.shape[0], plan.tasks.shape[0]
    assert most >= most_tasks(rows, heads, blocks)
    _planner(layout, windows, max(triton.next_power_of_2(rows), 16), few is not None)(
        (1, 1, 1),
        (plan.tasks, plan.closing, batch.query_start, batch.seq_lens, batch.readable_from, slot_mapping),
        rows,
        most,
        blocks,
        heads,
        few or 0,
    )


@functools.cache
def _planner(layout: CacheLayout, windows: Windows, rows: int, defers: bool) -> Launcher:
    check_layout(layout)
    return Launcher(
        _plan_kernel,
        6,
        LAYOUT_SPEC=layout.spec,
        WINDOWS_SPEC=windows.spec,
        MIN_GROUPS=min_groups_of_a_split(layout),
        MOST_SPLITS=MOST_SPLITS,
        ROWS=rows,
        TILE=128,
        DEFERS=defers,
        num_warps=4,
    )
