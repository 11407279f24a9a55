// Attention of one query a row over packed pages and rings, split over thread blocks: decode on NVIDIA GPUs from sm_80.
//
// Does what attend.py's kernel does for splits and merge.py's after it. A block takes a task of tasks.py: a share of a row,
// of which the last takes the newest tokens too; of several the last to finish merges what all left in scratch. Compiled at start by NVRTC with the sizes of a layout as macros; see decode.py for what it
// takes and when the Triton kernels serve instead.
//
// A warp takes whole blocks of a row and carries its own online softmax, so that warps meet only at the end. Where shared
// memory is large enough, each warp has the copy engine (cp.async.bulk) bring its next record while it works on one: the
// keys' half as soon as the scores are done, the values' at the end. Packed bytes go into the registers of the tensor core
// instruction that takes them, 16 bytes a load: layout.py's order makes each thread's bytes the channels (keys) or tokens
// (values) of its own fragment, if the contraction is summed in a permuted order, which the other operand follows. A code
// is masked out of its byte and taken as a subnormal float16, code * 2^-24, without a conversion; the factor is undone in
// float32. Zeros and scales are float16 after a mask or a shift (layout.py).
//
// The sizes of a layout and of a format come as macros.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
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
constexpr bool ROTATE = KIVI_ROTATE;                 // the output back
constexpr bool BUFFERED = KIVI_BUFFERED;             // copy records ahead into shared memory (from sm_90)

constexpr int WARPS = KIVI_WARPS;             // of a block
constexpr int QUERIES = 8;                    // columns of a tensor core instruction, of which RATIO are used
constexpr int CHUNK = G < (BUFFERED ? 128 : 64) ? G : (BUFFERED ? 128 : 64);  // tokens of a warp's step
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
constexpr int PAIRS = RECORD - KEY_ZEROS;     // bytes of all zeros and scales, the end of a record
constexpr int TILE_STRIDE = D + 8;            // halves

static_assert(RATIO <= QUERIES, "one tile of queries");
static_assert(D % (KB == 4 ? 32 : 64) == 0 && VALUE_ROWS % 16 == 0, "a thread's codes are whole words");
static_assert((D / VGROUPS) % 16 == 0 && VALUE_RESIDUAL % 16 == 0 && G % CHUNK == 0 && CHUNK % 32 == 0, "whole tiles");
static_assert(VALUE_WINDOW <= KEY_WINDOW, "keys behind the quantized values would need pages");

struct State {
    float high[2], total[2], bias[VGROUPS][2];  // of a thread's two queries
    float out[CHANNEL_TILES][4];
};

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

__device__ __forceinline__ u32 times_half2(u32 a, u32 b) {
    asm("mul.rn.f16x2 %0, %0, %1;" : "+r"(a) : "r"(b));
    return a;
}

__device__ __forceinline__ float2 floats_of(u32 half2) {
    float2 x;
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %2; cvt.f32.f16 %0, low; cvt.f32.f16 %1, high; }"
        : "=f"(x.x), "=f"(x.y) : "r"(half2));
    return x;
}

#if KIVI_OUT == 1  // bfloat16
typedef u16 Out;
__device__ __forceinline__ void write_two(Out* to, float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    *(u32*)to = packed;
}
#elif KIVI_OUT == 2  // float16
typedef u16 Out;
__device__ __forceinline__ void write_two(Out* to, float low, float high) { *(u32*)to = pack_half2(low, high); }
#else
typedef float Out;
__device__ __forceinline__ void write_two(Out* to, float low, float high) { to[0] = low, to[1] = high; }
#endif

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

// Two zeros of layout.py as float16.
__device__ __forceinline__ u32 zeros_of(u32 zero_bits) { return zero_bits & 0xFFFCFFFC; }

// Their scales; ``bytes`` has a scale's upper bits in each half.
__device__ __forceinline__ u32 scales_of(u32 zero_bits, u32 bytes) { return bytes << 7 | (zero_bits << 5 & 0x00600060); }

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

