// Products of tiles, which matmul.cu and conv2d.cu are made of: a block makes ROWS x COLUMNS sums over k.
//
// It walks along k in steps of 64 bytes through a ring of STAGES tiles of both operands in shared memory, which
// asynchronous copies fill STAGES - 1 steps ahead; one barrier a step. 16-byte chunks of a row are permuted (xor with
// the row), so that the eight rows of a matrix that ldmatrix reads lie in different banks. bf16 and f16 go through the
// tensor cores with float sums (warps of 64 x 64 values in the tall and the large tile, 32 x 32 in the small one), float through
// FFMA with no TF32. Dynamic shared memory: STAGES * (ROWS + COLUMNS) * 64 bytes.
//
// walk.h fetches operands for this loop, and stores what it made. Where it does, a step of the large tile is 64 tensor-core
// instructions among some 170, which read 6 cycles of shared memory each: that and the tensor cores themselves are the
// limit, no longer the instructions.
#pragma once

// The tall tile has TILE_LARGE columns and twice the rows: a block reads three quarters as much for each sum.
CONSTANT(TILE_TALL, 256);
CONSTANT(TILE_TALL_THREADS, 256);
CONSTANT(TILE_LARGE, 128);
CONSTANT(TILE_LARGE_THREADS, 128);
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
template <int ROWS, int COLUMNS> DEV Corner corner_of_block(long long m, int n) {
    const int tiles_m = (int)((m + ROWS - 1) / ROWS), tiles_n = (n + COLUMNS - 1) / COLUMNS;
    const int group = blockIdx.x / (TILE_GROUP * tiles_n), in_group = blockIdx.x % (TILE_GROUP * tiles_n);
    const int first = group * TILE_GROUP, height = min(tiles_m - first, TILE_GROUP);
    return {(long long)(first + in_group % height) * ROWS, in_group / height * COLUMNS};
}

// Steps of k that slice `slice` of so many takes, in order; the last ones may have fewer, or none.
struct Slice {
    int first, steps;
};
DEV Slice slice_of(int slice, int slices, int steps) {
    const int each = (steps + slices - 1) / slices, first = min(slice * each, steps);
    return {first, min(each, steps - first)};
}

// Where chunk `chunk` of row `row` of a tile is. Rows are lines (rows or columns that the product keeps) of STEP values of k
// where LINES is set, or values of k of SIZE lines where it is not; floats of these, which ldmatrix does not read, are not
// permuted. Rows that are 8 apart have the same permutation.
template <bool LINES, int SIZE> DEV int chunk_at(int row, int chunk) {
    constexpr int MASK = LINES ? 3 : sizeof(scalar_t) == 4 ? 0 : 7;
    return row * (LINES ? STEP : SIZE) + (chunk ^ ((LINES ? row >> 1 : row) & MASK)) * PACK;
}
DEV scalar_t* shifted(scalar_t* p, long long bytes) {
    return reinterpret_cast<scalar_t*>(reinterpret_cast<char*>(p) + bytes);
}
DEV const scalar_t* shifted(const scalar_t* p, long long bytes) {
    return reinterpret_cast<const scalar_t*>(reinterpret_cast<const char*>(p) + bytes);
}

// The sums of a thread, which are those of its warp's M x N values. A thread with column j of TURN has column j of the next
// TURN as well: `each_pair` calls f(row, column, sum, other sum) with those, columns counted without the others.
template <int ROWS, int COLUMNS, int THREADS, class T> struct Sums {
    static constexpr int WARPS_N = 2, M = ROWS / (THREADS / 32 / WARPS_N), N = COLUMNS / WARPS_N;
    static constexpr int TURN = 8;
    float d[M / 16][N / 8][4] = {};
};
// Of the tile's first row and column, those that the thread's warp has, and its own sums d[0][0] lie at.
template <class S> DEV int warp_row() { return threadIdx.x / 32 / S::WARPS_N * S::M; }
template <class S> DEV int warp_column() { return threadIdx.x / 32 % S::WARPS_N * S::N; }
template <class S> DEV int own_row() { return warp_row<S>() + threadIdx.x % 32 / 4; }
template <class S> DEV int own_column() { return warp_column<S>() + threadIdx.x % 4 * 2; }

