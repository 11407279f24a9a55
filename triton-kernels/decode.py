"""Decode attention: one query a row over closed key groups in packed pages and open tokens in the full-precision ring.

Meaning: ``reference.attend``, one row at a time. A page is read once per KV head: its query heads are the rows of one
tile. The key scale is folded into the query and the key zero into one dot product per group; value scales are folded
into the probabilities where a channel group and a part of the byte divide one another (all presets at head sizes 64,
128 and 256), otherwise values are dequantized in registers.

Split-KV: split 0 reads the open tokens, splits 1.. an equal number of closed groups each; ``merge.py`` combines them by
log-sum-exp. Graph-safe: the grid depends on shapes only; lengths are read on the device and empty splits do nothing.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from vllm_kivi.kernels.helpers import check_layout, decode_scale, decode_zero, dot_type, load_pairs, part_scale, unpack
from vllm_kivi.kernels.merge import groups_of_a_split, merge_splits
from vllm_kivi.layout import CacheLayout

SPLIT_TOKENS = 256
"""Closed tokens below which a row is not split further."""

_LOG2_E = math.log2(math.e)


@triton.jit
def _softmax_step(scores, high, total):
    """One step of online softmax in base 2: scores f32 [M, tokens], running maximum and sum f32 [M].

    Returns probabilities under the new maximum, the factor for what was accumulated, new maximum and sum.
    """
    new = tl.maximum(high, tl.max(scores, 1))
    p = tl.exp2(scores - new[:, None])
    keep = tl.exp2(high - new)
    return p, keep, new, total * keep + tl.sum(p, 1)


@triton.constexpr_function
def _value_width(LAYOUT):
    """Channels of one accumulator: all of a part of the byte, or as many as share a value scale."""
    width, size = LAYOUT.value_code_bytes, LAYOUT.value_group
    return size if width % size == 0 else width


@triton.constexpr_function
def _folds_values(LAYOUT):
    """Whether one accumulator's channels share a value scale."""
    return LAYOUT.value_group % _value_width(LAYOUT) == 0


