// Who knows of what (hopper_runtime.h), and the checks of shared memory that follow.
#include "hopper_runtime.h"
#include <algorithm>
#include <stdio.h>
#include <sys/mman.h>

namespace sim {
Hopper::Hopper() {
    arena = reserve(HOPPER_ARENA + BEYOND_BYTES);
    mprotect(arena + HOPPER_ARENA, BEYOND_BYTES, PROT_NONE);
}
Hopper::~Hopper() { munmap(arena, HOPPER_ARENA + BEYOND_BYTES); }

Block::~Block() {
    munmap(small, ARENA_BYTES + BEYOND_BYTES);
    munmap(stacks, MAX_THREADS * (STACK_BYTES + GUARD_BYTES));
}

void prepare_hopper() {
    Block& b = *block;
    if (!b.hopper) b.hopper = std::make_unique<Hopper>();
    Hopper& h = *b.hopper;
    b.shared = h.arena, b.arena = HOPPER_ARENA;
    h.generation++;
    h.barriers.clear(), h.copies.clear(), h.readers.clear(), h.wants_registers.clear();
    h.registers_wanted = 0;
    for (int i = 0; i < b.thread_count; i++) {
        h.threads[i] = ThreadState{};
        h.threads[i].waits_for = -1;
    }
    for (WarpGroup& group : h.groups) group = WarpGroup{};
    for (Meeting& meeting : h.meetings) meeting = Meeting{};
    // What ptxas may give to a thread of one block on a multiprocessor.
    const int most = std::min(ALL_REGISTERS / b.thread_count / 8 * 8, 248);
    for (int k = 0; k < b.warp_count; k++) h.registers[k] = most;
    h.free_registers = ALL_REGISTERS - most * b.thread_count;
    if (!b.launch->checked) return;
    h.width = (b.thread_count + 2 * MAX_WARPS + MAX_BARRIERS + 7) / 8 * 8;
    h.known.assign(h.width * b.thread_count, 0);
    for (int i = 0; i < b.thread_count; i++) h.known[i * h.width + i] = 1;
}

void join(uint32_t* into, const uint32_t* from) {
    for (size_t i = 0; i < block->hopper->width; i++) into[i] = into[i] < from[i] ? from[i] : into[i];
}
void release(const Thread& t) { block->hopper->known_to(t)[t.number]++; }

static void join_all(Thread* const* begin, Thread* const* end) {
    Hopper& h = *block->hopper;
    Clock all(h.width);
    for (Thread* const* t = begin; t != end; t++) join(all.data(), h.known_to(**t));
    for (Thread* const* t = begin; t != end; t++) {
        memcpy(h.known_to(**t), all.data(), h.width * sizeof(uint32_t));
        release(**t);
    }
}
void all_met() {
    Block& b = *block;
    if (!b.launch->checked) return;
    std::vector<Thread*> all;
    for (int i = 0; i < b.thread_count; i++)
        if (b.warps[i / 32].alive & 1u << i % 32) all.push_back(&b.threads[i]);
    join_all(all.data(), all.data() + all.size());
}
void warp_met(int warp) {
    if (!block->launch->checked) return;
    Thread* all[32];
    for (int l = 0; l < 32; l++) all[l] = &block->threads[warp * 32 + l];
    join_all(all, all + 32);
}

void meet(int id, int threads, int line) {
    Block& b = *block;
    if (id < 1 || id >= MEETINGS || threads % 32 || threads < 32 || threads > b.thread_count)
        fail("meet<%d>(%d): expected an id from 1 to 15 and whole warps", id, threads);
    Meeting& meeting = b.hopper->meetings[id];
    if (!meeting.here.empty() && meeting.threads != threads)
        fail("meet<%d>(%d) in line %d, where others wait for %d threads in line %d", id, threads, line, meeting.threads,
             meeting.line);
    meeting.threads = threads, meeting.line = line;
    meeting.here.push_back(b.current);
    if (int(meeting.here.size()) < threads) return sleep();
    if (b.launch->checked) join_all(meeting.here.data(), meeting.here.data() + threads);
    for (Thread* t : meeting.here)
        if (t != b.current) wake(*t);
    meeting.here.clear();
}

// ---- messages ----
static __thread char texts[4][96];
static char* text() {
    static __thread int next = 0;
    return texts[next++ % 4];
}
const char* where(const char* p) {
    const Block& b = *block;
    char* t = text();
    if (p < b.shared + b.static_used) snprintf(t, 96, "static shared memory at offset %td", p - b.shared);
    else snprintf(t, 96, "dynamic shared memory at offset %td", p - b.dynamic());
    return t;
}
const char* name_of(uint16_t actor) {
    const Block& b = *block;
    const int after = actor - b.thread_count;
    char* t = text();
    if (after < 0) snprintf(t, 96, "thread %d", actor);
    else if (after < MAX_WARPS) snprintf(t, 96, "a product of warp %d", after);
    else if (after < 2 * MAX_WARPS) snprintf(t, 96, "a stored box of warp %d", after - MAX_WARPS);
    else snprintf(t, 96, "a copy that `%s` counts", name_of_barrier(b.hopper->barriers[after - 2 * MAX_WARPS].at));
    return t;
}

// ---- cells ----
static ThreadCell& cell_at(size_t i) {
    Hopper& h = *block->hopper;
    ThreadCell& cell = h.cells[i];
    if (cell.generation != h.generation) cell = {h.generation, 0, 0, NOBODY, NOBODY};
    return cell;
}
static Chunk& chunk_at(size_t i) {
    Hopper& h = *block->hopper;
    Chunk& chunk = h.chunks[i];
    if (chunk.generation != h.generation) {
        chunk = {h.generation, 0, 0, NOBODY, NOBODY, 0, 0};
        memset(&h.product_reads[i * MAX_WARPS], 0, MAX_WARPS * sizeof(uint32_t));
    }
    return chunk;
}
static size_t offset_of(const char* p) { return p - block->shared; }

// That whoever knows `known` may overwrite the chunk, as far as copies, products and stores are concerned.
static void check_chunk_free(const char* p, const Chunk& chunk, const uint32_t* known, const char* what) {
    Hopper& h = *block->hopper;
    if (chunk.state & COPYING) fail("%s %s, where a copy has not landed yet", what, where(p));
    const uint32_t* reads = &h.product_reads[offset_of(p) / 16 * MAX_WARPS];
    for (int k = 0; k < block->warp_count; k++)
        if (reads[k] > known[h.products_of(k)])
            fail("race: %s %s, which %s may still read", what, where(p), name_of(h.products_of(k)));
    if (chunk.store != NOBODY && chunk.store_clock > known[chunk.store])
        fail("race: %s %s, which %s may still read", what, where(p), name_of(chunk.store));
}
static void check_known(const char* p, const uint32_t* known, uint16_t actor, uint32_t clock, const char* what,
                        const char* did) {
    if (actor != NOBODY && clock > known[actor])
        fail("race: %s %s, which %s %s with nothing between that orders them", what, where(p), name_of(actor), did);
}
static void check_readers(const char* p, const ThreadCell& cell, const uint32_t* known, const char* what) {
    if (cell.reader != SEVERAL_THREADS) return check_known(p, known, cell.reader, cell.read_clock, what, "read");
    for (const auto& [reader, clock] : block->hopper->readers[offset_of(p) / 2])
        check_known(p, known, reader, clock, what, "read");
}

static void add_reader(ThreadCell& cell, size_t i, uint16_t me, uint32_t clock, const uint32_t* known) {
    if (cell.reader == NOBODY || (cell.reader != SEVERAL_THREADS && cell.read_clock <= known[cell.reader])) {
        cell.reader = me, cell.read_clock = clock;
        return;
    }
    auto& all = block->hopper->readers[i];
    if (cell.reader != SEVERAL_THREADS) {
        all.assign(1, {cell.reader, cell.read_clock});
        cell.reader = SEVERAL_THREADS;
    }
    for (auto& [reader, at] : all)
        if (reader == me) {
            at = clock;
            return;
        }
    all.push_back({me, clock});
}

void check_by_clocks(const char* p, size_t bytes, bool writes, const Thread& me) {
    Hopper& h = *block->hopper;
    const uint32_t* known = h.known_to(me);
    const char* what = writes ? "write of" : "read of";
    for (const Barrier& barrier : h.barriers)
        if (p < barrier.at + 8 && p + bytes > barrier.at) fail("%s the barrier `%s`", what, name_of_barrier(barrier.at));
    for (size_t i = offset_of(p) / 2; i <= offset_of(p + bytes - 1) / 2; i++) {
        const char* at = block->shared + i * 2;
        Chunk& chunk = chunk_at(i / 8);
        ThreadCell& cell = cell_at(i);
        if (chunk.state & COPYING) fail("%s %s, where a copy has not landed yet", what, where(at));
        const bool whole = chunk.state & WHOLE;
        const uint16_t writer = whole ? chunk.writer : cell.writer;
        const uint32_t clock = whole ? chunk.write_clock : cell.write_clock;
        if (!writes && writer == NOBODY) fail("read of uninitialised %s", where(at));
        check_known(at, known, writer, clock, what, "wrote");
        if (!writes) {
            add_reader(cell, i, me.number, known[me.number], known);
            continue;
        }
        check_chunk_free(at, chunk, known, what);
        check_readers(at, cell, known, what);
        if (whole) {
            for (size_t j = i / 8 * 8; j < i / 8 * 8 + 8; j++) {
                ThreadCell& other = cell_at(j);
                other.writer = chunk.writer, other.write_clock = chunk.write_clock;
            }
            chunk.state = 0;
        }
        cell.writer = me.number, cell.write_clock = known[me.number];
        cell.reader = NOBODY;
    }
}

// A thread's writes reach the asynchronous proxy by its shared_is_written, which must come before what is known.
static void check_fenced(const char* p, uint16_t writer, uint32_t clock, const uint32_t* known, const char* what) {
    if (writer >= block->thread_count) return;
    const std::vector<uint32_t>& fences = block->hopper->threads[writer].fences;
    for (const uint32_t fence : fences)
        if (fence >= clock && fence <= known[writer]) return;
    fail("%s %s, which thread %d wrote with no shared_is_written after it", what, where(p), writer);
}

void check_copy_to(const char* p, size_t bytes, const Thread& me) {
    Hopper& h = *block->hopper;
    const uint32_t* known = h.known_to(me);
    for (const Barrier& barrier : h.barriers)
        if (p < barrier.at + 8 && p + bytes > barrier.at) fail("a copy to the barrier `%s`", name_of_barrier(barrier.at));
    for (const char* end = p + bytes; p < end; p += 16) {
        Chunk& chunk = chunk_at(offset_of(p) / 16);
        check_chunk_free(p, chunk, known, "a copy to");
        if (chunk.state & WHOLE) check_known(p, known, chunk.writer, chunk.write_clock, "a copy to", "wrote");
        for (size_t i = offset_of(p) / 2; i < offset_of(p) / 2 + 8; i++) {
            ThreadCell& cell = cell_at(i);
            if (!(chunk.state & WHOLE) && cell.writer != NOBODY) {
                check_known(p, known, cell.writer, cell.write_clock, "a copy to", "wrote");
                check_fenced(p, cell.writer, cell.write_clock, known, "a copy to");
            }
            check_readers(p, cell, known, "a copy to");
            cell.reader = NOBODY;
        }
        chunk.state = WHOLE | COPYING;
        chunk.writer = NOBODY;
    }
}
void copy_landed(const char* p, size_t bytes, uint16_t actor, uint32_t clock, int span) {
    for (const char* end = p + bytes; p < end; p += 16) {
        Chunk& chunk = chunk_at(offset_of(p) / 16);
        chunk.state = WHOLE;
        chunk.writer = actor, chunk.write_clock = clock, chunk.span = uint8_t(span);
    }
}

Chunk& check_read_by_proxy(const char* p, const uint32_t* known, const char* what) {
    const Block& b = *block;
    const ptrdiff_t dynamic = p - b.dynamic();
    if (!(p >= b.shared && p + 16 <= b.shared + b.static_used) && !(dynamic >= 0 && size_t(dynamic) + 16 <= b.launch->dynamic_bytes))
        fail("%s bytes outside of the block's shared memory, at offset %td of %zu dynamic ones", what, dynamic,
             b.launch->dynamic_bytes);
    Chunk& chunk = chunk_at(offset_of(p) / 16);
    if (chunk.state & COPYING) fail("%s %s, where a copy has not landed yet", what, where(p));
    if (chunk.state & WHOLE) {
        check_known(p, known, chunk.writer, chunk.write_clock, what, "wrote");
        return chunk;
    }
    for (size_t i = offset_of(p) / 2; i < offset_of(p) / 2 + 8; i++) {
        const ThreadCell& cell = cell_at(i);
        if (cell.writer == NOBODY) fail("%s uninitialised %s", what, where(p));
        check_known(p, known, cell.writer, cell.write_clock, what, "wrote");
        check_fenced(p, cell.writer, cell.write_clock, known, what);
    }
    return chunk;
}

void shared_is_written() {
    Block& b = *block;
    if (!b.launch->checked) return;
    Hopper& h = *b.hopper;
    h.state(*b.current).fences.push_back(h.known_to(*b.current)[b.current->number]);
    release(*b.current);
}
unsigned shared_address(const void* p) {
    if (!block->in_shared(p)) fail("an address outside of shared memory");
    return unsigned(static_cast<const char*>(p) - block->shared);
}
}  // namespace sim
