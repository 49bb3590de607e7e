// The simulator's inside: one block of threads at a time on each host thread, every CUDA thread a coroutine.
//
// A coroutine runs until it must wait (a barrier, or the other lanes of its warp). Whoever arrives last does what all
// waited for and goes on; nobody polls. Running as far as possible while others stand still is the schedule in which
// a missing barrier shows; the tests run it forwards and backwards over the threads.
#pragma once
#include "sim.h"
#include <memory>
#include <vector>

namespace sim {
constexpr int MAX_THREADS = 1024, MAX_WARPS = MAX_THREADS / 32;
constexpr size_t STACK_BYTES = 64 << 10, GUARD_BYTES = 4096;
// What a block may use on every target: 99 KiB on 8.6, 8.9 and 12.0, of which 48 KiB may be static.
constexpr size_t SHARED_LIMIT = 99 << 10, STATIC_LIMIT = 48 << 10;
// Static shared memory lies at the arena's start, dynamic shared memory ends with it; what follows is out of bounds.
constexpr size_t ARENA_BYTES = 100 << 10, BEYOND_BYTES = 64 << 10;
// The same for kernels that are for 9.0 alone (hopper_runtime.h has what else they need).
constexpr size_t HOPPER_LIMIT = 227 << 10, HOPPER_ARENA = 228 << 10;

// What Rust hands over (src/device/gpu/simulator.rs has the same structs).
enum Role : uint32_t { INPUT, OUTPUT, UPDATE };
// Device memory that a pointer argument stands for. `written` has a byte for each byte: 0 until something is stored; in a
// traced launch, that byte's bits LOADED and STORED say what was done with it.
constexpr uint8_t LOADED = 2, STORED = 4;
struct Range {
    const char* name;
    char* start;
    size_t bytes;
    uint8_t* written;
    Role role;
};
struct Launch {
    const char* kernel;
    void (*call)(void* const* arguments);
    void* const* arguments;
    const Range* ranges;
    size_t range_count;
    unsigned grid[3], block[3];
    size_t dynamic_bytes;
    // `hopper`: a kernel that is for 9.0 alone.
    bool checked, backwards, traced, hopper;
};

struct Copy {
    void* to;
    const void* from;
    int bytes;
};
struct Thread {
    uint3 index;
    uint16_t number;
    uint8_t lane, warp;
    void* stack_pointer;  // null before the first run
    char* stack;
    // Asynchronous copies not waited for, and where each committed group ends among them.
    std::vector<Copy> copies;
    std::vector<size_t> groups;
};
struct Warp {
    uint32_t runnable, alive, at_barrier;
    uint32_t syncs;  // __syncwarps so far
    // The operation that some lanes have arrived at.
    const char* operation;
    uint32_t arrived;
    void* parts[32];
};
// Who touched 2 bytes of shared memory last, and when: in which stretch between barriers, after how many __syncwarps.
// Stretches are numbered through all blocks of a host thread, so a cell of an earlier block reads as never written.
constexpr uint8_t SEVERAL = 255;
struct Cell {
    uint32_t write_stretch, write_syncs, read_stretch, read_syncs;
    uint8_t write_warp, write_lane, read_warp, read_lane;
    bool copying;  // an asynchronous copy to it has not been waited for
};

struct Static {
    const void* site;
    char* start;
    size_t bytes;
    const char* name;
};
struct Hopper;

struct Block {
    const Launch* launch = nullptr;
    Thread threads[MAX_THREADS];
    Warp warps[MAX_WARPS];
    Thread* current = nullptr;  // null while the host's own code runs
    int thread_count = 0, warp_count = 0, current_warp = 0, alive = 0;
    int waiting = 0, barrier_line = 0;
    void* host_stack_pointer = nullptr;
    char* stacks = nullptr;
    std::vector<char*> free_stacks;
    bool performing = false;  // an operation of a warp, which touches all lanes' parts
    // The arena of this launch, and that of every launch that is not for 9.0 alone.
    char *shared = nullptr, *small = nullptr;
    size_t arena = ARENA_BYTES, static_used = 0;
    std::vector<Static> static_arrays;
    // Of kernels for 9.0 alone: made when the first one runs.
    std::unique_ptr<Hopper> hopper;
    std::vector<Cell> cells;
    uint32_t stretch = 1, first_stretch = 1;
    char message[512];
    bool failed = false;

    Block();
    ~Block();
    void free_all_stacks();
    char* dynamic() const { return shared + arena - launch->dynamic_bytes; }
    bool in_shared(const void* p) const { return p >= shared && p < shared + arena + BEYOND_BYTES; }
    bool in_stacks(const void* p) const { return p >= stacks && p < stacks + MAX_THREADS * (STACK_BYTES + GUARD_BYTES); }
};
extern __thread Block* block __attribute__((tls_model("initial-exec")));

// Ends the block with a message that names kernel, block and thread. Does not return to the coroutine.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// fibers.cpp: runs the prepared block to its end, or to its first failure
void run_threads();
// The running thread waits until another one wakes it.
void sleep();
void wake(Thread& thread);
char* reserve(size_t bytes);
// memory.cpp
void check_access(const void* p, size_t bytes, bool writes, const Thread& by);
void check_copies_waited_for(const Thread& thread);
}  // namespace sim
