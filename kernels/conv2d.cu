// Convolutions over NHWC as matrix products whose patches are gathered on the way to shared memory: no im2col buffer.
//   forward   y [n, ho, wo, c_out] = sum over taps and c_in of x w + bias [c_out] + t [n, c_out] + residual
//   dgrad     dx [n, h, w, c_in] = sum over taps and c_out of dy w
//   wgrad     dw [c_out, kh, kw, c_in] = sum over pixels of dy x, in slices of pixels that sum_rows adds up in order
// w is [c_out, kh, kw, c_in]; position (oy, ox) of tap (ky, kx) is pixel (oy stride + ky - top, ox stride + kx - left) of
// x, zero outside. t is a ResNet's time embedding.
//
// A block makes a tile of pixels x channels (wgrad: output channels x taps and input channels) as tile.h describes, k
// running over taps and channels, of wgrad over pixels. `large` and `small` take channels that are multiples of a step of k
// (those of the results: of PACK): a thread's pixels stay the same, a tap moves them all by the same
// bytes, so that only what is inside of the picture is found anew, once a tap. `any` takes what there is, value by value where
// channels are no multiple of PACK (c_in = 3, 4). The gradient of a convolution with a stride goes by classes of pixels with
// the same remainders of their coordinates (blockIdx.z): each meets its own taps and no others, of nine 1, 2, 2 and 4.
//
// 2 n ho wo c_out kh kw c_in FLOPs each; at least the bytes of x, w and y. In 16 bits a warp issues 2.6 instructions for each
// tensor-core product, besides some 1500: bound by shared memory and tensor cores.
#include "kernel.h"
#include "tile.h"
#include "walk.h"
#include "patches.h"

template <int SIZE, int THREADS>
DEV void forward(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
                 const scalar_t* residual, int n, const Shape& s) {
    const int lines = n * s.ho * s.wo, k = s.kh * s.kw * s.c_in;
    const Corner corner = corner_of_block<SIZE>(lines, s.c_out);
    const int first = (int)corner.m;
    Sums<SIZE, THREADS, scalar_t> sums;
    Pixels<SIZE, THREADS> pixels;
    begin(pixels, x, s.h, s.w, s.c_in, [&](int row) {
        const Pixel p = pixel_of(first + row, lines, s.ho, s.wo);
        return Pixel{p.picture, p.y * s.stride - s.top, p.x * s.stride - s.left};
    });
    Walk<true, SIZE, THREADS> weights;
    begin(weights, {weight, s.c_out, k, k}, corner.n);
    int left = 0, ky = 0, kx = 0;
    product<true, true>(sums, k / STEP, [&](scalar_t* tile_a, scalar_t* tile_b) {
        if (left == 0) {
            stay_a_branch();
            go_to(pixels, ky, kx);
            left = s.c_in;
            if (++kx == s.kw) kx = 0, ky++;
        }
        left -= STEP;
        fetch(pixels, tile_a);
        fetch(weights, tile_b, STEP);
    });
    finish(sums, y, s.c_out, corner.n, {1.f, bias, t, s.ho * s.wo, residual},
           [&](int row) { return (long long)(first + row < lines ? first + row : -1); });
}

// The pixels of x at coordinate `first` and every `stride`th from there on, along one axis: which positions of dy reached them,
// and through which taps.
struct Class {
    // Pixels, taps, and the first of both.
    int pixels, taps, first, first_tap;
    // From pixel i of the class to the position that reached it through the first tap; the next tap is the position before.
    int position;
};
DEV Class class_of(int first, int size, int taps, int stride, int before) {
    const int tap = (first + before) % stride;
    return {(size - first + stride - 1) / stride, (taps - tap + stride - 1) / stride, first, tap, (first + before) / stride};
}

