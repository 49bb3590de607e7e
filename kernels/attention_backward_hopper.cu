// attention_backward.cu's kernels on compute capability 9.0, by tensor maps and wgmma (attention_hopper.h). In its symbols:
//   ds_ij = p_ij (dp_ij - delta_i) / sqrt(size)
//   attention_backward_q_hopper    dq_i = sum_j ds_ij k_j
//   attention_backward_kv_hopper   dk_j = sum_i ds_ij q_i,   dv_j = sum_i p_ij dy_i
// (Dao et al. 2022, arXiv:2205.14135, appendix B.2). Every sum belongs to one warp and has the order of the other path. Kernels'
// names say up to which size of a head they go: sizes are multiples of 8.
//
// A block keeps 128 rows of two tensors (q and dy, or k and v) and walks along the other two in tiles of 64 rows. Scores and dp are
// products of kept rows with a tile; p and ds become operand a as they stand in registers, everything transposed for k and v; the
// tile is then an operand whose rows are values of k: no operand is written to shared memory by threads.
//
// 6 and 8 n heads tq tk size FLOPs; at least 8 n tq c sizeof(scalar_t) bytes together for tq = tk; 128 FLOPs for each byte from L2
// and more. A warp issues about 330 and 360 instructions for a tile's 10 to 16 wgmma (64 x 64 x 16 and 64 x size x 16): for each
// probability one exponential and four others, which are the limit.
#include "kernel.h"
#include "hopper.h"
#include "attention_hopper.h"

// Rows of a tile.
CONSTANT(ATTENTION_BACKWARD_HOPPER_TILE, 64);
CONSTANT(ATTENTION_BACKWARD_HOPPER_STAGES, 6);
// Bytes of dynamic shared memory: the kept rows of two tensors, then a ring of tiles of the other two.
CONSTANT(ATTENTION_BACKWARD_HOPPER_SHARED, 131072);

constexpr int RING = ATTENTION_BACKWARD_HOPPER_STAGES, TILE = ATTENTION_BACKWARD_HOPPER_TILE, TILE_BYTES = TILE * ROW_BYTES;
constexpr int STAGE = 2 * TILE_BYTES;
static_assert(2 * KEPT + RING * STAGE == ATTENTION_BACKWARD_HOPPER_SHARED, "what launches give");

// The producer: kept rows of x and y from token `first` on, tiles of u and v from `begin` to `end`.
DEV void copy_all(unsigned char* tiles, Barrier* barriers, const TensorMap& x, const TensorMap& y, const TensorMap& u,
                  const TensorMap& v, int first, int begin, int end) {
    const int head = blockIdx.y, sample = blockIdx.z;
    Barrier* kept = barriers + 2 * RING;
    barrier_expect(kept, 2 * KEPT);
    load_box(tiles, x, kept, 0, head, first, sample);
    load_box(tiles + TILE_BYTES, x, kept, 0, head, first + TILE, sample);
    load_box(tiles + KEPT, y, kept, 0, head, first, sample);
    load_box(tiles + KEPT + TILE_BYTES, y, kept, 0, head, first + TILE, sample);
    Turn turn;
    for (int start = begin; start < end; start += TILE) {
        Barrier* full = barriers + turn.stage;
        unsigned char* stage = tiles + 2 * KEPT + turn.stage * STAGE;
        barrier_wait(full + RING, turn.parity ^ 1);
        barrier_expect(full, STAGE);
        load_box(stage, u, full, 0, head, start, sample);
        load_box(stage + TILE_BYTES, v, full, 0, head, start, sample);
        next<RING>(turn);
    }
}

// A group's kept rows, and the ring's first tiles: as rows that are multiplied, and as values of k.
struct Operands {
    RowsOfK<128> x, y, u, v;
    RowsOfN<128, TILE> u_values, v_values;
};
DEV Operands operands(const unsigned char* tiles, int group) {
    const unsigned char *kept = tiles + group * (KEPT / 2), *ring = tiles + 2 * KEPT;
    return {RowsOfK<128>(kept), RowsOfK<128>(kept + KEPT), RowsOfK<128>(ring), RowsOfK<128>(ring + TILE_BYTES),
            RowsOfN<128, TILE>(ring), RowsOfN<128, TILE>(ring + TILE_BYTES)};
}
// The products of kept rows with the tiles of a stage: scores, and dp.
template <int D>
DEV void scores(float (&s)[TILE / 2], float (&dp)[TILE / 2], const Operands& of, int stage) {
#pragma unroll
    for (int i = 0; i < TILE / 2; i++) held(s[i]), held(dp[i]);
    products_begin();
    multiply_rows<TILE, (D + 15) / 16>(s, of.x, moved(of.u, stage * STAGE), scalar_t{});
    multiply_rows<TILE, (D + 15) / 16>(dp, of.y, moved(of.v, stage * STAGE), scalar_t{});
    products_commit();
    products_wait<0>();
}
// Sums of 16 rows and columns as operand a.
DEV void pack(unsigned (&a)[TILE / 16][4], const float (&x)[TILE / 2]) {
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            unsigned& pair = a[j / 2][j % 2 * 2 + h];
            pair = pack2(x[j * 4 + 2 * h], x[j * 4 + 2 * h + 1], scalar_t{});
            held(pair);
        }
}

