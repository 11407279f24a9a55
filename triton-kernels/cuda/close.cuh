// Closing a key group of a head: its tokens' keys, from the ring into their record; the bytes of reference.quantize for
// 4 bits without clipping. A thread takes four packed channels of a token at a time. Done by the block that attends to
// these tokens, because a multiprocessor waits for memory while it decodes and has instructions to spare.

#pragma once
#include "copies.cuh"
#include "instructions.cuh"

constexpr bool CLOSES = KIVI_CLOSES;          // else append.py does
constexpr int LANES = KEY_BYTES / 4;          // of a token
constexpr int AT_ONCE = 32 / LANES;           // tokens that a warp reads
constexpr int APART = 4;                      // of each other: in shared memory their words lie in other banks
constexpr float UNIT = 1.0f / (1 << KB);      // see quantize.py's _raised_codes
static_assert(!CLOSES || (KB == 4 && KEY_BYTES % 8 == 0), "a byte has two channels");
static_assert(!CLOSES || G % (APART * AT_ONCE * WARPS) == 0, "warps take equal shares of a group");

struct Closing {
    uint4 tokens[CLOSES && BUFFERED ? G * STAGED / 16 : 1];  // a group's in the ring
    float low[CLOSES ? WARPS * AT_ONCE : 1][D], high[CLOSES ? WARPS * AT_ONCE : 1][D];
    float zero[CLOSES ? D : 1], inverse[CLOSES ? D : 1];  // the inverse in units
};

// The group's keys, where they are read from: in shared memory, brought all at a time, or in the ring.
struct Group {
    const u8* tokens;
    int first, ring_tokens;

    __device__ __forceinline__ const u8* operator[](int t) const {
        return tokens + (BUFFERED ? t : (first + t) % ring_tokens) * STAGED;
    }
};

// Ask for the group's tokens, by one thread; ``barrier`` tells when they have come. Eight tokens are whole 16 bytes, and a
// ring is whole eights.
__device__ __forceinline__ void bring_group(Closing& shared, const u8* ring, int ring_tokens, int first, u64* barrier) {
    const int begin = first % ring_tokens, before_turn = min(G, ring_tokens - begin);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // records lay here
    expect(barrier, G * STAGED);
    copy(shared.tokens, ring + begin * STAGED, before_turn * STAGED, barrier);
    if (before_turn < G) copy((u8*)shared.tokens + before_turn * STAGED, ring, (G - before_turn) * STAGED, barrier);
}

// The n-th token of a thread.
__device__ __forceinline__ int token_of(int n, int warp, int sub) {
    return ((n / APART * WARPS + warp) * AT_ONCE + sub) * APART + n % APART;
}

constexpr int OWN = G / (AT_ONCE * WARPS);  // tokens of a thread

constexpr float RAISE = (1 << 23) + 128;  // see staging.py's _raise_codes

// A thread's channels of a token: four from 4 * l on in each half. Codes are biased by 128.
struct Keys {
    u32 words[2];
    float units[2];
};

__device__ __forceinline__ Keys load_token(const u8* from, int l) {
    Keys keys;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int channel = half * KEY_BYTES + 4 * l;
        keys.words[half] = *(const u32*)(from + channel) ^ 0x80808080;
        keys.units[half] = __uint_as_float((u32)from[D + channel / 8] << 23);
    }
    return keys;
}

// The code plus RAISE.
__device__ __forceinline__ float raised_code(u32 word, int i) {
    return __uint_as_float(__byte_perm(word, 0x4B000000, 0x7440 + i));
}

// What each of a warp's lanes sees of the range of its channels. First of the three parts, with a barrier between.
__device__ __forceinline__ void find_ranges(Closing& shared, const Group& group, int warp, int lane) {
    const int l = lane % LANES, sub = lane / LANES;
    if (sub >= AT_ONCE) return;
    float low[2][4], high[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < 4; ++i) low[half][i] = 3.4e38f, high[half][i] = -3.4e38f;
#pragma unroll 4
    for (int n = 0; n < OWN; ++n) {
        const Keys keys = load_token(group[token_of(n, warp, sub)], l);
#pragma unroll
        for (int half = 0; half < 2; ++half)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float x = __fmaf_rn(raised_code(keys.words[half], i), keys.units[half], -RAISE * keys.units[half]);
                low[half][i] = fminf(low[half][i], x), high[half][i] = fmaxf(high[half][i], x);
            }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int channel = half * KEY_BYTES + 4 * l + i;
            shared.low[warp * AT_ONCE + sub][channel] = low[half][i];
            shared.high[warp * AT_ONCE + sub][channel] = high[half][i];
        }
}

