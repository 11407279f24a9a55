// The copy engine: one thread asks, and all of its warp wait for the bytes.

#pragma once
#include "sizes.cuh"

__device__ __forceinline__ u32 address_of(const void* shared) { return (u32)__cvta_generic_to_shared(shared); }

__device__ __forceinline__ void start_barrier(u64* barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(address_of(barrier)) : "memory");
}

__device__ __forceinline__ void expect(u64* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(address_of(barrier)), "r"(bytes) : "memory");
}

// Of bytes that a step reads once: the L2 cache keeps others rather than them, as the newest tokens, which closing a
// group reads again.
__device__ __forceinline__ void copy_once(void* to, const u8* from, int bytes, u64* barrier) {
    u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;"
                 :: "r"(address_of(to)), "l"(from), "r"(bytes), "r"(address_of(barrier)), "l"(policy) : "memory");
}

__device__ __forceinline__ void copy(void* to, const u8* from, int bytes, u64* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(address_of(to)), "l"(from), "r"(bytes), "r"(address_of(barrier)) : "memory");
}

// Into the L2 cache.
__device__ __forceinline__ void prefetch(const u8* from, int bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" :: "l"(from), "r"(bytes));
}

__device__ __forceinline__ void wait(u64* barrier, u32 parity) {
    asm volatile("{ .reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again; }"
                 :: "r"(address_of(barrier)), "r"(parity) : "memory");
}

// Programmatic dependent launch (from sm_90): this kernel may start while the launch before it, append.py's, still runs.
// Returns once that has ended and what it wrote can be read.
__device__ __forceinline__ void wait_for_launch_before() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
