// Shared memory of a thread block.

#pragma once
#include "close.cuh"
#include "factors.cuh"
#include "sizes.cuh"

// A record as copied for a warp. The zeros and scales of the next one come while this one's are still read.
struct Buffer {
    u8 keys[BUFFERED ? T * KEY_BYTES : 16], even_pairs[BUFFERED ? PAIRS : 16];
    // Of newest tokens, float16, before the first values come.
    union {
        struct {
            u8 values[BUFFERED ? T * VALUE_ROWS : 16], odd_pairs[BUFFERED ? PAIRS : 16];
        };
        u16 tile[TILE][TILE_STRIDE];
    };

    __device__ __forceinline__ u8* pairs(int turn) { return turn ? odd_pairs : even_pairs; }
};

// Rows four words apart in the banks, so that a warp's threads write a state without waiting for each other.
struct Last {
    float out[WARPS][RATIO][D + 4], high[WARPS][RATIO], total[WARPS][RATIO];
    int is_last;
};

constexpr int CLOSING_AT = BUFFERED ? (sizeof(Last) + 127) / 128 * 128 : 0;

struct Shared {
    u32 query[D / 32][32][4];  // of a warp's lanes; see load_query
    Factors factors[WARPS];    // of a warp each
    u64 keys_here[WARPS], values_here[WARPS];
    union {
        Buffer buffers[WARPS];  // of a warp each
        Last last;
        u8 with_closing[CLOSES ? CLOSING_AT + sizeof(Closing) : 1];
    };

    // Instead of records, and where tokens are copied, beside the states, which are read meanwhile.
    __device__ __forceinline__ Closing& closing() { return *(Closing*)((u8*)buffers + CLOSING_AT); }
};
static_assert(sizeof(Shared) == KIVI_SHARED, "decode.py asks for the size that a block takes");