// Of a record, where it lies.
template <int WORDS>
__device__ __forceinline__ void load_packed(u32 (&to)[WORDS], const u8* from) {
    if constexpr (!BUFFERED) {
        load_words(to, from);
    } else {
        constexpr int WIDE = WORDS % 4 == 0 ? 4 : WORDS % 2 == 0 ? 2 : 1;
#pragma unroll
        for (int i = 0; i < WORDS; i += WIDE) {
            if constexpr (WIDE == 4) {
                uint4 four = *(const uint4*)(from + 4 * i);
                to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
            } else if constexpr (WIDE == 2) {
                uint2 two = *(const uint2*)(from + 4 * i);
                to[i] = two.x, to[i + 1] = two.y;
            } else {
                to[i] = *(const u32*)(from + 4 * i);
            }
        }
    }
}

// The queries as second operand of the scores, as float16. A thread's channels are those of its key codes, in each part:
// word s holds channels 4s to 4s + 3, taken as the pairs (0, 2) and (1, 3). Codes of part p count 2^(bits * p), undone
// here. The warps do it together for all of them.
__device__ __forceinline__ void load_query(
    u32 (&to)[D / 32][32][4], const float* query, float scale_log2, bool live, int warp, int lane
) {
    for (int i = warp; i < D / 32; i += WARPS)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int word = 2 * i + half, part = word / KEY_WORDS, s = word % KEY_WORDS;
            float4 q = make_float4(0, 0, 0, 0);
            if (live) q = *(const float4*)(query + part * KEY_BYTES + lane % 4 * 4 * KEY_WORDS + 4 * s);
            const float factor = scale_log2 / (1 << KB * part);
            to[i][lane][2 * half] = finite_half2(pack_half2(q.x * factor, q.z * factor));
            to[i][lane][2 * half + 1] = finite_half2(pack_half2(q.y * factor, q.w * factor));
        }
}

typedef u32 Query[KEY_PARTS][KEY_WORDS][2];

// Fold a key group's scales into the query; returns the query times its zeros, for the thread's two queries (columns of
// the scores). The zeros are the same in all rows of that product's first operand, so all threads get their sums.
__device__ __forceinline__ float2 fold(
    Query& folded, const u32 (&query)[D / 32][32][4], const u8* pairs, int group, int lane
) {
    float2 bias = make_float2(0, 0);
#pragma unroll
    for (int part = 0; part < KEY_PARTS; ++part) {
        const int channel = group * D + part * KEY_BYTES + lane % 4 * 4 * KEY_WORDS;
        u32 zeros[2 * KEY_WORDS], scales[KEY_WORDS];
        load_packed(zeros, pairs + 2 * channel);
        load_packed(scales, pairs + KEY_SCALES - KEY_ZEROS + channel);
        float sums[4] = {};
#pragma unroll
        for (int s = 0; s < KEY_WORDS; ++s) {
            const u32 even = __byte_perm(zeros[2 * s], zeros[2 * s + 1], 0x5410);
            const u32 odd = __byte_perm(zeros[2 * s], zeros[2 * s + 1], 0x7632);
            const u32 even_scales = scales_of(even, __byte_perm(scales[s], 0, 0x4240));
            const u32 odd_scales = scales_of(odd, __byte_perm(scales[s], 0, 0x4341));
            const int word = part * KEY_WORDS + s;
            const uint2 q = *(const uint2*)&query[word / 2][lane][word % 2 * 2];
            folded[part][s][0] = finite_half2(times_half2(q.x, even_scales));
            folded[part][s][1] = finite_half2(times_half2(q.y, odd_scales));
            multiply(sums, zeros_of(even), zeros_of(even), zeros_of(odd), zeros_of(odd), q.x, q.y);
        }
        bias.x += sums[0] * (1 << KB * part), bias.y += sums[1] * (1 << KB * part);
    }
    return bias;
}

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
#pragma unroll
        for (int v = 0; v < VGROUPS; ++v) state.bias[v][e] *= keep;
        if (__any_sync(~0u, keep != 1.0f)) {
#pragma unroll
            for (int c = 0; c < CHANNEL_TILES; ++c) state.out[c][e] *= keep, state.out[c][e + 2] *= keep;
        }
    }
}

