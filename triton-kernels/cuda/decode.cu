// Attention of one query a row over packed pages and rings, split over thread blocks: decode on NVIDIA GPUs from sm_80.
//
// Does what attend.py's kernel does for splits and merge.py's after it. A block takes a task of tasks.py: a share of a
// row, of which the last takes the newest tokens too, while its first pages come; of several the last to finish merges
// what all left in scratch. A warp takes whole blocks of the cache and carries its own online softmax, so that warps meet
// only at the end. Compiled at start by NVRTC with the sizes of a layout as macros; see decode.py for what it takes and
// when the Triton kernels serve instead.

#include "blocks.cuh"
#include "close.cuh"
#include "merge.cuh"
#include "newest.cuh"

// Whether a row reads of pages only what earlier steps closed. In the step of a prefix hit it may be on a block that this
// very step fills.
__device__ __forceinline__ bool is_settled(int length, int readable) { return length - 1 > readable; }

extern "C" __global__ void __launch_bounds__(WARPS * 32, KIVI_BLOCKS) kivi_decode(
    Out* __restrict__ out,                  // [rows, Hq, D]
    float* __restrict__ part_out,           // [tasks, Hq, D]
    float* __restrict__ part_lse,           // [tasks, Hq], base 2
    u32* __restrict__ arrived,              // [rows, H], zeros, left as zeros
    const int4* __restrict__ tasks,         // row, split, splits, groups of a split; see tasks.py
    const float* query,                     // [rows, Hq, D], contiguous
    u8* pages,                              // [blocks, H, record]
    const int* __restrict__ query_start,    // [rows + 1]
    const int* __restrict__ seq_lens,       // [rows]
    const int* __restrict__ block_table,    // [rows, blocks of a row]
    const int* __restrict__ slots,          // [rows]
    const int* __restrict__ readable_from,  // [rows]
    const u8* ring_key,                     // [slots, H, key_tokens, STAGED]
    const u8* ring_value,                   // likewise
    float scale_log2, int stride_out, int stride_out_head, int stride_page, int stride_table,
    int stride_key_slot, int stride_value_slot, int key_tokens, int value_tokens
) {
    extern __shared__ __align__(128) u8 memory[];
    Shared& shared = *(Shared*)memory;
    const int head = blockIdx.x, task = blockIdx.y, heads = gridDim.x;
    const int4 mine = tasks[task];
    const int row = mine.x, split = mine.y, live = mine.z, share = abs(mine.w);
    if (row < 0) {  // without waiting: where tasks fill the GPU, these find a place late and one after another
        if (task == 0) wait_for_launch_before();  // no block has a task; this launch must not end before that one
        return;
    }
    const i64 slot = slots[row];
    const int start = query_start[row], length = seq_lens[row], position = length - 1, readable = readable_from[row];
    const int closed = max(max(position - KEY_WINDOW, 0) / G * G, readable);
    const int rough = max(max(position - VALUE_WINDOW, 0) / VALUE_RESIDUAL * VALUE_RESIDUAL, readable);
    const int groups = closed / G;  // never past the quantized values
    const int tokens = min((split + 1) * share, groups) * G, first = split * share * G / T, end = (tokens + T - 1) / T;

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const i64 first_head = (i64)start * heads * RATIO + head * RATIO;
    const float* own = query + (first_head + lane / 4) * D;
    const bool asks = lane / 4 < RATIO;
    const int* table = block_table + (i64)row * stride_table;
    const u8* head_pages = pages + (i64)head * RECORD;
    const bool has_newest = split == live - 1;
    const u8* key_ring = ring_key + slot * stride_key_slot + (i64)head * key_tokens * STAGED;
    const u8* value_ring = ring_value + slot * stride_value_slot + (i64)head * value_tokens * STAGED;
    // The first of them goes to the warp that comes after the last with a block.
    const int newest = groups * G + TILE * ((warp + WARPS - (end - first) % WARPS) % WARPS);
    const bool settled = is_settled(length, readable);  // the launch before this one appends the step's tokens
    if (settled) start_blocks(shared, head_pages, table, stride_page, first + warp, end, !has_newest, warp, lane);
    if (BUFFERED && has_newest && threadIdx.x == 0) {
        prefetch_newest(key_ring, key_tokens, groups * G, length);
        prefetch_newest(value_ring, value_tokens, max(rough, groups * G), length);
    }
    const bool closes = CLOSES && mine.w < 0;
    wait_for_launch_before();
    if (!settled) start_blocks(shared, head_pages, table, stride_page, first + warp, end, !has_newest, warp, lane);
    load_query(shared.query, own, scale_log2, asks, warp, lane);
    __syncthreads();

    State state = {};
    state.high[0] = state.high[1] = -1e30f;  // finite: a warp may get no token
    if (has_newest) {
        add_newest(
            state, shared.buffers[warp].tile, shared.query, key_ring, key_tokens, value_ring, value_tokens, head_pages,
            table, stride_page, newest, rough, length, lane
        );
        to_sums_of_codes(state, EIGHTH);
        start_values(shared, head_pages, table, stride_page, first + warp, end, warp, lane);
    }
    add_blocks(state, shared, head_pages, table, stride_page, first + warp, end, tokens, warp, lane);
    to_sums_of_values(state);
    combine(state, shared.last, warp, lane);
    const int group = position / G, turns = max(end - first + WARPS - 1, 0) / WARPS;  // of the first warp's barrier
    if (BUFFERED && closes && threadIdx.x == 0)
        bring_group(shared.closing(), key_ring, key_tokens, group * G, &shared.keys_here[0]);

    out += (i64)start * stride_out + (i64)head * RATIO * stride_out_head;
    const int stride_task = heads * RATIO;
    part_out += ((i64)(task - split) * stride_task + head * RATIO) * D;
    part_lse += (task - split) * stride_task + head * RATIO;
    for (int n = warp; n < RATIO; n += WARPS) {
        Part part;
        combined(part, shared.last, n, lane);
        if (live == 1) {
            write_out(part, out + n * stride_out_head, lane);
        } else {
            if (lane == 0) part_lse[split * stride_task + n] = part.lse;
#pragma unroll
            for (int i = 0; i < D / 32; ++i)
                part_out[((i64)split * stride_task + n) * D + 32 * i + lane] = part.out[i];
        }
    }
    if (live > 1) {
        __syncthreads();
        if (threadIdx.x == 0) {
            u32* count = arrived + row * heads + head;
            shared.last.is_last = add_in_order(count, 1) == live - 1;
            if (shared.last.is_last) *count = 0;  // for the next launch
        }
        __syncthreads();
        for (int n = warp; shared.last.is_last && n < RATIO; n += WARPS) {
            Part part;
            merge(part, part_out + n * D, part_lse + n, stride_task, live, lane);
            write_out(part, out + n * stride_out_head, lane);
        }
    }
    if (closes) {
        u8* record = pages + (i64)__ldg(table + group * G / T) * stride_page + (i64)head * RECORD;
        close_group(
            shared.closing(), record, group % (T / G), key_ring, key_tokens, group * G, &shared.keys_here[0], turns & 1,
            warp, lane
        );
    }
}
