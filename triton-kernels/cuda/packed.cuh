// Scores and sums over packed tokens. Packed bytes go into the registers of the tensor core instruction that takes
// them, 16 bytes a load: layout.py's order makes each thread's bytes the channels (keys) or tokens (values) of its own
// fragment, if the contraction is summed in a permuted order, which the other operand follows. A code is masked out of
// its byte and taken as a subnormal float16, code * 2^-24, without a conversion; the factor is undone in float32. Zeros
// and scales are float16 after a mask or a shift.

#pragma once
#include "factors.cuh"
#include "softmax.cuh"

// The queries as second operand of the scores, as float16. A thread's channels are those of its key codes, in each
// part: word s holds channels 4s to 4s + 3, taken as the pairs (0, 2) and (1, 3). Codes of part p count 2^(bits * p),
// undone here. The warps do it together for all of them.
__device__ __forceinline__ void load_query(
    u32 (&to)[D / 32][32][4], const float* query, float scale_log2, bool live, int warp, int lane
) {
    for (int i = warp; i < D / 32; i += WARPS)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int word = 2 * i + half;
            float4 q = make_float4(0, 0, 0, 0);
            if (live) q = *(const float4*)(query + channel_of(word, lane % 4));
            const float factor = scale_log2 / (1 << KB * (word / KEY_WORDS));
            to[i][lane][2 * half] = finite_half2(pack_half2(q.x * factor, q.z * factor));
            to[i][lane][2 * half + 1] = finite_half2(pack_half2(q.y * factor, q.w * factor));
        }
}

typedef u32 Query[KEY_PARTS][KEY_WORDS][2];

// The queries times the zeros of a step's key groups, from ``group`` on: of group n in threads 4n to 4n + 3, for the two
// queries of each (columns of the scores). The product's first operand has them in rows n, n + KEY_GROUPS, ...
__device__ __forceinline__ float2 zeros_times(const u32 (&query)[D / 32][32][4], const u8* pairs, int group, int lane) {
    float2 bias = make_float2(0, 0);
#pragma unroll
    for (int part = 0; part < KEY_PARTS; ++part) {
        u32 zeros[2 * KEY_WORDS];
        load_words(zeros, pairs + 2 * ((group + lane / 4 % KEY_GROUPS) * D + channel_of(part * KEY_WORDS, lane % 4)));
        float sums[4] = {};
#pragma unroll
        for (int s = 0; s < KEY_WORDS; ++s) {
            const u32 even = zeros_of(__byte_perm(zeros[2 * s], zeros[2 * s + 1], 0x5410));
            const u32 odd = zeros_of(__byte_perm(zeros[2 * s], zeros[2 * s + 1], 0x7632));
            const int word = part * KEY_WORDS + s;
            const uint2 q = *(const uint2*)&query[word / 2][lane][word % 2 * 2];
            multiply(sums, even, even, odd, odd, q.x, q.y);
        }
        bias.x += sums[0] * (1 << KB * part), bias.y += sums[1] * (1 << KB * part);
    }
    return bias;
}

// Of zeros_times those of group n of the step.
__device__ __forceinline__ float2 bias_of(float2 bias, int n, int lane) {
    if (KEY_GROUPS == 1) return bias;
    const int from = 4 * n + lane % 4;
    return make_float2(__shfl_sync(~0u, bias.x, from), __shfl_sync(~0u, bias.y, from));
}

// The queries times the scales of group n of the step.
__device__ __forceinline__ void fold(
    Query& folded, const u32 (&query)[D / 32][32][4], const Factors& factors, int n, int lane
) {
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
        const uint4 q = *(const uint4*)query[i][lane], scales = *(const uint4*)factors.keys[n][i][lane % 4];
        u32 (&first)[2] = folded[2 * i / KEY_WORDS][2 * i % KEY_WORDS];
        u32 (&second)[2] = folded[(2 * i + 1) / KEY_WORDS][(2 * i + 1) % KEY_WORDS];
        first[0] = finite_half2(times_half2(q.x, scales.x)), first[1] = finite_half2(times_half2(q.y, scales.y));
        second[0] = finite_half2(times_half2(q.z, scales.z)), second[1] = finite_half2(times_half2(q.w, scales.w));
    }
}

