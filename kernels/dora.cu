// Weight-decomposed LoRA (Liu et al. 2024, arXiv:2402.09353): the rows of a layer's changed weight and their lengths
//   norm[o] = |weight[o] + scale b[o] a|                    weight [out, width], a [rank, width], b [out, rank]
//   y = z magnitude / norm + bias + residual                by channel of z [rows, out]; a norm of 0 gives 0 instead of z
//   dmagnitude[o] = sum over rows of dy z / norm[o]         the norm is a constant (section 4.3 there)
// The gradient of z is the second line for dy, without bias and residual.
//
// dora_norms: a block has ROWS rows of the weight and passes over their columns 256 at a time, with slices of b in shared memory, so that
// an element of a is read from L2 once for ROWS rows. 2 rank FLOPs and sizeof(scalar_t) bytes a value of the weight; bound by arithmetic
// from about rank 8 on. dora_scale: a thread a pack, at least 2 sizeof(scalar_t) bytes a value. dora_products: a thread a column of a
// slab of rows, in their order.
#include "kernel.h"
#include "reduce.h"

CONSTANT(DORA_THREADS, 256);
CONSTANT(DORA_ROWS, 8);

KERNEL_BOUNDS(dora_norms, DORA_THREADS, 4)
(float* norm, const scalar_t* weight, const scalar_t* a, const scalar_t* b, int out, int width, int rank, float scale) {
    constexpr int SLICE = 64;
    SHARED_ARRAY(float, scaled_b, SLICE * DORA_ROWS);
    const int first = blockIdx.x * DORA_ROWS, thread = threadIdx.x;
    float squares[DORA_ROWS] = {};
    for (int start = 0; start < width; start += DORA_THREADS) {
        const int column = start + thread;
        float value[DORA_ROWS] = {};
        if (column < width) {
#pragma unroll
            for (int i = 0; i < DORA_ROWS; i++)
                if (first + i < out) value[i] = load(weight, (size_t)(first + i) * width + column);
        }
        for (int slice = 0; slice < rank; slice += SLICE) {
            const int length = min(SLICE, rank - slice);
            __syncthreads();
            for (int i = thread; i < length * DORA_ROWS; i += DORA_THREADS) {
                const int row = first + i % DORA_ROWS, k = slice + i / DORA_ROWS;
                scaled_b[i] = row < out ? scale * load(b, (size_t)row * rank + k) : 0.f;
            }
            __syncthreads();
            if (column >= width) continue;
            for (int k = 0; k < length; k++) {
                const float x = load(a, (size_t)(slice + k) * width + column);
#pragma unroll
                for (int i = 0; i < DORA_ROWS; i++) value[i] = fmaf(scaled_b[k * DORA_ROWS + i], x, value[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < DORA_ROWS; i++) squares[i] = fmaf(value[i], value[i], squares[i]);
    }
#pragma unroll
    for (int i = 0; i < DORA_ROWS; i++) {
        const float sum = block_sum(squares[i]);
        if (thread == 0 && first + i < out) norm[first + i] = sqrtf(sum);
    }
}

// bias and residual may be missing.
KERNEL_BOUNDS(dora_scale, DORA_THREADS, 4)
(scalar_t* y, const scalar_t* z, const float* magnitude, const float* norm, const float* bias, const scalar_t* residual,
 long long rows, int out) {
    long long row;
    int column;
    if (!row_of_thread(rows, out, row, column)) return;
    const long long at = row * out + column;
    const int left = out - column;
    float values[PACK], factors[PACK], norms[PACK], more[PACK];
    load_pack(values, z + at, left);
    load_floats(factors, magnitude + column, left);
    load_floats(norms, norm + column, left);
#pragma unroll
    for (int i = 0; i < PACK; i++) values[i] *= norms[i] > 0.f ? factors[i] / norms[i] : 0.f;
    if (bias) {
        load_floats(more, bias + column, left);
#pragma unroll
        for (int i = 0; i < PACK; i++) values[i] += more[i];
    }
    if (residual) {
        load_pack(more, residual + at, left);
#pragma unroll
        for (int i = 0; i < PACK; i++) values[i] += more[i];
    }
    store_pack(y + at, values, left);
}

// parts [slabs, out]: the sums over slabs of slab_rows rows.
KERNEL_BOUNDS(dora_products, DORA_THREADS, 4)
(float* parts, const scalar_t* dy, const scalar_t* z, const float* norm, long long rows, int out, int slab_rows) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= out) return;
    const long long first = (long long)blockIdx.y * slab_rows, end = min(first + slab_rows, rows);
    float sum = 0.f;
    for (long long row = first; row < end; row++) sum = fmaf(load(dy, row * out + column), load(z, row * out + column), sum);
    parts[(long long)blockIdx.y * out + column] = norm[column] > 0.f ? sum / norm[column] : 0.f;
}
