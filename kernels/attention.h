// What attention.cu and attention_backward.cu are made of. A block keeps rows of one side of a head (queries, or keys) and
// walks along the other side in tiles, whose rows meet all of the kept ones. A warp has 16 M of the kept rows.
//
// Two tiles of each tensor lie in shared memory: asynchronous copies fill one while the other is multiplied; one barrier a
// tile. In 16 bits products go through the tensor cores with float sums. Kept rows are then loaded into registers once where
// there is room for them, and 32 rows a warp make each value that is read from shared memory take part in two products. In
// float, with FFMA, a warp keeps 16 rows, and they stay in shared memory.
//
// Sums stay in registers in the layout of mma.m16n8k16: sums[m][j] holds, of columns 8 j + 2 (lane % 4) and the next, row
// 16 m + lane / 4 in its first two values and row 16 m + lane / 4 + 8 in the others.
#pragma once

CONSTANT(ATTENTION_WARPS, 4);
CONSTANT(ATTENTION_THREADS, 128);
// Rows of a product, of which a warp keeps one or two, and of a tile for each warp.
CONSTANT(ATTENTION_ROWS, 16);
CONSTANT(ATTENTION_TILE, 8);
// Heads of more channels have 16 rows a warp, and half as many warps in float.
CONSTANT(ATTENTION_NARROW, 80);
// attention_backward_kv keeps both keys and values in registers up to this size of a head, keys alone up to the other.
CONSTANT(ATTENTION_KV_HELD, 40);
CONSTANT(ATTENTION_K_HELD, 64);

constexpr float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;

// Heads of up to D channels.
template <int D> struct Head {
    static constexpr bool FLOATS = sizeof(scalar_t) == 4;
    // Values of a row in shared memory: zeros past the head's size, up to a multiple of what a product takes; and 16 bytes
    // more, so that the eight rows that ldmatrix reads at once lie in different banks.
    static constexpr int WIDTH = (D + 15) / 16 * 16, STRIDE = WIDTH + PACK;
    static constexpr int M = FLOATS || D > ATTENTION_NARROW ? 1 : 2;
    static constexpr int WARPS = FLOATS && D > ATTENTION_NARROW ? ATTENTION_WARPS / 2 : ATTENTION_WARPS;
    // Rows that a block keeps, and those of a tile.
    static constexpr int ROWS = WARPS * M * ATTENTION_ROWS, TILE = WARPS * ATTENTION_TILE;
};

// Dynamic shared memory, in values: of KEPT tensors the block's rows, of which HELD are there only until they are in
// registers, so that the two tiles of two tensors take their place; then, in float, Scratch for each warp.
template <int D, int KEPT, int HELD> struct Layout {
    static constexpr int ROWS = Head<D>::ROWS * Head<D>::STRIDE, TILE = Head<D>::TILE * Head<D>::STRIDE;
    static constexpr int RING = (KEPT - HELD) * ROWS, END = RING + (HELD * ROWS > 4 * TILE ? HELD * ROWS : 4 * TILE);
};

// One side of attention, and the block's head in it: token i of the head begins at `at` + i * stride of [n, count, heads *
// size], its number of [n, heads, count] is `row` + i.
struct Side {
    int count, stride, size;
    long long at, row;
};
DEV Side side_of(int count, int heads, int size, int sample) {
    const int stride = heads * size;
    return {count, stride, size, (long long)sample * count * stride + blockIdx.y * size,
            ((long long)sample * heads + blockIdx.y) * count};
}
DEV Side side_of(int count, int heads, int size) { return side_of(count, heads, size, blockIdx.z); }

// ---- from memory to shared memory ----
// How a thread fetches N tensors of one side, a tile at a time: of one token, chunks of 16 bytes that are 4 chunks apart.
// What it knows is found once; a tile adds constants to it.
template <int D, int N> struct Walk {
    static constexpr int CHUNKS = Head<D>::WIDTH / PACK, EACH = (CHUNKS + 3) / 4;
    // The first of the next tile.
    const scalar_t* from[N];
    // Values to that of the tile after, and into a tile.
    int next, to;
    // Tokens from the thread's own on, and values of the head from its first chunk on.
    int left, size;
    int chunk;
    // A bit for each chunk of which the head has any.
    unsigned there;
    // All chunks are whole and at multiples of 16 bytes.
    bool aligned;
};
// Eight lanes have half a row each of two rows that are 4 apart, which then lie in different banks.
DEV int fetched_row() { return threadIdx.x / 32 * 8 + threadIdx.x % 32 / 8 + threadIdx.x / 4 % 2 * 4; }

