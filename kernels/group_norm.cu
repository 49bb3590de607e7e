// GroupNorm over x [n, pixels, c], with SiLU after it where `silu` is set (Wu & He 2018, arXiv:1803.08494, eqs 1 to 3):
//   y = f((x - mean) rstd weight + bias),   mean and rstd = 1 / sqrt(variance + eps) over pixels and a group's channels
// and its gradients, with z = dy f'(..), g = z weight, xhat = (x - mean) rstd and averages over the group:
//   dx = rstd (g - avg(g) - xhat avg(g xhat)) + onto,   dweight[c] = sum z xhat,   dbias[c] = sum z
//
// A group is spread over the rows of NHWC memory, so a block takes a slab of neighbouring pixels with all channels, and
// statistics need two kernels: group_norm_slabs gives mean and sum of squared deviations of each slab and group, and
// group_norm_groups merges those of a sample (Chan, Golub & LeVeque 1979). Each thread sums up deviations from its own first
// pixel and their squares, reading x once. E[x^2] - mean^2 cancels where |mean| >> deviation; here, of n values, the sum of
// squares is at most n + 1 times what remains of it. The backward pass goes the same way with sums for each channel in
// between. All orders of summation are fixed.
//
// x may be two tensors side by side, a hidden state and a skip connection: group_norm_slabs then stores the two together, and
// group_norm_backward parts their gradient.
//
// With b = sizeof(scalar_t), a value costs at least 2b bytes forward and 3b backward (3b and 5b without a cache), which is the
// limit; b more where `onto`, what other ops gave to the gradient of x, is added without a pass of its own. About 10 FLOPs a value forward, 20 backward; 30 and 50 with SiLU.
#include "kernel.h"
#include "reduce.h"

CONSTANT(GROUP_NORM_THREADS, 256);

DEV float sigmoid(float x) { return reciprocal(1.f + exp2_or_zero(-1.44269504f * x)); }

struct Slab {
    long long first;  // pixel, counted through all samples
    int pixels, sample;
};
DEV Slab slab_of_block(int pixels, int slab_pixels) {
    const int first = blockIdx.x * slab_pixels;
    return {(long long)blockIdx.y * pixels + first, min(slab_pixels, pixels - first), (int)blockIdx.y};
}

// How threads share a slab: `across` of them have a pixel's packs of channels, `rows` pixels are taken at a time.
struct Threads {
    int packs, across, rows, row, lane;
};
DEV Threads threads_of(int c) {
    Threads threads;
    threads.packs = (c + PACK - 1) / PACK;
    threads.across = min(threads.packs, blockDim.x);
    threads.rows = blockDim.x / threads.across;
    threads.row = threadIdx.x / threads.across;
    threads.lane = threadIdx.x % threads.across;
    return threads;
}
// Pixels of a slab that threads of this row have.
DEV int pixels_of(const Threads& threads, int row, int pixels) {
    return row < threads.rows ? (pixels - row + threads.rows - 1) / threads.rows : 0;
}

// Packs that are all WHOLE and at multiples of 16 bytes need no checks.
template <class... X> DEV bool whole(int c, const X*... x) { return c % PACK == 0 && (aligned16(x) && ...); }
template <bool WHOLE> DEV void load_of(float (&values)[PACK], const scalar_t* x, int left) {
    if (WHOLE) load_whole(values, x);
    else load_pack(values, x, left);
}
template <bool WHOLE> DEV void store_of(scalar_t* y, const float (&values)[PACK], int left) {
    if (WHOLE) store_whole(y, values);
    else store_pack(y, values, left);
}

