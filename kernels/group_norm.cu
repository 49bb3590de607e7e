// GroupNorm over x [n, pixels, c], with SiLU after it where `silu` is set (Wu & He 2018, arXiv:1803.08494, eqs 1 to 3):
//   y = f((x - mean) rstd weight + bias),   mean and rstd = 1 / sqrt(variance + eps) over pixels and a group's channels
// and its gradients, with z = dy f'(..), g = z weight, xhat = (x - mean) rstd and averages over the group:
//   dx = rstd (g - avg(g) - xhat avg(g xhat)),   dweight[c] = sum z xhat,   dbias[c] = sum z
//
// A group is spread over the rows of NHWC memory, so a block takes a slab of neighbouring pixels with all channels, and
// statistics need two kernels: group_norm_slabs gives mean and sum of squared deviations of each slab and group, and
// every block of group_norm_forward merges those of its sample (Chan, Golub & LeVeque 1979) before it normalises its
// slab. Deviations are from the slab's own mean, because E[x^2] - mean^2 cancels where |mean| >> deviation. The backward
// pass goes the same way with sums for each channel in between. All orders of summation are fixed.
//
// With b = sizeof(scalar_t), a value costs at least 2b bytes forward and 3b backward (5b and 8b without a cache: x is
// read by each pass, the later ones from L2). About 10 FLOPs a value forward, 20 backward; 30 and 50 with SiLU.
#include "kernel.h"
#include "reduce.h"

CONSTANT(GROUP_NORM_THREADS, 256);

DEV float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

struct Slab {
    long long first, end;  // pixels, counted through all samples
    int sample;
};
DEV Slab slab_of_block(int pixels, int slab_pixels) {
    Slab slab;
    slab.sample = blockIdx.y;
    const long long start = (long long)slab.sample * pixels;
    slab.first = start + (long long)blockIdx.x * slab_pixels;
    slab.end = min(slab.first + slab_pixels, start + pixels);
    return slab;
}

// channels[k * c + channel] = the sum of value k of each channel over a slab, in shared memory. `add(sums, pixel, column)`
// adds one pixel's PACK channels from `column` on. `scratch` is as long as the block's threads hold sums.
template <int K, class Add> DEV void sum_channels(float* channels, float* scratch, const Slab& slab, int c, Add add) {
    const int packs = (c + PACK - 1) / PACK, across = min(packs, blockDim.x), rows = blockDim.x / across;
    const int row = threadIdx.x / across, lane = threadIdx.x % across;
    for (int base = 0; base < packs; base += across) {
        const int column = (base + lane) * PACK;
        float sums[K][PACK] = {};
        if (row < rows && column < c)
            for (long long pixel = slab.first + row; pixel < slab.end; pixel += rows) add(sums, pixel, column);
        if (row < rows) {
#pragma unroll
            for (int k = 0; k < K; k++)
#pragma unroll
                for (int j = 0; j < PACK; j++) scratch[((k * PACK + j) * rows + row) * across + lane] = sums[k][j];
        }
        __syncthreads();
        for (int i = threadIdx.x; i < K * PACK * across; i += blockDim.x) {
            const int k = i / across / PACK, j = i / across % PACK, channel = (base + i % across) * PACK + j;
            float total = 0.f;
            for (int r = 0; r < rows; r++) total += scratch[((k * PACK + j) * rows + r) * across + i % across];
            if (channel < c) channels[k * c + channel] = total;
        }
        __syncthreads();
    }
}

// partial [n, slabs, groups, 2]: mean, and sum of squared deviations from it. Dynamic shared memory: c + groups floats
// and one PACK for each thread.
KERNEL_BOUNDS(group_norm_slabs, GROUP_NORM_THREADS, 2)
(float* partial, const scalar_t* x, int pixels, int c, int groups, int slab_pixels) {
    DYN_SHARED(float, scratch);
    float* channels = scratch + blockDim.x * PACK;
    float* means = channels + c;
    const Slab slab = slab_of_block(pixels, slab_pixels);
    const int width = c / groups;
    float* out = partial + ((long long)slab.sample * gridDim.x + blockIdx.x) * groups * 2;

    sum_channels<1>(channels, scratch, slab, c, [&](float(&sums)[1][PACK], long long pixel, int column) {
        float v[PACK];
        load_pack(v, x + pixel * c + column, c - column);
#pragma unroll
        for (int j = 0; j < PACK; j++) sums[0][j] += v[j];
    });
    for (int g = threadIdx.x; g < groups; g += blockDim.x) {
        float sum = 0.f;
        for (int j = 0; j < width; j++) sum += channels[g * width + j];
        out[2 * g] = means[g] = sum / ((slab.end - slab.first) * width);
    }
    __syncthreads();
    sum_channels<1>(channels, scratch, slab, c, [&](float(&sums)[1][PACK], long long pixel, int column) {
        float v[PACK];
        load_pack(v, x + pixel * c + column, c - column);
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            const float deviation = column + j < c ? v[j] - means[(column + j) / width] : 0.f;
            sums[0][j] += deviation * deviation;
        }
    });
    for (int g = threadIdx.x; g < groups; g += blockDim.x) {
        float sum = 0.f;
        for (int j = 0; j < width; j++) sum += channels[g * width + j];
        out[2 * g + 1] = sum;
    }
}

