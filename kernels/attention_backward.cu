// The gradients of attention.cu, whose head explains the symbols. With dp_ij = dy_i v_j and delta_i = dy_i y_i:
//   ds_ij = p_ij (dp_ij - delta_i) / sqrt(size)
//   dq_i = sum_j ds_ij k_j,   dk_j = sum_i ds_ij q_i,   dv_j = sum_i p_ij dy_i
// (Dao et al. 2022, arXiv:2205.14135, appendix B.2). Scores are computed anew from q, k and lse. dq and the pair dk, dv
// have a kernel each, so that every sum belongs to one warp and has a fixed order: seven products of tiles instead of
// five, and no atomics.
//
// attention_backward_q: a block has ATTENTION_ROWS queries a warp and walks along the keys. attention_backward_kv: a
// block has as many keys and walks along the queries, with everything transposed. 6 and 8 n heads tq tk size FLOPs; at
// least 8 n tq c sizeof(scalar_t) bytes together for tq = tk.
#include "kernel.h"
#include "attention.h"

// delta [n, heads, tq]; a warp for each query and head.
KERNEL_BOUNDS(attention_backward_delta, ATTENTION_THREADS, 8)
(float* delta, const scalar_t* dy, const scalar_t* y, int tq, int heads, int size) {
    const int lane = threadIdx.x % 32, query = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (query >= tq) return;
    const Tokens from = tokens_of(dy, tq, heads, size);
    const long long at = from.x - dy + (long long)query * from.stride;
    float sum = 0.f;
    for (int i = lane; i < size; i += 32) sum += load(dy, at + i) * load(y, at + i);
    sum = warp_sum(sum);
    if (lane == 0) delta[((long long)blockIdx.z * heads + blockIdx.y) * tq + query] = sum;
}

// Dynamic shared memory: two rows of Head<D> for each query and 2 TILE keys, then SCRATCH floats a warp.
template <int D>
DEV void backward_q(scalar_t* dq, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v,
                    const float* lse, const float* delta, int tq, int tk, int heads, int size, int causal) {
    DYN_SHARED(scalar_t, shared);
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, rows = warps * ATTENTION_ROWS;
    scalar_t* queries = shared;
    scalar_t* gradients = queries + rows * Head<D>::STRIDE;
    scalar_t* keys = gradients + rows * Head<D>::STRIDE;
    scalar_t* values = keys + TILE * Head<D>::STRIDE;
    float* scratch = reinterpret_cast<float*>(values + TILE * Head<D>::STRIDE) + warp * SCRATCH;
    const int first = blockIdx.x * rows, mine = first + warp * ATTENTION_ROWS;
    const Tokens from_q = tokens_of(q, tq, heads, size), from_dy = tokens_of(dy, tq, heads, size);
    const Tokens from_k = tokens_of(k, tk, heads, size), from_v = tokens_of(v, tk, heads, size);
    const float scale = rsqrtf((float)size);
    const long long row_of_head = ((long long)blockIdx.z * heads + blockIdx.y) * tq;

    fetch_tokens<D>(queries, from_q, first, rows);
    fetch_tokens<D>(gradients, from_dy, first, rows);
    float shift[2], offset[2], sums[D / 8][4] = {};
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int query = mine + lane / 4 + h * 8;
        shift[h] = query < tq ? lse[row_of_head + query] * LOG2_E : INFINITY;  // so that p is 0
        offset[h] = query < tq ? delta[row_of_head + query] : 0.f;
    }
    const int end = causal ? min(tk, first + rows) : tk;
    for (int start = 0; start < end; start += TILE) {
        __syncthreads();
        fetch_tokens<D>(keys, from_k, start, TILE);
        fetch_tokens<D>(values, from_v, start, TILE);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
        float ds[TILE / 8][4] = {}, dp[TILE / 8][4] = {};
        dot<D>(ds, queries + warp * ATTENTION_ROWS * Head<D>::STRIDE, keys);
        dot<D>(dp, gradients + warp * ATTENTION_ROWS * Head<D>::STRIDE, values);
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int key = start + j * 8 + lane % 4 * 2 + e % 2, query = mine + lane / 4 + e / 2 * 8;
                const bool seen = key < tk && (!causal || key <= query);
                const float p = seen ? exp2f(ds[j][e] * (scale * LOG2_E) - shift[e / 2]) : 0.f;
                ds[j][e] = p * (dp[j][e] - offset[e / 2]) * scale;
            }
        weigh<D>(sums, ds, keys, scratch);
    }
    const float whole[2] = {1.f, 1.f};
    store_rows<D>(dq + (from_q.x - q), from_q, mine, sums, whole);
}