// Calls sum(sums, column) for each of the thread's packs of channels, with K sums of each of its channels, which are then in
// scratch for all: of value k, channel `base + PACK lane + j` and row r at ((k PACK + j) rows + r) across + lane. Calls
// merge(channel, first of its scratch) for each channel.
template <int K, class Sum, class Merge> DEV void channels_of_slab(float* scratch, int c, Sum sum, Merge merge) {
    const Threads threads = threads_of(c);
    for (int base = 0; base < threads.packs; base += threads.across) {
        const int column = (base + threads.lane) * PACK;
        if (threads.row < threads.rows) {
            float sums[K][PACK] = {};
            if (column < c) sum(sums, column);
#pragma unroll
            for (int k = 0; k < K; k++)
#pragma unroll
                for (int j = 0; j < PACK; j++)
                    scratch[((k * PACK + j) * threads.rows + threads.row) * threads.across + threads.lane] = sums[k][j];
        }
        __syncthreads();
        for (int i = threadIdx.x; i < PACK * threads.across; i += blockDim.x) {
            const int j = i / threads.across, lane = i % threads.across, channel = (base + lane) * PACK + j;
            if (channel < c) merge(channel, scratch + j * threads.rows * threads.across + lane);
        }
        __syncthreads();
    }
}

// Channels of a pixel in two tensors: of the first up to `first`, of the other behind it. Only WHOLE packs may be of the other.
template <class T> struct Place {
    T* at;
    int width;
};
template <bool WHOLE, class T> DEV Place<T> place_of(T* x, T* other, long long pixel, int column, int c, int first) {
    const bool beside = WHOLE && column >= first;
    const int width = beside ? c - first : first;
    return {(beside ? other : x) + pixel * width + (beside ? column - first : column), width};
}

// `both` gets x and `skip` side by side; it may be missing, where there is no skip.
template <bool WHOLE> DEV void slab_statistics(float* scratch, float* means, float* squares, scalar_t* both, const scalar_t* x,
                                               const scalar_t* skip, int c, int first, const Slab& slab) {
    const Threads threads = threads_of(c);
    const int count = pixels_of(threads, threads.row, slab.pixels);
    // The first rows of threads have `most` pixels, the others one less.
    const int most = pixels_of(threads, 0, slab.pixels), longer = slab.pixels - (most - 1) * threads.rows;
    const float share = 1.f / slab.pixels, many = most, fewer = most - 1;
    const auto sum = [&](float(&sums)[2][PACK], int column) {
        const Place<const scalar_t> from = place_of<WHOLE>(x, skip, slab.first + threads.row, column, c, first);
        const scalar_t* at = from.at;
        scalar_t* to = both + (both ? (slab.first + threads.row) * c + column : 0);
        if (count == 0) return;
        float shift[PACK], total[PACK] = {}, square[PACK] = {};
        load_of<WHOLE>(shift, at, c - column);
        if (WHOLE && both) store_whole(to, shift);
#pragma unroll(WHOLE ? 2 : 1)
        for (int i = 1; i < count; i++) {
            at += threads.rows * from.width;
            float v[PACK];
            load_of<WHOLE>(v, at, c - column);
            if (WHOLE && both) store_whole(to += threads.rows * c, v);
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                const float deviation = v[j] - shift[j];
                total[j] += deviation;
                square[j] = fmaf(deviation, deviation, square[j]);
            }
        }
        const float own = 1.f / count;
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            sums[0][j] = shift[j] + total[j] * own;
            sums[1][j] = fmaxf(square[j] - total[j] * total[j] * own, 0.f);
        }
    };
    channels_of_slab<2>(scratch, c, sum, [&](int channel, const float* of) {
        const float* squares_of = of + PACK * threads.rows * threads.across;
        float mean = 0.f, square = 0.f;
#pragma unroll 1
        for (int r = 0; r < threads.rows; r++) mean += of[r * threads.across] * (r < longer ? many : fewer);
        mean *= share;
#pragma unroll 1
        for (int r = 0; r < threads.rows; r++) {
            const float distance = of[r * threads.across] - mean;
            square += squares_of[r * threads.across] + (r < longer ? many : fewer) * distance * distance;
        }
        means[channel] = mean;
        squares[channel] = square;
    });
}

