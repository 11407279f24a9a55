// From the states of warps, and of the blocks that share a row, to the output. A warp takes a query at a time, and of it
// every 32nd channel a thread.

#pragma once
#include "shared.cuh"
#include "softmax.cuh"

#if KIVI_OUT == 1  // bfloat16
typedef u16 Out;
__device__ __forceinline__ void write_one(Out* to, float x) {
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(*to) : "f"(x));
}
#elif KIVI_OUT == 2  // float16
typedef u16 Out;
__device__ __forceinline__ void write_one(Out* to, float x) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(*to) : "f"(x)); }
#else
typedef float Out;
__device__ __forceinline__ void write_one(Out* to, float x) { *to = x; }
#endif

constexpr int MERGED = 16;  // splits whose parts are on their way at a time

// A thread's channels of a query, and their log-sum-exp in base 2.
struct Part {
    float out[D / 32], lse;
};

// Put the warps' states side by side.
__device__ __forceinline__ void combine(State& state, Last& shared, int warp, int lane) {
    const int g = lane / 4, quarter = lane % 4;
    __syncthreads();  // records and tiles become states
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        const int query = 2 * quarter + e;
        float total = state.total[e], bias[VGROUPS];
#pragma unroll
        for (int lanes = 4; lanes < 32; lanes *= 2) total += __shfl_xor_sync(~0u, total, lanes);
#pragma unroll
        for (int v = 0; v < VGROUPS; ++v)
            bias[v] = VGROUPS > 1 ? __shfl_sync(~0u, state.bias[e], 4 * v + quarter) : state.bias[e];
        if (query < RATIO) {
            if (g == 0) shared.high[warp][query] = state.high[e], shared.total[warp][query] = total;
#pragma unroll
            for (int c = 0; c < CHANNEL_TILES; ++c) {
#pragma unroll
                for (int h = 0; h < 2; ++h)
                    shared.out[warp][query][16 * c + 8 * h + g] = state.out[c][e + 2 * h] + bias[c / PER_SCALE];
            }
        }
    }
    __syncthreads();
}

// A block's result.
__device__ __forceinline__ void combined(Part& to, const Last& shared, int query, int lane) {
    float high = shared.high[0][query], total = 0;
#pragma unroll
    for (int w = 1; w < WARPS; ++w) high = fmaxf(high, shared.high[w][query]);
#pragma unroll
    for (int i = 0; i < D / 32; ++i) to.out[i] = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        const float weight = exp2_of(shared.high[w][query] - high);
        total += shared.total[w][query] * weight;
#pragma unroll
        for (int i = 0; i < D / 32; ++i) to.out[i] += shared.out[w][query][32 * i + lane] * weight;
    }
#pragma unroll
    for (int i = 0; i < D / 32; ++i) to.out[i] /= total;
    to.lse = high + __log2f(total);
}

// What the ``live`` splits of a row and head left in scratch for a query.
__device__ __forceinline__ void merge(
    Part& to, const float* part_out, const float* part_lse, int stride_task, int live, int lane
) {
    float high = -1e30f, total = 0;
#pragma unroll
    for (int i = 0; i < D / 32; ++i) to.out[i] = 0;
    for (int first = 0; first < live; first += MERGED) {
        float lse[MERGED], out[MERGED][D / 32], top = high;
#pragma unroll
        for (int s = 0; s < MERGED; ++s) {
            const int split = min(first + s, live - 1);
            lse[s] = __ldcg(part_lse + split * stride_task);
#pragma unroll
            for (int i = 0; i < D / 32; ++i) out[s][i] = __ldcg(part_out + (i64)split * stride_task * D + 32 * i + lane);
        }
#pragma unroll
        for (int s = 0; s < MERGED; ++s) top = fmaxf(top, lse[s]);
        const float keep = exp2_of(high - top);
        high = top, total *= keep;
#pragma unroll
        for (int i = 0; i < D / 32; ++i) to.out[i] *= keep;
#pragma unroll
        for (int s = 0; s < MERGED; ++s) {
            const float weight = first + s < live ? exp2_of(lse[s] - high) : 0;
            total += weight;
#pragma unroll
            for (int i = 0; i < D / 32; ++i) to.out[i] += weight * out[s][i];
        }
    }
#pragma unroll
    for (int i = 0; i < D / 32; ++i) to.out[i] /= total;
}

// Rotate back and write.
__device__ __forceinline__ void write_out(Part& from, Out* out, int lane) {
    constexpr int ORDER = D & -D;  // helpers.hadamard_order
    float factor = 1;
    if constexpr (ROTATE) {
        factor = rsqrtf((float)ORDER);
#pragma unroll
        for (int apart = 1; apart < 32; apart *= 2)
#pragma unroll
            for (int i = 0; i < D / 32; ++i) {
                const float other = __shfl_xor_sync(~0u, from.out[i], apart);
                from.out[i] = lane & apart ? other - from.out[i] : from.out[i] + other;
            }
#pragma unroll
        for (int apart = 1; apart < ORDER / 32; apart *= 2)
#pragma unroll
            for (int i = 0; i < D / 32; ++i)
                if ((i & apart) == 0) {
                    const float a = from.out[i], b = from.out[i + apart];
                    from.out[i] = a + b, from.out[i + apart] = a - b;
                }
    }
#pragma unroll
    for (int i = 0; i < D / 32; ++i) write_one(out + 32 * i + lane, from.out[i] * factor);
}
