// Attention of one query a row over packed pages and rings, split over thread blocks: decode on NVIDIA GPUs from sm_80.
//
// Does what attend.py's kernel does for splits, and leaves its results in the same scratch. Compiled at start by NVRTC
// with the sizes of a layout as macros; see decode.py for what it takes and when the Triton kernel serves instead.
//
// A warp takes a chunk of a key group's tokens and carries its own online softmax, so that warps meet only at the end.
// Packed bytes go from global memory into the registers of the tensor core instruction that takes them, 16 bytes a
// load: layout.py's order makes each thread's bytes the channels (keys) or tokens (values) of its own fragment, if the
// contraction is summed in a permuted order, which the other operand follows. A code is masked out of its byte and taken
// as a subnormal float16, code * 2^-24, without a conversion; the factor is undone in float32.
//
// The sizes of a layout and of a format come as macros.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

constexpr int D = KIVI_D;                            // head size
constexpr int G = KIVI_G;                            // tokens of a key group
constexpr int T = KIVI_T;                            // tokens of a block
constexpr int KB = KIVI_KB, VB = KIVI_VB;            // bits of a key's and a value's code
constexpr int VGROUPS = KIVI_VGROUPS;                // value scales of a token
constexpr int RATIO = KIVI_RATIO;                    // query heads of a KV head
constexpr int KEY_CODES = KIVI_KEY_CODES, VALUE_CODES = KIVI_VALUE_CODES;  // offsets in a record
constexpr int KEY_ZEROS = KIVI_KEY_ZEROS, VALUE_ZEROS = KIVI_VALUE_ZEROS;
constexpr int KEY_SCALES = KIVI_KEY_SCALES, VALUE_SCALES = KIVI_VALUE_SCALES;
constexpr int RECORD = KIVI_RECORD;                  // bytes of a record
constexpr int STAGED = KIVI_STAGED;                  // bytes of a token in a ring
constexpr int KEY_WINDOW = KIVI_KEY_WINDOW, VALUE_WINDOW = KIVI_VALUE_WINDOW, VALUE_RESIDUAL = KIVI_VALUE_RESIDUAL;
constexpr int MIN_GROUPS = KIVI_MIN_GROUPS;          // of a split

constexpr int WARPS = 4;
constexpr int TILES = (RATIO + 7) / 8;        // of eight queries
constexpr int CHUNK = G < 64 ? G : 64;        // tokens of a warp's step
constexpr int ROW_TILES = CHUNK / 16;         // of tokens
constexpr int EACH = CHUNK / 8;               // tokens of a chunk whose scores a thread holds, contiguous
constexpr int KEY_BYTES = D * KB / 8;
constexpr int KEY_WORDS = KEY_BYTES / 16;     // of a token, of a thread
constexpr int KEY_PARTS = 8 / KB;
constexpr int VALUE_ROWS = D * VB / 8;
constexpr int VALUE_WORDS = CHUNK / 16;       // of a row of codes, of a thread
constexpr int VALUE_PARTS = 8 / VB;
constexpr int VALUE_TILES = VALUE_ROWS / 16;
constexpr int CHANNEL_TILES = D / 16;
constexpr int PER_SCALE = D / VGROUPS / 16;   // channel tiles that share a value scale
constexpr int QUERY_STRIDE = D + 4;           // floats, so that rows start in different banks
constexpr int TILE_STRIDE = D + 8;            // halves

static_assert(D % (KB == 4 ? 32 : 64) == 0 && VALUE_ROWS % 16 == 0, "a thread's codes are whole words");
static_assert((D / VGROUPS) % 16 == 0 && VALUE_RESIDUAL % 16 == 0 && G % CHUNK == 0 && CHUNK % 32 == 0, "whole tiles");
static_assert(VALUE_WINDOW <= KEY_WINDOW, "keys behind the quantized values would need pages");

struct State {
    float high[TILES][2], total[TILES][2], bias[TILES][VGROUPS][2];  // of a thread's two queries
    float out[TILES][CHANNEL_TILES][4];
};

struct Shared {
    float query[TILES * 8][QUERY_STRIDE];  // times the scale of the scores and log2(e)
    union {
        u16 tile[WARPS][16][TILE_STRIDE];
        struct {
            float out[WARPS][TILES * 8][D];
            float high[WARPS][TILES * 8], total[WARPS][TILES * 8];
        } last;
    };
};

