// What attention_hopper.cu and attention_backward_hopper.cu are made of. A block keeps 128 rows of one side of a head, and
// walks along the other side in tiles that a producer copies into a ring; two groups of four warps take 64 of the kept rows each.
// A row of a tile has 64 channels of one head: those past its size come as zeros. Barriers are those of the ring's stages, full
// and empty as pipeline.h has them, then one for the kept rows.
#pragma once

CONSTANT(ATTENTION_HOPPER_THREADS, 384);
// Rows that a block keeps.
CONSTANT(ATTENTION_HOPPER_ROWS, 128);
// Channels of a tile's row.
CONSTANT(ATTENTION_HOPPER_CHANNELS, 64);

constexpr float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;
constexpr int ROWS = ATTENTION_HOPPER_ROWS, ROW_BYTES = ATTENTION_HOPPER_CHANNELS * 2, KEPT = ROWS * ROW_BYTES;

struct Turn {
    int stage = 0;
    unsigned parity = 0;
};
template <int STAGES> DEV void next(Turn& turn) {
    if (++turn.stage == STAGES) turn.stage = 0, turn.parity ^= 1;
}
template <int STAGES> DEV void make_barriers(Barrier* barriers) {
    if (threadIdx.x == 0)
        for (int i = 0; i <= 2 * STAGES; i++) barrier_init(barriers + i, i >= STAGES && i < 2 * STAGES ? 8 : 1);
    barriers_ready();
}

// Where the block's head is in [n, heads, count] and in [n, count, heads size].
struct Side {
    int count, stride, size;
    long long row, at;
};
DEV Side side_of(int count, int heads, int size) {
    const int head = blockIdx.y, sample = blockIdx.z, stride = heads * size;
    return {count, stride, size, ((long long)sample * heads + head) * count, (long long)sample * count * stride + head * size};
}

// Writes the warp's 16 rows, whose first is token `first`, each times its factor: through where its kept rows were.
template <int D>
DEV void store_rows(scalar_t* y, const Side& side, int first, const float (&sums)[D / 2], const float (&factors)[2],
                    unsigned char* kept) {
    const int lane = threadIdx.x % 32;
    unsigned char* strip = kept + threadIdx.x / 32 * (16 * ROW_BYTES);
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            const int row = lane / 4 + 8 * h;
            *reinterpret_cast<unsigned*>(strip + row * ROW_BYTES + ((j ^ (row & 7)) << 4) + lane % 4 * 4) =
                pack2(sums[j * 4 + 2 * h] * factors[h], sums[j * 4 + 2 * h + 1] * factors[h], scalar_t{});
        }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int row = (i * 32 + lane) / 8, chunk = lane % 8;
        if (first + row < side.count && chunk * 8 < side.size)
            *reinterpret_cast<uint4*>(y + side.at + (long long)(first + row) * side.stride + chunk * 8) =
                *reinterpret_cast<const uint4*>(strip + row * ROW_BYTES + ((chunk ^ (row & 7)) << 4));
    }
}
