"""Combine the splits of a decode step by log-sum-exp, and rotate the result back.

Meaning: ``reference.merge`` over all non-empty splits, then ``reference.rotate``. Graph-safe.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from vllm_kivi.kernels.attend import (
    Windows,
    groups_of_a_split,
    min_groups_of_a_split,
    shared_groups,
    unpack_windows,
)
from vllm_kivi.kernels.helpers import PER_ROW, Batch, layout_of
from vllm_kivi.kernels.launch import Launcher
from vllm_kivi.kernels.rotation import rotate
from vllm_kivi.layout import CacheLayout


@triton.jit(do_not_specialize=["splits"], do_not_specialize_on_alignment=PER_ROW)
def _merge_kernel(
    out,  # [tokens, Hq, D]
    part_out,  # f32 [tokens, Hq, 1 + splits, D]
    part_lse,  # f32 [tokens, Hq, 1 + splits], base 2
    query_start,  # i32 [B + 1]
    seq_lens,  # i32 [B]
    readable_from,  # i32 [B]
    stride_token,
    stride_head,
    splits,
    LAYOUT_SPEC: tl.constexpr,
    WINDOWS_SPEC: tl.constexpr,
    MIN_GROUPS: tl.constexpr,
    ROTATE: tl.constexpr,
):
    LAYOUT: tl.constexpr = layout_of(LAYOUT_SPEC)
    WINDOWS: tl.constexpr = unpack_windows(WINDOWS_SPEC)
    D: tl.constexpr = LAYOUT.head_size
    COLUMNS: tl.constexpr = triton.next_power_of_2(D)
    head, row, query = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    start = tl.load(query_start + row)
    count = tl.load(query_start + row + 1) - start
    if query < count:
        before = tl.load(seq_lens + row) - count
        groups = shared_groups(before, tl.load(readable_from + row), LAYOUT, WINDOWS)
        share = groups_of_a_split(groups, splits, LAYOUT, MIN_GROUPS)
        used = tl.cdiv(groups, tl.maximum(share, 1))
        token = (start + query).to(tl.int64)
        query_head = token * tl.num_programs(0) + head
        lse_at = part_lse + query_head * (splits + 1)
        c = tl.arange(0, COLUMNS)
        out_at = part_out + query_head * (splits + 1) * D + c
        # Split 0 holds at least the query's own token.
        high = tl.load(lse_at)
        acc = tl.load(out_at, mask=c < D, other=0.0)[None, :]
        total = 1.0
        for split in range(1, 1 + used):
            part = tl.load(lse_at + split)
            new = tl.maximum(high, part)
            keep, weight = tl.exp2(high - new), tl.exp2(part - new)
            acc = acc * keep + weight * tl.load(out_at + split * D, mask=c < D, other=0.0)[None, :]
            total = total * keep + weight
            high = new
        acc = acc / total
        if ROTATE:
            acc = rotate(acc, 1, COLUMNS, D)
        to = out + token * stride_token + head * stride_head + c
        tl.store(to, tl.reshape(acc, [COLUMNS]).to(out.dtype.element_ty), mask=c < D)


def merge_splits(
    layout: CacheLayout,
    windows: Windows,
    out: torch.Tensor,
    scratch: tuple[torch.Tensor, torch.Tensor],
    batch: Batch,
    queries: int,
    rotate_out: bool,
) -> None:
    """Merge the splits that :func:`vllm_kivi.kernels.attend.attend_splits` left in its scratch.

    Args:
        out: [tokens, Hq, D], any float dtype, channels contiguous; written in place.
        queries: the most queries of a row.
        rotate_out: rotate the result back.
    """
    part_out, part_lse = scratch
    _merger(layout, windows, rotate_out)(
        (out.shape[1], batch.seq_lens.shape[0], queries),
        (out, part_out, part_lse, batch.query_start, batch.seq_lens, batch.readable_from),
        out.stride(0),
        out.stride(1),
        part_lse.shape[2] - 1,
    )


@functools.cache
def _merger(layout: CacheLayout, windows: Windows, rotation: bool) -> Launcher:
    return Launcher(
        _merge_kernel,
        6,
        LAYOUT_SPEC=layout.spec,
        WINDOWS_SPEC=windows.spec,
        MIN_GROUPS=min_groups_of_a_split(layout),
        ROTATE=rotation,
        num_warps=1 if layout.head_size <= 128 else 2,
    )
