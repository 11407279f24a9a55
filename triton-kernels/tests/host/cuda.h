// What close.cuh needs of CUDA, for one thread at a time on a CPU. Rounding is IEEE's, as a GPU's is without fast math.

#pragma once
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstring>

#define __device__
#define __forceinline__ inline

struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct uint2 {
    uint32_t x, y;
};
struct float2 {
    float x, y;
};

inline void __syncthreads() {}
uint64_t __cvta_generic_to_shared(const void*);  // of inline functions that nothing calls here

template <class To, class From>
inline To bits_of(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float __uint_as_float(uint32_t x) { return bits_of<float>(x); }
inline float __int_as_float(int x) { return bits_of<float>(x); }
inline uint32_t __float_as_uint(float x) { return bits_of<uint32_t>(x); }
inline int __float_as_int(float x) { return bits_of<int>(x); }

inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }

inline float __fadd_rz(float a, float b) {
    std::fesetround(FE_TOWARDZERO);
    volatile float sum = a + b;
    std::fesetround(FE_TONEAREST);
    return sum;
}

inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t bytes = (uint64_t)high << 32 | low;
    uint32_t picked = 0;
    for (int i = 0; i < 4; ++i) picked |= (uint32_t)(bytes >> 8 * (selector >> 4 * i & 7) & 0xFF) << 8 * i;
    return picked;
}

inline int min(int a, int b) { return a < b ? a : b; }