// Scores of a chunk of quantized keys, the ``token``-th of the block on. Thread (g, quarter) of a warp scores tokens
// EACH * g to EACH * g + EACH - 1: of row tile i the rows g and g + 8 are its tokens 2i and 2i + 1.
__device__ __forceinline__ void score(
    float (&scores)[ROW_TILES][4], const Query& folded, float2 bias, const u8* keys, int token, int lane
) {
    const int g = lane / 4, quarter = lane % 4;
#pragma unroll
    for (int i = 0; i < ROW_TILES; ++i) {
        u32 rows[2][KEY_WORDS];
#pragma unroll
        for (int h = 0; h < 2; ++h)
            load_packed(rows[h], keys + (token + EACH * g + 2 * i + h) * KEY_BYTES + quarter * 4 * KEY_WORDS);
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[i][e] = 0;
#pragma unroll
        for (int s = 0; s < KEY_WORDS; ++s) {
            const u32 a = rows[0][s], b = rows[1][s], a_odd = a >> 8, b_odd = b >> 8;
#pragma unroll
            for (int part = 0; part < KEY_PARTS; ++part) {
                const u32 mask = ((1u << KB) - 1) << KB * part, both = mask | mask << 16;
                multiply(
                    scores[i], a & both, b & both, a_odd & both, b_odd & both, folded[part][s][0], folded[part][s][1]
                );
            }
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) scores[i][e] = fmaf(scores[i][e], 1 << 24, e % 2 ? bias.y : bias.x);
    }
}

// Probabilities times the scales of values, as second operand; their products with the zeros go to the state.
typedef u32 Weights[VGROUPS][ROW_TILES][2];

__device__ __forceinline__ void weigh(
    Weights& weights, State& state, const float (&p)[ROW_TILES][4], const u8* pairs, int token, int lane
) {
#pragma unroll
    for (int v = 0; v < VGROUPS; ++v) {
        const int at = v * T + token + EACH * (lane / 4);
        u32 zeros[EACH / 2], scales[EACH / 4];
        load_packed(zeros, pairs + VALUE_ZEROS - KEY_ZEROS + 2 * at);
        load_packed(scales, pairs + VALUE_SCALES - KEY_ZEROS + at);
#pragma unroll
        for (int i = 0; i < ROW_TILES; ++i) {
            const float2 zero = floats_of(zeros_of(zeros[i]));
            const u32 bytes = __byte_perm(scales[i / 2], 0, i % 2 ? 0x4342 : 0x4140);
            const float2 scale = floats_of(scales_of(zeros[i], bytes));
            state.bias[v][0] += p[i][0] * zero.x + p[i][2] * zero.y;
            state.bias[v][1] += p[i][1] * zero.x + p[i][3] * zero.y;
            weights[v][i][0] = transposed(pack_half2(p[i][0] * scale.x, p[i][1] * scale.x));
            weights[v][i][1] = transposed(pack_half2(p[i][2] * scale.y, p[i][3] * scale.y));
        }
    }
}

