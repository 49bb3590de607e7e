// LayerNorm over the rows of x [rows, c] (Ba, Kiros & Hinton 2016, arXiv:1607.06450):
//   y = (x - mean) rstd weight + bias,   mean and rstd = 1 / sqrt(variance + eps) of the row
// and its gradients, with g = dy weight, xhat = (x - mean) rstd and averages over the row:
//   dx = rstd (g - avg(g) - xhat avg(g xhat)) + onto,   dweight[c] = sum over rows of dy xhat,   dbias[c] = sum of dy
//
// A warp takes a row, a block eight of them: no barriers. The variance is that of differences to the mean. A lane keeps its
// part of the row in registers, up to 5 packs of 16 bytes (1280 values of 16 bits in a row); longer rows, and rows that are no
// whole packs, are read three times, the later ones from L1.
// `onto` is what other ops gave to the gradient of x, where there is something: added here it takes no pass of its own.
// With b = sizeof(scalar_t), at least 2b bytes a value forward and 3b backward, 4b with `onto`; about 8 FLOPs a value forward, 14 backward.
#include "kernel.h"
#include "reduce.h"

CONSTANT(LAYER_NORM_THREADS, 256);

// The sum over a row of f(column, values of a pack), for all lanes of its warp; f returns a pack's part.
template <class F> DEV float sum_of_row(int c, F f) {
    float sum = 0.f;
    for (int column = threadIdx.x % 32 * PACK; column < c; column += 32 * PACK) sum += f(column);
    return warp_sum(sum);
}

// Calls f(i, column) for the packs of a row that this lane keeps, at most EACH.
template <int EACH, class F> DEV void each_kept(int c, F f) {
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int column = (i * 32 + threadIdx.x % 32) * PACK;
        if (column < c) f(i, column);
    }
}
// Packs that a lane must keep; 0 where rows are no whole packs at multiples of 16 bytes, or too long.
template <class... X> DEV int packs_of_lane(int c, const X*... x) {
    const int packs = (c / PACK + 31) / 32;
    return c % PACK == 0 && (aligned16(x) && ...) && packs <= 5 ? packs : 0;
}

struct Statistics {
    float mean, rstd;
};
template <int EACH>
DEV Statistics forward_kept(scalar_t* y, const scalar_t* x, const float* weight, const float* bias, int c, float eps) {
    float v[EACH][PACK], sum = 0.f, squares = 0.f;
    each_kept<EACH>(c, [&](int i, int column) {
        load_whole(v[i], x + column);
#pragma unroll
        for (int j = 0; j < PACK; j++) sum += v[i][j];
    });
    const float m = warp_sum(sum) / c;
    each_kept<EACH>(c, [&](int i, int) {
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            v[i][j] -= m;
            squares = fmaf(v[i][j], v[i][j], squares);
        }
    });
    const float r = rsqrtf(warp_sum(squares) / c + eps);
    each_kept<EACH>(c, [&](int i, int column) {
        float w[PACK], b[PACK];
        load_floats(w, weight + column, PACK);
        load_floats(b, bias + column, PACK);
#pragma unroll
        for (int j = 0; j < PACK; j++) v[i][j] = fmaf(v[i][j] * r, w[j], b[j]);
        store_whole(y + column, v[i]);
    });
    return {m, r};
}
DEV Statistics forward_any(scalar_t* y, const scalar_t* x, const float* weight, const float* bias, int c, float eps) {
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
    for (int column = threadIdx.x % 32 * PACK; column < c; column += 32 * PACK) {
        float v[PACK], w[PACK], b[PACK];
        load_pack(v, x + column, c - column);
        load_floats(w, weight + column, c - column);
        load_floats(b, bias + column, c - column);
#pragma unroll
        for (int j = 0; j < PACK; j++) v[j] = (v[j] - m) * r * w[j] + b[j];
        store_pack(y + column, v, c - column);
    }
    return {m, r};
}

