// Products whose columns are values and their gates (GEGLU), for matmul_geglu.cu.
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
// Stores y and, where it is wanted, between from the tile's sums, of columns from `first` on and rows from `top` on. In 16 bits
// n is a multiple of PACK and all memory aligned: what is between goes through shared memory, a row's values before its gates.
template <int ROWS, int COLUMNS, int THREADS, class T>
DEV void finish_gated(const Sums<ROWS, COLUMNS, THREADS, T>& sums, T* y, T* between, const float* bias, long long top, long long m,
                      int first, int n) {
    using S = Sums<ROWS, COLUMNS, THREADS, T>;
    constexpr int PITCH = COLUMNS + PACK, HALF = COLUMNS / 2, CHUNKS = HALF / PACK, APART = THREADS / CHUNKS;
    DYN_SHARED(T, stage);
    __syncthreads();  // all have done with the ring
    const int own = warp_column<S>() / 2 + threadIdx.x % 4 * 2;
    float add[S::N / 8][2] = {};
    if (bias) {
#pragma unroll
        for (int j = 0; j < S::N / 8; j++) {
            const int column = first + own + j / 2 * 8;
            const float* from = bias + (j % 2 ? n : 0) + column;
            if (column < n) add[j][0] = from[0], add[j][1] = from[1];
        }
    }
#pragma unroll
    for (int i = 0; i < S::M / 16; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            T* staged = stage + (own_row<S>() + i * 16 + h * 8) * PITCH + own;
#pragma unroll
            for (int j = 0; j < S::N / 8; j++)
                *reinterpret_cast<unsigned*>(staged + j / 2 * 8 + (j % 2 ? HALF : 0)) =
                    pack2(sums.d[i][j][2 * h] + add[j][0], sums.d[i][j][2 * h + 1] + add[j][1], T{});
        }
    __syncthreads();
    const int row = threadIdx.x / CHUNKS, place = threadIdx.x % CHUNKS * PACK, column = first + place;
    if (column >= n) return;
#pragma unroll 1
    for (int i = 0; i < ROWS; i += APART) {
        const long long at = top + row + i;
        if (at >= m) return;
        const T* chunk = stage + (row + i) * PITCH + place;
        const uint4 values = *reinterpret_cast<const uint4*>(chunk), gates = *reinterpret_cast<const uint4*>(chunk + HALF);
        if (between) {
            *reinterpret_cast<uint4*>(between + at * 2 * n + column) = values;
            *reinterpret_cast<uint4*>(between + at * 2 * n + n + column) = gates;
        }
        float value[PACK], gate[PACK];
        unpack(value, values, T{});
        unpack(gate, gates, T{});
#pragma unroll
        for (int e = 0; e < PACK; e++) value[e] *= gelu(gate[e]);
        store_whole(y + at * n + column, value);
    }
}
// The same value by value, for any n and memory.
template <int ROWS, int COLUMNS, int THREADS, class T>
DEV void finish_gated_any(const Sums<ROWS, COLUMNS, THREADS, T>& sums, T* y, T* between, const float* bias, long long top,
                          long long m, int first, int n) {
    each_pair(sums, [&](int row, int column, float value, float gate) {
        const long long at = top + row;
        column += first;
        if (at >= m || column >= n) return;
        if (bias) value += bias[column], gate += bias[n + column];
        value = to_float(from_float<T>(value)), gate = to_float(from_float<T>(gate));
        if (between) {
            store(between, at * 2 * n + column, value);
            store(between, at * 2 * n + n + column, gate);
        }
        store(y, at * n + column, value * gelu(gate));
    });
}
template <int ROWS, int COLUMNS, int THREADS>
DEV void finish_gated(const Sums<ROWS, COLUMNS, THREADS, float>& sums, float* y, float* between, const float* bias, long long top,
                      long long m, int first, int n) {
    finish_gated_any(sums, y, between, bias, top, m, first, n);
}