// A thread's bytes of a row of codes are the tokens of scoring threads 2 * quarter, then 2 * quarter + 1.
__device__ __forceinline__ void add_values(
    State& state, const Weights& weights, const u8* values, int token, int lane
) {
    const int g = lane / 4, quarter = lane % 4;
#pragma unroll
    for (int j = 0; j < VALUE_TILES; ++j) {
        u32 rows[2][VALUE_WORDS];
#pragma unroll
        for (int h = 0; h < 2; ++h)
            load_packed(rows[h], values + (16 * j + 8 * h + g) * T + token + quarter * 4 * VALUE_WORDS);
#pragma unroll
        for (int u = 0; u < ROW_TILES / 2; ++u)
#pragma unroll
            for (int k = 0; k < 2; ++k) {
                const u32 a = __byte_perm(rows[0][u], rows[0][u + VALUE_WORDS / 2], k ? 0x7632 : 0x5410);
                const u32 b = __byte_perm(rows[1][u], rows[1][u + VALUE_WORDS / 2], k ? 0x7632 : 0x5410);
                const u32 a_odd = a >> 8, b_odd = b >> 8;
#pragma unroll
                for (int part = 0; part < VALUE_PARTS; ++part) {
                    const u32 mask = ((1u << VB) - 1) << VB * part, both = mask | mask << 16;
                    const int c = part * VALUE_TILES + j;
                    const u32* w = weights[c / PER_SCALE][2 * u + k];
                    multiply(state.out[c], a & both, b & both, a_odd & both, b_odd & both, w[0], w[1]);
                }
            }
    }
}

// A thread's pieces, of 16 channels, of sixteen tokens of a ring, on their way to shared memory.
struct Staged {
    u32 codes[D / 32][4], exponents[D / 32];
};

// Those past the end become zeros.
__device__ __forceinline__ void load_ring(
    Staged& to, const u8* ring, int ring_tokens, int first, int length, int lane
) {
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
        const int at = 32 * i + lane, piece = at % (D / 16), token = first + at / (D / 16);
        to.codes[i][0] = to.codes[i][1] = to.codes[i][2] = to.codes[i][3] = to.exponents[i] = 0;
        if (token < length) {
            const u8* from = ring + (i64)(token % ring_tokens) * STAGED;
            load_staged(to.codes[i], from + 16 * piece);
            to.exponents[i] = *(const u16*)(from + D + 2 * piece);
        }
    }
}

__device__ __forceinline__ void write_tile(u16 (*tile)[TILE_STRIDE], const Staged& from, int lane) {
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
        const int at = 32 * i + lane, row = at / (D / 16), piece = at % (D / 16);
        u32 out[8];
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            const float unit = __uint_as_float((e < 4 ? from.exponents[i] & 0xFF : from.exponents[i] >> 8) << 23);
            const u32 word = from.codes[i][e / 2] >> 16 * (e % 2);
            out[e] = pack_half2((float)(signed char)(word & 0xFF) * unit, (float)(signed char)(word >> 8 & 0xFF) * unit);
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
        const float zero = floats_of(zeros_of(bits)).x;
        const float scale = floats_of(scales_of(bits, record[VALUE_SCALES + v * T + at])).x;
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

// A warp's share of the newest tokens, sixteen at a time, every WARPS-th. Their keys lie in the ring; their values there
// or, before ``rough``, in pages.
__device__ __forceinline__ void add_newest(
    State& state, u16 (*tile)[TILE_STRIDE], const float* query, float scale_log2, bool live, const u8* key_ring,
    int key_tokens, const u8* value_ring, int value_tokens, const u8* head_pages, const int* table, int stride_page,
    int first, int rough, int length, int lane
) {
    const int g = lane / 4, quarter = lane % 4;
    Staged keys, values;
    if (first < length) {
        load_ring(keys, key_ring, key_tokens, first, length, lane);
        load_ring(values, value_ring, value_tokens, first, length, lane);
    }
    u32 own[CHANNEL_TILES][2];
#pragma unroll
    for (int s = 0; s < CHANNEL_TILES; ++s)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float2 q = make_float2(0, 0);
            if (live) q = *(const float2*)(query + 16 * s + 8 * h + 2 * quarter);
            own[s][h] = finite_half2(pack_half2(q.x * scale_log2, q.y * scale_log2));
        }
    for (int next; first < length; first = next) {
        next = first + 16 * WARPS;
        write_tile(tile, keys, lane);
        __syncwarp();
        if (next < length) load_ring(keys, key_ring, key_tokens, next, length, lane);
        float scores[1][4] = {};
#pragma unroll
        for (int s = 0; s < CHANNEL_TILES; ++s) {
            u32 a[4];
            load_matrices<false>(a, &tile[lane % 16][16 * s + lane / 16 * 8]);
            multiply(scores[0], a[0], a[1], a[2], a[3], own[s][0], own[s][1]);
        }
        __syncwarp();
        if (first < rough)
            stage_values(tile, head_pages + (i64)__ldg(table + first / T) * stride_page, first % T, lane);
        else
            write_tile(tile, values, lane);
        __syncwarp();
        if (next < length) load_ring(values, value_ring, value_tokens, next, length, lane);
#pragma unroll
        for (int e = 0; e < 4; ++e)
            if (first + g + e / 2 * 8 >= length) scores[0][e] = -__int_as_float(0x7F800000);
        softmax_step(scores, state);
        u32 weights[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) weights[h] = transposed(pack_half2(scores[0][2 * h], scores[0][2 * h + 1]));
#pragma unroll
        for (int c = 0; c < CHANNEL_TILES; ++c) {
            u32 a[4];
            load_matrices<true>(a, &tile[lane % 8 + lane / 16 * 8][16 * c + lane / 8 % 2 * 8]);
            multiply(state.out[c], a[0], a[1], a[2], a[3], weights[0], weights[1]);
        }
        __syncwarp();
    }
}