template <int SIZE, int THREADS>
DEV void dgrad(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, int n, const Shape& s) {
    const Class rows = class_of(blockIdx.z / s.stride, s.h, s.kh, s.stride, s.top);
    const Class columns = class_of(blockIdx.z % s.stride, s.w, s.kw, s.stride, s.left);
    const int lines = n * rows.pixels * columns.pixels, taps = s.kh * s.kw;
    // The grid has blocks for the largest class.
    if (blockIdx.x >= (lines + SIZE - 1) / SIZE * ((s.c_in + SIZE - 1) / SIZE)) return;
    const Corner corner = corner_of_block<SIZE>(lines, s.c_in);
    const int first = (int)corner.m;
    Sums<SIZE, THREADS, scalar_t> sums;
    Pixels<SIZE, THREADS> pixels;
    begin(pixels, dy, s.ho, s.wo, s.c_out, [&](int row) {
        const Pixel p = pixel_of(first + row, lines, rows.pixels, columns.pixels);
        return Pixel{p.picture, p.y + rows.position, p.x + columns.position};
    });
    // Rows of the tile are output channels of a tap, lines input channels.
    Walk<false, SIZE, THREADS> weights;
    begin(weights, {weight, s.c_in, s.c_out, taps * s.c_in}, corner.n);
    const scalar_t* first_weight = weights.from;
    int left = 0, ky = 0, kx = 0;
    const int steps = rows.taps * columns.taps * (s.c_out / STEP);
    product<true, false>(sums, steps, [&](scalar_t* tile_a, scalar_t* tile_b) {
        if (left == 0) {
            stay_a_branch();
            go_to(pixels, -ky, -kx);
            const int tap = (rows.first_tap + ky * s.stride) * s.kw + columns.first_tap + kx * s.stride;
            weights.from = first_weight + tap * s.c_in;
            left = s.c_out;
            if (++kx == columns.taps) kx = 0, ky++;
        }
        left -= STEP;
        fetch(pixels, tile_a);
        fetch(weights, tile_b, STEP);
    });
    finish(sums, dx, s.c_in, corner.n, {1.f, nullptr, nullptr, 1, nullptr}, [&](int row) {
        if (first + row >= lines) return -1ll;
        if (s.stride == 1) return (long long)first + row;
        const Pixel p = pixel_of(first + row, lines, rows.pixels, columns.pixels);
        return ((long long)p.picture * s.h + p.y * s.stride + rows.first) * s.w + p.x * s.stride + columns.first;
    });
}

// ---- channels of any number ----
template <int SIZE, int THREADS>
DEV void forward_any(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
                 const scalar_t* residual, int n, const Shape& s) {
    const long long pixels = (long long)n * s.ho * s.wo;
    const Corner corner = corner_of_block<SIZE>(pixels, s.c_out);
    const long long first = corner.m;
    const int first_n = corner.n, k = s.kh * s.kw * s.c_in;
    Sums<SIZE, THREADS, scalar_t> sums;
    Patches<SIZE, THREADS> patches;
    find_pixels(patches, first, pixels, s.ho, s.wo);
    const Operand weights = {weight, s.c_out, k, k};
    int done = 0;
    product<true, true>(sums, (k + STEP - 1) / STEP, [&](scalar_t* tile_a, scalar_t* tile_b) {
        fetch_patches(tile_a, patches, x, s.c_in, done, [&](const Pixel& p, int tap) { return under_tap(x, s, p, tap); });
        fetch_any<true, SIZE, THREADS>(tile_b, weights, first_n, done);
        done += STEP;
    });
    const Epilogue with = {1.f, bias, t, s.ho * s.wo, residual};
    each(sums, [&](int row, int column, float sum) {
        const long long pixel = first + row;
        const int channel = first_n + column;
        if (pixel < pixels && channel < s.c_out)
            store(y, pixel * s.c_out + channel, finished(with, sum, pixel, channel, s.c_out));
    });
}

template <int SIZE, int THREADS>
DEV void dgrad_any(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, int n, const Shape& s) {
    const long long pixels = (long long)n * s.h * s.w;
    const Corner corner = corner_of_block<SIZE>(pixels, s.c_in);
    const long long first = corner.m;
    const int first_n = corner.n, taps = s.kh * s.kw, k = taps * s.c_out;
    Sums<SIZE, THREADS, scalar_t> sums;
    Patches<SIZE, THREADS> patches;
    find_pixels(patches, first, pixels, s.h, s.w);
    const bool aligned = aligned16(weight) && s.c_in % PACK == 0;
    int done = 0;
    product<true, false>(sums, (k + STEP - 1) / STEP, [&](scalar_t* tile_a, scalar_t* tile_b) {
        fetch_patches(tile_a, patches, dy, s.c_out, done,
                      [&](const Pixel& p, int tap) { return through_tap(dy, s, p, tap); });
        // Rows are (tap, output channel), lines input channels.
        constexpr int CHUNKS = SIZE / PACK;
#pragma unroll 1
        for (int e = 0; e < STEP * CHUNKS / THREADS; e++) {
            const int at = e * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
            const int value = done + row, channel = first_n + chunk * PACK;
            const int count = value < k ? max(min(s.c_in - channel, PACK), 0) : 0;
            const long long line = (long long)(value % s.c_out) * taps + value / s.c_out;
            copy_chunk(tile_b + chunk_at<false, SIZE>(row, chunk), count ? weight + line * s.c_in + channel : weight, count,
                       aligned);
        }
        done += STEP;
    });
    each(sums, [&](int row, int column, float sum) {
        if (first + row < pixels && first_n + column < s.c_in) store(dx, (first + row) * s.c_in + first_n + column, sum);
    });
}

