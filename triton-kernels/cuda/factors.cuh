// The scales of a step's keys and values, and the keys' zeros, taken apart by a warp together: eight threads need the
// same, and to take them apart costs more than to read them from shared memory.

#pragma once
#include "instructions.cuh"

// Two zeros of layout.py as float16.
__device__ __forceinline__ u32 zeros_of(u32 zero_bits) { return zero_bits & 0xFFFCFFFC; }

// Their scales; ``bytes`` has a scale's upper bits in each half.
__device__ __forceinline__ u32 scales_of(u32 zero_bits, u32 bytes) {
    return bytes << 7 | (zero_bits << 5 & 0x00600060);
}

// Scales as float16, in the order in which threads read them: four words of quarter lane % 4 at a time.
struct Factors {
    u32 keys[KEY_GROUPS][D / 32][4][4];    // of words 2i and 2i + 1 of a token's codes, even channels, odd ones
    u32 values[VGROUPS][STEP / 32][4][4];  // of row tiles 2i and 2i + 1, both pairs of tokens each
};

// The channel of a key group where word ``word`` of a quarter begins; see load_query for which it holds.
__device__ __forceinline__ int channel_of(int word, int quarter) {
    return word / KEY_WORDS * KEY_BYTES + quarter * 4 * KEY_WORDS + word % KEY_WORDS * 4;
}

__device__ __forceinline__ void take_apart_keys(Factors& to, const u8* pairs, int group, int lane) {
    const int word = lane / 4, quarter = lane % 4, channel = channel_of(word, quarter);
    if (word >= D / 16) return;
#pragma unroll
    for (int n = 0; n < KEY_GROUPS; ++n) {
        const int at = (group + n) * D + channel;
        const uint2 zeros = *(const uint2*)(pairs + 2 * at);
        const u32 bytes = *(const u32*)(pairs + KEY_SCALES - KEY_ZEROS + at);
        const u32 even = __byte_perm(zeros.x, zeros.y, 0x5410), odd = __byte_perm(zeros.x, zeros.y, 0x7632);
        *(uint2*)&to.keys[n][word / 2][quarter][word % 2 * 2] =
            make_uint2(scales_of(even, __byte_perm(bytes, 0, 0x4240)), scales_of(odd, __byte_perm(bytes, 0, 0x4341)));
    }
}

// A row tile pairs the tokens 2i + h of two scoring threads; see score. ``token`` begins the chunk of the thread's tile.
__device__ __forceinline__ void take_apart_values(Factors& to, const u8* pairs, int token, int lane) {
    const int tile = lane / 4, quarter = lane % 4;
    if (tile >= STEP / 16) return;
    const int at = token + 2 * EACH * quarter + tile % ROW_TILES * 2;
#pragma unroll
    for (int v = 0; v < VGROUPS; ++v) {
        const u8* zeros = pairs + VALUE_ZEROS - KEY_ZEROS + 2 * (v * T + at);
        const u8* bytes = pairs + VALUE_SCALES - KEY_ZEROS + v * T + at;
        const u32 a = *(const u32*)zeros, b = *(const u32*)(zeros + 2 * EACH);
        const u32 x = *(const u16*)bytes, y = *(const u16*)(bytes + EACH);
        *(uint2*)&to.values[v][tile / 2][quarter][tile % 2 * 2] = make_uint2(
            scales_of(__byte_perm(a, b, 0x5410), __byte_perm(x, y, 0x2420)),
            scales_of(__byte_perm(a, b, 0x7632), __byte_perm(x, y, 0x2521))
        );
    }
}
