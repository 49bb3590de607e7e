// attention.cu's forward pass on compute capability 9.0, by tensor maps and wgmma (FlashAttention-3: Shah et al. 2024,
// arXiv:2407.08608, without its overlap inside of a group):
//   y_i = sum_j p_ij v_j,   p_ij = exp(s_ij - lse_i),   s_ij = q_i k_j / sqrt(size),   lse_i = log sum_j exp(s_ij)
// for each of the heads side by side in the channels of q [n, tq, c], k and v [n, tk, c]. lse [n, heads, tq] is kept. The
// kernel's name says up to which size of a head it goes: sizes are multiples of 8.
//
// A block makes 128 queries of one head: a producer copies tiles of 128 keys and values into a ring, two groups of four warps take
// 64 queries each. Scores are a product of two tiles in shared memory; probabilities become operand a as they stand in registers;
// values are an operand whose rows are values of k. A row of a tile has 64 channels: those past the head's size come as zeros.
// While one group makes probabilities, the other's products run.
//
// 4 n heads tq tk size FLOPs and n heads tq tk exponentials; at least 4 n tq c sizeof(scalar_t) bytes for tq = tk; 128 FLOPs for
// each byte from L2. For 128 keys a warp issues some 430 instructions around 11 or 12 wgmma (64 x 128 x 16 and 64 x size x 16),
// 7 for each value of a thread's row: those and the exponentials, 512 cycles of its share of the multiprocessor, are the limit.
#include "kernel.h"
#include "hopper.h"
#include "attention_hopper.h"

// Keys of a tile: as many as queries that a block keeps.
CONSTANT(ATTENTION_HOPPER_STAGES, 4);
// Bytes of dynamic shared memory: the queries, then a ring of keys and values.
CONSTANT(ATTENTION_HOPPER_SHARED, 147456);

constexpr int RING = ATTENTION_HOPPER_STAGES, STAGE = 2 * KEPT;
static_assert(KEPT + RING * STAGE == ATTENTION_HOPPER_SHARED, "what launches give");

DEV float row_sum(float x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
}
DEV float row_max(float x) {
    x = fmaxf(x, shuffle_xor(x, 1));
    return fmaxf(x, shuffle_xor(x, 2));
}

// A thread's rows lane / 4 and lane / 4 + 8 of its warp.
template <int D> struct Rows {
    float sums[D / 2] = {};
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {};
};
// Takes the scores of a tile whose keys begin at `start`. seen[h]: keys that row h sees.
template <int D> DEV void weigh(Rows<D>& rows, float (&s)[ROWS / 2], unsigned (&p)[ROWS / 16][4], float scale, int start, const int (&seen)[2]) {
    const int column = 2 * (threadIdx.x % 4);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (start + ROWS > seen[h]) {
            stay_a_branch();
#pragma unroll
            for (int j = 0; j < ROWS / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    if (start + j * 8 + column + e >= seen[h]) s[j * 4 + 2 * h + e] = -INFINITY;
        }
        float largest = -INFINITY;
#pragma unroll
        for (int j = 0; j < ROWS / 8; j++) largest = fmaxf(largest, fmaxf(s[j * 4 + 2 * h], s[j * 4 + 2 * h + 1]));
        // Finite from the first tile on: every row sees key 0.
        const float before = rows.most[h];
        rows.most[h] = fmaxf(before, row_max(largest));
        const float shift = rows.most[h] * scale, shrink = exp2_or_zero(before * scale - shift);
        rows.total[h] *= shrink;
#pragma unroll
        for (int j = 0; j < ROWS / 8; j++) {
#pragma unroll
            for (int e = 2 * h; e < 2 * h + 2; e++) {
                s[j * 4 + e] = exp2_or_zero(fmaf(s[j * 4 + e], scale, -shift));
                rows.total[h] += s[j * 4 + e];
            }
            unsigned& pair = p[j / 2][j % 2 * 2 + h];
            pair = pack2(s[j * 4 + 2 * h], s[j * 4 + 2 * h + 1], scalar_t{});
            held(pair);
        }
#pragma unroll
        for (int j = 0; j < D / 8; j++) rows.sums[j * 4 + 2 * h] *= shrink, rows.sums[j * 4 + 2 * h + 1] *= shrink;
    }
}

