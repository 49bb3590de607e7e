// Coroutines, and who runs next: barriers and the operations of a warp.
#include "hopper_runtime.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

// void sim_switch(void** save, void* load): saves what a call must keep, goes on where `load` was saved. Written by hand
// because a switch is most of what a barrier costs: 10 times less than swapcontext, which enters the system.
__asm__(R"(
.text
.globl sim_switch
.hidden sim_switch
.type sim_switch,@function
sim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size sim_switch,.-sim_switch
)");
extern "C" void sim_switch(void** save, void* load);

namespace sim {
__thread Place place;
__thread Block* block;

static void thread_main();

char* reserve(size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "the simulator cannot reserve %zu bytes of memory\n", bytes);
        abort();
    }
    return static_cast<char*>(p);
}

Block::Block() {
    shared = small = reserve(ARENA_BYTES + BEYOND_BYTES);
    mprotect(shared + ARENA_BYTES, BEYOND_BYTES, PROT_NONE);
    stacks = reserve(MAX_THREADS * (STACK_BYTES + GUARD_BYTES));
    for (int i = 0; i < MAX_THREADS; i++) mprotect(stacks + i * (STACK_BYTES + GUARD_BYTES), GUARD_BYTES, PROT_NONE);
    free_all_stacks();
    cells.resize(ARENA_BYTES / 2);
}
void Block::free_all_stacks() {
    free_stacks.clear();
    for (int i = MAX_THREADS - 1; i >= 0; i--) free_stacks.push_back(stacks + i * (STACK_BYTES + GUARD_BYTES));
}

static void report(const char* format, va_list arguments) {
    Block& b = *block;
    char what[400], thread[64] = "";
    vsnprintf(what, sizeof what, format, arguments);
    const uint3 at = place.block, t = place.thread;
    if (b.current) snprintf(thread, sizeof thread, ", thread (%u, %u, %u)", t.x, t.y, t.z);
    snprintf(b.message, sizeof b.message, "%s, block (%u, %u, %u)%s: %s", b.launch->kernel, at.x, at.y, at.z, thread, what);
    b.failed = true;
}

void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    report(format, arguments);
    va_end(arguments);
    // The coroutines are given up as they stand: kernels own nothing that must be freed.
    void* given_up;
    sim_switch(&given_up, block->host_stack_pointer);
    abort();
}

// Nothing can run, yet not all threads have finished. On the host's stack, so it returns.
static void report_deadlock(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    report(format, arguments);
    va_end(arguments);
}

// The next thread that can run: along the warps from the current one on, and along the lanes; or both the other way.
static Thread* next_thread() {
    Block& b = *block;
    int k = b.current_warp;
    for (int tried = 0; tried < b.warp_count; tried++) {
        if (const uint32_t runnable = b.warps[k].runnable) {
            const int lane = b.launch->backwards ? 31 - __builtin_clz(runnable) : __builtin_ctz(runnable);
            b.warps[k].runnable &= ~(1u << lane);
            b.current_warp = k;
            return &b.threads[k * 32 + lane];
        }
        k = (b.launch->backwards ? k + b.warp_count - 1 : k + 1) % b.warp_count;
    }
    return nullptr;
}

// The same, where nobody can run after a copy of a tensor map has landed: they land no earlier than that.
static Thread* next_after_copies() {
    Thread* next = next_thread();
    while (!next && block->alive && block->launch->hopper && land_one_copy()) next = next_thread();
    return next;
}

// Gives a thread that has not run yet a stack. Stacks start at different distances from a page, for the sake of the
// host's cache: equal ones would map the threads' hot variables to the same lines.
static void give_stack(Thread& thread) {
    Block& b = *block;
    thread.stack = b.free_stacks.back();
    b.free_stacks.pop_back();
    const size_t colour = thread.number * 1088 % 8192 & ~size_t(63);
    void** top = reinterpret_cast<void**>(thread.stack + GUARD_BYTES + STACK_BYTES - 128 - colour);
    *--top = nullptr;                                   // where thread_main would return to
    *--top = reinterpret_cast<void*>(thread_main);      // what sim_switch returns to
    for (int i = 0; i < 6; i++) *--top = nullptr;       // the registers it pops
    thread.stack_pointer = top;
}

static void enter(Thread& thread) {
    block->current = &thread;
    place.thread = thread.index;
}

