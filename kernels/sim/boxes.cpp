// Copies by tensor maps: boxes of a tensor, and the pixels under a tap of a convolution. A copy poisons what it will write
// when it is issued, and reads and writes when it lands: no earlier than when no thread can run (the oldest first, or the
// newest first where threads run backwards), or when a store is waited for.
#include "hopper_runtime.h"
#include <algorithm>

namespace sim {
// ---- where the 16-byte chunks of a copy are ----
// Bits 4 and up of an address in shared memory are xored with bits 7 and up, as many as chunks fit into `span` bytes.
static char* permuted(char* p, int span) {
    char* arena = block->shared;
    const size_t at = p - arena, mask = span ? span / 16 - 1 : 0;
    return arena + (at ^ (at >> 7 & mask) << 4);
}
static size_t row_bytes(const TensorMap& map) { return size_t(map.box[0]) * map.element; }
// Values along a dimension of a box.
static int along(const TensorMap& map, int dimension) {
    return dimension ? int((map.box[dimension] + map.steps[dimension] - 1) / map.steps[dimension]) : int(map.box[0]);
}
static size_t rows_of(const TensorMap& map) {
    if (map.patches) return map.box[1];
    size_t rows = 1;
    for (int d = 1; d < map.rank; d++) rows *= along(map, d);
    return rows;
}

// Where rows of the copy lie in the tensor, in order. `inside` says whether there is such a row at all.
struct Walk {
    const BoxCopy& copy;
    long long at[5];
    bool inside;

