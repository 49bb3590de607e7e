// Softmax of the rows of a matrix in float, in place: x [rows, c] = exp(x - max) / sum. For attention whose heads are too
// wide for the kernels that keep no scores (attention.cu): the VAE's single head over all channels.
// A block has one row and reads it three times, twice from the cache. 8 bytes and some 20 FLOPs a value.
#include "kernel.h"
#include "reduce.h"

CONSTANT(SOFTMAX_THREADS, 256);

KERNEL_BOUNDS(softmax_rows, SOFTMAX_THREADS, 4)(float* x, int c) {
    x += (long long)blockIdx.x * c;
    float largest = -INFINITY;
    for (int i = threadIdx.x; i < c; i += blockDim.x) largest = fmaxf(largest, x[i]);
    largest = block_max(largest);
    float sum = 0.f;
    for (int i = threadIdx.x; i < c; i += blockDim.x) {
        const float e = expf(x[i] - largest);
        x[i] = e;
        sum += e;
    }
    const float factor = 1.f / block_sum(sum);
    for (int i = threadIdx.x; i < c; i += blockDim.x) x[i] *= factor;
}
