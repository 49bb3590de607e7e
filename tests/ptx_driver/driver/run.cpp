// Warps, blocks and launches. The lanes of a warp that are at the lowest instruction go first, together, until they meet
// others: so they come together again where the code does (the "min-PC" rule; Collange 2011, "Stack-less SIMT
// reconvergence at low cost").
#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <thread>
#include <utility>

#include "fault.h"
#include "warp.h"

void fail(const Warp& w, const Instruction& i, const char* what, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, what);
    vsnprintf(text, sizeof text, what, arguments);
    va_end(arguments);
    throw Error(w.kernel->name + ": line " + std::to_string(i.line) + " of the PTX, `" + i.text + "`: " + text);
}

void Counts::add(const Counts& other) {
    const size_t size = std::max(warps.size(), other.warps.size());
    warps.resize(size);
    threads.resize(size);
    for (size_t i = 0; i < other.warps.size(); i++) {
        warps[i] += other.warps[i];
        threads[i] += other.threads[i];
    }
}

namespace {

// Runs a warp until every lane has ended or waits at the block's barrier.
void advance(Warp& w) {
    const std::vector<Instruction>& code = w.kernel->code;
    while (w.alive & ~w.at_barrier) {
        const Mask ready = w.alive & ~w.at_barrier & ~w.waiting;
        if (!ready) {
            // Everybody waits: for what the warp does together all must be at one place.
            const u32 first = w.at[std::countr_zero(w.waiting)];
            bool together = w.waiting == w.alive;
            each_lane(w.waiting, [&](int lane) { together &= w.at[lane] == first; });
            if (!together) fail(w, code[first], "lanes of one warp wait at different places");
            w.waiting = 0;
            continue;
        }
        // Those at the lowest instruction go, until they come to where others are.
        u32 at = ~0u, meeting = ~0u;
        Mask mask = 0;
        each_lane(ready, [&](int lane) { at = std::min(at, w.at[lane]); });
        each_lane(ready, [&](int lane) {
            if (w.at[lane] == at) mask |= 1u << lane;
            else meeting = std::min(meeting, w.at[lane]);
        });
        bool going = true;
        while (going) {
            if (at >= code.size()) throw Error(w.kernel->name + ": ran past its end");
            const Instruction& i = code[at];
            Mask active = mask;
            if (i.guard) active &= i.guard > 0 ? w.predicates[i.guard_register] : ~w.predicates[i.guard_register];
            w.counts.warps[i.kind]++;
            w.counts.threads[i.kind] += (u64)std::popcount(active);
            u32 next = at + 1;
            switch (i.flow) {
                case Flow::Next:
                    if (active) i.run(w, i, active);
                    break;
                case Flow::Branch:
                    if (active == mask) {
                        next = i.target;
                    } else if (active) {
                        each_lane(mask, [&](int lane) { w.at[lane] = active >> lane & 1 ? i.target : at + 1; });
                        going = false;
                        continue;
                    }
                    break;
                case Flow::Exit:
                    each_lane(active, [&](int lane) {
                        if (!w.copies[lane].empty()) fail(w, i, "ends before asynchronous copies that nobody waited for");
                    });
                    w.alive &= ~active;
                    mask &= ~active;
                    if (!mask) going = false;
                    break;
                case Flow::Barrier:
                    if (active != mask) fail(w, i, "a barrier that some lanes skip");
                    w.at_barrier |= active;
                    going = false;
                    break;
                case Flow::Together:
                    if (active == w.alive) {
                        i.run(w, i, active);
                    } else if (active) {
                        each_lane(mask, [&](int lane) { w.at[lane] = active >> lane & 1 ? at : at + 1; });
                        w.waiting |= active;
                        going = false;
                        continue;
                    }
                    break;
            }
            at = next;
            if (at >= meeting) going = false;
            if (!going) each_lane(mask, [&](int lane) { w.at[lane] = at; });
        }
    }
}

// A block and its warps: kept from one to the next.
struct Workspace {
    Block block;
    std::vector<std::unique_ptr<Warp>> warps;
};

void begin(Workspace& space, const Launch& launch, const Memory& memory, const u32 (&position)[3]) {
    const Kernel& kernel = *launch.kernel;
    const u32 threads = launch.block[0] * launch.block[1] * launch.block[2], warps = (threads + LANES - 1) / LANES;
    Block& block = space.block;
    block.shared.assign(kernel.static_shared + launch.dynamic_shared, 0xff);
    block.written.assign(block.shared.size() / 2 + 1, 0);
    block.read.assign(block.shared.size() / 2 + 1, 0);
    block.interval = 1;
    while (space.warps.size() < warps) space.warps.push_back(std::make_unique<Warp>());
    for (u32 n = 0; n < warps; n++) {
        Warp& w = *space.warps[n];
        if (w.kernel != &kernel) {
            // No register begins with a number by chance: floats are NaN.
            w.kernel = &kernel;
            w.word_file.assign((size_t)kernel.words * LANES, 0x7fc0dead);
            w.long_file.assign((size_t)kernel.longs * LANES, 0x7ff8dead7ff8dead);
            w.predicate_file.assign(kernel.predicates + 1, 0);
            w.words = (u32(*)[LANES])w.word_file.data();
            w.longs = (u64(*)[LANES])w.long_file.data();
            w.predicates = w.predicate_file.data();
            for (const auto& [index, value] : kernel.word_constants) std::fill_n(w.words[index], LANES, value);
            for (const auto& [index, value] : kernel.long_constants) std::fill_n(w.longs[index], LANES, value);
        }
        w.local.assign((size_t)kernel.local_bytes * LANES, 0xff);
        w.memory = &memory;
        w.block = &block;
        w.parameters = launch.parameters.data();
        w.index = n;
        w.near_begin = 1, w.near_end = 0;
        w.alive = threads - n * LANES >= LANES ? ~0u : (1u << (threads - n * LANES)) - 1;
        w.at_barrier = w.waiting = w.carry = 0;
        w.counts.warps.resize(kinds().size());
        w.counts.threads.resize(kinds().size());
        std::fill_n(w.at, LANES, 0);
        for (int lane = 0; lane < LANES; lane++) {
            w.copies[lane].clear();
            w.groups[lane].clear();
        }
        for (const Special& s : kernel.specials) {
            for (u32 lane = 0; lane < LANES; lane++) {
                const u32 thread = n * LANES + lane, x = launch.block[0], y = launch.block[1];
                const u32 index[3] = {thread % x, thread / x % y, thread / x / y};
                const u32 which = (u32)s.which % 3;
                w.words[s.word][lane] = s.which < 3    ? index[which]
                                        : s.which < 6  ? launch.block[which]
                                        : s.which < 9  ? position[which]
                                        : s.which < 12 ? launch.grid[which]
                                                       : lane;
            }
        }
    }
}

void run_block(Workspace& space, const Launch& launch, const Memory& memory, const u32 (&position)[3]) {
    begin(space, launch, memory, position);
    const u32 warps = (launch.block[0] * launch.block[1] * launch.block[2] + LANES - 1) / LANES;
    static const bool backwards = is_set("PTX_DRIVER_BACKWARDS");
    for (bool any = true; any;) {
        any = false;
        for (u32 n = 0; n < warps; n++) {
            Warp& w = *space.warps[backwards ? warps - 1 - n : n];
            advance(w);
            any |= w.alive != 0;
        }
        // All that still run are at the barrier.
        for (u32 n = 0; n < warps; n++) space.warps[n]->at_barrier = 0;
        space.block.interval++;
    }
}

}  // namespace

