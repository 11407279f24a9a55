// The sizes of a layout and of a format, which come as macros (decode.py), and what follows from them.

#pragma once

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
constexpr int TILE = KIVI_TILE;                      // tokens that a ring is whole in, and that newest.cuh takes at a time
constexpr int KEY_WINDOW = KIVI_KEY_WINDOW, VALUE_WINDOW = KIVI_VALUE_WINDOW, VALUE_RESIDUAL = KIVI_VALUE_RESIDUAL;
constexpr bool ROTATE = KIVI_ROTATE;                 // the output back
constexpr bool BUFFERED = KIVI_BUFFERED;             // copy records ahead into shared memory (from sm_90)

constexpr int WARPS = KIVI_WARPS;             // of a block
constexpr int QUERIES = 8;                    // columns of a tensor core instruction, of which RATIO are used
constexpr int MOST = BUFFERED ? 128 : 64;
constexpr int CHUNK = G < MOST ? G : MOST;    // tokens of a key group that are worked on at a time
constexpr int STEP = BUFFERED && T % 128 == 0 && 128 % CHUNK == 0 ? 128 : CHUNK;  // tokens between two softmax steps
constexpr int ROW_TILES = CHUNK / 16;         // of tokens
constexpr int EACH = CHUNK / 8;               // tokens of a chunk whose scores a thread holds, contiguous
constexpr int KEY_GROUPS = STEP > G ? STEP / G : 1;  // of a step
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
static_assert(TILE == 16, "a tensor core instruction's tokens");
static_assert(D % (KB == 4 ? 32 : 64) == 0 && VALUE_ROWS % 16 == 0, "a thread's codes are whole words");
static_assert((D / VGROUPS) % 16 == 0 && VALUE_RESIDUAL % 16 == 0 && G % CHUNK == 0 && CHUNK % 32 == 0, "whole tiles");
static_assert(8 % KEY_GROUPS == 0 && STEP <= 128 && D <= 128, "eight threads share zeros and scales");
static_assert(VALUE_WINDOW <= KEY_WINDOW, "keys behind the quantized values would need pages");
