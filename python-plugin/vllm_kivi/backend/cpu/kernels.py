"""Compiled CPU kernels (Numba, which vLLM itself depends on) over packed pages; meaning: :mod:`vllm_kivi.reference`.

Loops run over blocks, heads and lanes of a vector register. Each kernel is built for one layout, so that LLVM sees
constant trip counts, and is cached on disk by Numba beside this file. What kernels call lies at module level and is
inlined with the constants of the layout: a compiled function in a kernel closure would change its cache key in every
process. Only decode may reorder sums: what is stored must be the reference's bytes.

Letters as in the reference: ``B`` rows of a batch, ``Hq`` query heads, ``H`` KV heads, ``R`` = Hq / H, ``D`` channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import config, njit, prange, set_num_threads, types
from numba.extending import intrinsic, overload

from vllm_kivi.layout import CacheLayout
from vllm_kivi.reference import clip_ratio

SPLIT_TOKENS = 2048
"""Context tokens that one work item of the decode kernel reads."""

TILE_TOKENS = 128
"""Tokens at most whose scores the decode kernel holds before it goes on to their values."""

_REORDER = {"reassoc", "contract", "nsz", "arcp"}
"""Fast-math flags of decode: sums vectorise, infinities and NaN keep their meaning."""

_EXPONENT_SHIFT = np.uint32((127 - 15) << 23)


@intrinsic
def _as_float(typingctx: Any, bits: Any) -> Any:
    """The float32 with these 32 bits (of an integer of any width: Numba widens 32-bit arithmetic to 64)."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(context.cast(builder, args[0], signature.args[0], types.uint32), ir.FloatType())

    return types.float32(bits), codegen


