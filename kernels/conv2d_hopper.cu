// The convolutions of conv2d.cu over NHWC on compute capability 9.0, by tensor maps and wgmma (pipeline.h):
//   conv2d_forward_hopper   y [n, ho, wo, c_out] = sum over taps and c_in of x w + bias [c_out] + t [n, c_out] + residual
//   conv2d_dgrad_hopper     dx [n, h, w, c_in] = sum over taps and c_out of dy w + bias [c_in], for stride 1
// w is [c_out, kh, kw, c_in]; the sums run over taps, then channels, in conv2d.cu's order.
//
// A line of the product is a pixel of the result. Its patch comes through a map of patches (PTX ISA 8.0, im2col mode): the copy
// walks over the pixels that the first tap may be at, in lines of the result, and moves each by the tap; what is outside of the
// image, or behind the last one, is zeros. So no thread knows where a pixel lies. A gradient is the same walk over dy with the
// taps turned round; its weights have their columns, input channels, side by side in memory.
//
// A block makes tiles of 256 pixels x 160 channels. 2 n ho wo c_out kh kw c_in FLOPs; a tile reads 53,248 bytes for 64 channels
// of a tap: 98 FLOPs a byte from L2. A warp that multiplies issues some 8 instructions for each wgmma: tensor cores are the limit.
//
// Channels are multiples of 8, pixels are below 2^31, and all memory begins at multiples of 16 bytes.
#include "kernel.h"
#include "hopper.h"
#include "pipeline.h"

// Of the result: size of an image, and where the walk over the other tensor begins for its first pixel.
struct Walked {
    int height, width, stride, top, left;
};
// `turned`: the first tap is the last one of the walk.
template <bool B_ROWS, bool TURNED>
DEV void convolve(scalar_t* y, const TensorMap& patches, const TensorMap& weights, const Finish& with, int images, int channels,
                  int columns, int kh, int kw, const Walked& over) {
    const int m = images * over.height * over.width, of_tap = (channels + PIPE_STEP - 1) / PIPE_STEP, steps = kh * kw * of_tap;
    pipeline(
        m, columns,
        [&](const Ring& ring, Turn& turn, const PipeCorner& corner) {
            const int row = corner.m / over.width, image = row / over.height;
            const int y = row % over.height * over.stride + over.top, x = corner.m % over.width * over.stride + over.left;
            for (int tap = 0; tap < kh * kw; tap++) {
                const int ky = tap / kw, kx = tap % kw;
                for (int c = 0; c < of_tap * PIPE_STEP; c += PIPE_STEP)
                    fill(ring, turn, [&](unsigned char* tile_a, unsigned char* tile_b, Barrier* full) {
                        load_patches(tile_a, patches, full, c, x, y, image, TURNED ? kw - 1 - kx : kx, TURNED ? kh - 1 - ky : ky);
                        if (B_ROWS) {
                            load_box(tile_b, weights, full, c, tap, corner.n);
                        } else {
#pragma unroll
                            for (int j = 0; j < PIPE_COLUMNS; j += PIPE_BOX_COLUMNS)
                                load_box(tile_b + j * PIPE_STEP * 2, weights, full, corner.n + j, tap, c);
                        }
                    });
            }
        },
        [&](const Ring& ring, Turn& turn, int group, const PipeCorner& corner) {
            PipeSums sums;
            const Operands<B_ROWS> tiles = operands<B_ROWS>(ring, group);
#pragma unroll 1
            for (int i = 0; i < steps; i++) take(sums, ring, turn, tiles);
            finish(sums, ring, y, columns, corner.n, with,
                   [&](int row) { return corner.m + row < m ? (long long)corner.m + row : -1; });
        });
}

// bias, t and residual may be missing. top, left: zeros before the image. The map's bounds are those of the first tap.
KERNEL_BOUNDS(conv2d_forward_hopper, PIPE_THREADS, 1)
(scalar_t* y, TENSOR_MAP x, TENSOR_MAP weight, const float* bias, const scalar_t* t, const scalar_t* residual, int n, int c_in,
 int ho, int wo, int c_out, int kh, int kw, int stride, int top, int left) {
    convolve<true, false>(y, x, weight, {1.f, bias, t, (unsigned)(ho * wo), residual}, n, c_in, c_out, kh, kw, {ho, wo, stride, -top, -left});
}
KERNEL_BOUNDS(conv2d_dgrad_hopper, PIPE_THREADS, 1)
(scalar_t* dx, TENSOR_MAP dy, TENSOR_MAP weight, const float* bias, int n, int h, int w, int c_in, int c_out, int kh, int kw,
 int top, int left) {
    convolve<false, true>(dx, dy, weight, {1.f, bias, nullptr, 1, nullptr}, n, c_out, c_in, kh, kw,
                          {h, w, 1, top - (kh - 1), left - (kw - 1)});
}
