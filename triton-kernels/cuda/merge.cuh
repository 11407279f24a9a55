// From the states of warps, and of the blocks that share a row, to the output.

#pragma once
#include "shared.cuh"
#include "softmax.cuh"

#if KIVI_OUT == 1  // bfloat16
typedef u16 Out;
__device__ __forceinline__ void write_two(Out* to, float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    *(u32*)to = packed;
}
#elif KIVI_OUT == 2  // float16
typedef u16 Out;
__device__ __forceinline__ void write_two(Out* to, float low, float high) { *(u32*)to = pack_half2(low, high); }
#else
typedef float Out;
__device__ __forceinline__ void write_two(Out* to, float low, float high) { to[0] = low, to[1] = high; }
#endif

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
        for (int v = 0; v < VGROUPS; ++v) {
            bias[v] = state.bias[v][e];
#pragma unroll
            for (int lanes = 4; lanes < 32; lanes *= 2) bias[v] += __shfl_xor_sync(~0u, bias[v], lanes);
        }
        if (g == 0) shared.high[warp][query] = state.high[e], shared.total[warp][query] = total;
#pragma unroll
        for (int c = 0; c < CHANNEL_TILES; ++c) {
#pragma unroll
            for (int h = 0; h < 2; ++h)
                shared.out[warp][query][16 * c + 8 * h + g] = state.out[c][e + 2 * h] + bias[c / PER_SCALE];
        }
    }
    __syncthreads();
}

// One channel of a block's result, and its log-sum-exp in base 2.
__device__ __forceinline__ float2 combined(const Last& shared, int query, int channel) {
    float high = shared.high[0][query], total = 0, sum = 0;
#pragma unroll
    for (int w = 1; w < WARPS; ++w) high = fmaxf(high, shared.high[w][query]);
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        const float weight = exp2_of(shared.high[w][query] - high);
        total += shared.total[w][query] * weight;
        sum += shared.out[w][query][channel] * weight;
    }
    return make_float2(sum / total, high + __log2f(total));
}

// Merge what the ``live`` splits of a row and head left in scratch.
__device__ __forceinline__ void merge(
    Last& shared, const float* part_out, const float* part_lse, int stride_task, int live
) {
    for (int i = threadIdx.x; i < RATIO * D; i += WARPS * 32) {
        const int query = i / D, channel = i % D;
        const float *outs = part_out + query * D + channel, *lses = part_lse + query;
        float high = -1e30f, total = 0, sum = 0;
#pragma unroll 8
        for (int split = 0; split < live; ++split) high = fmaxf(high, __ldcg(lses + split * stride_task));
#pragma unroll 8
        for (int split = 0; split < live; ++split) {
            const float weight = exp2_of(__ldcg(lses + split * stride_task) - high);
            total += weight, sum += weight * __ldcg(outs + (i64)split * stride_task * D);
        }
        shared.merged[query][channel] = sum / total;
    }
}

// Rotate ``merged`` back and write it.
__device__ __forceinline__ void write_out(Last& shared, Out* out, int stride_head) {
    constexpr int ORDER = D & -D;  // helpers.hadamard_order
    float factor = 1;
    __syncthreads();
    if constexpr (ROTATE) {
        factor = rsqrtf((float)ORDER);
#pragma unroll
        for (int apart = 1; apart < ORDER; apart *= 2) {
            for (int i = threadIdx.x; i < RATIO * D / 2; i += WARPS * 32) {
                float* at = &shared.merged[0][0] + i / apart * 2 * apart + i % apart;
                const float a = at[0], b = at[apart];
                at[0] = a + b, at[apart] = a - b;
            }
            __syncthreads();
        }
    }
    for (int i = threadIdx.x; i < RATIO * D / 2; i += WARPS * 32) {
        const int query = i / (D / 2), channel = i % (D / 2) * 2;
        write_two(
            out + (i64)query * stride_head + channel, shared.merged[query][channel] * factor,
            shared.merged[query][channel + 1] * factor
        );
    }
}
