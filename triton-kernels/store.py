"""Store a step's tokens of rows with many of them (prefill, chunks) in their pages, before the attention.

Meaning: ``reference.store_values``, ``reference.store_keys``. Values are quantized token by token; a key group is
quantized by the step that brings its last token, from the ring and the step's own tokens. Graph-safe: grids depend on
shapes only.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

from vllm_kivi.kernels.helpers import PER_ROW, Batch, check_layout, layout_of, row_of
from vllm_kivi.kernels.launch import Launcher
from vllm_kivi.kernels.quantize import (
    KEY_SLICE,
    key_slices,
    quantize_keys,
    store_key_codes,
    store_value_tile,
    store_values,
    takes_tiles,
    value_span,
)
from vllm_kivi.kernels.staging import load_staged
from vllm_kivi.layout import CacheLayout
from vllm_kivi.reference import clip_ratio

_TOKENS = 16
"""Whose values one program quantizes."""


@triton.jit(do_not_specialize=["tokens"], do_not_specialize_on_alignment=PER_ROW)
def _values_kernel(
    pages,  # u8 [blocks, H, record]
    slot_mapping,  # int [tokens]
    value,  # [tokens, H, D]
    tokens,
    stride_page,
    stride_token,
    stride_head,
    LAYOUT_SPEC: tl.constexpr,
    CLIP: tl.constexpr,
    TOKENS: tl.constexpr,  # of a program
    SPAN: tl.constexpr,
):
    LAYOUT: tl.constexpr = layout_of(LAYOUT_SPEC)
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    token = tile * TOKENS + tl.arange(0, TOKENS)
    slot = tl.load(slot_mapping + token, mask=token < tokens, other=-1).to(tl.int64)
    source = value + token.to(tl.int64) * stride_token + head * stride_head
    records = pages + head * LAYOUT.record_bytes
    if takes_tiles(LAYOUT):
        c = tl.arange(0, LAYOUT.head_size)
        x = tl.load(source[:, None] + c[None, :], mask=(token < tokens)[:, None], other=0.0).to(tl.float32)
        store_value_tile(records, stride_page, slot, x, LAYOUT, CLIP)
    else:
        store_values(records, stride_page, slot, source, LAYOUT, CLIP, SPAN, False)


def store_step_values(
    layout: CacheLayout, pages: torch.Tensor, slot_mapping: torch.Tensor, value: torch.Tensor, clipping: bool
) -> None:
    """Quantize the values of all tokens of a step into their pages.

    Args:
        pages: uint8 [blocks, H, record_bytes], the last two dimensions contiguous; changed in place.
        slot_mapping: int32 or int64 [tokens], block * T + token of the block; negative: skipped.
        value: [tokens, H, D] of :func:`vllm_kivi.kernels.staging.stage_heads`, channels contiguous.
    """
    count = value.shape[0]
    _values(layout, clipping)(
        (triton.cdiv(count, _TOKENS), pages.shape[1], 1),
        (pages, slot_mapping, value),
        count,
        pages.stride(0),
        value.stride(0),
        value.stride(1),
    )


@functools.cache
def _values(layout: CacheLayout, clipping: bool) -> Launcher:
    check_layout(layout)
    return Launcher(
        _values_kernel,
        3,
        LAYOUT_SPEC=layout.spec,
        CLIP=clip_ratio(layout.value_bits, clipping),
        TOKENS=_TOKENS,
        SPAN=value_span(layout),
        num_warps=2,
        enable_fp_fusion=False,  # a fused multiply-add would round codes differently from the reference
    )


@triton.jit(do_not_specialize=["rows", "stride_table"], do_not_specialize_on_alignment=PER_ROW)
def _close_kernel(
    pages,  # u8 [blocks, H, record]
    query_start,  # i32 [B + 1]
    seq_lens,  # i32 [B]
    block_table,  # i32 [B, blocks of a row]
    slots,  # i32 [B]
    slot_mapping,  # int [tokens]
    key,  # [tokens, H, D]
    ring_key,  # u8 [slots, H, ring tokens, staged bytes]
    rows,
    stride_page,
    stride_table,
    stride_token,
    stride_head,
    stride_slot,
    ring_tokens,
    LAYOUT_SPEC: tl.constexpr,
    CLIP: tl.constexpr,
    STAGED: tl.constexpr,  # bytes of a token in the ring
    J: tl.constexpr,  # packed channels of a program
):
    LAYOUT: tl.constexpr = layout_of(LAYOUT_SPEC)
    G: tl.constexpr = LAYOUT.key_group
    tile, head, part = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    row, first = row_of(tile, query_start, rows, G)
    start = tl.load(query_start + row)
    length = tl.load(seq_lens + row)
    before = length - (tl.load(query_start + row + 1) - start)
    group = before // G + first // G
    end = (group + 1) * G
    if end <= length:
        last_token = start + end - 1 - before
        if tl.load(slot_mapping + last_token) >= 0:
            block = tl.load(block_table + row.to(tl.int64) * stride_table + group * G // LAYOUT.block_size)
            record = pages + block.to(tl.int64) * stride_page + head * LAYOUT.record_bytes
            position = group * G + tl.arange(0, G)
            slot = tl.load(slots + row).to(tl.int64)
            ring_at = ring_key + slot * stride_slot + (head * ring_tokens + position % ring_tokens) * STAGED
            fresh_at = key + (start + position - before).to(tl.int64) * stride_token + head * stride_head
            j = part * J + tl.arange(0, J)
            in_block = group % (LAYOUT.block_size // G)
            packed = tl.zeros([J, G], tl.int32)
            for place in range(8 // LAYOUT.key_bits):
                c = place * LAYOUT.key_code_bytes + j
                here = (j < LAYOUT.key_code_bytes)[:, None]
                x = load_staged(ring_at[None, :], c[:, None], here & (position < before)[None, :], LAYOUT.head_size)
                mask = here & (position >= before)[None, :]
                x += tl.load(fresh_at[None, :] + c[:, None], mask=mask, other=0.0).to(tl.float32)
                packed |= quantize_keys(record, in_block, x, place, j, LAYOUT, CLIP)
            store_key_codes(record, in_block, packed, j, LAYOUT)


def close_groups(
    layout: CacheLayout,
    pages: torch.Tensor,
    batch: Batch,
    slot_mapping: torch.Tensor,
    key: torch.Tensor,
    ring_key: torch.Tensor,
    clipping: bool,
) -> None:
    """Quantize the key groups that the step completes, from the ring and the step's tokens, into their pages.

    Args:
        pages, slot_mapping: as for :func:`store_step_values`; a group whose last token is skipped is not closed.
        key: [tokens, H, D] of :func:`vllm_kivi.kernels.staging.stage_heads`, channels contiguous.
        ring_key: uint8 [slots, H, ring tokens, staged bytes], contiguous; holds the open group's tokens before this
            step.
    """
    rows = batch.seq_lens.shape[0]
    _close(layout, clipping, ring_key.shape[3])(
        (rows + key.shape[0] // layout.key_group, pages.shape[1], key_slices(layout)),
        (pages, batch.query_start, batch.seq_lens, batch.block_table, batch.slots, slot_mapping, key, ring_key),
        rows,
        pages.stride(0),
        batch.block_table.stride(0),
        key.stride(0),
        key.stride(1),
        ring_key.stride(0),
        ring_key.shape[2],
    )


@functools.cache
def _close(layout: CacheLayout, clipping: bool, staged: int) -> Launcher:
    check_layout(layout)
    return Launcher(
        _close_kernel,
        8,
        LAYOUT_SPEC=layout.spec,
        CLIP=clip_ratio(layout.key_bits, clipping),
        STAGED=staged,
        J=KEY_SLICE,
        num_warps=1,
        enable_fp_fusion=False,
    )