__device__ __forceinline__ u32 pack_half2(float low, float high) {
    u32 packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

__device__ __forceinline__ u32 finite_half2(u32 packed) {  // -60000 to 60000
    asm("min.f16x2 %0, %0, %1;" : "+r"(packed) : "r"(0x7B537B53u));
    asm("max.f16x2 %0, %0, %1;" : "+r"(packed) : "r"(0xFB53FB53u));
    return packed;
}

__device__ __forceinline__ float exp2_of(float x) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}

__device__ __forceinline__ u32 transposed(u32 fragment) {
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(fragment));
    return fragment;
}

__device__ __forceinline__ void multiply(float c[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(u32 a[4], const void* row) {
    u32 at = (u32)__cvta_generic_to_shared(row);
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at) : "memory");
}

// The zero and scale of layout.py.
__device__ __forceinline__ float zero_of(u32 zero_bits) {
    u32 magnitude = (zero_bits & 0x7FFC) << 13;
    magnitude = magnitude ? magnitude + (112u << 23) : 0;
    return __uint_as_float(magnitude | (zero_bits & 0x8000) << 16);
}

__device__ __forceinline__ float scale_of(u32 zero_bits, u32 scale_bits) {
    return __uint_as_float(((scale_bits << 2 | (zero_bits & 3)) << 18) + (112u << 23));
}

template <int WORDS>
__device__ __forceinline__ void load_words(u32 (&to)[WORDS], const u8* from) {
    if constexpr (WORDS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS; i += 4) {
            uint4 four = __ldg((const uint4*)(from + 4 * i));
            to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
        }
    } else if constexpr (WORDS % 2 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS; i += 2) {
            uint2 two = __ldg((const uint2*)(from + 4 * i));
            to[i] = two.x, to[i + 1] = two.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < WORDS; ++i) to[i] = __ldg((const u32*)(from + 4 * i));
    }
}

// As wide as the size of a ring's token allows.
__device__ __forceinline__ void load_staged(u32 (&to)[4], const u8* from) {
    if constexpr (STAGED % 16 == 0) {
        load_words(to, from);
    } else {
        constexpr int WIDE = STAGED % 8 == 0 ? 2 : 1;
#pragma unroll
        for (int i = 0; i < 4; i += WIDE) {
            u32 part[WIDE];
            load_words(part, from + 4 * i);
#pragma unroll
            for (int e = 0; e < WIDE; ++e) to[i + e] = part[e];
        }
    }
}

__device__ __forceinline__ u32 half_of(const u32* words, int i) { return words[i / 2] >> 16 * (i % 2) & 0xFFFF; }
__device__ __forceinline__ u32 byte_of(const u32* words, int i) { return words[i / 4] >> 8 * (i % 4) & 0xFF; }

// The queries with a key group's scales folded in, as second operand; a thread's channels are those of its key codes,
// in each part: word s holds channels 4s to 4s + 3, taken as the pairs (0, 2) and (1, 3).
struct FoldedQuery {
    u32 b[TILES][KEY_PARTS][KEY_WORDS][2];
    float bias[TILES][2];  // query times zeros, of the thread's two queries (columns of the scores)
};

__device__ __forceinline__ void fold(FoldedQuery& folded, const Shared& shared, const u8* record, int group, int lane) {
    const int g = lane / 4, quarter = lane % 4;
    float bias[TILES];
#pragma unroll
    for (int n = 0; n < TILES; ++n) bias[n] = 0;
#pragma unroll
    for (int part = 0; part < KEY_PARTS; ++part) {
        const int channel = part * KEY_BYTES + quarter * 4 * KEY_WORDS;
        u32 zeros[2 * KEY_WORDS], scales[KEY_WORDS];
        load_words(zeros, record + KEY_ZEROS + 2 * (group * D + channel));
        load_words(scales, record + KEY_SCALES + group * D + channel);
#pragma unroll
        for (int s = 0; s < KEY_WORDS; ++s) {
            float zero[4], scale[4];
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                u32 bits = half_of(zeros, 4 * s + e);
                zero[e] = zero_of(bits);
                scale[e] = scale_of(bits, byte_of(scales, 4 * s + e)) * (1.0f / (1 << KB * part));
            }
#pragma unroll
            for (int n = 0; n < TILES; ++n) {
                float4 q = *(const float4*)&shared.query[n * 8 + g][channel + 4 * s];
                bias[n] += q.x * zero[0] + q.y * zero[1] + q.z * zero[2] + q.w * zero[3];
                folded.b[n][part][s][0] = finite_half2(pack_half2(q.x * scale[0], q.z * scale[2]));
                folded.b[n][part][s][1] = finite_half2(pack_half2(q.y * scale[1], q.w * scale[3]));
            }
        }
    }
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
        bias[n] += __shfl_xor_sync(~0u, bias[n], 1);
        bias[n] += __shfl_xor_sync(~0u, bias[n], 2);
