// Weighted mean squared error of a prediction p and a target t [n, size], with its gradient in the same pass:
//   loss = sum over samples of weight[n] sum (p - t)^2 / (n size),   dp = 2 scale weight[n] (p - t) / (n size)
// Min-SNR weights: Hang et al. 2023, arXiv:2303.09556. `scale` is the loss scale, in device memory so that a replayed
// launch sees what the optimizer last decided.
//
// A block takes LOSS_VALUES neighbouring values of one sample and leaves its part of the sum; mean_of_parts adds the
// parts up in their order, one block for all. 3 sizeof(scalar_t) bytes and 5 FLOPs a value.
#include "kernel.h"
#include "reduce.h"

CONSTANT(LOSS_THREADS, 256);
// Of a block: 4 packs of 16-bit values a thread, or 8 of float.
CONSTANT(LOSS_VALUES, 8192);

// partial [n, gridDim.x]: each block's weighted sum of squares.
KERNEL_BOUNDS(weighted_mse, LOSS_THREADS, 4)
(float* partial, scalar_t* dp, const scalar_t* p, const scalar_t* t, const float* weights, const float* scale,
 long long size) {
    const int sample = blockIdx.y;
    const long long first = (long long)blockIdx.x * LOSS_VALUES, end = min(first + LOSS_VALUES, size);
    const long long start = sample * size;
    const float weight = weights[sample], slope = 2.f * scale[0] * weight / ((float)gridDim.y * size);
    float sum = 0.f;
    for (long long i = first + threadIdx.x * PACK; i < end; i += blockDim.x * PACK) {
        float v[PACK], w[PACK];
        load_pack(v, p + start + i, end - i);
        load_pack(w, t + start + i, end - i);
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            v[j] -= w[j];
            sum += v[j] * v[j];
            v[j] *= slope;
        }
        store_pack(dp + start + i, v, end - i);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[(long long)sample * gridDim.x + blockIdx.x] = weight * sum;
}

// The same with a weight for `each` neighbouring values of a sample, such as the channels of a position, and another distance
// than the square: kind 1, 2 c (sqrt(x^2 + c^2) - c), and kind 2, 2 (sqrt(x^2 + c^2) - c), where x = p - t and each sample has its
// c; 0, the square. Pseudo-Huber: Charbonnier et al. 1997; with a c a sample as kohya's sd-scripts have them (conditional_loss).
// weights [n, size / each], c [n].
KERNEL_BOUNDS(weighted_distance, LOSS_THREADS, 4)
(float* partial, scalar_t* dp, const scalar_t* p, const scalar_t* t, const float* weights, const float* scale,
 const float* bends, long long size, long long each, int kind) {
    const int sample = blockIdx.y;
    const long long first = (long long)blockIdx.x * LOSS_VALUES, end = min(first + LOSS_VALUES, size);
    const long long start = sample * size, weights_start = sample * (size / each);
    const float c = bends[sample], slope = 2.f * scale[0] / ((float)gridDim.y * size), by = kind == 1 ? c : 1.f;
    float sum = 0.f;
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x) {
        const float x = load(p, start + i) - load(t, start + i), weight = weights[weights_start + i / each];
        if (kind == 0) {
            sum += weight * (x * x);
            store(dp, start + i, slope * weight * x);
        } else {
            const float root = sqrtf(x * x + c * c);
            // sqrt(x^2 + c^2) - c, without its cancellation.
            sum += weight * 2.f * by * (x * x / (root + c));
            store(dp, start + i, slope * weight * by * (x / root));
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[(long long)sample * gridDim.x + blockIdx.x] = sum;
}

// mean[0] = the sum of `parts` parts over `values` values; one block.
KERNEL_BOUNDS(mean_of_parts, LOSS_THREADS, 1)(float* mean, const float* partial, int parts, long long values) {
    float sum = 0.f;
    for (int i = threadIdx.x; i < parts; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) mean[0] = sum / values;
}
