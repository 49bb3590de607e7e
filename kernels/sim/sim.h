// The kernels' vocabulary for the simulator: every CUDA thread is a coroutine, every wait a call into the runtime.
// Everything here is static: the same kernel is compiled several times into one program (by storage type, with and
// without checks), and nothing of one compilation may be merged with another.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>
#include <utility>

struct uint3 {
    unsigned x, y, z;
};
typedef uint3 dim3;
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};

// What the runtime (runtime.h) offers to kernels.
namespace sim {
struct Place {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
};
// Where the running coroutine is. Initial-exec: one instruction instead of a call.
extern __thread Place place __attribute__((tls_model("initial-exec")));

void barrier(int line);
void* dynamic_shared();
void* static_shared(const void* site, size_t bytes, size_t align, const char* name);
void copy_async(void* to, const void* from, int bytes);
void copy_async_commit();
void copy_async_wait(int pending);

// An operation of all 32 lanes: each lane leaves a pointer to its part, the last one to arrive performs it for all.
using Perform = void (*)(void* const* lanes);
void collective(const char* operation, void* part, Perform perform);
int lane();

struct Rows {
    unsigned* registers;
    const void* row;
};
void load_matrices(void* const* lanes);
void load_matrices_trans(void* const* lanes);
struct Tile {
    float* d;
    const unsigned *a, *b;
    int m, n;
};
void multiply_tile_bf16(void* const* lanes);
void multiply_tile_f16(void* const* lanes);

template <auto kernel> struct Call;
template <class... P, void (*kernel)(P...)> struct Call<kernel> {
    template <size_t... I>
    __attribute__((no_sanitize_thread)) static void with(void* const* arguments, std::index_sequence<I...>) {
        kernel(*static_cast<std::remove_cv_t<P>*>(arguments[I])...);
    }
    static constexpr auto indices = std::index_sequence_for<P...>{};
    template <size_t... sizes> static constexpr bool takes() {
        constexpr size_t given[] = {sizes...}, expected[] = {sizeof(P)...};
        if (sizeof...(sizes) != sizeof...(P)) return false;
        for (size_t i = 0; i < sizeof...(P); i++)
            if (given[i] != expected[i]) return false;
        return true;
    }
};
}  // namespace sim

// Makes `kernel`, whose parameters have the sizes that build.rs read from its source, callable as `symbol`.
#define SIM_EXPORT(kernel, symbol, ...)                                                          \
    static_assert(sim::Call<&kernel>::takes<__VA_ARGS__>(), "build.rs misread the parameters");  \
    extern "C" __attribute__((no_sanitize_thread)) void symbol(void* const* arguments) {         \
        sim::Call<&kernel>::with(arguments, sim::Call<&kernel>::indices);                        \
    }

