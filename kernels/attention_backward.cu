// The gradients of attention.cu, whose head explains the symbols. With dp_ij = dy_i v_j and delta_i = dy_i y_i:
//   ds_ij = p_ij (dp_ij - delta_i) / sqrt(size)
//   dq_i = sum_j ds_ij k_j,   dk_j = sum_i ds_ij q_i,   dv_j = sum_i p_ij dy_i
// (Dao et al. 2022, arXiv:2205.14135, appendix B.2; Dao 2023, arXiv:2307.08691). Scores are computed anew from q, k and lse.
// dq and the pair dk, dv have a kernel each, so that every sum belongs to one warp and has a fixed order: seven products of
// tiles instead of five, and no atomics. The factor 1 / sqrt(size) of ds is that of dq and dk, where they are stored.
//
// attention_backward_q: a block keeps 128 queries and their dy (attention.h says when half as many), and walks along the keys
// and values. attention_backward_kv: a block keeps as many keys and values and walks along the queries and dy, with everything
// transposed; where the keys of a text leave most of a GPU idle, blockIdx.z also has slices of the queries, whose float sums
// sums.cu adds up. Of a tile, 16 rows are taken at a time, so that their scores need few registers.
//
// 6 and 8 n heads tq tk size FLOPs; at least 8 n tq c sizeof(scalar_t) bytes together for tq = tk.
//
// In 16 bits with 40 channels a warp issues 4.6 and 4.1 instructions for each product of tensor cores, with 64 it is 3.4, and
// the tensor cores are the limit. In attention_backward_kv with more than 64 channels, whose sums leave no registers for the
// kept rows, it is shared memory: 9 cycles a product.
#include "kernel.h"
#include "attention.h"

// delta [n, heads, tq]; ATTENTION_DELTA_LANES lanes for each query and head.
CONSTANT(ATTENTION_DELTA_LANES, 8);
KERNEL_BOUNDS(attention_backward_delta, ATTENTION_THREADS, 8)
(float* delta, const scalar_t* dy, const scalar_t* y, int tq, int heads, int size) {
    const int query = (blockIdx.x * blockDim.x + threadIdx.x) / ATTENTION_DELTA_LANES;
    const int lane = threadIdx.x % ATTENTION_DELTA_LANES;
    const Side queries = side_of(tq, heads, size);
    const long long at = queries.at + (long long)min(query, tq - 1) * queries.stride;
    float sum = 0.f;
    for (int column = lane * PACK; column < size; column += ATTENTION_DELTA_LANES * PACK) {
        float a[PACK], b[PACK];
        load_pack(a, dy + at + column, size - column);
        load_pack(b, y + at + column, size - column);
#pragma unroll
        for (int j = 0; j < PACK; j++) sum = fmaf(a[j], b[j], sum);
    }
#pragma unroll
    for (int mask = 1; mask < ATTENTION_DELTA_LANES; mask *= 2) sum += shuffle_xor(sum, mask);
    if (lane == 0 && query < tq) delta[queries.row + query] = sum;
}

template <int D>
DEV void backward_q(scalar_t* dq, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v,
                    const float* lse, const float* delta, int tq, int tk, int heads, int size, int causal) {
    using H = Head<D>;
    using In = Layout<D, 2, H::FLOATS ? 0 : 2>;
    constexpr int M = H::M, TILE = H::TILE;
    DYN_SHARED(scalar_t, shared);
    scalar_t* ring = shared + In::RING;
    float* scratch = scratch_of_warp<D>(shared + In::END);
    const int lane = threadIdx.x % 32, first = blockIdx.x * H::ROWS, mine = first + threadIdx.x / 32 * ATTENTION_ROWS * M;
    const Side queries = side_of(tq, heads, size), keys = side_of(tk, heads, size);
    const float scale = rsqrtf((float)size), scale2 = scale * LOG2_E;

    fetch_kept(walk<D, 2>({q, dy}, queries, first), {shared, shared + In::ROWS});
    Rows<D, !H::FLOATS> rows, gradients;
    keep(rows, shared);
    keep(gradients, shared + In::ROWS);

    float shift[M][2], offset[M][2], sums[M][D / 8][4] = {};
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int query = mine + m * 16 + lane / 4 + h * 8;
            shift[m][h] = query < tq ? lse[queries.row + query] * LOG2_E : INFINITY;  // so that p is 0
            offset[m][h] = query < tq ? delta[queries.row + query] : 0.f;
        }
    const Places at = places<D>();
    // Row i sees keys up to i + beyond, and all rows of the warp those up to the other.
    const int beyond = causal ? 1 : tk, seen_by_all = opaque(min(tk, mine + beyond));
    const int end = opaque(causal ? min(tk, first + H::ROWS) : tk);
    each_tile(ring, walk<D, 2>({k, v}, keys, 0), 0, end, [&](int start, const scalar_t* tile) {
#pragma unroll(D < 40 ? 2 : 1)
        for (int part = 0; part < TILE; part += 16) {
            float p[M][2][4] = {}, ds[M][2][4] = {};
            dot<D>(p, rows, tile + part * H::STRIDE, at);
            dot<D>(ds, gradients, tile + In::TILE + part * H::STRIDE, at);
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int j = 0; j < 2; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        ds[m][j][e] = (ds[m][j][e] - offset[m][e / 2]) *
                                      exp2_or_zero(fmaf(p[m][j][e], scale2, -shift[m][e / 2]));
            if (start + part + 16 > seen_by_all) {
                stay_a_branch();
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int j = 0; j < 2; j++)
#pragma unroll
                        for (int e = 0; e < 4; e++) {
                            const int seen = min(tk, mine + m * 16 + lane / 4 + e / 2 * 8 + beyond);
                            if (start + part + j * 8 + lane % 4 * 2 + e % 2 >= seen) ds[m][j][e] = 0.f;
                        }
            }
            weigh<D>(sums, ds, tile + part * H::STRIDE, at, scratch);
        }
    });
    float factors[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) factors[m][0] = factors[m][1] = scale;
    store_rows<D>(dq, queries, mine, sums, factors, ring);
}