template <int ROWS, int COLUMNS, int THREADS, bool ANY>
DEV void matmul_geglu(scalar_t* y, scalar_t* between, const scalar_t* a, const scalar_t* b, const scalar_t* a2,
                      const scalar_t* b2, const float* bias, long long m, int n, int k, int k2) {
    const Corner corner = corner_of_block<ROWS, COLUMNS>(m, 2 * n);
    const int first = corner.n / 2;
    using S = Sums<ROWS, COLUMNS, THREADS, scalar_t>;
    S sums;
    if constexpr (!ANY) {
        sum_up<true>(sums, corner.m, a, b, a2, b2, m, k, k2, {0, steps_of(k, k2)},
                     [&](Walk<true, COLUMNS, THREADS>& from_b, const scalar_t* b, int k, int value) {
                         begin_gated<S>(from_b, b + value, first, n, k);
                     });
        finish_gated(sums, y, between, bias, corner.m, m, first, n);
    } else {
        const int steps = (k + STEP - 1) / STEP;
        int i = 0;
        product<true, true>(sums, steps_of(k, k2), [&](scalar_t* tile_a, scalar_t* tile_b) {
            const bool second = i >= steps;
            const int value = (second ? i - steps : i) * STEP, values = second ? k2 : k;
            fetch_any<true, ROWS, THREADS>(tile_a, {second ? a2 : a, m, values, values}, corner.m, value);
            fetch_any_lines<COLUMNS, THREADS>(tile_b, second ? b2 : b, values, values, value, [&](int row) {
                const int column = gated_column<S>(row, first);
                return column < n ? gated_line<S>(row, column, n) : -1;
            });
            i++;
        });
        finish_gated_any(sums, y, between, bias, corner.m, m, first, n);
    }
}

// ---- the gradient ----
// Of d's value: what becomes of it, the gradient of the value, and what it makes of `value`, that of the gate.
DEV void gate_gradient(float& d, float& value, float gate) {
    const Gelu at = gelu_and_slope(gate);
    value = d * value * at.slope;
    d = d * at.gelu;
}
template <int ROWS, int COLUMNS, int THREADS, class T>
DEV void finish_gate_gradient(const Sums<ROWS, COLUMNS, THREADS, T>& sums, T* dx, const T* between, long long top, long long m,
                              int first, int n) {
    using S = Sums<ROWS, COLUMNS, THREADS, T>;
    constexpr int PITCH = COLUMNS + PACK, CHUNKS = COLUMNS / PACK, APART = THREADS / CHUNKS;
    DYN_SHARED(T, stage);
    const int row = threadIdx.x / CHUNKS, place = threadIdx.x % CHUNKS * PACK, column = first + place;
    // What is between of the next row is on its way while this one is computed.
    uint4 values = {}, gates = {};
    const auto fetch_row = [&](int i) {
        const long long at = top + row + i;
        if (i >= ROWS || at >= m || column >= n) return;
        values = *reinterpret_cast<const uint4*>(between + at * 2 * n + column);
        gates = *reinterpret_cast<const uint4*>(between + at * 2 * n + n + column);
    };
    fetch_row(0);
    __syncthreads();  // all have done with the ring
#pragma unroll
    for (int i = 0; i < S::M / 16; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            T* staged = stage + (own_row<S>() + i * 16 + h * 8) * PITCH + own_column<S>();
#pragma unroll
            for (int j = 0; j < S::N / 8; j++)
                *reinterpret_cast<unsigned*>(staged + j * 8) = pack2(sums.d[i][j][2 * h], sums.d[i][j][2 * h + 1], T{});
        }
    __syncthreads();
    if (column >= n) return;
#pragma unroll 1
    for (int i = 0; i < ROWS; i += APART) {
        const long long at = top + row + i;
        if (at >= m) return;
        float value[PACK], gate[PACK], d[PACK];
        unpack(value, values, T{});
        unpack(gate, gates, T{});
        fetch_row(i + APART);
        load_whole(d, stage + (row + i) * PITCH + place);
#pragma unroll
        for (int e = 0; e < PACK; e++) gate_gradient(d[e], value[e], gate[e]);
        store_whole(dx + at * 2 * n + column, d);
        store_whole(dx + at * 2 * n + n + column, value);
    }
}
template <int ROWS, int COLUMNS, int THREADS>
DEV void finish_gate_gradient(const Sums<ROWS, COLUMNS, THREADS, float>& sums, float* dx, const float* between, long long top,
                              long long m, int first, int n) {
    each(sums, [&](int row, int column, float d) {
        const long long at = top + row;
        column += first;
        if (at >= m || column >= n) return;
        float value = between[at * 2 * n + column];
        gate_gradient(d, value, between[at * 2 * n + n + column]);
        dx[at * 2 * n + column] = d;
        dx[at * 2 * n + n + column] = value;
    });
}
template <int ROWS, int COLUMNS, int THREADS>
DEV void matmul_geglu_gradient(scalar_t* dx, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2,
                               const scalar_t* between, long long m, int n, int k, int k2) {
    const Corner corner = corner_of_block<ROWS, COLUMNS>(m, n);
    Sums<ROWS, COLUMNS, THREADS, scalar_t> sums;
    sum_up<false>(sums, corner, a, b, a2, b2, m, n, k, k2, {0, steps_of(k, k2)});
    finish_gate_gradient(sums, dx, between, corner.m, m, corner.n, n);
}