// partial [n, groups, slabs, 2]: mean, and sum of squared deviations from it. Dynamic shared memory: 2 c floats and two PACKs
// for each thread. x has `first` channels, skip, which may be missing, those from there to c; where it is there, all is whole.
KERNEL_BOUNDS(group_norm_slabs, GROUP_NORM_THREADS, 4)
(float* partial, scalar_t* both, const scalar_t* x, const scalar_t* skip, int pixels, int c, int first, int groups,
 int slab_pixels) {
    DYN_SHARED(float, scratch);
    float* means = scratch + 2 * blockDim.x * PACK;
    float* squares = means + c;
    const Slab slab = slab_of_block(pixels, slab_pixels);
    if (whole(c, x)) slab_statistics<true>(scratch, means, squares, both, x, skip, c, first, slab);
    else slab_statistics<false>(scratch, means, squares, both, x, skip, c, first, slab);

    const int width = c / groups;
    for (int g = threadIdx.x; g < groups; g += blockDim.x) {
        float mean = 0.f, square = 0.f;
#pragma unroll 1
        for (int j = 0; j < width; j++) mean += means[g * width + j];
        mean /= width;
#pragma unroll 1
        for (int j = 0; j < width; j++) {
            const float distance = means[g * width + j] - mean;
            square += squares[g * width + j] + slab.pixels * distance * distance;
        }
        float* out = partial + (((long long)slab.sample * groups + g) * gridDim.x + blockIdx.x) * 2;
        out[0] = mean;
        out[1] = square;
    }
}

// mean and rstd [n, groups]. A warp merges the slabs of a group: mean = sum n_i m_i / n, M2 = sum M2_i + n_i (m_i - mean)^2.
KERNEL_BOUNDS(group_norm_groups, GROUP_NORM_THREADS, 2)
(float* mean, float* rstd, const float* partial, int pixels, int c, int groups, int slab_pixels, float eps) {
    const int group = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (group >= groups) return;
    const int width = c / groups, slabs = (pixels + slab_pixels - 1) / slab_pixels;
    const long long at = (long long)blockIdx.y * groups + group;
    const float* statistics = partial + at * slabs * 2;
    const float values = (float)pixels * width;
    float sum = 0.f, squares = 0.f;
    for (int s = lane; s < slabs; s += 32) {
        const float count = (float)min(slab_pixels, pixels - s * slab_pixels) * width;
        sum += count * statistics[s * 2];
    }
    const float m = warp_sum(sum) / values;
    for (int s = lane; s < slabs; s += 32) {
        const float count = (float)min(slab_pixels, pixels - s * slab_pixels) * width;
        const float distance = statistics[s * 2] - m;
        squares += statistics[s * 2 + 1] + count * distance * distance;
    }
    const float r = rsqrtf(warp_sum(squares) / values + eps);
    if (lane == 0) {
        mean[at] = m;
        rstd[at] = r;
    }
}

// What the passes over values need of each of a thread's channels.
struct Channels {
    float mean[PACK], rstd[PACK], weight[PACK], bias[PACK];
};
// `group` is that of each channel; mean and rstd are those of the sample.
DEV Channels channels_of(int (&group)[PACK], int column, int c, int width, const float* mean, const float* rstd,
                         const float* weight, const float* bias) {
    Channels channels;
    load_floats(channels.weight, weight + column, c - column);
    load_floats(channels.bias, bias + column, c - column);
#pragma unroll
    for (int j = 0; j < PACK; j++) {
        group[j] = min(column + j, c - 1) / width;
        channels.mean[j] = mean[group[j]];
        channels.rstd[j] = rstd[group[j]];
    }
    return channels;
}
// Calls pack(offset, left) for the thread's pixels and packs of a slab, after begin(column) for each of its packs of channels.
template <bool WHOLE, class Begin, class Pack> DEV void each_pack(int c, const Slab& slab, Begin begin, Pack pack) {
    const Threads threads = threads_of(c);
    const int count = pixels_of(threads, threads.row, slab.pixels);
    for (int column = threads.lane * PACK; column < c; column += threads.across * PACK) {
        if (count) begin(column);
        long long offset = (slab.first + threads.row) * c + column;
#pragma unroll(WHOLE ? 2 : 1)
        for (int i = 0; i < count; i++, offset += threads.rows * c) pack(offset, c - column);
    }
}

