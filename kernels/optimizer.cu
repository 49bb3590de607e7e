// Passes over the flat buffers of all trained parameters: the norm of the gradients, clipping, AdamW, EMA. What changes
// from step to step is in device memory, so that a whole step can be replayed without the host.
//
//   AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2, as torch.optim.AdamW computes it)
//     m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2,   g the gradient times `clip`
//     p = p (1 - lr decay) - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps)
//   Clipping, as torch.nn.utils.clip_grad_norm_: clip = min(1, most / (|g| + 1e-6)).
//   Loss scale (Micikevicius et al. 2018, arXiv:1710.03740, section 3.2), with the constants of torch.amp.GradScaler: a
//   step whose gradients left the range of f16 changes nothing but the scale, which halves; `interval` updates in a row
//   without that double it.
//
// AdamW reads 16 and writes 12 bytes a parameter, and sizeof(scalar_t) for its copy in compute precision; the norm reads
// 4, EMA moves 12. 12 FLOPs a parameter: all bound by memory. A thread has four neighbouring values.
#include "kernel.h"
#include "optimizer.h"
#include "reduce.h"

CONSTANT(OPTIMIZER_THREADS, 256);
// Values whose squares one block of squared_norm_parts adds up.
CONSTANT(NORM_VALUES, 16384);

// g += parts, one behind the other: a micro-batch's gradients of neighbouring parameters, at most ACCUMULATED of them. One
// launch each would take longer than the sums.
CONSTANT(ACCUMULATED, 16);
KERNEL_BOUNDS(accumulate, OPTIMIZER_THREADS, 4)
(float* g, const float* part_0, const float* part_1, const float* part_2, const float* part_3, const float* part_4,
 const float* part_5, const float* part_6, const float* part_7, const float* part_8, const float* part_9,
 const float* part_10, const float* part_11, const float* part_12, const float* part_13, const float* part_14,
 const float* part_15, long long n_0, long long n_1, long long n_2, long long n_3, long long n_4, long long n_5,
 long long n_6, long long n_7, long long n_8, long long n_9, long long n_10, long long n_11, long long n_12, long long n_13,
 long long n_14, long long n_15) {
    const float* const parts[ACCUMULATED] = {part_0, part_1, part_2, part_3, part_4, part_5, part_6, part_7, part_8, part_9,
                                             part_10, part_11, part_12, part_13, part_14, part_15};
    const long long sizes[ACCUMULATED] = {n_0, n_1, n_2, n_3, n_4, n_5, n_6, n_7, n_8, n_9, n_10, n_11, n_12, n_13, n_14,
                                          n_15};
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long begin = 0;
#pragma unroll
    for (int part = 0; part < ACCUMULATED; part++) {
        if (i >= begin && i - begin < sizes[part]) g[i] += parts[part][i - begin];
        begin += sizes[part];
    }
}

KERNEL_BOUNDS(squared_norm_parts, OPTIMIZER_THREADS, 4)(float* parts, const float* g, long long n) {
    const long long first = (long long)blockIdx.x * NORM_VALUES, end = min(first + NORM_VALUES, n);
    float sum = 0.f;
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x) sum += g[i] * g[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

// norm[0] = |g| / scale, where g carries the loss scale; clip[0] = what brings g to a norm of at most `most` and takes
// the loss scale out, and 0 where g is not finite. One block.
KERNEL_BOUNDS(clip_factor, OPTIMIZER_THREADS, 1)
(float* norm, float* clip, const float* parts, const float* scale, int count, float most) {
    float sum = 0.f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) {
        const float length = sqrtf(sum) / scale[0];
        norm[0] = length;
        clip[0] = length < INFINITY ? fminf(1.f, most / (length + 1e-6f)) / scale[0] : 0.f;
    }
}

// rate [1] of the update that is made now; the other arguments as next_rate has them. One thread.
KERNEL(update_rate)(float* rate, float* progress, const float* clip, const float* lr, int count, int interval) {
    if (threadIdx.x == 0) rate[0] = next_rate(progress, clip, lr, count, interval);
}

// rates [3] of update t: 1 - lr decay, lr / (1 - b1^t), sqrt(1 - b2^t), where take is 1 - b. One thread.
KERNEL(adamw_rates)
(float* rates, float* progress, const float* clip, const float* lr, int count, float decay, float take_first,
 float take_second, int interval) {
    if (threadIdx.x) return;
    const float rate = next_rate(progress, clip, lr, count, interval);
    const double t = progress[2] > 1.f ? progress[2] : 1.f;
    rates[0] = (float)(1. - (double)rate * decay);
    rates[1] = (float)(rate / one_minus_power(take_first, t));
    rates[2] = (float)sqrt(one_minus_power(take_second, t));
}

// `copy` takes p in compute precision. Nothing changes where clip[0] is 0.
KERNEL_BOUNDS(adamw, OPTIMIZER_THREADS, 4)
(float* p, float* m, float* v, scalar_t* copy, const float* g, const float* rates, const float* clip, long long n,
 float keep_first, float take_first, float keep_second, float take_second, float eps) {
    const float decay = rates[0], rate = rates[1], root = rates[2], factor = clip[0];
    const long long first = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (factor == 0.f) return;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const long long i = first + j;
        if (i >= n) return;
        const float gradient = g[i] * factor;
        m[i] = keep_first * m[i] + take_first * gradient;
        v[i] = keep_second * v[i] + take_second * (gradient * gradient);
        p[i] = p[i] * decay - rate * (m[i] / (sqrtf(v[i]) / root + eps));
        store(copy, i, p[i]);
    }
}

// average = keep average + (1 - keep) p; keep [1]
KERNEL_BOUNDS(moving_average, OPTIMIZER_THREADS, 4)(float* average, const float* p, const float* keep, long long n) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) average[i] = average[i] + (1.f - keep[0]) * (p[i] - average[i]);
}