// Scores of a chunk of quantized keys, the ``token``-th of the block on. Thread (g, quarter) of a warp scores tokens
// EACH * g to EACH * g + EACH - 1: of row tile i the rows g and g + 8 are its tokens 2i and 2i + 1.
__device__ __forceinline__ void score(
    float (&scores)[ROW_TILES][4], const Query& folded, float2 bias, const u8* keys, int token, int lane
) {
    const int g = lane / 4, quarter = lane % 4;
#pragma unroll
    for (int i = 0; i < ROW_TILES; ++i) {
        u32 rows[2][KEY_WORDS];
#pragma unroll
        for (int h = 0; h < 2; ++h)
            load_words(rows[h], keys + (token + EACH * g + 2 * i + h) * KEY_BYTES + quarter * 4 * KEY_WORDS);
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[i][e] = 0;
#pragma unroll
        for (int s = 0; s < KEY_WORDS; ++s) {
            const u32 a = rows[0][s], b = rows[1][s], a_odd = a >> 8, b_odd = b >> 8;
#pragma unroll
            for (int part = 0; part < KEY_PARTS; ++part) {
                const u32 mask = ((1u << KB) - 1) << KB * part, both = mask | mask << 16;
                multiply(
                    scores[i], a & both, b & both, a_odd & both, b_odd & both, folded[part][s][0], folded[part][s][1]
                );
            }
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[i][e] = fmaf(scores[i][e], 1 << 24, e % 2 ? bias.y : bias.x);
    }
}

// Probabilities times the scales of values, as second operand; their products with the zeros go to the state, of channel
// group v in the rows v, v + VGROUPS, ... of that product. A thread's tokens are those of its value codes.
typedef u32 Weights[VGROUPS][ROW_TILES][2];

// Of the ``c``-th chunk of a step; the block's ``token``-th is its first.
__device__ __forceinline__ void weigh(
    Weights& weights, State& state, const float (&p)[ROW_TILES][4], const u8* pairs, const Factors& factors, int c,
    int token, int lane
) {
    u32 plain[ROW_TILES][2], zeros[EACH];
    load_words(zeros, pairs + VALUE_ZEROS - KEY_ZEROS + 2 * (lane / 4 % VGROUPS * T + token + 2 * EACH * (lane % 4)));
#pragma unroll
    for (int i = 0; i < ROW_TILES; ++i) {
        u32 two[2];  // of scoring threads the tokens 2i + h
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            plain[i][h] = transposed(pack_half2(p[i][2 * h], p[i][2 * h + 1]));
            two[h] = zeros_of(__byte_perm(zeros[i], zeros[EACH / 2 + i], h ? 0x7632 : 0x5410));
        }
        multiply(state.bias, two[0], two[0], two[1], two[1], plain[i][0], plain[i][1]);
    }
#pragma unroll
    for (int v = 0; v < VGROUPS; ++v)
#pragma unroll
        for (int i = 0; i < ROW_TILES; i += 2) {
            const uint4 scales = *(const uint4*)factors.values[v][(c * ROW_TILES + i) / 2][lane % 4];
            weights[v][i][0] = times_half2(plain[i][0], scales.x), weights[v][i][1] = times_half2(plain[i][1], scales.y);
            weights[v][i + 1][0] = times_half2(plain[i + 1][0], scales.z);
            weights[v][i + 1][1] = times_half2(plain[i + 1][1], scales.w);
        }
}

// A thread's bytes of a row of codes are the tokens of scoring threads 2 * quarter, then 2 * quarter + 1.
__device__ __forceinline__ void add_values(
    State& state, const Weights& weights, const u8* values, int token, int lane
) {
    const int g = lane / 4, quarter = lane % 4;
#pragma unroll
    for (int j = 0; j < VALUE_TILES; ++j) {
        u32 rows[2][VALUE_WORDS];
#pragma unroll
        for (int h = 0; h < 2; ++h)
            load_words(rows[h], values + (16 * j + 8 * h + g) * T + token + quarter * 4 * VALUE_WORDS);
#pragma unroll
        for (int u = 0; u < ROW_TILES / 2; ++u)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const u32 a = __byte_perm(rows[0][u], rows[0][u + VALUE_WORDS / 2], k ? 0x7632 : 0x5410);
                const u32 b = __byte_perm(rows[1][u], rows[1][u + VALUE_WORDS / 2], k ? 0x7632 : 0x5410);
                const u32 a_odd = a >> 8, b_odd = b >> 8;
#pragma unroll
                for (int part = 0; part < VALUE_PARTS; ++part) {
                    const u32 mask = ((1u << VB) - 1) << VB * part, both = mask | mask << 16;
                    const int c = part * VALUE_TILES + j;
                    const u32* w = weights[c / PER_SCALE][2 * u + k];
                    multiply(state.out[c], a & both, b & both, a_odd & both, b_odd & both, w[0], w[1]);
                }
            }
    }
}

// Sums of codes as subnormal numbers, those of part p times 2^(bits * p), are that much smaller than sums of values.
__device__ __forceinline__ float factor_of(int channel_tile) {
    return (float)(1 << 24) / (1 << VB * (channel_tile / VALUE_TILES));
}

__device__ __forceinline__ void to_sums_of_values(State& state) {
#pragma unroll
    for (int c = 0; c < CHANNEL_TILES; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) state.out[c][e] *= factor_of(c);
}

// From sums of values times ``unit``.
__device__ __forceinline__ void to_sums_of_codes(State& state, float unit) {
#pragma unroll
    for (int c = 0; c < CHANNEL_TILES; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) state.out[c][e] *= 1 / (unit * factor_of(c));
}
