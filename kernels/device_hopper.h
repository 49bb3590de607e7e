// hopper.h's vocabulary for nvcc: a name, or one PTX instruction, each (PTX ISA 8.0, sm_90a).
#pragma once

#define DEV_MEMBER __device__ __forceinline__
// CUtensorMap of cuda.h.
struct alignas(64) TensorMap {
    unsigned long long bits[16];
};
#define TENSOR_MAP const __grid_constant__ TensorMap
#define DYN_SHARED_TILES(name) extern __shared__ __align__(1024) unsigned char name[]
struct alignas(8) Barrier {
    unsigned long long bits;
};

// The same in all lanes, which the compiler then knows.
DEV int uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }

// ---- barriers ----
DEV void barrier_init(Barrier* b, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
DEV void barriers_ready() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    __syncthreads();
}
DEV void barrier_expect(Barrier* b, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes) : "memory");
}
DEV void barrier_arrive(Barrier* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
// try_wait may give up early. What takes ten seconds never ends: a launch that fails says so, one that hangs does not.
DEV void barrier_wait(Barrier* b, unsigned parity) {
    asm volatile(
        "{\n.reg .pred done, late;\n.reg .u64 begin, now;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra END;\n"
        "mov.u64 begin, %%globaltimer;\n"
        "AGAIN: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@done bra END;\n"
        "mov.u64 now, %%globaltimer;\nsub.u64 now, now, begin;\nsetp.gt.u64 late, now, 10000000000;\n"
        "@!late bra AGAIN;\ntrap;\nEND:\n}" ::"r"(shared_address(b)),
        "r"(parity)
        : "memory");
}

// ---- copies by tensor maps ----
DEV void load_box(void* to, const TensorMap& map, Barrier* b, int x, int y) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared_address(to)),
        "l"(&map), "r"(shared_address(b)), "r"(x), "r"(y)
        : "memory");
}
DEV void load_box(void* to, const TensorMap& map, Barrier* b, int x, int y, int z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
            shared_address(to)),
        "l"(&map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z)
        : "memory");
}
DEV void load_box(void* to, const TensorMap& map, Barrier* b, int x, int y, int z, int w) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
        "[%2];" ::"r"(shared_address(to)),
        "l"(&map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z), "r"(w)
        : "memory");
}
DEV void load_patches(void* to, const TensorMap& map, Barrier* b, int c, int x, int y, int n, int kx, int ky) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
        "[%2], {%7, %8};" ::"r"(shared_address(to)),
        "l"(&map), "r"(shared_address(b)), "r"(c), "r"(x), "r"(y), "r"(n), "h"((unsigned short)kx), "h"((unsigned short)ky)
        : "memory");
}
DEV void store_box(const TensorMap& map, const void* from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map),
                 "r"(shared_address(from)), "r"(x), "r"(y)
                 : "memory");
}
DEV void stores_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int pending> DEV void stores_wait() { asm volatile("cp.async.bulk.wait_group %0;" ::"n"(pending) : "memory"); }
DEV void shared_is_written() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- groups of warps ----
template <int count> DEV void registers_less() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count)); }
template <int count> DEV void registers_more() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count)); }
template <int id> DEV void meet(int threads) { asm volatile("bar.sync %0, %1;" ::"n"(id), "r"(threads) : "memory"); }

// ---- products ----
DEV void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEV void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int pending> DEV void products_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory"); }

// A register of an operand is made here, not between products: those would wait for each other.
DEV void held(unsigned& x) { asm volatile("" : "+r"(x)); }
DEV void held(float& x) { asm volatile("" : "+f"(x)); }

