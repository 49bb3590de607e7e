// Convolutions over NHWC as matrix products whose patches are gathered on the way to shared memory: no im2col buffer.
//   forward   y [n, ho, wo, c_out] = sum over taps and c_in of x w + bias [c_out] + t [n, c_out] + residual
//   dgrad     dx [n, h, w, c_in] = sum over taps and c_out of dy w
//   wgrad     dw [c_out, kh, kw, c_in] = sum over pixels of dy x, in slices of pixels that sum_rows adds up in order
// w is [c_out, kh, kw, c_in]; position (oy, ox) of tap (ky, kx) is pixel (oy stride + ky - top, ox stride + kx - left) of
// x, zero outside. With `doubled`, x is read through a nearest-neighbour upsampling by two that is never stored: its h
// and w are those of the upsampled picture. t is a ResNet's time embedding.
//
// A block makes a tile of pixels x channels (wgrad: output channels x taps and input channels) as tile.h describes, k
// running over taps and channels, of wgrad over pixels. A thread's pixels stay the same from step to step, so that only
// the tap is found anew. 16-byte copies where the channels are multiples of PACK, value by value elsewhere (c_in = 3, 4).
// dgrad with a stride multiplies by zeros where a pixel meets no tap: stride^2 times the work that a dense one does.
//
// 2 n ho wo c_out kh kw c_in FLOPs each; at least the bytes of x, w and y.
#include "kernel.h"
#include "tile.h"

struct Shape {
    int h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left, doubled;
};

// A pixel of the picture that the product's lines are, as (picture, y, x); picture -1 past the last.
struct Pixel {
    int picture, y, x;
};
DEV Pixel pixel_at(long long line, long long lines, int h, int w) {
    if (line >= lines) return {-1, 0, 0};
    return {(int)(line / w / h), (int)(line / w % h), (int)(line % w)};
}

// The first of the channels of x under tap `tap` at output pixel `p`, or null where that is outside.
DEV const scalar_t* under_tap(const scalar_t* x, const Shape& s, const Pixel& p, int tap) {
    const int y = p.y * s.stride + tap / s.kw - s.top, column = p.x * s.stride + tap % s.kw - s.left;
    if (p.picture < 0 || tap >= s.kh * s.kw || y < 0 || y >= s.h || column < 0 || column >= s.w) return nullptr;
    const int h = s.doubled ? s.h / 2 : s.h, w = s.doubled ? s.w / 2 : s.w;
    return x + (((long long)p.picture * h + (s.doubled ? y / 2 : y)) * w + (s.doubled ? column / 2 : column)) * s.c_in;
}
// The first of the channels of dy that reached pixel `p` of x through tap `tap`, or null where none did.
DEV const scalar_t* through_tap(const scalar_t* dy, const Shape& s, const Pixel& p, int tap) {
    const int y = p.y + s.top - tap / s.kw, x = p.x + s.left - tap % s.kw;
    if (p.picture < 0 || tap >= s.kh * s.kw || y < 0 || x < 0 || y % s.stride || x % s.stride) return nullptr;
    if (y / s.stride >= s.ho || x / s.stride >= s.wo) return nullptr;
    return dy + (((long long)p.picture * s.ho + y / s.stride) * s.wo + x / s.stride) * s.c_out;
}

// Copies a pack of patch values, `value` = tap * c + channel on; find(tap) is where the tap's c channels are, or null.
// `anywhere` is a valid address.
template <class Find>
DEV void copy_patch(scalar_t* to, const scalar_t* anywhere, int value, int c, bool aligned, Find find) {
    if (aligned) {
        const scalar_t* channels = find(value / c);
        copy_async(to, channels ? channels + value % c : anywhere, channels ? 16 : 0);
    } else {
#pragma unroll 1
        for (int j = 0; j < PACK; j++) {
            const scalar_t* channels = find((value + j) / c);
            to[j] = channels ? channels[(value + j) % c] : from_float<scalar_t>(0.f);
        }
    }
}

