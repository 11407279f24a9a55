"""Combine the splits of a decode step by log-sum-exp, and rotate the result back.

Meaning: ``reference.merge`` over all non-empty splits, then ``reference.rotate``. Graph-safe.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from vllm_kivi.kernels.helpers import rotate
from vllm_kivi.layout import CacheLayout

_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def groups_of_a_split(groups, splits, MIN_GROUPS: tl.constexpr):
    """Closed groups that each split of a row takes, 0 for a row without any."""
    return tl.minimum(tl.maximum((groups + splits - 1) // splits, MIN_GROUPS), groups)


@triton.jit
def _merge_kernel(
    out,  # [B, Hq, D]
    lse,  # f32 [B, Hq] or None
    part_out,  # f32 [B, Hq, 1 + splits, D]
    part_lse,  # f32 [B, Hq, 1 + splits], base 2
    closed,  # int [B]
    seq_lens,  # int [B]
    stride_row,
    stride_head,
    splits,
    LAYOUT: tl.constexpr,
    MIN_GROUPS: tl.constexpr,
    ROTATE: tl.constexpr,
):
    D: tl.constexpr = LAYOUT.head_size
    COLUMNS: tl.constexpr = triton.next_power_of_2(D)
    head, row = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    length = tl.load(seq_lens + row).to(tl.int32)
    done = tl.minimum(tl.load(closed + row).to(tl.int32), length)
    groups = done // LAYOUT.key_group
    share = groups_of_a_split(groups, splits, MIN_GROUPS)
    used = tl.cdiv(groups, tl.maximum(share, 1))
    c = tl.arange(0, COLUMNS)
    query_head = row * tl.num_programs(0) + head
    lse_at = part_lse + query_head * (splits + 1)
    out_at = part_out + query_head * (splits + 1) * D + c
    high = float("-inf")
    total = 0.0
    acc = tl.zeros([1, COLUMNS], tl.float32)
    for split in range(tl.where(length > done, 0, 1), 1 + used):
        part = tl.load(lse_at + split)
        new = tl.maximum(high, part)
        keep, weight = tl.exp2(high - new), tl.exp2(part - new)
        acc = acc * keep + weight * tl.load(out_at + split * D, mask=c < D, other=0.0)[None, :]
        total = total * keep + weight
        high = new
    total = tl.where(total > 0.0, total, 1.0)  # a row without tokens
    acc = acc / total
    if ROTATE:
        acc = rotate(acc, 1, COLUMNS, D)
    to = out + row * stride_row + head * stride_head + c
    tl.store(to, tl.reshape(acc, [COLUMNS]).to(out.dtype.element_ty), mask=c < D)
    if lse is not None:
        tl.store(lse + query_head, (high + tl.log2(total)) * _LN_2)


def merge_splits(
    layout: CacheLayout,
    out: torch.Tensor,
    part_out: torch.Tensor,
    part_lse: torch.Tensor,
    closed: torch.Tensor,
    seq_lens: torch.Tensor,
    min_groups: int,
    rotate_out: bool,
    lse: torch.Tensor | None,
) -> None:
    """Merge the splits that :func:`vllm_kivi.kernels.decode.decode` left in its scratch.

    Args:
        out: [B, Hq, D], any float dtype, channels contiguous; written in place.
        part_out: float32 [>= B, Hq, 1 + splits, D]; part_lse: float32 [>= B, Hq, 1 + splits], base 2.
        closed, seq_lens: int32 or int64 [B].
        min_groups: least key groups of a split, as the splits were made with.
        rotate_out: rotate the result back.
        lse: float32 [B, Hq] or None: takes the log-sum-exp, natural logarithm.
    """
    rows, query_heads = out.shape[:2]
    _merge_kernel[(query_heads, rows)](
        out,
        lse,
        part_out,
        part_lse,
        closed,
        seq_lens,
        out.stride(0),
        out.stride(1),
        part_lse.shape[2] - 1,
        LAYOUT=layout,
        MIN_GROUPS=min_groups,
        ROTATE=rotate_out,
        num_warps=1 if layout.head_size <= 128 else 2,
    )
