// Tokens that are not quantized yet, out of the rings: keys straight into registers, values through shared memory, both
// as float16.

#pragma once
#include "copies.cuh"
#include "packed.cuh"
#include "softmax.cuh"

// Two codes of a ring, each with its sign bit flipped behind the byte 0x64 (1024 + 128 + code as float16), times a unit.
__device__ __forceinline__ u32 exact_half2(u32 raised, u32 unit) {
    asm("sub.rn.f16x2 %0, %0, %1;" : "+r"(raised) : "r"(0x64806480u));
    return times_half2(raised, unit);
}

// The power of two that a ring's exponent stands for.
__device__ __forceinline__ u32 unit_of(u32 exponent) {
    const float unit = __uint_as_float(exponent << 23);
    return pack_half2(unit, unit);
}

// Where a token lies in a ring; ``base`` is where the tile's first does.
__device__ __forceinline__ const u8* staged_token(const u8* ring, int ring_tokens, int base, int token) {
    const int at = base + token;
    return ring + (at < ring_tokens ? at : at - ring_tokens) * STAGED;
}

constexpr int STAGED_WORDS = STAGED % 16 == 0 ? 4 : STAGED % 8 == 0 ? 2 : 1;  // that a ring's tokens are aligned to

// A thread's channels, as of packed keys, of tokens lane / 4 and lane / 4 + 8 of a tile.
struct StagedKeys {
    u32 codes[2][KEY_PARTS][KEY_WORDS];
    u8 exponents[2][KEY_PARTS][KEY_WORDS];
};

// Tokens past ``count`` become zeros.
__device__ __forceinline__ void load_keys(
    StagedKeys& to, const u8* ring, int ring_tokens, int base, int count, int lane
) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int token = lane / 4 + 8 * h;
        const u8* from = staged_token(ring, ring_tokens, base, token);
#pragma unroll
        for (int part = 0; part < KEY_PARTS; ++part) {
            const int channel = channel_of(part * KEY_WORDS, lane % 4);
            if (token < count) load_words<STAGED_WORDS>(to.codes[h][part], from + channel);
#pragma unroll
            for (int s = 0; s < KEY_WORDS; ++s) {
                if (token >= count) to.codes[h][part][s] = 0;
                // Eight channels share an exponent; those of two words begin at a multiple of eight.
                if (KEY_WORDS % 2 == 0 && s % 2 == 1)
                    to.exponents[h][part][s] = to.exponents[h][part][s - 1];
                else
                    to.exponents[h][part][s] = token < count ? from[D + (channel + 4 * s) / 8] : 0;
            }
        }
    }
}

// The queries of load_query without what it divides by.
__device__ __forceinline__ void exact_query(Query& to, const u32 (&query)[D / 32][32][4], int lane) {
#pragma unroll
    for (int part = 0; part < KEY_PARTS; ++part)
#pragma unroll
        for (int s = 0; s < KEY_WORDS; ++s) {
            const int word = part * KEY_WORDS + s;
            const u32 factor = pack_half2(1 << KB * part, 1 << KB * part);
#pragma unroll
            for (int i = 0; i < 2; ++i)
                to[part][s][i] = finite_half2(times_half2(query[word / 2][lane][word % 2 * 2 + i], factor));
        }
}

__device__ __forceinline__ void score_exact(float (&scores)[4], const StagedKeys& keys, const Query& query) {
#pragma unroll
    for (int part = 0; part < KEY_PARTS; ++part)
#pragma unroll
        for (int s = 0; s < KEY_WORDS; ++s) {
            u32 a[2][2];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const u32 unit = unit_of(keys.exponents[h][part][s]);
                const u32 word = keys.codes[h][part][s];
                a[h][0] = exact_half2((word & 0x00FF00FF) ^ 0x64806480, unit);
                a[h][1] = exact_half2((word >> 8 & 0x00FF00FF) ^ 0x64806480, unit);
            }
            multiply(scores, a[0][0], a[1][0], a[0][1], a[1][1], query[part][s][0], query[part][s][1]);
        }
}

// A thread's pieces, of 16 channels, of sixteen values, on their way to shared memory.
struct StagedValues {
    u32 codes[D / 32][4], exponents[D / 32];
};

