// Kernels that test the simulator's checks of what kernels for compute capability 9.0 alone use (hopper.h): right where `bug` is
// 0, with one mistake each where it is not. Host only.
#include "kernel.h"
#include "hopper.h"

CONSTANT(PLANTED_GROUPS, 384);
CONSTANT(PLANTED_COLUMNS, 32);
CONSTANT(PLANTED_STEP, 64);
CONSTANT(PLANTED_STAGES, 2);
// Bytes of a stage: tiles of 128 and 32 rows.
CONSTANT(PLANTED_STAGE, 20480);

constexpr int OF_A = 64 * PLANTED_STEP * 2;

DEV void keep(float* y, const float (&d)[PLANTED_COLUMNS / 2], int columns = PLANTED_COLUMNS) {
    const int t = threadIdx.x % 128, row = t / 32 * 16 + t % 32 / 4, column = 2 * (t % 4);
    for (int v = 0; v < PLANTED_COLUMNS / 2; v++) y[(row + v / 2 % 2 * 8) * columns + column + v / 4 * 8 + v % 2] = d[v];
}

// y [128, 32] = a [128, k] b [32, k]^T: two groups of four warps multiply what one thread of a third has copied.
KERNEL_BOUNDS(planted_pipeline, PLANTED_GROUPS, 1)
(float* y, TENSOR_MAP a, TENSOR_MAP b, int k, int bug) {
    DYN_SHARED_TILES(tiles);
    SHARED_ARRAY(Barrier, full, PLANTED_STAGES);
    SHARED_ARRAY(Barrier, empty, PLANTED_STAGES);
    const int group = threadIdx.x / 128, t = threadIdx.x % 128, warp = t / 32, steps = k / PLANTED_STEP;
    if (threadIdx.x == 0)
        for (int i = 0; i < PLANTED_STAGES; i++) {
            barrier_init(full + i, 1);
            barrier_init(empty + i, bug == 5 ? 2 : 8);  // 5: groups are counted, and warps arrive
        }
    if (bug != 8) barriers_ready();  // 8: used before the others know of them
    int stage = 0;
    if (group == 2) {
        registers_less<24>();
        unsigned parity = bug == 1 ? 0 : 1;  // 1: each side begins with the other's parity
        const bool leads = t == 0 || (bug == 4 && t == 32);  // 4: two threads expect
        for (int i = 0; leads && i < steps; i++) {
            unsigned char* to = tiles + stage * PLANTED_STAGE;
            if (bug != 7) barrier_wait(empty + stage, parity);  // 7: filled while it may be in use
            barrier_expect(full + stage, PLANTED_STAGE + (bug == 3 ? 16 : bug == 19 ? -16 : 0));  // 3, 19: other bytes land
            if (t == 0) {
                load_box(to, a, full + stage, i * PLANTED_STEP, 0);
                load_box(to + 2 * OF_A + (bug == 11 ? 512 : 0), b, full + stage, i * PLANTED_STEP, 0);  // 11: where no tile begins
            }
            if (++stage == PLANTED_STAGES) stage = 0, parity ^= 1;
        }
        if (bug == 9 && t == 0) {  // 9: nobody waits for the last copy
            barrier_wait(empty + stage, parity);
            barrier_expect(full + stage, 2 * OF_A);
            load_box(tiles + stage * PLANTED_STAGE, a, full + stage, 0, 0);
        }
        return;
    }
    if (bug == 20) registers_more<248>();                    // 20: more than there are
    else if (bug != 17 || warp == 0) registers_more<240>();  // 17: one warp of four
    float d[PLANTED_COLUMNS / 2] = {};
    unsigned parity = bug == 1 ? 1 : 0;
    for (int i = 0; i < steps; i++) {
        const unsigned char* from = tiles + stage * PLANTED_STAGE;
        barrier_wait(full + stage, parity);
        if (bug != 12) products_begin();  // 12: sums were changed before
        RowsOfK<128> of_a(from + group * OF_A), of_b(from + 2 * OF_A);
        if (bug == 10) of_b.high ^= 3u << 30;                  // 10: permuted over another span
        if (bug == 21) of_b.high -= 512 >> 4;                  // 21: half the stride
        if (bug == 22) of_b.low += 512 >> 4;                   // 22: from the middle of a tile
        if (bug != 14 || i != 1 || warp != 2)                   // 14: one warp of four skips a product
            multiply_rows<PLANTED_COLUMNS, PLANTED_STEP / 16>(d, of_a, of_b, scalar_t{});
        if (bug == 23 && i == 0) d[3] = 0.f;                    // 23: sums are written too early
        if (bug == 24 && i == 0) y[t] = d[5];                   // 24: sums are read too early
        products_commit();
        if (bug == 6 && t % 32 == 0) barrier_arrive(empty + stage);  // 6: given back before it was read
        if (bug != 25 || i + 1 < steps) products_wait<0>();          // 25: the last one is never waited for
        if (bug != 6 && t % 32 == 0) barrier_arrive(empty + stage);
        if (++stage == PLANTED_STAGES) stage = 0, parity ^= bug == 2 ? 0 : 1;  // 2: the parity is not flipped
    }
    if (bug == 25) return;
    keep(y + group * 64 * PLANTED_COLUMNS, d);
}

