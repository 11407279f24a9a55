"""Close key groups: quantize keys per channel and values per token, pack them and write them into their pages.

Meaning: ``reference.store_groups``. Without clipping the bytes are identical to the reference's, ties of codes too.
With clipping the squared errors are summed in another order, so where two ranges are equally good to float32 rounding
another one may be taken.

Graph-safe: the grid depends on shapes only, and a group whose block id is negative is skipped on the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from vllm_kivi.kernels.helpers import check_layout, decode_scale, decode_zero, encode
from vllm_kivi.layout import CacheLayout
from vllm_kivi.reference import CLIP_RATIOS

_TILE = 4096
"""Elements of a tile that one program quantizes at a time; half as many with clipping, on twice the
warps: the search keeps several ranges in registers."""

_NO_CLIPPING = CLIP_RATIOS[:1]


@triton.jit
def _codes(x, zero, inverse, TOP: tl.constexpr):
    """Codes as float32; halves round up."""
    return tl.minimum(tl.maximum(tl.floor((x - zero) * inverse + 0.5), 0.0), TOP)


@triton.jit
def _fit(x, mask, TOP: tl.constexpr, RATIOS: tl.constexpr):
    """Encoded zero and scale (int32 [ROWS] each) of each row of x, f32 [ROWS, N]; only elements in mask count."""
    low = tl.min(tl.where(mask, x, float("inf")), 1)
    high = tl.max(tl.where(mask, x, float("-inf")), 1)
    zero_bits, scale_bits = encode(low + (high - low) * ((1.0 - RATIOS[0]) / 2), (high - low) * (RATIOS[0] / TOP))
    if len(RATIOS) > 1:
        least = _error(x, mask, zero_bits, scale_bits, TOP)
        for i in tl.static_range(1, len(RATIOS)):
            z_bits, s_bits = encode(low + (high - low) * ((1.0 - RATIOS[i]) / 2), (high - low) * (RATIOS[i] / TOP))
            error = _error(x, mask, z_bits, s_bits, TOP)
            better = error < least
            least = tl.where(better, error, least)
            zero_bits = tl.where(better, z_bits, zero_bits)
            scale_bits = tl.where(better, s_bits, scale_bits)
    return zero_bits, scale_bits


@triton.jit
def _error(x, mask, zero_bits, scale_bits, TOP: tl.constexpr):
    """Squared error of each row of x under a zero and scale, f32 [ROWS]."""
    zero = decode_zero(zero_bits)[:, None]
    scale = decode_scale(zero_bits, scale_bits)[:, None]
    off = _codes(x, zero, tl.div_rn(1.0, scale), TOP) * scale + zero - x
    return tl.sum(tl.where(mask, off * off, 0.0), 1)


@triton.jit
def _tokens(fresh, ring, index, first, t, strides):
    """Where tokens ``t`` of the group at ``first`` lie: whether in ``fresh``, and pointers into both sources."""
    stride_token, stride_slot, stride_position, ring_tokens, ring_head = strides
    at = first + t
    if index is not None:
        at = tl.load(index + at)
    fresh_at = fresh + at * stride_token
    if ring is None:
        ring_at = fresh_at
    else:
        ring_at = ring + ring_head + ~at // ring_tokens * stride_slot + ~at % ring_tokens * stride_position
    return at >= 0, fresh_at, ring_at


@triton.jit
def _load(is_fresh, fresh_at, ring_at, channel, mask, RING: tl.constexpr):
    """Float32 elements ``channel`` of the tokens of :func:`_tokens`; all broadcast to the shape of mask."""
    x = tl.load(fresh_at + channel, mask=mask & is_fresh, other=0.0).to(tl.float32)
    if RING:
        x += tl.load(ring_at + channel, mask=mask & ~is_fresh, other=0.0).to(tl.float32)
    return x


@triton.jit
def _store_keys(record, group, tokens, j, LAYOUT: tl.constexpr, RATIOS: tl.constexpr, RING: tl.constexpr):
    """Quantize the channels of rows ``j`` (int32 [BYTES]) of the packed key codes over all tokens; write them."""
    G: tl.constexpr = LAYOUT.key_group
    D: tl.constexpr = LAYOUT.head_size
    ROWS: tl.constexpr = LAYOUT.key_code_rows
    TOP: tl.constexpr = (1 << LAYOUT.key_bits) - 1
    t = tl.arange(0, G)
    is_fresh, fresh_at, ring_at = tokens
    every = (j >= 0)[:, None] & (t >= 0)[None, :]
    mask = (j < ROWS)[:, None] & (t >= 0)[None, :]
    zeros = (record + LAYOUT.key_zeros_offset).to(tl.pointer_type(tl.uint16)) + group * D
    scales = record + LAYOUT.key_scales_offset + group * D
    packed = tl.zeros(mask.shape, tl.int32)
    for part in range(8 // LAYOUT.key_bits):
        c = part * ROWS + j
        x = _load(is_fresh[None, :], fresh_at[None, :], ring_at[None, :], c[:, None], mask, RING)
        zero_bits, scale_bits = _fit(x, every, TOP, RATIOS)
        tl.store(zeros + c, zero_bits.to(tl.uint16), mask=j < ROWS)
        tl.store(scales + c, scale_bits.to(tl.uint8), mask=j < ROWS)
        inverse = tl.div_rn(1.0, decode_scale(zero_bits, scale_bits))
        codes = _codes(x, decode_zero(zero_bits)[:, None], inverse[:, None], TOP)
        packed |= codes.to(tl.int32) << (LAYOUT.key_bits * part)
    codes_at = record + LAYOUT.key_codes_offset + group * G
    tl.store(codes_at + j[:, None] * LAYOUT.block_size + t[None, :], packed.to(tl.uint8), mask=mask)


@triton.jit
def _store_values(
    record, group, tokens, t, LAYOUT: tl.constexpr, RATIOS: tl.constexpr, RING: tl.constexpr, SPAN: tl.constexpr
):
    """Quantize tokens ``t`` (int32 [TOKENS], of the group) and write them. SPAN: see :func:`_span`."""
    D: tl.constexpr = LAYOUT.head_size
    SIZE: tl.constexpr = LAYOUT.value_group
    BYTES: tl.constexpr = LAYOUT.value_code_bytes
    TOP: tl.constexpr = (1 << LAYOUT.value_bits) - 1
    is_fresh, fresh_at, ring_at = tokens[0][:, None], tokens[1][:, None], tokens[2][:, None]
    token = group * LAYOUT.key_group + t  # of the block
    zeros = (record + LAYOUT.value_zeros_offset).to(tl.pointer_type(tl.uint16)) + token * LAYOUT.channel_groups
    scales = record + LAYOUT.value_scales_offset + token * LAYOUT.channel_groups
    j = tl.arange(0, triton.next_power_of_2(BYTES))
    in_part = (t >= 0)[:, None] & (j < BYTES)[None, :]
    w = tl.arange(0, triton.next_power_of_2(SIZE))
    in_group = (t >= 0)[:, None] & (w < SIZE)[None, :]
    packed = tl.zeros(in_part.shape, tl.int32)
    for part in range(8 // LAYOUT.value_bits):
        c = part * BYTES + j
        zero = tl.zeros(in_part.shape, tl.float32)
        inverse = tl.zeros(in_part.shape, tl.float32)
        for i in range(SPAN):
            g = tl.minimum(part * BYTES // SIZE + i, D // SIZE - 1)
            x = _load(is_fresh, fresh_at, ring_at, (g * SIZE + w)[None, :], in_group, RING)
            zero_bits, scale_bits = _fit(x, in_group, TOP, RATIOS)
            here = (c // SIZE == g)[None, :]
            zero = tl.where(here, decode_zero(zero_bits)[:, None], zero)
            inverse = tl.where(here, tl.div_rn(1.0, decode_scale(zero_bits, scale_bits))[:, None], inverse)
            # A group that reaches over two parts is written by the part it starts in.
            starts_here = (t >= 0) & (g * SIZE >= part * BYTES) & (g * SIZE < (part + 1) * BYTES)
            tl.store(zeros + g, zero_bits.to(tl.uint16), mask=starts_here)
            tl.store(scales + g, scale_bits.to(tl.uint8), mask=starts_here)
        x = _load(is_fresh, fresh_at, ring_at, c[None, :], in_part, RING)
        packed |= _codes(x, zero, inverse, TOP).to(tl.int32) << (LAYOUT.value_bits * part)
    codes_at = record + LAYOUT.value_codes_offset
    tl.store(codes_at + token[:, None] * BYTES + j[None, :], packed.to(tl.uint8), mask=in_part)


@triton.jit
def _store_kernel(
    pages,  # u8 [blocks, H, record]
    block_ids,  # int [N]
    group_in_block,  # int [N]
    index,  # i64 [N, G] or None
    key,  # [tokens, H, D]
    value,  # [tokens, H, D]
    ring_key,  # [slots, H, ring tokens, D] or None
    ring_value,  # likewise
    ring_tokens,
    stride_page,
    stride_token,
    stride_head,
    stride_slot,
    stride_ring_head,
    stride_position,
    LAYOUT: tl.constexpr,
    RATIOS: tl.constexpr,
    BYTES: tl.constexpr,  # packed key rows of a program
    TOKENS: tl.constexpr,  # tokens of a program that stores values
    SPAN: tl.constexpr,
):
    tl.static_assert(LAYOUT.key_bits == 2 or LAYOUT.key_bits == 4, "keys have 2 or 4 bits")
    tl.static_assert(LAYOUT.value_bits == 2 or LAYOUT.value_bits == 4, "values have 2 or 4 bits")
    tl.static_assert(
        LAYOUT.key_group >= 16 and (LAYOUT.key_group & (LAYOUT.key_group - 1)) == 0, "a key group is a power of two"
    )
    tl.static_assert(LAYOUT.head_size % 8 == 0, "a head size is a multiple of 8")
    KEY_PROGRAMS: tl.constexpr = triton.cdiv(LAYOUT.key_code_rows, BYTES)
    n, head, work = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2)
    block = tl.load(block_ids + n).to(tl.int64)
    if block >= 0:
        record = pages + block * stride_page + head * LAYOUT.record_bytes
        group = tl.load(group_in_block + n).to(tl.int32)
        first = n * LAYOUT.key_group
        # Rings stay arguments: a name that is None in a branch cannot leave it.
        strides = stride_token, stride_slot, stride_position, ring_tokens, head * stride_ring_head
        if work < KEY_PROGRAMS:
            j = work * BYTES + tl.arange(0, BYTES)
            key_tokens = _tokens(
                key + head * stride_head, ring_key, index, first, tl.arange(0, LAYOUT.key_group), strides
            )
            _store_keys(record, group, key_tokens, j, LAYOUT, RATIOS, ring_key is not None)
        else:
            t = (work - KEY_PROGRAMS) * TOKENS + tl.arange(0, TOKENS)
            value_tokens = _tokens(value + head * stride_head, ring_value, index, first, t, strides)
            _store_values(record, group, value_tokens, t, LAYOUT, RATIOS, ring_value is not None, SPAN)


def _span(layout: CacheLayout) -> int:
    """The most channel groups that one part of a token's channels (those at one place in a byte) meets."""
    size, width = layout.value_group, layout.value_code_bytes
    parts = range(0, layout.head_size, width)
    return max((start + width - 1) // size - start // size + 1 for start in parts)


def store_groups(
    layout: CacheLayout,
    pages: torch.Tensor,
    block_ids: torch.Tensor,
    group_in_block: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    clipping: bool,
    index: torch.Tensor | None = None,
    ring_key: torch.Tensor | None = None,
    ring_value: torch.Tensor | None = None,
) -> None:
    """Close key groups: quantize their keys and values and write them into their pages.

    Args:
        pages: uint8 [blocks, H, record_bytes], the last two dimensions contiguous; changed in place.
        block_ids: int32 or int64 [N], where each group goes; a negative one skips its group.
        group_in_block: int32 or int64 [N].
        key, value: float16, bfloat16 or float32, already rotated if the format rotates, of equal strides with the
            channels contiguous: [N, G, H, D] (contiguous), or [tokens, H, D] with ``index``.
        index: int64 [N, G], contiguous: the token of ``key`` and ``value``, or ``~(slot * ring_tokens + position)`` for
            a token of the rings.
        ring_key, ring_value: [slots, H, ring_tokens, D], of equal strides with the channels contiguous; need ``index``.

    Raises:
        ValueError: a key group the kernels are not built for.
    """
    check_layout(layout)
    count, heads = block_ids.shape[0], pages.shape[1]
    if count == 0:
        return
    if index is None:
        key, value = key.flatten(0, 1), value.flatten(0, 1)
    slot_stride, ring_head_stride, position_stride = (0, 0, 0) if ring_key is None else ring_key.stride()[:3]
    group, tile = layout.key_group, _TILE // 2 if clipping else _TILE
    key_rows = min(triton.next_power_of_2(layout.key_code_rows), max(tile // group, 1))
    tokens = min(group, max(tile // triton.next_power_of_2(max(layout.value_code_bytes, layout.value_group)), 1))
    _store_kernel[(count, heads, triton.cdiv(layout.key_code_rows, key_rows) + group // tokens)](
        pages,
        block_ids,
        group_in_block,
        index,
        key,
        value,
        ring_key,
        ring_value,
        1 if ring_key is None else ring_key.shape[2],
        pages.stride(0),
        key.stride(0),
        key.stride(1),
        slot_stride,
        ring_head_stride,
        position_stride,
        LAYOUT=layout,
        RATIOS=CLIP_RATIOS if clipping else _NO_CLIPPING,
        BYTES=key_rows,
        TOKENS=tokens,
        SPAN=_span(layout),
        num_warps=8 if clipping else 4,
        enable_fp_fusion=False,  # a fused multiply-add would round codes differently from the reference
    )
