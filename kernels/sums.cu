// Sums over the rows of matrices x [n, rows, c] -> y [n, slabs, c] float: the gradient of a bias, and of everything else
// that one value shares with all rows. Long matrices go in several launches, each over the slabs of the one before; in
// each the order is that of the rows.
// A block (column block, slab, matrix) has blockDim.x neighbouring columns of slab_rows rows, a thread one column.
// sizeof(scalar_t) bytes and one FLOP a value.
//
// And what becomes of a product whose k went in slices side by side (matmul.cu, conv2d.cu):
//   y [rows, n] = alpha sum of parts [slices, rows, n] + bias [n] + t [images, n] + residual
// with the slices in their order. A thread has a pack of y; slices are read from L2, where they have just been written:
// 4 slices + sizeof(scalar_t) bytes and `slices` FLOPs a value.
#include "kernel.h"

CONSTANT(SUMS_THREADS, 128);

KERNEL_BOUNDS(sum_rows, SUMS_THREADS, 8)(float* y, const scalar_t* x, long long rows, int c, int slab_rows) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= c) return;
    const long long first = (long long)blockIdx.y * slab_rows, end = min(first + slab_rows, rows);
    x += blockIdx.z * rows * c;
    float sum = 0.f;
    for (long long row = first; row < end; row++) sum += load(x, row * c + column);
    y[((long long)blockIdx.z * gridDim.y + blockIdx.y) * c + column] = sum;
}

// bias, t and residual may be missing; a row of t serves rows_of_t rows of y. n is a multiple of PACK, all memory aligned.
KERNEL_BOUNDS(sum_slices, SUMS_THREADS, 8)
(scalar_t* y, const float* parts, const float* bias, const scalar_t* t, const scalar_t* residual, long long rows, int n,
 int slices, int rows_of_t, float alpha) {
    long long row;
    int column;
    if (!row_of_thread(rows, n, row, column)) return;
    const long long at = row * n + column;
    float sums[PACK] = {};
#pragma unroll 4
    for (int slice = 0; slice < slices; slice++) {
        float part[PACK];
        load_floats(part, parts + slice * rows * n + at, PACK);
#pragma unroll
        for (int i = 0; i < PACK; i++) sums[i] += part[i];
    }
    float more[PACK];
#pragma unroll
    for (int i = 0; i < PACK; i++) sums[i] *= alpha;
    if (bias) {
        load_floats(more, bias + column, PACK);
#pragma unroll
        for (int i = 0; i < PACK; i++) sums[i] += more[i];
    }
    if (t) {
        load_whole(more, t + row / rows_of_t * n + column);
#pragma unroll
        for (int i = 0; i < PACK; i++) sums[i] += more[i];
    }
    if (residual) {
        load_whole(more, residual + at);
#pragma unroll
        for (int i = 0; i < PACK; i++) sums[i] += more[i];
    }
    store_whole(y + at, sums);
}
