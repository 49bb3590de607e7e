// Weights for a 3x3 convolution of an image at twice its size that never makes that image. Nearest-neighbour upsampling writes
// each pixel four times, so a pixel of the result meets 2x2 pixels of x under sums of taps; which sums depends on whether its
// row and column are even or odd. All four cases together are the transpose of a 4x4 convolution of stride 2 and padding 1:
//   y [c_in, 4, 4, c_out], y[.., ky, kx, ..] = sum of w [c_out, 3, 3, c_in] over taps(ky) and taps(kx),
//   taps(0) = {2}, taps(1) = {1, 2}, taps(2) = {0, 1}, taps(3) = {0}
// With y, the input gradient of that convolution (conv2d_dgrad) is the upsampled one, whose own input gradient is
// conv2d_forward: 4 products a pixel of the result where there were 9. Sums are float and rounded once, to the storage type.
//
// A block has 32 output channels of 32 input channels, which it turns round in shared memory. 25 c_in c_out values are moved:
// bound by memory.
#include "kernel.h"

CONSTANT(UPSAMPLED_THREADS, 256);
CONSTANT(UPSAMPLED_SIDE, 32);

KERNEL_BOUNDS(upsampled_taps, UPSAMPLED_THREADS, 4)(scalar_t* y, const scalar_t* w, int c_out, int c_in) {
    constexpr int SIDE = UPSAMPLED_SIDE, TAPS = 9, AT_ONCE = UPSAMPLED_THREADS / SIDE;
    // Of each output channel its taps, a row of input channels each. Neighbouring output channels are 9 x 33 values apart: in
    // different banks.
    SHARED_ARRAY(float, taps, SIDE * TAPS * (SIDE + 1));
    const int lane = threadIdx.x % SIDE, first_row = threadIdx.x / SIDE;
    const int first_out = blockIdx.x * SIDE, first_in = blockIdx.y * SIDE;
    for (int row = first_row; row < SIDE * TAPS; row += AT_ONCE) {
        const bool there = first_out + row / TAPS < c_out && first_in + lane < c_in;
        const long long at = ((long long)first_out * TAPS + row) * c_in + first_in + lane;
        taps[row * (SIDE + 1) + lane] = there ? load(w, at) : 0.f;
    }
    __syncthreads();
    if (first_out + lane >= c_out) return;
    for (int row = first_row; row < SIDE && first_in + row < c_in; row += AT_ONCE) {
        float across[3][4];
#pragma unroll
        for (int ky = 0; ky < 3; ky++) {
            const float* of = taps + (lane * TAPS + ky * 3) * (SIDE + 1) + row;
            const float left = of[0], middle = of[SIDE + 1], right = of[2 * (SIDE + 1)];
            across[ky][0] = right, across[ky][1] = middle + right, across[ky][2] = left + middle, across[ky][3] = left;
        }
        scalar_t* to = y + (long long)(first_in + row) * 16 * c_out + first_out + lane;
#pragma unroll
        for (int kx = 0; kx < 4; kx++) {
            store(to, (0 + kx) * (size_t)c_out, across[2][kx]);
            store(to, (4 + kx) * (size_t)c_out, across[1][kx] + across[2][kx]);
            store(to, (8 + kx) * (size_t)c_out, across[0][kx] + across[1][kx]);
            store(to, (12 + kx) * (size_t)c_out, across[0][kx]);
        }
    }
}
