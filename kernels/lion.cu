// Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2), as lion-pytorch computes it: g the gradient times `clip`,
//     p = p (1 - lr decay) - lr sign(b1 m + (1 - b1) g),   m = b2 m + (1 - b2) g
// 12 bytes read and 8 written a parameter, and sizeof(scalar_t) for its copy in compute precision: bound by memory.
#include "kernel.h"

CONSTANT(LION_THREADS, 256);

// `rate` [1]; `copy` takes p in compute precision. Nothing changes where clip[0] is 0.
KERNEL_BOUNDS(lion, LION_THREADS, 4)
(float* p, float* m, scalar_t* copy, const float* g, const float* rate, const float* clip, long long n, float decay,
 float keep_first, float take_first, float keep_second, float take_second) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (clip[0] == 0.f || i >= n) return;
    const float gradient = g[i] * clip[0], lr = rate[0];
    const float direction = keep_first * m[i] + take_first * gradient;
    const float sign = direction > 0.f ? 1.f : direction < 0.f ? -1.f : 0.f;
    p[i] = p[i] * (1.f - lr * decay) - lr * sign;
    m[i] = keep_second * m[i] + take_second * gradient;
    store(copy, i, p[i]);
}
