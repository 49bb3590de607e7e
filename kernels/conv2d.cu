// Convolutions over NHWC as matrix products whose patches are gathered on the way to shared memory: no im2col buffer.
//   forward   y [n, ho, wo, c_out] = sum over taps and c_in of x w + bias [c_out] + t [n, c_out] + residual
//   dgrad     dx [n, h, w, c_in] = sum over taps and c_out of dy w + bias [c_in]
//   wgrad     dw [c_out, kh, kw, c_in] = sum over pixels of dy x, in slices of pixels that sum_rows adds up in order
// w is [c_out, kh, kw, c_in]; position (oy, ox) of tap (ky, kx) is pixel (oy stride + ky - top, ox stride + kx - left) of
// x, zero outside. t is a ResNet's time embedding; no gradient has a bias, but a convolution of an upsampled image is one of
// stride 2 transposed (upsampled.cu).
//
// A block makes a tile of pixels x channels (wgrad: output channels x taps and input channels) as tile.h describes, k
// running over taps and channels, of wgrad over pixels. `tall`, `large` and `small` take channels that are multiples of a step of k
// (those of the results: of PACK): a thread's pixels stay the same, a tap moves them all by the same bytes, so that only what
// is inside of the image is found anew, once a tap. `any` takes what there is, value by value where channels are no multiple
// of PACK (c_in = 3, 4). The gradient of a convolution with a stride goes by classes of pixels with the same remainders of
// their coordinates (blockIdx.z): each meets its own taps and no others, of nine 1, 2, 2 and 4, of sixteen 4 each.
//
// Where a long k would keep few blocks busy, blockIdx.z also has slices of it (forward_split, dgrad_split), whose float sums
// sums.cu adds up.
//
// 2 n ho wo c_out kh kw c_in FLOPs each; at least the bytes of x, w and y. In 16 bits a warp issues 2.6 instructions for each
// tensor-core product, besides some 1500: bound by shared memory and tensor cores.
#include "kernel.h"
#include "tile.h"
#include "walk.h"
#include "patches.h"
#include "conv2d_any.h"

template <int ROWS, int COLUMNS, int THREADS>
DEV void forward_sums(Sums<ROWS, COLUMNS, THREADS, scalar_t>& sums, const Corner& corner, const scalar_t* x, const scalar_t* weight,
                      int lines, const Shape& s, const Slice& slice) {
    const int first = (int)corner.m, k = s.kh * s.kw * s.c_in, begun = slice.first * STEP;
    Pixels<ROWS, THREADS> pixels;
    begin(pixels, x, s.h, s.w, s.c_in, [&](int row) {
        const Pixel p = pixel_of(first + row, lines, s.ho, s.wo);
        return Pixel{p.image, p.y * s.stride - s.top, p.x * s.stride - s.left};
    });
    Walk<true, COLUMNS, THREADS> weights;
    begin(weights, {weight + begun, s.c_out, k, k}, corner.n);
    int left = 0, ky = begun / s.c_in / s.kw, kx = begun / s.c_in % s.kw;
    const auto next_tap = [&] {
        go_to(pixels, ky, kx);
        left = s.c_in;
        if (++kx == s.kw) kx = 0, ky++;
    };
    if (begun && slice.steps) {
        next_tap();
        pixels.offset += begun % s.c_in, left -= begun % s.c_in;
    }
    product<true, true>(sums, slice.steps, [&](scalar_t* tile_a, scalar_t* tile_b) {
        if (left == 0) {
            stay_a_branch();
            next_tap();
        }
        left -= STEP;
        fetch(pixels, tile_a);
        fetch(weights, tile_b, STEP);
    });
}
template <int ROWS, int COLUMNS, int THREADS>
DEV void forward(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
                 const scalar_t* residual, int n, const Shape& s) {
    const int lines = n * s.ho * s.wo;
    const Corner corner = corner_of_block<ROWS, COLUMNS>(lines, s.c_out);
    Sums<ROWS, COLUMNS, THREADS, scalar_t> sums;
    forward_sums(sums, corner, x, weight, lines, s, {0, s.kh * s.kw * s.c_in / STEP});
    const int first = (int)corner.m;
    finish(sums, y, s.c_out, corner.n, {1.f, bias, t, s.ho * s.wo, residual},
           [&](int row) { return (long long)(first + row < lines ? first + row : -1); });
}
// parts [slices, n, ho, wo, c_out]: slice blockIdx.z.
template <int ROWS, int COLUMNS, int THREADS>
DEV void forward_split(float* parts, const scalar_t* x, const scalar_t* weight, int n, const Shape& s, int slices) {
    const int lines = n * s.ho * s.wo;
    const Corner corner = corner_of_block<ROWS, COLUMNS>(lines, s.c_out);
    Sums<ROWS, COLUMNS, THREADS, scalar_t> sums;
    forward_sums(sums, corner, x, weight, lines, s, slice_of(blockIdx.z, slices, s.kh * s.kw * s.c_in / STEP));
    const int first = (int)corner.m;
    store_part(sums, parts + (long long)blockIdx.z * lines * s.c_out, s.c_out, corner.n,
               [&](int row) { return (long long)(first + row < lines ? first + row : -1); });
}