@triton.jit
def _open_tokens(
    query, ring_key, ring_value, closed, length, stride_position, ring_tokens, m, to_out, to_lse, scale_log2,
    D: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Attention over tokens [closed, length) of the ring; query and rings point at the head's first element."""
    COLUMNS: tl.constexpr = triton.next_power_of_2(D)
    c = tl.arange(0, COLUMNS)
    t = tl.arange(0, TOKENS)
    q = tl.load(query[:, None] + c[None, :], mask=(m < ROWS)[:, None] & (c < D)[None, :], other=0.0).to(DOT)
    high = tl.full(m.shape, float("-inf"), tl.float32)
    total = tl.zeros(m.shape, tl.float32)
    acc = tl.zeros([m.shape[0], COLUMNS], tl.float32)
    for start in range(closed, length, TOKENS):
        live = start + t < length
        at = ((start + t) % ring_tokens).to(tl.int64) * stride_position
        k = tl.load(ring_key + at[None, :] + c[:, None], mask=live[None, :] & (c < D)[:, None], other=0.0).to(DOT)
        v = tl.load(ring_value + at[:, None] + c[None, :], mask=live[:, None] & (c < D)[None, :], other=0.0).to(DOT)
        scores = tl.dot(q, k, input_precision="ieee") * scale_log2
        scores = tl.where(live[None, :], scores, float("-inf"))
        p, keep, high, total = _softmax_step(scores, high, total)
        acc = tl.dot(p.to(DOT), v, acc * keep[:, None], input_precision="ieee")
    tl.store(to_lse, high + tl.log2(total), mask=m < ROWS)
    tl.store(to_out[:, None] + c[None, :], acc / total[:, None], mask=(m < ROWS)[:, None] & (c < D)[None, :])


@triton.jit
def _fold_key_scale(query, record, group, LAYOUT: tl.constexpr, DOT: tl.constexpr):
    """Fold the scales of a key group into the query's parts, a tuple of f32 [M, part].

    Returns the parts as DOT, and the query times the zeros, f32 [M].
    """
    D: tl.constexpr = LAYOUT.head_size
    WIDTH: tl.constexpr = LAYOUT.key_code_rows
    zeros = (record + LAYOUT.key_zeros_offset).to(tl.pointer_type(tl.uint16)) + group * D
    scales = record + LAYOUT.key_scales_offset + group * D
    j = tl.arange(0, query[0].shape[1])
    bias = tl.zeros([query[0].shape[0]], tl.float32)
    folded = ()
    for part in tl.static_range(len(query)):
        zero, scale = load_pairs(zeros, scales, part * WIDTH + j, j < WIDTH)
        bias += tl.sum(query[part] * zero[None, :], 1)
        folded += ((query[part] * (scale * part_scale(part, LAYOUT.key_bits))[None, :]).to(DOT),)
    return folded, bias


@triton.jit
def _load_value_pairs(record, token, LAYOUT: tl.constexpr):
    """Still encoded zeros and scales of the values of ``token``, group after group: a tuple of int32 [tokens].

    Too narrow for the pipeline of asynchronous copies, so loaded ahead of the scores and decoded after them.
    """
    GROUPS: tl.constexpr = LAYOUT.channel_groups
    zeros = (record + LAYOUT.value_zeros_offset).to(tl.pointer_type(tl.uint16)) + token * GROUPS
    scales = record + LAYOUT.value_scales_offset + token * GROUPS
    pairs = ()
    for g in tl.static_range(GROUPS):
        pairs += (tl.load(zeros + g).to(tl.int32), tl.load(scales + g).to(tl.int32))
    return pairs


@triton.jit
def _add_values_folded(acc, p, keep, record, token, pairs, LAYOUT: tl.constexpr, DOT: tl.constexpr):
    """Accumulate p [M, tokens] times the values of ``token`` (int32 [tokens] of the block): scales folded into p.

    pairs: of :func:`_load_value_pairs`.

    acc: tuple of f32 [M, W], the accumulators in channel order; that of part i holds 2^(bits * i) times its sum.
    """
    BYTES: tl.constexpr = LAYOUT.value_code_bytes
    BITS: tl.constexpr = LAYOUT.value_bits
    GROUPS: tl.constexpr = LAYOUT.channel_groups
    WIDTH: tl.constexpr = _value_width(LAYOUT)
    PIECES: tl.constexpr = BYTES // WIDTH  # accumulators of a part
    EACH: tl.constexpr = LAYOUT.value_group // WIDTH  # accumulators of a channel group
    w = tl.arange(0, acc[0].shape[1])
    packed = ()
    for i in tl.static_range(PIECES):
        at = record + LAYOUT.value_codes_offset + token[:, None] * BYTES + (i * WIDTH + w)[None, :]
        packed += (tl.load(at, mask=(w < WIDTH)[None, :], other=0),)
    new = ()
    for g in tl.static_range(GROUPS):
        weights = (p * decode_scale(pairs[2 * g], pairs[2 * g + 1])[None, :]).to(DOT)
        bias = tl.sum(p * decode_zero(pairs[2 * g])[None, :], 1)
        for i in tl.static_range(EACH):
            # Accumulator g * EACH + i is of part (g * EACH + i) // PIECES; a name would make the index a tensor.
            codes = unpack(packed[(g * EACH + i) % PIECES], (g * EACH + i) // PIECES, BITS, DOT)
            start = acc[g * EACH + i] * keep[:, None] + (bias * (1 << (BITS * ((g * EACH + i) // PIECES))))[:, None]
            new += (tl.dot(weights, codes, start, input_precision="ieee"),)
    return new


@triton.jit
def _add_values_dequantized(acc, p, keep, record, token, LAYOUT: tl.constexpr, DOT: tl.constexpr):
    """As :func:`_add_values_folded`, for channel groups that cut through a part; no factor is left in acc."""
    BYTES: tl.constexpr = LAYOUT.value_code_bytes
    zeros = (record + LAYOUT.value_zeros_offset).to(tl.pointer_type(tl.uint16))
    scales = record + LAYOUT.value_scales_offset
    w = tl.arange(0, acc[0].shape[1])
    live = (token >= 0)[:, None] & (w < BYTES)[None, :]
    packed = tl.load(record + LAYOUT.value_codes_offset + token[:, None] * BYTES + w[None, :], mask=live, other=0)
    weights = p.to(DOT)
    new = ()
    for part in tl.static_range(len(acc)):
        g = (part * BYTES + w) // LAYOUT.value_group
        zero, scale = load_pairs(zeros, scales, token[:, None] * LAYOUT.channel_groups + g[None, :], live)
        codes = unpack(packed, part, LAYOUT.value_bits, tl.float32)
        v = codes * (scale * part_scale(part, LAYOUT.value_bits)) + zero
        new += (tl.dot(weights, v.to(DOT), acc[part] * keep[:, None], input_precision="ieee"),)
    return new


@triton.jit
def _closed_groups(
    query, pages, block_table, first, last, stride_page, m, to_out, to_lse, scale_log2,
    LAYOUT: tl.constexpr, ROWS: tl.constexpr, TOKENS: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Attention over key groups [first, last) of a row; pages points at the head's record of block 0."""
    G: tl.constexpr = LAYOUT.key_group
    KEY_WIDTH: tl.constexpr = LAYOUT.key_code_rows
    WIDTH: tl.constexpr = _value_width(LAYOUT)
    FOLDS: tl.constexpr = _folds_values(LAYOUT)
    j = tl.arange(0, max(triton.next_power_of_2(KEY_WIDTH), 16))
    w = tl.arange(0, max(triton.next_power_of_2(WIDTH), 16))
    t = tl.arange(0, TOKENS)
    q = ()
    for part in tl.static_range(8 // LAYOUT.key_bits):
        q_at = query[:, None] + (part * KEY_WIDTH + j)[None, :]
        loaded = tl.load(q_at, mask=(m < ROWS)[:, None] & (j < KEY_WIDTH)[None, :], other=0.0)
        q += (loaded.to(tl.float32) * scale_log2,)
    acc = ()
    for _ in tl.static_range(LAYOUT.head_size // WIDTH):
        acc += (tl.zeros([m.shape[0], w.shape[0]], tl.float32),)
    high = tl.full(m.shape, float("-inf"), tl.float32)
    total = tl.zeros(m.shape, tl.float32)
    for tile in range(first * (G // TOKENS), last * (G // TOKENS)):
        start = tile * TOKENS % LAYOUT.block_size
        token = tl.multiple_of(start, TOKENS) + t  # of the block; told so that rows of codes load as vectors
        group = start // G
        block = tl.load(block_table + tile * TOKENS // LAYOUT.block_size).to(tl.int64)
        record = pages + block * stride_page
        if FOLDS:
            pairs = _load_value_pairs(record, token, LAYOUT)
        folded, bias = _fold_key_scale(q, record, group, LAYOUT, DOT)
        at = record + LAYOUT.key_codes_offset + j[:, None] * LAYOUT.block_size + token[None, :]
        packed = tl.load(at, mask=(j < KEY_WIDTH)[:, None], other=0)
        scores = tl.zeros([m.shape[0], TOKENS], tl.float32) + bias[:, None]
        for part in tl.static_range(8 // LAYOUT.key_bits):
            scores = tl.dot(folded[part], unpack(packed, part, LAYOUT.key_bits, DOT), scores, input_precision="ieee")
        p, keep, high, total = _softmax_step(scores, high, total)
        if FOLDS:
            acc = _add_values_folded(acc, p, keep, record, token, pairs, LAYOUT, DOT)
        else:
            acc = _add_values_dequantized(acc, p, keep, record, token, LAYOUT, DOT)
    tl.store(to_lse, high + tl.log2(total), mask=m < ROWS)
    for i in tl.static_range(len(acc)):
        out = acc[i] / total[:, None]
        if FOLDS:
            out *= part_scale(i * WIDTH // LAYOUT.value_code_bytes, LAYOUT.value_bits)
        tl.store(to_out[:, None] + (i * WIDTH + w)[None, :], out, mask=(m < ROWS)[:, None] & (w < WIDTH)[None, :])


@triton.jit
def _decode_kernel(
    part_out,  # f32 [B, Hq, 1 + splits, D]
    part_lse,  # f32 [B, Hq, 1 + splits], base 2
    query,  # [B, Hq, D]
    pages,  # u8 [blocks, H, record]
    block_table,  # i32 [B, blocks of a row]
    closed,  # int [B]
    seq_lens,  # int [B]
    slots,  # int [B]
    ring_key,  # [slots, H, ring tokens, D]
    ring_value,  # likewise
    scale_log2,
    stride_row,
    stride_head,
    stride_page,
    stride_table,
    stride_slot,
    stride_ring_head,
    stride_position,
    ring_tokens,
    splits,
    LAYOUT: tl.constexpr,
    ROWS: tl.constexpr,  # query heads of a KV head
    TOKENS: tl.constexpr,  # tokens of a tile of closed groups
    OPEN_TOKENS: tl.constexpr,  # tokens of a tile of open tokens
    MIN_GROUPS: tl.constexpr,  # least groups of a split
    DOT: tl.constexpr,
):
    tl.static_assert(LAYOUT.key_bits == 2 or LAYOUT.key_bits == 4, "keys have 2 or 4 bits")
    tl.static_assert(LAYOUT.value_bits == 2 or LAYOUT.value_bits == 4, "values have 2 or 4 bits")
    tl.static_assert(LAYOUT.key_group % TOKENS == 0 and TOKENS >= 16, "a tile lies in one key group")
    tl.static_assert(LAYOUT.head_size % 8 == 0, "a head size is a multiple of 8")
    D: tl.constexpr = LAYOUT.head_size
    head, split, row = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2).to(tl.int64)
    length = tl.load(seq_lens + row).to(tl.int32)
    if length > 0:
        done = tl.minimum(tl.load(closed + row).to(tl.int32), length)
        m = tl.arange(0, max(triton.next_power_of_2(ROWS), 16))
        query_head = head * ROWS + m
        q = query + row * stride_row + query_head * stride_head
        part = (row * tl.num_programs(0) * ROWS + query_head) * (splits + 1) + split
        to_out, to_lse = part_out + part * D, part_lse + part
        if split == 0:
            if length > done:
                ring = tl.load(slots + row).to(tl.int64) * stride_slot + head * stride_ring_head
                _open_tokens(
                    q, ring_key + ring, ring_value + ring, done, length, stride_position, ring_tokens,
                    m, to_out, to_lse, scale_log2, D, ROWS, OPEN_TOKENS, DOT,
                )  # fmt: skip
        else:
            groups = done // LAYOUT.key_group
            share = groups_of_a_split(groups, splits, MIN_GROUPS)
            first = (split - 1) * share
            if first < groups:
                last = tl.minimum(first + share, groups)
                _closed_groups(
                    q, pages + head * LAYOUT.record_bytes, block_table + row * stride_table, first, last,
                    stride_page, m, to_out, to_lse, scale_log2, LAYOUT, ROWS, TOKENS, DOT,
                )  # fmt: skip


def decode_scratch(
    layout: CacheLayout, rows: int, query_heads: int, splits: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scratch of :func:`decode`: float32 [rows, query_heads, 1 + splits, D] and [rows, query_heads, 1 + splits]."""
    out = torch.empty(rows, query_heads, 1 + splits, layout.head_size, dtype=torch.float32, device=device)
    return out, torch.empty(out.shape[:-1], dtype=torch.float32, device=device)


def decode_splits(rows: int, kv_heads: int, max_tokens: int, processors: int) -> int:
    """How many splits fill a GPU: depends on what a CUDA graph fixes, never on lengths.

    Args:
        rows: rows of the (padded) batch.
        max_tokens: the longest context that may come.
        processors: streaming multiprocessors of the GPU.
    """
    wanted = -(-8 * processors // (rows * kv_heads))
    useful = -(-max_tokens // SPLIT_TOKENS)
    return max(1, min(wanted, useful, 64))


def decode(
    layout: CacheLayout,
    out: torch.Tensor,
    query: torch.Tensor,
    pages: torch.Tensor,
    block_table: torch.Tensor,
    closed: torch.Tensor,
    seq_lens: torch.Tensor,
    slots: torch.Tensor,
    ring_key: torch.Tensor,
    ring_value: torch.Tensor,
    scale: float,
    scratch: tuple[torch.Tensor, torch.Tensor],
    rotate_out: bool = False,
    lse: torch.Tensor | None = None,
) -> None:
    """One query a row over its closed groups and its open tokens.

    Args:
        out: [B, Hq, D], any float dtype, channels contiguous; written in place. A row of length 0 gets zeros.
        query: [B, Hq, D], float16, bfloat16 or float32, channels contiguous, rotated if the format rotates.
        pages: uint8 [blocks, H, record_bytes], the last two dimensions contiguous.
        block_table: int32 [B, blocks of a row]; only blocks of closed tokens are read.
        closed: int32 or int64 [B], leading tokens read quantized, a multiple of the key group.
        seq_lens: int32 or int64 [B], tokens of the row, the query's own included; 0 for padding.
        slots: int32 or int64 [B], the row of the rings.
        ring_key, ring_value: [slots, H, ring_tokens, D], of equal strides, channels contiguous; token p at
            p % ring_tokens. Their dtype is that of the tensor-core operands.
        scale: of the scores, usually D^-0.5.
        scratch: from :func:`decode_scratch`, for at least B rows; its splits are the grid's.
        rotate_out: rotate the result back.
        lse: float32 [B, Hq] or None: takes the log-sum-exp of the scores (natural logarithm; -inf for length 0).

    Raises:
        ValueError: a key group the kernels are not built for.
    """
    check_layout(layout)
    rows, query_heads = query.shape[:2]
    heads = pages.shape[1]
    part_out, part_lse = scratch
    splits = part_lse.shape[2] - 1
    min_groups = max(SPLIT_TOKENS // layout.key_group, 1)
    _decode_kernel[(heads, 1 + splits, rows)](
        part_out,
        part_lse,
        query,
        pages,
        block_table,
        closed,
        seq_lens,
        slots,
        ring_key,
        ring_value,
        scale * _LOG2_E,
        query.stride(0),
        query.stride(1),
        pages.stride(0),
        block_table.stride(0),
        ring_key.stride(0),
        ring_key.stride(1),
        ring_key.stride(2),
        ring_key.shape[2],
        splits,
        LAYOUT=layout,
        ROWS=query_heads // heads,
        TOKENS=min(layout.key_group, 64 if layout.head_size > 128 else 128),
        OPEN_TOKENS=16 if layout.head_size > 128 else 32,
        MIN_GROUPS=min_groups,
        DOT=dot_type(ring_key.dtype),
        num_warps=4,
    )
    merge_splits(layout, out, part_out, part_lse, closed, seq_lens, min_groups, rotate_out, lse)
