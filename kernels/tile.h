// Products of tiles, which matmul.cu and conv2d.cu are made of: a block makes SIZE x SIZE sums over k.
//
// It walks along k in steps of 64 bytes through a ring of STAGES tiles of both operands in shared memory, which
// asynchronous copies fill STAGES - 1 steps ahead; one barrier a step. 16-byte chunks of a row are permuted (xor with
// the row), so that the eight rows of a matrix that ldmatrix reads lie in different banks. bf16 and f16 go through the
// tensor cores with float sums (warps of 64 x 32 values in the large tile, 32 x 32 in the small one), float through FFMA
// with no TF32. Dynamic shared memory: STAGES * 2 * SIZE * 64 bytes.
#pragma once

CONSTANT(TILE_LARGE, 128);
CONSTANT(TILE_LARGE_THREADS, 256);
CONSTANT(TILE_SMALL, 64);
CONSTANT(TILE_SMALL_THREADS, 128);
CONSTANT(TILE_STAGES, 3);
// Bytes of k in a step.
CONSTANT(TILE_STEP_BYTES, 64);
// Tiles of m that blocks take in turn before they go on along n.
CONSTANT(TILE_GROUP, 8);

constexpr int STAGES = TILE_STAGES, STEP = TILE_STEP_BYTES / sizeof(scalar_t);

// Where the tile of this block begins, of [m, n] sums. All tiles lie along the grid's x, which alone has room for those
// of millions of rows. Blocks that run at the same time share operands in L2: they take TILE_GROUP tiles along m, then the
// next ones along n, so that what they read of both operands is about square; at the end of n the next group begins.
struct Corner {
    long long m;
    int n;
};
template <int SIZE> DEV Corner corner_of_block(long long m, int n) {
    const int tiles_m = (int)((m + SIZE - 1) / SIZE), tiles_n = (n + SIZE - 1) / SIZE;
    const int group = blockIdx.x / (TILE_GROUP * tiles_n), in_group = blockIdx.x % (TILE_GROUP * tiles_n);
    const int first = group * TILE_GROUP, height = min(tiles_m - first, TILE_GROUP);
    return {(long long)(first + in_group % height) * SIZE, in_group / height * SIZE};
}

// An operand: `lines` rows or columns that the product keeps, of `k` values each. Line by line in memory where LINES is
// set, value by value of all lines where it is not; `stride` values from one row of memory to the next.
struct Operand {
    const scalar_t* x;
    long long lines;
    int k, stride;
};
// Where chunk `chunk` of row `row` of a tile is: rows are lines of STEP values, or values of SIZE lines.
template <bool LINES, int SIZE> DEV int chunk_at(int row, int chunk) {
    return LINES ? row * STEP + (chunk ^ (row >> 1 & 3)) * PACK : row * SIZE + (chunk ^ (row & 7)) * PACK;
}

// Copies `count` values and zeros for the rest of a chunk: asynchronously where `from` is aligned.
DEV void copy_chunk(scalar_t* to, const scalar_t* from, int count, bool aligned) {
    if (aligned) {
        copy_async(to, from, count * (int)sizeof(scalar_t));
    } else {
#pragma unroll 1
        for (int j = 0; j < PACK; j++) to[j] = j < count ? from[j] : from_float<scalar_t>(0.f);
    }
}

// Begins to copy the tile of SIZE lines from `first` on and STEP values from `k` on; zeros where there are none.
template <bool LINES, int SIZE, int THREADS>
DEV void fetch_tile(scalar_t* tile, const Operand& from, long long first, int k) {
    constexpr int ROWS = LINES ? SIZE : STEP, CHUNKS = (LINES ? STEP : SIZE) / PACK;
    const bool aligned = aligned16(from.x) && from.stride % PACK == 0;
#pragma unroll
    for (int i = 0; i < ROWS * CHUNKS / THREADS; i++) {
        const int at = i * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
        const long long line = first + (LINES ? row : chunk * PACK);
        const int value = k + (LINES ? chunk * PACK : row);
        const long long left = LINES ? from.k - value : from.lines - line;
        const int count = line < from.lines && value < from.k ? (int)min(left, (long long)PACK) : 0;
        const scalar_t* source = from.x + (LINES ? line * from.stride + value : (long long)value * from.stride + line);
        copy_chunk(tile + chunk_at<LINES, SIZE>(row, chunk), count ? source : from.x, count, aligned);
    }
}

