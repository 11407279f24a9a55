// Tokens that are not quantized yet, out of the rings: keys straight into registers, values through shared memory, both
// as float16 of an eighth of what they are, so that a ring's code needs one instruction (exact_half2).

#pragma once
#include "copies.cuh"
#include "packed.cuh"
#include "softmax.cuh"

constexpr float EIGHTH = 0.125f;

// The power of two that a ring's exponent stands for, and what exact_half2 takes off.
struct Unit {
    u32 factor, offset;

    __device__ __forceinline__ explicit Unit(u32 exponent) {
        const float unit = __uint_as_float(exponent << 23);
        factor = pack_half2(unit, unit);
        offset = times_half2(factor, 0xD880D880u);  // -144
    }
};

// The first and the third byte of a word, for exact_half2: one instruction, of which a compiler makes two.
__device__ __forceinline__ u32 raised_codes(u32 word) {
    u32 raised;
    asm("lop3.b32 %0, %1, %2, %3, 0x6A;" : "=r"(raised) : "r"(word), "r"(0x00FF00FFu), "r"(0x58805880u));  // a & b ^ c
    return raised;
}

// Two codes of a ring, each with its sign bit flipped behind the byte 0x58 (an eighth of 1024 + 128 + code as float16),
// times a unit. Of the largest unit, 2^8, all that comes between is finite still.
__device__ __forceinline__ u32 exact_half2(u32 raised, const Unit& unit) {
    asm("fma.rn.f16x2 %0, %0, %1, %2;" : "+r"(raised) : "r"(unit.factor), "r"(unit.offset));
    return raised;
}

// A warp's tiles of a ring, every WARPS-th. A ring is whole tiles, and a tile begins at a multiple of them.
struct RingTiles {
    const u8* ring;
    int at, stride, size;  // bytes

    __device__ __forceinline__ RingTiles(const u8* ring, int ring_tokens, int first) : ring(ring) {
        at = first % ring_tokens * STAGED, stride = TILE * WARPS % ring_tokens * STAGED, size = ring_tokens * STAGED;
    }

    __device__ __forceinline__ void advance() {
        at += stride;
        if (at >= size) at -= size;
    }

    __device__ __forceinline__ const u8* here() const { return ring + at; }
};

constexpr int STAGED_WORDS = STAGED % 16 == 0 ? 4 : STAGED % 8 == 0 ? 2 : 1;  // that a ring's tokens are aligned to

// Eight channels share an exponent; those of two words begin at a multiple of eight.
constexpr int SHARE = KEY_WORDS % 2 == 0 ? 2 : 1;  // words of a thread that share one

// A thread's channels, as of packed keys, of tokens lane / 4 and lane / 4 + 8 of a tile.
struct StagedKeys {
    u32 codes[2][KEY_PARTS][KEY_WORDS], exponents[2][KEY_PARTS];  // a byte for each exponent
};

__device__ __forceinline__ void load_keys(StagedKeys& to, const u8* tile, int lane) {
    const u8* from = tile + lane / 4 * STAGED;
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int part = 0; part < KEY_PARTS; ++part) {
            const int channel = channel_of(part * KEY_WORDS, lane % 4), token = 8 * h * STAGED;
            load_words<STAGED_WORDS>(to.codes[h][part], from + token + channel);
            u32& exponents = to.exponents[h][part];
            if constexpr (KEY_WORDS == 4) {
                exponents = *(const u16*)(from + token + D + channel / 8);
            } else {
                exponents = 0;
#pragma unroll
                for (int i = 0; i < KEY_WORDS / SHARE; ++i)
                    exponents |= (u32)from[token + D + (channel + 4 * SHARE * i) / 8] << 8 * i;
            }
        }
}

