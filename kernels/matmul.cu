// Matrix products, with what follows them and a second pair of operands:
//   y [m, n] = f(alpha (a b + a2 b2) + bias) + residual,   f = SiLU or nothing
// over k values of the first pair and k2 of the second. The second pair is LoRA's (Hu et al. 2021, arXiv:2106.09685):
// x W^T + h B^T with h = x A^T goes through one loop over k + rank values and writes y once. In the names, n and t say
// of both operands whether they are stored as they enter the product or transposed:
//   nt   a [m, k], b [n, k]   a linear layer             y = x W^T
//   nn   a [m, k], b [k, n]   the gradient of its input  dx = dy W
//   tn   a [k, m], b [k, n]   that of its weight         dW = dy^T x, in slices of k that sum_rows adds up in order
// and, for a layer whose rows of weights are those of n values and then of their n gates, v and g (GEGLU, Shazeer 2020,
// arXiv:2002.05202), without storing the 2 n of them:
//   nt_geglu   a [m, k], b [2 n, k]                      y [m, n] = v gelu(g)
// A group is up to three products nt of one a in one launch, each with its own b and second pair: the query, key and value
// of a transformer, which alone are too small to fill a GPU.
//
// A block makes a tile of 128 x 128 values or 64 x 64 as tile.h describes. Operands whose rows do not begin at multiples
// of 16 bytes are copied value by value: every shape is legal, widths that are multiples of 8 are fast.
//
// 2 m n (k + k2) FLOPs; at least sizeof(scalar_t) (m (k + k2) + n (k + k2) + m n) bytes. In 16 bits the large tile does
// 64 FLOPs for each byte that it reads.
#include "kernel.h"
#include "gelu.h"
#include "tile.h"

// Field by field: a choice between two structs in memory would put them there.
DEV Operand choose(bool second, const Operand& a, const Operand& b) {
    return {second ? b.x : a.x, a.lines, second ? b.k : a.k, second ? b.stride : a.stride};
}

template <bool B_LINES, int SIZE, int THREADS>
DEV void matmul(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2,
                const float* bias, const scalar_t* residual, long long m, int n, int k, int k2, float alpha, int silu) {
    const Corner corner = corner_of_block<SIZE>(m, n);
    const long long first_m = corner.m;
    const int first_n = corner.n;
    Sums<SIZE, THREADS, scalar_t> sums;
    const Operand a_first = {a, m, k, k}, a_second = {a2, m, k2, k2};
    const Operand b_first = {b, n, k, B_LINES ? k : n}, b_second = {b2, n, k2, B_LINES ? k2 : n};
    const int steps = (k + STEP - 1) / STEP;
    product<true, B_LINES>(
        sums, steps + (k2 + STEP - 1) / STEP,
        [&](scalar_t* tile, int i) {
            const Operand from = choose(i >= steps, a_first, a_second);
            fetch_tile<true, SIZE, THREADS>(tile, from, first_m, (i >= steps ? i - steps : i) * STEP);
        },
        [&](scalar_t* tile, int i) {
            const Operand from = choose(i >= steps, b_first, b_second);
            fetch_tile<B_LINES, SIZE, THREADS>(tile, from, first_n, (i >= steps ? i - steps : i) * STEP);
        });
    each(sums, [&](int row, int column, float sum) {
        if (first_m + row >= m || first_n + column >= n) return;
        const long long at = (first_m + row) * n + first_n + column;
        float value = alpha * sum;
        if (bias) value += bias[first_n + column];
        if (silu) value /= 1.f + expf(-value);
        if (residual) value += load(residual, at);
        store(y, at, value);
    });
}

// y [groups, m, n], a2 [groups, m, k2]: product blockIdx.z of a group.
template <int SIZE, int THREADS>
DEV void matmul_group(scalar_t* y, const scalar_t* a, const scalar_t* const (&b)[3], const scalar_t* a2,
                      const scalar_t* const (&b2)[3], long long m, int n, int k, int k2, float alpha) {
    const int i = blockIdx.z;
    matmul<true, SIZE, THREADS>(y + i * m * n, a, i == 0 ? b[0] : i == 1 ? b[1] : b[2], a2 + i * m * k2,
                                i == 0 ? b2[0] : i == 1 ? b2[1] : b2[2], nullptr, nullptr, m, n, k, k2, alpha, 0);
}

// Begins to copy rows of `from`, [2 n, k]: TURN of values from `first` on, their gates, the next TURN of values, and so on,
// so that the thread with the sum of a value gets that of its gate.
template <int SIZE, int THREADS> DEV void fetch_gated(scalar_t* tile, const Operand& from, int first, int k) {
    constexpr int CHUNKS = STEP / PACK, TURN = Sums<SIZE, THREADS, scalar_t>::TURN;
    const bool aligned = aligned16(from.x) && from.stride % PACK == 0;
    const int n = (int)(from.lines / 2);
#pragma unroll
    for (int i = 0; i < SIZE * CHUNKS / THREADS; i++) {
        const int at = i * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
        const int column = first + row / (2 * TURN) * TURN + row % TURN, value = k + chunk * PACK;
        const long long line = row / TURN % 2 ? n + column : column;
        const int count = column < n ? max(min(from.k - value, PACK), 0) : 0;
        copy_chunk(tile + chunk_at<true, SIZE>(row, chunk), count ? from.x + line * from.stride + value : from.x, count,
                   aligned);
    }
}