// What the passes over values need of each of a thread's channels.
struct Channels {
    float mean[PACK], rstd[PACK], weight[PACK], bias[PACK];
};
DEV Channels channels_of(int column, int c, int width, const float* mean, const float* rstd, const float* weight,
                         const float* bias) {
    Channels channels;
    load_floats(channels.weight, weight + column, c - column);
    load_floats(channels.bias, bias + column, c - column);
#pragma unroll
    for (int j = 0; j < PACK; j++) {
        const int g = min(column + j, c - 1) / width;
        channels.mean[j] = mean[g];
        channels.rstd[j] = rstd[g];
    }
    return channels;
}

// y, and for the backward pass mean and rstd [n, groups]. Dynamic shared memory: 2 groups floats.
KERNEL_BOUNDS(group_norm_forward, GROUP_NORM_THREADS, 2)
(scalar_t* y, float* mean, float* rstd, const scalar_t* x, const float* weight, const float* bias, const float* partial,
 int pixels, int c, int groups, int slab_pixels, float eps, int silu) {
    DYN_SHARED(float, means);
    float* rstds = means + groups;
    const Slab slab = slab_of_block(pixels, slab_pixels);
    const int width = c / groups, slabs = gridDim.x, lane = threadIdx.x % 32;
    const float* statistics = partial + (long long)slab.sample * slabs * groups * 2;
    const float values = (float)pixels * width;

    // A warp merges the slabs of a group: mean = sum n_i m_i / n, M2 = sum M2_i + n_i (m_i - mean)^2.
    for (int g = threadIdx.x / 32; g < groups; g += blockDim.x / 32) {
        float sum = 0.f, squares = 0.f;
        for (int s = lane; s < slabs; s += 32) {
            const float count = (float)min(slab_pixels, pixels - s * slab_pixels) * width;
            sum += count * statistics[(s * groups + g) * 2];
        }
        const float m = warp_sum(sum) / values;
        for (int s = lane; s < slabs; s += 32) {
            const float count = (float)min(slab_pixels, pixels - s * slab_pixels) * width;
            const float distance = statistics[(s * groups + g) * 2] - m;
            squares += statistics[(s * groups + g) * 2 + 1] + count * distance * distance;
        }
        const float r = rsqrtf(warp_sum(squares) / values + eps);
        if (lane == 0) {
            means[g] = m;
            rstds[g] = r;
            if (blockIdx.x == 0) {
                mean[slab.sample * groups + g] = m;
                rstd[slab.sample * groups + g] = r;
            }
        }
    }
    __syncthreads();

    const int packs = (c + PACK - 1) / PACK, across = min(packs, blockDim.x), rows = blockDim.x / across;
    if (threadIdx.x / across >= rows) return;
    for (int column = threadIdx.x % across * PACK; column < c; column += across * PACK) {
        const Channels at = channels_of(column, c, width, means, rstds, weight, bias);
        for (long long pixel = slab.first + threadIdx.x / across; pixel < slab.end; pixel += rows) {
            float v[PACK];
            load_pack(v, x + pixel * c + column, c - column);
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                v[j] = (v[j] - at.mean[j]) * at.rstd[j] * at.weight[j] + at.bias[j];
                if (silu) v[j] *= sigmoid(v[j]);
            }
            store_pack(y + pixel * c + column, v, c - column);
        }
    }
}

// z = dy f'(..) and xhat of one pixel's pack.
DEV void before_silu(float (&z)[PACK], float (&xhat)[PACK], const scalar_t* dy, const scalar_t* x, int left,
                     const Channels& at, int silu) {
    load_pack(z, dy, left);
    load_pack(xhat, x, left);
#pragma unroll
    for (int j = 0; j < PACK; j++) {
        xhat[j] = (xhat[j] - at.mean[j]) * at.rstd[j];
        if (silu) {
            const float v = xhat[j] * at.weight[j] + at.bias[j], s = sigmoid(v);
            z[j] *= s * (1.f + v * (1.f - s));
        }
    }
}

