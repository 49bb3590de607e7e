// Linear combinations of tensors and of each other, each limited to a range:
//   y_l = limit_l(sum_i c_li x_i + sum_{k < l} d_lk y_k)
// A sampler step is one launch: guidance, u + s (c - u) (Ho & Salimans 2022, arXiv:2207.12598), the clean image in it, and
// the next sample from that and from earlier steps.
// A block covers blockDim.x * PACK neighbouring values, a thread one pack of all lines.
// (inputs + lines) sizeof(scalar_t) bytes and 2 FLOPs for each coefficient a value: bound by memory.
#include "kernel.h"

CONSTANT(COMBINE_THREADS, 256);
// The most that one launch takes and makes.
CONSTANT(COMBINE_INPUTS, 8);
CONSTANT(COMBINE_LINES, 4);
// Of a line: COMBINE_INPUTS of c, one of d for each line before it, zeros, and at the end the limit of its size.
CONSTANT(COMBINE_NUMBERS, 12);
static_assert(COMBINE_NUMBERS == COMBINE_INPUTS + COMBINE_LINES, "the last line has no coefficient, but a limit");

DEV void add_multiple(float (&sum)[PACK], float c, const float (&v)[PACK]) {
    if (c == 0.f) return;  // so that infinity stays in the lines that it enters
#pragma unroll
    for (int j = 0; j < PACK; j++) sum[j] += c * v[j];
}

// y [lines, n]; numbers [COMBINE_LINES, COMBINE_NUMBERS]; x from number `inputs` on may be missing.
KERNEL_BOUNDS(combine, COMBINE_THREADS, 4)
(scalar_t* y, const float* numbers, const scalar_t* x0, const scalar_t* x1, const scalar_t* x2, const scalar_t* x3,
 const scalar_t* x4, const scalar_t* x5, const scalar_t* x6, const scalar_t* x7, int inputs, int lines, long long n) {
    const scalar_t* const x[COMBINE_INPUTS] = {x0, x1, x2, x3, x4, x5, x6, x7};
    const long long at = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * PACK;
    float sums[COMBINE_LINES][PACK] = {};
#pragma unroll
    for (int i = 0; i < COMBINE_INPUTS; i++) {
        if (i >= inputs) continue;
        float v[PACK];
        load_pack(v, x[i] + at, n - at);
#pragma unroll
        for (int l = 0; l < COMBINE_LINES; l++) add_multiple(sums[l], numbers[l * COMBINE_NUMBERS + i], v);
    }
#pragma unroll
    for (int l = 0; l < COMBINE_LINES; l++) {
        if (l >= lines) continue;
        const float* line = numbers + l * COMBINE_NUMBERS;
#pragma unroll
        for (int k = 0; k < l; k++) add_multiple(sums[l], line[COMBINE_INPUTS + k], sums[k]);
        const float limit = line[COMBINE_NUMBERS - 1];
#pragma unroll
        for (int j = 0; j < PACK; j++) sums[l][j] = sums[l][j] < -limit ? -limit : sums[l][j] > limit ? limit : sums[l][j];
        store_pack(y + l * n + at, sums[l], n - at);
    }
}
