// The forward process with its noise drawn in the same pass (Ho, Jain & Abbeel 2020, arXiv:2006.11239, eq. 4):
//   noisy = signal[n] x + sigma[n] e,   e ~ N(0, 1) from (seed, stream, index[n], step)
// and the target: e, or for v-prediction signal[n] e - sigma[n] x (Salimans & Ho 2022, arXiv:2202.00512).
//
// A thread draws one block of Philox and makes four neighbouring values of a sample. 3 sizeof(scalar_t) bytes a value;
// some 60 integer and 40 floating point operations, so it is bound by memory from about 100 bytes a nanosecond down.
#include "kernel.h"
#include "philox.h"

CONSTANT(NOISE_THREADS, 256);

// x, noisy and target [n, size]; index [n]; step [1], in device memory so that a replayed launch draws anew.
KERNEL_BOUNDS(add_noise, NOISE_THREADS, 4)
(scalar_t* noisy, scalar_t* target, const scalar_t* x, const float* signal, const float* sigma, const long long* index,
 const long long* step, long long seed, unsigned stream, long long size, int velocity) {
    const int sample = blockIdx.y;
    const unsigned block = blockIdx.x * blockDim.x + threadIdx.x;
    float e[4];
    normals(e, seed, stream, index[sample], step[0], block);
    const float a = signal[sample], s = sigma[sample];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const long long i = block * 4ll + j;
        if (i >= size) return;
        const float clean = load(x, sample * size + i);
        store(noisy, sample * size + i, a * clean + s * e[j]);
        store(target, sample * size + i, velocity ? a * e[j] - s * clean : e[j]);
    }
}

// y [n, size] = normals of (seed, stream, index[n], step), as float.
KERNEL_BOUNDS(draw_normals, NOISE_THREADS, 4)
(float* y, const long long* index, const long long* step, long long seed, unsigned stream, long long size) {
    const int sample = blockIdx.y;
    const unsigned block = blockIdx.x * blockDim.x + threadIdx.x;
    float e[4];
    normals(e, seed, stream, index[sample], step[0], block);
#pragma unroll
    for (int j = 0; j < 4; j++)
        if (block * 4ll + j < size) y[sample * size + block * 4ll + j] = e[j];
}
