// The skeleton of kernels for compute capability 9.0 (after NVIDIA/cutlass, "warp-specialized persistent" kernels, and DeepGEMM):
// a block of three groups of four warps, one on a multiprocessor, which makes tiles of PIPE_ROWS x PIPE_COLUMNS sums over k.
//
//   group 2     the producer gives its registers away; one thread walks over tiles and steps of PIPE_STEP values of k and copies
//               both operands of a step into the next stage of a ring, by tensor maps
//   groups 0, 1 take half of a tile's rows each: per step 8 wgmma over 16 of k, 64 rows and all columns; then the epilogue
//
// Two barriers a stage: `full` ends a phase when the producer has expected a step's bytes and they have landed, `empty` when all
// eight warps that multiply have done so. The producer runs ahead of them over tiles, so the copies of the next tile overlap the
// epilogue of this one. What differs between kernels is which copies the producer makes and what becomes of the sums.
//
// In shared memory: the ring, then a strip of 16 x 64 values for each warp of groups 0 and 1, through which its rows leave in 16
// bytes a thread.
#pragma once

CONSTANT(PIPE_THREADS, 384);
CONSTANT(PIPE_ROWS, 256);
CONSTANT(PIPE_COLUMNS, 160);
CONSTANT(PIPE_STEP, 64);
CONSTANT(PIPE_STAGES, 4);
// Bytes of dynamic shared memory: PIPE_STAGES stages and eight strips.
CONSTANT(PIPE_SHARED, 229376);
// Tiles of m that blocks take in turn before they go on along n.
CONSTANT(PIPE_GROUP, 8);
// Columns of a box of an operand whose rows are values of k: 64 bytes.
CONSTANT(PIPE_BOX_COLUMNS, 32);

constexpr int PIPE_A = PIPE_ROWS * PIPE_STEP * 2, PIPE_STAGE = PIPE_A + PIPE_COLUMNS * PIPE_STEP * 2, STRIP = 16 * 128;
static_assert(PIPE_STAGES * PIPE_STAGE + 8 * STRIP == PIPE_SHARED, "what launches give");

// ---- the ring ----
struct Ring {
    unsigned char* tiles;
    Barrier* barriers;
};
DEV Barrier* full(const Ring& ring, int stage) { return ring.barriers + stage; }
DEV Barrier* empty(const Ring& ring, int stage) { return ring.barriers + PIPE_STAGES + stage; }
// Where a side of the ring stands: the stage, and the parity of its phase. Both sides begin alike.
struct Turn {
    int stage = 0;
    unsigned parity = 0;
};
DEV void next(Turn& turn) {
    if (++turn.stage == PIPE_STAGES) turn.stage = 0, turn.parity ^= 1;
}
DEV Ring make_ring(unsigned char* tiles) {
    SHARED_ARRAY(Barrier, full_then_empty, 2 * PIPE_STAGES);
    if (threadIdx.x == 0)
        for (int i = 0; i < PIPE_STAGES; i++) {
            barrier_init(full_then_empty + i, 1);
            barrier_init(full_then_empty + PIPE_STAGES + i, 8);
        }
    barriers_ready();
    return {tiles, full_then_empty};
}
// The producer's next stage: copy(tile of a, tile of b, barrier) begins to copy both, whole.
template <class Copy> DEV void fill(const Ring& ring, Turn& turn, Copy copy) {
    unsigned char* stage = ring.tiles + turn.stage * PIPE_STAGE;
    // A new barrier's phase of parity 1 counts as ended: the first round finds every stage empty.
    barrier_wait(empty(ring, turn.stage), turn.parity ^ 1);
    barrier_expect(full(ring, turn.stage), PIPE_STAGE);
    copy(stage, stage + PIPE_A, full(ring, turn.stage));
    next(turn);
}