// Leaves the running coroutine, or the host, for the next one that can run. A coroutine comes back when it was made
// runnable and is picked; the host when nothing can run.
static void leave(void** save) {
    Block& b = *block;
    Thread* next = next_after_copies();
    if (next) {
        if (!next->stack_pointer) give_stack(*next);
        if (save == &next->stack_pointer) return enter(*next);
        enter(*next);
        sim_switch(save, next->stack_pointer);
    } else if (save != &b.host_stack_pointer) {
        b.current = nullptr;
        sim_switch(save, b.host_stack_pointer);
    }
}
static void wait() { leave(&block->current->stack_pointer); }
void sleep() { wait(); }
void wake(Thread& thread) { block->warps[thread.warp].runnable |= 1u << thread.lane; }

static void release_barrier() {
    Block& b = *block;
    for (int k = 0; k < b.warp_count; k++) {
        b.warps[k].runnable |= b.warps[k].at_barrier;
        b.warps[k].at_barrier = 0;
    }
    b.waiting = 0;
    b.stretch++;
    if (b.launch->hopper) all_met();
}

void barrier(int line) {
    Block& b = *block;
    Thread& me = *b.current;
    if (b.waiting && b.barrier_line != line)
        fail("waits at the barrier in line %d while others wait at the one in line %d", line, b.barrier_line);
    b.barrier_line = line;
    if (++b.waiting == b.alive) return release_barrier();
    b.warps[me.warp].at_barrier |= 1u << me.lane;
    wait();
}

int lane() { return block->current->lane; }

void collective(const char* operation, void* part, Perform perform) {
    Block& b = *block;
    const Thread& me = *b.current;
    Warp& warp = b.warps[me.warp];
    if (warp.alive != ~0u) fail("%s needs all 32 lanes, but lanes of mask %08x have exited", operation, ~warp.alive);
    if (warp.arrived && warp.operation != operation && strcmp(warp.operation, operation) != 0)
        fail("the lanes of its warp do different things: %s here, %s elsewhere", operation, warp.operation);
    warp.operation = operation;
    warp.parts[me.lane] = part;
    warp.arrived |= 1u << me.lane;
    if (warp.arrived != ~0u) return wait();
    // Before anybody goes on, since the parts live on their stacks.
    b.performing = true;
    if (perform) perform(warp.parts);
    else {
        warp.syncs++;  // only __syncwarp orders memory
        if (b.launch->hopper) warp_met(me.warp);
    }
    b.performing = false;
    warp.arrived = 0;
    warp.runnable |= ~(1u << me.lane);
}

// The bottom of every stack. A thread that never waited leaves its stack to the next, without a switch.
static void thread_main() {
    for (;;) {
        Block& b = *block;
        Thread& me = *b.current;
        b.launch->call(b.launch->arguments);
        check_copies_waited_for(me);
        if (b.launch->hopper) check_nothing_under_way(me);
        b.alive--;
        b.warps[me.warp].alive &= ~(1u << me.lane);
        // As on the device, exited threads do not count.
        if (b.waiting && b.waiting == b.alive) release_barrier();
        char* stack = me.stack;
        Thread* next = next_after_copies();
        if (next && !next->stack_pointer) {
            next->stack = stack;
            next->stack_pointer = stack;  // any value but null: it is saved at the first wait
            enter(*next);
            continue;
        }
        b.free_stacks.push_back(stack);
        b.current = nullptr;
        if (next) enter(*next);
        void* finished;
        sim_switch(&finished, next ? next->stack_pointer : b.host_stack_pointer);
    }
}

void run_threads() {
    Block& b = *block;
    leave(&b.host_stack_pointer);
    if (b.failed || b.alive == 0) return;
    char waits[400];
    if (b.launch->hopper && describe_waits(waits, sizeof waits)) return report_deadlock("deadlock: %s", waits);
    for (int k = 0; k < b.warp_count; k++)
        if (const Warp& warp = b.warps[k]; warp.arrived)
            return report_deadlock("deadlock: lanes %08x of warp %d wait for the others at %s%s", warp.arrived, k,
                                   warp.operation, b.waiting ? "; other threads wait at a barrier" : "");
    report_deadlock("deadlock: %d of %d threads wait at the barrier in line %d", b.waiting, b.alive, b.barrier_line);
}
}  // namespace sim