#pragma unroll
        for (int e = 0; e < 2; ++e) folded.bias[n][e] = __shfl_sync(~0u, bias[n], (2 * quarter + e) * 4);
    }
}

// One step of online softmax in base 2 over a thread's scores of a tile of queries; the scores become probabilities.
template <int COUNT>
__device__ __forceinline__ void softmax_step(float (&scores)[COUNT][4], State& state, int n) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        float high = state.high[n][e];
#pragma unroll
        for (int i = 0; i < COUNT; ++i) high = fmaxf(high, fmaxf(scores[i][e], scores[i][e + 2]));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 4));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 8));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 16));
        const float keep = exp2_of(state.high[n][e] - high);  // every chunk has a token that is seen
        state.high[n][e] = high;
        float total = 0;
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
#pragma unroll
            for (int h = 0; h < 4; h += 2) {
                scores[i][e + h] = exp2_of(scores[i][e + h] - high);
                total += scores[i][e + h];
            }
        state.total[n][e] = state.total[n][e] * keep + total;
#pragma unroll
        for (int v = 0; v < VGROUPS; ++v) state.bias[n][v][e] *= keep;
        if (__any_sync(~0u, keep != 1.0f)) {
#pragma unroll
            for (int c = 0; c < CHANNEL_TILES; ++c) state.out[n][c][e] *= keep, state.out[n][c][e + 2] *= keep;
        }
    }
}

// A chunk of quantized tokens, the ``token``-th of the block on. Thread (g, quarter) of a warp scores tokens EACH * g to
// EACH * g + EACH - 1: of row tile i the rows g and g + 8 are its tokens 2i and 2i + 1.
__device__ __forceinline__ void add_chunk(
    State& state, const FoldedQuery& folded, const u8* record, int token, int lane
) {
    const int g = lane / 4, quarter = lane % 4;
    u32 keys[ROW_TILES][2][KEY_WORDS];
#pragma unroll
    for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
        for (int h = 0; h < 2; ++h)
            load_words(
                keys[i][h],
                record + KEY_CODES + (token + EACH * g + 2 * i + h) * KEY_BYTES + quarter * 4 * KEY_WORDS
            );
    u32 zeros[VGROUPS][EACH / 2], scales[VGROUPS][EACH / 4];
#pragma unroll
    for (int v = 0; v < VGROUPS; ++v) {
        load_words(zeros[v], record + VALUE_ZEROS + 2 * (v * T + token + EACH * g));
        load_words(scales[v], record + VALUE_SCALES + v * T + token + EACH * g);
    }
    u32 values[VALUE_TILES][2][VALUE_WORDS];
#pragma unroll
    for (int j = 0; j < VALUE_TILES; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h)
            load_words(
                values[j][h], record + VALUE_CODES + (16 * j + 8 * h + g) * T + token + quarter * 4 * VALUE_WORDS
            );

    constexpr float UNIT = 1.0f / (1 << 24);
    float scores[TILES][ROW_TILES][4];
#pragma unroll
    for (int i = 0; i < ROW_TILES; ++i) {
#pragma unroll
        for (int n = 0; n < TILES; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) scores[n][i][e] = folded.bias[n][e % 2] * UNIT;
#pragma unroll
        for (int s = 0; s < KEY_WORDS; ++s) {
            const u32 a = keys[i][0][s], b = keys[i][1][s];
#pragma unroll
            for (int part = 0; part < KEY_PARTS; ++part) {
                const u32 mask = ((1u << KB) - 1) << KB * part, both = mask | mask << 16;
#pragma unroll
                for (int n = 0; n < TILES; ++n)
                    multiply(
                        scores[n][i], a & both, b & both, a >> 8 & both, b >> 8 & both, folded.b[n][part][s][0],
                        folded.b[n][part][s][1]
                    );
            }
        }
    }
    u32 weights[TILES][VGROUPS][ROW_TILES][2];
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
#pragma unroll
        for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e) scores[n][i][e] *= 1 << 24;
        softmax_step(scores[n], state, n);
    }
