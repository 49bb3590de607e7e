// Matrix products, with what follows them and a second pair of operands:
//   y [m, n] = alpha (a b + a2 b2) + bias + residual
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
// Where a long k would keep few blocks busy, blockIdx.z has slices of it (nt_split, nn_split), whose float sums sums.cu adds up.
//
// A block makes a tile of 256 x 128 values, 128 x 128 or 64 x 64 as tile.h describes. `tall`, `large` and `small` take operands
// whose rows begin at multiples of 16 bytes; `any` takes whatever there is, value by value where it must.
//
// 2 m n (k + k2) FLOPs; at least sizeof(scalar_t) (m (k + k2) + n (k + k2) + m n) bytes. In 16 bits the tall tile does 85
// FLOPs for each byte that it reads, the large one 64, and a warp issues 2.7 instructions for each of its tensor-core products, besides some
// 1200 before and after the loop: it is bound by shared memory and tensor cores, a short k by what is around the loop.
#include "kernel.h"
#include "tile.h"
#include "walk.h"
#include "gated.h"

// The sums of the steps of k of a slice, those of the second pair following those of the first.
template <bool B_LINES, int ROWS, int COLUMNS, int THREADS>
DEV void sum_up(Sums<ROWS, COLUMNS, THREADS, scalar_t>& sums, const Corner& corner, const scalar_t* a, const scalar_t* b,
                const scalar_t* a2, const scalar_t* b2, long long m, int n, int k, int k2, const Slice& slice) {
    Walk<true, ROWS, THREADS> from_a;
    Walk<B_LINES, COLUMNS, THREADS> from_b;
    int left = 0;
    const auto begin_pair = [&](const scalar_t* a, const scalar_t* b, int k, int first) {
        begin(from_a, {a + first, m, k, k}, corner.m);
        begin(from_b, {b + (B_LINES ? first : (long long)first * n), n, k, B_LINES ? k : n}, corner.n);
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
// parts [slices, m, n]: slice blockIdx.z.
template <bool B_LINES, int ROWS, int COLUMNS, int THREADS>
DEV void matmul_split(float* parts, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, long long m,
                      int n, int k, int k2, int slices) {
    const Corner corner = corner_of_block<ROWS, COLUMNS>(m, n);
    Sums<ROWS, COLUMNS, THREADS, scalar_t> sums;
    sum_up<B_LINES>(sums, corner, a, b, a2, b2, m, n, k, k2, slice_of(blockIdx.z, slices, steps_of(k, k2)));
    store_part(sums, parts + blockIdx.z * m * n, n, corner.n,
               [&](int row) { return corner.m + row < m ? corner.m + row : -1; });
}

// Field by field: a choice between two structs in memory would put them there.
DEV Operand choose(bool second, const Operand& a, const Operand& b) {
    return {second ? b.x : a.x, a.lines, second ? b.k : a.k, second ? b.stride : a.stride};
}
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

// y [groups, m, n], a2 [groups, m, k2]: product blockIdx.z of a group.
struct Group {
    scalar_t* y;
    const scalar_t *b, *a2, *b2;
};
DEV Group group(scalar_t* y, const scalar_t* const (&b)[3], const scalar_t* a2, const scalar_t* const (&b2)[3],
                long long m, int n, int k2) {
    const int i = blockIdx.z;
    return {y + i * m * n, i == 0 ? b[0] : i == 1 ? b[1] : b[2], a2 + i * m * k2, i == 0 ? b2[0] : i == 1 ? b2[1] : b2[2]};
}

// y [slices, m, n] float: slice blockIdx.z over values blockIdx.z * k_slice to the next slice's.
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
    store_sums(sums, y + (long long)blockIdx.z * m * n, corner.m, corner.n, m, n);
}

// a2 and b2 may be missing with k2 = 0, and so may bias and residual. Biases are float, like all vectors of a model.
KERNEL_BOUNDS(matmul_nt_tall, TILE_TALL_THREADS, 1)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const float* bias,
 const scalar_t* residual, long long m, int n, int k, int k2, float alpha) {
    matmul<true, TILE_TALL, TILE_LARGE, TILE_TALL_THREADS>(y, a, b, a2, b2, bias, residual, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_nt_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const float* bias,
 const scalar_t* residual, long long m, int n, int k, int k2, float alpha) {
    matmul<true, TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS>(y, a, b, a2, b2, bias, residual, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_nt_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const float* bias,
 const scalar_t* residual, long long m, int n, int k, int k2, float alpha) {
    matmul<true, TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS>(y, a, b, a2, b2, bias, residual, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_nt_any, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const float* bias,
 const scalar_t* residual, long long m, int n, int k, int k2, float alpha) {
    matmul_any<true>(y, a, b, a2, b2, bias, residual, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_nn_tall, TILE_TALL_THREADS, 1)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const float* bias,
 const scalar_t* residual, long long m, int n, int k, int k2, float alpha) {
    matmul<false, TILE_TALL, TILE_LARGE, TILE_TALL_THREADS>(y, a, b, a2, b2, bias, residual, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_nn_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const float* bias,
 const scalar_t* residual, long long m, int n, int k, int k2, float alpha) {
    matmul<false, TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS>(y, a, b, a2, b2, bias, residual, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_nn_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const float* bias,
 const scalar_t* residual, long long m, int n, int k, int k2, float alpha) {
    matmul<false, TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS>(y, a, b, a2, b2, bias, residual, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_nn_any, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const float* bias,
 const scalar_t* residual, long long m, int n, int k, int k2, float alpha) {
    matmul_any<false>(y, a, b, a2, b2, bias, residual, m, n, k, k2, alpha);
}
// parts [slices, m, n] float, which sum_slices makes y of.
KERNEL_BOUNDS(matmul_nt_split_large, TILE_LARGE_THREADS, 2)
(float* parts, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, long long m, int n, int k, int k2,
 int slices) {
    matmul_split<true, TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS>(parts, a, b, a2, b2, m, n, k, k2, slices);
}
KERNEL_BOUNDS(matmul_nt_split_small, TILE_SMALL_THREADS, 4)
(float* parts, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, long long m, int n, int k, int k2,
 int slices) {
    matmul_split<true, TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS>(parts, a, b, a2, b2, m, n, k, k2, slices);
}
KERNEL_BOUNDS(matmul_nn_split_large, TILE_LARGE_THREADS, 2)
(float* parts, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, long long m, int n, int k, int k2,
 int slices) {
    matmul_split<false, TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS>(parts, a, b, a2, b2, m, n, k, k2, slices);
}
KERNEL_BOUNDS(matmul_nn_split_small, TILE_SMALL_THREADS, 4)
(float* parts, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, long long m, int n, int k, int k2,
 int slices) {
    matmul_split<false, TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS>(parts, a, b, a2, b2, m, n, k, k2, slices);
}
// The second pairs may be missing, and so may products behind the first.
KERNEL_BOUNDS(matmul_group_tall, TILE_TALL_THREADS, 1)
(scalar_t* y, const scalar_t* a, const scalar_t* b_first, const scalar_t* b_second, const scalar_t* b_third,
 const scalar_t* a2, const scalar_t* b2_first, const scalar_t* b2_second, const scalar_t* b2_third, long long m, int n,
 int k, int k2, float alpha) {
    const Group g = group(y, {b_first, b_second, b_third}, a2, {b2_first, b2_second, b2_third}, m, n, k2);
    matmul<true, TILE_TALL, TILE_LARGE, TILE_TALL_THREADS>(g.y, a, g.b, g.a2, g.b2, nullptr, nullptr, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_group_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* a, const scalar_t* b_first, const scalar_t* b_second, const scalar_t* b_third,
 const scalar_t* a2, const scalar_t* b2_first, const scalar_t* b2_second, const scalar_t* b2_third, long long m, int n,
 int k, int k2, float alpha) {
    const Group g = group(y, {b_first, b_second, b_third}, a2, {b2_first, b2_second, b2_third}, m, n, k2);
    matmul<true, TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS>(g.y, a, g.b, g.a2, g.b2, nullptr, nullptr, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_group_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b_first, const scalar_t* b_second, const scalar_t* b_third,
 const scalar_t* a2, const scalar_t* b2_first, const scalar_t* b2_second, const scalar_t* b2_third, long long m, int n,
 int k, int k2, float alpha) {
    const Group g = group(y, {b_first, b_second, b_third}, a2, {b2_first, b2_second, b2_third}, m, n, k2);
    matmul<true, TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS>(g.y, a, g.b, g.a2, g.b2, nullptr, nullptr, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_group_any, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b_first, const scalar_t* b_second, const scalar_t* b_third,
 const scalar_t* a2, const scalar_t* b2_first, const scalar_t* b2_second, const scalar_t* b2_third, long long m, int n,
 int k, int k2, float alpha) {
    const Group g = group(y, {b_first, b_second, b_third}, a2, {b2_first, b2_second, b2_third}, m, n, k2);
    matmul_any<true>(g.y, a, g.b, g.a2, g.b2, nullptr, nullptr, m, n, k, k2, alpha);
}
// bias [2 n] may be missing.
KERNEL_BOUNDS(matmul_nt_geglu_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const float* bias, long long m, int n, int k) {
    matmul_geglu<TILE_LARGE, TILE_LARGE_THREADS, false>(y, a, b, bias, m, n, k);
}
KERNEL_BOUNDS(matmul_nt_geglu_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const float* bias, long long m, int n, int k) {
    matmul_geglu<TILE_SMALL, TILE_SMALL_THREADS, false>(y, a, b, bias, m, n, k);
}
KERNEL_BOUNDS(matmul_nt_geglu_any, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b, const float* bias, long long m, int n, int k) {
    matmul_geglu<TILE_SMALL, TILE_SMALL_THREADS, true>(y, a, b, bias, m, n, k);
}
KERNEL_BOUNDS(matmul_tn_large, TILE_LARGE_THREADS, 2)
(float* y, const scalar_t* a, const scalar_t* b, int m, int n, long long k, int k_slice) {
    matmul_transposed<TILE_LARGE, TILE_LARGE_THREADS, false>(y, a, b, m, n, k, k_slice);
}
KERNEL_BOUNDS(matmul_tn_small, TILE_SMALL_THREADS, 4)
(float* y, const scalar_t* a, const scalar_t* b, int m, int n, long long k, int k_slice) {
    matmul_transposed<TILE_SMALL, TILE_SMALL_THREADS, false>(y, a, b, m, n, k, k_slice);
}
KERNEL_BOUNDS(matmul_tn_any, TILE_SMALL_THREADS, 4)
(float* y, const scalar_t* a, const scalar_t* b, int m, int n, long long k, int k_slice) {
    matmul_transposed<TILE_SMALL, TILE_SMALL_THREADS, true>(y, a, b, m, n, k, k_slice);
}