// The queries of load_query without what it divides by.
__device__ __forceinline__ void exact_query(Query& to, const u32 (&query)[D / 32][32][4], int lane) {
#pragma unroll
    for (int part = 0; part < KEY_PARTS; ++part)
#pragma unroll
        for (int s = 0; s < KEY_WORDS; ++s) {
            const int word = part * KEY_WORDS + s;
            const u32 factor = pack_half2(1 << KB * part, 1 << KB * part);
#pragma unroll
            for (int i = 0; i < 2; ++i)
                to[part][s][i] = finite_half2(times_half2(query[word / 2][lane][word % 2 * 2 + i], factor));
        }
}

__device__ __forceinline__ void score_exact(float (&scores)[4], const StagedKeys& keys, const Query& query) {
#pragma unroll
    for (int part = 0; part < KEY_PARTS; ++part)
#pragma unroll
        for (int shared = 0; shared < KEY_WORDS / SHARE; ++shared) {
            const Unit units[2] = {
                Unit(keys.exponents[0][part] >> 8 * shared & 0xFF), Unit(keys.exponents[1][part] >> 8 * shared & 0xFF)
            };
#pragma unroll
            for (int s = shared * SHARE; s < (shared + 1) * SHARE; ++s) {
                u32 a[2][2];
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    const u32 word = keys.codes[h][part][s];
                    a[h][0] = exact_half2(raised_codes(word), units[h]);
                    a[h][1] = exact_half2(raised_codes(word >> 8), units[h]);
                }
                multiply(scores, a[0][0], a[1][0], a[0][1], a[1][1], query[part][s][0], query[part][s][1]);
            }
        }
#pragma unroll
    for (int e = 0; e < 4; ++e) scores[e] *= 1 / EIGHTH;
}

// The i-th piece, of 16 channels, that a thread takes of a tile's values.
struct Piece {
    int token, piece;

    __device__ __forceinline__ Piece(int i, int lane) {
        constexpr int PIECES = D / 16;  // of a token
        if (32 % PIECES == 0) {  // the same, said so that what differs between a thread's pieces is a constant
            token = 32 / PIECES * i + lane / PIECES, piece = lane % PIECES;
        } else {
            token = (32 * i + lane) / PIECES, piece = (32 * i + lane) % PIECES;
        }
    }
};

// A thread's pieces on their way to shared memory.
struct StagedValues {
    u32 codes[D / 32][4], exponents[D / 32];
};

// Tokens past ``count`` become zeros, by their exponents: what lies there is not told to be finite.
__device__ __forceinline__ void load_values(StagedValues& to, const u8* tile, int count, int lane) {
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
        const Piece own(i, lane);
        const u8* from = tile + own.token * STAGED;
        load_words<STAGED_WORDS>(to.codes[i], from + 16 * own.piece);
        const u32 exponents = *(const u16*)(from + D + 2 * own.piece);
        to.exponents[i] = own.token < count ? exponents : 0;
    }
}

__device__ __forceinline__ void write_tile(u16 (*tile)[TILE_STRIDE], const StagedValues& from, int lane) {
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
        const Piece own(i, lane);
        const Unit units[2] = {Unit(from.exponents[i] & 0xFF), Unit(from.exponents[i] >> 8)};
        u32 out[8];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const u32 word = from.codes[i][e] ^ 0x80808080;
            out[2 * e] = exact_half2(__byte_perm(word, 0x58, 0x4140), units[e / 2]);
            out[2 * e + 1] = exact_half2(__byte_perm(word, 0x58, 0x4342), units[e / 2]);
        }
        uint4* to = (uint4*)&tile[own.token][16 * own.piece];
        to[0] = make_uint4(out[0], out[1], out[2], out[3]);
        to[1] = make_uint4(out[4], out[5], out[6], out[7]);
    }
}

