// Shared memory of a thread block.

#pragma once
#include "sizes.cuh"

// A record as copied for a warp. The zeros and scales of the next one come while this one's are still read.
struct Buffer {
    u8 keys[BUFFERED ? T * KEY_BYTES : 16], values[BUFFERED ? T * VALUE_ROWS : 16], pairs[2][BUFFERED ? PAIRS : 16];
};

struct Last {
    float out[WARPS][QUERIES][D], high[WARPS][QUERIES], total[WARPS][QUERIES];
    float merged[RATIO][D];
    int is_last;
};

// A warp's own.
union Work {
    Buffer buffer;
    u16 tile[16][TILE_STRIDE];  // of newest tokens, float16
};

struct Shared {
    u32 query[D / 32][32][4];  // of a warp's lanes; see load_query
    u64 keys_here[WARPS], values_here[WARPS];
    union {
        Work work[WARPS];
        Last last;
    };
};
static_assert(sizeof(Shared) == KIVI_SHARED, "decode.py asks for the size that a block takes");