template <int D>
DEV void forward(scalar_t* y, float* lse, const TensorMap& q, const TensorMap& k, const TensorMap& v, int tq, int tk, int heads,
                 int size, int causal) {
    DYN_SHARED_TILES(tiles);
    SHARED_ARRAY(Barrier, barriers, 2 * RING + 1);
    make_barriers<RING>(barriers);
    const int group = uniform(threadIdx.x / 128), first = blockIdx.x * ROWS, head = blockIdx.y, sample = blockIdx.z;
    const int end = causal ? min(tk, first + ROWS) : tk;
    unsigned char* ring = tiles + KEPT;
    Turn turn;
    if (group == 2) {
        registers_less<24>();
        if (threadIdx.x % 128 != 0) return;
        barrier_expect(barriers + 2 * RING, KEPT);
        load_box(tiles, q, barriers + 2 * RING, 0, head, first, sample);
        for (int start = 0; start < end; start += ROWS) {
            Barrier* full = barriers + turn.stage;
            barrier_wait(full + RING, turn.parity ^ 1);
            barrier_expect(full, STAGE);
            load_box(ring + turn.stage * STAGE, k, full, 0, head, start, sample);
            load_box(ring + turn.stage * STAGE + KEPT, v, full, 0, head, start, sample);
            next<RING>(turn);
        }
        return;
    }
    registers_more<240>();
    const int lane = threadIdx.x % 32, mine = first + threadIdx.x / 32 * 16;
    const float scale = LOG2_E * rsqrtf((float)size);
    int seen[2];
    for (int h = 0; h < 2; h++) seen[h] = causal ? min(tk, mine + lane / 4 + 8 * h + 1) : tk;
    const RowsOfK<128> queries(tiles + group * (KEPT / 2)), keys(ring);
    const RowsOfN<128, ROWS> values(ring + KEPT);
    Rows<D> rows;
    barrier_wait(barriers + 2 * RING, 0);
#pragma unroll 1
    for (int start = 0; start < end; start += ROWS) {
        Barrier* full = barriers + turn.stage;
        float s[ROWS / 2] = {};
        barrier_wait(full, turn.parity);
        products_begin();
        multiply_rows<ROWS, (D + 15) / 16>(s, queries, moved(keys, turn.stage * STAGE), scalar_t{});
        products_commit();
        products_wait<0>();
        unsigned p[ROWS / 16][4];
        weigh(rows, s, p, scale, start, seen);
        products_begin();
        multiply_held<D, ROWS / 16>(rows.sums, p, moved(values, turn.stage * STAGE), scalar_t{});
        products_commit();
        products_wait<0>();
        if (lane == 0) barrier_arrive(full + RING);
        next<RING>(turn);
    }
    const Side side = side_of(tq, heads, size);
    float factors[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        rows.total[h] = row_sum(rows.total[h]);
        factors[h] = 1.f / rows.total[h];
        const int query = mine + lane / 4 + h * 8;
        if (lane % 4 == 0 && query < tq) lse[side.row + query] = (rows.most[h] * scale + log2f(rows.total[h])) * LN_2;
    }
    store_rows<D>(y, side, mine, rows.sums, factors, tiles);
}

KERNEL_BOUNDS(attention_forward_40_hopper, ATTENTION_HOPPER_THREADS, 1)
(scalar_t* y, float* lse, TENSOR_MAP q, TENSOR_MAP k, TENSOR_MAP v, int tq, int tk, int heads, int size, int causal) {
    forward<40>(y, lse, q, k, v, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_forward_64_hopper, ATTENTION_HOPPER_THREADS, 1)
(scalar_t* y, float* lse, TENSOR_MAP q, TENSOR_MAP k, TENSOR_MAP v, int tq, int tk, int heads, int size, int causal) {
    forward<64>(y, lse, q, k, v, tq, tk, heads, size, causal);
}
