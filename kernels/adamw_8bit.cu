// AdamW (optimizer.cu) with both moments in 8 bits a value, in blocks of MOMENT_BLOCK values with a scale each (Dettmers et
// al. 2022, arXiv:2110.02861, section 2): a code is an index into 256 ascending shares of the scale, the largest magnitude
// of its block. A step reads a block, computes in float, and rounds the block to the nearest codes of its new scale.
//
// A warp has one block, a thread eight neighbouring values of it and their codes in one word of each moment. 8 bytes are
// read and 4 written a parameter, 2 each way of moments, and sizeof(scalar_t) for its copy in compute precision: bound by
// memory, which the searches for the nearest codes hide behind.
#include "kernel.h"

CONSTANT(MOMENT_BLOCK, 256);
CONSTANT(MOMENT_THREADS, 256);

constexpr int EACH = MOMENT_BLOCK / 32, CODES = 256;

// The code whose value is nearest to x; of two the lower.
DEV int nearest_code(const float* values, float x) {
    int low = 0;
#pragma unroll
    for (int step = CODES / 2; step; step /= 2)
        if (values[low + step] <= x) low += step;
    return low < CODES - 1 && values[low + 1] - x < x - values[low] ? low + 1 : low;
}

// Eight codes of moments x, of a block whose largest magnitude is `scale`. A mean of squares above 0 does not become 0.
DEV unsigned long long codes_of(const float* values, const float (&x)[EACH], float scale, bool squares) {
    const int zero = nearest_code(values, 0.f);
    unsigned long long word = 0;
#pragma unroll
    for (int j = 0; j < EACH; j++) {
        int code = scale > 0.f ? nearest_code(values, x[j] / scale) : zero;
        if (squares && code == zero && x[j] > 0.f) code = zero + 1;
        word |= (unsigned long long)code << (8 * j);
    }
    return word;
}

// p, copy and g [n]; m and v [blocks * 32] with their scales [blocks]; values [2, 256]: what codes of m and of v mean. rates
// and clip as for adamw (optimizer.cu). Nothing changes where clip[0] is 0.
KERNEL_BOUNDS(adamw_8bit, MOMENT_THREADS, 2)
(float* p, long long* m, float* m_scales, long long* v, float* v_scales, scalar_t* copy, const float* g,
 const float* values, const float* rates, const float* clip, long long n, float keep_first, float take_first,
 float keep_second, float take_second, float eps) {
    SHARED_ARRAY(float, shared, 2 * CODES);
    for (int i = threadIdx.x; i < 2 * CODES; i += blockDim.x) shared[i] = values[i];
    __syncthreads();
    const float *firsts = shared, *seconds = shared + CODES;
    const float decay = rates[0], rate = rates[1], root = rates[2], factor = clip[0];
    const long long block = (long long)blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (factor == 0.f || block * MOMENT_BLOCK >= n) return;
    const int lane = threadIdx.x % 32;
    const long long at = block * 32 + lane, first = at * EACH;
    const unsigned long long m_word = m[at], v_word = v[at];
    float m_scale = m_scales[block], v_scale = v_scales[block], first_moments[EACH], second_moments[EACH];
    float m_most = 0.f, v_most = 0.f;
#pragma unroll
    for (int j = 0; j < EACH; j++) {
        const long long i = first + j;
        const float gradient = i < n ? g[i] * factor : 0.f;
        const float mean = keep_first * (firsts[m_word >> (8 * j) & 255] * m_scale) + take_first * gradient;
        const float square =
            keep_second * (seconds[v_word >> (8 * j) & 255] * v_scale) + take_second * (gradient * gradient);
        if (i < n) {
            p[i] = p[i] * decay - rate * (mean / (sqrtf(square) / root + eps));
            store(copy, i, p[i]);
        }
        first_moments[j] = mean, second_moments[j] = square;
        m_most = fmaxf(m_most, fabsf(mean)), v_most = fmaxf(v_most, square);
    }
    m_scale = warp_max(m_most), v_scale = warp_max(v_most);
    m[at] = codes_of(firsts, first_moments, m_scale, false);
    v[at] = codes_of(seconds, second_moments, v_scale, true);
    if (lane == 0) m_scales[block] = m_scale, v_scales[block] = v_scale;
}