template <int SIZE, int THREADS>
DEV void wgrad(float* dw, const scalar_t* dy, const scalar_t* x, int n, int slice, const Shape& s) {
    const int width = s.kh * s.kw * s.c_in;
    const Corner corner = corner_of_block<SIZE>(s.c_out, width);
    const int first_m = (int)corner.m, first_n = corner.n;
    const long long pixels = (long long)n * s.ho * s.wo, start = (long long)blockIdx.z * slice;
    const long long end = min(start + slice, pixels);
    Sums<SIZE, THREADS, scalar_t> sums;
    const Operand gradients = {dy + start * s.c_out, s.c_out, (int)(end - start), s.c_out};
    const bool aligned = aligned16(x) && s.c_in % PACK == 0;
    int done = 0;
    product<false, false>(sums, (int)((end - start + STEP - 1) / STEP), [&](scalar_t* tile_a, scalar_t* tile_b) {
        fetch_any<false, SIZE, THREADS>(tile_a, gradients, first_m, done);
        // Rows are pixels, lines (tap, input channel).
        constexpr int CHUNKS = SIZE / PACK;
#pragma unroll 1
        for (int e = 0; e < STEP * CHUNKS / THREADS; e++) {
            const int at = e * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
            const Pixel p = pixel_at(start + done + row, end, s.ho, s.wo);
            copy_patch(tile_b + chunk_at<false, SIZE>(row, chunk), x, first_n + chunk * PACK, s.c_in, aligned,
                       [&](int tap) { return under_tap(x, s, p, tap); });
        }
        done += STEP;
    });
    store_sums(sums, dw + (long long)blockIdx.z * s.c_out * width, first_m, first_n, s.c_out, width);
}

// bias, t and residual may be missing.
KERNEL_BOUNDS(conv2d_forward_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
 const scalar_t* residual, int n, int h, int w, int c_in, int ho, int wo, int c_out, int kh, int kw, int stride, int top,
 int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    forward<TILE_LARGE, TILE_LARGE_THREADS>(y, x, weight, bias, t, residual, n, s);
}
KERNEL_BOUNDS(conv2d_forward_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
 const scalar_t* residual, int n, int h, int w, int c_in, int ho, int wo, int c_out, int kh, int kw, int stride, int top,
 int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    forward<TILE_SMALL, TILE_SMALL_THREADS>(y, x, weight, bias, t, residual, n, s);
}
KERNEL_BOUNDS(conv2d_forward_any, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
 const scalar_t* residual, int n, int h, int w, int c_in, int ho, int wo, int c_out, int kh, int kw, int stride, int top,
 int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    forward_any<TILE_SMALL, TILE_SMALL_THREADS>(y, x, weight, bias, t, residual, n, s);
}
KERNEL_BOUNDS(conv2d_dgrad_large, TILE_LARGE_THREADS, 2)
(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, int n, int h, int w, int c_in, int ho, int wo, int c_out,
 int kh, int kw, int stride, int top, int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    dgrad<TILE_LARGE, TILE_LARGE_THREADS>(dx, dy, weight, n, s);
}
KERNEL_BOUNDS(conv2d_dgrad_small, TILE_SMALL_THREADS, 4)
(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, int n, int h, int w, int c_in, int ho, int wo, int c_out,
 int kh, int kw, int stride, int top, int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    dgrad<TILE_SMALL, TILE_SMALL_THREADS>(dx, dy, weight, n, s);
}
KERNEL_BOUNDS(conv2d_dgrad_any, TILE_SMALL_THREADS, 4)
(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, int n, int h, int w, int c_in, int ho, int wo, int c_out,
 int kh, int kw, int stride, int top, int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    dgrad_any<TILE_SMALL, TILE_SMALL_THREADS>(dx, dy, weight, n, s);
}
// dw [slices, c_out, kh, kw, c_in] float.
KERNEL_BOUNDS(conv2d_wgrad_large, TILE_LARGE_THREADS, 2)
(float* dw, const scalar_t* dy, const scalar_t* x, int n, int slice, int h, int w, int c_in, int ho, int wo, int c_out,
 int kh, int kw, int stride, int top, int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    wgrad<TILE_LARGE, TILE_LARGE_THREADS>(dw, dy, x, n, slice, s);
}
KERNEL_BOUNDS(conv2d_wgrad_small, TILE_SMALL_THREADS, 4)
(float* dw, const scalar_t* dy, const scalar_t* x, int n, int slice, int h, int w, int c_in, int ho, int wo, int c_out,
 int kh, int kw, int stride, int top, int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    wgrad<TILE_SMALL, TILE_SMALL_THREADS>(dw, dy, x, n, slice, s);
}