// Fetches patches line by line: lines are pixels of a picture of h x w, values taps and channels.
template <int SIZE, int THREADS> struct Patches {
    static constexpr int CHUNKS = STEP / PACK, EACH = SIZE * CHUNKS / THREADS;
    Pixel pixels[EACH];
};
template <int SIZE, int THREADS>
DEV void find_pixels(Patches<SIZE, THREADS>& patches, long long first, long long lines, int h, int w) {
    using P = Patches<SIZE, THREADS>;
#pragma unroll
    for (int i = 0; i < P::EACH; i++)
        patches.pixels[i] = pixel_at(first + (i * THREADS + threadIdx.x) / P::CHUNKS, lines, h, w);
}
template <int SIZE, int THREADS, class Find>
DEV void fetch_patches(scalar_t* tile, const Patches<SIZE, THREADS>& patches, const scalar_t* x, int c, int k, Find find) {
    using P = Patches<SIZE, THREADS>;
    const bool aligned = aligned16(x) && c % PACK == 0;
    const int chunk = threadIdx.x % P::CHUNKS;
#pragma unroll
    for (int i = 0; i < P::EACH; i++) {
        const int row = (i * THREADS + threadIdx.x) / P::CHUNKS;
        copy_patch(tile + chunk_at<true, SIZE>(row, chunk), x, k + chunk * PACK, c, aligned,
                   [&](int tap) { return find(patches.pixels[i], tap); });
    }
}

template <int SIZE, int THREADS>
DEV void forward(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
                 const scalar_t* residual, int n, const Shape& s) {
    const long long pixels = (long long)n * s.ho * s.wo;
    const Corner corner = corner_of_block<SIZE>(pixels, s.c_out);
    const long long first = corner.m;
    const int first_n = corner.n, k = s.kh * s.kw * s.c_in;
    Sums<SIZE, THREADS, scalar_t> sums;
    Patches<SIZE, THREADS> patches;
    find_pixels(patches, first, pixels, s.ho, s.wo);
    const Operand weights = {weight, s.c_out, k, k};
    product<true, true>(
        sums, (k + STEP - 1) / STEP,
        [&](scalar_t* tile, int i) {
            fetch_patches(tile, patches, x, s.c_in, i * STEP,
                          [&](const Pixel& p, int tap) { return under_tap(x, s, p, tap); });
        },
        [&](scalar_t* tile, int i) { fetch_tile<true, SIZE, THREADS>(tile, weights, first_n, i * STEP); });
    each(sums, [&](int row, int column, float sum) {
        const long long pixel = first + row;
        const int channel = first_n + column;
        if (pixel >= pixels || channel >= s.c_out) return;
        if (bias) sum += bias[channel];
        if (t) sum += load(t, pixel / ((long long)s.ho * s.wo) * s.c_out + channel);
        if (residual) sum += load(residual, pixel * s.c_out + channel);
        store(y, pixel * s.c_out + channel, sum);
    });
}