@intrinsic
def _as_bits(typingctx: Any, value: Any) -> Any:
    """The 32 bits of a float32, as uint32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(context.cast(builder, args[0], signature.args[0], types.float32), ir.IntType(32))

    return types.uint32(value), codegen


@njit(inline="always")
def _exp(x):
    """e^x for x <= 0, relative error under 1e-6; a polynomial, so that LLVM can vectorise it. 0 below -87."""
    y = max(x * np.float32(1.4426950408889634), np.float32(-126.0))
    n = np.floor(y)
    f = y - n
    p = np.float32(1.8775767e-3)
    p = p * f + np.float32(8.9893397e-3)
    p = p * f + np.float32(5.5826318e-2)
    p = p * f + np.float32(2.4015361e-1)
    p = p * f + np.float32(6.9315308e-1)
    p = p * f + np.float32(9.9999994e-1)
    return p * _as_float(np.uint32((np.int32(n) + np.int32(127)) << np.int32(23)))


@njit(inline="always")
def _decode_zero(bits):
    magnitude = (np.uint32(bits) & np.uint32(0x7FFC)) << np.uint32(13)
    if magnitude != np.uint32(0):
        magnitude += _EXPONENT_SHIFT
    return _as_float(magnitude | ((np.uint32(bits) & np.uint32(0x8000)) << np.uint32(16)))


@njit(inline="always")
def _decode_scale(zero_bits, scale_bits):
    code = (np.uint32(scale_bits) << np.uint32(2)) | (np.uint32(zero_bits) & np.uint32(3))
    return _as_float((code << np.uint32(18)) + _EXPONENT_SHIFT)


@njit(inline="always")
def _encode_zero(zero):
    bits = _as_bits(min(max(zero, np.float32(-65408.0)), np.float32(65408.0)))
    magnitude = (np.int32(bits & np.uint32(0x7FFFFFFF)) + np.int32(1 << 14)) >> np.int32(15)
    magnitude = min(magnitude - np.int32(112 << 8), np.int32(0x1EFF))
    if magnitude < np.int32(1 << 8):
        magnitude = np.int32(0)
    return np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000)) | (np.uint32(magnitude) << np.uint32(2))


@njit(inline="always")
def _encode_scale(scale):
    bits = _as_bits(min(max(scale, np.float32(2.0**-14)), np.float32(64512.0)))
    code = np.int32((bits + np.uint32(1 << 17)) >> np.uint32(18)) - np.int32(112 << 5)
    return np.uint32(min(code, np.int32(0x3DF)))


@njit(inline="always")
def _encode_range(low, high, MARGIN, STEP):
    """Zero and scale of a part of a range, of :func:`_part_of_range`, as the values of their uint16 and uint8."""
    code = _encode_scale((high - low) * STEP)
    return _encode_zero(low + (high - low) * MARGIN) | (code & np.uint32(3)), code >> np.uint32(2)


def _ring_value(x):
    raise NotImplementedError


@overload(_ring_value, inline="always")
def _ring_value_impl(x):
    if x == types.uint16:
        return lambda x: _as_float(np.uint32(x) << np.uint32(16))
    return lambda x: x


@njit(inline="always")
def _zeros_and_scales(page, zeros_at, scales_at, zero, scale):
    """Decode consecutive three-byte pairs of a record into zero and scale, f32 [n]."""
    count = zero.shape[0]
    pairs, high = page[zeros_at : zeros_at + 2 * count], page[scales_at : scales_at + count]
    for i in range(count):
        bits = np.uint32(pairs[2 * i]) | (np.uint32(pairs[2 * i + 1]) << np.uint32(8))
        zero[i] = _decode_zero(bits)
        scale[i] = _decode_scale(bits, high[i])


@njit(inline="always")
def _write_pair(page, zeros_at, scales_at, zero_bits, scale_bits):
    """Write one three-byte pair of a record."""
    page[zeros_at] = np.uint8(zero_bits & np.uint32(255))
    page[zeros_at + 1] = np.uint8(zero_bits >> np.uint32(8))
    page[scales_at] = np.uint8(scale_bits)


@njit(inline="always")
def _code(x, zero, inverse, TOP):
    """The code of x, a whole float32."""
    code = np.floor((x - zero) * inverse + np.float32(0.5))
    return min(max(code, np.float32(0)), np.float32(TOP))


@njit(inline="always")
def _unpack(packed, at, part, BITS):
    """Code ``part`` of byte ``at``, as float32."""
    return np.float32(np.int32((packed[at] >> (BITS * part)) & ((1 << BITS) - 1)))


@njit(inline="always")
def _add_rows(weights, rows, count, acc, D):
    """acc f32 [D] += weights f32 [>= count] @ rows f32 [>= count, D]."""
    quads = count // 4 * 4  # four rows a pass: acc is loaded and stored a quarter as often
    for t in range(0, quads, 4):
        w0, w1, w2, w3 = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
        x0, x1, x2, x3 = rows[t], rows[t + 1], rows[t + 2], rows[t + 3]
        for c in range(D):
            acc[c] += w0 * x0[c] + w1 * x1[c] + w2 * x2[c] + w3 * x3[c]
    for t in range(quads, count):
        w, x = weights[t], rows[t]
        for c in range(D):
            acc[c] += w * x[c]


class CpuKernels(NamedTuple):
    """The compiled kernels of one layout."""

    store_keys: Callable[..., None]
    store_values: Callable[..., None]
    load_keys: Callable[..., None]
    load_values: Callable[..., None]
    decode: Callable[..., None]


def use_threads(count: int) -> None:
    """Run the kernels on as many threads as vLLM gave this worker."""
    set_num_threads(max(1, min(count, config.NUMBA_NUM_THREADS)))


@functools.cache
def cpu_kernels(layout: CacheLayout, queries_per_kv: int, clipping: bool) -> CpuKernels:
    """Kernels for one page layout, GQA ratio and clipping setting (compiled at first call)."""
    return CpuKernels(
        _store_keys_kernel(layout, clipping),
        _store_values_kernel(layout, clipping),
        _load_keys_kernel(layout),
        _load_values_kernel(layout),
        _decode_kernel(layout, queries_per_kv),
    )


def _part_of_range(bits: int, clipping: bool) -> tuple[np.float32, np.float32]:
    """What of a range lies below the part that codes cover, and a step between two of them."""
    ratio = clip_ratio(bits, clipping)
    return np.float32((1.0 - ratio) / 2), np.float32(ratio / (2**bits - 1))


def _store_keys_kernel(layout: CacheLayout, clipping: bool) -> Callable[..., None]:
    D, G, BITS, BYTES = layout.head_size, layout.key_group, layout.key_bits, layout.key_code_bytes
    PARTS, TOP = 8 // BITS, 2**BITS - 1
    O_CODES, O_ZEROS, O_SCALES = layout.key_codes_offset, layout.key_zeros_offset, layout.key_scales_offset
    MARGIN, STEP = _part_of_range(BITS, clipping)

    @njit(parallel=True, cache=True, error_model="numpy", boundscheck=False)
    def store_keys(pages, block_ids, group_in_block, key):
        """pages u8 [blocks, H, record]; block_ids, group_in_block i64 [N]; key f32 [N, G, H, D]."""
        heads = pages.shape[1]
        for item in prange(block_ids.shape[0] * heads):
            n, h = item // heads, item % heads
            page = pages[block_ids[n], h]
            group = group_in_block[n]
            k = np.empty((G, D), np.float32)
            for t in range(G):
                for c in range(D):
                    k[t, c] = key[n, t, h, c]
            low, high = k[0].copy(), k[0].copy()
            for t in range(1, G):
                for c in range(D):
                    low[c] = min(low[c], k[t, c])
                    high[c] = max(high[c], k[t, c])
            zero, inverse = np.empty(D, np.float32), np.empty(D, np.float32)
            for c in range(D):
                zero_bits, scale_bits = _encode_range(low[c], high[c], MARGIN, STEP)
                zero[c] = _decode_zero(zero_bits)
                inverse[c] = np.float32(1.0) / _decode_scale(zero_bits, scale_bits)
                at = group * D + c
                _write_pair(page, O_ZEROS + 2 * at, O_SCALES + at, zero_bits, scale_bits)
            codes = np.empty(D, np.uint8)
            for t in range(G):
                for c in range(D):
                    codes[c] = np.uint8(np.int32(_code(k[t, c], zero[c], inverse[c], TOP)))
                start = O_CODES + (group * G + t) * BYTES
                row = page[start : start + BYTES]
                for j in range(BYTES):
                    packed = np.uint8(0)
                    for part in range(PARTS):
                        packed |= np.uint8(codes[j + part * BYTES] << np.uint8(BITS * part))
                    row[j] = packed

    return store_keys


def _store_values_kernel(layout: CacheLayout, clipping: bool) -> Callable[..., None]:
    T, D, BITS, ROWS = layout.block_size, layout.head_size, layout.value_bits, layout.value_code_rows
    CG, VG, PARTS, TOP = layout.channel_groups, layout.value_group, 8 // BITS, 2**BITS - 1
    O_CODES, O_ZEROS, O_SCALES = layout.value_codes_offset, layout.value_zeros_offset, layout.value_scales_offset
    MARGIN, STEP = _part_of_range(BITS, clipping)

    @njit(parallel=True, cache=True, error_model="numpy", boundscheck=False)
    def store_values(pages, slots, value):
        """pages u8 [blocks, H, record]; slots i64 [n], block * T + token or negative to skip; value f32 [n, H, D]."""
        heads = pages.shape[1]
        for item in prange(slots.shape[0] * heads):
            n, h = item // heads, item % heads
            if slots[n] >= 0:
                page, token = pages[slots[n] // T, h], slots[n] % T
                x, codes = value[n, h], np.empty(D, np.uint8)
                for g in range(CG):
                    low, high = x[g * VG], x[g * VG]
                    for c in range(g * VG, (g + 1) * VG):
                        low, high = min(low, x[c]), max(high, x[c])
                    zero_bits, scale_bits = _encode_range(low, high, MARGIN, STEP)
                    zero, inverse = _decode_zero(zero_bits), np.float32(1.0) / _decode_scale(zero_bits, scale_bits)
                    for c in range(g * VG, (g + 1) * VG):
                        codes[c] = np.uint8(np.int32(_code(x[c], zero, inverse, TOP)))
                    at = g * T + token
                    _write_pair(page, O_ZEROS + 2 * at, O_SCALES + at, zero_bits, scale_bits)
                for j in range(ROWS):
                    packed = np.uint8(0)
                    for part in range(PARTS):
                        packed |= np.uint8(codes[j + part * ROWS] << np.uint8(BITS * part))
                    page[O_CODES + j * T + token] = packed

    return store_values


def _load_keys_kernel(layout: CacheLayout) -> Callable[..., None]:
    T, G, D = layout.block_size, layout.key_group, layout.head_size
    BITS, BYTES, PARTS = layout.key_bits, layout.key_code_bytes, 8 // layout.key_bits
    O_CODES, O_ZEROS, O_SCALES = layout.key_codes_offset, layout.key_zeros_offset, layout.key_scales_offset

    @njit(parallel=True, cache=True, error_model="numpy", boundscheck=False)
    def load_keys(pages, block_ids, first, last, key):
        """Keys of groups [first, last) of a sequence into key f32 [H, >= (last - first) * G, D]; block_ids i32."""
        heads = pages.shape[1]
        for item in prange((last - first) * heads):
            g_abs, h = first + item // heads, item % heads
            page, group = pages[block_ids[g_abs * G // T], h], g_abs % (T // G)
            zero, scale = np.empty(D, np.float32), np.empty(D, np.float32)
            _zeros_and_scales(page, O_ZEROS + 2 * group * D, O_SCALES + group * D, zero, scale)
            for t in range(G):
                start = O_CODES + (group * G + t) * BYTES
                row, to = page[start : start + BYTES], key[h, (g_abs - first) * G + t]
                for part in range(PARTS):
                    for j in range(BYTES):
                        c = part * BYTES + j
                        to[c] = _unpack(row, j, part, BITS) * scale[c] + zero[c]

    return load_keys


def _load_values_kernel(layout: CacheLayout) -> Callable[..., None]:
    T, D, BITS, ROWS = layout.block_size, layout.head_size, layout.value_bits, layout.value_code_rows
    CG, VG = layout.channel_groups, layout.value_group
    O_CODES, O_ZEROS, O_SCALES = layout.value_codes_offset, layout.value_zeros_offset, layout.value_scales_offset

    @njit(parallel=True, cache=True, error_model="numpy", boundscheck=False)
    def load_values(pages, block_ids, first, last, value):
        """Values of tokens [first, last) of a sequence into value f32 [H, >= last - first, D]; block_ids i32."""
        heads, first_block = pages.shape[1], first // T
        for item in prange((-(-last // T) - first_block) * heads):
            block, h = first_block + item // heads, item % heads
            page = pages[block_ids[block], h]
            zero, scale = np.empty(T, np.float32), np.empty(T, np.float32)
            channels = np.empty((D, T), np.float32)
            for g in range(CG):
                _zeros_and_scales(page, O_ZEROS + 2 * g * T, O_SCALES + g * T, zero, scale)
                for c in range(g * VG, (g + 1) * VG):
                    part, start = c // ROWS, O_CODES + c % ROWS * T
                    row, to = page[start : start + T], channels[c]
                    for t in range(T):
                        to[t] = _unpack(row, t, part, BITS) * scale[t] + zero[t]
            for t in range(max(first, block * T), min(last, (block + 1) * T)):
                for c in range(D):
                    value[h, t - first, c] = channels[c, t - block * T]

    return load_values


def _decode_kernel(layout: CacheLayout, queries_per_kv: int) -> Callable[..., None]:
    T, D, G, R = layout.block_size, layout.head_size, layout.key_group, queries_per_kv
    KBITS, KBYTES, KPARTS = layout.key_bits, layout.key_code_bytes, 8 // layout.key_bits
    VBITS, VROWS, VPARTS = layout.value_bits, layout.value_code_rows, 8 // layout.value_bits
    CG, VG, O_VC = layout.channel_groups, layout.value_group, layout.value_codes_offset
    O_VZ, O_VS = layout.value_zeros_offset, layout.value_scales_offset
    O_KC, O_KZ, O_KS = layout.key_codes_offset, layout.key_zeros_offset, layout.key_scales_offset
    # A tile lies in one block, and is whole key groups or a whole part of one.
    TILE = max(n for n in range(8, TILE_TOKENS + 1, 8) if T % n == 0 and (n % G == 0 or G % n == 0))
    SPAN = min(G, TILE)
    TILES_PER_SPLIT = -(-SPLIT_TOKENS // TILE)
    NEGATIVE = np.float32(-1e30)

    @njit(parallel=True, cache=True, fastmath=_REORDER, error_model="numpy", boundscheck=False)
    def decode(
        out, query, pages, block_table, closed, rough, ring_key, ring_value, slots, seq_lens, sm_scale, part_out,
        part_state,
    ):  # fmt: skip
        """One query a row, the row's newest token's, over its whole sequence.

        out, query f32 [B, Hq, D]; pages u8 [blocks, H, record]; block_table i32 [B, blocks]; i64 [B]: closed, rough
        (tokens whose keys and values are read quantized; the later ones from the rings), slots, seq_lens; rings
        [slots, H, ring tokens, D], f32 or bf16 as uint16; scratch part_out f32 [B, splits, Hq, D] and part_state
        f32 [B, splits, Hq, 2] (maximum and sum).
        """
        rows, heads, splits = query.shape[0], pages.shape[1], part_out.shape[1]
        key_ring, value_ring = ring_key.shape[2], ring_value.shape[2]
        for item in prange(rows * heads * splits):
            b, rest = item // (heads * splits), item % (heads * splits)
            h, split = rest // splits, rest % splits
            length, slot = seq_lens[b], slots[b]
            q = query[b, h * R : (h + 1) * R]
            acc, state = part_out[b, split, h * R : (h + 1) * R], part_state[b, split, h * R : (h + 1) * R]
            acc[:] = np.float32(0)
            state[:, 0] = NEGATIVE
            state[:, 1] = np.float32(0)
            key_zero, key_scale = np.empty(D, np.float32), np.empty(D, np.float32)
            zero, scale = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
            keys, folded = np.empty((SPAN, D), np.float32), np.empty(D, np.float32)
            codes, exact = np.empty((VPARTS, TILE), np.float32), np.empty((TILE, D), np.float32)
            p, weighted = np.empty((R, TILE), np.float32), np.empty((R, CG, TILE), np.float32)
            biases = np.empty((R, CG), np.float32)
            last_tile = min((split + 1) * TILES_PER_SPLIT, (length + TILE - 1) // TILE)
            for tile in range(split * TILES_PER_SPLIT, last_tile):
                start, in_block = tile * TILE, tile * TILE % T
                count = min(TILE, length - start)
                page = pages[block_table[b, start // T], h]
                quantized_keys = min(max(closed[b] - start, 0), count)
                quantized_values = min(max(rough[b] - start, 0), count)
                for span in range(0, quantized_keys, SPAN):
                    group = (in_block + span) // G
                    _zeros_and_scales(page, O_KZ + 2 * group * D, O_KS + group * D, key_zero, key_scale)
                    for t in range(SPAN):
                        at = O_KC + (in_block + span + t) * KBYTES
                        row, to = page[at : at + KBYTES], keys[t]
                        for part in range(KPARTS):
                            for j in range(KBYTES):
                                to[part * KBYTES + j] = _unpack(row, j, part, KBITS)
                    for r in range(R):
                        bias = np.float32(0)
                        for c in range(D):
                            bias += q[r, c] * key_zero[c]
                            folded[c] = q[r, c] * key_scale[c]
                        for t in range(SPAN):
                            dot = bias
                            for c in range(D):
                                dot += folded[c] * keys[t, c]
                            p[r, span + t] = dot * sm_scale
                for t in range(quantized_keys, count):
                    from_key, to = ring_key[slot, h, (start + t) % key_ring], exact[t]
                    for c in range(D):
                        to[c] = _ring_value(from_key[c])
                for r in range(R):
                    for t in range(quantized_keys, count):
                        dot = np.float32(0)
                        for c in range(D):
                            dot += q[r, c] * exact[t, c]
                        p[r, t] = dot * sm_scale
                for r in range(R):
                    high = state[r, 0]
                    for t in range(count):
                        high = max(high, p[r, t])
                    keep = _exp(state[r, 0] - high)
                    added = np.float32(0)
                    for t in range(count):
                        p[r, t] = _exp(p[r, t] - high)
                        added += p[r, t]
                    state[r, 0] = high
                    state[r, 1] = state[r, 1] * keep + added
                    for c in range(D):
                        acc[r, c] *= keep
                # Whole tiles, so that trip counts are constant: tokens that are not read quantized weigh nothing, and
                # whatever bytes a page holds decode to finite numbers.
                for g in range(CG):
                    at = g * T + in_block
                    _zeros_and_scales(page, O_VZ + 2 * at, O_VS + at, zero, scale)
                    for r in range(R):
                        bias = np.float32(0)
                        for t in range(quantized_values):
                            bias += p[r, t] * zero[t]
                            weighted[r, g, t] = p[r, t] * scale[t]
                        for t in range(quantized_values, TILE):
                            weighted[r, g, t] = np.float32(0)
                        biases[r, g] = bias
                for j in range(VROWS):
                    at = O_VC + j * T + in_block
                    row = page[at : at + TILE]
                    for part in range(VPARTS):
                        for t in range(TILE):
                            codes[part, t] = _unpack(row, t, part, VBITS)
                    for r in range(R):
                        for part in range(VPARTS):
                            g = (part * VROWS + j) // VG
                            dot = biases[r, g]
                            for t in range(TILE):
                                dot += weighted[r, g, t] * codes[part, t]
                            acc[r, part * VROWS + j] += dot
                for t in range(quantized_values, count):
                    from_value, to = ring_value[slot, h, (start + t) % value_ring], exact[t - quantized_values]
                    for c in range(D):
                        to[c] = _ring_value(from_value[c])
                for r in range(R):
                    _add_rows(p[r, quantized_values:], exact, count - quantized_values, acc[r], D)
        for item in prange(rows * query.shape[1]):
            b, hq = item // query.shape[1], item % query.shape[1]
            high = NEGATIVE
            for split in range(splits):
                high = max(high, part_state[b, split, hq, 0])
            total, to = np.float32(0), out[b, hq]
            to[:] = np.float32(0)
            for split in range(splits):
                keep = _exp(part_state[b, split, hq, 0] - high)
                total += keep * part_state[b, split, hq, 1]
                for c in range(D):
                    to[c] += keep * part_out[b, split, hq, c]
            for c in range(D):
                to[c] /= total

    return decode