template <int SIZE, int THREADS>
DEV void matmul_geglu(scalar_t* y, const scalar_t* a, const scalar_t* b, const float* bias, long long m, int n, int k) {
    const Corner corner = corner_of_block<SIZE>(m, 2 * n);
    const int first_n = corner.n / 2;
    Sums<SIZE, THREADS, scalar_t> sums;
    const Operand from_a = {a, m, k, k}, from_b = {b, 2LL * n, k, k};
    product<true, true>(
        sums, (k + STEP - 1) / STEP,
        [&](scalar_t* tile, int i) { fetch_tile<true, SIZE, THREADS>(tile, from_a, corner.m, i * STEP); },
        [&](scalar_t* tile, int i) { fetch_gated<SIZE, THREADS>(tile, from_b, first_n, i * STEP); });
    each_pair(sums, [&](int row, int column, float value, float gate) {
        column += first_n;
        if (corner.m + row >= m || column >= n) return;
        if (bias) value += bias[column], gate += bias[n + column];
        store(y, (corner.m + row) * n + column, value * gelu(gate));
    });
}

// y [slices, m, n] float: slice blockIdx.z over values blockIdx.z * k_slice to the next slice's.
template <int SIZE, int THREADS>
DEV void matmul_transposed(float* y, const scalar_t* a, const scalar_t* b, int m, int n, long long k, int k_slice) {
    const Corner corner = corner_of_block<SIZE>(m, n);
    const int first_m = (int)corner.m, first_n = corner.n;
    const long long start = (long long)blockIdx.z * k_slice;
    const int values = (int)min(k - start, (long long)k_slice);
    Sums<SIZE, THREADS, scalar_t> sums;
    const Operand from_a = {a + start * m, m, values, m}, from_b = {b + start * n, n, values, n};
    product<false, false>(
        sums, (values + STEP - 1) / STEP,
        [&](scalar_t* tile, int i) { fetch_tile<false, SIZE, THREADS>(tile, from_a, first_m, i * STEP); },
        [&](scalar_t* tile, int i) { fetch_tile<false, SIZE, THREADS>(tile, from_b, first_n, i * STEP); });
    each(sums, [&](int row, int column, float sum) {
        if (first_m + row < m && first_n + column < n)
            y[((long long)blockIdx.z * m + first_m + row) * n + first_n + column] = sum;
    });
}

// a2 and b2 may be missing with k2 = 0, and so may bias and residual. Biases are float, like all vectors of a model.
KERNEL_BOUNDS(matmul_nt_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const float* bias,
 const scalar_t* residual, long long m, int n, int k, int k2, float alpha, int silu) {
    matmul<true, TILE_LARGE, TILE_LARGE_THREADS>(y, a, b, a2, b2, bias, residual, m, n, k, k2, alpha, silu);
}
KERNEL_BOUNDS(matmul_nt_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const float* bias,
 const scalar_t* residual, long long m, int n, int k, int k2, float alpha, int silu) {
    matmul<true, TILE_SMALL, TILE_SMALL_THREADS>(y, a, b, a2, b2, bias, residual, m, n, k, k2, alpha, silu);
}
// a2 and its b may be missing with k2 = 0.
KERNEL_BOUNDS(matmul_group_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* a, const scalar_t* b_first, const scalar_t* b_second, const scalar_t* b_third,
 const scalar_t* a2, const scalar_t* b2_first, const scalar_t* b2_second, const scalar_t* b2_third, long long m, int n,
 int k, int k2, float alpha) {
    matmul_group<TILE_LARGE, TILE_LARGE_THREADS>(y, a, {b_first, b_second, b_third}, a2,
                                                 {b2_first, b2_second, b2_third}, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_group_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b_first, const scalar_t* b_second, const scalar_t* b_third,
 const scalar_t* a2, const scalar_t* b2_first, const scalar_t* b2_second, const scalar_t* b2_third, long long m, int n,
 int k, int k2, float alpha) {
    matmul_group<TILE_SMALL, TILE_SMALL_THREADS>(y, a, {b_first, b_second, b_third}, a2,
                                                 {b2_first, b2_second, b2_third}, m, n, k, k2, alpha);
}
// bias [2 n] may be missing.
KERNEL_BOUNDS(matmul_nt_geglu_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const float* bias, long long m, int n, int k) {
    matmul_geglu<TILE_LARGE, TILE_LARGE_THREADS>(y, a, b, bias, m, n, k);
}
KERNEL_BOUNDS(matmul_nt_geglu_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const float* bias, long long m, int n, int k) {
    matmul_geglu<TILE_SMALL, TILE_SMALL_THREADS>(y, a, b, bias, m, n, k);
}
KERNEL_BOUNDS(matmul_nn_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const float* bias,
 const scalar_t* residual, long long m, int n, int k, int k2, float alpha, int silu) {
    matmul<false, TILE_LARGE, TILE_LARGE_THREADS>(y, a, b, a2, b2, bias, residual, m, n, k, k2, alpha, silu);
}
KERNEL_BOUNDS(matmul_nn_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const float* bias,
 const scalar_t* residual, long long m, int n, int k, int k2, float alpha, int silu) {
    matmul<false, TILE_SMALL, TILE_SMALL_THREADS>(y, a, b, a2, b2, bias, residual, m, n, k, k2, alpha, silu);
}
KERNEL_BOUNDS(matmul_tn_large, TILE_LARGE_THREADS, 2)
(float* y, const scalar_t* a, const scalar_t* b, int m, int n, long long k, int k_slice) {
    matmul_transposed<TILE_LARGE, TILE_LARGE_THREADS>(y, a, b, m, n, k, k_slice);
}
KERNEL_BOUNDS(matmul_tn_small, TILE_SMALL_THREADS, 4)
(float* y, const scalar_t* a, const scalar_t* b, int m, int n, long long k, int k_slice) {
    matmul_transposed<TILE_SMALL, TILE_SMALL_THREADS>(y, a, b, m, n, k, k_slice);
}