// ---- 16 bits: tensor cores ----
// Lane l of a fragment gives one row address of a matrix of 8 x 8 values; ldmatrix's own order of the matrices is that of
// mma's registers. Tiles whose rows are values of k are transposed on the way.
template <bool LINES, int SIZE> DEV void load_a(unsigned (&r)[4], const scalar_t* tile, int line, int k) {
    const int lane = threadIdx.x % 32;
    if (LINES) load_matrices(r, tile + chunk_at<true, SIZE>(line + lane % 16, k / 8 + lane / 16));
    else load_matrices_trans(r, tile + chunk_at<false, SIZE>(k + lane % 8 + lane / 16 * 8, line / 8 + lane / 8 % 2));
}
// Two fragments of b at once, for 16 lines.
template <bool LINES, int SIZE> DEV void load_b(unsigned (&r)[4], const scalar_t* tile, int line, int k) {
    const int lane = threadIdx.x % 32;
    if (LINES) load_matrices(r, tile + chunk_at<true, SIZE>(line + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
    else load_matrices_trans(r, tile + chunk_at<false, SIZE>(k + lane % 16, line / 8 + lane / 16));
}

// The sums of a thread. `step` takes in one step of k; `each` calls f(row, column, sum) with positions in the tile.
// A thread with column j of TURN has column j of the next TURN as well: `each_pair` calls f(row, column, sum, other sum)
// with those, columns counted without the others.
template <int SIZE, int THREADS, class T> struct Sums {
    static constexpr int WARPS_N = SIZE == 128 ? 4 : 2, M = SIZE / (THREADS / 32 / WARPS_N), N = SIZE / WARPS_N;
    static constexpr int TURN = 8;
    float d[M / 16][N / 8][4] = {};
};
template <bool A_LINES, bool B_LINES, int SIZE, int THREADS, class T>
DEV void step(Sums<SIZE, THREADS, T>& sums, const scalar_t* a, const scalar_t* b) {
    using S = Sums<SIZE, THREADS, T>;
    const int warp = threadIdx.x / 32, m = warp / S::WARPS_N * S::M, n = warp % S::WARPS_N * S::N;
#pragma unroll
    for (int k = 0; k < STEP; k += 16) {
        unsigned af[S::M / 16][4], bf[S::N / 8][2];
#pragma unroll
        for (int i = 0; i < S::M / 16; i++) load_a<A_LINES, SIZE>(af[i], a, m + i * 16, k);
#pragma unroll
        for (int j = 0; j < S::N / 16; j++) {
            unsigned r[4];
            load_b<B_LINES, SIZE>(r, b, n + j * 16, k);
            bf[2 * j][0] = r[0], bf[2 * j][1] = r[1], bf[2 * j + 1][0] = r[2], bf[2 * j + 1][1] = r[3];
        }
        multiply_tile(sums.d, af, bf, T{});
    }
}
template <int SIZE, int THREADS, class T, class F> DEV void each(const Sums<SIZE, THREADS, T>& sums, F f) {
    using S = Sums<SIZE, THREADS, T>;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int m = warp / S::WARPS_N * S::M + lane / 4, n = warp % S::WARPS_N * S::N + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < S::M / 16; i++)
#pragma unroll
        for (int j = 0; j < S::N / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) f(m + i * 16 + e / 2 * 8, n + j * 8 + e % 2, sums.d[i][j][e]);
}
template <int SIZE, int THREADS, class T, class F> DEV void each_pair(const Sums<SIZE, THREADS, T>& sums, F f) {
    using S = Sums<SIZE, THREADS, T>;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int m = warp / S::WARPS_N * S::M + lane / 4, n = warp % S::WARPS_N * (S::N / 2) + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < S::M / 16; i++)
#pragma unroll
        for (int j = 0; j < S::N / 8; j += 2)
#pragma unroll
            for (int e = 0; e < 4; e++)
                f(m + i * 16 + e / 2 * 8, n + j / 2 * 8 + e % 2, sums.d[i][j][e], sums.d[i][j + 1][e]);
}

