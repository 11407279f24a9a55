"""Append a step's tokens of rows with few of them (decode, verification of drafts), in one launch before the attention.

One program takes a row and KV head: it rotates the keys into the ring and closes the key group that they complete,
another rotates and quantizes the values, a third rotates the queries. Meaning: ``reference.rotate``, ``store_values``,
``store_keys``. A draft that completes a group closes it too; if it is rejected, the group is closed again with the true
token before anything reads it. Graph-safe: the grid depends on shapes only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from vllm_kivi.kernels.helpers import PER_ROW, Batch, check_layout, layout_of, rotate
from vllm_kivi.kernels.quantize import key_rows_of_a_tile, ratios, store_keys, store_values, value_span
from vllm_kivi.kernels.staging import write_staged
from vllm_kivi.layout import CacheLayout


@triton.jit
def _load_rotated(x, ROWS: tl.constexpr, stride_row, D: tl.constexpr, ROTATE: tl.constexpr):
    """Float32 [ROWS, D padded] of ROWS (padded by masking nothing) rows at ``x``."""
    COLUMNS: tl.constexpr = triton.next_power_of_2(D)
    PADDED: tl.constexpr = triton.next_power_of_2(ROWS)
    r, c = tl.arange(0, PADDED), tl.arange(0, COLUMNS)
    mask = (r < ROWS)[:, None] & (c < D)[None, :]
    values = tl.load(x + r[:, None] * stride_row + c[None, :], mask=mask, other=0.0).to(tl.float32)
    if ROTATE:
        values = rotate(values, PADDED, COLUMNS, D)
    return values, mask, r, c


@triton.jit(do_not_specialize=["stride_table"], do_not_specialize_on_alignment=PER_ROW)
def _append_kernel(
    pages,  # u8 [blocks, H, record]
    query_start,  # i32 [B + 1]
    seq_lens,  # i32 [B]
    block_table,  # i32 [B, blocks of a row]
    slots,  # i32 [B]
    slot_mapping,  # int [tokens]
    query,  # [tokens, Hq, D]
    key,  # [tokens, H, D]
    value,  # [tokens, H, D]
    rotated_query,  # [tokens, Hq, D]
    ring_key,  # u8 [slots, H, ring tokens, staged bytes]
    ring_value,  # likewise
    stride_page,
    stride_table,
    stride_query_token,
    stride_query_head,
    stride_key_token,
    stride_key_head,
    stride_value_token,
    stride_value_head,
    stride_key_slot,
    stride_value_slot,
    key_tokens,
    value_tokens,
    LAYOUT_SPEC: tl.constexpr,
    RATIOS: tl.constexpr,
    STAGED: tl.constexpr,  # bytes of a token in a ring
    RATIO: tl.constexpr,
    ROTATE: tl.constexpr,
    J: tl.constexpr,
    SPAN: tl.constexpr,
):
    LAYOUT: tl.constexpr = layout_of(LAYOUT_SPEC)
    G: tl.constexpr = LAYOUT.key_group
    D: tl.constexpr = LAYOUT.head_size
    row, head, part = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    heads = tl.num_programs(1)
    start = tl.load(query_start + row)
    count = tl.load(query_start + row + 1) - start
    if count > 0:
        length = tl.load(seq_lens + row)
        before = length - count
        slot = tl.load(slots + row).to(tl.int64)
        if part == 0:
            ring = ring_key + slot * stride_key_slot + head * key_tokens * STAGED
            for i in range(count):
                at = key + (start + i).to(tl.int64) * stride_key_token + head * stride_key_head
                x, _, r, _ = _load_rotated(at, 1, 0, D, ROTATE)
                write_staged(ring + ((before + i) % key_tokens + r) * STAGED, x, r == 0, D)
            group = length // G - 1
            if (group + 1) * G > before:
                last_token = start + (group + 1) * G - 1 - before
                if tl.load(slot_mapping + last_token) >= 0:
                    tl.debug_barrier()  # this program reads back what it wrote
                    block = tl.load(block_table + row.to(tl.int64) * stride_table + group * G // LAYOUT.block_size)
                    record = pages + block.to(tl.int64) * stride_page + head * LAYOUT.record_bytes
                    position = group * G + tl.arange(0, G)
                    ring_at = ring + position % key_tokens * STAGED
                    in_block = group % (LAYOUT.block_size // G)
                    for first in range(0, LAYOUT.key_code_bytes, J):
                        j = first + tl.arange(0, J)
                        store_keys(record, in_block, position >= 0, ring_at, None, j, LAYOUT, RATIOS)
        elif part == 1:
            head_pages = pages + head * LAYOUT.record_bytes
            ring = ring_value + slot * stride_value_slot + head * value_tokens * STAGED
            for i in range(count):
                token = (start + i).to(tl.int64)
                at = value + token * stride_value_token + head * stride_value_head
                x, _, r, _ = _load_rotated(at, 1, 0, D, ROTATE)
                to = ring + ((before + i) % value_tokens + r) * STAGED
                write_staged(to, x, r == 0, D)
                tl.debug_barrier()  # this program reads back what it wrote
                page_slot = tl.load(slot_mapping + token + tl.arange(0, 1)).to(tl.int64)
                store_values(head_pages, stride_page, page_slot, to, LAYOUT, RATIOS, SPAN, True)
        else:
            for i in range(count):
                token = (start + i).to(tl.int64)
                at = query + token * stride_query_token + head * RATIO * stride_query_head
                x, mask, r, c = _load_rotated(at, RATIO, stride_query_head, D, ROTATE)
                to = rotated_query + (token * heads + head) * RATIO * D + r[:, None] * D + c[None, :]
                tl.store(to, x.to(rotated_query.dtype.element_ty), mask=mask)


def append_tokens(
    layout: CacheLayout,
    pages: torch.Tensor,
    batch: Batch,
    slot_mapping: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rotated_query: torch.Tensor,
    ring_key: torch.Tensor,
    ring_value: torch.Tensor,
    clipping: bool,
    rotation: bool,
) -> None:
    """Rotate, stage and store the tokens of rows that each have at most a key group of them.

    Args:
        pages: uint8 [blocks, H, record_bytes], the last two dimensions contiguous; changed in place.
        slot_mapping: int32 or int64 [tokens], block * T + token of the block; a negative one writes no page.
        query: [tokens, Hq, D]; key, value: [tokens, H, D]; channels contiguous, not rotated.
        rotated_query: [>= tokens, Hq, D], contiguous; takes the queries for the attention.
        ring_key, ring_value: uint8 [slots, H, ring tokens, staged bytes], contiguous.
    """
    check_layout(layout)
    heads = pages.shape[1]
    _append_kernel[(batch.seq_lens.shape[0], heads, 3)](
        pages,
        batch.query_start,
        batch.seq_lens,
        batch.block_table,
        batch.slots,
        slot_mapping,
        query,
        key,
        value,
        rotated_query,
        ring_key,
        ring_value,
        pages.stride(0),
        batch.block_table.stride(0),
        query.stride(0),
        query.stride(1),
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        ring_key.stride(0),
        ring_value.stride(0),
        ring_key.shape[2],
        ring_value.shape[2],
        LAYOUT_SPEC=layout.spec,
        RATIOS=ratios(clipping),
        STAGED=ring_key.shape[3],
        RATIO=query.shape[1] // heads,
        ROTATE=rotation,
        J=max(key_rows_of_a_tile(layout, clipping) // (4 if clipping else 1), 1),
        SPAN=value_span(layout),
        num_warps=4,
        enable_fp_fusion=False,
    )
