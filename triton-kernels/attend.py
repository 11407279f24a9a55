"""Attention of a step's queries over packed pages, rings of staged tokens and the step's own.

Meaning: ``reference.attend`` for each query, by position alone: keys of closed groups and values older than the window
are read quantized, the rest exactly. A tile holds some queries of one row with all query heads of one KV head, so a
page is read once for them. Tokens that every query of the tile reads quantized come first, without masks: key scales
are folded into the query and key zeros into one dot product per group, value scales into the probabilities. The newest
tokens follow, where each query picks by its position.

Decode splits a row's quantized tokens over programs (split 0 takes the newest tokens); ``merge.py`` combines them by
log-sum-exp, and ``few.py`` says when decode.cu does both instead. Graph-safe: the grid depends on shapes only, lengths
are read on the device, and empty programs do nothing.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from vllm_kivi.config import KiviConfig
from vllm_kivi.kernels.helpers import (
    PER_ROW,
    WIDE_DOT,
    Batch,
    check_layout,
    decode_scale,
    decode_zero,
    dot_type,
    layout_of,
    load_pairs,
    part_scale,
    row_of,
    unpack,
)
from vllm_kivi.kernels.launch import Launcher
from vllm_kivi.kernels.staging import load_staged, load_staged_columns
from vllm_kivi.layout import CacheLayout

SPLIT_TOKENS = 256
"""Quantized tokens below which a row is not split further."""

LOG2_E = math.log2(math.e)


@dataclass(frozen=True)
class Windows:
    """What is read exactly although it could be read quantized; see ``KiviConfig``."""

    key_window: int
    value_window: int
    value_residual: int

    @property
    def spec(self) -> str:
        """The sizes in one word, as compiled kernels are keyed by."""
        return f"{self.key_window}:{self.value_window}:{self.value_residual}"


@triton.constexpr_function
def unpack_windows(SPEC):
    """Inverse of :attr:`Windows.spec`."""
    return Windows(*[int(size) for size in SPEC.split(":")])


def windows_of(config: KiviConfig) -> Windows:
    """Those of a format."""
    return Windows(config.key_window, config.value_window, config.value_residual)


# --- what a query reads -----------------------------------------------------------------------------------------------


@triton.jit
def closed_keys(position, readable, LAYOUT: tl.constexpr, KEY_WINDOW: tl.constexpr):
    """reference.closed_keys."""
    past = tl.maximum(position - KEY_WINDOW, 0)
    return tl.maximum(past // LAYOUT.key_group * LAYOUT.key_group, readable)


@triton.jit
def rough_values(position, readable, VALUE_RESIDUAL: tl.constexpr, VALUE_WINDOW: tl.constexpr):
    """reference.rough_values."""
    return tl.maximum(tl.maximum(position - VALUE_WINDOW, 0) // VALUE_RESIDUAL * VALUE_RESIDUAL, readable)


@triton.jit
def shared_groups(position, readable, LAYOUT: tl.constexpr, WINDOWS: tl.constexpr):
    """Key groups that every query from ``position`` on reads quantized, keys and values."""
    tokens = tl.minimum(
        closed_keys(position, readable, LAYOUT, WINDOWS.key_window),
        rough_values(position, readable, WINDOWS.value_residual, WINDOWS.value_window),
    )
    return tokens // LAYOUT.key_group


@triton.jit
def groups_of_a_split(groups, splits, LAYOUT: tl.constexpr, MIN_GROUPS: tl.constexpr):
    """Groups that each split of a row takes, in whole blocks; 0 for a row without any."""
    share = tl.maximum((groups + splits - 1) // splits, MIN_GROUPS)
    return tl.minimum((share + LAYOUT.key_groups - 1) // LAYOUT.key_groups * LAYOUT.key_groups, groups)


# --- softmax and packed tiles -----------------------------------------------------------------------------------------


@triton.jit
def _softmax_step(scores, high, total):
    """One step of online softmax in base 2: scores f32 [M, tokens], running maximum and sum f32 [M].

    Returns probabilities under the new maximum, the factor for what was accumulated, new maximum and sum.
    """
    new = tl.maximum(high, tl.max(scores, 1))
    safe = tl.where(new == float("-inf"), 0.0, new)
    p = tl.exp2(scores - safe[:, None])
    keep = tl.exp2(high - safe)
    return p, keep, new, total * keep + tl.sum(p, 1)


@triton.constexpr_function
def _value_width(LAYOUT):
    """Channels of one accumulator: all of a part of the byte, or as many as share a value scale."""
    width, size = LAYOUT.value_code_rows, LAYOUT.value_group
    return size if width % size == 0 else width


@triton.constexpr_function
def _folds_values(LAYOUT):
    """Whether one accumulator's channels share a value scale."""
    return LAYOUT.value_group % _value_width(LAYOUT) == 0


