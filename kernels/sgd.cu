// Stochastic gradient descent with momentum (Polyak 1964; Sutskever et al. 2013), as torch.optim.SGD computes it without
// dampening: g the gradient times `clip`, plus decay p,
//     m = momentum m + g,   p = p - lr m   (Nesterov's: p = p - lr (g + momentum m))
// 12 bytes read and 8 written a parameter, and sizeof(scalar_t) for its copy in compute precision: bound by memory.
#include "kernel.h"

CONSTANT(SGD_THREADS, 256);

// `rate` [1]; `copy` takes p in compute precision. Nothing changes where clip[0] is 0.
KERNEL_BOUNDS(sgd, SGD_THREADS, 4)
(float* p, float* m, scalar_t* copy, const float* g, const float* rate, const float* clip, long long n, float decay,
 float momentum, int nesterov) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (clip[0] == 0.f || i >= n) return;
    const float gradient = g[i] * clip[0] + decay * p[i];
    const float mean = momentum * m[i] + gradient;
    m[i] = mean;
    p[i] = p[i] - rate[0] * (nesterov ? gradient + momentum * mean : mean);
    store(copy, i, p[i]);
}