// A chunk of a record, which lies at three places: the keys' codes, the values' codes, all zeros and scales.
__device__ __forceinline__ void score_chunk(
    float (&scores)[ROW_TILES][4], Query& folded, float2& bias, const u32 (&query)[D / 32][32][4], const u8* keys,
    const u8* pairs, int token, int lane
) {
    if (token % G == 0) bias = fold(folded, query, pairs, token / G, lane);
    score(scores, folded, bias, keys, token, lane);
}

__device__ __forceinline__ void add_chunk(
    State& state, float (&scores)[ROW_TILES][4], const u8* values, const u8* pairs, int token, int lane
) {
    Weights weights;
    weigh(weights, state, scores, pairs, token, lane);
    add_values(state, weights, values, token, lane);
}

// --- the copy engine: one thread asks, and all of its warp wait for the bytes -----------------------------------------

__device__ __forceinline__ u32 address_of(const void* shared) { return (u32)__cvta_generic_to_shared(shared); }

__device__ __forceinline__ void start_barrier(u64* barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(address_of(barrier)) : "memory");
}

__device__ __forceinline__ void expect(u64* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(address_of(barrier)), "r"(bytes) : "memory");
}

__device__ __forceinline__ void copy(void* to, const u8* from, int bytes, u64* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(address_of(to)), "l"(from), "r"(bytes), "r"(address_of(barrier)) : "memory");
}

__device__ __forceinline__ void wait(u64* barrier, u32 parity) {
    asm volatile("{ .reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again; }"
                 :: "r"(address_of(barrier)), "r"(parity) : "memory");
}

__device__ __forceinline__ void copy_keys(Buffer& buffer, int turn, const u8* record, u64* barrier) {
    expect(barrier, sizeof(buffer.keys) + PAIRS);
    copy(buffer.keys, record + KEY_CODES, sizeof(buffer.keys), barrier);
    copy(buffer.pairs[turn], record + KEY_ZEROS, PAIRS, barrier);
}

__device__ __forceinline__ void copy_values(Buffer& buffer, const u8* record, u64* barrier) {
    expect(barrier, sizeof(buffer.values));
    copy(buffer.values, record + VALUE_CODES, sizeof(buffer.values), barrier);
}

