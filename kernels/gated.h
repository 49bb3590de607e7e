// Products whose columns are values and their gates (GEGLU), for matmul.cu.
#pragma once
#include "gelu.h"

// Rows of a tile of b [2 n, k]: TURN of values from `first` on, their gates, the next TURN of values, and so on, so that the
// thread with the sum of a value gets that of its gate. The value's column of row `row`, and the line in b.
template <class S> DEV int gated_column(int row, int first) {
    return first + row / (2 * S::TURN) * S::TURN + row % S::TURN;
}
template <class S> DEV long long gated_line(int row, int column, int n) {
    return row / S::TURN % 2 ? (long long)n + column : column;
}
template <class S, int SIZE, int THREADS>
DEV void begin_gated(Walk<true, SIZE, THREADS>& walk, const scalar_t* b, int first, int n, int k) {
    using W = Walk<true, SIZE, THREADS>;
    static_assert(W::APART % (2 * S::TURN) == 0, "rows of a thread are values or gates");
    const int row = first_row<W>(), column = gated_column<S>(row, first);
    begin(walk, {b, n, k, k}, gated_line<S>(row, column, n) - row);
    walk.apart /= 2;
    walk.there = 0;
#pragma unroll
    for (int i = 0; i < W::EACH; i++) walk.there |= (column + i * W::APART / 2 < n ? 1u : 0u) << i;
}
template <int SIZE, int THREADS, bool ANY>
DEV void matmul_geglu(scalar_t* y, const scalar_t* a, const scalar_t* b, const float* bias, long long m, int n, int k) {
    const Corner corner = corner_of_block<SIZE, SIZE>(m, 2 * n);
    const int first_n = corner.n / 2;
    using S = Sums<SIZE, SIZE, THREADS, scalar_t>;
    S sums;
    Walk<true, SIZE, THREADS> from_a, from_b;
    if constexpr (!ANY) {
        begin(from_a, {a, m, k, k}, corner.m);
        begin_gated<S>(from_b, b, first_n, n, k);
    }
    int done = 0;
    product<true, true>(sums, (k + STEP - 1) / STEP, [&](scalar_t* tile_a, scalar_t* tile_b) {
        if constexpr (!ANY) {
            fetch(from_a, tile_a, k - done);
            fetch(from_b, tile_b, k - done);
        } else {
            fetch_any<true, SIZE, THREADS>(tile_a, {a, m, k, k}, corner.m, done);
            fetch_any_lines<SIZE, THREADS>(tile_b, b, k, k, done, [&](int row) {
                const int column = gated_column<S>(row, first_n);
                return column < n ? gated_line<S>(row, column, n) : -1;
            });
        }
        done += STEP;
    });
    each_pair(sums, [&](int row, int column, float value, float gate) {
        column += first_n;
        if (corner.m + row >= m || column >= n) return;
        if (bias) value += bias[column], gate += bias[n + column];
        store(y, (corner.m + row) * n + column, value * gelu(gate));
    });
}
