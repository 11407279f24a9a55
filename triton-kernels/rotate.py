"""Hadamard rotation of queries, keys or values over the head dimension. Meaning: ``reference.rotate``. Graph-safe."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from vllm_kivi.kernels.helpers import rotate

_ROWS = 16
"""Heads that one program rotates."""


@triton.jit(do_not_specialize=["count"])
def _rotate_kernel(
    out,  # [tokens, heads, D]
    x,  # [tokens, heads, D]
    count,  # tokens * heads
    heads,
    stride_out_token,
    stride_out_head,
    stride_token,
    stride_head,
    HEAD_SIZE: tl.constexpr,
    ROWS: tl.constexpr,
):
    tl.static_assert(HEAD_SIZE % 8 == 0, "a head size is a multiple of 8")
    COLUMNS: tl.constexpr = triton.next_power_of_2(HEAD_SIZE)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    token, head = (row // heads)[:, None], (row % heads)[:, None]
    c = tl.arange(0, COLUMNS)[None, :]
    mask = (row < count)[:, None] & (c < HEAD_SIZE)
    values = tl.load(x + token * stride_token + head * stride_head + c, mask=mask, other=0.0).to(tl.float32)
    rotated = rotate(values, ROWS, COLUMNS, HEAD_SIZE)
    tl.store(out + token * stride_out_token + head * stride_out_head + c, rotated.to(out.dtype.element_ty), mask=mask)


def rotate_heads(out: torch.Tensor, x: torch.Tensor) -> None:
    """Rotate each head of x into ``out``, which may be x itself.

    Args:
        out, x: [tokens, heads, D] of any float dtypes, channels contiguous; computed in float32.
    """
    tokens, heads, head_size = x.shape
    _rotate_kernel[(triton.cdiv(tokens * heads, _ROWS),)](
        out,
        x,
        tokens * heads,
        heads,
        out.stride(0),
        out.stride(1),
        x.stride(0),
        x.stride(1),
        HEAD_SIZE=head_size,
        ROWS=_ROWS,
        num_warps=4,
    )