// ---- language ----
#define DEV static inline
#define KERNEL(name) static void name
#define KERNEL_BOUNDS(name, threads, blocks) static void name
#define CONSTANT(name, value) constexpr int name = value
#define threadIdx (::sim::place.thread)
#define blockIdx (::sim::place.block)
#define blockDim (::sim::place.block_dim)
#define gridDim (::sim::place.grid_dim)
#define __syncthreads() ::sim::barrier(__LINE__)
#define DYN_SHARED(type, name) type* name = static_cast<type*>(::sim::dynamic_shared())
#define SHARED_ARRAY(type, name, length) \
    static const char name##_site = 0;    \
    type(&name)[length] =                 \
        *static_cast<type(*)[length]>(::sim::static_shared(&name##_site, sizeof(type[length]), alignof(type), #name))

// ---- arithmetic ----
DEV float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
DEV unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
DEV int min(int a, int b) { return a < b ? a : b; }
DEV long long min(long long a, long long b) { return a < b ? a : b; }
DEV int max(int a, int b) { return a > b ? a : b; }
DEV float rsqrtf(float x) { return 1.f / sqrtf(x); }
// Never fused, here because of -ffp-contract=off.
DEV float __fadd_rn(float a, float b) { return a + b; }
DEV float __fmul_rn(float a, float b) { return a * b; }
DEV float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
DEV float __fsqrt_rn(float x) { return sqrtf(x); }
DEV float exp2_or_zero(float x) {
    const float value = exp2f(x);
    return value < 1.17549435e-38f ? 0.f : value;
}
DEV float reciprocal(float x) { return 1.f / x; }
DEV unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)((uint64_t)a * b >> 32); }

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};
DEV float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
DEV float to_float(f16 x) {
    _Float16 half;
    memcpy(&half, &x, 2);
    return (float)half;
}
DEV bf16 to_bf16(float x) {
    const unsigned bits = __float_as_uint(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return {0x7fff};
    return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
DEV f16 to_f16(float x) {
    const _Float16 half = (_Float16)x;
    f16 value;
    memcpy(&value, &half, 2);
    return value;
}
DEV unsigned pack2(float low, float high, bf16) { return to_bf16(low).bits | (unsigned)to_bf16(high).bits << 16; }
DEV unsigned pack2(float low, float high, f16) { return to_f16(low).bits | (unsigned)to_f16(high).bits << 16; }

template <class T> DEV T opaque(T x) { return x; }
DEV void stay_a_branch() {}

// ---- warps ----
DEV void __syncwarp() { ::sim::collective("__syncwarp", nullptr, nullptr); }
struct Shuffled {
    float in, out;
    int mask;
};
DEV void shuffle_xor_of(void* const* lanes) {
    for (int l = 0; l < 32; l++) {
        Shuffled* part = static_cast<Shuffled*>(lanes[l]);
        part->out = static_cast<Shuffled*>(lanes[l ^ part->mask])->in;
    }
}
DEV float shuffle_xor(float value, int mask) {
    Shuffled part{value, 0.f, mask};
    ::sim::collective("shuffle_xor", &part, shuffle_xor_of);
    return part.out;
}
// The butterfly of device.h, so that sums have the same order.
template <class Combine> DEV void butterfly(void* const* lanes, Combine combine) {
    float now[32], next[32];
    for (int l = 0; l < 32; l++) now[l] = *static_cast<float*>(lanes[l]);
    for (int mask = 16; mask; mask /= 2) {
        for (int l = 0; l < 32; l++) next[l] = combine(now[l], now[l ^ mask]);
        memcpy(now, next, sizeof now);
    }
    for (int l = 0; l < 32; l++) *static_cast<float*>(lanes[l]) = now[l];
}
DEV float warp_sum(float value) {
    ::sim::collective("warp_sum", &value,
                      [](void* const* lanes) { butterfly(lanes, [](float a, float b) { return a + b; }); });
    return value;
}
DEV float warp_max(float value) {
    ::sim::collective("warp_max", &value,
                      [](void* const* lanes) { butterfly(lanes, [](float a, float b) { return fmaxf(a, b); }); });
    return value;
}

// ---- asynchronous copies and tensor cores: device.h says what they do ----
DEV void copy_async(void* to, const void* from, int bytes) { ::sim::copy_async(to, from, bytes); }
DEV void copy_async_if(void* to, const void* from, unsigned there) { ::sim::copy_async(to, from, there ? 16 : 0); }
DEV void copy_async_commit() { ::sim::copy_async_commit(); }
template <int pending> DEV void copy_async_wait() { ::sim::copy_async_wait(pending); }
DEV void load_matrices(unsigned (&r)[4], const void* row) {
    ::sim::Rows part{r, row};
    ::sim::collective("load_matrices", &part, ::sim::load_matrices);
}
DEV void load_matrices_trans(unsigned (&r)[4], const void* row) {
    ::sim::Rows part{r, row};
    ::sim::collective("load_matrices_trans", &part, ::sim::load_matrices_trans);
}
template <int M, int N>
DEV void multiply_tile(float (&d)[M][N][4], const unsigned (&a)[M][4], const unsigned (&b)[N][2], bf16) {
    ::sim::Tile part{&d[0][0][0], &a[0][0], &b[0][0], M, N};
    ::sim::collective("multiply_tile", &part, ::sim::multiply_tile_bf16);
}
template <int M, int N>
DEV void multiply_tile(float (&d)[M][N][4], const unsigned (&a)[M][4], const unsigned (&b)[N][2], f16) {
    ::sim::Tile part{&d[0][0][0], &a[0][0], &b[0][0], M, N};
    ::sim::collective("multiply_tile", &part, ::sim::multiply_tile_f16);
}
