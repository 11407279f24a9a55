// A warp's blocks of a row. Where shared memory is large enough, the copy engine brings its next record while it works
// on one: the keys' half as soon as the scores are done, the values' when the keys have come.

#pragma once
#include "copies.cuh"
#include "packed.cuh"
#include "shared.cuh"

// A step of a warp: the tokens from ``first`` to ``here`` of a record, STEP of them at most.
struct Span {
    int first, here;

    // Whether the row has the step's chunk c. What lies in its place may be anything.
    __device__ __forceinline__ bool has(int c) const { return STEP == CHUNK || first + c * CHUNK < here; }
};

// Zeros and scales of a step; ``pairs`` are all of its record. Where a key group takes several steps, its first asks.
__device__ __forceinline__ void start_step(
    float2& bias, Factors& factors, const u32 (&query)[D / 32][32][4], const u8* pairs, Span span, int lane
) {
    const bool begins = STEP >= G || span.first % G == 0;
    __syncwarp();  // all have read the last step's
    if (begins) take_apart_keys(factors, pairs, span.first / G, lane);
    const int c = lane / 4 / ROW_TILES;
    take_apart_values(factors, pairs, span.first + (span.has(c) ? c : 0) * CHUNK, lane);
    if (begins) bias = zeros_times(query, pairs, span.first / G, lane);
    __syncwarp();
}

// Of chunk c of a step.
__device__ __forceinline__ void score_chunk(
    float (&scores)[ROW_TILES][4], Query& folded, float2 bias, const Factors& factors,
    const u32 (&query)[D / 32][32][4], const u8* keys, Span span, int c, int lane
) {
    const int token = span.first + c * CHUNK, n = c * CHUNK / G;
    if (CHUNK == G || token % G == 0) fold(folded, query, factors, n, lane);  // finite, whatever the scales
    bias = bias_of(bias, n, lane);
    if (!span.has(c)) bias.x = bias.y = -__int_as_float(0x7F800000);
    score(scores, folded, bias, keys, token, lane);
}

__device__ __forceinline__ void add_chunk(
    State& state, float (&scores)[ROW_TILES][4], const u8* values, const u8* pairs, const Factors& factors, Span span,
    int c, int lane
) {
    Weights weights;
    weigh(weights, state, scores, pairs, factors, c, span.first + (span.has(c) ? c : 0) * CHUNK, lane);
    add_values(state, weights, values, span.first + c * CHUNK, lane);
}

__device__ __forceinline__ void copy_keys(Buffer& buffer, int turn, const u8* record, u64* barrier) {
    expect(barrier, sizeof(buffer.keys) + PAIRS);
    copy_once(buffer.keys, record + KEY_CODES, sizeof(buffer.keys), barrier);
    copy_once(buffer.pairs(turn), record + KEY_ZEROS, PAIRS, barrier);
}

__device__ __forceinline__ void copy_values(Buffer& buffer, const u8* record, u64* barrier) {
    expect(barrier, sizeof(buffer.values));
    copy_once(buffer.values, record + VALUE_CODES, sizeof(buffer.values), barrier);
}

// Ask for a warp's first record, ``block`` of those before ``end``; its values now or with start_values.
__device__ __forceinline__ void start_blocks(
    Shared& shared, const u8* head_pages, const int* table, int stride_page, int block, int end, bool values, int warp,
    int lane
) {
    if (!BUFFERED || lane != 0) return;
    u64 *keys_here = &shared.keys_here[warp], *values_here = &shared.values_here[warp];
    start_barrier(keys_here), start_barrier(values_here);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    if (block >= end) return;
    const u8* record = head_pages + (i64)__ldg(table + block) * stride_page;
    copy_keys(shared.buffers[warp], 0, record, keys_here);
    if (values) copy_values(shared.buffers[warp], record, values_here);
}

__device__ __forceinline__ void start_values(
    Shared& shared, const u8* head_pages, const int* table, int stride_page, int block, int end, int warp, int lane
) {
    if (!BUFFERED || lane != 0 || block >= end) return;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // the warp has read a tile there
    const u8* record = head_pages + (i64)__ldg(table + block) * stride_page;
    copy_values(shared.buffers[warp], record, &shared.values_here[warp]);
}

// A warp's share of the blocks [block, end), every WARPS-th; quantized tokens end at ``tokens``. After load_query.
__device__ __forceinline__ void add_blocks(
    State& state, Shared& shared, const u8* head_pages, const int* table, int stride_page, int block, int end,
    int tokens, int warp, int lane
) {
    Query folded;
    float2 bias;
    Factors& factors = shared.factors[warp];
    if constexpr (!BUFFERED) {
        int id = block < end ? __ldg(table + block) : 0;
        for (; block < end; block += WARPS) {
            const u8* record = head_pages + (i64)id * stride_page;
            if (block + WARPS < end) id = __ldg(table + block + WARPS);
            const int here = T == G ? T : min(T, tokens - block * T);
            for (int token = 0; token < here; token += CHUNK) {
                float scores[ROW_TILES][4];
                const u8* pairs = record + KEY_ZEROS;
                const Span span = {token, here};
                start_step(bias, factors, shared.query, pairs, span, lane);
                score_chunk(scores, folded, bias, factors, shared.query, record + KEY_CODES, span, 0, lane);
                softmax_step(scores, state);
                add_chunk(state, scores, record + VALUE_CODES, pairs, factors, span, 0, lane);
            }
        }
    } else {
        Buffer& buffer = shared.buffers[warp];
        u64 *keys_here = &shared.keys_here[warp], *values_here = &shared.values_here[warp];
        int id = block + WARPS < end ? __ldg(table + block + WARPS) : 0;
        const u8 *record = nullptr, *next;
        for (u32 turn = 0; block < end; block += WARPS, turn ^= 1, record = next) {
            const bool asks = lane == 0 && block + WARPS < end;
            next = head_pages + (i64)id * stride_page;
            if (block + 2 * WARPS < end) id = __ldg(table + block + 2 * WARPS);
            const int here = T == G ? T : min(T, tokens - block * T);
            wait(keys_here, turn);
            // Not sooner: more bytes under way at a time come more slowly.
            if (lane == 0 && record) copy_values(buffer, record, values_here);
            for (int token = 0; token < here; token += STEP) {
                float scores[STEP / CHUNK][ROW_TILES][4];
                const u8* pairs = buffer.pairs(turn);
                const Span span = {token, here};
                start_step(bias, factors, shared.query, pairs, span, lane);
#pragma unroll
                for (int c = 0; c < STEP / CHUNK; ++c)
                    score_chunk(scores[c], folded, bias, factors, shared.query, buffer.keys, span, c, lane);
                if (token + STEP >= here) {
                    __syncwarp();  // all have read the keys
                    if (asks) copy_keys(buffer, turn ^ 1, next, keys_here);
                }
                softmax_step((float(&)[STEP / 16][4])scores, state);
                if (token == 0) wait(values_here, turn);
#pragma unroll
                for (int c = 0; c < STEP / CHUNK; ++c)
                    add_chunk(state, scores[c], buffer.values, pairs, factors, span, c, lane);
            }
            __syncwarp();  // all have read the values
        }
    }
}