template <int D>
DEV void backward_q(scalar_t* dq, const TensorMap& dy, const TensorMap& q, const TensorMap& k, const TensorMap& v, const float* lse,
                    const float* delta, int tq, int tk, int heads, int size, int causal) {
    DYN_SHARED_TILES(tiles);
    SHARED_ARRAY(Barrier, barriers, 2 * RING + 1);
    make_barriers<RING>(barriers);
    const int group = uniform(threadIdx.x / 128), first = blockIdx.x * ROWS, end = causal ? min(tk, first + ROWS) : tk;
    if (group == 2) {
        registers_less<24>();
        if (threadIdx.x % 128 == 0) copy_all(tiles, barriers, q, dy, k, v, first, 0, end);
        return;
    }
    registers_more<240>();
    const int lane = threadIdx.x % 32, mine = first + threadIdx.x / 32 * 16, column = 2 * (lane % 4);
    const Side queries = side_of(tq, heads, size);
    const float scale = rsqrtf((float)size), scale2 = scale * LOG2_E;
    float shift[2], offset[2];
    int seen[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int query = mine + lane / 4 + h * 8;
        shift[h] = query < tq ? lse[queries.row + query] * LOG2_E : INFINITY;  // so that p is 0
        offset[h] = query < tq ? delta[queries.row + query] : 0.f;
        seen[h] = causal ? min(tk, query + 1) : tk;
    }
    const Operands of = operands(tiles, group);
    float sums[D / 2] = {};
    Turn turn;
    barrier_wait(barriers + 2 * RING, 0);
#pragma unroll 1
    for (int start = 0; start < end; start += TILE) {
        Barrier* full = barriers + turn.stage;
        float s[TILE / 2] = {}, dp[TILE / 2] = {};
        unsigned ds[TILE / 16][4];
        barrier_wait(full, turn.parity);
        scores<D>(s, dp, of, turn.stage);
#pragma unroll
        for (int i = 0; i < TILE / 2; i++)
            dp[i] = (dp[i] - offset[i / 2 % 2]) * exp2_or_zero(fmaf(s[i], scale2, -shift[i / 2 % 2]));
        if (start + TILE > min(seen[0], seen[1])) {
            stay_a_branch();
#pragma unroll
            for (int i = 0; i < TILE / 2; i++)
                if (start + i / 4 * 8 + column + i % 2 >= seen[i / 2 % 2]) dp[i] = 0.f;
        }
        pack(ds, dp);
        products_begin();
        multiply_held<D, TILE / 16>(sums, ds, moved(of.u_values, turn.stage * STAGE), scalar_t{});
        products_commit();
        products_wait<0>();
        if (lane == 0) barrier_arrive(full + RING);
        next<RING>(turn);
    }
    const float factors[2] = {scale, scale};
    store_rows<D>(dq, queries, mine, sums, factors, tiles);
}