#pragma unroll
    for (int v = 0; v < VGROUPS; ++v)
#pragma unroll
        for (int i = 0; i < ROW_TILES; ++i)
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                const u32 bits = half_of(zeros[v], 2 * i + h);
                const float zero = zero_of(bits), scale = scale_of(bits, byte_of(scales[v], 2 * i + h));
#pragma unroll
                for (int n = 0; n < TILES; ++n) {
                    const float low = scores[n][i][2 * h], high = scores[n][i][2 * h + 1];
                    state.bias[n][v][0] += low * zero, state.bias[n][v][1] += high * zero;
                    weights[n][v][i][h] = transposed(finite_half2(pack_half2(low * scale, high * scale)));
                }
            }
    // A thread's bytes of a row of codes are the tokens of scoring threads 2 * quarter, then 2 * quarter + 1.
#pragma unroll
    for (int j = 0; j < VALUE_TILES; ++j)
#pragma unroll
        for (int u = 0; u < ROW_TILES / 2; ++u)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const u32 a = __byte_perm(values[j][0][u], values[j][0][u + VALUE_WORDS / 2], k ? 0x7632 : 0x5410);
                const u32 b = __byte_perm(values[j][1][u], values[j][1][u + VALUE_WORDS / 2], k ? 0x7632 : 0x5410);
#pragma unroll
                for (int part = 0; part < VALUE_PARTS; ++part) {
                    const u32 mask = ((1u << VB) - 1) << VB * part, both = mask | mask << 16;
                    const int c = part * VALUE_TILES + j;
#pragma unroll
                    for (int n = 0; n < TILES; ++n) {
                        const u32* w = weights[n][c / PER_SCALE][2 * u + k];
                        multiply(state.out[n][c], a & both, b & both, a >> 8 & both, b >> 8 & both, w[0], w[1]);
                    }
                }
            }
}

// Sixteen tokens of a ring as float16 into shared memory; those past the end become zeros.
__device__ __forceinline__ void stage_ring(
    u16 (*tile)[TILE_STRIDE], const u8* ring, int ring_tokens, int first, int length, int lane
) {
#pragma unroll
    for (int i = lane; i < D; i += 32) {  // 16 tokens of D / 16 pieces
        const int row = i / (D / 16), piece = i % (D / 16), token = first + row;
        u32 out[8] = {};
        if (token < length) {
            const u8* at = ring + (i64)(token % ring_tokens) * STAGED;
            u32 codes[4];
            load_staged(codes, at + 16 * piece);
            const u32 exponents = *(const u16*)(at + D + 2 * piece);
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                const float unit = __uint_as_float((e < 4 ? exponents & 0xFF : exponents >> 8) << 23);
                const u32 word = codes[e / 2] >> 16 * (e % 2);
                out[e] = pack_half2((float)(signed char)(word & 0xFF) * unit, (float)(signed char)(word >> 8 & 0xFF) * unit);
            }
        }
        uint4* to = (uint4*)&tile[row][16 * piece];
        to[0] = make_uint4(out[0], out[1], out[2], out[3]);
        to[1] = make_uint4(out[4], out[5], out[6], out[7]);
    }
}