// ---- sums ----
// Of a thread of groups 0 and 1: 64 rows of its group twice.
struct PipeSums {
    float d[2][PIPE_COLUMNS / 2] = {};
};
// Where the tensor cores find a group's rows of a, and b, in the ring's first stage. B_ROWS: whether b's rows are columns of the
// product, with their values of k.
template <bool B_ROWS> struct Operands;
template <> struct Operands<true> {
    RowsOfK<128> a, b;
};
template <> struct Operands<false> {
    RowsOfK<128> a;
    RowsOfN<PIPE_BOX_COLUMNS * 2, PIPE_STEP> b;
};
template <bool B_ROWS> DEV Operands<B_ROWS> operands(const Ring& ring, int group) {
    using B = decltype(Operands<B_ROWS>::b);
    return {RowsOfK<128>(ring.tiles + group * (PIPE_A / 2)), B(ring.tiles + PIPE_A)};
}
// Takes the next stage into the sums.
template <bool B_ROWS> DEV void take(PipeSums& sums, const Ring& ring, Turn& turn, const Operands<B_ROWS>& first) {
    const int at = turn.stage * PIPE_STAGE;
    barrier_wait(full(ring, turn.stage), turn.parity);
    products_begin();
#pragma unroll
    for (int h = 0; h < 2; h++)
        multiply_rows<PIPE_COLUMNS, PIPE_STEP / 16>(sums.d[h], moved(first.a, at + h * (PIPE_A / 4)), moved(first.b, at),
                                                    scalar_t{});
    products_commit();
    products_wait<0>();
    if (threadIdx.x % 32 == 0) barrier_arrive(empty(ring, turn.stage));
    next(turn);
}

// ---- results ----
// What becomes of a sum: alpha sum + bias [n] + t [images, n] + residual, which is like y; all but the sum may be missing.
struct Finish {
    float alpha;
    const float* bias;
    const scalar_t* t;
    unsigned rows_of_t;  // rows of y for each row of t; where there is t, y has less than 2^32
    const scalar_t* residual;
};
// Where chunk `chunk` of row `row` of a strip is: eight rows of one chunk lie in different banks.
DEV unsigned char* chunk_of(unsigned char* strip, int row, int chunk) { return strip + row * 128 + ((chunk ^ (row & 7)) << 4); }

// f(row, chunk) for the 16-byte chunks of a strip that this lane moves.
template <int CHUNKS, class F> DEV void each_chunk(F f) {
#pragma unroll
    for (int i = 0; i < 16 * CHUNKS / 32; i++) f((i * 32 + threadIdx.x % 32) / CHUNKS, threadIdx.x % CHUNKS);
}
// WIDTH columns of 16 rows of a warp, from column `first` of y [.., n] on; `d` are their sums. t_of[h]: the row of t for this
// lane's row h, where there is t.
template <int WIDTH, class Line>
DEV void finish_strip(const float* d, scalar_t* y, int n, int first, const Finish& with, const scalar_t* const (&t_of)[2],
                      unsigned char* strip, Line line) {
    const int own = threadIdx.x % 32 / 4, pair = 2 * (threadIdx.x % 4), pairs = (n - first + 7) / 8;
    if (with.residual) {
        each_chunk<WIDTH / 8>([&](int row, int chunk) {
            const long long at = line(row);
            uint4 bits = {0, 0, 0, 0};
            if (at >= 0 && chunk < pairs) bits = *reinterpret_cast<const uint4*>(with.residual + at * n + first + chunk * 8);
            *reinterpret_cast<uint4*>(chunk_of(strip, row, chunk)) = bits;
        });
        __syncwarp();
    }
    float bias[WIDTH / 8][2] = {};
    if (with.bias) {
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j++)
            if (j < pairs) bias[j][0] = with.bias[first + j * 8 + pair], bias[j][1] = with.bias[first + j * 8 + pair + 1];
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        unsigned char* staged = strip + 2 * pair;
        float v[WIDTH / 8][2];
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) v[j][e] = with.alpha * d[j * 4 + 2 * h + e] + bias[j][e];
        if (t_of[h]) {
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j++)
                if (j < pairs) add_pair(v[j], t_of[h] + first + j * 8 + pair);
        }
        if (with.residual) {
#pragma unroll
            for (int j = 0; j < WIDTH / 8; j++)
                add_pair(v[j], reinterpret_cast<const scalar_t*>(chunk_of(staged, own + 8 * h, j)));
        }
