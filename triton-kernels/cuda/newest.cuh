// Tokens that are not quantized yet: from the rings, as float16 through shared memory.

#pragma once
#include "packed.cuh"
#include "softmax.cuh"

// As wide as the size of a ring's token allows.
__device__ __forceinline__ void load_staged(u32 (&to)[4], const u8* from) {
    if constexpr (STAGED % 16 == 0) {
        load_words(to, from);
    } else {
        constexpr int WIDE = STAGED % 8 == 0 ? 2 : 1;
#pragma unroll
        for (int i = 0; i < 4; i += WIDE) {
            u32 part[WIDE];
            load_words(part, from + 4 * i);
#pragma unroll
            for (int e = 0; e < WIDE; ++e) to[i + e] = part[e];
        }
    }
}

// A thread's pieces, of 16 channels, of sixteen tokens of a ring, on their way to shared memory.
struct Staged {
    u32 codes[D / 32][4], exponents[D / 32];
};

// Those past the end become zeros.
__device__ __forceinline__ void load_ring(
    Staged& to, const u8* ring, int ring_tokens, int first, int length, int lane
) {
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
        const int at = 32 * i + lane, piece = at % (D / 16), token = first + at / (D / 16);
        to.codes[i][0] = to.codes[i][1] = to.codes[i][2] = to.codes[i][3] = to.exponents[i] = 0;
        if (token < length) {
            const u8* from = ring + (i64)(token % ring_tokens) * STAGED;
            load_staged(to.codes[i], from + 16 * piece);
            to.exponents[i] = *(const u16*)(from + D + 2 * piece);
        }
    }
}

__device__ __forceinline__ void write_tile(u16 (*tile)[TILE_STRIDE], const Staged& from, int lane) {
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
        const int at = 32 * i + lane, row = at / (D / 16), piece = at % (D / 16);
        u32 out[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            const float unit = __uint_as_float((e < 4 ? from.exponents[i] & 0xFF : from.exponents[i] >> 8) << 23);
            const u32 word = from.codes[i][e / 2] >> 16 * (e % 2);
            const float low = (signed char)(word & 0xFF), high = (signed char)(word >> 8 & 0xFF);
            out[e] = pack_half2(low * unit, high * unit);
        }
        uint4* to = (uint4*)&tile[row][16 * piece];
        to[0] = make_uint4(out[0], out[1], out[2], out[3]);
        to[1] = make_uint4(out[4], out[5], out[6], out[7]);
    }
}

// Sixteen quantized values likewise.
__device__ __forceinline__ void stage_values(u16 (*tile)[TILE_STRIDE], const u8* record, int token, int lane) {
#pragma unroll
    for (int i = lane; i < D; i += 32) {
        const int row = i % 16, piece = i / 16, part = 16 * piece / VALUE_ROWS, at = token + row;
        const int v = 16 * piece / (D / VGROUPS);
        const u32 bits = *(const u16*)(record + VALUE_ZEROS + 2 * (v * T + at));
        const float zero = floats_of(zeros_of(bits)).x;
        const float scale = floats_of(scales_of(bits, record[VALUE_SCALES + v * T + at])).x;
        const u8* codes = record + VALUE_CODES + 16 * piece % VALUE_ROWS * T + at;
        u32 out[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            const u32 low = codes[2 * e * T] >> VB * part & ((1 << VB) - 1);
            const u32 high = codes[(2 * e + 1) * T] >> VB * part & ((1 << VB) - 1);
            out[e] = pack_half2(low * scale + zero, high * scale + zero);
        }
        uint4* to = (uint4*)&tile[row][16 * piece];
        to[0] = make_uint4(out[0], out[1], out[2], out[3]);
        to[1] = make_uint4(out[4], out[5], out[6], out[7]);
    }
}

// A warp's share of the newest tokens, sixteen at a time, every WARPS-th. Their keys lie in the ring; their values
// there or, before ``rough``, in pages.
__device__ __forceinline__ void add_newest(
    State& state, u16 (*tile)[TILE_STRIDE], const float* query, float scale_log2, bool live, const u8* key_ring,
    int key_tokens, const u8* value_ring, int value_tokens, const u8* head_pages, const int* table, int stride_page,
    int first, int rough, int length, int lane
) {
    const int g = lane / 4, quarter = lane % 4;
    Staged keys, values;
    if (first < length) {
        load_ring(keys, key_ring, key_tokens, first, length, lane);
        load_ring(values, value_ring, value_tokens, first, length, lane);
    }
    u32 own[CHANNEL_TILES][2];
#pragma unroll
    for (int s = 0; s < CHANNEL_TILES; ++s)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float2 q = make_float2(0, 0);
            if (live) q = *(const float2*)(query + 16 * s + 8 * h + 2 * quarter);
            own[s][h] = finite_half2(pack_half2(q.x * scale_log2, q.y * scale_log2));
        }
    for (int next; first < length; first = next) {
        next = first + 16 * WARPS;
        write_tile(tile, keys, lane);
        __syncwarp();
        if (next < length) load_ring(keys, key_ring, key_tokens, next, length, lane);
        float scores[1][4] = {};
#pragma unroll
        for (int s = 0; s < CHANNEL_TILES; ++s) {
            u32 a[4];
            load_matrices<false>(a, &tile[lane % 16][16 * s + lane / 16 * 8]);
            multiply(scores[0], a[0], a[1], a[2], a[3], own[s][0], own[s][1]);
        }
        __syncwarp();
        if (first < rough)
            stage_values(tile, head_pages + (i64)__ldg(table + first / T) * stride_page, first % T, lane);
        else
            write_tile(tile, values, lane);
        __syncwarp();
        if (next < length) load_ring(values, value_ring, value_tokens, next, length, lane);
#pragma unroll
        for (int e = 0; e < 4; ++e)
            if (first + g + e / 2 * 8 >= length) scores[0][e] = -__int_as_float(0x7F800000);
        softmax_step(scores, state);
        u32 weights[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) weights[h] = transposed(pack_half2(scores[0][2 * h], scores[0][2 * h + 1]));
#pragma unroll
        for (int c = 0; c < CHANNEL_TILES; ++c) {
            u32 a[4];
            load_matrices<true>(a, &tile[lane % 8 + lane / 16 * 8][16 * c + lane / 8 % 2 * 8]);
            multiply(state.out[c], a[0], a[1], a[2], a[3], weights[0], weights[1]);
        }
        __syncwarp();
    }
}
