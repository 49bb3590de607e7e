// Matrix products, with what follows them and a second pair of operands:
//   y [m, n] = alpha (a b + a2 b2) + bias + residual
// over k values of the first pair and k2 of the second. The second pair is LoRA's (Hu et al. 2021, arXiv:2106.09685):
// x W^T + h B^T with h = x A^T goes through one loop over k + rank values and writes y once. In the names, n and t say
// of both operands whether they are stored as they enter the product or transposed:
//   nt   a [m, k], b [n, k]   a linear layer             y = x W^T
//   nn   a [m, k], b [k, n]   the gradient of its input  dx = dy W
//   tn   a [k, m], b [k, n]   that of its weight         dW = dy^T x, in slices of k that sum_rows adds up in order
// matmul_group.cu has several of them in one launch, matmul_geglu.cu those with a gate.
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
#include "matmul.h"

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
KERNEL_BOUNDS(matmul_tn_large, TILE_LARGE_THREADS, 2)
(float* y, const scalar_t* a, const scalar_t* b, int m, int n, long long k, int k_slice) {
    matmul_transposed<TILE_LARGE, TILE_LARGE_THREADS, false>(y + (long long)blockIdx.z * m * n, a, b, m, n, k, k_slice);
}
KERNEL_BOUNDS(matmul_tn_small, TILE_SMALL_THREADS, 4)
(float* y, const scalar_t* a, const scalar_t* b, int m, int n, long long k, int k_slice) {
    matmul_transposed<TILE_SMALL, TILE_SMALL_THREADS, false>(y + (long long)blockIdx.z * m * n, a, b, m, n, k, k_slice);
}
KERNEL_BOUNDS(matmul_tn_any, TILE_SMALL_THREADS, 4)
(float* y, const scalar_t* a, const scalar_t* b, int m, int n, long long k, int k_slice) {
    matmul_transposed<TILE_SMALL, TILE_SMALL_THREADS, true>(y + (long long)blockIdx.z * m * n, a, b, m, n, k, k_slice);
}