// y, and mean and rstd [rows] for the backward pass.
KERNEL_BOUNDS(layer_norm_forward, LAYER_NORM_THREADS, 3)
(scalar_t* y, float* mean, float* rstd, const scalar_t* x, const float* weight, const float* bias, long long rows, int c,
 float eps) {
    const long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    const int packs = packs_of_lane(c, x, y);
    x += row * c;
    y += row * c;
    const Statistics of = packs == 0   ? forward_any(y, x, weight, bias, c, eps)
                          : packs <= 2 ? forward_kept<2>(y, x, weight, bias, c, eps)
                          : packs <= 3 ? forward_kept<3>(y, x, weight, bias, c, eps)
                                       : forward_kept<5>(y, x, weight, bias, c, eps);
    if (threadIdx.x % 32 == 0) {
        mean[row] = of.mean;
        rstd[row] = of.rstd;
    }
}

template <int EACH>
DEV void backward_kept(scalar_t* dx, const scalar_t* dy, const scalar_t* x, const float* weight, float m, float r,
                       const scalar_t* onto, int c) {
    float g[EACH][PACK], xhat[EACH][PACK], sum = 0.f, along = 0.f;
    each_kept<EACH>(c, [&](int i, int column) {
        float w[PACK];
        load_whole(g[i], dy + column);
        load_whole(xhat[i], x + column);
        load_floats(w, weight + column, PACK);
#pragma unroll
        for (int j = 0; j < PACK; j++) {
            g[i][j] *= w[j];
            xhat[i][j] = (xhat[i][j] - m) * r;
            sum += g[i][j];
            along = fmaf(g[i][j], xhat[i][j], along);
        }
    });
    sum = r * warp_sum(sum) / c;
    along = r * warp_sum(along) / c;
    each_kept<EACH>(c, [&](int i, int column) {
#pragma unroll
        for (int j = 0; j < PACK; j++) g[i][j] = fmaf(g[i][j], r, -fmaf(xhat[i][j], along, sum));
        if (onto) {
            float more[PACK];
            load_whole(more, onto + column);
#pragma unroll
            for (int j = 0; j < PACK; j++) g[i][j] += more[j];
        }
        store_whole(dx + column, g[i]);
    });
}
DEV void backward_any(scalar_t* dx, const scalar_t* dy, const scalar_t* x, const float* weight, float m, float r,
                      const scalar_t* onto, int c) {
    // g and xhat of a pack; both are 0 past the end of the row.
    const auto load_both = [&](float(&g)[PACK], float(&xhat)[PACK], int column) {
        float w[PACK];
        load_pack(g, dy + column, c - column);
        load_pack(xhat, x + column, c - column);
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
        if (onto) {
            float more[PACK];
            load_pack(more, onto + column, c - column);
#pragma unroll
            for (int j = 0; j < PACK; j++) g[j] += more[j];
        }
        store_pack(dx + column, g, c - column);
    }
}
// onto, which is added to dx, may be missing.
KERNEL_BOUNDS(layer_norm_backward, LAYER_NORM_THREADS, 2)
(scalar_t* dx, const scalar_t* dy, const scalar_t* x, const float* weight, const float* mean, const float* rstd,
 const scalar_t* onto, long long rows, int c) {
    const long long row = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (row >= rows) return;
    const float m = mean[row], r = rstd[row];
    // A missing one is as aligned as any.
    const int packs = packs_of_lane(c, dx, dy, x, onto);
    // The offset, not the pointer, is chosen: the compiler then knows that it points to global memory.
    onto += onto ? row * c : 0;
    dx += row * c;
    dy += row * c;
    x += row * c;
    if (packs == 0) backward_any(dx, dy, x, weight, m, r, onto, c);
    else if (packs <= 2) backward_kept<2>(dx, dy, x, weight, m, r, onto, c);
    else if (packs <= 3) backward_kept<3>(dx, dy, x, weight, m, r, onto, c);
    else backward_kept<5>(dx, dy, x, weight, m, r, onto, c);
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