__device__ __forceinline__ void load_values(
    StagedValues& to, const u8* ring, int ring_tokens, int base, int count, int lane
) {
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
        const int at = 32 * i + lane, piece = at % (D / 16), token = at / (D / 16);
        to.codes[i][0] = to.codes[i][1] = to.codes[i][2] = to.codes[i][3] = to.exponents[i] = 0;
        if (token < count) {
            const u8* from = staged_token(ring, ring_tokens, base, token);
            load_words<STAGED_WORDS>(to.codes[i], from + 16 * piece);
            to.exponents[i] = *(const u16*)(from + D + 2 * piece);
        }
    }
}

__device__ __forceinline__ void write_tile(u16 (*tile)[TILE_STRIDE], const StagedValues& from, int lane) {
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
        const int at = 32 * i + lane, row = at / (D / 16), piece = at % (D / 16);
        u32 out[8];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const u32 unit = unit_of(e < 2 ? from.exponents[i] & 0xFF : from.exponents[i] >> 8);
            const u32 word = from.codes[i][e] ^ 0x80808080;
            out[2 * e] = exact_half2(__byte_perm(word, 0x64, 0x4140), unit);
            out[2 * e + 1] = exact_half2(__byte_perm(word, 0x64, 0x4342), unit);
        }
        uint4* to = (uint4*)&tile[row][16 * piece];
        to[0] = make_uint4(out[0], out[1], out[2], out[3]);
        to[1] = make_uint4(out[4], out[5], out[6], out[7]);
    }
}

// Sixteen quantized values likewise.
__device__ __forceinline__ void stage_values(u16 (*tile)[TILE_STRIDE], const u8* record, int token, int lane) {
#pragma unroll 1
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

// Asks for what add_newest takes of a ring, from the token ``exact`` on.
__device__ __forceinline__ void prefetch_newest(const u8* ring, int ring_tokens, int first, int exact, int length) {
    if (ring_tokens % 16 != 0) return;
#pragma unroll 1
    for (; first < length; first += 16 * WARPS)
        if (first >= exact) prefetch(ring + first % ring_tokens * STAGED, 16 * STAGED);
}

// A warp's share of the newest tokens, sixteen at a time, every WARPS-th. Their keys lie in the ring; their values
// there or, before ``rough``, in pages.
__device__ __forceinline__ void add_newest(
    State& state, u16 (*tile)[TILE_STRIDE], const u32 (&query)[D / 32][32][4], const u8* key_ring, int key_tokens,
    const u8* value_ring, int value_tokens, const u8* head_pages, const int* table, int stride_page, int first,
    int rough, int length, int lane
) {
    StagedKeys keys;
    StagedValues values;
    Query own;
    if (first < length) {
        load_keys(keys, key_ring, key_tokens, first % key_tokens, length - first, lane);
        load_values(values, value_ring, value_tokens, first % value_tokens, length - first, lane);
        exact_query(own, query, lane);
    }
    for (int next; first < length; first = next) {
        next = first + 16 * WARPS;
        float scores[1][4] = {};
        score_exact(scores[0], keys, own);
        if (next < length) load_keys(keys, key_ring, key_tokens, next % key_tokens, length - next, lane);
        if (first < rough)
            stage_values(tile, head_pages + (i64)__ldg(table + first / T) * stride_page, first % T, lane);
        else
            write_tile(tile, values, lane);
        __syncwarp();
        if (next < length) load_values(values, value_ring, value_tokens, next % value_tokens, length - next, lane);
#pragma unroll
        for (int e = 0; e < 4; ++e)
            if (first + lane / 4 + e / 2 * 8 >= length) scores[0][e] = -__int_as_float(0x7F800000);
        softmax_step(scores, state);
        u32 weights[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) weights[h] = transposed(pack_half2(scores[0][2 * h], scores[0][2 * h + 1]));
#pragma unroll
        for (int c = 0; c < CHANNEL_TILES; ++c) {
            u32 a[4];
            load_transposed(a, &tile[lane % 8 + lane / 16 * 8][16 * c + lane / 8 % 2 * 8]);
            multiply(state.out[c], a[0], a[1], a[2], a[3], weights[0], weights[1]);
        }
        __syncwarp();
    }
}
