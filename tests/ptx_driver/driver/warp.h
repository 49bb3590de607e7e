// A warp that runs, the block that it is part of, and the instructions that are more than arithmetic.
#pragma once
#include <bit>
#include <map>
#include <mutex>

#include "ptx.h"

// What a device has allocated. Kernels may read and write there and nowhere else; the tables of programs they may read.
class Memory {
   public:
    void add(u64 address, u64 bytes) { ranges[address] = bytes; }
    // Its bytes; 0 for what is no allocation.
    u64 remove(u64 address);
    bool contains(u64 address, u64 bytes) const { return within(ranges, address).second >= address + bytes; }
    // Begin and end of the allocation that the address is in; of nothing, zeros.
    std::pair<u64, u64> around(u64 address) const { return within(ranges, address); }

    static void constants(const void* data, size_t bytes) { tables[(u64)data] = bytes; }
    static bool is_constant(u64 address, u64 bytes) { return within(tables, address).second >= address + bytes; }

   private:
    std::map<u64, u64> ranges;  // bytes, by address
    static std::map<u64, u64> tables;
    static std::pair<u64, u64> within(const std::map<u64, u64>& ranges, u64 address);
};

struct Launch {
    std::shared_ptr<Kernel> kernel;
    u32 grid[3] = {1, 1, 1}, block[3] = {1, 1, 1}, dynamic_shared = 0;
    std::vector<u8> parameters;
};

// How often each kind of instruction was executed, by warps and by threads.
struct Counts {
    std::vector<u64> warps, threads;
    void add(const Counts&);
};

struct Copy {
    u32 to;
    u64 from;
    u32 bytes, whole;
};

struct Block {
    std::vector<u8> shared;
    // For every two bytes of shared memory: the interval between barriers in which a warp wrote or read them last, times
    // 256, and which warp it was; 255 for several. A kernel in which two warps meet there in one interval, one of them
    // writing, depends on their order.
    std::vector<u32> written, read;
    u32 interval = 1;
};

struct Warp {
    const Kernel* kernel = nullptr;
    const Memory* memory = nullptr;
    Block* block = nullptr;
    const u8* parameters = nullptr;
    u32 index = 0;
    u32 (*words)[LANES] = nullptr;
    u64 (*longs)[LANES] = nullptr;
    u32* predicates = nullptr;
    Mask carry = 0;
    std::vector<u8> local;
    // Asynchronous copies that are under way, and how many of them each committed group ends with.
    std::vector<Copy> copies[LANES];
    std::vector<size_t> groups[LANES];
    // The allocation that was used last.
    u64 near_begin = 1, near_end = 0;
    Counts counts;

    // Where each lane is, and which wait at a barrier or for the others.
    u32 at[LANES] = {};
    Mask alive = 0, at_barrier = 0, waiting = 0;

    std::vector<u32> word_file, predicate_file;
    std::vector<u64> long_file;

    // Whether the lanes may use these bytes of global memory.
    bool may(u64 address, u64 bytes, bool only_read);
};

// Throws an Error with the place in the kernel.
[[noreturn, gnu::format(printf, 3, 4)]] void fail(const Warp&, const Instruction&, const char* what, ...);

template <class F> inline void each_lane(Mask mask, F f) {
    if (mask == ~0u) {
        for (int lane = 0; lane < LANES; lane++) f(lane);
    } else {
        for (; mask; mask &= mask - 1) f(std::countr_zero(mask));
    }
}

// Runs all blocks of a launch; throws what is wrong.
void run(const Launch&, const Memory&, Counts&);

// memory.cpp
Run access(const std::string& space, bool load, u32 bytes, bool wide, bool long_pointer);
void copy_async(Warp&, const Instruction&, Mask);
void commit_copies(Warp&, const Instruction&, Mask);
void wait_for_copies(Warp&, const Instruction&, Mask);
// Throws where a warp may not use these bytes of shared memory, or meets another there.
void use_shared(Warp&, const Instruction&, int lane, u64 address, u32 bytes, bool write);

// collective.cpp
void warp_sync(Warp&, const Instruction&, Mask);
void shuffle_xor(Warp&, const Instruction&, Mask);
void load_matrices(Warp&, const Instruction&, Mask);
void multiply_bf16(Warp&, const Instruction&, Mask);
void multiply_f16(Warp&, const Instruction&, Mask);
