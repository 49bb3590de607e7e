// Shared memory, and the checks of every access. Kernels of the checked build are compiled with -fsanitize=thread but
// linked with the hooks at the end of this file instead of the sanitizer's: each load and store comes here first.
#include "hopper_runtime.h"

extern "C" char __executable_start, _end;  // the program's image, from the linker

namespace sim {
// Where the constants of kernels are.
static bool in_image(const char* p) { return p >= &__executable_start && p < &_end; }

void* dynamic_shared() {
    if (!block->launch->dynamic_bytes) fail("uses dynamic shared memory, of which the launch gives none");
    return block->dynamic();
}

void* static_shared(const void* site, size_t bytes, size_t align, const char* name) {
    Block& b = *block;
    for (const Static& known : b.static_arrays)
        if (known.site == site) return known.start;
    const size_t start = (b.static_used + align - 1) / align * align;
    const size_t limit = b.launch->hopper ? HOPPER_LIMIT : SHARED_LIMIT;
    if (start + bytes > STATIC_LIMIT || start + bytes + b.launch->dynamic_bytes > limit)
        fail("no shared memory left for `%s`: %zu bytes after %zu static and %zu dynamic ones; a block has %zu, %zu "
             "static",
             name, bytes, start, b.launch->dynamic_bytes, limit, STATIC_LIMIT);
    b.static_used = start + bytes;
    b.static_arrays.push_back({site, b.shared + start, bytes, name});
    memset(b.shared + start, 0xff, bytes);  // NaN in every float format
    return b.shared + start;
}

// Two threads touch a cell in one stretch: only a __syncwarp of their warp may stand between them.
static bool races(const Thread& me, uint32_t syncs, uint8_t warp, uint8_t lane, uint32_t other_syncs) {
    return warp != me.warp || (other_syncs == syncs && lane != me.lane);
}

static void check_shared(const char* p, size_t bytes, bool writes, const Thread& me) {
    Block& b = *block;
    const char* verb = writes ? "write" : "read";
    const char* what = "dynamic";
    ptrdiff_t offset = p - b.dynamic();
    if (p < b.shared + b.static_used) what = "static", offset = p - b.shared;
    if (what[0] == 's' ? offset + bytes > b.static_used : offset < 0 || offset + bytes > b.launch->dynamic_bytes)
        fail("%s of %zu bytes out of bounds: offset %td of %zu bytes of dynamic shared memory", verb, bytes,
             p - b.dynamic(), b.launch->dynamic_bytes);
    if (b.launch->hopper) return check_by_clocks(p, bytes, writes, me);
    const uint32_t syncs = b.warps[me.warp].syncs;
    for (size_t i = (p - b.shared) / 2; i <= size_t(p + bytes - 1 - b.shared) / 2; i++) {
        Cell& cell = b.cells[i];
        const bool written_now = cell.write_stretch == b.stretch, read_now = cell.read_stretch == b.stretch;
        const bool written = cell.write_stretch >= b.first_stretch;
        if (!written) cell.copying = false;
        if (cell.copying)
            fail("%s of %s shared memory at offset %td, where an asynchronous copy of thread %d has not been waited for",
                 verb, what, offset, cell.write_warp * 32 + cell.write_lane);
        if (!writes && !written)
            fail("read of uninitialised %s shared memory at offset %td", what, offset);
        if (written_now && races(me, syncs, cell.write_warp, cell.write_lane, cell.write_syncs))
            fail("race: %s of %s shared memory at offset %td, which thread %d wrote with no barrier between", verb, what,
                 offset, cell.write_warp * 32 + cell.write_lane);
        if (writes) {
            if (read_now && races(me, syncs, cell.read_warp, cell.read_lane, cell.read_syncs))
                fail("race: write of %s shared memory at offset %td, which another thread read with no barrier between",
                     what, offset);
            cell.write_stretch = b.stretch, cell.write_syncs = syncs;
            cell.write_warp = me.warp, cell.write_lane = me.lane;
        } else if (!read_now || (cell.read_warp == me.warp && cell.read_syncs != syncs)) {
            cell.read_stretch = b.stretch, cell.read_syncs = syncs;
            cell.read_warp = me.warp, cell.read_lane = me.lane;
        } else if (cell.read_warp != me.warp) {
            cell.read_warp = SEVERAL;
        } else if (cell.read_lane != me.lane) {
            cell.read_lane = SEVERAL;
        }
    }
}

// Global memory: only what the launch was given, in the role it was given.
bool check_global(const char* p, size_t bytes, bool writes) {
    const Launch& launch = *block->launch;
    const Range* nearest = nullptr;
    for (const Range* range = launch.ranges; range < launch.ranges + launch.range_count; range++) {
        if (p >= range->start && p + bytes <= range->start + range->bytes) {
            const size_t at = p - range->start;
            if (writes) {
                if (range->role == INPUT) fail("write to the input `%s` at byte %zu", range->name, at);
                if (!launch.traced) memset(range->written + at, 1, bytes);
            } else if (const void* gap = memchr(range->written + at, 0, bytes)) {
                const size_t byte = static_cast<const uint8_t*>(gap) - range->written;
                fail("read of byte %zu of `%s`, which nothing has written", byte, range->name);
            }
            for (size_t i = at; launch.traced && i < at + bytes; i++) range->written[i] |= writes ? STORED : LOADED;
            return true;
        }
        if (p + bytes + 65536 > range->start && p < range->start + range->bytes + 65536) {
            const auto distance = [p](const Range* r) { return p < r->start ? r->start - p : p - (r->start + r->bytes); };
            if (!nearest || distance(range) < distance(nearest)) nearest = range;
        }
    }
    if (nearest)
        fail("%s of %zu bytes out of bounds: byte %td of `%s`, which has %zu", writes ? "write" : "read", bytes,
             p - nearest->start, nearest->name, nearest->bytes);
    return false;
}

void check_access(const void* address, size_t bytes, bool writes, const Thread& by) {
    const char* p = static_cast<const char*>(address);
    if (block->in_stacks(p)) {
        if (block->launch->hopper) check_sums(p, bytes, writes, by);
        return;
    }
    if (reinterpret_cast<uintptr_t>(p) & (bytes - 1))
        fail("misaligned %s of %zu bytes at an address that is %zu past a multiple of %zu", writes ? "write" : "read",
             bytes, size_t(reinterpret_cast<uintptr_t>(p) & (bytes - 1)), bytes);
    if (block->in_shared(p)) return check_shared(p, bytes, writes, by);
    // Before the operands, which may lie beside it: they would take it for a near miss.
    const bool own = p >= reinterpret_cast<char*>(&place) && p < reinterpret_cast<char*>(&place + 1);
    if (own || (!writes && in_image(p))) return;
    if (check_global(p, bytes, writes)) return;
    fail("%s of %zu bytes at an address that no argument covers", writes ? "write" : "read", bytes);
}

// ---- asynchronous copies: delivered when they are waited for, as late as the device may ----
static Cell* cells_of(const Copy& copy) { return &block->cells[(static_cast<char*>(copy.to) - block->shared) / 2]; }

void copy_async(void* to, const void* from, int bytes) {
    Block& b = *block;
    Thread& me = *b.current;
    if (b.launch->hopper) fail("copy_async in a kernel for 9.0 alone, which copies by tensor maps");
    if (bytes < 0 || bytes > 16) fail("copy_async of %d bytes: 0 to 16 can be copied", bytes);
    if (!b.in_shared(to)) fail("copy_async to an address outside of shared memory");
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) & 15)
        fail("copy_async between addresses that are not multiples of 16");
    const Copy copy{to, from, bytes};
    if (b.launch->checked) {
        check_access(to, 16, true, me);
        for (int i = 0; i < 8; i++) cells_of(copy)[i].copying = true;
        if (bytes && !check_global(static_cast<const char*>(from), bytes, false))
            fail("copy_async from an address that no argument covers");
    }
    memset(to, 0xff, 16);
    me.copies.push_back(copy);
}

