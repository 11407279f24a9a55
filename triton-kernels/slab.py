"""Fill a slab with plain keys and values, from pages, rings and the step's own tokens.

For an attention that reads no packed pages. Keys and values are rotated back, so that queries and outputs, of which a
model has more, stay as they are. A slab is scratch of a bounded size whatever the context; it is cut into
units of one key group, which a FlashAttention kernel takes as its pages. Meaning: ``reference.load_blocks``, and
``reference.stage`` for exact tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from vllm_kivi.kernels.helpers import (
    PER_ROW,
    Batch,
    check_layout,
    decode_scale,
    decode_zero,
    hadamard_order,
    layout_of,
    load_pairs,
    part_scale,
    unpack,
)
from vllm_kivi.kernels.staging import load_staged
from vllm_kivi.layout import CacheLayout


@triton.jit
def _write(to, x, HEAD_SIZE: tl.constexpr):
    """Write x [G, D padded] to pointers [G]."""
    t, c = tl.arange(0, x.shape[0]), tl.arange(0, x.shape[1])
    tl.store(to[:, None] + c[None, :], x.to(to.dtype.element_ty), mask=(t >= 0)[:, None] & (c < HEAD_SIZE)[None, :])


@triton.jit
def _rotated(acc, x, rotation, first, COUNT: tl.constexpr, HEAD_SIZE: tl.constexpr):
    """Add x, f32 [G, COUNT padded], channels from ``first`` on, times their rows of the rotation to acc [G, D padded].

    The format keeps what it dequantizes within float16, whose operands round it by 2^-12.
    """
    j, c = tl.arange(0, x.shape[1]), tl.arange(0, acc.shape[1])
    mask = (j < COUNT)[:, None] & (c < HEAD_SIZE)[None, :]
    part = tl.load(rotation + (first + j)[:, None] * HEAD_SIZE + c[None, :], mask=mask, other=0.0)
    bounded = tl.minimum(tl.maximum(x, -65504.0), 65504.0)
    return tl.dot(bounded.to(tl.float16), part, acc)


@triton.jit
def _fill_keys(to, record, token, rotation, LAYOUT: tl.constexpr, ROTATE: tl.constexpr):
    """Dequantize the keys of a group, ``token`` (int32 [G]) of the block, to pointers [G]."""
    D: tl.constexpr = LAYOUT.head_size
    COLUMNS: tl.constexpr = triton.next_power_of_2(D)
    WIDTH: tl.constexpr = LAYOUT.key_code_bytes
    group = tl.min(token, 0) // LAYOUT.key_group
    zeros = (record + LAYOUT.key_zeros_offset).to(tl.pointer_type(tl.uint16)) + group * D
    scales = record + LAYOUT.key_scales_offset + group * D
    j = tl.arange(0, triton.next_power_of_2(WIDTH))
    live = (j < WIDTH)[None, :] & (token >= 0)[:, None]
    packed = tl.load(record + LAYOUT.key_codes_offset + token[:, None] * WIDTH + j[None, :], mask=live, other=0)
    codes = unpack(packed, LAYOUT.key_bits)
    acc = tl.zeros([token.shape[0], COLUMNS], tl.float32)
    for part in tl.static_range(len(codes)):
        zero, scale = load_pairs(zeros, scales, part * WIDTH + j, j < WIDTH)
        x = codes[part].to(tl.float32) * (scale * part_scale(part, LAYOUT.key_bits))[None, :] + zero[None, :]
        if ROTATE:
            acc = _rotated(acc, tl.where(live, x, 0.0), rotation, part * WIDTH, WIDTH, D)
        else:
            tl.store(to[:, None] + (part * WIDTH + j)[None, :], x.to(to.dtype.element_ty), mask=live)
    if ROTATE:
        _write(to, acc * hadamard_order(D) ** -0.5, D)


@triton.jit
def _fill_values(to, record, token, rotation, LAYOUT: tl.constexpr, ROTATE: tl.constexpr):
    """Dequantize values, likewise."""
    D: tl.constexpr = LAYOUT.head_size
    COLUMNS: tl.constexpr = triton.next_power_of_2(D)
    T: tl.constexpr = LAYOUT.block_size
    ROWS: tl.constexpr = LAYOUT.value_code_rows
    SIZE: tl.constexpr = LAYOUT.value_group
    zeros = (record + LAYOUT.value_zeros_offset).to(tl.pointer_type(tl.uint16))
    scales = record + LAYOUT.value_scales_offset
    j = tl.arange(0, triton.next_power_of_2(ROWS))
    live = (j < ROWS)[:, None] & (token >= 0)[None, :]
    packed = tl.load(record + LAYOUT.value_codes_offset + j[:, None] * T + token[None, :], mask=live, other=0)
    codes = unpack(packed, LAYOUT.value_bits)
    acc = tl.zeros([token.shape[0], COLUMNS], tl.float32)
    for part in tl.static_range(len(codes)):
        if SIZE % ROWS == 0:  # channels of one part share their scale
            at = part * ROWS // SIZE * T + token
            zero_bits, scale_bits = tl.load(zeros + at).to(tl.int32), tl.load(scales + at).to(tl.int32)
            zero, scale = decode_zero(zero_bits)[None, :], decode_scale(zero_bits, scale_bits)[None, :]
        else:
            zero, scale = load_pairs(zeros, scales, ((part * ROWS + j) // SIZE * T)[:, None] + token[None, :], live)
        x = codes[part].to(tl.float32) * (scale * part_scale(part, LAYOUT.value_bits)) + zero
        if ROTATE:
            acc = _rotated(acc, tl.trans(tl.where(live, x, 0.0)), rotation, part * ROWS, ROWS, D)
        else:
            tl.store(to[None, :] + (part * ROWS + j)[:, None], x.to(to.dtype.element_ty), mask=live)
    if ROTATE:
        _write(to, acc * hadamard_order(D) ** -0.5, D)


@triton.jit(do_not_specialize=["count", "stride_table"], do_not_specialize_on_alignment=[*PER_ROW, "units"])
def _fill_kernel(
    slab_key,  # [units, G, H, D]
    slab_value,  # likewise
    units,  # i32 [3, count]: row, first position, whether it is exact
    pages,  # u8 [blocks, H, record]
    query_start,  # i32 [B + 1]
    seq_lens,  # i32 [B]
    block_table,  # i32 [B, blocks of a row]
    slots,  # i32 [B]
    ring_key,  # u8 [slots, H, ring tokens, staged bytes]
    ring_value,  # likewise
    rotation,  # f16 [D, D], of Hadamard blocks
    fresh_key,  # [tokens, H, D]
    fresh_value,  # likewise
    count,
    stride_page,
    stride_table,
    stride_key_slot,
    stride_value_slot,
    stride_fresh_token,
    stride_fresh_head,
    key_tokens,
    value_tokens,
    LAYOUT_SPEC: tl.constexpr,
    STAGED: tl.constexpr,  # bytes of a token in a ring
    ROTATE: tl.constexpr,
    TOKENS: tl.constexpr,  # of a program; they lie in one unit
):
    LAYOUT: tl.constexpr = layout_of(LAYOUT_SPEC)
    D: tl.constexpr = LAYOUT.head_size
    T: tl.constexpr = LAYOUT.block_size
    PARTS: tl.constexpr = LAYOUT.key_group // TOKENS
    PIECE: tl.constexpr = D if D <= 128 else 64  # channels of an operand, which must fit shared memory
    unit, head, values = tl.program_id(0) // PARTS, tl.program_id(1).to(tl.int64), tl.program_id(2) == 1
    heads = tl.num_programs(1)
    row = tl.load(units + unit).to(tl.int64)
    offset = tl.program_id(0) % PARTS * TOKENS
    first = tl.load(units + count + unit) + offset
    t = offset + tl.arange(0, TOKENS)
    slab = slab_value if values else slab_key
    to = slab + ((unit.to(tl.int64) * LAYOUT.key_group + t) * heads + head) * D
    if tl.load(units + 2 * count + unit) == 0:
        block = tl.load(block_table + row * stride_table + first // T)
        record = pages + block.to(tl.int64) * stride_page + head * LAYOUT.record_bytes
        token = tl.multiple_of(first % T, TOKENS) + tl.arange(0, TOKENS)
        if values:
            _fill_values(to, record, token, rotation, LAYOUT, ROTATE)
        else:
            _fill_keys(to, record, token, rotation, LAYOUT, ROTATE)
    else:
        start = tl.load(query_start + row)
        length = tl.load(seq_lens + row)
        before = length - (tl.load(query_start + row + 1) - start)
        slot = tl.load(slots + row).to(tl.int64)
        position = first + tl.arange(0, TOKENS)
        if values:
            ring_at = ring_value + slot * stride_value_slot + (head * value_tokens + position % value_tokens) * STAGED
            fresh = fresh_value
        else:
            ring_at = ring_key + slot * stride_key_slot + (head * key_tokens + position % key_tokens) * STAGED
            fresh = fresh_key
        fresh_at = fresh + (start + position - before).to(tl.int64) * stride_fresh_token + head * stride_fresh_head
        acc = tl.zeros([TOKENS, triton.next_power_of_2(D)], tl.float32)
        for i in tl.static_range(triton.cdiv(D, PIECE)):
            c = i * PIECE + tl.arange(0, triton.next_power_of_2(PIECE))
            mine = (c < min((i + 1) * PIECE, D))[None, :]
            x = load_staged(ring_at[:, None], c[None, :], (position < before)[:, None] & mine, D)
            new = ((position >= before) & (position < length))[:, None] & mine
            x += tl.load(fresh_at[:, None] + c[None, :], mask=new, other=0.0).to(tl.float32)
            # Zeros past the end: the attention multiplies what it masks by 0, so it must be finite.
            if ROTATE:
                acc = _rotated(acc, x, rotation, i * PIECE, min(PIECE, D - i * PIECE), D)
            else:
                tl.store(to[:, None] + c[None, :], x.to(to.dtype.element_ty), mask=(position >= 0)[:, None] & mine)
        if ROTATE:
            _write(to, acc * hadamard_order(D) ** -0.5, D)


def rotation_matrix(head_size: int, device: torch.device | str) -> torch.Tensor:
    """The rotation without its factor ORDER^-0.5: float16 [D, D] of 1, -1 and, between blocks, 0; its own inverse."""
    order = head_size & -head_size
    sign = torch.ones(1, 1)
    while sign.shape[0] < order:
        sign = torch.cat([torch.cat([sign, sign], 1), torch.cat([sign, -sign], 1)])
    return torch.block_diag(*[sign] * (head_size // order)).to(device, torch.float16)


def fill_slab(
    layout: CacheLayout,
    slab: tuple[torch.Tensor, torch.Tensor],
    units: torch.Tensor,
    rotation: torch.Tensor | None,
    pages: torch.Tensor,
    batch: Batch,
    rings: tuple[torch.Tensor, torch.Tensor],
    fresh: tuple[torch.Tensor, torch.Tensor],
) -> None:
    """Write the first units of a slab of keys and of one of values.

    Args:
        slab: keys and values [units, G, H, D], contiguous, in the model's dtype.
        units: int32 [3, n], contiguous: a unit's row of the batch, its first position (of a key group), and 1 where its
            tokens are read exactly, from the rings and the step's tokens, 0 where from their page.
        rotation: of :func:`rotation_matrix`, to be undone; None if the format does not rotate.
        pages: uint8 [blocks, H, record_bytes], the last two dimensions contiguous, with all groups that the step
            completes.
        rings: uint8 [slots, H, ring tokens, staged bytes], as the step before left them.
        fresh: keys and values [tokens, H, D] of :func:`vllm_kivi.kernels.staging.stage_heads`, of equal strides.
    """
    check_layout(layout)
    (slab_key, slab_value), (ring_key, ring_value), (fresh_key, fresh_value) = slab, rings, fresh
    count = units.shape[1]
    tokens = min(layout.key_group, 64 if layout.head_size <= 128 else 32)
    _fill_kernel[(count * layout.key_group // tokens, pages.shape[1], 2)](
        slab_key,
        slab_value,
        units,
        pages,
        batch.query_start,
        batch.seq_lens,
        batch.block_table,
        batch.slots,
        ring_key,
        ring_value,
        rotation,
        fresh_key,
        fresh_value,
        count,
        pages.stride(0),
        batch.block_table.stride(0),
        ring_key.stride(0),
        ring_value.stride(0),
        fresh_key.stride(0),
        fresh_key.stride(1),
        ring_key.shape[2],
        ring_value.shape[2],
        LAYOUT_SPEC=layout.spec,
        STAGED=ring_key.shape[3],
        ROTATE=rotation is not None,
        TOKENS=tokens,
        num_warps=8,
    )