// partial [n, slabs, 2, c]: sums of z and of z xhat. Dynamic shared memory: 2 c floats and two PACKs for each thread.
KERNEL_BOUNDS(group_norm_backward_slabs, GROUP_NORM_THREADS, 2)
(float* partial, const scalar_t* dy, const scalar_t* x, const float* weight, const float* bias, const float* mean,
 const float* rstd, int pixels, int c, int groups, int slab_pixels, int silu) {
    DYN_SHARED(float, scratch);
    float* channels = scratch + 2 * blockDim.x * PACK;
    const Slab slab = slab_of_block(pixels, slab_pixels);
    const int width = c / groups;
    mean += slab.sample * groups;
    rstd += slab.sample * groups;
    sum_channels<2>(channels, scratch, slab, c, [&](float(&sums)[2][PACK], long long pixel, int column) {
        const Channels at = channels_of(column, c, width, mean, rstd, weight, bias);
        float z[PACK], xhat[PACK];
        before_silu(z, xhat, dy + pixel * c + column, x + pixel * c + column, c - column, at, silu);
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            sums[0][j] += z[j];
            sums[1][j] += z[j] * xhat[j];
        }
    });
    float* out = partial + ((long long)slab.sample * gridDim.x + blockIdx.x) * 2 * c;
    for (int i = threadIdx.x; i < 2 * c; i += blockDim.x) out[i] = channels[i];
}

// A block for each group and sample: sums [n, 2, c] over the slabs, and averages [n, groups, 2] of g and g xhat.
KERNEL_BOUNDS(group_norm_backward_groups, GROUP_NORM_THREADS, 2)
(float* sums, float* averages, const float* partial, const float* weight, int pixels, int c, int slabs) {
    const int groups = gridDim.x, sample = blockIdx.y, width = c / groups, first = blockIdx.x * width;
    partial += (long long)sample * slabs * 2 * c;
    sums += (long long)sample * 2 * c;
    float g = 0.f, g_xhat = 0.f;
    for (int channel = first + threadIdx.x; channel < first + width; channel += blockDim.x) {
        float z = 0.f, z_xhat = 0.f;
        for (int s = 0; s < slabs; s++) {
            z += partial[(long long)s * 2 * c + channel];
            z_xhat += partial[(long long)s * 2 * c + c + channel];
        }
        sums[channel] = z;
        sums[c + channel] = z_xhat;
        g += z * weight[channel];
        g_xhat += z_xhat * weight[channel];
    }
    g = block_sum(g);
    g_xhat = block_sum(g_xhat);
    if (threadIdx.x == 0) {
        const float values = (float)pixels * width;
        averages[(sample * groups + blockIdx.x) * 2] = g / values;
        averages[(sample * groups + blockIdx.x) * 2 + 1] = g_xhat / values;
    }
}

KERNEL_BOUNDS(group_norm_backward, GROUP_NORM_THREADS, 2)
(scalar_t* dx, const scalar_t* dy, const scalar_t* x, const float* weight, const float* bias, const float* mean,
 const float* rstd, const float* averages, int pixels, int c, int groups, int slab_pixels, int silu) {
    const Slab slab = slab_of_block(pixels, slab_pixels);
    const int width = c / groups, packs = (c + PACK - 1) / PACK, across = min(packs, blockDim.x);
    const int rows = blockDim.x / across;
    mean += slab.sample * groups;
    rstd += slab.sample * groups;
    averages += slab.sample * groups * 2;
    if (threadIdx.x / across >= rows) return;
    for (int column = threadIdx.x % across * PACK; column < c; column += across * PACK) {
        const Channels at = channels_of(column, c, width, mean, rstd, weight, bias);
        for (long long pixel = slab.first + threadIdx.x / across; pixel < slab.end; pixel += rows) {
            float z[PACK], xhat[PACK];
            before_silu(z, xhat, dy + pixel * c + column, x + pixel * c + column, c - column, at, silu);
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                const float* average = averages + min(column + j, c - 1) / width * 2;
                z[j] = at.rstd[j] * (z[j] * at.weight[j] - average[0] - xhat[j] * average[1]);
            }
            store_pack(dx + pixel * c + column, z, c - column);
        }
    }
}
