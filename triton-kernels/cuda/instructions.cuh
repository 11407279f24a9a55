// Single instructions, and loads as wide as can be.

#pragma once
#include "sizes.cuh"

__device__ __forceinline__ u32 pack_half2(float low, float high) {
    u32 packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

__device__ __forceinline__ u32 finite_half2(u32 packed) {  // -60000 to 60000
#if __CUDA_ARCH__ >= 860
    asm("min.xorsign.abs.f16x2 %0, %0, %1;" : "+r"(packed) : "r"(0x7B537B53u));
#else
    asm("min.f16x2 %0, %0, %1;" : "+r"(packed) : "r"(0x7B537B53u));
    asm("max.f16x2 %0, %0, %1;" : "+r"(packed) : "r"(0xFB53FB53u));
#endif
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

__device__ __forceinline__ float exp2_of(float x) {
    asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(x));
    return x;
}

// Returns what was there. What a block wrote before its barrier is seen by the block that reads after it.
__device__ __forceinline__ u32 add_in_order(u32* to, u32 count) {
    u32 old;
    asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], %2;" : "=r"(old) : "l"(to), "r"(count) : "memory");
    return old;
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

// Four tiles of 8 x 8 out of shared memory, transposed.
__device__ __forceinline__ void load_transposed(u32 a[4], const void* row) {
    u32 at = (u32)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(at) : "memory");
}

// As wide as can be, where loads of WIDEST words are aligned.
template <int WIDEST = 4, int WORDS>
__device__ __forceinline__ void load_words(u32 (&to)[WORDS], const u8* from) {
    if constexpr (WIDEST >= 4 && WORDS % 4 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS; i += 4) {
            uint4 four = *(const uint4*)(from + 4 * i);
            to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
        }
    } else if constexpr (WIDEST >= 2 && WORDS % 2 == 0) {
#pragma unroll
        for (int i = 0; i < WORDS; i += 2) {
            uint2 two = *(const uint2*)(from + 4 * i);
            to[i] = two.x, to[i + 1] = two.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < WORDS; ++i) to[i] = *(const u32*)(from + 4 * i);
    }
}