@triton.constexpr_function
def _padded(size):
    """A length that a tile can have: a power of two, at least 16."""
    return max(triton.next_power_of_2(size), 16)


@triton.jit
def _fold_key_scale(query, record, group, LAYOUT: tl.constexpr):
    """Fold the scales of a key group into the query's parts, a tuple of f32 [M, part].

    Returns the parts as float16, and the query times the zeros, f32 [M].
    """
    D: tl.constexpr = LAYOUT.head_size
    WIDTH: tl.constexpr = LAYOUT.key_code_bytes
    zeros = (record + LAYOUT.key_zeros_offset).to(tl.pointer_type(tl.uint16)) + group * D
    scales = record + LAYOUT.key_scales_offset + group * D
    j = tl.arange(0, query[0].shape[1])
    bias = tl.zeros([query[0].shape[0]], tl.float32)
    folded = ()
    for part in tl.static_range(len(query)):
        zero, scale = load_pairs(zeros, scales, part * WIDTH + j, j < WIDTH)
        bias += tl.sum(query[part] * zero[None, :], 1)
        x = query[part] * (scale * part_scale(part, LAYOUT.key_bits))[None, :]
        folded += (tl.minimum(tl.maximum(x, -60000.0), 60000.0).to(tl.float16),)
    return folded, bias


@triton.jit
def _rough_scores(folded, bias, record, token, LAYOUT: tl.constexpr):
    """Scores f32 [M, tokens] of the quantized keys of ``token`` (int32, of the block), all of one key group."""
    WIDTH: tl.constexpr = LAYOUT.key_code_bytes
    j = tl.arange(0, folded[0].shape[1])
    at = record + LAYOUT.key_codes_offset + token[None, :] * WIDTH + j[:, None]
    if folded[0].shape[1] == WIDTH:
        packed = tl.load(at)
    else:
        packed = tl.load(at, mask=(j < WIDTH)[:, None] & (token >= 0)[None, :], other=0)
    codes = unpack(packed, LAYOUT.key_bits)
    scores = tl.zeros([bias.shape[0], token.shape[0]], tl.float32) + bias[:, None]
    for part in tl.static_range(len(folded)):
        scores = tl.dot(folded[part], codes[part], scores)
    return scores


@triton.jit
def _load_value_pairs(record, token, LAYOUT: tl.constexpr):
    """Still encoded zeros and scales of the values of ``token``, group after group: a tuple of int32 [tokens].

    Too narrow for the pipeline of asynchronous copies, so loaded ahead of the scores and decoded after them.
    """
    T: tl.constexpr = LAYOUT.block_size
    GROUPS: tl.constexpr = LAYOUT.channel_groups
    zeros = (record + LAYOUT.value_zeros_offset).to(tl.pointer_type(tl.uint16)) + token
    scales = record + LAYOUT.value_scales_offset + token
    pairs = ()
    for g in tl.static_range(GROUPS):
        pairs += (tl.load(zeros + g * T).to(tl.int32), tl.load(scales + g * T).to(tl.int32))
    return pairs


