// Barriers in shared memory, groups of four warps, registers that move between them, and what a block that stands still waits for.
#include "hopper_runtime.h"
#include <algorithm>
#include <stdarg.h>
#include <stdio.h>

namespace sim {
// ---- barriers ----
const char* name_of_barrier(const char* p) {
    static __thread char texts[4][64];
    static __thread int next = 0;
    char* text = texts[next++ % 4];
    for (const Static& array : block->static_arrays)
        if (p >= array.start && p < array.start + array.bytes) {
            snprintf(text, 64, "%s[%td]", array.name, (p - array.start) / 8);
            return text;
        }
    snprintf(text, 64, "byte %td of dynamic shared memory", p - block->dynamic());
    return text;
}

int barrier_at(const void* p, const char* what) {
    Hopper& h = *block->hopper;
    for (size_t i = 0; i < h.barriers.size(); i++)
        if (h.barriers[i].at == p) {
            const Barrier& b = h.barriers[i];
            const Thread& me = *block->current;
            const bool known = !block->launch->checked || b.made <= h.known_to(me)[b.maker];
            if (!b.ready || !known)
                fail("%s of the barrier `%s`, which thread %d has made with no barriers_ready between", what,
                     name_of_barrier(b.at), b.maker);
            return int(i);
        }
    if (!block->in_shared(p)) fail("%s of a barrier outside of shared memory", what);
    fail("%s of `%s`, which is no barrier: nobody has called barrier_init", what, name_of_barrier(static_cast<const char*>(p)));
}

void barrier_init(void* p, int count) {
    Block& b = *block;
    Hopper& h = *b.hopper;
    if (!b.in_shared(p) || reinterpret_cast<uintptr_t>(p) % 8) fail("barrier_init at no multiple of 8 in shared memory");
    if (count < 1 || count >= 1 << 20) fail("barrier_init for %d arrivals; expected 1 to 1048575", count);
    for (const Barrier& other : h.barriers)
        if (other.at == p) fail("barrier_init of `%s`, which is a barrier already", name_of_barrier(other.at));
    if (h.barriers.size() == MAX_BARRIERS) fail("more than %d barriers in a block", MAX_BARRIERS);
    const uint32_t now = b.launch->checked ? h.known_to(*b.current)[b.current->number] : 0;
    Barrier barrier{static_cast<char*>(p), count, count, 0, 0, false, b.current->number, now, {}, {}, {}};
    if (b.launch->checked) barrier.arriving.assign(h.width, 0), barrier.ended.assign(h.width, 0);
    h.barriers.push_back(std::move(barrier));
}

void barriers_ready(int line) {
    barrier(line);
    Hopper& h = *block->hopper;
    const Thread& me = *block->current;
    for (Barrier& b : h.barriers)
        if (!block->launch->checked || b.made <= h.known_to(me)[b.maker]) b.ready = true;
}

void end_phase_if_done(int i) {
    Hopper& h = *block->hopper;
    Barrier& b = h.barriers[i];
    if (b.pending || b.bytes) return;
    b.phase++;
    b.pending = b.count;
    if (block->launch->checked) {
        b.arriving[h.copies_of(i)] = b.phase;
        b.ended = b.arriving;
        std::fill(b.arriving.begin(), b.arriving.end(), 0);
    }
    for (Thread* t : b.sleepers) wake(*t);
    b.sleepers.clear();
}

static void arrive(int i, int line) {
    Hopper& h = *block->hopper;
    Barrier& b = h.barriers[i];
    const Thread& me = *block->current;
    if (!b.pending)
        fail("arrives at the barrier `%s` in line %d, though all %d arrivals of phase %u have come; %lld bytes are missing",
             name_of_barrier(b.at), line, b.count, b.phase, b.bytes);
    b.pending--;
    if (block->launch->checked) {
        join(b.arriving.data(), h.known_to(me));
        release(me);
    }
    end_phase_if_done(i);
}
void barrier_arrive(void* p, int line) { arrive(barrier_at(p, "arrival"), line); }
void barrier_expect(void* p, unsigned bytes, int line) {
    const int i = barrier_at(p, "expectation");
    if (bytes >= 1 << 20) fail("barrier_expect of %u bytes; expected at most 1048575", bytes);
    block->hopper->barriers[i].bytes += bytes;
    arrive(i, line);
}
void bytes_landed(int i, size_t bytes) {
    Barrier& b = block->hopper->barriers[i];
    b.bytes -= bytes;
    if (b.bytes < 0)
        fail("a copy of %zu bytes lands for the barrier `%s`, which expects only %lld more in phase %u", bytes,
             name_of_barrier(b.at), b.bytes + (long long)bytes, b.phase);
    end_phase_if_done(i);
}

void barrier_wait(void* p, unsigned parity, int line) {
    Block& b = *block;
    Hopper& h = *b.hopper;
    if (parity > 1) fail("barrier_wait for parity %u", parity);
    const int i = barrier_at(p, "wait");
    Thread& me = *b.current;
    while ((h.barriers[i].phase & 1) == parity) {
        ThreadState& state = h.state(me);
        state.waits_for = i, state.parity = parity, state.line = line;
        h.barriers[i].sleepers.push_back(&me);
        sleep();
        state.waits_for = -1;
    }
    if (b.launch->checked) join(h.known_to(me), h.barriers[i].ended.data());
}

// ---- groups of four warps ----
void group_collective(const char* operation, int line, void* part, void (*perform)(WarpGroup&, int)) {
    Block& b = *block;
    Thread& me = *b.current;
    const int first_warp = me.warp / 4 * 4;
    WarpGroup& group = b.hopper->groups[me.warp / 4];
    Rendezvous& all = group.rendezvous;
    if (first_warp + 4 > b.warp_count) fail("%s in line %d by warps that are no whole group of four", operation, line);
    for (int k = first_warp; k < first_warp + 4; k++)
        if (b.warps[k].alive != ~0u)
            fail("%s in line %d needs all four warps, but threads of warp %d have exited", operation, line, k);
    if (all.arrived && (all.line != line || strcmp(all.operation, operation) != 0))
        fail("the warps of its group do different things: %s in line %d here, %s in line %d elsewhere", operation, line,
             all.operation, all.line);
    all.operation = operation, all.line = line;
    all.parts[me.number % GROUP] = part;
    if (++all.arrived < GROUP) return sleep();
    b.performing = true;
    perform(group, first_warp);
    b.performing = false;
    all.arrived = 0;
    for (int i = first_warp * 32; i < first_warp * 32 + GROUP; i++)
        if (i != me.number) wake(b.threads[i]);
}

// ---- registers ----
void registers_become(int count, bool more, int line) {
    const char* operation = more ? "registers_more" : "registers_less";
    if (count < 24 || count > 256 || count % 8) fail("%s<%d>: expected 24 to 256, a multiple of 8", operation, count);
    int wanted = more ? count : -count;
    group_collective(operation, line, &wanted, [](WarpGroup& group, int first) {
        Block& b = *block;
        Hopper& h = *b.hopper;
        const int wanted = *static_cast<int*>(group.rendezvous.parts[0]), count = abs(wanted), now = h.registers[first];
        if (wanted > 0 ? count < now : count > now)
            fail("%s<%d> in line %d, though a thread has %d", group.rendezvous.operation, count, group.rendezvous.line, now);
        while (h.free_registers < (count - now) * GROUP) {
            h.wants_registers.push_back(b.current);
            h.registers_wanted = (count - now) * GROUP;
            b.performing = false;
            sleep();
            b.performing = true;
        }
        h.free_registers -= (count - now) * GROUP;
        for (int k = first; k < first + 4; k++) h.registers[k] = count;
        for (Thread* t : h.wants_registers) wake(*t);
        h.wants_registers.clear();
    });
}

// ---- a block that stands still ----
static void add(char*& text, char* end, const char* format, ...) __attribute__((format(printf, 3, 4)));
static void add(char*& text, char* end, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const int written = vsnprintf(text, end - text, format, arguments);
    va_end(arguments);
    text = std::min(text + written, end - 1);
}

bool describe_waits(char* text, size_t capacity) {
    Block& b = *block;
    Hopper& h = *b.hopper;
    char *at = text, *end = text + capacity;
    const auto separate = [&] { if (at != text) add(at, end, "; "); };
    for (int g = 0; g < MAX_GROUPS; g++) {
        const Rendezvous& all = h.groups[g].rendezvous;
        if (!all.arrived) continue;
        separate();
        if (all.arrived == GROUP)
            add(at, end, "group %d waits for %d registers at %s in line %d, and %d are free", g, h.registers_wanted,
                all.operation, all.line, h.free_registers);
        else add(at, end, "%d of the 128 threads of group %d wait at %s in line %d", all.arrived, g, all.operation, all.line);
    }
    for (int id = 0; id < MEETINGS; id++) {
        const Meeting& meeting = h.meetings[id];
        if (meeting.here.empty()) continue;
        separate();
        add(at, end, "%zu of %d threads wait at meet<%d> in line %d", meeting.here.size(), meeting.threads, id, meeting.line);
    }
    for (size_t i = 0; i < h.barriers.size(); i++)
        for (unsigned parity = 0; parity < 2; parity++) {
            int waiting = 0, first = -1;
            for (int t = 0; t < b.thread_count; t++)
                if (h.threads[t].waits_for == int(i) && h.threads[t].parity == parity && !waiting++) first = t;
            if (!waiting) continue;
            const Barrier& barrier = h.barriers[i];
            separate();
            add(at, end, "thread %d%s for parity %u of `%s` in line %d: phase %u lacks %d of %d arrivals and %lld bytes", first,
                waiting > 1 ? " and others wait" : " waits", parity, name_of_barrier(barrier.at), h.threads[first].line,
                barrier.phase, barrier.pending, barrier.count, barrier.bytes);
        }
    if (at == text) return false;
    if (b.waiting) add(at, end, "; %d threads wait at the barrier in line %d", b.waiting, b.barrier_line);
    return true;
}
}  // namespace sim
