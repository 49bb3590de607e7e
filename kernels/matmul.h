// Matrix products of tiles: what matmul.cu, matmul_group.cu and matmul_geglu.cu are made of. Two pairs of operands follow one
// another in the sum over k.
#pragma once
#include "tile.h"
#include "walk.h"

// The sums of the steps of k of a slice, those of the second pair following those of the first; a [m, k]. `begin_b` begins to
// walk over b, of which there are k values, from value `first` on.
template <bool B_LINES, int ROWS, int COLUMNS, int THREADS, class BeginB>
DEV void sum_up(Sums<ROWS, COLUMNS, THREADS, scalar_t>& sums, long long first_m, const scalar_t* a, const scalar_t* b,
                const scalar_t* a2, const scalar_t* b2, long long m, int k, int k2, const Slice& slice, BeginB begin_b) {
    Walk<true, ROWS, THREADS> from_a;
    Walk<B_LINES, COLUMNS, THREADS> from_b;
    int left = 0;
    const auto begin_pair = [&](const scalar_t* a, const scalar_t* b, int k, int first) {
        begin(from_a, {a + first, m, k, k}, first_m);
        begin_b(from_b, b, k, first);
        left = k - first;
    };
    const int steps_of_first = (k + STEP - 1) / STEP;
    if (slice.first == 0 || slice.first < steps_of_first) begin_pair(a, b, k, slice.first * STEP);
    else begin_pair(a2, b2, k2, (slice.first - steps_of_first) * STEP);
    product<true, B_LINES>(sums, slice.steps, [&](scalar_t* tile_a, scalar_t* tile_b) {
        if (left <= 0) {
            stay_a_branch();
            begin_pair(a2, b2, k2, 0);
        }
        fetch(from_a, tile_a, left);
        fetch(from_b, tile_b, left);
        left -= STEP;
    });
}
// The same with b [n, k] or, where its lines are columns, [k, n].
template <bool B_LINES, int ROWS, int COLUMNS, int THREADS>
DEV void sum_up(Sums<ROWS, COLUMNS, THREADS, scalar_t>& sums, const Corner& corner, const scalar_t* a, const scalar_t* b,
                const scalar_t* a2, const scalar_t* b2, long long m, int n, int k, int k2, const Slice& slice) {
    sum_up<B_LINES>(sums, corner.m, a, b, a2, b2, m, k, k2, slice,
                    [&](Walk<B_LINES, COLUMNS, THREADS>& from_b, const scalar_t* b, int k, int first) {
                        begin(from_b, {b + (B_LINES ? first : (long long)first * n), n, k, B_LINES ? k : n}, corner.n);
                    });
}
DEV int steps_of(int k, int k2) { return (k + STEP - 1) / STEP + (k2 + STEP - 1) / STEP; }

template <bool B_LINES, int ROWS, int COLUMNS, int THREADS>
DEV void matmul(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2,
                const float* bias, const scalar_t* residual, long long m, int n, int k, int k2, float alpha) {
    const Corner corner = corner_of_block<ROWS, COLUMNS>(m, n);
    Sums<ROWS, COLUMNS, THREADS, scalar_t> sums;
    sum_up<B_LINES>(sums, corner, a, b, a2, b2, m, n, k, k2, {0, steps_of(k, k2)});
    finish(sums, y, n, corner.n, {alpha, bias, nullptr, 1, residual},
           [&](int row) { return corner.m + row < m ? corner.m + row : -1; });
}
// Field by field: a choice between two structs in memory would put them there.
DEV Operand choose(bool second, const Operand& a, const Operand& b) {
    return {second ? b.x : a.x, a.lines, second ? b.k : a.k, second ? b.stride : a.stride};
}
// Of operands of any kind.
template <bool B_LINES>
DEV void matmul_any(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2,
                    const float* bias, const scalar_t* residual, long long m, int n, int k, int k2, float alpha) {
    constexpr int SIZE = TILE_SMALL, THREADS = TILE_SMALL_THREADS;
    const Corner corner = corner_of_block<SIZE, SIZE>(m, n);
    Sums<SIZE, SIZE, THREADS, scalar_t> sums;
    const Operand a_first = {a, m, k, k}, a_second = {a2, m, k2, k2};
    const Operand b_first = {b, n, k, B_LINES ? k : n}, b_second = {b2, n, k2, B_LINES ? k2 : n};
    const int steps = (k + STEP - 1) / STEP;
    int i = 0;
    product<true, B_LINES>(sums, steps + (k2 + STEP - 1) / STEP, [&](scalar_t* tile_a, scalar_t* tile_b) {
        const bool second = i >= steps;
        const int value = (second ? i - steps : i) * STEP;
        fetch_any<true, SIZE, THREADS>(tile_a, choose(second, a_first, a_second), corner.m, value);
        fetch_any<B_LINES, SIZE, THREADS>(tile_b, choose(second, b_first, b_second), corner.n, value);
        i++;
    });
    each(sums, [&](int row, int column, float sum) {
        const long long line = corner.m + row;
        column += corner.n;
        if (line < m && column < n)
            store(y, line * n + column, finished({alpha, bias, nullptr, 1, residual}, sum, line, column, n));
    });
}

// y [m, n] float of a [k, m] and b [k, n]: slice blockIdx.z, over values blockIdx.z * k_slice to the next slice's.
template <int SIZE, int THREADS, bool ANY>
DEV void matmul_transposed(float* y, const scalar_t* a, const scalar_t* b, int m, int n, long long k, int k_slice) {
    const Corner corner = corner_of_block<SIZE, SIZE>(m, n);
    const long long start = (long long)blockIdx.z * k_slice;
    const int values = (int)min(k - start, (long long)k_slice);
    Sums<SIZE, SIZE, THREADS, scalar_t> sums;
    Walk<false, SIZE, THREADS> from_a, from_b;
    if constexpr (!ANY) {
        begin(from_a, {a + start * m, m, values, m}, corner.m);
        begin(from_b, {b + start * n, n, values, n}, corner.n);
    }
    int done = 0;
    product<false, false>(sums, (values + STEP - 1) / STEP, [&](scalar_t* tile_a, scalar_t* tile_b) {
        if constexpr (!ANY) {
            fetch(from_a, tile_a, values - done);
            fetch(from_b, tile_b, values - done);
        } else {
            fetch_any<false, SIZE, THREADS>(tile_a, {a + start * m, m, values, m}, corner.m, done);
            fetch_any<false, SIZE, THREADS>(tile_b, {b + start * n, n, values, n}, corner.n, done);
        }
        done += STEP;
    });
    store_sums(sums, y, corner.m, corner.n, m, n);
}