// A warp's share of the blocks [block, end), every WARPS-th; quantized tokens end at ``tokens``.
__device__ __forceinline__ void add_blocks(
    State& state, Shared& shared, const float* own, float scale_log2, bool live, const u8* head_pages,
    const int* table, int stride_page, int block, int end, int tokens, int warp, int lane
) {
    Query folded;
    float2 bias;
    int id = block < end ? __ldg(table + block) : 0;
    if constexpr (!BUFFERED) {
        load_query(shared.query, own, scale_log2, live, warp, lane);
        __syncthreads();
        for (; block < end; block += WARPS) {
            const u8* record = head_pages + (i64)id * stride_page;
            if (block + WARPS < end) id = __ldg(table + block + WARPS);
            const int here = T == G ? T : min(T, tokens - block * T);
            for (int token = 0; token < here; token += CHUNK) {
                float scores[ROW_TILES][4];
                score_chunk(scores, folded, bias, shared.query, record + KEY_CODES, record + KEY_ZEROS, token, lane);
                softmax_step(scores, state);
                add_chunk(state, scores, record + VALUE_CODES, record + KEY_ZEROS, token, lane);
            }
        }
    } else {
        Buffer& buffer = shared.work[warp].buffer;
        u64 *keys_here = &shared.keys_here[warp], *values_here = &shared.values_here[warp];
        if (lane == 0) {
            start_barrier(keys_here), start_barrier(values_here);
            asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
            if (block < end) {
                copy_keys(buffer, 0, head_pages + (i64)id * stride_page, keys_here);
                copy_values(buffer, head_pages + (i64)id * stride_page, values_here);
            }
        }
        id = block + WARPS < end ? __ldg(table + block + WARPS) : 0;
        load_query(shared.query, own, scale_log2, live, warp, lane);
        __syncthreads();
        const u8 *record = nullptr, *next;
        for (u32 turn = 0; block < end; block += WARPS, turn ^= 1, record = next) {
            const bool asks = lane == 0 && block + WARPS < end;
            next = head_pages + (i64)id * stride_page;
            if (block + 2 * WARPS < end) id = __ldg(table + block + 2 * WARPS);
            const int here = T == G ? T : min(T, tokens - block * T);
            wait(keys_here, turn);
            // Not sooner: more bytes under way at a time come more slowly.
            if (lane == 0 && record) copy_values(buffer, record, values_here);
            for (int token = 0; token < here; token += CHUNK) {
                float scores[ROW_TILES][4];
                score_chunk(scores, folded, bias, shared.query, buffer.keys, buffer.pairs[turn], token, lane);
                if (token + CHUNK >= here) {
                    __syncwarp();  // all have read the keys
                    if (asks) copy_keys(buffer, turn ^ 1, next, keys_here);
                }
                softmax_step(scores, state);
                if (token == 0) wait(values_here, turn);
                add_chunk(state, scores, buffer.values, buffer.pairs[turn], token, lane);
            }
            __syncwarp();  // all have read the values
        }
    }
}

// From codes as subnormal numbers, those of part p times 2^(bits * p), to values.
__device__ __forceinline__ void undo_factors(State& state) {
#pragma unroll
    for (int c = 0; c < CHANNEL_TILES; ++c)
#pragma unroll
        for (int e = 0; e < 4; ++e) state.out[c][e] *= (float)(1 << 24) / (1 << VB * (c / VALUE_TILES));
}

