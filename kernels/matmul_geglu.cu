// Matrix products around a gate, GEGLU (Shazeer 2020, arXiv:2002.05202): a layer whose 2 n rows of weights are those of n
// values and then of their n gates, and the gradient of the layer behind it. Names and operands as in matmul.cu.
//   nt_geglu   between [m, 2 n] = a b^T + a2 b2^T + bias, with b [2 n, k]   y [m, n] = v gelu(g), [v, g] the rows of between
//   nn_geglu   d [m, n] = a b + a2 b2, with b [k, n]                        dx [m, 2 n] = [d gelu(g), d v gelu'(g)]
// Between may be missing: then it is not stored. It is rounded before the gate whether or not it is, as d is, so that results
// are those of a product and a gate one after the other (elementwise.cu).
//
// Of matmul.cu's bytes the 2 n and n values between product and gate are read no more; nn_geglu reads and writes 4 n values a
// row, which bound it.
#include "kernel.h"
#include "matmul.h"
#include "gated.h"

// bias [2 n] may be missing, and so may the second pair with k2 = 0.
KERNEL_BOUNDS(matmul_nt_geglu_tall, TILE_TALL_THREADS, 1)
(scalar_t* y, scalar_t* between, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2,
 const float* bias, long long m, int n, int k, int k2) {
    matmul_geglu<TILE_TALL, TILE_LARGE, TILE_TALL_THREADS, false>(y, between, a, b, a2, b2, bias, m, n, k, k2);
}
KERNEL_BOUNDS(matmul_nt_geglu_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, scalar_t* between, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2,
 const float* bias, long long m, int n, int k, int k2) {
    matmul_geglu<TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS, false>(y, between, a, b, a2, b2, bias, m, n, k, k2);
}
KERNEL_BOUNDS(matmul_nt_geglu_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, scalar_t* between, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2,
 const float* bias, long long m, int n, int k, int k2) {
    matmul_geglu<TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS, false>(y, between, a, b, a2, b2, bias, m, n, k, k2);
}
KERNEL_BOUNDS(matmul_nt_geglu_any, TILE_SMALL_THREADS, 4)
(scalar_t* y, scalar_t* between, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2,
 const float* bias, long long m, int n, int k, int k2) {
    matmul_geglu<TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS, true>(y, between, a, b, a2, b2, bias, m, n, k, k2);
}
KERNEL_BOUNDS(matmul_nn_geglu_tall, TILE_TALL_THREADS, 1)
(scalar_t* dx, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const scalar_t* between,
 long long m, int n, int k, int k2) {
    matmul_geglu_gradient<TILE_TALL, TILE_LARGE, TILE_TALL_THREADS>(dx, a, b, a2, b2, between, m, n, k, k2);
}
KERNEL_BOUNDS(matmul_nn_geglu_large, TILE_LARGE_THREADS, 2)
(scalar_t* dx, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const scalar_t* between,
 long long m, int n, int k, int k2) {
    matmul_geglu_gradient<TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS>(dx, a, b, a2, b2, between, m, n, k, k2);
}
KERNEL_BOUNDS(matmul_nn_geglu_small, TILE_SMALL_THREADS, 4)
(scalar_t* dx, const scalar_t* a, const scalar_t* b, const scalar_t* a2, const scalar_t* b2, const scalar_t* between,
 long long m, int n, int k, int k2) {
    matmul_geglu_gradient<TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS>(dx, a, b, a2, b2, between, m, n, k, k2);
}
