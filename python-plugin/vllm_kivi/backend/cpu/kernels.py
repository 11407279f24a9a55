"""Compiled CPU kernels (Numba, which vLLM itself depends on) over packed pages; meaning: :mod:`vllm_kivi.reference`.

Loops run over blocks, heads and lanes of a vector register. Each kernel is built for one layout, so that LLVM sees
constant trip counts, and is cached on disk by Numba beside this file. What kernels call lies at module level and is
inlined with the constants of the layout: a compiled function in a kernel closure would change its cache key in every
process.

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
from vllm_kivi.reference import CLIP_RATIOS

SPLIT_TOKENS = 2048
"""Context tokens that one work item of the decode kernel reads."""

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
def _unpack_keys(page, group, codes, T, G, BITS, PARTS, ROWS):
    """Key codes of a key group of a record, as f32 [D, G]."""
    for j in range(ROWS):
        start = j * T + group * G
        row = page[start : start + G]
        for part in range(PARTS):
            to = codes[part * ROWS + j]
            for t in range(G):
                to[t] = np.float32(np.int32((row[t] >> (BITS * part)) & ((1 << BITS) - 1)))


@njit(inline="always")
def _unpack_values(page, group, values, G, BITS, PARTS, BYTES, CG, VG, O_VC, O_VZ, O_VS):
    """Values of a key group of a record, dequantized, f32 [G, D]."""
    zero, scale = np.empty(G * CG, np.float32), np.empty(G * CG, np.float32)
    _zeros_and_scales(page, O_VZ + 2 * group * G * CG, O_VS + group * G * CG, zero, scale)
    for t in range(G):
        start = O_VC + (group * G + t) * BYTES
        row, to = page[start : start + BYTES], values[t]
        for part in range(PARTS):
            half = to[part * BYTES : (part + 1) * BYTES]
            if VG % BYTES == 0:  # the part lies in one channel group: one pass
                g = t * CG + part * BYTES // VG
                z, w = zero[g], scale[g]
                for j in range(BYTES):
                    half[j] = np.float32(np.int32((row[j] >> (BITS * part)) & ((1 << BITS) - 1))) * w + z
            else:
                for j in range(BYTES):
                    half[j] = np.float32(np.int32((row[j] >> (BITS * part)) & ((1 << BITS) - 1)))
        if VG % BYTES != 0:
            for g in range(CG):
                z, w = zero[t * CG + g], scale[t * CG + g]
                span = to[g * VG : (g + 1) * VG]
                for j in range(VG):
                    span[j] = span[j] * w + z


@njit(inline="always")
def _accumulate(scores, tokens, values, state, acc, D):
    """One step of online softmax: scores f32 [>= tokens], values f32 [>= tokens, D]; state = (maximum, sum)."""
    high = state[0]
    for t in range(tokens):
        high = max(high, scores[t])
    keep = _exp(state[0] - high)
    added = np.float32(0)
    for t in range(tokens):
        p = _exp(scores[t] - high)
        scores[t] = p
        added += p
    state[0] = high
    state[1] = state[1] * keep + added
    for c in range(D):
        acc[c] *= keep
    quads = tokens // 4 * 4  # four rows a pass: acc is loaded and stored a quarter as often
    for t in range(0, quads, 4):
        p0, p1, p2, p3 = scores[t], scores[t + 1], scores[t + 2], scores[t + 3]
        v0, v1, v2, v3 = values[t], values[t + 1], values[t + 2], values[t + 3]
        for c in range(D):
            acc[c] += p0 * v0[c] + p1 * v1[c] + p2 * v2[c] + p3 * v3[c]
    for t in range(quads, tokens):
        p, row = scores[t], values[t]
        for c in range(D):
            acc[c] += p * row[c]


class CpuKernels(NamedTuple):
    """The compiled kernels of one layout."""

    store: Callable[..., None]
    load: Callable[..., None]
    decode: Callable[..., None]


def use_threads(count: int) -> None:
    """Run the kernels on as many threads as vLLM gave this worker."""
    set_num_threads(max(1, min(count, config.NUMBA_NUM_THREADS)))


@functools.cache
def cpu_kernels(layout: CacheLayout, queries_per_kv: int, clipping: bool) -> CpuKernels:
    """Kernels for one page layout, GQA ratio and clipping setting (compiled at first call)."""
    return CpuKernels(_store_kernel(layout, clipping), _load_kernel(layout), _decode_kernel(layout, queries_per_kv))


def _store_kernel(layout: CacheLayout, clipping: bool) -> Callable[..., None]:
    T, D, G, VG, CG = layout.block_size, layout.head_size, layout.key_group, layout.value_group, layout.channel_groups
    KB, VB, KROWS, VBYTES = layout.key_bits, layout.value_bits, layout.key_code_rows, layout.value_code_bytes
    KPARTS, VPARTS = 8 // layout.key_bits, 8 // layout.value_bits
    O_VC, O_KZ, O_VZ = layout.value_codes_offset, layout.key_zeros_offset, layout.value_zeros_offset
    O_KS, O_VS = layout.key_scales_offset, layout.value_scales_offset
    KTOP, VTOP = 2**layout.key_bits - 1, 2**layout.value_bits - 1
    RATIOS = tuple(CLIP_RATIOS) if clipping else (1.0,)
    TRIES = len(RATIOS)

    @njit(parallel=True, cache=True, error_model="numpy", boundscheck=False)
    def store(pages, block_ids, group_in_block, key, value):
        """pages u8 [blocks, H, record]; block_ids, group_in_block i64 [N]; key, value f32 [N, G, H, D]."""
        heads = pages.shape[1]
        for item in prange(block_ids.shape[0] * heads):
            n, h = item // heads, item % heads
            page = pages[block_ids[n], h]
            group = group_in_block[n]
            base = group * G
            k = np.empty((G, D), np.float32)
            for t in range(G):
                for c in range(D):
                    k[t, c] = key[n, t, h, c]
            low, high = k[0].copy(), k[0].copy()
            for t in range(1, G):
                for c in range(D):
                    low[c] = min(low[c], k[t, c])
                    high[c] = max(high[c], k[t, c])
            best_zero, best_scale = np.empty(D, np.uint32), np.empty(D, np.uint32)
            best_error = np.empty(D, np.float32)
            zero, scale, inverse, error = (
                np.empty(D, np.float32),
                np.empty(D, np.float32),
                np.empty(D, np.float32),
                np.empty(D, np.float32),
            )
            zero_bits, scale_bits = np.empty(D, np.uint32), np.empty(D, np.uint32)
            for i in range(TRIES):
                ratio = RATIOS[i]
                margin, step = np.float32((1.0 - ratio) / 2), np.float32(ratio / KTOP)
                for c in range(D):
                    zero_bits[c] = _encode_zero(low[c] + (high[c] - low[c]) * margin)
                    code = _encode_scale((high[c] - low[c]) * step)
                    zero_bits[c] |= code & np.uint32(3)
                    scale_bits[c] = code >> np.uint32(2)
                    zero[c] = _decode_zero(zero_bits[c])
                    scale[c] = _decode_scale(zero_bits[c], scale_bits[c])
                    inverse[c] = np.float32(1.0) / scale[c]
                    error[c] = np.float32(0.0)
                if TRIES > 1:
                    for t in range(G):
                        for c in range(D):
                            q = np.floor((k[t, c] - zero[c]) * inverse[c] + np.float32(0.5))
                            q = min(max(q, np.float32(0)), np.float32(KTOP))
                            off = q * scale[c] + zero[c] - k[t, c]
                            error[c] += off * off
                for c in range(D):
                    if i == 0 or error[c] < best_error[c]:
                        best_error[c], best_zero[c], best_scale[c] = error[c], zero_bits[c], scale_bits[c]
            for c in range(D):
                zero[c] = _decode_zero(best_zero[c])
                inverse[c] = np.float32(1.0) / _decode_scale(best_zero[c], best_scale[c])
                at = O_KZ + 2 * (group * D + c)
                page[at] = np.uint8(best_zero[c] & np.uint32(255))
                page[at + 1] = np.uint8(best_zero[c] >> np.uint32(8))
                page[O_KS + group * D + c] = np.uint8(best_scale[c])
            codes = np.empty((G, D), np.uint8)
            for t in range(G):
                for c in range(D):
                    q = np.floor((k[t, c] - zero[c]) * inverse[c] + np.float32(0.5))
                    codes[t, c] = np.uint8(np.int32(min(max(q, np.float32(0)), np.float32(KTOP))))
            for j in range(KROWS):
                for t in range(G):
                    packed = np.uint8(0)
                    for part in range(KPARTS):
                        packed |= np.uint8(codes[t, j + part * KROWS] << np.uint8(KB * part))
                    page[j * T + base + t] = packed
            row = np.empty(D, np.uint8)
            for t in range(G):
                for g in range(CG):
                    v_low, v_high = value[n, t, h, g * VG], value[n, t, h, g * VG]
                    for c in range(g * VG, (g + 1) * VG):
                        v_low, v_high = min(v_low, value[n, t, h, c]), max(v_high, value[n, t, h, c])
                    least, z_best, s_best = np.float32(0), np.uint32(0), np.uint32(0)
                    for i in range(TRIES):
                        ratio = RATIOS[i]
                        z_bits = _encode_zero(v_low + (v_high - v_low) * np.float32((1.0 - ratio) / 2))
                        code = _encode_scale((v_high - v_low) * np.float32(ratio / VTOP))
                        z_bits |= code & np.uint32(3)
                        s_bits = code >> np.uint32(2)
                        z, s = _decode_zero(z_bits), _decode_scale(z_bits, s_bits)
                        inv = np.float32(1.0) / s
                        total = np.float32(0)
                        if TRIES > 1:
                            for c in range(g * VG, (g + 1) * VG):
                                q = np.floor((value[n, t, h, c] - z) * inv + np.float32(0.5))
                                q = min(max(q, np.float32(0)), np.float32(VTOP))
                                off = q * s + z - value[n, t, h, c]
                                total += off * off
                        if i == 0 or total < least:
                            least, z_best, s_best = total, z_bits, s_bits
                    z, inv = _decode_zero(z_best), np.float32(1.0) / _decode_scale(z_best, s_best)
                    for c in range(g * VG, (g + 1) * VG):
                        q = np.floor((value[n, t, h, c] - z) * inv + np.float32(0.5))
                        row[c] = np.uint8(np.int32(min(max(q, np.float32(0)), np.float32(VTOP))))
                    at = (base + t) * CG + g
                    page[O_VZ + 2 * at] = np.uint8(z_best & np.uint32(255))
                    page[O_VZ + 2 * at + 1] = np.uint8(z_best >> np.uint32(8))
                    page[O_VS + at] = np.uint8(s_best)
                for j in range(VBYTES):
                    packed = np.uint8(0)
                    for part in range(VPARTS):
                        packed |= np.uint8(row[j + part * VBYTES] << np.uint8(VB * part))
                    page[O_VC + (base + t) * VBYTES + j] = packed

    return store


def _load_kernel(layout: CacheLayout) -> Callable[..., None]:
    T, G, D = layout.block_size, layout.key_group, layout.head_size
    KB, VB, KROWS, VBYTES = layout.key_bits, layout.value_bits, layout.key_code_rows, layout.value_code_bytes
    KPARTS, VPARTS = 8 // layout.key_bits, 8 // layout.value_bits
    CG, VG, O_VC = layout.channel_groups, layout.value_group, layout.value_codes_offset
    O_VZ, O_VS = layout.value_zeros_offset, layout.value_scales_offset
    O_KZ, O_KS = layout.key_zeros_offset, layout.key_scales_offset

    @njit(parallel=True, cache=True, error_model="numpy", boundscheck=False)
    def load(pages, block_ids, first, last, key, value):
        """Key groups [first, last) of a sequence into key, value f32 [H, >= (last - first) * G, D]; block_ids i32."""
        heads = pages.shape[1]
        for item in prange((last - first) * heads):
            g_abs, h = first + item // heads, item % heads
            page = pages[block_ids[g_abs * G // T], h]
            group = g_abs % (T // G)
            zero, scale, codes = np.empty(D, np.float32), np.empty(D, np.float32), np.empty((D, G), np.float32)
            _zeros_and_scales(page, O_KZ + 2 * group * D, O_KS + group * D, zero, scale)
            _unpack_keys(page, group, codes, T, G, KB, KPARTS, KROWS)
            to = (g_abs - first) * G
            keys = key[h, to : to + G]
            for t in range(G):
                for c in range(D):
                    keys[t, c] = codes[c, t] * scale[c] + zero[c]
            _unpack_values(page, group, value[h, to : to + G], G, VB, VPARTS, VBYTES, CG, VG, O_VC, O_VZ, O_VS)

    return load


def _decode_kernel(layout: CacheLayout, queries_per_kv: int) -> Callable[..., None]:
    T, D, G, R = layout.block_size, layout.head_size, layout.key_group, queries_per_kv
    KB, VB, KROWS, VBYTES = layout.key_bits, layout.value_bits, layout.key_code_rows, layout.value_code_bytes
    KPARTS, VPARTS = 8 // layout.key_bits, 8 // layout.value_bits
    CG, VG, O_VC = layout.channel_groups, layout.value_group, layout.value_codes_offset
    O_VZ, O_VS = layout.value_zeros_offset, layout.value_scales_offset
    O_KZ, O_KS = layout.key_zeros_offset, layout.key_scales_offset
    GROUPS_PER_SPLIT = max(SPLIT_TOKENS // G, 1)
    NEGATIVE = np.float32(-1e30)

    @njit(parallel=True, cache=True, fastmath=True, error_model="numpy", boundscheck=False)
    def decode(
        out, query, pages, block_table, closed, ring_key, ring_value, slots, seq_lens, sm_scale, part_out, part_state
    ):
        """One query a row over its closed groups in pages and its open tokens in the ring.

        out, query f32 [B, Hq, D]; pages u8 [blocks, H, record]; block_table i32 [B, blocks]; closed, slots, seq_lens
        i64 [B]; rings [slots, H, ring tokens, D], f32 or bf16 as uint16; scratch part_out f32 [B, splits, Hq, D] and
        part_state f32 [B, splits, Hq, 2] (maximum and sum). Split 0 also reads the open tokens.
        """
        rows, heads, splits, ring = query.shape[0], pages.shape[1], part_out.shape[1], ring_key.shape[2]
        for item in prange(rows * heads * splits):
            b, rest = item // (heads * splits), item % (heads * splits)
            h, split = rest // splits, rest % splits
            first_group = split * GROUPS_PER_SPLIT
            last_group = min(first_group + GROUPS_PER_SPLIT, closed[b] // G)
            q = query[b, h * R : (h + 1) * R]
            acc, state = part_out[b, split, h * R : (h + 1) * R], part_state[b, split, h * R : (h + 1) * R]
            acc[:] = np.float32(0)
            state[:, 0] = NEGATIVE
            state[:, 1] = np.float32(0)
            zero, scale, scores = np.empty(D, np.float32), np.empty(D, np.float32), np.empty(G, np.float32)
            folded = np.empty(D, np.float32)
            codes, values = np.empty((D, G), np.float32), np.empty((G, D), np.float32)
            for g_abs in range(first_group, last_group):
                page = pages[block_table[b, g_abs * G // T], h]
                group = g_abs % (T // G)
                _zeros_and_scales(page, O_KZ + 2 * group * D, O_KS + group * D, zero, scale)
                _unpack_keys(page, group, codes, T, G, KB, KPARTS, KROWS)
                _unpack_values(page, group, values, G, VB, VPARTS, VBYTES, CG, VG, O_VC, O_VZ, O_VS)
                for r in range(R):
                    bias = np.float32(0)
                    for c in range(D):
                        bias += q[r, c] * zero[c]
                    scores[:] = bias * sm_scale
                    for c in range(D):
                        folded[c] = q[r, c] * scale[c] * sm_scale
                    for c in range(0, D, 4):
                        f0, f1, f2, f3 = folded[c], folded[c + 1], folded[c + 2], folded[c + 3]
                        k0, k1, k2, k3 = codes[c], codes[c + 1], codes[c + 2], codes[c + 3]
                        for t in range(G):
                            scores[t] += f0 * k0[t] + f1 * k1[t] + f2 * k2[t] + f3 * k3[t]
                    _accumulate(scores, G, values, state[r], acc[r], D)
            if split == 0:
                keys = codes.reshape(G, D)
                start = closed[b]
                while start < seq_lens[b]:
                    count = min(G, seq_lens[b] - start)
                    for t in range(count):
                        at = (start + t) % ring
                        from_key, from_value = ring_key[slots[b], h, at], ring_value[slots[b], h, at]
                        for c in range(D):
                            keys[t, c] = _ring_value(from_key[c])
                            values[t, c] = _ring_value(from_value[c])
                    for r in range(R):
                        for t in range(count):
                            dot = np.float32(0)
                            for c in range(D):
                                dot += q[r, c] * keys[t, c]
                            scores[t] = dot * sm_scale
                        _accumulate(scores, count, values, state[r], acc[r], D)
                    start += count
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
