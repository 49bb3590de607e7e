// Scaled dot-product attention without the scores in memory (Dao et al. 2022, arXiv:2205.14135; online softmax: Milakov
// & Gimelshein 2018, arXiv:1805.02867). For each of the heads side by side in the channels of q [n, tq, c], k and v
// [n, tk, c]:
//   y_i = sum_j p_ij v_j,   p_ij = exp(s_ij - lse_i),   s_ij = q_i k_j / sqrt(size),   lse_i = log sum_j exp(s_ij)
// With `causal`, row i sees keys 0 to i. lse [n, heads, tq] is kept for the backward pass.
//
// A block has ATTENTION_ROWS queries a warp of one head, which it keeps in shared memory, and walks along the keys in
// tiles of ATTENTION_TILE. After each tile a row's maximum m may grow; what was summed up so far is then scaled by
// 2^(old - new). Scores are kept in powers of two. The kernel's name says up to which size of a head it goes.
//
// 4 n heads tq tk size FLOPs and n heads tq tk exponentials; at least 4 n tq c sizeof(scalar_t) bytes for tq = tk. The
// keys are read once for each block of queries, from L2 but for the first time.
#include "kernel.h"
#include "attention.h"

// Dynamic shared memory: a row of Head<D> for each query and 2 TILE keys, then SCRATCH floats a warp.
template <int D>
DEV void forward(scalar_t* y, float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v, int tq, int tk,
                 int heads, int size, int causal) {
    DYN_SHARED(scalar_t, shared);
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, rows = warps * ATTENTION_ROWS;
    scalar_t* queries = shared;
    scalar_t* keys = queries + rows * Head<D>::STRIDE;
    scalar_t* values = keys + TILE * Head<D>::STRIDE;
    float* scratch = reinterpret_cast<float*>(values + TILE * Head<D>::STRIDE) + warp * SCRATCH;
    const int first = blockIdx.x * rows, mine = first + warp * ATTENTION_ROWS;
    const Tokens from_q = tokens_of(q, tq, heads, size);
    const Tokens from_k = tokens_of(k, tk, heads, size), from_v = tokens_of(v, tk, heads, size);
    const float scale = LOG2_E * rsqrtf((float)size);

    fetch_tokens<D>(queries, from_q, first, rows);
    float sums[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {};
    const int end = causal ? min(tk, first + rows) : tk;
    for (int start = 0; start < end; start += TILE) {
        __syncthreads();  // everybody has done with the tile before
        fetch_tokens<D>(keys, from_k, start, TILE);
        fetch_tokens<D>(values, from_v, start, TILE);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        float p[TILE / 8][4] = {};
        dot<D>(p, queries + warp * ATTENTION_ROWS * Head<D>::STRIDE, keys);
        float largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int key = start + j * 8 + lane % 4 * 2 + e % 2, query = mine + lane / 4 + e / 2 * 8;
                p[j][e] = key < tk && (!causal || key <= query) ? p[j][e] * scale : -INFINITY;
                largest[e / 2] = fmaxf(largest[e / 2], p[j][e]);
            }
        float shrink[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            // Finite from the first tile on: every row sees key 0.
            const float now = fmaxf(most[h], row_max(largest[h]));
            shrink[h] = exp2f(most[h] - now);
            most[h] = now;
            total[h] *= shrink[h];
        }
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                p[j][e] = exp2f(p[j][e] - most[e / 2]);
                total[e / 2] += p[j][e];
            }
#pragma unroll
        for (int j = 0; j < D / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sums[j][e] *= shrink[e / 2];
        weigh<D>(sums, p, values, scratch);
    }
    float factors[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        total[h] = row_sum(total[h]);
        factors[h] = 1.f / total[h];
        const int query = mine + lane / 4 + h * 8;
        if (lane % 4 == 0 && query < tq)
            lse[((long long)blockIdx.z * heads + blockIdx.y) * tq + query] = (most[h] + log2f(total[h])) * LN_2;
    }
    scalar_t* out = y + (from_q.x - q);
    store_rows<D>(out, from_q, mine, sums, factors);
}

KERNEL_BOUNDS(attention_forward_32, ATTENTION_THREADS, 4)
(scalar_t* y, float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v, int tq, int tk, int heads, int size,
 int causal) {
    forward<32>(y, lse, q, k, v, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_forward_48, ATTENTION_THREADS, 4)
(scalar_t* y, float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v, int tq, int tk, int heads, int size,
 int causal) {
    forward<48>(y, lse, q, k, v, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_forward_64, ATTENTION_THREADS, 3)
(scalar_t* y, float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v, int tq, int tk, int heads, int size,
 int causal) {
    forward<64>(y, lse, q, k, v, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_forward_80, ATTENTION_THREADS, 3)
(scalar_t* y, float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v, int tq, int tk, int heads, int size,
 int causal) {
    forward<80>(y, lse, q, k, v, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_forward_160, ATTENTION_THREADS, 2)
(scalar_t* y, float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v, int tq, int tk, int heads, int size,
 int causal) {
    forward<160>(y, lse, q, k, v, tq, tk, heads, size, causal);
}