// Put the warps' states side by side.
__device__ __forceinline__ void combine(State& state, Last& shared, int warp, int lane) {
    const int g = lane / 4, quarter = lane % 4;
    __syncthreads();  // records and tiles become states
#pragma unroll
    for (int e = 0; e < 2; ++e) {
        const int query = 2 * quarter + e;
        float total = state.total[e], bias[VGROUPS];
#pragma unroll
        for (int lanes = 4; lanes < 32; lanes *= 2) total += __shfl_xor_sync(~0u, total, lanes);
#pragma unroll
        for (int v = 0; v < VGROUPS; ++v) {
            bias[v] = state.bias[v][e];
#pragma unroll
            for (int lanes = 4; lanes < 32; lanes *= 2) bias[v] += __shfl_xor_sync(~0u, bias[v], lanes);
        }
        if (g == 0) shared.high[warp][query] = state.high[e], shared.total[warp][query] = total;
#pragma unroll
        for (int c = 0; c < CHANNEL_TILES; ++c) {
#pragma unroll
            for (int h = 0; h < 2; ++h)
                shared.out[warp][query][16 * c + 8 * h + g] = state.out[c][e + 2 * h] + bias[c / PER_SCALE];
        }
    }
    __syncthreads();
}

// One channel of a block's result, and its log-sum-exp in base 2.
__device__ __forceinline__ float2 combined(const Last& shared, int query, int channel) {
    float high = shared.high[0][query], total = 0, sum = 0;
#pragma unroll
    for (int w = 1; w < WARPS; ++w) high = fmaxf(high, shared.high[w][query]);
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        const float weight = exp2_of(shared.high[w][query] - high);
        total += shared.total[w][query] * weight;
        sum += shared.out[w][query][channel] * weight;
    }
    return make_float2(sum / total, high + __log2f(total));
}

// Merge what the ``live`` splits of a row and head left in scratch.
__device__ __forceinline__ void merge(
    Last& shared, const float* part_out, const float* part_lse, int stride_task, int live
) {
    for (int i = threadIdx.x; i < RATIO * D; i += WARPS * 32) {
        const int query = i / D, channel = i % D;
        const float *outs = part_out + query * D + channel, *lses = part_lse + query;
        float high = -1e30f, total = 0, sum = 0;
#pragma unroll 8
        for (int split = 0; split < live; ++split) high = fmaxf(high, __ldcg(lses + split * stride_task));
#pragma unroll 8
        for (int split = 0; split < live; ++split) {
            const float weight = exp2_of(__ldcg(lses + split * stride_task) - high);
            total += weight, sum += weight * __ldcg(outs + (i64)split * stride_task * D);
        }
        shared.merged[query][channel] = sum / total;
    }
}