// ---- 16 bits: tensor cores ----
// Bytes into a tile where a lane's rows of matrices are, of COUNT blocks of 16 lines: found once. Of lines, a block differs by
// a constant and 16 values of k by a permutation; of values it is the other way round.
template <bool LINES, int SIZE, int COUNT> struct Places {
    int at[LINES ? STEP / 16 : COUNT];
};
template <bool LINES, int SIZE, int COUNT> DEV int place(const Places<LINES, SIZE, COUNT>& places, int block, int k) {
    return places.at[LINES ? k / 16 : block] + (LINES ? block * 16 * STEP : k * SIZE) * (int)sizeof(scalar_t);
}
// Lane l of a fragment gives one row address of a matrix of 8 x 8 values; ldmatrix's own order of the matrices is that of
// mma's registers. `a` has matrices of lines 0 to 7 and 8 to 15 before those of the next 8 values of k, `b` the other way.
template <bool LINES, int SIZE, int COUNT> DEV Places<LINES, SIZE, COUNT> places(int line, bool a) {
    Places<LINES, SIZE, COUNT> places;
    const int lane = threadIdx.x % 32, lines = a ? lane / 8 % 2 : lane / 16, values = a ? lane / 16 : lane / 8 % 2;
#pragma unroll
    for (int i = 0; i < (LINES ? STEP / 16 : COUNT); i++)
        places.at[i] = (int)sizeof(scalar_t) * (LINES ? chunk_at<LINES, SIZE>(line + lines * 8 + lane % 8, i * 2 + values)
                                                      : chunk_at<LINES, SIZE>(values * 8 + lane % 8, line / 8 + i * 2 + lines));
    return places;
}
template <bool LINES> DEV void load_fragment(unsigned (&r)[4], const scalar_t* at) {
    if (LINES) load_matrices(r, at);
    else load_matrices_trans(r, at);
}
// What a thread knows of both operands' tiles.
template <bool A_LINES, bool B_LINES, int ROWS, int COLUMNS, int THREADS, class T> struct Fragments {
    using S = Sums<ROWS, COLUMNS, THREADS, T>;
    Places<A_LINES, ROWS, S::M / 16> a = places<A_LINES, ROWS, S::M / 16>(warp_row<S>(), true);
    Places<B_LINES, COLUMNS, S::N / 16> b = places<B_LINES, COLUMNS, S::N / 16>(warp_column<S>(), false);
};
// Takes one step of k into the sums: tile of a at `tiles`, of b behind it.
template <bool A_LINES, bool B_LINES, int ROWS, int COLUMNS, int THREADS, class T>
DEV void step(Sums<ROWS, COLUMNS, THREADS, T>& sums, const Fragments<A_LINES, B_LINES, ROWS, COLUMNS, THREADS, T>& at,
              const scalar_t* tiles) {
    using S = Sums<ROWS, COLUMNS, THREADS, T>;
#pragma unroll
    for (int k = 0; k < STEP; k += 16) {
        unsigned a[S::M / 16][4], b[S::N / 8][2];
#pragma unroll
        for (int i = 0; i < S::M / 16; i++) load_fragment<A_LINES>(a[i], shifted(tiles, place(at.a, i, k)));
#pragma unroll
        for (int j = 0; j < S::N / 16; j++) {
            unsigned r[4];
            load_fragment<B_LINES>(r, shifted(tiles + ROWS * STEP, place(at.b, j, k)));
            b[2 * j][0] = r[0], b[2 * j][1] = r[1], b[2 * j + 1][0] = r[2], b[2 * j + 1][1] = r[3];
        }
        multiply_tile(sums.d, a, b, T{});
    }
}
// Calls f(row, column, sum) for each sum, with positions in the tile.
template <int ROWS, int COLUMNS, int THREADS, class T, class F>
DEV void each(const Sums<ROWS, COLUMNS, THREADS, T>& sums, F f) {
    using S = Sums<ROWS, COLUMNS, THREADS, T>;
#pragma unroll
    for (int i = 0; i < S::M / 16; i++)
#pragma unroll
        for (int j = 0; j < S::N / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                f(own_row<S>() + i * 16 + e / 2 * 8, own_column<S>() + j * 8 + e % 2, sums.d[i][j][e]);
}
template <int ROWS, int COLUMNS, int THREADS, class T, class F>
DEV void each_pair(const Sums<ROWS, COLUMNS, THREADS, T>& sums, F f) {
    using S = Sums<ROWS, COLUMNS, THREADS, T>;
    const int m = own_row<S>(), n = warp_column<S>() / 2 + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < S::M / 16; i++)
#pragma unroll
        for (int j = 0; j < S::N / 8; j += 2)
#pragma unroll
            for (int e = 0; e < 4; e++)
                f(m + i * 16 + e / 2 * 8, n + j / 2 * 8 + e % 2, sums.d[i][j][e], sums.d[i][j + 1][e]);
}

