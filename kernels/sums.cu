// Sums over the rows of matrices x [n, rows, c] -> y [n, slabs, c] float: the gradient of a bias, and of everything else
// that one value shares with all rows. Long matrices go in several launches, each over the slabs of the one before; in
// each the order is that of the rows.
// A block (column block, slab, matrix) has blockDim.x neighbouring columns of slab_rows rows, a thread one column. sizeof(scalar_t) bytes and one FLOP
// a value.
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