// Sums from number i on as operands of an instruction, and their names in its text.
#define SUM(i) "+f"(d[i])
#define SUMS_8(i) SUM(i), SUM(i + 1), SUM(i + 2), SUM(i + 3), SUM(i + 4), SUM(i + 5), SUM(i + 6), SUM(i + 7)
#define SUMS_16(i) SUMS_8(i), SUMS_8(i + 8)
#define NAMES_0 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES_16 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_32 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define NAMES_48 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_64 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define SUMS_20 SUMS_16(0), SUM(16), SUM(17), SUM(18), SUM(19)
#define NAMES_20 NAMES_0 ", %16, %17, %18, %19"
#define SUMS_32 SUMS_16(0), SUMS_16(16)
#define NAMES_32_OF NAMES_0 ", " NAMES_16
#define SUMS_64 SUMS_32, SUMS_16(32), SUMS_16(48)
#define NAMES_64_OF NAMES_32_OF ", " NAMES_32 ", " NAMES_48
#define SUMS_80 SUMS_64, SUMS_16(64)
#define NAMES_80_OF NAMES_64_OF ", " NAMES_64
// d += a b over 16 of k, of 64 rows and N columns. A and B say of operands in shared memory whether their rows are values of k.
// `add` is a predicate that is always true: without it the instruction would begin at zero.
#define PRODUCT(N, type, names, sums, a, b, is_a, is_b)                                                               \
    template <int A, int B> DEV void product_of_rows(float (&d)[N / 2], unsigned long long x, unsigned long long y, type) { \
        asm volatile("{ .reg .pred add; setp.ne.b32 add, 1, 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #type "." \
                     #type " {" names "}, " a ", " b ", add, 1, 1, " is_a ", " is_b "; }"                            \
                     : sums                                                                                           \
                     : "l"(x), "l"(y), "n"(A), "n"(B));                                                               \
    }
PRODUCT(64, bf16, NAMES_32_OF, SUMS_32, "%32", "%33", "%34", "%35")
PRODUCT(64, f16, NAMES_32_OF, SUMS_32, "%32", "%33", "%34", "%35")
PRODUCT(128, bf16, NAMES_64_OF, SUMS_64, "%64", "%65", "%66", "%67")
PRODUCT(128, f16, NAMES_64_OF, SUMS_64, "%64", "%65", "%66", "%67")
PRODUCT(160, bf16, NAMES_80_OF, SUMS_80, "%80", "%81", "%82", "%83")
PRODUCT(160, f16, NAMES_80_OF, SUMS_80, "%80", "%81", "%82", "%83")
// The same with a in registers.
#define PRODUCT_HELD(N, type, names, sums, a, b, is_b)                                                                \
    template <int B> DEV void product_of_held(float (&d)[N / 2], const unsigned (&x)[4], unsigned long long y, type) { \
        asm volatile("{ .reg .pred add; setp.ne.b32 add, 1, 0; wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." #type "." \
                     #type " {" names "}, {" a "}, " b ", add, 1, 1, " is_b "; }"                                    \
                     : sums                                                                                           \
                     : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "l"(y), "n"(B));                                   \
    }
PRODUCT_HELD(40, bf16, NAMES_20, SUMS_20, "%20, %21, %22, %23", "%24", "%25")
PRODUCT_HELD(40, f16, NAMES_20, SUMS_20, "%20, %21, %22, %23", "%24", "%25")
PRODUCT_HELD(64, bf16, NAMES_32_OF, SUMS_32, "%32, %33, %34, %35", "%36", "%37")
PRODUCT_HELD(64, f16, NAMES_32_OF, SUMS_32, "%32, %33, %34, %35", "%36", "%37")

template <int N, int STEPS, class A, class B, class T> DEV void multiply_rows(float (&d)[N / 2], A a, B b, T type) {
#pragma unroll
    for (int i = 0; i < STEPS; i++)
        product_of_rows<!A::ROWS, !B::ROWS>(d, a.bits(i * A::NEXT), b.bits(i * B::NEXT), type);
}
template <int N, int STEPS, class B, class T>
DEV void multiply_held(float (&d)[N / 2], const unsigned (&a)[STEPS][4], B b, T type) {
#pragma unroll
    for (int i = 0; i < STEPS; i++) product_of_held<!B::ROWS>(d, a[i], b.bits(i * B::NEXT), type);
}