// ---- float: a thread has every sixteenth row and every eighth column ----
template <int ROWS, int COLUMNS, int THREADS> struct Sums<ROWS, COLUMNS, THREADS, float> {
    static constexpr int DOWN = 16, ACROSS = THREADS / DOWN, TURN = ACROSS;
    float d[ROWS / DOWN][COLUMNS / ACROSS] = {};
};
template <bool A_LINES, bool B_LINES, int ROWS, int COLUMNS, int THREADS> struct Fragments<A_LINES, B_LINES, ROWS, COLUMNS, THREADS, float> {};
template <bool LINES, int SIZE> DEV float value_of(const scalar_t* tile, int line, int k) {
    const int row = LINES ? line : k, column = LINES ? k : line;
    return to_float(tile[chunk_at<LINES, SIZE>(row, column / PACK) + column % PACK]);
}
template <bool A_LINES, bool B_LINES, int ROWS, int COLUMNS, int THREADS>
DEV void step(Sums<ROWS, COLUMNS, THREADS, float>& sums, const Fragments<A_LINES, B_LINES, ROWS, COLUMNS, THREADS, float>&,
              const scalar_t* tiles) {
    using S = Sums<ROWS, COLUMNS, THREADS, float>;
    const scalar_t *a = tiles, *b = tiles + ROWS * STEP;
    const int m = threadIdx.x / S::ACROSS, n = threadIdx.x % S::ACROSS;
    for (int k = 0; k < STEP; k++) {
        float x[ROWS / S::DOWN], w[COLUMNS / S::ACROSS];
#pragma unroll
        for (int i = 0; i < ROWS / S::DOWN; i++) x[i] = value_of<A_LINES, ROWS>(a, m + i * S::DOWN, k);
#pragma unroll
        for (int j = 0; j < COLUMNS / S::ACROSS; j++) w[j] = value_of<B_LINES, COLUMNS>(b, n + j * S::ACROSS, k);
#pragma unroll
        for (int i = 0; i < ROWS / S::DOWN; i++)
#pragma unroll
            for (int j = 0; j < COLUMNS / S::ACROSS; j++) sums.d[i][j] = fmaf(x[i], w[j], sums.d[i][j]);
    }
}
template <int ROWS, int COLUMNS, int THREADS, class F>
DEV void each(const Sums<ROWS, COLUMNS, THREADS, float>& sums, F f) {
    using S = Sums<ROWS, COLUMNS, THREADS, float>;
    const int m = threadIdx.x / S::ACROSS, n = threadIdx.x % S::ACROSS;
#pragma unroll
    for (int i = 0; i < ROWS / S::DOWN; i++)
#pragma unroll
        for (int j = 0; j < COLUMNS / S::ACROSS; j++) f(m + i * S::DOWN, n + j * S::ACROSS, sums.d[i][j]);
}
template <int ROWS, int COLUMNS, int THREADS, class F>
DEV void each_pair(const Sums<ROWS, COLUMNS, THREADS, float>& sums, F f) {
    using S = Sums<ROWS, COLUMNS, THREADS, float>;
    const int m = threadIdx.x / S::ACROSS, n = threadIdx.x % S::ACROSS;
#pragma unroll
    for (int i = 0; i < ROWS / S::DOWN; i++)
#pragma unroll
        for (int j = 0; j < COLUMNS / S::ACROSS; j += 2)
            f(m + i * S::DOWN, n + j / 2 * S::ACROSS, sums.d[i][j], sums.d[i][j + 1]);
}

// ---- the loop over k ----
// Takes `steps` steps into the sums. `fetch(a, b)` begins to copy the tiles of the next step, in order.
template <bool A_LINES, bool B_LINES, int ROWS, int COLUMNS, int THREADS, class Fetch>
DEV void product(Sums<ROWS, COLUMNS, THREADS, scalar_t>& sums, int steps, Fetch fetch) {
    DYN_SHARED(scalar_t, ring);
    constexpr int PAIR = (ROWS + COLUMNS) * STEP * (int)sizeof(scalar_t), END = STAGES * PAIR;
    int left = steps, put = 0, get = 0;
    const auto fetch_next = [&] {
        if (left > 0) {
            scalar_t* tiles = shifted(ring, put);
            fetch(tiles, tiles + ROWS * STEP);
            put = put + PAIR == END ? 0 : put + PAIR;
            left--;
        }
        copy_async_commit();
    };
#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) fetch_next();
    const Fragments<A_LINES, B_LINES, ROWS, COLUMNS, THREADS, scalar_t> at;
#pragma unroll 1
    for (int i = 0; i < steps; i++) {
        copy_async_wait<STAGES - 2>();
        __syncthreads();  // step i has arrived for all threads, and all have done step i - 1, whose place is next filled
        fetch_next();
        step(sums, at, shifted(ring, get));
        get = get + PAIR == END ? 0 : get + PAIR;
    }
}
