// Products of a warp's 16 rows for attention.cu and attention_backward.cu. Tiles in shared memory have a row for each
// token and D values of one head, zeros past the head's size, and 16 bytes of padding, so that the eight rows that
// ldmatrix reads at once lie in different banks. Sums stay in registers in the layout of mma.m16n8k16: sums[j] holds, of
// columns 8 j + 2 (lane % 4) and the next, row lane / 4 in its first two values and row lane / 4 + 8 in the others.
#pragma once

CONSTANT(ATTENTION_THREADS, 128);
// Rows of a warp, and of the tile that a block walks along.
CONSTANT(ATTENTION_ROWS, 16);
CONSTANT(ATTENTION_TILE, 32);

constexpr int TILE = ATTENTION_TILE;
constexpr float LOG2_E = 1.44269504f, LN_2 = 0.69314718f;

template <int D> struct Head {
    static constexpr int STRIDE = D + PACK;
};

// One head of x [tokens, heads * size]: token i begins at x + i * stride.
struct Tokens {
    const scalar_t* x;
    int count, stride, size;
};
DEV Tokens tokens_of(const scalar_t* x, int count, int heads, int size) {
    const int stride = heads * size;
    return {x + (long long)blockIdx.z * count * stride + blockIdx.y * size, count, stride, size};
}

// Begins to copy `rows` tokens from `first` on; zeros for those that are not there.
template <int D> DEV void fetch_tokens(scalar_t* tile, const Tokens& from, int first, int rows) {
    const bool aligned = aligned16(from.x) && from.stride % PACK == 0 && from.size % PACK == 0;
    for (int at = threadIdx.x; at < rows * (D / PACK); at += blockDim.x) {
        const int row = at / (D / PACK), column = at % (D / PACK) * PACK;
        const int count = first + row < from.count ? max(min(from.size - column, PACK), 0) : 0;
        const scalar_t* source = count ? from.x + (long long)(first + row) * from.stride + column : from.x;
        scalar_t* to = tile + row * Head<D>::STRIDE + column;
        if (aligned) {
            copy_async(to, source, count * (int)sizeof(scalar_t));
        } else {
#pragma unroll 1
            for (int j = 0; j < PACK; j++) to[j] = j < count ? source[j] : from_float<scalar_t>(0.f);
        }
    }
}

// What a warp keeps of probabilities while it multiplies them: nothing in 16 bits, 16 rows of floats otherwise.
constexpr int SCRATCH = sizeof(scalar_t) == 4 ? ATTENTION_ROWS * TILE : 0;

// sums [16, TILE] += 16 rows of a times the rows of b, over D values.
template <int D, class T> DEV void dot(float (&sums)[TILE / 8][4], const T* a, const T* b) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        unsigned af[1][4], bf[TILE / 8][2];
        load_matrices(af[0], a + lane % 16 * Head<D>::STRIDE + k + lane / 16 * 8);
#pragma unroll
        for (int j = 0; j < TILE / 16; j++) {
            unsigned r[4];
            load_matrices(r, b + (j * 16 + lane % 8 + lane / 16 * 8) * Head<D>::STRIDE + k + lane / 8 % 2 * 8);
            bf[2 * j][0] = r[0], bf[2 * j][1] = r[1], bf[2 * j + 1][0] = r[2], bf[2 * j + 1][1] = r[3];
        }
        multiply_tile(reinterpret_cast<float(&)[1][TILE / 8][4]>(sums), af, bf, T{});
    }
}
template <int D> DEV void dot(float (&sums)[TILE / 8][4], const float* a, const float* b) {
    const int lane = threadIdx.x % 32;
    for (int k = 0; k < D; k++) {
        const float x[2] = {a[lane / 4 * Head<D>::STRIDE + k], a[(lane / 4 + 8) * Head<D>::STRIDE + k]};
#pragma unroll
        for (int j = 0; j < TILE / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                sums[j][e] = fmaf(x[e / 2], b[(j * 8 + lane % 4 * 2 + e % 2) * Head<D>::STRIDE + k], sums[j][e]);
    }
}

// sums [16, D] += p [16, TILE] times the rows of x. In 16 bits p is rounded to scalar_t, as FlashAttention does.
template <int D, class T>
DEV void weigh(float (*sums)[4], const float (&p)[TILE / 8][4], const T* x, float* scratch) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < TILE; k += 16) {
        const float(&left)[4] = p[k / 8], (&right)[4] = p[k / 8 + 1];
        const unsigned af[1][4] = {{pack2(left[0], left[1], T{}), pack2(left[2], left[3], T{}),
                                    pack2(right[0], right[1], T{}), pack2(right[2], right[3], T{})}};
        unsigned bf[D / 8][2];
#pragma unroll
        for (int j = 0; j < D / 16; j++) {
            unsigned r[4];
            load_matrices_trans(r, x + (k + lane % 16) * Head<D>::STRIDE + j * 16 + lane / 16 * 8);
            bf[2 * j][0] = r[0], bf[2 * j][1] = r[1], bf[2 * j + 1][0] = r[2], bf[2 * j + 1][1] = r[3];
        }
        multiply_tile(*reinterpret_cast<float(*)[1][D / 8][4]>(sums), af, bf, T{});
    }
}
template <int D> DEV void weigh(float (*sums)[4], const float (&p)[TILE / 8][4], const float* x, float* scratch) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < TILE / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) scratch[(lane / 4 + e / 2 * 8) * TILE + j * 8 + lane % 4 * 2 + e % 2] = p[j][e];
    __syncwarp();
    for (int k = 0; k < TILE; k++) {
        const float w[2] = {scratch[lane / 4 * TILE + k], scratch[(lane / 4 + 8) * TILE + k]};
#pragma unroll
        for (int j = 0; j < D / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                sums[j][e] = fmaf(w[e / 2], x[k * Head<D>::STRIDE + j * 8 + lane % 4 * 2 + e % 2], sums[j][e]);
    }
    __syncwarp();
}

// The value of a row, for all four lanes that have parts of it.
DEV float row_sum(float x) {
    x += shuffle_xor(x, 1);
    return x + shuffle_xor(x, 2);
}
DEV float row_max(float x) {
    x = fmaxf(x, shuffle_xor(x, 1));
    return fmaxf(x, shuffle_xor(x, 2));
}

// Writes 16 rows from token `first` on, each times its factor.
template <int D>
DEV void store_rows(scalar_t* y, const Tokens& like, int first, const float (&sums)[D / 8][4], const float (&factors)[2]) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < D / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const int token = first + lane / 4 + e / 2 * 8, column = j * 8 + lane % 4 * 2 + e % 2;
            if (token < like.count && column < like.size)
                store(y, (long long)token * like.stride + column, sums[j][e] * factors[e / 2]);
        }
}