// Zeros and scales of the channels, as reference.encode rounds them, into the record and for the codes.
__device__ __forceinline__ void encode_ranges(Closing& shared, u8* record, int group, int thread) {
    constexpr int SHIFT = (127 - 15) << 23;
    for (int channel = thread; channel < D; channel += 32 * WARPS) {
        float low = shared.low[0][channel], high = shared.high[0][channel];
        for (int i = 1; i < WARPS * AT_ONCE; ++i)
            low = fminf(low, shared.low[i][channel]), high = fmaxf(high, shared.high[i][channel]);
        const float step = __fmul_rn(__fsub_rn(high, low), 1.0f / ((1 << KB) - 1));
        const int bits = __float_as_int(fminf(fmaxf(low, -65408.0f), 65408.0f));
        int magnitude = min((((bits & 0x7FFFFFFF) + (1 << 14)) >> 15) - (SHIFT >> 15), 0x1EFF);
        if (magnitude < 1 << 8) magnitude = 0;
        int code = __float_as_int(fminf(fmaxf(step, 0.00006103515625f), 64512.0f));
        code = min(((code + (1 << 17)) >> 18) - (SHIFT >> 18), 0x3DF);
        const int zero_bits = (bits >> 16 & 0x8000) | magnitude << 2 | (code & 3);
        *(u16*)(record + KEY_ZEROS + 2 * (group * D + channel)) = (u16)zero_bits;
        record[KEY_SCALES + group * D + channel] = (u8)(code >> 2);
        const int zero = magnitude ? (magnitude << 15) + SHIFT : 0;
        shared.zero[channel] = __int_as_float(zero | (bits & (int)0x80000000));
        shared.inverse[channel] = __fdiv_rn(1.0f, __int_as_float((code << 18) + SHIFT)) * UNIT;
    }
}

__device__ __forceinline__ void write_codes(
    const Closing& shared, u8* codes, const Group& group, int warp, int lane
) {
    constexpr u32 LOW = (1 << KB) - 1;
    const int l = lane % LANES, sub = lane / LANES;
    if (sub >= AT_ONCE) return;
    float zero[2][4], inverse[2][4];
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            zero[half][i] = shared.zero[half * KEY_BYTES + 4 * l + i];
            inverse[half][i] = shared.inverse[half * KEY_BYTES + 4 * l + i];
        }
#pragma unroll 4
    for (int n = 0; n < OWN; ++n) {
        const int t = token_of(n, warp, sub);
        const Keys keys = load_token(group[t], l);
        u32 bytes[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            u32 raised[2];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                // The product is exact, so that it is rounded once as the reference's difference is.
                const float code = raised_code(keys.words[half], i) - RAISE;
                const float above = __fmaf_rn(code, keys.units[half], -zero[half][i]);
                const float place = __saturatef(__fadd_rn(__fmul_rn(above, inverse[half][i]), 0.5f * UNIT));
                const float up = (1 << (23 - KB * half)) * UNIT;  // the code lies KB * half bits up in the mantissa
                raised[half] = __float_as_uint(__fadd_rz(fminf(place, ((1 << KB) - 0.5f) * UNIT), up));
            }
            bytes[i] = (raised[0] & LOW) | (raised[1] & ~LOW);
        }
        const u32 packed =
            __byte_perm(__byte_perm(bytes[0], bytes[1], 0x0040), __byte_perm(bytes[2], bytes[3], 0x0040), 0x5410);
        *(u32*)(codes + t * KEY_BYTES + 4 * l) = packed;
    }
}

// ``number`` of the record's groups; ``first`` is the position of its first token. ``brought`` is bring_group's barrier,
// after as many uses as ``parity`` is even or odd with.
__device__ __forceinline__ void close_group(
    Closing& shared, u8* record, int number, const u8* ring, int ring_tokens, int first, u64* brought, u32 parity,
    int warp, int lane
) {
    if (BUFFERED) {
        wait(brought, parity);
    } else {
        __syncthreads();  // the block is done with what lay here
    }
    const Group group = BUFFERED ? Group{(const u8*)shared.tokens, 0, 0} : Group{ring, first, ring_tokens};
    find_ranges(shared, group, warp, lane);
    __syncthreads();
    encode_ranges(shared, record, number, 32 * warp + lane);
    __syncthreads();
    write_codes(shared, record + KEY_CODES + number * G * KEY_BYTES, group, warp, lane);
}