// Where a thread fetches from: lse (in powers of two) or delta of one of a tile's queries, which lie side by side in shared
// memory. They pass through a register, so they are asked for a tile earlier than what is copied.
struct Numbers {
    const float* from;
    float factor, none;
};
DEV Numbers numbers_of(const float* lse, const float* delta, long long row) {
    return threadIdx.x % 2 ? Numbers{delta + row, 1.f, 0.f} : Numbers{lse + row, LOG2_E, INFINITY};  // so that p is 0
}
template <int D> DEV float fetched(const Numbers& numbers, int start, int count) {
    const int query = start + threadIdx.x / 2;
    return threadIdx.x < 2 * Head<D>::TILE && query < count ? numbers.from[query] * numbers.factor : numbers.none;
}

template <int D>
DEV void backward_kv(scalar_t* dk, scalar_t* dv, float* parts, const scalar_t* dy, const scalar_t* q, const scalar_t* k,
                     const scalar_t* v, const float* lse, const float* delta, int tq, int tk, int heads, int size,
                     int causal, int slices) {
    using H = Head<D>;
    constexpr int HELD = H::FLOATS ? 0 : D <= ATTENTION_KV_HELD ? 2 : D <= ATTENTION_K_HELD ? 1 : 0;
    using In = Layout<D, 2, HELD>;
    constexpr int M = H::M, TILE = H::TILE;
    DYN_SHARED(scalar_t, shared);
    scalar_t* ring = shared + In::RING;
    // Those of two tiles.
    float* numbers = reinterpret_cast<float*>(shared + In::END);
    float* scratch = scratch_of_warp<D>(shared + In::END + 4 * TILE * (4 / sizeof(scalar_t)));
    const int lane = threadIdx.x % 32, first = blockIdx.x * H::ROWS, mine = first + threadIdx.x / 32 * ATTENTION_ROWS * M;
    const int sample = blockIdx.z / slices;
    const Side queries = side_of(tq, heads, size, sample), keys = side_of(tk, heads, size, sample);
    const float scale = rsqrtf((float)size), scale2 = scale * LOG2_E;

    fetch_kept(walk<D, 2>({v, k}, keys, first), {shared, shared + In::ROWS});
    Rows<D, (HELD > 1)> values;
    Rows<D, (HELD > 0)> rows;
    keep(values, shared);
    keep(rows, shared + In::ROWS);

    float dk_sums[M][D / 8][4] = {}, dv_sums[M][D / 8][4] = {};
    // Whole tiles of queries for each slice. Those before the block's first key see none of its keys.
    const int tiles = (tq + TILE - 1) / TILE, share = (tiles + slices - 1) / slices * TILE;
    const int of_slice = blockIdx.z % slices * share, begin = causal ? max(of_slice, first) : of_slice;
    const int end = min(of_slice + share, tq);
    const Numbers from = numbers_of(lse, delta, queries.row);
    if (threadIdx.x < 2 * TILE) numbers[begin / TILE % 2 * 2 * TILE + threadIdx.x] = fetched<D>(from, begin, tq);
    float next = fetched<D>(from, begin + TILE, tq);
    const Places at = places<D>();
    each_tile(ring, walk<D, 2>({q, dy}, queries, begin), begin, end, [&](int start, const scalar_t* tile) {
        const int slot = start / TILE % 2 * 2 * TILE;
        const float* of_tile = numbers + slot;
        if (threadIdx.x < 2 * TILE) numbers[2 * TILE - slot + threadIdx.x] = next;
        next = fetched<D>(from, start + 2 * TILE, tq);
#pragma unroll(D < 64 ? 2 : 1)
        for (int part = 0; part < TILE; part += 16) {
            float p[M][2][4] = {}, ds[M][2][4] = {};
            dot<D>(p, rows, tile + part * H::STRIDE, at);
            dot<D>(ds, values, tile + In::TILE + part * H::STRIDE, at);
            // lse and delta of a query, and of the next.
            float4 of[2];
#pragma unroll
            for (int j = 0; j < 2; j++)
                of[j] = *reinterpret_cast<const float4*>(of_tile + 2 * (part + j * 8 + lane % 4 * 2));
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int j = 0; j < 2; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        p[m][j][e] = exp2_or_zero(fmaf(p[m][j][e], scale2, e % 2 ? -of[j].z : -of[j].x));
            if (causal && start + part < mine + 16 * M - 1) {
                stay_a_branch();
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int j = 0; j < 2; j++)
#pragma unroll
                        for (int e = 0; e < 4; e++)
                            if (mine + m * 16 + lane / 4 + e / 2 * 8 > start + part + j * 8 + lane % 4 * 2 + e % 2)
                                p[m][j][e] = 0.f;
            }
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int j = 0; j < 2; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++)
                        ds[m][j][e] = p[m][j][e] * (ds[m][j][e] - (e % 2 ? of[j].w : of[j].y));
            weigh<D>(dv_sums, p, tile + In::TILE + part * H::STRIDE, at, scratch);
            weigh<D>(dk_sums, ds, tile + part * H::STRIDE, at, scratch);
        }
    });
    if (parts) {
        const long long values = (long long)(gridDim.z / slices) * tk * heads * size;
        parts += blockIdx.z % slices * 2 * values;
        store_part(parts, keys, mine, dk_sums, scale);
        store_part(parts + values, keys, mine, dv_sums, 1.f);
        return;
    }
    float scales[M][2], ones[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) scales[m][0] = scales[m][1] = scale, ones[m][0] = ones[m][1] = 1.f;
    store_rows<D>(dk, keys, mine, dk_sums, scales, ring);
    store_rows<D>(dv, keys, mine, dv_sums, ones, ring);
}