// ---- float: a thread has every sixteenth row and every eighth or sixteenth column ----
template <int SIZE, int THREADS> struct Sums<SIZE, THREADS, float> {
    static constexpr int DOWN = 16, ACROSS = THREADS / DOWN, TURN = ACROSS;
    float d[SIZE / DOWN][SIZE / ACROSS] = {};
};
template <bool LINES, int SIZE> DEV float value_of(const scalar_t* tile, int line, int k) {
    const int row = LINES ? line : k, column = LINES ? k : line;
    return to_float(tile[chunk_at<LINES, SIZE>(row, column / PACK) + column % PACK]);
}
template <bool A_LINES, bool B_LINES, int SIZE, int THREADS>
DEV void step(Sums<SIZE, THREADS, float>& sums, const scalar_t* a, const scalar_t* b) {
    using S = Sums<SIZE, THREADS, float>;
    const int m = threadIdx.x / S::ACROSS, n = threadIdx.x % S::ACROSS;
    for (int k = 0; k < STEP; k++) {
        float x[SIZE / S::DOWN], w[SIZE / S::ACROSS];
#pragma unroll
        for (int i = 0; i < SIZE / S::DOWN; i++) x[i] = value_of<A_LINES, SIZE>(a, m + i * S::DOWN, k);
#pragma unroll
        for (int j = 0; j < SIZE / S::ACROSS; j++) w[j] = value_of<B_LINES, SIZE>(b, n + j * S::ACROSS, k);
#pragma unroll
        for (int i = 0; i < SIZE / S::DOWN; i++)
#pragma unroll
            for (int j = 0; j < SIZE / S::ACROSS; j++) sums.d[i][j] = fmaf(x[i], w[j], sums.d[i][j]);
    }
}
template <int SIZE, int THREADS, class F> DEV void each(const Sums<SIZE, THREADS, float>& sums, F f) {
    using S = Sums<SIZE, THREADS, float>;
    const int m = threadIdx.x / S::ACROSS, n = threadIdx.x % S::ACROSS;
#pragma unroll
    for (int i = 0; i < SIZE / S::DOWN; i++)
#pragma unroll
        for (int j = 0; j < SIZE / S::ACROSS; j++) f(m + i * S::DOWN, n + j * S::ACROSS, sums.d[i][j]);
}
template <int SIZE, int THREADS, class F> DEV void each_pair(const Sums<SIZE, THREADS, float>& sums, F f) {
    using S = Sums<SIZE, THREADS, float>;
    const int m = threadIdx.x / S::ACROSS, n = threadIdx.x % S::ACROSS;
#pragma unroll
    for (int i = 0; i < SIZE / S::DOWN; i++)
#pragma unroll
        for (int j = 0; j < SIZE / S::ACROSS; j += 2)
            f(m + i * S::DOWN, n + j / 2 * S::ACROSS, sums.d[i][j], sums.d[i][j + 1]);
}

// ---- the loop over k ----
// Takes `steps` steps into the sums. `fetch_a(tile, i)` and `fetch_b(tile, i)` begin to copy those of step i.
template <bool A_LINES, bool B_LINES, int SIZE, int THREADS, class A, class B>
DEV void product(Sums<SIZE, THREADS, scalar_t>& sums, int steps, A fetch_a, B fetch_b) {
    DYN_SHARED(scalar_t, ring);
    constexpr int TILE = SIZE * STEP;
    const auto fetch = [&](int i) {
        if (i < steps) {
            scalar_t* tiles = ring + i % STAGES * 2 * TILE;
            fetch_a(tiles, i);
            fetch_b(tiles + TILE, i);
        }
        copy_async_commit();
    };
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) fetch(i);
    for (int i = 0; i < steps; i++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads();  // step i has arrived for all threads, and all have done step i - 1, whose place is next filled
        fetch(i + STAGES - 1);
        const scalar_t* tiles = ring + i % STAGES * 2 * TILE;
        step<A_LINES, B_LINES, SIZE, THREADS>(sums, tiles, tiles + TILE);
    }
}