// The tile of a class of pixels that a block has. The grid has blocks for the largest class: others may have no tile for it.
struct ClassTile {
    Class rows, columns;
    int lines;
    bool there;
};
template <int ROWS, int COLUMNS> DEV ClassTile tile_of_class(int number, int n, const Shape& s) {
    const Class rows = class_of(number / s.stride, s.h, s.kh, s.stride, s.top);
    const Class columns = class_of(number % s.stride, s.w, s.kw, s.stride, s.left);
    const int lines = n * rows.pixels * columns.pixels;
    return {rows, columns, lines, blockIdx.x < (lines + ROWS - 1) / ROWS * ((s.c_in + COLUMNS - 1) / COLUMNS)};
}
// The pixel of x that a line of the class is, or -1 where there is none.
DEV long long pixel_of_class(const ClassTile& of, int line, const Shape& s) {
    if (line >= of.lines) return -1;
    if (s.stride == 1) return line;
    const Pixel p = pixel_of(line, of.lines, of.rows.pixels, of.columns.pixels);
    return ((long long)p.image * s.h + p.y * s.stride + of.rows.first) * s.w + p.x * s.stride + of.columns.first;
}
template <int ROWS, int COLUMNS, int THREADS>
DEV void dgrad_sums(Sums<ROWS, COLUMNS, THREADS, scalar_t>& sums, const Corner& corner, const scalar_t* dy, const scalar_t* weight,
                    const ClassTile& of, const Shape& s, const Slice& slice) {
    const Class rows = of.rows, columns = of.columns;
    const int first = (int)corner.m, taps = s.kh * s.kw, begun = slice.first * STEP;
    Pixels<ROWS, THREADS> pixels;
    begin(pixels, dy, s.ho, s.wo, s.c_out, [&](int row) {
        const Pixel p = pixel_of(first + row, of.lines, rows.pixels, columns.pixels);
        return Pixel{p.image, p.y + rows.position, p.x + columns.position};
    });
    // Rows of the tile are output channels of a tap, lines input channels.
    Walk<false, COLUMNS, THREADS> weights;
    begin(weights, {weight, s.c_in, s.c_out, taps * s.c_in}, corner.n);
    const scalar_t* first_weight = weights.from;
    // A class that no position reached has no taps.
    const int begun_taps = begun / s.c_out, across = max(columns.taps, 1);
    int left = 0, ky = begun_taps / across, kx = begun_taps % across;
    const auto next_tap = [&] {
        go_to(pixels, -ky, -kx);
        const int tap = (rows.first_tap + ky * s.stride) * s.kw + columns.first_tap + kx * s.stride;
        weights.from = first_weight + tap * s.c_in;
        left = s.c_out;
        if (++kx == columns.taps) kx = 0, ky++;
    };
    if (begun && slice.steps) {
        next_tap();
        const int channels = begun % s.c_out;
        pixels.offset += channels, left -= channels;
        weights.from += (long long)channels * taps * s.c_in;
    }
    product<true, false>(sums, slice.steps, [&](scalar_t* tile_a, scalar_t* tile_b) {
        if (left == 0) {
            stay_a_branch();
            next_tap();
        }
        left -= STEP;
        fetch(pixels, tile_a);
        fetch(weights, tile_b, STEP);
    });
}
template <int ROWS, int COLUMNS, int THREADS>
DEV void dgrad(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, const float* bias, int n, const Shape& s) {
    const ClassTile of = tile_of_class<ROWS, COLUMNS>(blockIdx.z, n, s);
    if (!of.there) return;
    const Corner corner = corner_of_block<ROWS, COLUMNS>(of.lines, s.c_in);
    Sums<ROWS, COLUMNS, THREADS, scalar_t> sums;
    dgrad_sums(sums, corner, dy, weight, of, s, {0, of.rows.taps * of.columns.taps * (s.c_out / STEP)});
    const int first = (int)corner.m;
    finish(sums, dx, s.c_in, corner.n, {1.f, bias, nullptr, 1, nullptr},
           [&](int row) { return pixel_of_class(of, first + row, s); });
}
// parts [slices, n, h, w, c_in]: blockIdx.z is a class and a slice of it.
template <int ROWS, int COLUMNS, int THREADS>
DEV void dgrad_split(float* parts, const scalar_t* dy, const scalar_t* weight, int n, const Shape& s, int slices) {
    const int slice = blockIdx.z % slices;
    const ClassTile of = tile_of_class<ROWS, COLUMNS>(blockIdx.z / slices, n, s);
    if (!of.there) return;
    const Corner corner = corner_of_block<ROWS, COLUMNS>(of.lines, s.c_in);
    Sums<ROWS, COLUMNS, THREADS, scalar_t> sums;
    dgrad_sums(sums, corner, dy, weight, of, s, slice_of(slice, slices, of.rows.taps * of.columns.taps * (s.c_out / STEP)));
    const int first = (int)corner.m;
    store_part(sums, parts + (long long)slice * n * s.h * s.w * s.c_in, s.c_in, corner.n,
               [&](int row) { return pixel_of_class(of, first + row, s); });
}

