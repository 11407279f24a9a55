"""Fill a slab with plain keys and values, from pages, rings and the step's own tokens.

For an attention that reads no packed pages. Keys and values are rotated back, so that queries and outputs, of which a
model has more, stay as they are. A slab is scratch of a bounded size whatever the context; it is cut into
units of one key group, which a FlashAttention kernel takes as its pages. Meaning: ``reference.load_blocks``, and
``reference.stage`` for exact tokens.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from vllm_kivi.kernels.helpers import (
    PER_ROW,
    Batch,
    check_layout,
    decode_scale,
    decode_zero,
    layout_of,
    load_pairs,
    part_scale,
    unpack,
)
from vllm_kivi.kernels.launch import Launcher
from vllm_kivi.kernels.rotation import padded_width, splits_evenly, store_unrotated
from vllm_kivi.kernels.staging import load_staged
from vllm_kivi.layout import CacheLayout

_REGISTERS = 128
"""Of a thread, for small operands: a program waits for one thing after another, so as many as can shall run at once."""


@triton.constexpr_function
def _exact_parts(HEAD_SIZE):
    """Parts that exact tokens are taken in; operands of more channels would not fit shared memory."""
    return 2 if HEAD_SIZE > 128 or splits_evenly(HEAD_SIZE // 2, HEAD_SIZE) else 1


@triton.jit
def _load_keys(record, token, LAYOUT: tl.constexpr):
    """Parts of keys of a group, ``token`` (int32 [TOKENS]) of the block, as :func:`store_unrotated` takes them."""
    D: tl.constexpr = LAYOUT.head_size
    WIDTH: tl.constexpr = LAYOUT.key_code_bytes
    group = tl.min(token, 0) // LAYOUT.key_group
    zeros = (record + LAYOUT.key_zeros_offset).to(tl.pointer_type(tl.uint16)) + group * D
    scales = record + LAYOUT.key_scales_offset + group * D
    j = tl.arange(0, padded_width(WIDTH))
    live = (j < WIDTH)[None, :]
    packed = tl.load(record + LAYOUT.key_codes_offset + token[:, None] * WIDTH + j[None, :], mask=live, other=0)
    codes = unpack(packed, LAYOUT.key_bits)
    parts = ()
    for part in tl.static_range(len(codes)):
        zero, scale = load_pairs(zeros, scales, part * WIDTH + j, j < WIDTH)
        x = codes[part].to(tl.float32) * (scale * part_scale(part, LAYOUT.key_bits))[None, :] + zero[None, :]
        parts += (x,)
    return parts


@triton.jit
def _load_values(record, token, LAYOUT: tl.constexpr):
    """Parts of values, likewise, transposed."""
    T: tl.constexpr = LAYOUT.block_size
    ROWS: tl.constexpr = LAYOUT.value_code_rows
    SIZE: tl.constexpr = LAYOUT.value_group
    zeros = (record + LAYOUT.value_zeros_offset).to(tl.pointer_type(tl.uint16))
    scales = record + LAYOUT.value_scales_offset
    j = tl.arange(0, padded_width(ROWS))
    live = (j < ROWS)[:, None]
    packed = tl.load(record + LAYOUT.value_codes_offset + j[:, None] * T + token[None, :], mask=live, other=0)
    codes = unpack(packed, LAYOUT.value_bits)
    parts = ()
    for part in tl.static_range(len(codes)):
        if SIZE % ROWS == 0:  # channels of one part share their scale
            at = part * ROWS // SIZE * T + token
            zero_bits, scale_bits = tl.load(zeros + at).to(tl.int32), tl.load(scales + at).to(tl.int32)
            zero, scale = decode_zero(zero_bits)[None, :], decode_scale(zero_bits, scale_bits)[None, :]
        else:
            zero, scale = load_pairs(zeros, scales, ((part * ROWS + j) // SIZE * T)[:, None] + token[None, :], live)
        x = codes[part].to(tl.float32) * (scale * part_scale(part, LAYOUT.value_bits)) + zero
        parts += (x,)
    return parts


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
    EXACT: tl.constexpr = D // _exact_parts(D)  # channels of a part
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
            store_unrotated(to, _load_values(record, token, LAYOUT), rotation, LAYOUT.value_code_rows, D, ROTATE, True)
        else:
            store_unrotated(to, _load_keys(record, token, LAYOUT), rotation, LAYOUT.key_code_bytes, D, ROTATE, False)
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
        parts = ()
        for i in tl.static_range(_exact_parts(D)):
            c = i * EXACT + tl.arange(0, padded_width(EXACT))
            mine = (c < (i + 1) * EXACT)[None, :]
            x = load_staged(ring_at[:, None], c[None, :], (position < before)[:, None] & mine, D)
            new = ((position >= before) & (position < length))[:, None] & mine
            # Zeros past the end: the attention multiplies what it masks by 0, so it must be finite.
            x += tl.load(fresh_at[:, None] + c[None, :], mask=new, other=0.0).to(tl.float32)
            parts += (x,)
        store_unrotated(to, parts, rotation, EXACT, D, ROTATE, False)


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
        rotation: of :func:`vllm_kivi.kernels.rotation.rotation_matrix`, to undo; None if the format does not rotate.
        pages: uint8 [blocks, H, record_bytes], the last two dimensions contiguous, with all groups that the step
            completes.
        rings: uint8 [slots, H, ring tokens, staged bytes], as the step before left them.
        fresh: keys and values [tokens, H, D] of :func:`vllm_kivi.kernels.staging.stage_heads`, of equal strides.
    """
    (slab_key, slab_value), (ring_key, ring_value), (fresh_key, fresh_value) = slab, rings, fresh
    count = units.shape[1]
    _filler(layout, rotation is not None, ring_key.shape[3])(
        (count * layout.key_group // _tokens(layout), pages.shape[1], 2),
        (
            slab_key, slab_value, units, pages, batch.query_start, batch.seq_lens, batch.block_table, batch.slots,
            ring_key, ring_value, rotation, fresh_key, fresh_value,
        ),
        count,
        pages.stride(0),
        batch.block_table.stride(0),
        ring_key.stride(0),
        ring_value.stride(0),
        fresh_key.stride(0),
        fresh_key.stride(1),
        ring_key.shape[2],
        ring_value.shape[2],
    )  # fmt: skip


def _tokens(layout: CacheLayout) -> int:
    """Those of a program."""
    return min(layout.key_group, 64 if layout.head_size <= 128 else 32)


@functools.cache
def _filler(layout: CacheLayout, rotation: bool, staged: int) -> Launcher:
    check_layout(layout)
    tokens = _tokens(layout)
    least_width = min(layout.key_code_bytes, layout.value_code_rows)
    small = layout.head_size <= 128 and splits_evenly(least_width, layout.head_size)
    return Launcher(
        _fill_kernel,
        13,
        LAYOUT_SPEC=layout.spec,
        STAGED=staged,
        ROTATE=rotation,
        TOKENS=tokens,
        num_warps=tokens // 16 if small else 8,
        maxnreg=_REGISTERS if small else None,
    )