// y [64, 32] = a [64, 64] b [32, 64]^T where threads write the tiles; a from registers where `held` is 1.
KERNEL_BOUNDS(planted_written, 128, 1)(float* y, const scalar_t* a, const scalar_t* b, int held, int bug) {
    DYN_SHARED_TILES(tiles);
    const int t = threadIdx.x;
    const auto write = [&](unsigned char* tile, const scalar_t* x, int rows) {
        for (int i = t; i < rows * 8; i += 128) {
            const int row = i / 8, chunk = i % 8;
            *reinterpret_cast<uint4*>(tile + row * 128 + ((chunk ^ (row & 7)) << 4)) =
                *reinterpret_cast<const uint4*>(x + row * 64 + chunk * 8);
        }
    };
    write(tiles, a, 64);
    write(tiles + OF_A, b, PLANTED_COLUMNS);
    if (bug != 1 && bug != 2) shared_is_written();  // 1: wgmma may read what was there before
    __syncthreads();
    if (bug == 2) shared_is_written();  // 2: by those who read, where those who wrote should
    float d[PLANTED_COLUMNS / 2] = {};
    unsigned registers[4][4];
    const int row = t / 32 * 16 + t % 32 / 4, k = t % 4 * 2;
    for (int s = 0; held && s < 4; s++)
        for (int i = 0; i < 4; i++)
            registers[s][i] = *reinterpret_cast<const unsigned*>(a + (row + i % 2 * 8) * 64 + s * 16 + k + i / 2 * 8);
    products_begin();
    if (held) multiply_held<PLANTED_COLUMNS, 4>(d, registers, RowsOfK<128>(tiles + OF_A), scalar_t{});
    else multiply_rows<PLANTED_COLUMNS, 4>(d, RowsOfK<128>(tiles), RowsOfK<128>(tiles + OF_A), scalar_t{});
    products_commit();
    if (bug == 3) registers[0][0] = 0;  // 3: the product may still read them
    if (bug == 4) tiles[OF_A] = 0;      // 4: the same of shared memory
    products_wait<0>();
    keep(y, d);
}

// y [64, 32] = the sum over nine taps of the 64 pixels from (x, y) = (-left, -top) of x [n, h, w, 64] on, each moved by a tap, times
// the tap's weights [9, 32, 64]; those of the opposite tap where `flipped` is 1, as in a gradient. The map bounds the pixels.
KERNEL_BOUNDS(planted_patches, 128, 1)(float* y, TENSOR_MAP x, TENSOR_MAP weights, int left, int top, int flipped) {
    DYN_SHARED_TILES(tiles);
    SHARED_ARRAY(Barrier, full, 1);
    if (threadIdx.x == 0) barrier_init(full, 1);
    barriers_ready();
    float d[PLANTED_COLUMNS / 2] = {};
    for (int tap = 0; tap < 9; tap++) {
        if (threadIdx.x == 0) {
            barrier_expect(full, OF_A + PLANTED_COLUMNS * 128);
            load_patches(tiles, x, full, 0, -left, -top, 0, tap % 3, tap / 3);
            load_box(tiles + OF_A, weights, full, 0, 0, flipped ? 8 - tap : tap);
        }
        barrier_wait(full, tap % 2);
        products_begin();
        multiply_rows<PLANTED_COLUMNS, 4>(d, RowsOfK<128>(tiles), RowsOfK<128>(tiles + OF_A), scalar_t{});
        products_commit();
        products_wait<0>();
        __syncthreads();
    }
    keep(y, d);
}

// y [64, 64] = a^T b of a [64, 64] and b [64, 64] whose rows are values of k: tiles of 128-byte and of 64-byte rows.
KERNEL_BOUNDS(planted_transposed, 128, 1)(float* y, TENSOR_MAP a, TENSOR_MAP b, int bug) {
    DYN_SHARED_TILES(tiles);
    SHARED_ARRAY(Barrier, full, 1);
    if (threadIdx.x == 0) barrier_init(full, 1);
    barriers_ready();
    if (threadIdx.x == 0) {
        barrier_expect(full, 2 * OF_A);
        load_box(tiles, a, full, 0, 0);
        load_box(tiles + OF_A, b, full, 0, 0);
        load_box(tiles + OF_A + OF_A / 2, b, full, 32, 0);
    }
    barrier_wait(full, 0);
    float d[PLANTED_COLUMNS / 2] = {}, e[PLANTED_COLUMNS / 2] = {};
    RowsOfN<64, 64> of_b(tiles + OF_A);
    products_begin();
    multiply_rows<PLANTED_COLUMNS, 4>(d, RowsOfN<128, 64>(tiles), of_b, scalar_t{});
    of_b.low += (bug == 1 ? OF_A : OF_A / 2) >> 4;  // 1: past the end of the tiles
    multiply_rows<PLANTED_COLUMNS, 4>(e, RowsOfN<128, 64>(tiles), of_b, scalar_t{});
    products_commit();
    products_wait<0>();
    keep(y, d, 64);
    keep(y + 32, e, 64);
}

// y [64, 64] = x, through shared memory and a stored box; meetings of two warps instead of all barriers.
KERNEL_BOUNDS(planted_store, 64, 1)(TENSOR_MAP y, const scalar_t* x, int bug) {
    DYN_SHARED_TILES(tiles);
    const int t = threadIdx.x;
    uint4* row = reinterpret_cast<uint4*>(tiles + t * 128);
    for (int chunk = 0; chunk < 8; chunk++)
        row[chunk ^ (t & 7)] = *reinterpret_cast<const uint4*>(x + t * 64 + chunk * 8);
    if (bug != 1) shared_is_written();  // 1: the copy may read what was there before
    if (bug != 2) meet<1>(64);          // 2: the other warp may not have written yet
    if (bug == 3 && t == 32) meet<2>(64);  // 3: a meeting that the others never come to
    if (t == 0) {
        store_box(y, tiles, 0, 0);
        stores_commit();
        if (bug == 5) return;  // 5: nobody waits
        if (bug != 4) stores_wait<0>();
    }
    if (bug != 6) meet<1>(64);
    row[0] = row[1];  // 4, 6: while the copy may still read it
    if (bug == 4 && t == 0) stores_wait<0>();
}
