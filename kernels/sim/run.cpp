// The one entry point for Rust.
#include "hopper_runtime.h"
#include <memory>
#include <stdio.h>

namespace sim {
static void prepare(Block& b, const Launch& launch) {
    const unsigned* size = launch.block;
    b.launch = &launch;
    b.shared = b.small, b.arena = ARENA_BYTES;
    b.thread_count = b.alive = size[0] * size[1] * size[2];
    b.warp_count = b.thread_count / 32;
    b.current_warp = launch.backwards ? b.warp_count - 1 : 0;
    b.waiting = 0;
    b.failed = b.performing = false;
    b.static_used = 0;
    b.static_arrays.clear();
    b.first_stretch = ++b.stretch;
    for (int i = 0; i < b.thread_count; i++) {
        Thread& t = b.threads[i];
        t.index = {i % size[0], i / size[0] % size[1], i / (size[0] * size[1])};
        t.number = i, t.lane = i % 32, t.warp = i / 32;
        t.stack_pointer = nullptr, t.stack = nullptr;
        t.copies.clear(), t.groups.clear();
    }
    for (int k = 0; k < b.warp_count; k++) {
        b.warps[k] = Warp{};
        b.warps[k].runnable = b.warps[k].alive = ~0u;
    }
    if (launch.hopper) prepare_hopper();
    memset(b.dynamic(), 0xff, launch.dynamic_bytes);
}
}  // namespace sim

// Runs blocks `first` to `end` - 1 (x runs fastest) of a launch on this host thread. False with a message where a check
// failed. The caller has checked the block's size, the shared memory and the arguments.
extern "C" bool sim_run_blocks(const sim::Launch* launch, size_t first, size_t end, char* message, size_t capacity) {
    using namespace sim;
    static thread_local std::unique_ptr<Block> own;
    if (!own) own = std::make_unique<Block>();
    Block& b = *(block = own.get());
    const unsigned* grid = launch->grid;
    place.block_dim = {launch->block[0], launch->block[1], launch->block[2]};
    place.grid_dim = {grid[0], grid[1], grid[2]};
    for (size_t i = first; i < end; i++) {
        place.block = {unsigned(i % grid[0]), unsigned(i / grid[0] % grid[1]), unsigned(i / grid[0] / grid[1])};
        prepare(b, *launch);
        run_threads();
        if (b.failed) {
            snprintf(message, capacity, "%s", b.message);
            b.free_all_stacks();
            return false;
        }
    }
    return true;
}