template <int SIZE, int THREADS>
DEV void wgrad(float* dw, const scalar_t* dy, const scalar_t* x, int n, int slice, const Shape& s) {
    const int width = s.kh * s.kw * s.c_in;
    const Corner corner = corner_of_block<SIZE, SIZE>(s.c_out, width);
    const int first_m = (int)corner.m, first_n = corner.n;
    const long long pixels = (long long)n * s.ho * s.wo, start = (long long)blockIdx.z * slice;
    const long long end = min(start + slice, pixels);
    Sums<SIZE, SIZE, THREADS, scalar_t> sums;
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
KERNEL_BOUNDS(conv2d_forward_tall, TILE_TALL_THREADS, 1)
(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
 const scalar_t* residual, int n, int h, int w, int c_in, int ho, int wo, int c_out, int kh, int kw, int stride, int top,
 int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    forward<TILE_TALL, TILE_LARGE, TILE_TALL_THREADS>(y, x, weight, bias, t, residual, n, s);
}
KERNEL_BOUNDS(conv2d_forward_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
 const scalar_t* residual, int n, int h, int w, int c_in, int ho, int wo, int c_out, int kh, int kw, int stride, int top,
 int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    forward<TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS>(y, x, weight, bias, t, residual, n, s);
}
KERNEL_BOUNDS(conv2d_forward_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
 const scalar_t* residual, int n, int h, int w, int c_in, int ho, int wo, int c_out, int kh, int kw, int stride, int top,
 int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    forward<TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS>(y, x, weight, bias, t, residual, n, s);
}
KERNEL_BOUNDS(conv2d_forward_any, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
 const scalar_t* residual, int n, int h, int w, int c_in, int ho, int wo, int c_out, int kh, int kw, int stride, int top,
 int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    forward_any<TILE_SMALL, TILE_SMALL_THREADS>(y, x, weight, bias, t, residual, n, s);
}
KERNEL_BOUNDS(conv2d_dgrad_tall, TILE_TALL_THREADS, 1)
(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, const float* bias, int n, int h, int w, int c_in, int ho, int wo,
 int c_out, int kh, int kw, int stride, int top, int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    dgrad<TILE_TALL, TILE_LARGE, TILE_TALL_THREADS>(dx, dy, weight, bias, n, s);
}
KERNEL_BOUNDS(conv2d_dgrad_large, TILE_LARGE_THREADS, 2)
(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, const float* bias, int n, int h, int w, int c_in, int ho, int wo,
 int c_out, int kh, int kw, int stride, int top, int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    dgrad<TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS>(dx, dy, weight, bias, n, s);
}
KERNEL_BOUNDS(conv2d_dgrad_small, TILE_SMALL_THREADS, 4)
(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, const float* bias, int n, int h, int w, int c_in, int ho, int wo,
 int c_out, int kh, int kw, int stride, int top, int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    dgrad<TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS>(dx, dy, weight, bias, n, s);
}
KERNEL_BOUNDS(conv2d_dgrad_any, TILE_SMALL_THREADS, 4)
(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, const float* bias, int n, int h, int w, int c_in, int ho, int wo,
 int c_out, int kh, int kw, int stride, int top, int left) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    dgrad_any<TILE_SMALL, TILE_SMALL_THREADS>(dx, dy, weight, bias, n, s);
}
// parts [slices, ..] float, which sum_slices makes y or dx of.
KERNEL_BOUNDS(conv2d_forward_split_large, TILE_LARGE_THREADS, 2)
(float* parts, const scalar_t* x, const scalar_t* weight, int n, int h, int w, int c_in, int ho, int wo, int c_out, int kh,
 int kw, int stride, int top, int left, int slices) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    forward_split<TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS>(parts, x, weight, n, s, slices);
}
KERNEL_BOUNDS(conv2d_forward_split_small, TILE_SMALL_THREADS, 4)
(float* parts, const scalar_t* x, const scalar_t* weight, int n, int h, int w, int c_in, int ho, int wo, int c_out, int kh,
 int kw, int stride, int top, int left, int slices) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    forward_split<TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS>(parts, x, weight, n, s, slices);
}
KERNEL_BOUNDS(conv2d_dgrad_split_large, TILE_LARGE_THREADS, 2)
(float* parts, const scalar_t* dy, const scalar_t* weight, int n, int h, int w, int c_in, int ho, int wo, int c_out, int kh,
 int kw, int stride, int top, int left, int slices) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    dgrad_split<TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS>(parts, dy, weight, n, s, slices);
}
KERNEL_BOUNDS(conv2d_dgrad_split_small, TILE_SMALL_THREADS, 4)
(float* parts, const scalar_t* dy, const scalar_t* weight, int n, int h, int w, int c_in, int ho, int wo, int c_out, int kh,
 int kw, int stride, int top, int left, int slices) {
    const Shape s = {h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left};
    dgrad_split<TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS>(parts, dy, weight, n, s, slices);
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