template <bool WHOLE>
DEV void normalise(scalar_t* y, const scalar_t* x, const float* weight, const float* bias, const float* mean,
                   const float* rstd, int c, int width, const Slab& slab, int silu) {
    Channels at;
    const auto begin = [&](int column) {
        int group[PACK];
        at = channels_of(group, column, c, width, mean, rstd, weight, bias);
#pragma unroll
        for (int j = 0; j < PACK; j++) at.weight[j] *= at.rstd[j];
    };
    each_pack<WHOLE>(c, slab, begin, [&](long long offset, int left) {
        float v[PACK];
        load_of<WHOLE>(v, x + offset, left);
#pragma unroll
        for (int j = 0; j < PACK; j++) v[j] = fmaf(v[j] - at.mean[j], at.weight[j], at.bias[j]);
        if (silu) {
#pragma unroll
            for (int j = 0; j < PACK; j++) v[j] *= sigmoid(v[j]);
        }
        store_of<WHOLE>(y + offset, v, left);
    });
}
KERNEL_BOUNDS(group_norm_forward, GROUP_NORM_THREADS, 4)
(scalar_t* y, const scalar_t* x, const float* weight, const float* bias, const float* mean, const float* rstd, int pixels,
 int c, int groups, int slab_pixels, int silu) {
    const Slab slab = slab_of_block(pixels, slab_pixels);
    mean += slab.sample * groups;
    rstd += slab.sample * groups;
    if (whole(c, y, x)) normalise<true>(y, x, weight, bias, mean, rstd, c, c / groups, slab, silu);
    else normalise<false>(y, x, weight, bias, mean, rstd, c, c / groups, slab, silu);
}

// z = dy f'(..) and xhat of one pixel's pack.
template <bool WHOLE>
DEV void before_silu(float (&z)[PACK], float (&xhat)[PACK], const scalar_t* dy, const scalar_t* x, int left,
                     const Channels& at, int silu) {
    load_of<WHOLE>(z, dy, left);
    load_of<WHOLE>(xhat, x, left);
#pragma unroll
    for (int j = 0; j < PACK; j++) xhat[j] = (xhat[j] - at.mean[j]) * at.rstd[j];
    if (silu) {
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            const float v = fmaf(xhat[j], at.weight[j], at.bias[j]), s = sigmoid(v);
            z[j] *= s * fmaf(v, 1.f - s, 1.f);
        }
    }
}

