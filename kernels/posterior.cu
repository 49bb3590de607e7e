// The posterior of a variational autoencoder (Kingma & Welling 2014, arXiv:1312.6114, section 2.4 and appendix B): a draw,
// and its divergence from the standard normal. Rows of `moments` [rows, 2c] are means m and then log variances l, limited
// to low..high, outside of which they have no gradient:
//   z = m + exp(l / 2) e,         dm = dz,           dl = dz e exp(l / 2) / 2
//   kl = mean of (m^2 + exp(l) - 1 - l) / 2 over n = rows c latents,
//                                 dm = dkl m / n,    dl = dkl (exp(l) - 1) / (2 n)
//
// A thread has a pack of a row of latents. With b = sizeof(scalar_t), a latent's bytes are 4b for the draw, 6b for its
// gradient, 2b for the divergence and 4b for that one's; some 20 FLOPs: bound by memory.
#include "kernel.h"
#include "reduce.h"

CONSTANT(POSTERIOR_THREADS, 256);
// Latents whose divergences one block of kl_parts adds up.
CONSTANT(POSTERIOR_LATENTS, 4096);

DEV float limited(float l, float low, float high) { return l < low ? low : l > high ? high : l; }
DEV bool inside(float l, float low, float high) { return !(l < low || l > high); }

KERNEL_BOUNDS(posterior_draw, POSTERIOR_THREADS, 4)
(scalar_t* z, const scalar_t* moments, const scalar_t* noise, long long rows, int c, float low, float high) {
    long long row;
    int column;
    if (!row_of_thread(rows, c, row, column)) return;
    const int left = c - column;
    float mean[PACK], l[PACK], e[PACK];
    load_pack(mean, moments + row * 2 * c + column, left);
    load_pack(l, moments + row * 2 * c + c + column, left);
    load_pack(e, noise + row * c + column, left);
#pragma unroll
    for (int j = 0; j < PACK; j++) mean[j] += expf(0.5f * limited(l[j], low, high)) * e[j];
    store_pack(z + row * c + column, mean, left);
}

KERNEL_BOUNDS(posterior_draw_backward, POSTERIOR_THREADS, 4)
(scalar_t* d_moments, const scalar_t* dz, const scalar_t* moments, const scalar_t* noise, long long rows, int c,
 float low, float high) {
    long long row;
    int column;
    if (!row_of_thread(rows, c, row, column)) return;
    const int left = c - column;
    float d[PACK], l[PACK], e[PACK];
    load_pack(d, dz + row * c + column, left);
    load_pack(l, moments + row * 2 * c + c + column, left);
    load_pack(e, noise + row * c + column, left);
#pragma unroll
    for (int j = 0; j < PACK; j++) l[j] = inside(l[j], low, high) ? 0.5f * d[j] * e[j] * expf(0.5f * l[j]) : 0.f;
    store_pack(d_moments + row * 2 * c + column, d, left);
    store_pack(d_moments + row * 2 * c + c + column, l, left);
}

// partial [gridDim.x]: each block's sum of twice the divergences; mean_of_parts (loss.cu) adds them up.
KERNEL_BOUNDS(kl_parts, POSTERIOR_THREADS, 4)
(float* partial, const scalar_t* moments, long long latents, int c, float low, float high) {
    const long long first = (long long)blockIdx.x * POSTERIOR_LATENTS, end = min(first + POSTERIOR_LATENTS, latents);
    float sum = 0.f;
    for (long long i = first + threadIdx.x; i < end; i += blockDim.x) {
        const long long at = i / c * 2 * c + i % c;
        const float mean = load(moments, at), l = limited(load(moments, at + c), low, high);
        sum += mean * mean + (expm1f(l) - l);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// dkl [1] is the gradient of the mean over all latents.
KERNEL_BOUNDS(kl_backward, POSTERIOR_THREADS, 4)
(scalar_t* d_moments, const scalar_t* moments, const float* dkl, long long rows, int c, float low, float high) {
    long long row;
    int column;
    if (!row_of_thread(rows, c, row, column)) return;
    const int left = c - column;
    const float factor = dkl[0] / ((float)rows * c);
    float mean[PACK], l[PACK];
    load_pack(mean, moments + row * 2 * c + column, left);
    load_pack(l, moments + row * 2 * c + c + column, left);
#pragma unroll
    for (int j = 0; j < PACK; j++) {
        mean[j] *= factor;
        l[j] = inside(l[j], low, high) ? 0.5f * factor * expm1f(l[j]) : 0.f;
    }
    store_pack(d_moments + row * 2 * c + column, mean, left);
    store_pack(d_moments + row * 2 * c + c + column, l, left);
}