// From token `first` on.
template <int D, int N> DEV Walk<D, N> walk(const scalar_t* const (&x)[N], const Side& side, int first) {
    using W = Walk<D, N>;
    W walk;
    const int row = fetched_row();
    walk.chunk = threadIdx.x % 4;
    walk.next = Head<D>::TILE * side.stride;
    walk.to = opaque(row * Head<D>::STRIDE + walk.chunk * PACK);
    walk.left = side.count - first - row;
    walk.size = side.size - walk.chunk * PACK;
    walk.there = 0;
#pragma unroll
    for (int i = 0; i < W::EACH; i++) walk.there |= (i * 4 * PACK < walk.size ? 1u : 0u) << i;
    walk.aligned = side.size % PACK == 0;
#pragma unroll
    for (int n = 0; n < N; n++) {
        walk.from[n] = x[n] + side.at + (long long)(first + row) * side.stride + walk.chunk * PACK;
        walk.aligned = walk.aligned && aligned16(x[n]);
    }
    return walk;
}
// Begins to copy the next tile of each tensor; zeros where there is no token and past the head's size.
template <int D, int N> DEV void fetch(Walk<D, N>& walk, scalar_t* const (&tiles)[N]) {
    using W = Walk<D, N>;
    if (walk.aligned) {
        const unsigned there = walk.left > 0 ? walk.there : 0;
#pragma unroll
        for (int i = 0; i < W::EACH; i++)
#pragma unroll
            for (int n = 0; n < N; n++)
                if (i * 4 + 3 < W::CHUNKS || i * 4 + walk.chunk < W::CHUNKS)
                    copy_async_if(tiles[n] + walk.to + i * 4 * PACK, walk.from[n] + i * 4 * PACK, there & 1u << i);
    } else {
        stay_a_branch();
#pragma unroll 1
        for (int i = 0; i < W::EACH * PACK; i++) {
            const int column = i / PACK * 4 * PACK + i % PACK;
            if (walk.chunk * PACK + column >= Head<D>::WIDTH) break;
#pragma unroll
            for (int n = 0; n < N; n++)
                tiles[n][walk.to + column] =
                    walk.left > 0 && column < walk.size ? opaque(walk.from[n])[column] : from_float<scalar_t>(0.f);
        }
    }
    walk.left -= Head<D>::TILE;
#pragma unroll
    for (int n = 0; n < N; n++) walk.from[n] += walk.next;
}
// Copies all rows that the block keeps, and waits until they are there for all threads.
template <int D, int N> DEV void fetch_kept(Walk<D, N> walk, scalar_t* const (&to)[N]) {
    scalar_t* tiles[N];
#pragma unroll
    for (int n = 0; n < N; n++) tiles[n] = to[n];
#pragma unroll 1
    for (int row = 0; row < Head<D>::ROWS; row += Head<D>::TILE) {
        fetch(walk, tiles);
#pragma unroll
        for (int n = 0; n < N; n++) tiles[n] += Head<D>::TILE * Head<D>::STRIDE;
    }
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
}
// Calls step(start, tile) for the tiles of two tensors from token `begin` to `end`: the first one's tile is at `tile`, the
// other's behind it. All threads may have to do with what was in the ring until now.
template <int D, class Step> DEV void each_tile(scalar_t* ring, Walk<D, 2> walk, int begin, int end, Step step) {
    constexpr int TILE = Head<D>::TILE * Head<D>::STRIDE;
    __syncthreads();
    fetch(walk, {ring, ring + TILE});
    copy_async_commit();
    int now = 0;
#pragma unroll 1
    for (int start = begin; start < end; start += Head<D>::TILE) {
        copy_async_wait<0>();
        __syncthreads();  // the tile has arrived for all threads, and all have done with the one before
        const scalar_t* tile = ring + now;
        now = 2 * TILE - now;
        if (start + Head<D>::TILE < end) {
            fetch(walk, {ring + now, ring + now + TILE});
            copy_async_commit();
        }
        step(start, tile);
    }
    copy_async_wait<0>();  // where there was no step
    __syncthreads();
}