// dk and dv, or of several slices parts [slices, dk and dv], which sum_slices makes both of; the others are missing.
KERNEL_BOUNDS(attention_backward_q_32, ATTENTION_THREADS, 3)
(scalar_t* dq, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v, const float* lse,
 const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_q<32>(dq, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_kv_32, ATTENTION_THREADS, 2)
(scalar_t* dk, scalar_t* dv, float* parts, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v,
 const float* lse, const float* delta, int tq, int tk, int heads, int size, int causal, int slices) {
    backward_kv<32>(dk, dv, parts, dy, q, k, v, lse, delta, tq, tk, heads, size, causal, slices);
}
KERNEL_BOUNDS(attention_backward_q_40, ATTENTION_THREADS, 3)
(scalar_t* dq, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v, const float* lse,
 const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_q<40>(dq, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_kv_40, ATTENTION_THREADS, 2)
(scalar_t* dk, scalar_t* dv, float* parts, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v,
 const float* lse, const float* delta, int tq, int tk, int heads, int size, int causal, int slices) {
    backward_kv<40>(dk, dv, parts, dy, q, k, v, lse, delta, tq, tk, heads, size, causal, slices);
}
KERNEL_BOUNDS(attention_backward_q_64, ATTENTION_THREADS, 2)
(scalar_t* dq, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v, const float* lse,
 const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_q<64>(dq, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_kv_64, ATTENTION_THREADS, 2)
(scalar_t* dk, scalar_t* dv, float* parts, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v,
 const float* lse, const float* delta, int tq, int tk, int heads, int size, int causal, int slices) {
    backward_kv<64>(dk, dv, parts, dy, q, k, v, lse, delta, tq, tk, heads, size, causal, slices);
}
KERNEL_BOUNDS(attention_backward_q_80, ATTENTION_THREADS, 2)
(scalar_t* dq, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v, const float* lse,
 const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_q<80>(dq, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_kv_80, ATTENTION_THREADS, 2)
(scalar_t* dk, scalar_t* dv, float* parts, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v,
 const float* lse, const float* delta, int tq, int tk, int heads, int size, int causal, int slices) {
    backward_kv<80>(dk, dv, parts, dy, q, k, v, lse, delta, tq, tk, heads, size, causal, slices);
}
KERNEL_BOUNDS(attention_backward_q_160, ATTENTION_THREADS, 2)
(scalar_t* dq, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v, const float* lse,
 const float* delta, int tq, int tk, int heads, int size, int causal) {
    backward_q<160>(dq, dy, q, k, v, lse, delta, tq, tk, heads, size, causal);
}
KERNEL_BOUNDS(attention_backward_kv_160, ATTENTION_THREADS, 2)
(scalar_t* dk, scalar_t* dv, float* parts, const scalar_t* dy, const scalar_t* q, const scalar_t* k, const scalar_t* v,
 const float* lse, const float* delta, int tq, int tk, int heads, int size, int causal, int slices) {
    backward_kv<160>(dk, dv, parts, dy, q, k, v, lse, delta, tq, tk, heads, size, causal, slices);
}
