// close.cuh on a CPU: each part by all threads of a block, one after another. Compiled with decode.py's macros.

#include "cuda.h"

#include "../../cuda/close.cuh"

extern "C" void close_group_of(u8* record, int number, const u8* ring, int ring_tokens, int first) {
    static Closing shared;
    std::memset(&shared, 0xEE, sizeof shared);
    Group group = {ring, first, ring_tokens};
    if (BUFFERED) {  // by the copy engine on a GPU
        for (int t = 0; t < G; ++t)
            std::memcpy((u8*)shared.tokens + t * STAGED, ring + (first + t) % ring_tokens * STAGED, STAGED);
        group = {(const u8*)shared.tokens, 0, 0};
    }
    for (int t = 0; t < 32 * WARPS; ++t) find_ranges(shared, group, t / 32, t % 32);
    for (int t = 0; t < 32 * WARPS; ++t) encode_ranges(shared, record, number, t);
    for (int t = 0; t < 32 * WARPS; ++t)
        write_codes(shared, record + KEY_CODES + number * G * KEY_BYTES, group, t / 32, t % 32);
}
