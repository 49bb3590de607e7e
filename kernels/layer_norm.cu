// LayerNorm over the rows of x [rows, c] (Ba, Kiros & Hinton 2016, arXiv:1607.06450):
//   y = (x - mean) rstd weight + bias,   mean and rstd = 1 / sqrt(variance + eps) of the row
// and its gradients, with g = dy weight, xhat = (x - mean) rstd and averages over the row:
//   dx = rstd (g - avg(g) - xhat avg(g xhat)),   dweight[c] = sum over rows of dy xhat,   dbias[c] = sum of dy
//
// A warp takes a row, a block eight of them: no barriers. The variance is that of differences to the mean, so a row is
// read three times, the later ones from L1 (a row of 1280 values has 2.5 KiB in 16 bits).
// With b = sizeof(scalar_t), at least 2b bytes a value forward and 3b backward; about 8 FLOPs a value forward, 14 backward.
#include "kernel.h"
#include "reduce.h"

CONSTANT(LAYER_NORM_THREADS, 256);

// The sum over a row of f(column, values of a pack), for all lanes of its warp; f returns a pack's part.
template <class F> DEV float sum_of_row(int c, F f) {
    float sum = 0.f;
    for (int column = threadIdx.x % 32 * PACK; column < c; column += 32 * PACK) sum += f(column);
    return warp_sum(sum);
}

// y, and mean and rstd [rows] for the backward pass.
KERNEL_BOUNDS(layer_norm_forward, LAYER_NORM_THREADS, 4)
(scalar_t* y, float* mean, float* rstd, const scalar_t* x, const float* weight, const float* bias, long long rows, int c,
 float eps) {
    const long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    x += row * c;
    y += row * c;
    const float m = sum_of_row(c, [&](int column) {
        float v[PACK], sum = 0.f;
        load_pack(v, x + column, c - column);
#pragma unroll
        for (int j = 0; j < PACK; j++) sum += v[j];
        return sum;
    }) / c;
    const float variance = sum_of_row(c, [&](int column) {
        float v[PACK], sum = 0.f;
        load_pack(v, x + column, c - column);
#pragma unroll
        for (int j = 0; j < PACK; j++) sum += column + j < c ? (v[j] - m) * (v[j] - m) : 0.f;
        return sum;
    }) / c;
    const float r = rsqrtf(variance + eps);
    if (threadIdx.x % 32 == 0) {
        mean[row] = m;
        rstd[row] = r;
    }
    for (int column = threadIdx.x % 32 * PACK; column < c; column += 32 * PACK) {
        float v[PACK], w[PACK], b[PACK];
        load_pack(v, x + column, c - column);
        load_floats(w, weight + column, c - column);
        load_floats(b, bias + column, c - column);
#pragma unroll
        for (int j = 0; j < PACK; j++) v[j] = (v[j] - m) * r * w[j] + b[j];
        store_pack(y + column, v, c - column);
    }
}

KERNEL_BOUNDS(layer_norm_backward, LAYER_NORM_THREADS, 4)
(scalar_t* dx, const scalar_t* dy, const scalar_t* x, const float* weight, const float* mean, const float* rstd,
 long long rows, int c) {
    const long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    const float m = mean[row], r = rstd[row];
    // g and xhat of a pack; both are 0 past the end of the row.
    const auto load_both = [&](float(&g)[PACK], float(&xhat)[PACK], int column) {
        float w[PACK];
        load_pack(g, dy + row * c + column, c - column);
        load_pack(xhat, x + row * c + column, c - column);
        load_floats(w, weight + column, c - column);
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            g[j] *= w[j];
            xhat[j] = (xhat[j] - m) * r;
        }
    };
    const float average = sum_of_row(c, [&](int column) {
        float g[PACK], xhat[PACK], sum = 0.f;
        load_both(g, xhat, column);
#pragma unroll
        for (int j = 0; j < PACK; j++) sum += g[j];
        return sum;
    }) / c;
    const float along = sum_of_row(c, [&](int column) {
        float g[PACK], xhat[PACK], sum = 0.f;
        load_both(g, xhat, column);
#pragma unroll
        for (int j = 0; j < PACK; j++) sum += g[j] * xhat[j];
        return sum;
    }) / c;
    for (int column = threadIdx.x % 32 * PACK; column < c; column += 32 * PACK) {
        float g[PACK], xhat[PACK];
        load_both(g, xhat, column);
#pragma unroll
        for (int j = 0; j < PACK; j++) g[j] = r * (g[j] - average - xhat[j] * along);
        store_pack(dx + row * c + column, g, c - column);
    }
}

// partial [slabs, 2, c]: sums over slab_rows rows of dy xhat and of dy. A block has blockDim.x neighbouring channels of
// one slab, a thread one channel: each warp reads 32 neighbouring values of a row.
KERNEL_BOUNDS(layer_norm_backward_parameters, LAYER_NORM_THREADS, 4)
(float* partial, const scalar_t* dy, const scalar_t* x, const float* mean, const float* rstd, long long rows, int c,
 int slab_rows) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x;
    if (channel >= c) return;
    const long long first = (long long)blockIdx.y * slab_rows, end = min(first + slab_rows, rows);
    float dweight = 0.f, dbias = 0.f;
    for (long long row = first; row < end; row++) {
        const float g = load(dy, row * c + channel);
        dweight += g * (load(x, row * c + channel) - mean[row]) * rstd[row];
        dbias += g;
    }
    partial[((long long)blockIdx.y * 2) * c + channel] = dweight;
    partial[((long long)blockIdx.y * 2 + 1) * c + channel] = dbias;
}