template <bool WHOLE>
DEV void slab_gradients(float* out, float* scratch, const scalar_t* dy, const scalar_t* x, const float* weight,
                        const float* bias, const float* mean, const float* rstd, int c, int width, const Slab& slab,
                        int silu) {
    const Threads threads = threads_of(c);
    const int count = pixels_of(threads, threads.row, slab.pixels);
    const auto sum = [&](float(&sums)[2][PACK], int column) {
        if (count == 0) return;
        int group[PACK];
        const Channels at = channels_of(group, column, c, width, mean, rstd, weight, bias);
        long long offset = (slab.first + threads.row) * c + column;
#pragma unroll(WHOLE ? 2 : 1)
        for (int i = 0; i < count; i++, offset += threads.rows * c) {
            float z[PACK], xhat[PACK];
            before_silu<WHOLE>(z, xhat, dy + offset, x + offset, c - column, at, silu);
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                sums[0][j] += z[j];
                sums[1][j] = fmaf(z[j], xhat[j], sums[1][j]);
            }
        }
    };
    channels_of_slab<2>(scratch, c, sum, [&](int channel, const float* of) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            float total = 0.f;
#pragma unroll 1
            for (int r = 0; r < threads.rows; r++) total += of[(k * PACK * threads.rows + r) * threads.across];
            out[k * c + channel] = total;
        }
    });
}
// partial [n, slabs, 2, c]: sums of z and of z xhat. Dynamic shared memory: two PACKs for each thread.
KERNEL_BOUNDS(group_norm_backward_slabs, GROUP_NORM_THREADS, 2)
(float* partial, const scalar_t* dy, const scalar_t* x, const float* weight, const float* bias, const float* mean,
 const float* rstd, int pixels, int c, int groups, int slab_pixels, int silu) {
    DYN_SHARED(float, scratch);
    const Slab slab = slab_of_block(pixels, slab_pixels);
    mean += slab.sample * groups;
    rstd += slab.sample * groups;
    float* out = partial + ((long long)slab.sample * gridDim.x + blockIdx.x) * 2 * c;
    if (whole(c, dy, x)) slab_gradients<true>(out, scratch, dy, x, weight, bias, mean, rstd, c, c / groups, slab, silu);
    else slab_gradients<false>(out, scratch, dy, x, weight, bias, mean, rstd, c, c / groups, slab, silu);
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

// dx = z (rstd weight) - xhat (rstd avg(g xhat)) - rstd avg(g).
template <bool WHOLE>
DEV void gradient(scalar_t* dx, scalar_t* dskip, const scalar_t* dy, const scalar_t* x, const float* weight, const float* bias,
                  const float* mean, const float* rstd, const float* averages, const scalar_t* onto, int c, int first,
                  int width, const Slab& slab, int silu) {
    const Threads threads = threads_of(c);
    Channels at;
    Place<scalar_t> to = {};
    float scale[PACK], constant[PACK], along[PACK];
    const auto begin = [&](int column) {
        int group[PACK];
        at = channels_of(group, column, c, width, mean, rstd, weight, bias);
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            scale[j] = at.rstd[j] * at.weight[j];
            constant[j] = at.rstd[j] * averages[2 * group[j]];
            along[j] = at.rstd[j] * averages[2 * group[j] + 1];
        }
        to = place_of<WHOLE>(dx, dskip, slab.first + threads.row, column, c, first);
    };
    each_pack<WHOLE>(c, slab, begin, [&](long long offset, int left) {
        float z[PACK], xhat[PACK];
        before_silu<WHOLE>(z, xhat, dy + offset, x + offset, left, at, silu);
#pragma unroll
        for (int j = 0; j < PACK; j++) z[j] = fmaf(z[j], scale[j], -fmaf(xhat[j], along[j], constant[j]));
        if (onto) {
            float more[PACK];
            load_of<WHOLE>(more, onto + offset, left);
#pragma unroll
            for (int j = 0; j < PACK; j++) z[j] += more[j];
        }
        store_of<WHOLE>(to.at, z, left);
        to.at += threads.rows * to.width;
    });
}
// onto, which is added to dx, may be missing, and so may dskip, as in group_norm_slabs.
KERNEL_BOUNDS(group_norm_backward, GROUP_NORM_THREADS, 2)
(scalar_t* dx, scalar_t* dskip, const scalar_t* dy, const scalar_t* x, const float* weight, const float* bias,
 const float* mean, const float* rstd, const float* averages, const scalar_t* onto, int pixels, int c, int first, int groups,
 int slab_pixels, int silu) {
    const Slab slab = slab_of_block(pixels, slab_pixels);
    mean += slab.sample * groups;
    rstd += slab.sample * groups;
    averages += slab.sample * groups * 2;
    // A missing one is as aligned as any.
    if (whole(c, dx, dy, x, onto))
        gradient<true>(dx, dskip, dy, x, weight, bias, mean, rstd, averages, onto, c, first, c / groups, slab, silu);
    else gradient<false>(dx, dskip, dy, x, weight, bias, mean, rstd, averages, onto, c, first, c / groups, slab, silu);
}