void run(const Launch& launch, const Memory& memory, Counts& counts) {
    static const u64 most_threads = (u64)std::max(1l, setting("PTX_DRIVER_THREADS", 1));
    static std::vector<std::unique_ptr<Workspace>> spaces;
    while (spaces.size() < most_threads) spaces.push_back(std::make_unique<Workspace>());
    const u64 blocks = (u64)launch.grid[0] * launch.grid[1] * launch.grid[2];
    std::atomic<u64> next{0};
    std::mutex lock;
    std::string error;
    const auto work = [&](Workspace& space) {
        try {
            for (u64 n; (n = next++) < blocks;) {
                const u64 x = launch.grid[0], y = launch.grid[1];
                run_block(space, launch, memory, {(u32)(n % x), (u32)(n / x % y), (u32)(n / x / y)});
            }
        } catch (const std::exception& e) {
            const std::lock_guard guard(lock);
            if (error.empty()) error = e.what();
            next = blocks;
        }
    };
    const u64 threads = std::min(most_threads, (blocks + 7) / 8);
    std::vector<std::thread> others;
    for (u64 n = 1; n < threads; n++) others.emplace_back(work, std::ref(*spaces[n]));
    work(*spaces[0]);
    for (std::thread& other : others) other.join();
    for (const auto& space : spaces)
        for (const auto& w : space->warps) counts.add(std::exchange(w->counts, Counts()));
    if (!error.empty()) throw Error(error);
}