void copy_async_commit() {
    Thread& me = *block->current;
    me.groups.push_back(me.copies.size());
}

void copy_async_wait(int pending) {
    Block& b = *block;
    Thread& me = *b.current;
    if (me.groups.size() <= size_t(pending)) return;
    const size_t done = me.groups.size() - pending, end = me.groups[done - 1];
    for (size_t i = 0; i < end; i++) {
        const Copy& copy = me.copies[i];
        memcpy(copy.to, copy.from, copy.bytes);
        memset(static_cast<char*>(copy.to) + copy.bytes, 0, 16 - copy.bytes);
        // The copy counts as a write of this moment.
        for (Cell* cell = cells_of(copy); b.launch->checked && cell < cells_of(copy) + 8; cell++) {
            cell->copying = false;
            cell->write_stretch = b.stretch, cell->write_syncs = b.warps[me.warp].syncs;
        }
    }
    me.copies.erase(me.copies.begin(), me.copies.begin() + end);
    me.groups.erase(me.groups.begin(), me.groups.begin() + done);
    for (size_t& group : me.groups) group -= end;
}

void check_copies_waited_for(const Thread& thread) {
    if (!thread.copies.empty()) fail("exits with %zu asynchronous copies not waited for", thread.copies.size());
}
}  // namespace sim

// ---- what the compiler calls in checked kernels ----
static void touch(void* p, size_t bytes, bool writes) {
    const sim::Block* b = sim::block;
    if (b && b->current && !b->performing) sim::check_access(p, bytes, writes, *b->current);
}
extern "C" {
#define HOOKS(bytes)                                                           \
    void __tsan_read##bytes(void* p) { touch(p, bytes, false); }               \
    void __tsan_write##bytes(void* p) { touch(p, bytes, true); }               \
    void __tsan_unaligned_read##bytes(void* p) { touch(p, bytes, false); }     \
    void __tsan_unaligned_write##bytes(void* p) { touch(p, bytes, true); }     \
    void __tsan_volatile_read##bytes(void* p) { touch(p, bytes, false); }      \
    void __tsan_volatile_write##bytes(void* p) { touch(p, bytes, true); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* p, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) touch(static_cast<char*>(p) + i, 1, false);
}
void __tsan_write_range(void* p, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) touch(static_cast<char*>(p) + i, 1, true);
}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
