// Pooling over windows of [n, h, w, c], forward and backward. Pixels outside of the image do not count: a maximum never
// takes one, and a mean divides by the pixels that are inside (torch's count_include_pad = False).
//
// A thread has a pack of the channels of one pixel: of the result, or in the gradient of x. The gradient gathers from the
// windows that hold the pixel, so that no two threads add to one value. Of equal values in a window the first in reading
// order is the maximum. With k pixels a window and s strides, a value of the result reads k values and a value of the
// gradient k / s^2 windows (of k values each for the maximum): bound by memory, with the windows' overlaps in the cache.
#include "kernel.h"

CONSTANT(POOL_THREADS, 256);

// Windows along one axis: the first pixel inside and the first past it.
DEV int window_begin(int o, int stride, int padding) { return max(o * stride - padding, 0); }
DEV int window_end(int o, int stride, int padding, int kernel, int size) {
    return min(o * stride - padding + kernel, size);
}
// The first and last window that holds pixel i.
DEV int first_window(int i, int stride, int padding, int kernel) {
    const int from = i + padding - kernel + 1;
    return from <= 0 ? 0 : (from + stride - 1) / stride;
}
DEV int last_window(int i, int stride, int padding, int windows) { return min((i + padding) / stride, windows - 1); }

KERNEL_BOUNDS(max_pool2d, POOL_THREADS, 4)
(scalar_t* y, const scalar_t* x, long long rows, int h, int w, int c, int ho, int wo, int kh, int kw, int stride,
 int top, int left) {
    long long row;
    int column;
    if (!row_of_thread(rows, c, row, column)) return;
    const int ox = int(row % wo), oy = int(row / wo % ho);
    const long long image = row / wo / ho;
    const int rest = c - column;
    float best[PACK];
#pragma unroll
    for (int j = 0; j < PACK; j++) best[j] = -INFINITY;
    for (int iy = window_begin(oy, stride, top); iy < window_end(oy, stride, top, kh, h); iy++)
        for (int ix = window_begin(ox, stride, left); ix < window_end(ox, stride, left, kw, w); ix++) {
            float values[PACK];
            load_pack(values, x + ((image * h + iy) * w + ix) * c + column, rest);
#pragma unroll
            for (int j = 0; j < PACK; j++)
                if (values[j] > best[j] || values[j] != values[j]) best[j] = values[j];
        }
    store_pack(y + row * c + column, best, rest);
}

KERNEL_BOUNDS(max_pool2d_backward, POOL_THREADS, 4)
(scalar_t* dx, const scalar_t* dy, const scalar_t* x, long long rows, int h, int w, int c, int ho, int wo, int kh,
 int kw, int stride, int top, int left) {
    long long row;
    int column;
    if (!row_of_thread(rows, c, row, column)) return;
    const int px = int(row % w), py = int(row / w % h);
    const long long image = row / w / h;
    const int rest = c - column;
    float sum[PACK];
#pragma unroll
    for (int j = 0; j < PACK; j++) sum[j] = 0.f;
    for (int oy = first_window(py, stride, top, kh); oy <= last_window(py, stride, top, ho); oy++)
        for (int ox = first_window(px, stride, left, kw); ox <= last_window(px, stride, left, wo); ox++) {
            float best[PACK], gradient[PACK];
            bool is_here[PACK];
#pragma unroll
            for (int j = 0; j < PACK; j++) best[j] = -INFINITY, is_here[j] = false;
            for (int iy = window_begin(oy, stride, top); iy < window_end(oy, stride, top, kh, h); iy++)
                for (int ix = window_begin(ox, stride, left); ix < window_end(ox, stride, left, kw, w); ix++) {
                    float values[PACK];
                    load_pack(values, x + ((image * h + iy) * w + ix) * c + column, rest);
#pragma unroll
                    for (int j = 0; j < PACK; j++)
                        if (values[j] > best[j] || values[j] != values[j])
                            best[j] = values[j], is_here[j] = iy == py && ix == px;
                }
            load_pack(gradient, dy + ((image * ho + oy) * wo + ox) * c + column, rest);
#pragma unroll
            for (int j = 0; j < PACK; j++) sum[j] += is_here[j] ? gradient[j] : 0.f;
        }
    store_pack(dx + row * c + column, sum, rest);
}

KERNEL_BOUNDS(avg_pool2d, POOL_THREADS, 4)
(scalar_t* y, const scalar_t* x, long long rows, int h, int w, int c, int ho, int wo, int kh, int kw, int stride,
 int top, int left) {
    long long row;
    int column;
    if (!row_of_thread(rows, c, row, column)) return;
    const int ox = int(row % wo), oy = int(row / wo % ho);
    const long long image = row / wo / ho;
    const int rest = c - column;
    const int y0 = window_begin(oy, stride, top), y1 = window_end(oy, stride, top, kh, h);
    const int x0 = window_begin(ox, stride, left), x1 = window_end(ox, stride, left, kw, w);
    float sum[PACK];
#pragma unroll
    for (int j = 0; j < PACK; j++) sum[j] = 0.f;
    for (int iy = y0; iy < y1; iy++)
        for (int ix = x0; ix < x1; ix++) {
            float values[PACK];
            load_pack(values, x + ((image * h + iy) * w + ix) * c + column, rest);
#pragma unroll
            for (int j = 0; j < PACK; j++) sum[j] += values[j];
        }
    const float count = float((y1 - y0) * (x1 - x0));
#pragma unroll
    for (int j = 0; j < PACK; j++) sum[j] /= count;
    store_pack(y + row * c + column, sum, rest);
}

KERNEL_BOUNDS(avg_pool2d_backward, POOL_THREADS, 4)
(scalar_t* dx, const scalar_t* dy, long long rows, int h, int w, int c, int ho, int wo, int kh, int kw, int stride,
 int top, int left) {
    long long row;
    int column;
    if (!row_of_thread(rows, c, row, column)) return;
    const int px = int(row % w), py = int(row / w % h);
    const long long image = row / w / h;
    const int rest = c - column;
    float sum[PACK];
#pragma unroll
    for (int j = 0; j < PACK; j++) sum[j] = 0.f;
    for (int oy = first_window(py, stride, top, kh); oy <= last_window(py, stride, top, ho); oy++)
        for (int ox = first_window(px, stride, left, kw); ox <= last_window(px, stride, left, wo); ox++) {
            const int high = window_end(oy, stride, top, kh, h) - window_begin(oy, stride, top);
            const int wide = window_end(ox, stride, left, kw, w) - window_begin(ox, stride, left);
            const float count = float(high * wide);
            float gradient[PACK];
            load_pack(gradient, dy + ((image * ho + oy) * wo + ox) * c + column, rest);
#pragma unroll
            for (int j = 0; j < PACK; j++) sum[j] += gradient[j] / count;
        }
    store_pack(dx + row * c + column, sum, rest);
}
