// Pointwise ops and their gradients: y = f(x) and dx = dy f'(x), each value for itself.
//   silu        x s(x),            s the logistic function        (Elfwing et al. 2017, arXiv:1702.03118)
//   gelu        as in gelu.h
//   quick_gelu  x s(1.702 x)                                      (Hendrycks & Gimpel 2016, arXiv:1606.08415)
//   geglu       v gelu(g) of rows [v, g] of twice the width       (Shazeer 2020, arXiv:2002.05202)
// A block covers blockDim.x * PACK neighbouring values of the result, a thread one pack of them.
// Bytes a value of the result, with b = sizeof(scalar_t): one input 2b, two inputs (gradients, add) 3b, geglu 3b forward
// and 5b backward. Some 10 to 40 FLOPs a value: bound by memory everywhere.
#include "kernel.h"
#include "gelu.h"

CONSTANT(ELEMENTWISE_THREADS, 256);

DEV float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }
DEV float silu(float x) { return x * sigmoid(x); }
// s + x s (1 - s)
DEV float silu_slope(float x) {
    const float s = sigmoid(x);
    return s * (1.f + x * (1.f - s));
}
constexpr float QUICK = 1.702f;
DEV float quick_gelu(float x) { return x * sigmoid(QUICK * x); }
// x s(ax) is silu(ax) / a, so its slope is silu's at ax.
DEV float quick_gelu_slope(float x) { return silu_slope(QUICK * x); }

DEV long long first_value() { return ((long long)blockIdx.x * blockDim.x + threadIdx.x) * PACK; }

// y[i] = f(x[i])
template <class F> DEV void map(scalar_t* y, const scalar_t* x, long long n, F f) {
    const long long i = first_value();
    float v[PACK];
    load_pack(v, x + i, n - i);
#pragma unroll
    for (int j = 0; j < PACK; j++) v[j] = f(v[j]);
    store_pack(y + i, v, n - i);
}
// y[i] = f(a[i], b[i])
template <class F> DEV void zip(scalar_t* y, const scalar_t* a, const scalar_t* b, long long n, F f) {
    const long long i = first_value();
    float v[PACK], w[PACK];
    load_pack(v, a + i, n - i);
    load_pack(w, b + i, n - i);
#pragma unroll
    for (int j = 0; j < PACK; j++) v[j] = f(v[j], w[j]);
    store_pack(y + i, v, n - i);
}

KERNEL_BOUNDS(silu_forward, ELEMENTWISE_THREADS, 4)(scalar_t* y, const scalar_t* x, long long n) {
    map(y, x, n, [](float x) { return silu(x); });
}
KERNEL_BOUNDS(silu_backward, ELEMENTWISE_THREADS, 4)
(scalar_t* dx, const scalar_t* dy, const scalar_t* x, long long n) {
    zip(dx, dy, x, n, [](float dy, float x) { return dy * silu_slope(x); });
}
KERNEL_BOUNDS(gelu_forward, ELEMENTWISE_THREADS, 4)(scalar_t* y, const scalar_t* x, long long n) {
    map(y, x, n, [](float x) { return gelu(x); });
}
KERNEL_BOUNDS(gelu_backward, ELEMENTWISE_THREADS, 4)
(scalar_t* dx, const scalar_t* dy, const scalar_t* x, long long n) {
    zip(dx, dy, x, n, [](float dy, float x) { return dy * gelu_slope(x); });
}
KERNEL_BOUNDS(quick_gelu_forward, ELEMENTWISE_THREADS, 4)(scalar_t* y, const scalar_t* x, long long n) {
    map(y, x, n, [](float x) { return quick_gelu(x); });
}
KERNEL_BOUNDS(quick_gelu_backward, ELEMENTWISE_THREADS, 4)
(scalar_t* dx, const scalar_t* dy, const scalar_t* x, long long n) {
    zip(dx, dy, x, n, [](float dy, float x) { return dy * quick_gelu_slope(x); });
}
KERNEL_BOUNDS(add_forward, ELEMENTWISE_THREADS, 4)(scalar_t* z, const scalar_t* x, const scalar_t* y, long long n) {
    zip(z, x, y, n, [](float x, float y) { return x + y; });
}
KERNEL_BOUNDS(scale_forward, ELEMENTWISE_THREADS, 4)(scalar_t* y, const scalar_t* x, long long n, float factor) {
    map(y, x, n, [factor](float x) { return factor * x; });
}
// NaN stays.
KERNEL_BOUNDS(clamp_forward, ELEMENTWISE_THREADS, 4)
(scalar_t* y, const scalar_t* x, long long n, float low, float high) {
    map(y, x, n, [low, high](float x) { return x < low ? low : x > high ? high : x; });
}

// Rounding to the storage type, and back.
KERNEL_BOUNDS(cast_from_float, ELEMENTWISE_THREADS, 4)(scalar_t* y, const float* x, long long n) {
    const long long i = first_value();
    float v[PACK];
    load_floats(v, x + i, n - i);
    store_pack(y + i, v, n - i);
}
KERNEL_BOUNDS(cast_to_float, ELEMENTWISE_THREADS, 4)(float* y, const scalar_t* x, long long n) {
    const long long i = first_value();
    float v[PACK];
    load_pack(v, x + i, n - i);
    store_floats(y + i, v, n - i);
}

// x [rows, 2 width] -> y [rows, width]
KERNEL_BOUNDS(geglu_forward, ELEMENTWISE_THREADS, 4)(scalar_t* y, const scalar_t* x, long long rows, int width) {
    long long row;
    int column;
    if (!row_of_thread(rows, width, row, column)) return;
    const int left = width - column;
    float value[PACK], gate[PACK];
    load_pack(value, x + row * 2 * width + column, left);
    load_pack(gate, x + row * 2 * width + width + column, left);
#pragma unroll
    for (int j = 0; j < PACK; j++) value[j] *= gelu(gate[j]);
    store_pack(y + row * width + column, value, left);
}
KERNEL_BOUNDS(geglu_backward, ELEMENTWISE_THREADS, 3)
(scalar_t* dx, const scalar_t* dy, const scalar_t* x, long long rows, int width) {
    long long row;
    int column;
    if (!row_of_thread(rows, width, row, column)) return;
    const int left = width - column;
    float value[PACK], gate[PACK], grad[PACK], d_gate[PACK];
    load_pack(value, x + row * 2 * width + column, left);
    load_pack(gate, x + row * 2 * width + width + column, left);
    load_pack(grad, dy + row * width + column, left);
#pragma unroll
    for (int j = 0; j < PACK; j++) {
        const Gelu at = gelu_and_slope(gate[j]);
        d_gate[j] = grad[j] * value[j] * at.slope;
        value[j] = grad[j] * at.gelu;
    }
    store_pack(dx + row * 2 * width + column, value, left);
    store_pack(dx + row * 2 * width + width + column, d_gate, left);
}

// y [n, pixels, c] = x + t [n, c]
KERNEL_BOUNDS(add_channel_bias_forward, ELEMENTWISE_THREADS, 4)
(scalar_t* y, const scalar_t* x, const scalar_t* t, long long rows, int pixels, int c) {
    long long row;
    int column;
    if (!row_of_thread(rows, c, row, column)) return;
    const int left = c - column;
    float v[PACK], w[PACK];
    load_pack(v, x + row * c + column, left);
    load_pack(w, t + row / pixels * c + column, left);
#pragma unroll
    for (int j = 0; j < PACK; j++) v[j] += w[j];
    store_pack(y + row * c + column, v, left);
}