// ---- products ----
// The rows that a warp keeps, as operand a: HELD in registers, or in shared memory.
template <int D, bool HELD> struct Rows {
    unsigned a[Head<D>::WIDTH / 16][Head<D>::M][4];
};
template <int D> struct Rows<D, false> {
    const scalar_t* x;
};
// Those of the warp, where all of the block's begin at x.
template <int D> DEV const scalar_t* of_warp(const scalar_t* x) {
    return x + threadIdx.x / 32 * ATTENTION_ROWS * Head<D>::M * Head<D>::STRIDE;
}
template <int D> DEV void load_rows(unsigned (&a)[Head<D>::M][4], const scalar_t* x, int k) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < Head<D>::M; m++)
        load_matrices(a[m], x + (m * 16 + lane % 16) * Head<D>::STRIDE + k + lane / 16 * 8);
}
template <int D> DEV void keep(Rows<D, true>& rows, const scalar_t* x) {
#pragma unroll
    for (int k = 0; k < Head<D>::WIDTH; k += 16) load_rows<D>(rows.a[k / 16], of_warp<D>(x), k);
}
template <int D> DEV void keep(Rows<D, false>& rows, const scalar_t* x) { rows.x = of_warp<D>(x); }
template <int D, int M> DEV void take(unsigned (&a)[M][4], const Rows<D, true>& rows, int k) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 4; i++) a[m][i] = rows.a[k / 16][m][i];
}
template <int D, int M> DEV void take(unsigned (&a)[M][4], const Rows<D, false>& rows, int k) {
    load_rows<D>(a, rows.x, k);
}

// Where in a tile a lane's rows of matrices are: of a tile whose rows are multiplied, and of one whose rows are summed.
struct Places {
    int dot, weigh;
};
template <int D> DEV Places places() {
    const int lane = threadIdx.x % 32;
    return {opaque((lane % 8 + lane / 16 * 8) * Head<D>::STRIDE + lane / 8 % 2 * 8),
            opaque(lane % 16 * Head<D>::STRIDE + lane / 16 * 8)};
}

// sums [16 M, 8 N] += kept rows times 8 N rows of a tile, over the head's values.
template <int D, bool HELD, int M, int N, class T>
DEV void dot(float (&sums)[M][N][4], const Rows<D, HELD>& rows, const T* tile, const Places& at) {
#pragma unroll
    for (int k = 0; k < Head<D>::WIDTH; k += 16) {
        unsigned a[M][4], b[N][2];
        take<D>(a, rows, k);
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            unsigned r[4];
            load_matrices(r, tile + at.dot + j * 8 * Head<D>::STRIDE + k);
            b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
        }
        multiply_tile(sums, a, b, T{});
    }
}
template <int D, int N>
DEV void dot(float (&sums)[1][N][4], const Rows<D, false>& rows, const float* tile, const Places&) {
    const int lane = threadIdx.x % 32;
    for (int k = 0; k < D; k++) {
        const float x[2] = {to_float(rows.x[lane / 4 * Head<D>::STRIDE + k]),
                            to_float(rows.x[(lane / 4 + 8) * Head<D>::STRIDE + k])};
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                sums[0][j][e] = fmaf(x[e / 2], tile[(j * 8 + lane % 4 * 2 + e % 2) * Head<D>::STRIDE + k], sums[0][j][e]);
    }
}

// What a warp needs in shared memory to multiply weights: nothing in 16 bits, 16 rows of floats otherwise.
template <int D> struct Scratch {
    static constexpr int FLOATS = Head<D>::FLOATS ? ATTENTION_ROWS * Head<D>::TILE : 0;
};
template <int D> DEV float* scratch_of_warp(scalar_t* begin) {
    return reinterpret_cast<float*>(begin) + threadIdx.x / 32 * Scratch<D>::FLOATS;
}