// Dynamic shared memory: two rows of Head<D> for each key and 2 TILE queries, lse and delta of those, then SCRATCH floats
// a warp.
template <int D>
DEV void backward_kv(scalar_t* dk, scalar_t* dv, const scalar_t* dy, const scalar_t* q, const scalar_t* k,
                     const scalar_t* v, const float* lse, const float* delta, int tq, int tk, int heads, int size,
                     int causal) {
    DYN_SHARED(scalar_t, shared);
    const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32, rows = warps * ATTENTION_ROWS;
    scalar_t* keys = shared;
    scalar_t* values = keys + rows * Head<D>::STRIDE;
    scalar_t* queries = values + rows * Head<D>::STRIDE;
    scalar_t* gradients = queries + TILE * Head<D>::STRIDE;
    float* shifts = reinterpret_cast<float*>(gradients + TILE * Head<D>::STRIDE);
    float* offsets = shifts + TILE;
    float* scratch = offsets + TILE + warp * SCRATCH;
    const int first = blockIdx.x * rows, mine = first + warp * ATTENTION_ROWS;
    const Tokens from_q = tokens_of(q, tq, heads, size), from_dy = tokens_of(dy, tq, heads, size);
    const Tokens from_k = tokens_of(k, tk, heads, size), from_v = tokens_of(v, tk, heads, size);
    const float scale = rsqrtf((float)size);
    const long long row_of_head = ((long long)blockIdx.z * heads + blockIdx.y) * tq;

    fetch_tokens<D>(keys, from_k, first, rows);
    fetch_tokens<D>(values, from_v, first, rows);
    float dk_sums[D / 8][4] = {}, dv_sums[D / 8][4] = {};
    // Queries before the block's first key see none of its keys.
    for (int start = causal ? first / TILE * TILE : 0; start < tq; start += TILE) {
        __syncthreads();
        fetch_tokens<D>(queries, from_q, start, TILE);
        fetch_tokens<D>(gradients, from_dy, start, TILE);
        copy_async_commit();
        for (int i = threadIdx.x; i < TILE; i += blockDim.x) {
            const bool there = start + i < tq;
            shifts[i] = there ? lse[row_of_head + start + i] * LOG2_E : INFINITY;  // so that p is 0
            offsets[i] = there ? delta[row_of_head + start + i] : 0.f;
        }
        copy_async_wait<0>();
        __syncthreads();
        float p[TILE / 8][4] = {}, ds[TILE / 8][4] = {};
        dot<D>(p, keys + warp * ATTENTION_ROWS * Head<D>::STRIDE, queries);
        dot<D>(ds, values + warp * ATTENTION_ROWS * Head<D>::STRIDE, gradients);
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int column = j * 8 + lane % 4 * 2 + e % 2, key = mine + lane / 4 + e / 2 * 8;
                const bool seen = key < tk && (!causal || key <= start + column);
                p[j][e] = seen ? exp2f(p[j][e] * (scale * LOG2_E) - shifts[column]) : 0.f;
                ds[j][e] = p[j][e] * (ds[j][e] - offsets[column]) * scale;
            }
        weigh<D>(dv_sums, p, gradients, scratch);
        weigh<D>(dk_sums, ds, queries, scratch);
    }
    // Where there was no query to wait for.
    copy_async_commit();
    copy_async_wait<0>();
    const float whole[2] = {1.f, 1.f};
    store_rows<D>(dk + (from_k.x - k), from_k, mine, dk_sums, whole);
    store_rows<D>(dv + (from_v.x - v), from_v, mine, dv_sums, whole);
}

KERNEL_BOUNDS(attention_backward_q_32, ATTENTION_THREADS, 3)
(scalar_t* dq, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v, const float* lse,
 const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_q<32>(dq, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_kv_32, ATTENTION_THREADS, 3)
(scalar_t* dk, scalar_t* dv, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v,
 const float* lse, const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_kv<32>(dk, dv, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_q_48, ATTENTION_THREADS, 3)
(scalar_t* dq, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v, const float* lse,
 const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_q<48>(dq, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_kv_48, ATTENTION_THREADS, 3)
(scalar_t* dk, scalar_t* dv, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v,
 const float* lse, const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_kv<48>(dk, dv, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_q_64, ATTENTION_THREADS, 2)
(scalar_t* dq, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v, const float* lse,
 const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_q<64>(dq, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_kv_64, ATTENTION_THREADS, 2)
(scalar_t* dk, scalar_t* dv, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v,
 const float* lse, const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_kv<64>(dk, dv, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_q_80, ATTENTION_THREADS, 2)
(scalar_t* dq, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v, const float* lse,
 const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_q<80>(dq, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_kv_80, ATTENTION_THREADS, 2)
(scalar_t* dk, scalar_t* dv, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v,
 const float* lse, const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_kv<80>(dk, dv, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_q_160, ATTENTION_THREADS, 1)
(scalar_t* dq, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v, const float* lse,
 const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_q<160>(dq, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_kv_160, ATTENTION_THREADS, 1)
(scalar_t* dk, scalar_t* dv, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v,
 const float* lse, const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_kv<160>(dk, dv, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
