// The kernels' vocabulary for nvcc: a name, or one PTX instruction, each. No toolkit headers beyond what nvcc includes.
#pragma once
#include <stdint.h>

#define KERNEL(name) extern "C" __global__ void name
#define KERNEL_BOUNDS(name, threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks) name
#define CONSTANT(name, value) constexpr int name = value
#define SHARED_ARRAY(type, name, length) __shared__ type name[length]
#define DYN_SHARED(type, name)                                     \
    extern __shared__ __align__(16) unsigned char dynamic_shared[]; \
    type* name = reinterpret_cast<type*>(dynamic_shared)
#define DEV static __device__ __forceinline__

// ---- 16-bit floats ----
struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};
DEV float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
DEV float to_float(f16 x) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(x.bits));
    return value;
}
DEV bf16 to_bf16(float x) {
    bf16 value;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(value.bits) : "f"(x));
    return value;
}
DEV f16 to_f16(float x) {
    f16 value;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(value.bits) : "f"(x));
    return value;
}
// Two values in one register, `low` in the low half.
DEV unsigned pack2(float low, float high, bf16) {
    unsigned bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}
DEV unsigned pack2(float low, float high, f16) {
    unsigned bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    return bits;
}

// 2^x to 2 units in the last place; 0 where that is below 2^-126.
DEV float exp2_or_zero(float x) {
    float value;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

// 1 / x to a unit in the last place; 0 for an infinite x.
DEV float reciprocal(float x) {
    float value;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(value) : "f"(x));
    return value;
}

// x, of which the compiler knows no more: what was found before a loop is not computed anew in it.
DEV int opaque(int x) {
    asm("" : "+r"(x));
    return x;
}
template <class T> DEV const T* opaque(const T* x) {
    asm("" : "+l"(x));
    __builtin_assume(__isGlobal(x));
    return x;
}
// In a branch that is seldom taken: keeps the compiler from computing it always and choosing afterwards.
DEV void stay_a_branch() { asm volatile(""); }

// ---- warps: all 32 lanes take part ----
DEV float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
DEV float warp_sum(float value) {
#pragma unroll
    for (int mask = 16; mask; mask /= 2) value += shuffle_xor(value, mask);
    return value;
}
DEV float warp_max(float value) {
#pragma unroll
    for (int mask = 16; mask; mask /= 2) value = fmaxf(value, shuffle_xor(value, mask));
    return value;
}

// ---- asynchronous copies to shared memory ----
DEV unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
// 16 bytes, of which the first `bytes` (0 to 16) come from `from` and the rest are zeros.
DEV void copy_async(void* to, const void* from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(bytes)
                 : "memory");
}
// 16 bytes: from `from` unless `there` is 0, then zeros. Fetches 128 bytes into L2: neighbours are the next to be asked for.
DEV void copy_async_if(void* to, const void* from, unsigned there) {
    asm volatile(
        "{ .reg .pred none; setp.eq.u32 none, %2, 0; cp.async.cg.shared.global.L2::128B [%0], [%1], 16, none; }" ::"r"(
            shared_address(to)),
        "l"(from), "r"(there)
        : "memory");
}
DEV void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` of this thread's latest groups are still under way.
template <int pending> DEV void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }

// ---- tensor cores ----
// Four 8x8 matrices of 16-bit values; lane l gives the address of row l % 8 of matrix l / 8. `trans` transposes each.
DEV void load_matrices(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEV void load_matrices_trans(unsigned (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
// d [16, 8] += a [16, 16] b [16, 8]: mma.m16n8k16, row-major a, column-major b, float sums.
DEV void multiply_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], bf16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
DEV void multiply_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], f16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// A warp's whole tile: d[i][j] += a[i] b[j]. One call, because the simulator's lanes meet once a call.
template <int M, int N, class T>
DEV void multiply_tile(float (&d)[M][N][4], const unsigned (&a)[M][4], const unsigned (&b)[N][2], T type) {
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int j = 0; j < N; j++) multiply_16x8x16(d[i][j], a[i], b[j], type);
}
