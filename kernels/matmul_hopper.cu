// The products of matmul.cu on compute capability 9.0, by tensor maps and wgmma (pipeline.h):
//   y [m, n] = alpha (a b + a2 b2) + bias + residual
//   matmul_nt_hopper   a [m, k], b [n, k]   a linear layer             y = x W^T
//   matmul_nn_hopper   a [m, k], b [k, n]   the gradient of its input  dx = dy W
// with a second pair a2, b2 over k2 values, as there (LoRA, Hu et al. 2021, arXiv:2106.09685). The sums run over k in the same
// order. Steps that stick out of k, m or n read zeros, which tensor maps give: no code is spent on edges but the epilogue's.
//
// A block makes tiles of 256 x 160 values, which divides every width of Stable Diffusion. 2 m n (k + k2) FLOPs; a tile reads
// 53,248 bytes for 64 values of k: 98 FLOPs a byte from L2. A warp that multiplies issues some 6 instructions for each wgmma of
// 64 x 160 x 16, which takes a tensor core 80 cycles: tensor cores are the limit, for a short k the epilogue.
//
// m is below 2^31, n and k are multiples of 8, and all memory begins at multiples of 16 bytes.
#include "kernel.h"
#include "hopper.h"
#include "pipeline.h"

DEV int steps_of(int k) { return (k + PIPE_STEP - 1) / PIPE_STEP; }

template <bool B_ROWS> DEV void copy_step(unsigned char* tile_a, unsigned char* tile_b, Barrier* full, const TensorMap& a,
                                          const TensorMap& b, const PipeCorner& corner, int k) {
    load_box(tile_a, a, full, k, corner.m);
    if (B_ROWS) {
        load_box(tile_b, b, full, k, corner.n);
    } else {
#pragma unroll
        for (int j = 0; j < PIPE_COLUMNS; j += PIPE_BOX_COLUMNS)
            load_box(tile_b + j * PIPE_STEP * 2, b, full, corner.n + j, k);
    }
}

template <bool B_ROWS>
DEV void matmul(scalar_t* y, const TensorMap& a, const TensorMap& b, const TensorMap& a2, const TensorMap& b2, const Finish& with,
                int m, int n, int k, int k2) {
    const int first = steps_of(k), steps = first + steps_of(k2);
    pipeline(
        m, n,
        [&](const Ring& ring, Turn& turn, const PipeCorner& corner) {
            for (int i = 0; i < steps; i++)
                fill(ring, turn, [&](unsigned char* tile_a, unsigned char* tile_b, Barrier* full) {
                    if (i < first) copy_step<B_ROWS>(tile_a, tile_b, full, a, b, corner, i * PIPE_STEP);
                    else copy_step<B_ROWS>(tile_a, tile_b, full, a2, b2, corner, (i - first) * PIPE_STEP);
                });
        },
        [&](const Ring& ring, Turn& turn, int group, const PipeCorner& corner) {
            PipeSums sums;
            const Operands<B_ROWS> tiles = operands<B_ROWS>(ring, group);
#pragma unroll 1
            for (int i = 0; i < steps; i++) take(sums, ring, turn, tiles);
            finish(sums, ring, y, n, corner.n, with, [&](int row) { return corner.m + row < m ? (long long)corner.m + row : -1; });
        });
}

// a2 and b2 are not read where k2 is 0; bias and residual may be missing.
KERNEL_BOUNDS(matmul_nt_hopper, PIPE_THREADS, 1)
(scalar_t* y, TENSOR_MAP a, TENSOR_MAP b, TENSOR_MAP a2, TENSOR_MAP b2, const float* bias, const scalar_t* residual, int m, int n,
 int k, int k2, float alpha) {
    matmul<true>(y, a, b, a2, b2, {alpha, bias, nullptr, 1, residual}, m, n, k, k2);
}
KERNEL_BOUNDS(matmul_nn_hopper, PIPE_THREADS, 1)
(scalar_t* y, TENSOR_MAP a, TENSOR_MAP b, TENSOR_MAP a2, TENSOR_MAP b2, const float* bias, const scalar_t* residual, int m, int n,
 int k, int k2, float alpha) {
    matmul<false>(y, a, b, a2, b2, {alpha, bias, nullptr, 1, residual}, m, n, k, k2);
}
