// Models of ldmatrix and mma.m16n8k16, from the fragment layouts of the PTX ISA (9.7.14.5.8 and 9.7.14.5.15). Products are
// exact and sums run in float along k; the hardware groups and truncates, so results agree to rounding only.
#include "runtime.h"

namespace sim {
static void check_rows(void* const* lanes) {
    for (int l = 0; l < 32; l++) {
        const void* row = static_cast<Rows*>(lanes[l])->row;
        if (reinterpret_cast<uintptr_t>(row) & 15) fail("load_matrices: lane %d's row is not at a multiple of 16", l);
        if (!block->in_shared(row)) fail("load_matrices: lane %d's row is outside of shared memory", l);
        const Thread& reader = block->threads[block->current->warp * 32 + l];
        if (block->launch->checked) check_access(row, 16, false, reader);
    }
}

// Lane l receives values 2 (l % 4) and the next of row l / 4.
void load_matrices(void* const* lanes) {
    check_rows(lanes);
    for (int l = 0; l < 32; l++)
        for (int matrix = 0; matrix < 4; matrix++) {
            const Rows* row = static_cast<Rows*>(lanes[matrix * 8 + l / 4]);
            static_cast<Rows*>(lanes[l])->registers[matrix] = static_cast<const unsigned*>(row->row)[l % 4];
        }
}

// Lane l receives value l / 4 of rows 2 (l % 4) and the next.
void load_matrices_trans(void* const* lanes) {
    check_rows(lanes);
    for (int l = 0; l < 32; l++)
        for (int matrix = 0; matrix < 4; matrix++) {
            const auto value = [&](int row) -> unsigned {
                return static_cast<const uint16_t*>(static_cast<Rows*>(lanes[matrix * 8 + row])->row)[l / 4];
            };
            static_cast<Rows*>(lanes[l])->registers[matrix] = value(l % 4 * 2) | value(l % 4 * 2 + 1) << 16;
        }
}

typedef float float8 __attribute__((vector_size(32)));

// a as [k][row], b as [k][column]: sums then run over k with eight columns side by side.
template <class T> static void unpack_a(float (&a)[16][16], const unsigned (&r)[4], int l) {
    for (int i = 0; i < 8; i++) {
        const int row = l / 4 + i / 2 % 2 * 8, k = l % 4 * 2 + i % 2 + i / 4 * 8;
        a[k][row] = to_float(T{uint16_t(r[i / 2] >> i % 2 * 16)});
    }
}
template <class T> static void unpack_b(float (&b)[16][8], const unsigned (&r)[2], int l) {
    for (int i = 0; i < 4; i++) b[l % 4 * 2 + i % 2 + i / 2 * 8][l / 4] = to_float(T{uint16_t(r[i / 2] >> i % 2 * 16)});
}

template <class T> static void multiply_tile(void* const* lanes) {
    constexpr int MOST_M = 8, MOST_N = 24;
    const Tile first = *static_cast<Tile*>(lanes[0]);
    if (first.m > MOST_M || first.n > MOST_N)
        fail("multiply_tile of %d by %d: at most %d by %d", first.m, first.n, MOST_M, MOST_N);
    float a[MOST_M][16][16], b[MOST_N][16][8];
    for (int l = 0; l < 32; l++) {
        const Tile& part = *static_cast<Tile*>(lanes[l]);
        for (int i = 0; i < first.m; i++) unpack_a<T>(a[i], *reinterpret_cast<const unsigned(*)[4]>(part.a + 4 * i), l);
        for (int j = 0; j < first.n; j++) unpack_b<T>(b[j], *reinterpret_cast<const unsigned(*)[2]>(part.b + 2 * j), l);
    }
    for (int i = 0; i < first.m; i++)
        for (int j = 0; j < first.n; j++) {
            // Lane l holds columns 2 (l % 4) and the next of rows l / 4 and l / 4 + 8.
            float d[16][8];
            const auto move = [&](bool in) {
                for (int l = 0; l < 32; l++)
                    for (int half = 0; half < 2; half++) {
                        float* lane = static_cast<Tile*>(lanes[l])->d + (i * first.n + j) * 4 + half * 2;
                        float* tile = &d[l / 4 + half * 8][l % 4 * 2];
                        memcpy(in ? tile : lane, in ? lane : tile, 8);
                    }
            };
            move(true);
            float8 sums[16];
            memcpy(sums, d, sizeof d);
            for (int k = 0; k < 16; k++) {
                float8 row;
                memcpy(&row, b[j][k], sizeof row);
                for (int r = 0; r < 16; r++) sums[r] += a[i][k][r] * row;
            }
            memcpy(d, sums, sizeof d);
            move(false);
        }
}
void multiply_tile_bf16(void* const* lanes) { multiply_tile<bf16>(lanes); }
void multiply_tile_f16(void* const* lanes) { multiply_tile<f16>(lanes); }
}  // namespace sim
