// What the simulator keeps for kernels that are for compute capability 9.0 alone: barriers in shared memory, copies by tensor
// maps, products of a group of four warps, and who knows of what.
//
// Happens-before is kept by vector clocks: `known(t)[a]` is how much of what actor a did is ordered before what thread t does
// next. Actors are the threads; for each warp its products, and its stores by tensor maps; and for each barrier the copies
// that it counts. Whoever touches shared memory must know of who touched it before: this takes the place of the stretches
// between __syncthreads, which other kernels are checked by (memory.cpp).
#pragma once
#include "runtime.h"
#include "sim_hopper.h"
#include <unordered_map>

namespace sim {
constexpr int MAX_BARRIERS = 64, GROUP = 128, MAX_GROUPS = MAX_THREADS / GROUP, MEETINGS = 16;
constexpr int ALL_REGISTERS = 65536;

// 2 bytes that threads touch. It holds what was done in the block of this generation.
struct ThreadCell {
    uint32_t generation, write_clock, read_clock;
    uint16_t writer, reader;
};
constexpr uint16_t NOBODY = 0xffff, SEVERAL_THREADS = 0xfffe;

// 16 bytes, which copies write and products read at once.
enum ChunkState : uint8_t {
    WHOLE = 1,    // written at once by `writer`; without it, the cells say who wrote
    COPYING = 2,  // a copy to it has not landed
};
struct Chunk {
    uint32_t generation, write_clock, store_clock;
    uint16_t writer, store;  // `store`: the actor of stores that read it last
    uint8_t state, span;     // bytes over which a copy has permuted it
};

using Clock = std::vector<uint32_t>;

struct Barrier {
    char* at;
    int count, pending;     // arrivals of a phase, and how many of them this one still waits for
    long long bytes;        // that this phase still waits for
    unsigned phase;         // phases that have ended
    bool ready;             // whether barriers_ready came after its init
    uint16_t maker;         // the thread that made it, at its clock
    uint32_t made;
    Clock arriving, ended;  // what is known to those who arrive in this phase, and to those who arrived in the last one
    std::vector<Thread*> sleepers;
};

// A copy that was issued. `gather` writes it into shared memory, or `scatter` into global memory.
struct BoxCopy {
    TensorMap map;
    char* shared;
    int barrier;  // -1: a store
    int at[5], offset[2];
    uint16_t thread;
    size_t bytes;
    unsigned group;  // of a store
};

// Sums of a thread that products of tensor cores have made or are making.
struct Sums {
    float* at;
    int count, users;           // products under way that add to it
    std::vector<float> values;  // the true ones
};
// What a thread passed to a product.
struct Part {
    float* d;
    const unsigned* a;  // registers; null where a is in shared memory
};
struct PendingProduct {
    Product what;
    Part parts[GROUP];
    std::vector<unsigned> registers;  // what the threads' registers held
    unsigned group;
};
struct Rendezvous {
    const char* operation;
    int line, arrived;
    void* parts[GROUP];
};
struct WarpGroup {
    Rendezvous rendezvous;
    std::vector<PendingProduct> products;
    unsigned committed, waited;
};
struct Meeting {
    int threads, line;
    std::vector<Thread*> here;
};
struct ThreadState {
    std::vector<uint32_t> fences;  // its clock at each shared_is_written
    std::vector<Sums> sums;
    bool begun;
    int waits_for;  // a barrier, or -1
    unsigned parity;
    int line;
    unsigned stores, stores_committed, stores_waited;
};

struct Hopper {
    char* arena;
    uint32_t generation = 0;
    size_t width = 0;
    Clock known;
    std::vector<ThreadCell> cells{HOPPER_ARENA / 2};
    std::vector<Chunk> chunks{HOPPER_ARENA / 16};
    Clock product_reads = Clock(HOPPER_ARENA / 16 * MAX_WARPS);
    std::unordered_map<size_t, std::vector<std::pair<uint16_t, uint32_t>>> readers;  // of cells that SEVERAL_THREADS read
    std::vector<Barrier> barriers;
    std::vector<BoxCopy> copies;
    std::vector<ThreadState> threads{MAX_THREADS};
    WarpGroup groups[MAX_GROUPS];
    Meeting meetings[MEETINGS];
    int registers[MAX_WARPS], free_registers;
    std::vector<Thread*> wants_registers;
    int registers_wanted = 0;

    Hopper();
    ~Hopper();
    uint32_t* known_to(const Thread& t) { return known.data() + t.number * width; }
    // Numbers of actors; a thread's is its own.
    uint16_t products_of(int warp) const { return uint16_t(block->thread_count + warp); }
    uint16_t stores_of(int warp) const { return uint16_t(block->thread_count + MAX_WARPS + warp); }
    uint16_t copies_of(size_t barrier) const { return uint16_t(block->thread_count + 2 * MAX_WARPS + barrier); }
    ThreadState& state(const Thread& t) { return threads[t.number]; }
};

// clocks.cpp
void prepare_hopper();
void join(uint32_t* into, const uint32_t* from);
// What a thread did so far is published: what it does from now on is not.
void release(const Thread& t);
void all_met();
void warp_met(int warp);
const char* where(const char* p);  // in which shared memory, for messages
const char* name_of(uint16_t actor);
void check_by_clocks(const char* p, size_t bytes, bool writes, const Thread& me);
// A copy by tensor map overwrites these bytes, issued by `me`; and has done so.
void check_copy_to(const char* p, size_t bytes, const Thread& me);
void copy_landed(const char* p, size_t bytes, uint16_t actor, uint32_t clock, int span);
// The asynchronous proxy reads 16 bytes, on behalf of threads that know `known`.
Chunk& check_read_by_proxy(const char* p, const uint32_t* known, const char* what);

// barriers.cpp
int barrier_at(const void* p, const char* what);
const char* name_of_barrier(const char* p);
void bytes_landed(int barrier, size_t bytes);
void end_phase_if_done(int barrier);
void group_collective(const char* operation, int line, void* part, void (*perform)(WarpGroup&, int first_warp));
bool describe_waits(char* text, size_t capacity);

// boxes.cpp
bool land_one_copy();
// products.cpp
void check_sums(const char* p, size_t bytes, bool writes, const Thread& me);
void check_nothing_under_way(const Thread& me);
// memory.cpp
bool check_global(const char* p, size_t bytes, bool writes);
}  // namespace sim