// Sixteen quantized values likewise.
__device__ __forceinline__ void stage_values(u16 (*tile)[TILE_STRIDE], const u8* record, int token, int lane) {
#pragma unroll
    for (int i = lane; i < D; i += 32) {
        const int row = i % 16, piece = i / 16, part = 16 * piece / VALUE_ROWS, at = token + row;
        const int v = 16 * piece / (D / VGROUPS);
        const u32 bits = *(const u16*)(record + VALUE_ZEROS + 2 * (v * T + at));
        const float zero = zero_of(bits), scale = scale_of(bits, record[VALUE_SCALES + v * T + at]);
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

// Sixteen tokens whose keys lie in the ring, and whose values there or, where ``record`` is given, in a page.
__device__ __forceinline__ void add_newest(
    State& state, Shared& shared, const u8* key_ring, int key_tokens, const u8* value_ring, int value_tokens,
    const u8* record, int first, int length, int warp, int lane
) {
    const int g = lane / 4, quarter = lane % 4;
    u16(*tile)[TILE_STRIDE] = shared.tile[warp];
    __syncwarp();
    stage_ring(tile, key_ring, key_tokens, first, length, lane);
    __syncwarp();
    float scores[TILES][1][4] = {};
#pragma unroll
    for (int s = 0; s < CHANNEL_TILES; ++s) {
        u32 a[4];
        load_matrices<false>(a, &tile[lane % 16][16 * s + lane / 16 * 8]);
#pragma unroll
        for (int n = 0; n < TILES; ++n) {
            const float2 low = *(const float2*)&shared.query[n * 8 + g][16 * s + 2 * quarter];
            const float2 high = *(const float2*)&shared.query[n * 8 + g][16 * s + 2 * quarter + 8];
            multiply(
                scores[n][0], a[0], a[1], a[2], a[3], finite_half2(pack_half2(low.x, low.y)),
                finite_half2(pack_half2(high.x, high.y))
            );
        }
    }
    __syncwarp();
    if (record)
        stage_values(tile, record, first % T, lane);
    else
        stage_ring(tile, value_ring, value_tokens, first, length, lane);
    __syncwarp();
    u32 weights[TILES][2];
#pragma unroll
    for (int n = 0; n < TILES; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e)
            if (first + g + e / 2 * 8 >= length) scores[n][0][e] = -__int_as_float(0x7F800000);
        softmax_step(scores[n], state, n);
#pragma unroll
        for (int h = 0; h < 2; ++h)
            weights[n][h] = transposed(pack_half2(scores[n][0][2 * h], scores[n][0][2 * h + 1]));
    }
#pragma unroll
    for (int c = 0; c < CHANNEL_TILES; ++c) {
        u32 a[4];
        load_matrices<true>(a, &tile[lane % 8 + lane / 16 * 8][16 * c + lane / 8 % 2 * 8]);
#pragma unroll
        for (int n = 0; n < TILES; ++n)
            multiply(state.out[n][c], a[0], a[1], a[2], a[3], weights[n][0], weights[n][1]);
    }
}

// Combine the warps' states and write the split's output and log-sum-exp.
__device__ __forceinline__ void finish(
    State& state, Shared& shared, bool quantized, float* out, float* lse, int splits, int warp, int lane
) {
    const int g = lane / 4, quarter = lane % 4;
    __syncthreads();  // tiles become states
#pragma unroll
    for (int n = 0; n < TILES; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int query = n * 8 + 2 * quarter + e;
            float total = state.total[n][e], bias[VGROUPS];
#pragma unroll
            for (int lanes = 4; lanes < 32; lanes *= 2) total += __shfl_xor_sync(~0u, total, lanes);
#pragma unroll
            for (int v = 0; v < VGROUPS; ++v) {
                bias[v] = state.bias[n][v][e];
#pragma unroll
                for (int lanes = 4; lanes < 32; lanes *= 2) bias[v] += __shfl_xor_sync(~0u, bias[v], lanes);
            }
            if (g == 0) shared.last.high[warp][query] = state.high[n][e], shared.last.total[warp][query] = total;
#pragma unroll
            for (int c = 0; c < CHANNEL_TILES; ++c) {
                const float factor = quantized ? (float)(1 << 24) / (1 << VB * (c / VALUE_TILES)) : 1.0f;
#pragma unroll
                for (int h = 0; h < 2; ++h)
                    shared.last.out[warp][query][16 * c + 8 * h + g] =
                        state.out[n][c][e + 2 * h] * factor + bias[c / PER_SCALE];
            }
        }
    __syncthreads();
    for (int i = threadIdx.x; i < RATIO * D; i += WARPS * 32) {
        const int query = i / D, channel = i % D;
        float high = shared.last.high[0][query], total = 0, sum = 0;
#pragma unroll
        for (int w = 1; w < WARPS; ++w) high = fmaxf(high, shared.last.high[w][query]);
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const float weight = exp2_of(shared.last.high[w][query] - high);
            total += shared.last.total[w][query] * weight;
            sum += shared.last.out[w][query][channel] * weight;
        }
        out[(i64)query * (splits + 1) * D + channel] = sum / total;
        if (channel == 0) lse[query * (splits + 1)] = high + __log2f(total);
    }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, 3) kivi_decode(
    float* __restrict__ out,                // [rows, Hq, 1 + splits, D]
    float* __restrict__ lse,                // [rows, Hq, 1 + splits], base 2
    const float* __restrict__ query,        // [rows, Hq, D], contiguous
    const u8* __restrict__ pages,           // [blocks, H, record]
    const int* __restrict__ query_start,    // [rows + 1]
    const int* __restrict__ seq_lens,       // [rows]
    const int* __restrict__ block_table,    // [rows, blocks of a row]
    const int* __restrict__ slots,          // [rows]
    const int* __restrict__ readable_from,  // [rows]
    const u8* __restrict__ ring_key,        // [slots, H, key_tokens, STAGED]
    const u8* __restrict__ ring_value,      // likewise
    float scale_log2, int splits, int stride_page, int stride_table, int stride_key_slot, int stride_value_slot,
    int key_tokens, int value_tokens
) {
    __shared__ __align__(16) Shared shared;
    const int head = blockIdx.x, split = blockIdx.y, row = blockIdx.z, heads = gridDim.x;
    const int start = query_start[row];
    if (query_start[row + 1] == start) return;
    const int length = seq_lens[row], position = length - 1, readable = readable_from[row];
    const int closed = max(max(position - KEY_WINDOW, 0) / G * G, readable);
    const int rough = max(max(position - VALUE_WINDOW, 0) / VALUE_RESIDUAL * VALUE_RESIDUAL, readable);
    const int groups = closed / G;  // never past the quantized values
    const int share = min(max((groups + splits - 1) / splits, MIN_GROUPS), groups);
    const int first = (split - 1) * share, last = min(first + share, groups);
    if (split > 0 && first >= last) return;

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const i64 first_head = (i64)start * heads * RATIO + head * RATIO;
    for (int i = threadIdx.x; i < TILES * 8 * D; i += WARPS * 32) {
        const int n = i / D, channel = i % D;
        shared.query[n][channel] = n < RATIO ? query[(first_head + n) * D + channel] * scale_log2 : 0.0f;
    }
    State state = {};
#pragma unroll
    for (int n = 0; n < TILES; ++n)
        state.high[n][0] = state.high[n][1] = -1e30f;  // finite: a warp may get no token
    __syncthreads();

    const int* table = block_table + (i64)row * stride_table;
    const u8* head_pages = pages + (i64)head * RECORD;
    if (split > 0) {
        constexpr int CHUNKS = G / CHUNK;
        // Where there is enough for all, a warp takes whole groups and folds their scales once.
        const int chunks = (last - first) * CHUNKS, step = last - first >= WARPS ? CHUNKS : 1;
        const int each = (chunks / step + WARPS - 1) / WARPS * step;
        const int end = min((warp + 1) * each, chunks);
        FoldedQuery folded;
        int folded_group = -1;
        for (int i = warp * each; i < end; ++i) {
            const int group = first + i / CHUNKS, token = group * G % T + i % CHUNKS * CHUNK;
            const u8* record = head_pages + (i64)__ldg(table + group * G / T) * stride_page;
            if (group != folded_group) fold(folded, shared, record, group * G % T / G, lane);
            folded_group = group;
            add_chunk(state, folded, record, token, lane);
        }
    } else {
        const u8* key_ring = ring_key + (i64)slots[row] * stride_key_slot + (i64)head * key_tokens * STAGED;
        const u8* value_ring = ring_value + (i64)slots[row] * stride_value_slot + (i64)head * value_tokens * STAGED;
        for (int at = groups * G + 16 * warp; at < length; at += 16 * WARPS) {
            const u8* record = at < rough ? head_pages + (i64)__ldg(table + at / T) * stride_page : nullptr;
            add_newest(
                state, shared, key_ring, key_tokens, value_ring, value_tokens, record, at, length, warp, lane
            );
        }
    }
    finish(
        state, shared, split > 0, out + (first_head * (splits + 1) + split) * D, lse + first_head * (splits + 1) + split,
        splits, warp, lane
    );
}
