// AdamW without a schedule (Defazio et al. 2024, arXiv:2405.15682, algorithm 1), as schedulefree 1.4 computes it. Gradients are
// those at y, which the network has; the result is x, an average of z. x is not kept: y = b1 x + (1 - b1) z.
//
//     weight = largest lr so far^2,   c = weight / sum of all weights,   g the gradient times `clip`
//     v = b2 v + (1 - b2) g^2,   u = g / (sqrt(v / (1 - b2^t)) + eps) + decay y
//     y = (1 - c) y + c z + lr (b1 (1 - c) - 1) u,   z = z - lr u
//
// 16 bytes read and 12 written a parameter, and sizeof(scalar_t) for its copy in compute precision: bound by memory.
#include "kernel.h"
#include "optimizer.h"

CONSTANT(SCHEDULE_FREE_THREADS, 256);

// rates [3]: the learning rate, c, 1 - b2^t. sums [3]: updates, the sum of the weights, the largest learning rate. One thread.
KERNEL(schedule_free_rates)
(float* rates, float* progress, float* sums, const float* clip, const float* lr, int count, int interval, float take_second) {
    if (threadIdx.x) return;
    const float rate = next_rate(progress, clip, lr, count, interval);
    if (clip[0] == 0.f) {
        rates[0] = rates[1] = rates[2] = 0.f;
        return;
    }
    const float t = sums[0] + 1.f, largest = fmaxf(sums[2], rate), weight = largest * largest, all = sums[1] + weight;
    sums[0] = t;
    sums[1] = all;
    sums[2] = largest;
    rates[0] = rate;
    rates[1] = all > 0.f ? weight / all : 0.f;
    rates[2] = (float)one_minus_power(take_second, t);
}

// `y` is what is trained, `copy` takes it in compute precision. Nothing changes where clip[0] is 0.
KERNEL_BOUNDS(schedule_free, SCHEDULE_FREE_THREADS, 4)
(float* y, float* z, float* v, scalar_t* copy, const float* g, const float* rates, const float* clip, long long n,
 float keep_first, float keep_second, float take_second, float eps, float decay) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (clip[0] == 0.f || i >= n) return;
    const float rate = rates[0], share = rates[1], gradient = g[i] * clip[0];
    const float square = keep_second * v[i] + take_second * (gradient * gradient);
    v[i] = square;
    const float update = gradient / (sqrtf(square / rates[2]) + eps) + decay * y[i];
    y[i] = y[i] + share * (z[i] - y[i]) + rate * (keep_first * (1.f - share) - 1.f) * update;
    z[i] = z[i] - rate * update;
    store(copy, i, y[i]);
}

// x [n] of y and z.
KERNEL_BOUNDS(schedule_free_average, SCHEDULE_FREE_THREADS, 4)
(float* x, const float* y, const float* z, long long n, float keep_first) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) x[i] = y[i] + (1.f - 1.f / keep_first) * (z[i] - y[i]);
}