#pragma unroll
        for (int j = 0; j < WIDTH / 8; j++)
            *reinterpret_cast<unsigned*>(chunk_of(staged, own + 8 * h, j)) = pack2(v[j][0], v[j][1], scalar_t{});
    }
    __syncwarp();
    each_chunk<WIDTH / 8>([&](int row, int chunk) {
        const long long at = line(row);
        if (at >= 0 && chunk < pairs)
            *reinterpret_cast<uint4*>(y + at * n + first + chunk * 8) =
                *reinterpret_cast<const uint4*>(chunk_of(strip, row, chunk));
    });
    __syncwarp();  // the next strip goes through the same memory
}
// Stores rows of y [.., n] from the sums: row r of the tile is line(r) of y, or none where that is negative. n is a multiple of
// 8, and y and residual are aligned.
template <class Line>
DEV void finish(const PipeSums& sums, const Ring& ring, scalar_t* y, int n, int first, const Finish& with, Line line) {
    const int warp = threadIdx.x / 32;
    unsigned char* strip = ring.tiles + PIPE_STAGES * PIPE_STAGE + warp * STRIP;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int row = warp / 4 * (PIPE_ROWS / 2) + h * 64 + warp % 4 * 16;
        const auto own = [&](int r) { return line(row + r); };
        const scalar_t* t_of[2] = {};
        for (int i = 0; with.t && i < 2; i++)
            if (const long long at = own(threadIdx.x % 32 / 4 + 8 * i); at >= 0) t_of[i] = with.t + (unsigned)at / with.rows_of_t * n;
        finish_strip<64>(sums.d[h], y, n, first, with, t_of, strip, own);
        finish_strip<64>(sums.d[h] + 32, y, n, first + 64, with, t_of, strip, own);
        finish_strip<32>(sums.d[h] + 64, y, n, first + 128, with, t_of, strip, own);
    }
}

// ---- the block ----
// Where tile `tile` of [m, n] sums begins: PIPE_GROUP tiles along m, then the next ones along n, so that blocks that run at the
// same time share operands in L2.
struct PipeCorner {
    int m, n;
};
DEV int tiles_of(int m, int n) { return (m + PIPE_ROWS - 1) / PIPE_ROWS * ((n + PIPE_COLUMNS - 1) / PIPE_COLUMNS); }
DEV PipeCorner corner_of(int tile, int m, int n) {
    const int tiles_m = (m + PIPE_ROWS - 1) / PIPE_ROWS, tiles_n = (n + PIPE_COLUMNS - 1) / PIPE_COLUMNS;
    const int group = tile / (PIPE_GROUP * tiles_n), in_group = tile % (PIPE_GROUP * tiles_n);
    const int first = group * PIPE_GROUP, height = min(tiles_m - first, PIPE_GROUP);
    return {(first + in_group % height) * PIPE_ROWS, in_group / height * PIPE_COLUMNS};
}
// Runs produce(ring, turn, corner) by one thread, and consume(ring, turn, group, corner) by groups 0 and 1, for each tile that
// this block makes: every gridDim.x-th. Both take as many stages of the ring for a tile.
template <class Produce, class Consume> DEV void pipeline(int m, int n, Produce produce, Consume consume) {
    DYN_SHARED_TILES(tiles);
    const Ring ring = make_ring(tiles);
    const int group = uniform(threadIdx.x / 128), all = tiles_of(m, n);
    Turn turn;
    if (group == 2) {
        registers_less<24>();
        if (threadIdx.x % 128 == 0)
            for (int tile = blockIdx.x; tile < all; tile += gridDim.x) produce(ring, turn, corner_of(tile, m, n));
    } else {
        registers_more<240>();
        for (int tile = blockIdx.x; tile < all; tile += gridDim.x) consume(ring, turn, group, corner_of(tile, m, n));
    }
}