// lse (in powers of two) or delta of one of a tile's queries, which lie side by side in shared memory.
DEV float number_of(const float* lse, const float* delta, int query, int count) {
    const bool is_delta = threadIdx.x % 2;
    if (query >= count) return is_delta ? 0.f : INFINITY;  // so that p is 0
    return is_delta ? delta[query] : lse[query] * LOG2_E;
}
template <int D>
DEV void backward_kv(scalar_t* dk, scalar_t* dv, const TensorMap& dy, const TensorMap& q, const TensorMap& k, const TensorMap& v,
                     const float* lse, const float* delta, int tq, int tk, int heads, int size, int causal) {
    DYN_SHARED_TILES(tiles);
    SHARED_ARRAY(Barrier, barriers, 2 * RING + 1);
    // For each group those of two tiles.
    SHARED_ARRAY(float, numbers, 2 * 2 * 2 * TILE);
    make_barriers<RING>(barriers);
    // Queries before the block's first key see none of its keys.
    const int group = uniform(threadIdx.x / 128), first = blockIdx.x * ROWS, begin = causal ? first : 0;
    if (group == 2) {
        registers_less<24>();
        if (threadIdx.x % 128 == 0) copy_all(tiles, barriers, k, v, q, dy, first, begin, tq);
        return;
    }
    registers_more<240>();
    const int t = threadIdx.x % 128, lane = t % 32, mine = first + threadIdx.x / 32 * 16, column = 2 * (lane % 4);
    const Side queries = side_of(tq, heads, size), keys = side_of(tk, heads, size);
    const float scale = rsqrtf((float)size), scale2 = scale * LOG2_E;
    const Operands of = operands(tiles, group);
    float dk_sums[D / 2] = {}, dv_sums[D / 2] = {};
    float* own = numbers + group * 4 * TILE;
    own[t] = number_of(lse + queries.row, delta + queries.row, begin + t / 2, tq);
    float after = number_of(lse + queries.row, delta + queries.row, begin + TILE + t / 2, tq);
    int slot = 0;
    Turn turn;
    barrier_wait(barriers + 2 * RING, 0);
#pragma unroll 1
    for (int start = begin; start < tq; start += TILE) {
        Barrier* full = barriers + turn.stage;
        float s[TILE / 2] = {}, dp[TILE / 2] = {};
        unsigned p[TILE / 16][4], ds[TILE / 16][4];
        // The group's numbers are there, and all have done with those before.
        if (group == 0) meet<1>(128);
        else meet<2>(128);
        own[2 * TILE - slot + t] = after;
        after = number_of(lse + queries.row, delta + queries.row, start + 2 * TILE + t / 2, tq);
        barrier_wait(full, turn.parity);
        scores<D>(s, dp, of, turn.stage);
#pragma unroll
        for (int j = 0; j < TILE / 8; j++) {
            // lse and delta of a query, and of the next.
            const float4 two = *reinterpret_cast<const float4*>(own + slot + 2 * (j * 8 + column));
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const int i = j * 4 + e;
                s[i] = exp2_or_zero(fmaf(s[i], scale2, e % 2 ? -two.z : -two.x));
                dp[i] -= e % 2 ? two.w : two.y;
            }
        }
        if (causal && start < mine + 15) {
            stay_a_branch();
#pragma unroll
            for (int i = 0; i < TILE / 2; i++)
                if (mine + lane / 4 + i / 2 % 2 * 8 > start + i / 4 * 8 + column + i % 2) s[i] = 0.f;
        }
#pragma unroll
        for (int i = 0; i < TILE / 2; i++) dp[i] *= s[i];
        pack(p, s);
        pack(ds, dp);
        products_begin();
        multiply_held<D, TILE / 16>(dv_sums, p, moved(of.v_values, turn.stage * STAGE), scalar_t{});
        multiply_held<D, TILE / 16>(dk_sums, ds, moved(of.u_values, turn.stage * STAGE), scalar_t{});
        products_commit();
        products_wait<0>();
        if (lane == 0) barrier_arrive(full + RING);
        next<RING>(turn);
        slot = 2 * TILE - slot;
    }
    const float scales[2] = {scale, scale}, ones[2] = {1.f, 1.f};
    store_rows<D>(dk, keys, mine, dk_sums, scales, tiles);
    store_rows<D>(dv, keys, mine, dv_sums, ones, tiles + KEPT);
}

KERNEL_BOUNDS(attention_backward_q_40_hopper, ATTENTION_HOPPER_THREADS, 1)
(scalar_t* dq, TENSOR_MAP dy, TENSOR_MAP q, TENSOR_MAP k, TENSOR_MAP v, const float* lse, const float* delta, int tq, int tk,
 int heads, int size, int causal) {
    backward_q<40>(dq, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_q_64_hopper, ATTENTION_HOPPER_THREADS, 1)
(scalar_t* dq, TENSOR_MAP dy, TENSOR_MAP q, TENSOR_MAP k, TENSOR_MAP v, const float* lse, const float* delta, int tq, int tk,
 int heads, int size, int causal) {
    backward_q<64>(dq, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_kv_40_hopper, ATTENTION_HOPPER_THREADS, 1)
(scalar_t* dk, scalar_t* dv, TENSOR_MAP dy, TENSOR_MAP q, TENSOR_MAP k, TENSOR_MAP v, const float* lse, const float* delta, int tq,
 int tk, int heads, int size, int causal) {
    backward_kv<40>(dk, dv, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_kv_64_hopper, ATTENTION_HOPPER_THREADS, 1)
(scalar_t* dk, scalar_t* dv, TENSOR_MAP dy, TENSOR_MAP q, TENSOR_MAP k, TENSOR_MAP v, const float* lse, const float* delta, int tq,
 int tk, int heads, int size, int causal) {
    backward_kv<64>(dk, dv, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