    explicit Walk(const BoxCopy& of) : copy(of) {
        for (int d = 0; d < 5; d++) at[d] = d < copy.map.rank ? copy.at[d] : 0;
        look();
    }
    void look() {
        inside = true;
        for (int d = 1; d < copy.map.rank; d++) {
            const long long i = moved(d);
            inside &= i >= 0 && i < copy.map.sizes[d];
        }
    }
    // A tap moves a pixel along x and y.
    long long moved(int d) const { return at[d] + (copy.map.patches && d < 3 ? copy.offset[d - 1] : 0); }
    void next() {
        const TensorMap& map = copy.map;
        for (int d = 1; d < map.rank; d++) {
            at[d] += map.steps[d];
            const bool bounded = map.patches && d < 3;
            const long long begin = bounded ? map.lower[d - 1] : copy.at[d];
            const long long end = bounded ? (long long)map.sizes[d] + map.upper[d - 1]
                                  : map.patches ? at[d] + 1
                                                : begin + (long long)along(map, d) * map.steps[d];
            if (at[d] < end) break;
            at[d] = begin;
        }
        look();
    }
    char* row() const {
        long long offset = 0;
        for (int d = 1; d < copy.map.rank; d++) offset += moved(d) * (long long)copy.map.strides[d - 1];
        return reinterpret_cast<char*>(copy.map.address) + offset;
    }
};

// Calls f(bytes in shared memory, the same in the tensor or null, how many) for runs of up to 16 bytes.
template <class F> static void each_run(const BoxCopy& copy, F f) {
    const TensorMap& map = copy.map;
    Walk walk(copy);
    for (size_t row = 0; row < rows_of(map); row++, walk.next())
        for (size_t byte = 0; byte < row_bytes(map); byte += 16) {
            char* shared = permuted(copy.shared + row * row_bytes(map) + byte, map.span);
            const long long first = copy.at[0] + (long long)byte / map.element;
            for (int i = 0; i < 16 / map.element; i++) {
                // Whole runs where they are inside, value by value at an edge.
                const bool all = walk.inside && i == 0 && first >= 0 && first + 16 / map.element <= map.sizes[0];
                const bool there = walk.inside && first + i >= 0 && first + i < map.sizes[0];
                f(shared + i * map.element, there ? walk.row() + (first + i) * map.element : nullptr,
                  size_t(all ? 16 : map.element));
                if (all) break;
            }
        }
}

// ---- issue ----
static BoxCopy issued(const TensorMap& map, const void* shared, int rank, const int* at, bool patches, const char* what) {
    Block& b = *block;
    if (map.rank != rank || map.patches != patches)
        fail("%s of %d dimensions by a map of %d%s", what, rank, map.rank, map.patches ? " for patches" : "");
    BoxCopy copy{};
    copy.map = map, copy.thread = b.current->number;
    copy.shared = const_cast<char*>(static_cast<const char*>(shared));
    copy.bytes = rows_of(map) * row_bytes(map);
    std::copy(at, at + rank, copy.at);
    const ptrdiff_t offset = copy.shared - b.dynamic();
    if (!b.in_shared(shared) || offset < 0 || offset + copy.bytes > b.launch->dynamic_bytes)
        fail("%s of %zu bytes outside of dynamic shared memory: offset %td of %zu bytes", what, copy.bytes, offset,
             b.launch->dynamic_bytes);
    const size_t tile = map.span ? 8 * map.span : 128;
    if (size_t(copy.shared - b.shared) % tile)
        fail("%s at offset %td of dynamic shared memory; a tile of %d-byte rows begins at a multiple of %zu", what, offset,
             map.span, tile);
    if (map.span && row_bytes(map) != map.span)
        fail("%s with rows of %zu bytes, permuted over %d: this is not modelled", what, row_bytes(map), map.span);
    return copy;
}

static void begin_load(BoxCopy&& copy, void* barrier) {
    Block& b = *block;
    copy.barrier = barrier_at(barrier, "copy");
    if (b.launch->checked) check_copy_to(copy.shared, copy.bytes, *b.current);
    memset(copy.shared, 0xff, copy.bytes);
    b.hopper->copies.push_back(copy);
}
void load_box(void* to, const TensorMap& map, void* barrier, int rank, const int* at) {
    begin_load(issued(map, to, rank, at, false, "load_box"), barrier);
}
void load_patches(void* to, const TensorMap& map, void* barrier, const int* at, int kx, int ky) {
    BoxCopy copy = issued(map, to, 4, at, true, "load_patches");
    if (kx < 0 || ky < 0 || kx > 255 || ky > 255) fail("load_patches with offsets (%d, %d); expected 0 to 255", kx, ky);
    for (int d = 1; d < 3; d++)
        if (at[d] < map.lower[d - 1] || at[d] >= (long long)map.sizes[d] + map.upper[d - 1])
            fail("load_patches from %s = %d on, outside of the map's bounds %d to %lld", d == 1 ? "x" : "y", at[d],
                 map.lower[d - 1], (long long)map.sizes[d] + map.upper[d - 1] - 1);
    copy.offset[0] = kx, copy.offset[1] = ky;
    begin_load(std::move(copy), barrier);
}

void store_box(const TensorMap& map, const void* from, int rank, const int* at) {
    Block& b = *block;
    Hopper& h = *b.hopper;
    ThreadState& state = h.state(*b.current);
    BoxCopy copy = issued(map, from, rank, at, false, "store_box");
    copy.barrier = -1, copy.group = state.stores_committed + 1;
    state.stores++;
    for (const char* p = copy.shared; b.launch->checked && p < copy.shared + copy.bytes; p += 16) {
        Chunk& chunk = check_read_by_proxy(p, h.known_to(*b.current), "a stored box reads");
        chunk.store = h.stores_of(b.current->warp), chunk.store_clock = copy.group;
    }
    h.copies.push_back(copy);
}
void stores_commit() {
    ThreadState& state = block->hopper->state(*block->current);
    if (state.stores) state.stores_committed++;
    state.stores = 0;
}

// ---- landing ----
static void gather(const BoxCopy& copy) {
    const bool checked = block->launch->checked;
    each_run(copy, [&](char* shared, char* global, size_t bytes) {
        if (!global) return void(memset(shared, 0, bytes));
        if (checked && !check_global(global, bytes, false)) fail("a copy from an address that no argument covers");
        memcpy(shared, global, bytes);
    });
}
static void scatter(const BoxCopy& copy) {
    const bool checked = block->launch->checked;
    each_run(copy, [&](char* shared, char* global, size_t bytes) {
        if (!global) return;
        if (checked && !check_global(global, bytes, true)) fail("a stored box to an address that no argument covers");
        memcpy(global, shared, bytes);
    });
}
static void land(size_t i) {
    Hopper& h = *block->hopper;
    const BoxCopy copy = h.copies[i];
    h.copies.erase(h.copies.begin() + i);
    if (copy.barrier < 0) return scatter(copy);
    gather(copy);
    if (block->launch->checked)
        copy_landed(copy.shared, copy.bytes, h.copies_of(copy.barrier), h.barriers[copy.barrier].phase + 1, copy.map.span);
    bytes_landed(copy.barrier, copy.bytes);
}
bool land_one_copy() {
    Hopper& h = *block->hopper;
    if (h.copies.empty()) return false;
    // Nobody runs, so messages name no thread.
    Thread* last = block->current;
    block->current = nullptr;
    land(block->launch->backwards ? h.copies.size() - 1 : 0);
    block->current = last;
    return true;
}

// Until all but `pending` groups of this thread have been read, and have landed.
void stores_wait(int pending) {
    Block& b = *block;
    Hopper& h = *b.hopper;
    const Thread& me = *b.current;
    ThreadState& state = h.state(me);
    if (state.stores_committed <= state.stores_waited + pending) return;
    state.stores_waited = state.stores_committed - pending;
    for (size_t i = 0; i < h.copies.size();)
        if (h.copies[i].barrier < 0 && h.copies[i].thread == me.number && h.copies[i].group <= state.stores_waited) land(i);
        else i++;
    if (b.launch->checked) h.known_to(me)[h.stores_of(me.warp)] = state.stores_waited;
}
}  // namespace sim