// sums [16 M, 8 V] += weights [16 M, 8 N] times 8 N rows of a tile. In 16 bits weights are rounded to scalar_t, as
// FlashAttention does.
template <int D, int M, int V, int N, class T>
DEV void weigh(float (&sums)[M][V][4], const float (&weights)[M][N][4], const T* tile, const Places& at, float*) {
#pragma unroll
    for (int k = 0; k < N; k += 2) {
        unsigned a[M][4], b[V][2];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float(&pair)[4] = weights[m][k + i / 2];
                a[m][i] = pack2(pair[i % 2 * 2], pair[i % 2 * 2 + 1], T{});
            }
#pragma unroll
        for (int j = 0; j < V; j += 2) {
            unsigned r[4];
            load_matrices_trans(r, tile + at.weigh + k * 8 * Head<D>::STRIDE + j * 8);
            b[j][0] = r[0], b[j][1] = r[1];
            if (j + 1 < V) b[j + 1][0] = r[2], b[j + 1][1] = r[3];
        }
        multiply_tile(sums, a, b, T{});
    }
}
template <int D, int V, int N>
DEV void weigh(float (&sums)[1][V][4], const float (&weights)[1][N][4], const float* tile, const Places&, float* scratch) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            scratch[(lane / 4 + e / 2 * 8) * 8 * N + j * 8 + lane % 4 * 2 + e % 2] = weights[0][j][e];
    __syncwarp();
    for (int k = 0; k < 8 * N; k++) {
        const float w[2] = {scratch[lane / 4 * 8 * N + k], scratch[(lane / 4 + 8) * 8 * N + k]};
#pragma unroll
        for (int j = 0; j < V; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                sums[0][j][e] = fmaf(w[e / 2], tile[k * Head<D>::STRIDE + j * 8 + lane % 4 * 2 + e % 2], sums[0][j][e]);
    }
    __syncwarp();
}

// ---- rows of sums ----
// The value of a row, for all four lanes that have parts of it.
DEV float row_sum(float x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
}
DEV float row_max(float x) {
    x = fmaxf(x, shuffle_xor(x, 1));
    return fmaxf(x, shuffle_xor(x, 2));
}

template <class T> DEV void put_pair(T* to, float first, float second) {
    *reinterpret_cast<unsigned*>(to) = pack2(first, second, T{});
}
DEV void put_pair(float* to, float first, float second) { to[0] = first, to[1] = second; }
// Writes the warp's rows, whose first is token `first`, each times its factor: through shared memory where the ring was, so
// that 16 bytes leave a thread at a time. All warps have done with the ring.
template <int D, int M, int V>
DEV void store_rows(scalar_t* y, const Side& side, int first, const float (&sums)[M][V][4], const float (&factors)[M][2],
                    scalar_t* ring) {
    using H = Head<D>;
    constexpr int CHUNKS = D / PACK;
    const int lane = threadIdx.x % 32;
    scalar_t* stage = ring + threadIdx.x / 32 * ATTENTION_ROWS * M * H::STRIDE;
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int j = 0; j < V; j++)
                put_pair(stage + (m * 16 + lane / 4 + h * 8) * H::STRIDE + j * 8 + lane % 4 * 2,
                         sums[m][j][2 * h] * factors[m][h], sums[m][j][2 * h + 1] * factors[m][h]);
    __syncwarp();
    const bool aligned = side.size % PACK == 0 && aligned16(y);
#pragma unroll 1
    for (int at = lane; at < ATTENTION_ROWS * M * CHUNKS; at += 32) {
        const int row = at / CHUNKS, column = at % CHUNKS * PACK;
        if (first + row >= side.count || column >= side.size) continue;
        const scalar_t* from = stage + row * H::STRIDE + column;
        scalar_t* to = y + side.at + (long long)(first + row) * side.stride + column;
        if (aligned) {
            *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
        } else {
#pragma unroll 1
            for (int i = 0; i < min(PACK, side.size - column); i++) to[i] = from[i];
        }
    }
}
// The same into float sums of a part, from where they are.
template <int M, int V>
DEV void store_part(float* part, const Side& side, int first, const float (&sums)[M][V][4], float factor) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = first + m * 16 + lane / 4 + h * 8;
            if (row >= side.count) continue;
            float* to = part + side.at + (long long)row * side.stride + lane % 4 * 2;
#pragma unroll
            for (int j = 0; j < V; j++)
#pragma unroll
                for (int e = 0; e < 2; e++)
                    if (j * 8 + lane % 4 * 2 + e < side.size) to[j * 8 + e] = sums[m][j][2 * h + e] * factor;
        }
}
