// hopper.h's vocabulary for the simulator.
#pragma once
#include "sim.h"

namespace sim {
// A tensor map: what src/device/gpu/tensor_map.rs writes for the simulator in the 128 bytes that the driver's has.
struct alignas(64) TensorMap {
    uint64_t address, strides[4];  // bytes from one to the next along dimensions 1 to 4
    uint32_t sizes[5], box[5];     // `patches`: box[0] channels of box[1] pixels
    int8_t lower[2], upper[2];     // corners of patches along x and y
    uint8_t steps[5], rank, span, element, patches;
};
static_assert(sizeof(TensorMap) == 128);

void barrier_init(void* b, int count);
void barriers_ready(int line);
void barrier_expect(void* b, unsigned bytes, int line);
void barrier_arrive(void* b, int line);
void barrier_wait(void* b, unsigned parity, int line);
void load_box(void* to, const TensorMap& map, void* b, int rank, const int* at);
void load_patches(void* to, const TensorMap& map, void* b, const int* at, int kx, int ky);
void store_box(const TensorMap& map, const void* from, int rank, const int* at);
void stores_commit();
void stores_wait(int pending);
void shared_is_written();
void registers_become(int count, bool more, int line);
void meet(int id, int threads, int line);
unsigned shared_address(const void* p);

struct Product {
    uint64_t a, b;    // descriptors; a's is not read where it is in registers
    int a_next, b_next;  // from one 16 of k to the next, in units of 16 bytes
    int n, steps;
    bool a_rows, b_rows, bf16;
};
void products_begin(int line);
void multiply(float* d, const unsigned* a, const Product& product, int line);
void products_commit(int line);
void products_wait(int pending, int line);
}  // namespace sim

using TensorMap = ::sim::TensorMap;
#define DEV_MEMBER
#define TENSOR_MAP const TensorMap
#define DYN_SHARED_TILES(name) unsigned char* name = static_cast<unsigned char*>(::sim::dynamic_shared())
struct alignas(8) Barrier {
    uint64_t bits;
};

DEV int uniform(int x) { return x; }
DEV void barrier_init(Barrier* b, int count) { ::sim::barrier_init(b, count); }
DEV void barriers_ready(int line = __builtin_LINE()) { ::sim::barriers_ready(line); }
DEV void barrier_expect(Barrier* b, unsigned bytes, int line = __builtin_LINE()) { ::sim::barrier_expect(b, bytes, line); }
DEV void barrier_arrive(Barrier* b, int line = __builtin_LINE()) { ::sim::barrier_arrive(b, line); }
DEV void barrier_wait(Barrier* b, unsigned parity, int line = __builtin_LINE()) { ::sim::barrier_wait(b, parity, line); }
DEV void load_box(void* to, const TensorMap& map, Barrier* b, int x, int y) {
    const int at[] = {x, y};
    ::sim::load_box(to, map, b, 2, at);
}
DEV void load_box(void* to, const TensorMap& map, Barrier* b, int x, int y, int z) {
    const int at[] = {x, y, z};
    ::sim::load_box(to, map, b, 3, at);
}
DEV void load_box(void* to, const TensorMap& map, Barrier* b, int x, int y, int z, int w) {
    const int at[] = {x, y, z, w};
    ::sim::load_box(to, map, b, 4, at);
}
DEV void load_patches(void* to, const TensorMap& map, Barrier* b, int c, int x, int y, int n, int kx, int ky) {
    const int at[] = {c, x, y, n};
    ::sim::load_patches(to, map, b, at, kx, ky);
}
DEV void store_box(const TensorMap& map, const void* from, int x, int y) {
    const int at[] = {x, y};
    ::sim::store_box(map, from, 2, at);
}
DEV void stores_commit() { ::sim::stores_commit(); }
template <int pending> DEV void stores_wait() { ::sim::stores_wait(pending); }
DEV void shared_is_written() { ::sim::shared_is_written(); }
template <int count> DEV void registers_less(int line = __builtin_LINE()) { ::sim::registers_become(count, false, line); }
template <int count> DEV void registers_more(int line = __builtin_LINE()) { ::sim::registers_become(count, true, line); }
template <int id> DEV void meet(int threads, int line = __builtin_LINE()) { ::sim::meet(id, threads, line); }
DEV void held(unsigned&) {}
DEV void held(float&) {}
DEV unsigned shared_address(const void* p) { return ::sim::shared_address(p); }
DEV void products_begin(int line = __builtin_LINE()) { ::sim::products_begin(line); }
DEV void products_commit(int line = __builtin_LINE()) { ::sim::products_commit(line); }
template <int pending> DEV void products_wait(int line = __builtin_LINE()) { ::sim::products_wait(pending, line); }
template <int N, int STEPS, class A, class B, class T>
DEV void multiply_rows(float (&d)[N / 2], A a, B b, T, int line = __builtin_LINE()) {
    ::sim::multiply(d, nullptr, {a.bits(), b.bits(), A::NEXT, B::NEXT, N, STEPS, A::ROWS, B::ROWS, std::is_same_v<T, bf16>},
                    line);
}
template <int N, int STEPS, class B, class T>
DEV void multiply_held(float (&d)[N / 2], const unsigned (&a)[STEPS][4], B b, T, int line = __builtin_LINE()) {
    ::sim::multiply(d, &a[0][0], {0, b.bits(), 0, B::NEXT, N, STEPS, true, B::ROWS, std::is_same_v<T, bf16>}, line);
}