template <int SIZE, int THREADS>
DEV void dgrad(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, int n, const Shape& s) {
    const long long pixels = (long long)n * s.h * s.w;
    const Corner corner = corner_of_block<SIZE>(pixels, s.c_in);
    const long long first = corner.m;
    const int first_n = corner.n, taps = s.kh * s.kw, k = taps * s.c_out;
    Sums<SIZE, THREADS, scalar_t> sums;
    Patches<SIZE, THREADS> patches;
    find_pixels(patches, first, pixels, s.h, s.w);
    const bool aligned = aligned16(weight) && s.c_in % PACK == 0;
    product<true, false>(
        sums, (k + STEP - 1) / STEP,
        [&](scalar_t* tile, int i) {
            fetch_patches(tile, patches, dy, s.c_out, i * STEP,
                          [&](const Pixel& p, int tap) { return through_tap(dy, s, p, tap); });
        },
        [&](scalar_t* tile, int i) {
            // Rows are (tap, output channel), lines input channels.
            constexpr int CHUNKS = SIZE / PACK;
#pragma unroll
            for (int e = 0; e < STEP * CHUNKS / THREADS; e++) {
                const int at = e * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
                const int value = i * STEP + row, channel = first_n + chunk * PACK;
                const int count = value < k ? max(min(s.c_in - channel, PACK), 0) : 0;
                const long long line = (long long)(value % s.c_out) * taps + value / s.c_out;
                copy_chunk(tile + chunk_at<false, SIZE>(row, chunk), count ? weight + line * s.c_in + channel : weight,
                           count, aligned);
            }
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
    product<false, false>(
        sums, (int)((end - start + STEP - 1) / STEP),
        [&](scalar_t* tile, int i) { fetch_tile<false, SIZE, THREADS>(tile, gradients, first_m, i * STEP); },
        [&](scalar_t* tile, int i) {
            // Rows are pixels, lines (tap, input channel).
            constexpr int CHUNKS = SIZE / PACK;
#pragma unroll
            for (int e = 0; e < STEP * CHUNKS / THREADS; e++) {
                const int at = e * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
                const Pixel p = pixel_at(start + i * STEP + row, end, s.ho, s.wo);
                copy_patch(tile + chunk_at<false, SIZE>(row, chunk), x, first_n + chunk * PACK, s.c_in, aligned,
                           [&](int tap) { return under_tap(x, s, p, tap); });
            }
        });
    each(sums, [&](int row, int column, float sum) {
        if (first_m + row < s.c_out && first_n + column < width)
            dw[((long long)blockIdx.z * s.c_out + first_m + row) * width + first_n + column] = sum;
    });
}

// bias, t and residual may be missing.
KERNEL_BOUNDS(conv2d_forward_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
 const scalar_t* residual, int n, int h, int w, int c_in, int ho, int wo, int c_out, int kh, int kw, int stride, int top,
 int left, int doubled) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left, doubled};
    forward<TILE_LARGE, TILE_LARGE_THREADS>(y, x, weight, bias, t, residual, n, s);
}
KERNEL_BOUNDS(conv2d_forward_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
 const scalar_t* residual, int n, int h, int w, int c_in, int ho, int wo, int c_out, int kh, int kw, int stride, int top,
 int left, int doubled) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left, doubled};
    forward<TILE_SMALL, TILE_SMALL_THREADS>(y, x, weight, bias, t, residual, n, s);
}
KERNEL_BOUNDS(conv2d_dgrad_large, TILE_LARGE_THREADS, 2)
(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, int n, int h, int w, int c_in, int ho, int wo, int c_out,
 int kh, int kw, int stride, int top, int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left, 0};
    dgrad<TILE_LARGE, TILE_LARGE_THREADS>(dx, dy, weight, n, s);
}
KERNEL_BOUNDS(conv2d_dgrad_small, TILE_SMALL_THREADS, 4)
(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, int n, int h, int w, int c_in, int ho, int wo, int c_out,
 int kh, int kw, int stride, int top, int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left, 0};
    dgrad<TILE_SMALL, TILE_SMALL_THREADS>(dx, dy, weight, n, s);
}
// dw [slices, c_out, kh, kw, c_in] float.
KERNEL_BOUNDS(conv2d_wgrad_large, TILE_LARGE_THREADS, 2)
(float* dw, const scalar_t* dy, const scalar_t* x, int n, int slice, int h, int w, int c_in, int ho, int wo, int c_out,
 int kh, int kw, int stride, int top, int left, int doubled) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left, doubled};
    wgrad<TILE_LARGE, TILE_LARGE_THREADS>(dw, dy, x, n, slice, s);
}
KERNEL_BOUNDS(conv2d_wgrad_small, TILE_SMALL_THREADS, 4)
(float* dw, const scalar_t* dy, const scalar_t* x, int n, int slice, int h, int w, int c_in, int ho, int wo, int c_out,
 int kh, int kw, int stride, int top, int left, int doubled) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left, doubled};
    wgrad<TILE_SMALL, TILE_SMALL_THREADS>(dw, dy, x, n, slice, s);
}
