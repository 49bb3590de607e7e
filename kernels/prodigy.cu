// Prodigy (Mishchenko and Defazio 2023, arXiv:2306.06101, algorithm 4, with decoupled decay), as prodigyopt 1.1.2 computes it:
// Adam in steps of d lr, where d is an estimate of how far the values are from where they end.
//
//     step = d lr [sqrt(1 - b2^t) / (1 - b1^t)],   g the gradient times `clip`,   p0 the values at the start
//     r = b3 r + d / d0 step <g, p0 - p>,   s = b3 s + d / d0 step g   (with `safeguard` d in place of step in s)
//     m = b1 m + d (1 - b1) g,   v = b2 v + d^2 (1 - b2) g^2
//     h = coefficient r / |s|_1;   where d = d0: d = max(d, h);   largest = max(largest, h);   d = min(largest, growth d)
//     p = p (1 - step decay) - step m / (sqrt(v) + d eps)
//
// The estimate needs sums over all values before any is changed, so it is two passes: 24 bytes read and 12 written, then 12 read
// and 4 written a parameter, and sizeof(scalar_t) for its copy in compute precision: bound by memory.
#include "kernel.h"
#include "optimizer.h"
#include "reduce.h"

CONSTANT(PRODIGY_THREADS, 256);
// Values of a block of prodigy_moments.
CONSTANT(PRODIGY_VALUES, 4096);

// rates [4]: step; the learning rate; then, from prodigy_distance, the new d, and 1 where the values change. distance [4]: d,
// largest, r, updates. One thread.
KERNEL(prodigy_begin)
(float* rates, float* progress, const float* distance, const float* clip, const float* lr, int count, int interval,
 float take_first, float take_second, int corrected) {
    if (threadIdx.x) return;
    const float rate = next_rate(progress, clip, lr, count, interval);
    const double t = distance[3] + 1.;
    const double correction = corrected ? sqrt(one_minus_power(take_second, t)) / one_minus_power(take_first, t) : 1.;
    rates[0] = (float)(distance[0] * (double)rate * correction);
    rates[1] = rate;
    rates[2] = rates[3] = 0.f;
}

// parts [blocks, 2]: of a block, <g, p0 - p> and |s|_1.
KERNEL_BOUNDS(prodigy_moments, PRODIGY_THREADS, 4)
(float* m, float* v, float* s, float* parts, const float* p, const float* start, const float* g, const float* rates,
 const float* distance, const float* clip, long long n, float keep_first, float take_first, float keep_second,
 float take_second, float keep_third, float d0, int safeguard) {
    const float factor = clip[0], step = rates[0], d = distance[0];
    if (factor == 0.f || rates[1] == 0.f) {
        if (threadIdx.x == 0) parts[2 * blockIdx.x] = parts[2 * blockIdx.x + 1] = 0.f;
        return;
    }
    const float into_s = d / d0 * (safeguard ? d : step);
    const long long first = (long long)blockIdx.x * PRODIGY_VALUES, end = min(first + PRODIGY_VALUES, n);
    float product = 0.f, length = 0.f;
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x) {
        const float gradient = g[i] * factor;
        product += gradient * (start[i] - p[i]);
        m[i] = keep_first * m[i] + d * take_first * gradient;
        v[i] = keep_second * v[i] + d * d * take_second * (gradient * gradient);
        const float sum = keep_third * s[i] + into_s * gradient;
        s[i] = sum;
        length += fabsf(sum);
    }
    product = block_sum(product);
    length = block_sum(length);
    if (threadIdx.x == 0) {
        parts[2 * blockIdx.x] = product;
        parts[2 * blockIdx.x + 1] = length;
    }
}

// Adds the parts of `count` blocks up, and moves d. One block.
KERNEL_BOUNDS(prodigy_distance, PRODIGY_THREADS, 1)
(float* distance, float* rates, const float* parts, const float* clip, int count, float keep_third, float d0,
 float coefficient, float growth) {
    if (clip[0] == 0.f || rates[1] == 0.f) return;
    float product = 0.f, length = 0.f;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        product += parts[2 * i];
        length += parts[2 * i + 1];
    }
    product = block_sum(product);
    length = block_sum(length);
    if (threadIdx.x || length == 0.f) return;
    float d = distance[0];
    const float numerator = keep_third * distance[2] + d / d0 * rates[0] * product;
    const float estimate = coefficient * numerator / length;
    if (d == d0) d = fmaxf(d, estimate);
    const float largest = fmaxf(distance[1], estimate);
    d = fminf(largest, d * growth);
    distance[0] = d;
    distance[1] = largest;
    distance[2] = numerator;
    distance[3] += 1.f;
    rates[2] = d;
    rates[3] = 1.f;
}

// `copy` takes p in compute precision.
KERNEL_BOUNDS(prodigy, PRODIGY_THREADS, 4)
(float* p, scalar_t* copy, const float* m, const float* v, const float* rates, const float* clip, long long n, float decay,
 float eps) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (clip[0] == 0.f || rates[3] == 0.f || i >= n) return;
    const float step = rates[0], d = rates[2];
    const float value = p[i] - decay * step * p[i];
    p[i] = value - step * (m[i] / (sqrtf(v[i]) + d * eps));
    store(copy, i, p[i]);
}
