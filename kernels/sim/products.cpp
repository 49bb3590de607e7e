// wgmma: products of a group of four warps whose operands lie in shared memory. Descriptors are taken apart as PTX ISA 8.0 says
// (9.7.14.5, "Matrix descriptor"), so a wrong field reads other bytes. A product poisons its sums when it is issued and is
// computed when it is waited for, as late as the device may: products are exact and sums run in float along k, as those of
// matrices.cpp do.
#include "hopper_runtime.h"
#include <algorithm>

namespace sim {
// ---- operands in shared memory ----
struct Operand {
    size_t start, leading, stride;
    int span;
    bool rows;  // K-major
};
static Operand decoded(uint64_t bits, bool rows, const char* name) {
    const int layout = bits >> 62;
    const Operand of{(bits & 0x3fff) << 4, (bits >> 16 & 0x3fff) << 4, (bits >> 32 & 0x3fff) << 4,
                     layout == 1 ? 128 : layout == 2 ? 64 : layout == 3 ? 32 : 16, rows};
    if (bits >> 49 & 7) fail("the descriptor of %s has a base offset, which is not used", name);
    if (bits & 0x3ff1'c000'c000'c000) fail("the descriptor of %s has reserved bits set: %016lx", name, (unsigned long)bits);
    if (layout == 0) fail("the descriptor of %s permutes nothing: this is not modelled", name);
    const size_t tile = 8 * of.span;
    if ((of.start & ~size_t(of.span - 1)) % tile)
        fail("the descriptor of %s begins at %zu, in a tile that is at no multiple of %zu", name, of.start, tile);
    if (of.stride < tile) fail("the descriptor of %s has a stride of %zu bytes, where 8 rows take %zu", name, of.stride, tile);
    return of;
}
// The 8 values of k from 8 `part` on of row (or column) i; where rows are values of k, values i to i + 7 of value `part` of k.
static const char* chunk_of(const Operand& of, int i, int part) {
    size_t at;
    if (of.rows) at = of.start + i / 8 * of.stride + i % 8 * of.span + part * 16;
    else {
        const int in_row = of.span / 2;
        at = of.start + i / in_row * of.leading + i % in_row * 2 + part / 8 * of.stride + part % 8 * of.span;
    }
    return block->shared + (at ^ (at >> 7 & (of.span / 16 - 1)) << 4);
}
// f(chunk, first row, part) for every chunk of rows `first` to `end` over 16 of k.
template <class F> static void each_chunk(const Operand& of, int first, int end, F f) {
    if (of.rows) {
        for (int i = first; i < end; i++)
            for (int part = 0; part < 2; part++) f(chunk_of(of, i, part), i, part);
    } else {
        for (int part = 0; part < 16; part++)
            for (int i = first; i < end; i += 8) f(chunk_of(of, i, part), i, part);
    }
}
static float value(uint16_t bits, bool is_bf16) { return is_bf16 ? to_float(bf16{bits}) : to_float(f16{bits}); }

// x [k][row] of one 16 of k.
static void unpack(float* x, int rows, const Operand& of, bool is_bf16) {
    each_chunk(of, 0, rows, [&](const char* chunk, int i, int part) {
        uint16_t bits[8];
        memcpy(bits, chunk, 16);
        for (int e = 0; e < 8; e++)
            if (of.rows) x[(part * 8 + e) * rows + i] = value(bits[e], is_bf16);
            else x[part * rows + i + e] = value(bits[e], is_bf16);
    });
}
static Operand moved(uint64_t bits, int units, bool rows, const char* name) { return decoded(bits + units, rows, name); }

// ---- what a product reads, checked when it is issued ----
static void check_operand(const Operand& of, int rows, bool is_a, WarpGroup& group, int first_warp, const Clock* knowns) {
    Hopper& h = *block->hopper;
    Clock all(h.width, ~0u);
    for (int w = 0; w < 4; w++)
        for (size_t i = 0; i < h.width; i++) all[i] = std::min(all[i], knowns[w][i]);
    each_chunk(of, 0, rows, [&](const char* p, int i, int) {
        const uint32_t* known = is_a ? knowns[i / 16].data() : all.data();
        const Chunk& chunk = check_read_by_proxy(p, known, "a product reads");
        if (chunk.state & WHOLE && chunk.span != of.span)
            fail("a product reads %s permuted over %d bytes, where a copy has permuted it over %d", where(p), of.span, chunk.span);
        uint32_t* reads = &h.product_reads[(p - block->shared) / 16 * MAX_WARPS + first_warp];
        for (int w = 0; w < 4; w++)
            if (!is_a || w == i / 16) reads[w] = group.committed + 1;
    });
}
static void check_operands(const Product& what, bool held, WarpGroup& group, int first_warp) {
    Hopper& h = *block->hopper;
    Clock knowns[4];
    for (int w = 0; w < 4; w++) {
        knowns[w].assign(h.width, ~0u);
        for (int l = 0; l < 32; l++) {
            const uint32_t* known = h.known_to(block->threads[(first_warp + w) * 32 + l]);
            for (size_t i = 0; i < h.width; i++) knowns[w][i] = std::min(knowns[w][i], known[i]);
        }
        // Its own products are in order.
        knowns[w][h.products_of(first_warp + w)] = ~0u;
    }
    for (int s = 0; s < what.steps; s++) {
        if (!held) check_operand(moved(what.a, s * what.a_next, what.a_rows, "a"), 64, true, group, first_warp, knowns);
        check_operand(moved(what.b, s * what.b_next, what.b_rows, "b"), what.n, false, group, first_warp, knowns);
    }
}

// ---- sums ----
static bool poisoned(const Sums& sums) {
    const char* p = reinterpret_cast<const char*>(sums.at);
    return std::all_of(p, p + 4 * sums.count, [](char c) { return c == char(0xff); });
}
static Sums& sums_at(ThreadState& state, float* at, int count) {
    for (Sums& sums : state.sums)
        if (sums.at == at && sums.count == count) return sums;
    // Others that lay in this memory are no more.
    std::erase_if(state.sums, [&](const Sums& s) { return s.at < at + count && at < s.at + s.count; });
    state.sums.push_back({at, count, 0, {}});
    return state.sums.back();
}
static void take_sums(const Thread& t, float* d, int count, int line) {
    ThreadState& state = block->hopper->state(t);
    Sums& sums = sums_at(state, d, count);
    if (sums.users && !poisoned(sums))
        fail("the sums of thread %d were written before products_wait, which the product in line %d adds to", t.number, line);
    if (!sums.users) {
        const bool same = !sums.values.empty() && memcmp(sums.values.data(), d, 4 * count) == 0;
        if (!state.begun && !same)
            fail("the sums of thread %d were changed with no products_begin before the product in line %d", t.number, line);
        sums.values.assign(d, d + count);
        memset(d, 0xff, 4 * count);
    }
    sums.users++;
}

void multiply(float* d, const unsigned* a, const Product& product, int line) {
    if (product.n % 8 || product.n < 8 || product.n > 256) fail("a product of %d columns; expected 8 to 256, in eights", product.n);
    struct Given {
        Part part;
        const Product* product;
        int line;
    } given{{d, a}, &product, line};
    group_collective(a ? "multiply_held" : "multiply_rows", line, &given, [](WarpGroup& group, int first_warp) {
        void* const* parts = group.rendezvous.parts;
        const Given& first = *static_cast<Given*>(parts[0]);
        PendingProduct pending{*first.product, {}, {}, group.committed + 1};
        for (int i = 0; i < GROUP; i++) {
            const Given& given = *static_cast<Given*>(parts[i]);
            const Product &one = *first.product, &other = *given.product;
            if (one.a != other.a || one.b != other.b)
                fail("threads %d and %d give one product different operands", first_warp * 32, first_warp * 32 + i);
            pending.parts[i] = given.part;
            if (given.part.a)
                pending.registers.insert(pending.registers.end(), given.part.a, given.part.a + 4 * one.steps);
            take_sums(block->threads[first_warp * 32 + i], given.part.d, one.n / 2, given.line);
        }
        if (block->launch->checked) check_operands(pending.what, first.part.a, group, first_warp);
        group.products.push_back(std::move(pending));
    });
}

void products_begin(int line) {
    group_collective("products_begin", line, nullptr, [](WarpGroup&, int first_warp) {
        for (int i = 0; i < GROUP; i++) block->hopper->threads[first_warp * 32 + i].begun = true;
    });
}
void products_commit(int line) {
    group_collective("products_commit", line, nullptr, [](WarpGroup& group, int) { group.committed++; });
}

// ---- products, when they are waited for ----
typedef float float8 __attribute__((vector_size(32)));

static int row_of(int thread, int v) { return thread / 32 * 16 + thread % 32 / 4 + 8 * (v / 2 % 2); }
static int column_of(int thread, int v) { return 8 * (v / 4) + 2 * (thread % 4) + v % 2; }

// a [k][row] of one 16 of k from the registers of all threads: those of mma.m16n8k16.
static void unpack_held(float* a, const std::vector<unsigned>& registers, int step, int steps, bool is_bf16) {
    for (int t = 0; t < GROUP; t++)
        for (int i = 0; i < 8; i++) {
            const unsigned word = registers[(t * steps + step) * 4 + i / 2];
            const int row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8, k = t % 4 * 2 + i % 2 + i / 4 * 8;
            a[k * 64 + row] = value(uint16_t(word >> i % 2 * 16), is_bf16);
        }
}
static void compute(const PendingProduct& p, int first_warp) {
    const Product& what = p.what;
    const int n = what.n;
    static thread_local std::vector<float> a, b, d;
    a.resize(16 * 64), b.resize(16 * 256), d.resize(64 * 256);
    const auto move = [&](bool in) {
        for (int t = 0; t < GROUP; t++) {
            ThreadState& state = block->hopper->threads[first_warp * 32 + t];
            float* values = sums_at(state, p.parts[t].d, n / 2).values.data();
            for (int v = 0; v < n / 2; v++) {
                float& sum = d[row_of(t, v) * n + column_of(t, v)];
                in ? sum = values[v] : values[v] = sum;
            }
        }
    };
    move(true);
    for (int s = 0; s < what.steps; s++) {
        if (p.registers.empty()) unpack(a.data(), 64, moved(what.a, s * what.a_next, what.a_rows, "a"), what.bf16);
        else unpack_held(a.data(), p.registers, s, what.steps, what.bf16);
        unpack(b.data(), n, moved(what.b, s * what.b_next, what.b_rows, "b"), what.bf16);
        for (int row = 0; row < 64; row += 4)
            for (int j = 0; j < n; j += 8) {
                float8 sums[4], column;
                for (int r = 0; r < 4; r++) memcpy(&sums[r], &d[(row + r) * n + j], 32);
                for (int k = 0; k < 16; k++) {
                    memcpy(&column, &b[k * n + j], 32);
                    for (int r = 0; r < 4; r++) sums[r] += a[k * 64 + row + r] * column;
                }
                for (int r = 0; r < 4; r++) memcpy(&d[(row + r) * n + j], &sums[r], 32);
            }
    }
    move(false);
}

static void finish(const PendingProduct& p, int first_warp) {
    compute(p, first_warp);
    for (int t = 0; t < GROUP; t++) {
        const Part& part = p.parts[t];
        ThreadState& state = block->hopper->threads[first_warp * 32 + t];
        if (part.a && memcmp(part.a, &p.registers[t * p.what.steps * 4], 16 * p.what.steps) != 0)
            fail("the registers of a of thread %d were written before products_wait", first_warp * 32 + t);
        Sums& sums = sums_at(state, part.d, p.what.n / 2);
        if (--sums.users) continue;
        if (!poisoned(sums)) fail("the sums of thread %d were written before products_wait", first_warp * 32 + t);
        memcpy(sums.at, sums.values.data(), 4 * sums.count);
        state.begun = false;
    }
}

void products_wait(int pending, int line) {
    group_collective("products_wait", line, &pending, [](WarpGroup& group, int first_warp) {
        Hopper& h = *block->hopper;
        const unsigned pending = *static_cast<int*>(group.rendezvous.parts[0]);
        if (group.committed <= group.waited + pending) return;
        group.waited = group.committed - pending;
        size_t done = 0;
        while (done < group.products.size() && group.products[done].group <= group.waited)
            finish(group.products[done++], first_warp);
        group.products.erase(group.products.begin(), group.products.begin() + done);
        for (int t = first_warp * 32; block->launch->checked && t < first_warp * 32 + GROUP; t++)
            h.known_to(block->threads[t])[h.products_of(t / 32)] = group.waited;
    });
}

// ---- what threads may not do ----
void check_sums(const char* p, size_t bytes, bool writes, const Thread& me) {
    for (const Sums& sums : block->hopper->state(me).sums) {
        const char* at = reinterpret_cast<const char*>(sums.at);
        if (sums.users && p < at + 4 * sums.count && p + bytes > at)
            fail("%s sums of a product that products_wait has not waited for", writes ? "writes" : "reads");
    }
}
void check_nothing_under_way(const Thread& me) {
    Block& b = *block;
    Hopper& h = *b.hopper;
    if (!h.groups[me.warp / 4].products.empty()) fail("exits with products that have not been waited for");
    if (h.state(me).stores_committed > h.state(me).stores_waited || h.state(me).stores)
        fail("exits with stored boxes that have not been waited for");
    if (b.alive == 1 && !h.copies.empty())
        fail("the block ends with %zu copies under way, one for the barrier `%s`", h.copies.size(),
             name_of_barrier(h.barriers[h.copies[0].barrier].at));
}
}  // namespace sim
