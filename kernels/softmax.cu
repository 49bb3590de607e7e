// Softmax of the rows of a matrix in float, in place: x [rows, c] = exp(x - max) / sum. For attention whose heads are too
// wide for the kernels that keep no scores (attention.cu): the VAE's single head over all channels.
// Its gradient, in place: ds = p (dp - sum p dp), times what the scores were multiplied by.
// A block has one row and reads it twice or three times, the first time not from the cache. 8 bytes and some 20 FLOPs a
// value, 12 and 5 backward.
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

// ds [rows, c] holds dp and takes ds; p [rows, c] are the probabilities.
KERNEL_BOUNDS(softmax_rows_backward, SOFTMAX_THREADS, 4)(float* ds, const float* p, int c, float scale) {
    ds += (long long)blockIdx.x * c;
    p += (long long)blockIdx.x * c;
    float sum = 0.f;
    for (int i = threadIdx.x; i < c; i += blockDim.x) sum += p[i] * ds[i];
    sum = block_sum(sum);
    for (int i = threadIdx.x; i < c; i += blockDim.x) ds[i] = scale * p[i] * (ds[i] - sum);
}
