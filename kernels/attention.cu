// Scaled dot-product attention without the scores in memory (FlashAttention-2: Dao 2023, arXiv:2307.08691; online softmax:
// Milakov & Gimelshein 2018, arXiv:1805.02867). For each of the heads side by side in the channels of q [n, tq, c], k and v
// [n, tk, c]:
//   y_i = sum_j p_ij v_j,   p_ij = exp(s_ij - lse_i),   s_ij = q_i k_j / sqrt(size),   lse_i = log sum_j exp(s_ij)
// With `causal`, row i sees keys 0 to i. lse [n, heads, tq] is kept for the backward pass.
//
// A block keeps 128 queries of one head, 32 a warp (attention.h: half as many in float, and of heads of more than 80 channels),
// and walks along the keys in tiles of 32. After each tile a row's maximum m may grow; what was summed up so far is then scaled
// by 2^(old - new). Only tiles that go past the last key, or past a causal row, are masked. The kernel's name says up to which
// size of a head it goes.
//
// 4 n heads tq tk size FLOPs and n heads tq tk exponentials; at least 4 n tq c sizeof(scalar_t) bytes for tq = tk. The
// keys are read once for each block of queries, from L2 but for the first time. In 16 bits a warp issues 7.5 instructions for
// each product of tensor cores with 40 channels, 5.8 with 64; 3.5 and 2.4 of them make probabilities from scores. Issuing them
// is the limit, and exponentials are next: 8 cycles for each of a warp, 0.8 of them a product with 40 channels.
#include "kernel.h"
#include "attention.h"

template <int D>
DEV void forward(scalar_t* y, float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v, int tq, int tk,
                 int heads, int size, int causal) {
    using H = Head<D>;
    using In = Layout<D, 1, H::FLOATS ? 0 : 1>;
    constexpr int M = H::M, TILE = H::TILE;
    DYN_SHARED(scalar_t, shared);
    scalar_t* ring = shared + In::RING;
    float* scratch = scratch_of_warp<D>(shared + In::END);
    const int lane = threadIdx.x % 32, first = blockIdx.x * H::ROWS, mine = first + threadIdx.x / 32 * ATTENTION_ROWS * M;
    const Side queries = side_of(tq, heads, size), keys = side_of(tk, heads, size);
    const float scale = LOG2_E * rsqrtf((float)size);

    fetch_kept(walk<D, 1>({q}, queries, first), {shared});
    Rows<D, !H::FLOATS> rows;
    keep(rows, shared);

    float sums[M][D / 8][4] = {}, most[M][2], total[M][2] = {};
#pragma unroll
    for (int m = 0; m < M; m++) most[m][0] = most[m][1] = -INFINITY;
    const Places at = places<D>();
    // Row i sees keys up to i + beyond, and all rows of the warp those up to the other.
    const int beyond = causal ? 1 : tk, seen_by_all = opaque(min(tk, mine + beyond));
    const int end = opaque(causal ? min(tk, first + H::ROWS) : tk);
    each_tile(ring, walk<D, 2>({k, v}, keys, 0), 0, end, [&](int start, const scalar_t* tile) {
        float p[M][TILE / 8][4] = {};
        dot<D>(p, rows, tile, at);
        if (start + TILE > seen_by_all) {
            stay_a_branch();
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int j = 0; j < TILE / 8; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        const int seen = min(tk, mine + m * 16 + lane / 4 + e / 2 * 8 + beyond);
                        if (start + j * 8 + lane % 4 * 2 + e % 2 >= seen) p[m][j][e] = -INFINITY;
                    }
        }
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float largest = -INFINITY;
#pragma unroll
                for (int j = 0; j < TILE / 8; j++) largest = fmaxf(largest, fmaxf(p[m][j][2 * h], p[m][j][2 * h + 1]));
                // Finite from the first tile on: every row sees key 0.
                const float before = most[m][h];
                most[m][h] = fmaxf(before, row_max(largest));
                const float shift = most[m][h] * scale, shrink = exp2_or_zero(before * scale - shift);
                total[m][h] *= shrink;
#pragma unroll
                for (int j = 0; j < TILE / 8; j++)
#pragma unroll
                    for (int e = 2 * h; e < 2 * h + 2; e++) {
                        p[m][j][e] = exp2_or_zero(fmaf(p[m][j][e], scale, -shift));
                        total[m][h] += p[m][j][e];
                    }
#pragma unroll
                for (int j = 0; j < D / 8; j++) sums[m][j][2 * h] *= shrink, sums[m][j][2 * h + 1] *= shrink;
            }
        weigh<D>(sums, p, tile + In::TILE, at, scratch);
    });
    float factors[M][2];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            total[m][h] = row_sum(total[m][h]);
            factors[m][h] = 1.f / total[m][h];
            const int query = mine + m * 16 + lane / 4 + h * 8;
            if (lane % 4 == 0 && query < tq)
                lse[queries.row + query] = (most[m][h] * scale + log2f(total[m][h])) * LN_2;
        }
    store_rows<D>(y, queries, mine, sums, factors, ring);
}

KERNEL_BOUNDS(attention_forward_32, ATTENTION_THREADS, 3)
(scalar_t* y, float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v, int tq, int tk, int heads, int size,
 int causal) {
    forward<32>(y, lse, q, k, v, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_forward_40, ATTENTION_THREADS, 3)
(scalar_t* y, float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v, int tq, int tk, int heads, int size,
 int causal) {
    forward<40>(y, lse, q, k, v, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_forward_64, ATTENTION_THREADS, 2)
(scalar_t* y, float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v, int tq, int tk, int heads, int size,
 int causal) {
    forward<64>(y, lse, q, k, v, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_forward_80, ATTENTION_THREADS, 2)
(scalar_t* y, float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v, int tq, int tk, int heads, int size,
 int causal) {
    forward<80>(y, lse, q, k, v, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_forward_160, ATTENTION_THREADS, 2)
(scalar_t* y, float* lse, const scalar_t* q, const scalar_t* k, const scalar_t* v, int tq, int tk, int heads, int size,
 int causal) {
    forward<160>(y, lse, q, k, v, tq, tk, heads, size, causal);
}