// Sixteen quantized values likewise.
__device__ __forceinline__ void stage_values(u16 (*tile)[TILE_STRIDE], const u8* record, int token, int lane) {
#pragma unroll 1
    for (int i = lane; i < D; i += 32) {
        const int row = i % TILE, piece = i / TILE, part = 16 * piece / VALUE_ROWS, at = token + row;
        const int v = 16 * piece / (D / VGROUPS);
        const u32 bits = *(const u16*)(record + VALUE_ZEROS + 2 * (v * T + at));
        const float zero = floats_of(zeros_of(bits)).x * EIGHTH;
        const float scale = floats_of(scales_of(bits, record[VALUE_SCALES + v * T + at])).x * EIGHTH;
        const u8* codes = record + VALUE_CODES + 16 * piece % VALUE_ROWS * T + at;
        u32 out[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            const u32 low = codes[2 * e * T] >> VB * part & ((1 << VB) - 1);
            const u32 high = codes[(2 * e + 1) * T] >> VB * part & ((1 << VB) - 1);
            out[e] = pack_half2(low * scale + zero, high * scale + zero);
        }
        uint4* to = (uint4*)&tile[row][16 * piece];
        to[0] = make_uint4(out[0], out[1], out[2], out[3]);
        to[1] = make_uint4(out[4], out[5], out[6], out[7]);
    }
}

// Asks for a ring's tokens from ``first`` to ``length`` in whole tiles, by one thread.
__device__ __forceinline__ void prefetch_newest(const u8* ring, int ring_tokens, int first, int length) {
    const int tokens = (length - first + TILE - 1) / TILE * TILE;
    if (tokens <= 0) return;
    const int begin = first % ring_tokens, before_turn = min(tokens, ring_tokens - begin);
    prefetch(ring + begin * STAGED, before_turn * STAGED);
    if (before_turn < tokens) prefetch(ring, (tokens - before_turn) * STAGED);
}

// A warp's share of the newest tokens: tiles from the token ``first`` on, every WARPS-th. Their keys lie in the ring;
// their values there or, before ``rough``, in pages. Values are summed as eighths.
__device__ __forceinline__ void add_newest(
    State& state, u16 (*tile)[TILE_STRIDE], const u32 (&query)[D / 32][32][4], const u8* key_ring, int key_tokens,
    const u8* value_ring, int value_tokens, const u8* head_pages, const int* table, int stride_page, int first,
    int rough, int length, int lane
) {
    if (first >= length) return;
    RingTiles key_tiles(key_ring, key_tokens, first), value_tiles(value_ring, value_tokens, first);
    StagedKeys keys;
    StagedValues values;
    Query own;
    load_keys(keys, key_tiles.here(), lane);
    load_values(values, value_tiles.here(), length - first, lane);
    exact_query(own, query, lane);
#pragma unroll 1
    for (int next; first < length; first = next) {
        next = first + TILE * WARPS;
        key_tiles.advance(), value_tiles.advance();
        float scores[1][4] = {};
        score_exact(scores[0], keys, own);
        if (next < length) load_keys(keys, key_tiles.here(), lane);
        if (first < rough)
            stage_values(tile, head_pages + (i64)__ldg(table + first / T) * stride_page, first % T, lane);
        else
            write_tile(tile, values, lane);
        __syncwarp();
        if (next < length) load_values(values, value_tiles.here(), length - next, lane);
#pragma unroll
        for (int e = 0; e < 4; ++e)
            if (first + lane / 4 + e / 2 * 8 >= length) scores[0][e] = -__int_as_float(0x7F800000);
        softmax_step(scores, state);
        u32 weights[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) weights[h] = transposed(pack_half2(scores[0][2 * h], scores[0][2 * h + 1]));
#pragma unroll
        for (int c = 0; c < CHANNEL_TILES; ++c) {
            u32 a[4];
            load_transposed(a, &tile[lane % 8 + lane / 16 * 8][16 * c + lane / 8 % 2 * 8]);
            multiply(state.out[c], a[0], a[1], a[2], a[3], weights[0], weights[1]);
        }
        __syncwarp();
    }
}