// Rotate ``merged`` back and write it.
__device__ __forceinline__ void write_out(Last& shared, Out* out, int stride_head) {
    constexpr int ORDER = D & -D;  // helpers.hadamard_order
    float factor = 1;
    __syncthreads();
    if constexpr (ROTATE) {
        factor = rsqrtf((float)ORDER);
#pragma unroll
        for (int apart = 1; apart < ORDER; apart *= 2) {
            for (int i = threadIdx.x; i < RATIO * D / 2; i += WARPS * 32) {
                float* at = &shared.merged[0][0] + i / apart * 2 * apart + i % apart;
                const float a = at[0], b = at[apart];
                at[0] = a + b, at[apart] = a - b;
            }
            __syncthreads();
        }
    }
    for (int i = threadIdx.x; i < RATIO * D / 2; i += WARPS * 32) {
        const int query = i / (D / 2), channel = i % (D / 2) * 2;
        write_two(
            out + (i64)query * stride_head + channel, shared.merged[query][channel] * factor,
            shared.merged[query][channel + 1] * factor
        );
    }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, KIVI_BLOCKS) kivi_decode(
    Out* __restrict__ out,                  // [rows, Hq, D]
    float* __restrict__ part_out,           // [tasks, Hq, D]
    float* __restrict__ part_lse,           // [tasks, Hq], base 2
    u32* __restrict__ arrived,              // [rows, H], zeros, left as zeros
    const int4* __restrict__ tasks,         // row, split, splits, groups of a split
    const float* __restrict__ query,        // [rows, Hq, D], contiguous
    const u8* __restrict__ pages,           // [blocks, H, record]
    const int* __restrict__ query_start,    // [rows + 1]
    const int* __restrict__ seq_lens,       // [rows]
    const int* __restrict__ block_table,    // [rows, blocks of a row]
    const int* __restrict__ slots,          // [rows]
    const int* __restrict__ readable_from,  // [rows]
    const u8* __restrict__ ring_key,        // [slots, H, key_tokens, STAGED]
    const u8* __restrict__ ring_value,      // likewise
    float scale_log2, int stride_out, int stride_out_head, int stride_page, int stride_table,
    int stride_key_slot, int stride_value_slot, int key_tokens, int value_tokens
) {
    extern __shared__ __align__(128) u8 memory[];
    Shared& shared = *(Shared*)memory;
    const int head = blockIdx.x, task = blockIdx.y, heads = gridDim.x;
    const int4 mine = tasks[task];
    const int row = mine.x, split = mine.y, live = mine.z, share = mine.w;
    if (row < 0) return;
    const int start = query_start[row], length = seq_lens[row], position = length - 1, readable = readable_from[row];
    const int closed = max(max(position - KEY_WINDOW, 0) / G * G, readable);
    const int rough = max(max(position - VALUE_WINDOW, 0) / VALUE_RESIDUAL * VALUE_RESIDUAL, readable);
    const int groups = closed / G;  // never past the quantized values

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const i64 first_head = (i64)start * heads * RATIO + head * RATIO;
    const float* own = query + (first_head + lane / 4) * D;
    const bool asks = lane / 4 < RATIO;
    const int* table = block_table + (i64)row * stride_table;
    const u8* head_pages = pages + (i64)head * RECORD;
    State state = {};
    state.high[0] = state.high[1] = -1e30f;  // finite: a warp may get no token
    if (groups > 0) {
        const int tokens = min((split + 1) * share, groups) * G;
        add_blocks(
            state, shared, own, scale_log2, asks, head_pages, table, stride_page, split * share * G / T + warp,
            (tokens + T - 1) / T, tokens, warp, lane
        );
        undo_factors(state);
    }
    if (split == live - 1) {
        const u8* key_ring = ring_key + (i64)slots[row] * stride_key_slot + (i64)head * key_tokens * STAGED;
        const u8* value_ring = ring_value + (i64)slots[row] * stride_value_slot + (i64)head * value_tokens * STAGED;
        add_newest(
            state, shared.work[warp].tile, own, scale_log2, asks, key_ring, key_tokens, value_ring, value_tokens,
            head_pages, table, stride_page, groups * G + 16 * warp, rough, length, lane
        );
    }
    combine(state, shared.last, warp, lane);

    if (live == 1) {
        for (int i = threadIdx.x; i < RATIO * D; i += WARPS * 32)
            shared.last.merged[i / D][i % D] = combined(shared.last, i / D, i % D).x;
    } else {
        const int stride_task = heads * RATIO;
        part_out += ((i64)(task - split) * stride_task + head * RATIO) * D;
        part_lse += (task - split) * stride_task + head * RATIO;
        for (int i = threadIdx.x; i < RATIO * D; i += WARPS * 32) {
            const int n = i / D, channel = i % D;
            const float2 x = combined(shared.last, n, channel);
            part_out[((i64)split * stride_task + n) * D + channel] = x.x;
            if (channel == 0) part_lse[split * stride_task + n] = x.y;
        }
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            u32* count = arrived + row * heads + head;
            shared.last.is_last = atomicAdd(count, 1) == live - 1;
            if (shared.last.is_last) *count = 0;  // for the next launch
        }
        __syncthreads();
        if (!shared.last.is_last) return;
        __threadfence();
        merge(shared.last, part_out, part_lse, stride_task, live);
    }
    write_out(shared.last, out + (i64)start * stride_out + (i64)head * RATIO * stride_out_head, stride_out_head);
}
