// What a warp has of its rows so far, and one step of online softmax.

#pragma once
#include "instructions.cuh"

struct State {
    float high[2], total[2];  // of a thread's two queries
    float bias[4];            // of zeros, as weigh leaves them
    float out[CHANNEL_TILES][4];
};

// One step of online softmax in base 2 over a thread's scores; the scores become probabilities.
template <int COUNT>
__device__ __forceinline__ void softmax_step(float (&scores)[COUNT][4], State& state) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        float high = state.high[e];
#pragma unroll
        for (int i = 0; i < COUNT; ++i) high = fmaxf(high, fmaxf(scores[i][e], scores[i][e + 2]));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 4));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 8));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 16));
        const float keep = exp2_of(state.high[e] - high);  // every chunk has a token that is seen
        state.high[e] = high;
        float total = 0;
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
#pragma unroll
            for (int h = 0; h < 4; h += 2) {
                scores[i][e + h] = exp2_of(scores[i][e + h] - high);
                total += scores[i][e + h];
            }
        state.total[e] = state.total[e] * keep + total;
        state.bias[e] *= keep;
        if (__any_sync(~0u, keep != 1.0f)) {
#pragma unroll
            for (int c = 0; c < CHANNEL_TILES; ++c) state.out[c][e] *= keep, state.out[c][e + 2] *= keep;
        }
    }
}