@triton.jit
def _add_rough_values(acc, p, keep, record, token, pairs, LAYOUT: tl.constexpr):
    """Accumulate p f32 [M, tokens] times the quantized values of ``token`` (int32 [tokens] of the block).

    acc: tuple of f32 [M, W], the accumulators in channel order; that of part i holds 2^(bits * i) times its sum.
    pairs: of :func:`_load_value_pairs`.
    """
    T: tl.constexpr = LAYOUT.block_size
    ROWS: tl.constexpr = LAYOUT.value_code_rows
    BITS: tl.constexpr = LAYOUT.value_bits
    WIDTH: tl.constexpr = _value_width(LAYOUT)
    PIECES: tl.constexpr = ROWS // WIDTH  # accumulators of a part
    w = tl.arange(0, acc[0].shape[1])
    codes = ()
    for i in tl.static_range(PIECES):
        at = record + LAYOUT.value_codes_offset + (i * WIDTH + w)[None, :] * T + token[:, None]
        if acc[0].shape[1] == WIDTH:
            packed = tl.load(at)
        else:
            packed = tl.load(at, mask=(w < WIDTH)[None, :] & (token >= 0)[:, None], other=0)
        codes += (unpack(packed, BITS),)
    new = ()
    if _folds_values(LAYOUT):
        EACH: tl.constexpr = LAYOUT.value_group // WIDTH  # accumulators of a channel group
        GROUPS: tl.constexpr = LAYOUT.channel_groups
        for g in tl.static_range(GROUPS):
            weights = (p * decode_scale(pairs[2 * g], pairs[2 * g + 1])[None, :]).to(tl.float16)
            bias = tl.sum(p * decode_zero(pairs[2 * g])[None, :], 1)
            for i in tl.static_range(EACH):
                # Accumulator g * EACH + i is of part (g * EACH + i) // PIECES; a name would make the index a tensor.
                start = acc[g * EACH + i] * keep[:, None] + (bias * (1 << (BITS * ((g * EACH + i) // PIECES))))[:, None]
                new += (tl.dot(weights, codes[(g * EACH + i) % PIECES][(g * EACH + i) // PIECES], start),)
    else:
        # Channel groups cut through a part: scale and zero of each element instead.
        zeros = (record + LAYOUT.value_zeros_offset).to(tl.pointer_type(tl.uint16))
        scales = record + LAYOUT.value_scales_offset
        live = (token >= 0)[:, None] & (w < ROWS)[None, :]
        for part in tl.static_range(len(acc)):
            g = (part * ROWS + w) // LAYOUT.value_group
            zero, scale = load_pairs(zeros, scales, g[None, :] * T + token[:, None], live)
            v = (codes[0][part].to(tl.float32) * scale + zero * (1 << (BITS * part))).to(WIDE_DOT)
            new += (tl.dot(p.to(WIDE_DOT), v, acc[part] * keep[:, None]),)
    return new


@triton.jit
def _load_exact(
    ring_at, fresh_at, in_ring, exists, first,
    COUNT: tl.constexpr, SIZE: tl.constexpr, D: tl.constexpr, DOT: tl.constexpr, FRESH: tl.constexpr,
):  # fmt: skip
    """Operand [SIZE, tokens]: COUNT channels from ``first`` on, in a ring or, where not ``in_ring``, of the step.

    ring_at, fresh_at: pointers [tokens].
    """
    c = tl.arange(0, SIZE)
    old = exists & in_ring if FRESH else exists
    if COUNT % 8 == 0:
        x = load_staged_columns(ring_at, first, old, COUNT, SIZE, D).to(DOT)
    else:
        x = load_staged(ring_at[None, :], first + c[:, None], old[None, :] & (c < COUNT)[:, None], D).to(DOT)
    if FRESH:
        live = (exists & ~in_ring)[None, :] & (c < COUNT)[:, None]
        fresh = tl.load(fresh_at[None, :] + first + c[:, None], mask=live, other=0.0).to(DOT)
        x = tl.where(in_ring[None, :], x, fresh)
    return x


@triton.jit
def _add_exact_values(
    acc, p, ring_at, fresh_at, in_ring, exists,
    LAYOUT: tl.constexpr, DOT: tl.constexpr, FRESH: tl.constexpr,
):  # fmt: skip
    """Accumulate p f32 [M, tokens] times exact values; pointers [tokens] as for :func:`_load_exact`."""
    WIDTH: tl.constexpr = _value_width(LAYOUT)
    new = ()
    for i in tl.static_range(len(acc)):
        v = _load_exact(
            ring_at, fresh_at, in_ring, exists, i * WIDTH, WIDTH, acc[0].shape[1], LAYOUT.head_size, DOT, FRESH
        )
        # As the accumulator holds 2^(bits * part) times its sum.
        weights = p * (1 << (LAYOUT.value_bits * (i * WIDTH // LAYOUT.value_code_rows)))
        new += (tl.dot(weights.to(DOT), tl.trans(v), acc[i], input_precision="ieee"),)
    return new


# --- the kernel -------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["rows", "splits", "stride_table"], do_not_specialize_on_alignment=PER_ROW)
def _attend_kernel(
    out,  # [tokens, Hq, D], or f32 [tokens, Hq, 1 + splits, D]
    lse,  # f32 [tokens, Hq, 1 + splits], base 2; unused without splits
    query,  # [tokens, Hq, D]
    pages,  # u8 [blocks, H, record]
    query_start,  # i32 [B + 1]
    seq_lens,  # i32 [B]
    block_table,  # i32 [B, blocks of a row]
    slots,  # i32 [B]
    readable_from,  # i32 [B]
    ring_key,  # u8 [slots, H, ring tokens, staged bytes]
    ring_value,  # likewise
    fresh_key,  # [tokens, H, D] or None
    fresh_value,  # likewise
    scale_log2,
    rows,
    splits,
    stride_query_token,
    stride_query_head,
    stride_out_token,
    stride_out_head,
    stride_page,
    stride_table,
    stride_key_slot,
    stride_value_slot,
    stride_fresh_token,
    stride_fresh_head,
    key_tokens,  # of a row of the ring
    value_tokens,
    LAYOUT_SPEC: tl.constexpr,
    WINDOWS_SPEC: tl.constexpr,
    RATIO: tl.constexpr,  # query heads of a KV head
    QUERIES: tl.constexpr,  # of a tile
    TILES: tl.constexpr,  # of a row, where its tokens are split
    M: tl.constexpr,  # rows of a tile, >= QUERIES * RATIO
    TOKENS: tl.constexpr,  # of a tile of quantized groups
    NEW_TOKENS: tl.constexpr,  # of a tile of the newest tokens
    MIN_GROUPS: tl.constexpr,  # least groups of a split
    STAGED: tl.constexpr,  # bytes of a token in a ring
    SPLIT: tl.constexpr,
    DOT: tl.constexpr,
):
    LAYOUT: tl.constexpr = layout_of(LAYOUT_SPEC)
    WINDOWS: tl.constexpr = unpack_windows(WINDOWS_SPEC)
    tl.static_assert(LAYOUT.key_group % TOKENS == 0 and TOKENS >= 16, "a tile lies in one key group")
    tl.static_assert(LAYOUT.key_group % NEW_TOKENS == 0 and NEW_TOKENS >= 16, "a tile lies in one key group")
    tl.static_assert(LAYOUT.head_size % 8 == 0, "a head size is a multiple of 8")
    D: tl.constexpr = LAYOUT.head_size
    G: tl.constexpr = LAYOUT.key_group
    T: tl.constexpr = LAYOUT.block_size
    KEY_WIDTH: tl.constexpr = LAYOUT.key_code_bytes
    WIDTH: tl.constexpr = _value_width(LAYOUT)
    FRESH: tl.constexpr = fresh_key is not None
    head, split, tile = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    heads = tl.num_programs(0)
    if SPLIT:
        row, first_query = tile // TILES, tile % TILES * QUERIES
    else:
        row, first_query = row_of(tile, query_start, rows, QUERIES)
    start_token = tl.load(query_start + row)
    count = tl.load(query_start + row + 1) - start_token  # of this row's queries
    if first_query < count:
        length = tl.load(seq_lens + row)
        readable = tl.load(readable_from + row)
        before = length - count
        m = tl.arange(0, M)
        mine = first_query + m // RATIO
        live_row = (m < QUERIES * RATIO) & (mine < count)
        position = before + tl.minimum(mine, count - 1)
        token_of_query = (start_token + tl.minimum(mine, count - 1)).to(tl.int64)
        query_head = head * RATIO + m % RATIO
        last_position = before + tl.minimum(first_query + QUERIES, count) - 1
        # All tiles of a row are split alike: merge.py knows rows only.
        groups = shared_groups(before + (0 if SPLIT else first_query), readable, LAYOUT, WINDOWS)

        first = 0
        last = groups
        newest = True
        if SPLIT:
            share = groups_of_a_split(groups, splits, LAYOUT, MIN_GROUPS)
            first = (split - 1) * share
            last = tl.minimum(first + share, groups)
            newest = split == 0
            if newest:
                first = groups
        if newest | (first < last):
            q_at = query + token_of_query * stride_query_token + query_head * stride_query_head
            j = tl.arange(0, _padded(KEY_WIDTH))
            w = tl.arange(0, _padded(WIDTH))
            q = ()
            for part in tl.static_range(8 // LAYOUT.key_bits):
                mask = live_row[:, None] & (j < KEY_WIDTH)[None, :]
                loaded = tl.load(q_at[:, None] + (part * KEY_WIDTH + j)[None, :], mask=mask, other=0.0)
                q += (loaded.to(tl.float32) * scale_log2,)
            acc = ()
            for _ in tl.static_range(D // WIDTH):
                acc += (tl.zeros([M, w.shape[0]], tl.float32),)
            high = tl.full([M], float("-inf"), tl.float32)
            total = tl.zeros([M], tl.float32)
            table = block_table + row.to(tl.int64) * stride_table
            head_pages = pages + head * LAYOUT.record_bytes

            t = tl.arange(0, TOKENS)
            for i in range(first * (G // TOKENS), last * (G // TOKENS)):
                begin = i * TOKENS % T
                token = tl.multiple_of(begin, TOKENS) + t  # of the block; told so that rows of codes load as vectors
                record = head_pages + tl.load(table + i * TOKENS // T).to(tl.int64) * stride_page
                pairs = _load_value_pairs(record, token, LAYOUT)
                folded, bias = _fold_key_scale(q, record, begin // G, LAYOUT)
                scores = _rough_scores(folded, bias, record, token, LAYOUT)
                p, keep, high, total = _softmax_step(scores, high, total)
                acc = _add_rough_values(acc, p, keep, record, token, pairs, LAYOUT)

            if newest:
                COLUMNS: tl.constexpr = _padded(D)
                c = tl.arange(0, COLUMNS)
                n = tl.arange(0, NEW_TOKENS)
                exact_q = tl.load(q_at[:, None] + c[None, :], mask=live_row[:, None] & (c < D)[None, :], other=0.0).to(
                    DOT
                )
                closed = closed_keys(position, readable, LAYOUT, WINDOWS.key_window)
                rough = rough_values(position, readable, WINDOWS.value_residual, WINDOWS.value_window)
                closed_first = closed_keys(before + first_query, readable, LAYOUT, WINDOWS.key_window)
                closed_last = closed_keys(last_position, readable, LAYOUT, WINDOWS.key_window)
                slot = tl.load(slots + row).to(tl.int64)
                key_ring = ring_key + slot * stride_key_slot + head * key_tokens * STAGED
                value_ring = ring_value + slot * stride_value_slot + head * value_tokens * STAGED
                rough_first = rough_values(before + first_query, readable, WINDOWS.value_residual, WINDOWS.value_window)
                fresh_head = head * stride_fresh_head
                for begin in range(groups * G, last_position + 1, NEW_TOKENS):
                    absolute = begin + n
                    token = begin % T + n
                    record = head_pages + tl.load(table + begin // T).to(tl.int64) * stride_page
                    seen = (absolute[None, :] <= position[:, None]) & live_row[:, None]
                    in_ring = absolute < before
                    exists = absolute < length
                    key_at = key_ring + absolute % key_tokens * STAGED
                    value_at = value_ring + absolute % value_tokens * STAGED
                    fresh_key_at, fresh_value_at = key_at, value_at
                    if FRESH:
                        offset = (start_token + absolute - before).to(tl.int64) * stride_fresh_token + fresh_head
                        fresh_key_at, fresh_value_at = fresh_key + offset, fresh_value + offset
                    scores = tl.zeros([M, NEW_TOKENS], tl.float32)
                    if closed_last > begin:
                        folded, bias = _fold_key_scale(q, record, begin % T // G, LAYOUT)
                        scores = _rough_scores(folded, bias, record, token, LAYOUT)
                    if closed_first <= begin:
                        k = _load_exact(key_at, fresh_key_at, in_ring, exists, 0, D, COLUMNS, D, DOT, FRESH)
                        exact = tl.dot(exact_q, k, input_precision="ieee") * scale_log2
                        scores = tl.where(closed[:, None] > begin, scores, exact)
                    p, keep, high, total = _softmax_step(tl.where(seen, scores, float("-inf")), high, total)
                    pairs = _load_value_pairs(record, token, LAYOUT)
                    old = absolute[None, :] < rough[:, None]
                    acc = _add_rough_values(acc, tl.where(old, p, 0.0), keep, record, token, pairs, LAYOUT)
                    if rough_first < begin + NEW_TOKENS:
                        acc = _add_exact_values(
                            acc, tl.where(old, 0.0, p), value_at, fresh_value_at, in_ring, exists, LAYOUT, DOT, FRESH,
                        )  # fmt: skip

            inverse = 1.0 / tl.where(total > 0.0, total, 1.0)
            to = token_of_query * stride_out_token + query_head * stride_out_head
            if SPLIT:
                to += split.to(tl.int64) * D
                at = (token_of_query * heads * RATIO + query_head) * (splits + 1) + split
                tl.store(lse + at, high + tl.log2(total), mask=live_row)
            for i in tl.static_range(len(acc)):
                x = acc[i] * (inverse * part_scale(i * WIDTH // LAYOUT.value_code_rows, LAYOUT.value_bits))[:, None]
                mask = live_row[:, None] & (w < WIDTH)[None, :]
                tl.store(out + to[:, None] + (i * WIDTH + w)[None, :], x.to(out.dtype.element_ty), mask=mask)


# --- launchers --------------------------------------------------------------------------------------------------------


def split_count(rows: int, kv_heads: int, max_tokens: int, processors: int) -> int:
    """How many splits fill a GPU: depends on what a CUDA graph fixes, never on lengths.

    Args:
        rows: rows of the (padded) batch.
        max_tokens: the longest context that may come.
        processors: streaming multiprocessors of the GPU.
    """
    pairs = rows * kv_heads
    wanted = min(6 * processors // pairs, max(16, processors // pairs))
    useful = -(-max_tokens // SPLIT_TOKENS)
    return max(1, min(wanted, useful, 32))


def min_groups_of_a_split(layout: CacheLayout) -> int:
    """Least key groups that a split takes."""
    return max(SPLIT_TOKENS // layout.key_group, 1)


def attend(
    layout: CacheLayout,
    windows: Windows,
    out: torch.Tensor,
    query: torch.Tensor,
    pages: torch.Tensor,
    batch: Batch,
    ring_key: torch.Tensor,
    ring_value: torch.Tensor,
    fresh_key: torch.Tensor,
    fresh_value: torch.Tensor,
    scale: float,
) -> None:
    """Rows of any number of queries (prefill, chunks): one program a tile of queries and KV head.

    Tokens of this step are read from ``fresh_*``, older ones from the rings and pages, so the rings may be written
    after. All groups that the step completes must be in their pages.

    Args:
        out, query: [tokens, Hq, D], channels contiguous, rotated if the format rotates; out is written in place.
        pages: uint8 [blocks, H, record_bytes], the last two dimensions contiguous.
        ring_key, ring_value: uint8 [slots, H, ring tokens, staged bytes], contiguous; token p at p % ring tokens.
        fresh_key, fresh_value: [tokens, H, D] of :func:`vllm_kivi.kernels.staging.stage_heads`, of equal strides,
            channels contiguous; their dtype is that of the tensor cores' operands for exact tokens.
        scale: of the scores, usually D^-0.5.

    Raises:
        ValueError: a key group the kernels are not built for.
    """
    heads, query_heads = pages.shape[1], query.shape[1]
    ratio = query_heads // heads
    rows = batch.seq_lens.shape[0]
    queries = max(most_rows(layout) // ratio, 1)
    _launch(
        layout, windows, out, None, query, pages, batch, (ring_key, ring_value), (fresh_key, fresh_value), scale,
        queries, rows + query.shape[0] // queries, 0, fresh_key.dtype,
    )  # fmt: skip


def attend_splits(
    layout: CacheLayout,
    windows: Windows,
    query: torch.Tensor,
    pages: torch.Tensor,
    batch: Batch,
    ring_key: torch.Tensor,
    ring_value: torch.Tensor,
    scale: float,
    scratch: tuple[torch.Tensor, torch.Tensor],
    queries: int,
    dtype: torch.dtype,
) -> None:
    """Rows of few queries (decode, verification of drafts), split over programs; results stay in ``scratch``.

    All exact tokens, this step's included, are read from the rings. Arguments as for :func:`attend`.

    Args:
        scratch: of :class:`vllm_kivi.kernels.few.Scratch`, for at least the step's tokens; its splits are the grid's.
        queries: the most queries of a row.
        dtype: the model's; that of the tensor cores' operands for exact tokens.
    """
    splits, ratio = scratch[1].shape[2] - 1, query.shape[1] // pages.shape[1]
    each = min(queries, max(most_rows(layout) // ratio, 1))
    _launch(
        layout, windows, scratch[0], scratch[1], query, pages, batch, (ring_key, ring_value), None, scale,
        each, triton.cdiv(queries, each), splits, dtype,
    )  # fmt: skip


def most_rows(layout: CacheLayout) -> int:
    """Query rows of a tile, at most: queries times query heads of a KV head.

    From 64 rows on, Triton takes Hopper's wgmma, which Triton 3.6 miscompiles for accumulators of 32 columns (two-bit
    values, or a head size of 64): wrong results, illegal accesses. Those get tiles for the older instruction; so do
    two-bit values of large heads, which would spill.
    """
    wide = layout.head_size > 128
    if triton.next_power_of_2(_value_width(layout)) < 64 or (wide and layout.value_bits == 2):
        return 16 if wide else 32
    return 64 if wide else 128


def tile_shape(layout: CacheLayout, rows: int) -> tuple[int, int, int]:
    """Tokens of a tile of quantized groups, warps and pipeline stages for tiles of ``rows`` query rows."""
    wide = layout.head_size > 128
    if rows > 32:
        return min(layout.key_group, 64), 8, 2
    if rows > 16:
        return min(layout.key_group, 64), 4, 2
    return min(layout.key_group, 64 if wide else 128), 4, 3


def _launch(
    layout: CacheLayout,
    windows: Windows,
    out: torch.Tensor,
    lse: torch.Tensor | None,
    query: torch.Tensor,
    pages: torch.Tensor,
    batch: Batch,
    rings: tuple[torch.Tensor, torch.Tensor],
    fresh: tuple[torch.Tensor, torch.Tensor] | None,
    scale: float,
    queries: int,
    tiles: int,
    splits: int,
    dtype: torch.dtype,
) -> None:
    """One program a tile of ``queries``; ``tiles`` is their number or, with splits, that of each row."""
    heads = pages.shape[1]
    ratio = query.shape[1] // heads
    ring_key, ring_value = rings
    fresh_key, fresh_value = fresh or (None, None)
    _attender(layout, windows, ratio, queries, tiles if splits else 1, ring_key.shape[3], splits > 0, dtype)(
        (heads, 1 + splits, tiles * batch.seq_lens.shape[0] if splits else tiles),
        (
            out, lse, query, pages, batch.query_start, batch.seq_lens, batch.block_table, batch.slots,
            batch.readable_from, ring_key, ring_value, fresh_key, fresh_value,
        ),
        scale * LOG2_E,
        batch.seq_lens.shape[0],
        splits,
        query.stride(0),
        query.stride(1),
        out.stride(0),
        out.stride(1),
        pages.stride(0),
        batch.block_table.stride(0),
        ring_key.stride(0),
        ring_value.stride(0),
        fresh_key.stride(0) if fresh_key is not None else 0,
        fresh_key.stride(1) if fresh_key is not None else 0,
        ring_key.shape[2],
        ring_value.shape[2],
    )  # fmt: skip


@functools.cache
def _attender(
    layout: CacheLayout,
    windows: Windows,
    ratio: int,
    queries: int,
    tiles: int,
    staged: int,
    split: bool,
    dtype: torch.dtype,
) -> Launcher:
    check_layout(layout)
    rows = max(triton.next_power_of_2(queries * ratio), 16)
    tokens, warps, stages = tile_shape(layout, rows)
    return Launcher(
        _attend_kernel,
        13,
        LAYOUT_SPEC=layout.spec,
        WINDOWS_SPEC=windows.spec,
        RATIO=ratio,
        QUERIES=queries,
        TILES=tiles,
        M=rows,
        TOKENS=tokens,
        NEW_TOKENS=32,
        MIN_GROUPS=min_groups_of_a_split(layout),
        STAGED=staged,
        SPLIT=split,
        DOT=dot_type(dtype),
        num_warps=warps,
        num_stages=stages,
    )
