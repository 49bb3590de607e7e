// Lookups and reorderings of rows: tokens, timesteps, channels side by side, nearest neighbours. One value is read and
// one written for each of the result (twice sizeof(scalar_t) bytes); no arithmetic but the timesteps' sine and cosine, and
// the sums of gradients.
#include "kernel.h"

CONSTANT(ROWS_THREADS, 256);

DEV void copy_pack(scalar_t* y, const scalar_t* x, int left) {
    float v[PACK];
    load_pack(v, x, left);
    store_pack(y, v, left);
}

// y [rows, width] = table [.., width] at ids [rows]; the host has checked the ids.
KERNEL_BOUNDS(embedding_forward, ROWS_THREADS, 4)
(scalar_t* y, const scalar_t* table, const long long* ids, long long rows, int width) {
    long long row;
    int column;
    if (row_of_thread(rows, width, row, column))
        copy_pack(y + row * width + column, table + ids[row] * width + column, width - column);
}

// The gradient of a lookup, in two launches. y [rows, width] float: row r is the sum of rows first[r] to first[r + 1] of x,
// or of the rows that `order` has there, in their order. The first launch adds up pieces of the rows that took one row of
// the table, so that one frequent id does not keep one thread busy alone; the second adds up the pieces.
KERNEL_BOUNDS(embedding_backward, ROWS_THREADS, 4)
(float* y, const scalar_t* x, const long long* order, const long long* first, long long rows, int width) {
    long long row;
    int column;
    if (!row_of_thread(rows, width, row, column)) return;
    float sum[PACK] = {};
    const long long end = first[row + 1];
    for (long long i = first[row]; i < end; i++) {
        float v[PACK];
        load_pack(v, x + (order ? order[i] : i) * width + column, width - column);
#pragma unroll
        for (int j = 0; j < PACK; j++) sum[j] += v[j];
    }
    store_floats(y + row * width + column, sum, width - column);
}

// The gradient of a lookup of one row in each t: y [rows, width] is x [rows / t, width] in the rows `ids`, and 0 elsewhere.
KERNEL_BOUNDS(spread_rows, ROWS_THREADS, 4)
(scalar_t* y, const scalar_t* x, const long long* ids, long long rows, int t, int width) {
    long long row;
    int column;
    if (!row_of_thread(rows, width, row, column)) return;
    float v[PACK] = {};
    if (ids[row / t] == row) load_pack(v, x + row / t * width + column, width - column);
    store_pack(y + row * width + column, v, width - column);
}

// y [rows, width] = the values from `offset` on of rows of x, which have `stride`: half of the gradient of concat_channels.
KERNEL_BOUNDS(slice_channels, ROWS_THREADS, 4)
(scalar_t* y, const scalar_t* x, long long rows, int width, int stride, int offset) {
    long long row;
    int column;
    if (row_of_thread(rows, width, row, column))
        copy_pack(y + row * width + column, x + row * stride + offset + column, width - column);
}
// Its own gradient: y [rows, stride] is x [rows, width] from `offset` on, and 0 around it.
KERNEL_BOUNDS(spread_channels, ROWS_THREADS, 4)
(scalar_t* y, const scalar_t* x, long long rows, int width, int stride, int offset) {
    long long row;
    int column;
    if (!row_of_thread(rows, stride, row, column)) return;
    float v[PACK];
#pragma unroll
    for (int j = 0; j < PACK; j++) {
        const int from = column + j - offset;
        v[j] = from >= 0 && from < width ? load(x, row * width + from) : 0.f;
    }
    store_pack(y + row * stride + column, v, stride - column);
}
// y [rows, a + b] = x [rows, a] beside z [rows, b]: a skip connection.
KERNEL_BOUNDS(concat_channels, ROWS_THREADS, 4)
(scalar_t* y, const scalar_t* x, const scalar_t* z, long long rows, int a, int b) {
    const int width = max(a, b);
    long long row;
    int column;
    if (!row_of_thread(rows, width, row, column)) return;
    if (column < a) copy_pack(y + row * (a + b) + column, x + row * a + column, a - column);
    if (column < b) copy_pack(y + row * (a + b) + a + column, z + row * b + column, b - column);
}

// diffusers' get_timestep_embedding: y [n, dim] = [sin(t f_i), cos(t f_i)], f_i = 10000^(-i / (dim/2 - shift)), or the
// cosines first. An odd dim ends in zeros. Frequencies and products are double, as on the CPU: t reaches 1000.
KERNEL_BOUNDS(timestep_embedding, ROWS_THREADS, 2)
(float* y, const float* t, long long n, int dim, int flip, float shift) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * dim) return;
    const int half = dim / 2, column = int(i % dim), wave = column < half ? column : column - half;
    const double angle = t[i / dim] * exp(-9.2103403719761836 * wave / (half - (double)shift));
    const bool sine = (column < half) != (flip != 0);
    y[i] = column >= 2 * half ? 0.f : (float)(sine ? sin(angle) : cos(angle));
}

// PyTorch's nearest: the source of position i of `to` among `from`, the ratio rounded to float first.
DEV int nearest(int i, int from, int to) { return min((int)(i * ((float)from / (float)to)), from - 1); }

// y [n, height, width, c] from x [n, h, w, c]
KERNEL_BOUNDS(upsample_nearest_forward, ROWS_THREADS, 4)
(scalar_t* y, const scalar_t* x, int n, int h, int w, int c, int height, int width) {
    long long row;
    int column;
    if (!row_of_thread((long long)n * height * width, c, row, column)) return;
    const int iy = int(row / width % height), ix = int(row % width);
    const long long source = (row / width / height * h + nearest(iy, h, height)) * w + nearest(ix, w, width);
    copy_pack(y + row * c + column, x + source * c + column, c - column);
}
// dx gathers the gradients of its copies, row by row. Copies of a position are neighbours, and about to / from of them.
KERNEL_BOUNDS(upsample_nearest_backward, ROWS_THREADS, 4)
(scalar_t* dx, const scalar_t* dy, int n, int h, int w, int c, int height, int width) {
    long long row;
    int column;
    if (!row_of_thread((long long)n * h * w, c, row, column)) return;
    const int y = int(row / w % h), x = int(row % w);
    const long long sample = row / w / h;
    // One early: the first copy that `nearest` may round to this position.
    const int first_y = max((int)((long long)y * height / h) - 1, 0), first_x = max((int)((long long)x * width / w) - 1, 0);
    float sum[PACK] = {};
    for (int iy = first_y; iy < height && nearest(iy, h, height) <= y; iy++) {
        if (nearest(iy, h, height) < y) continue;
        for (int ix = first_x; ix < width && nearest(ix, w, width) <= x; ix++) {
            if (nearest(ix, w, width) < x) continue;
            float v[PACK];
            load_pack(v, dy + ((sample * height + iy) * width + ix) * c + column, c - column);
#pragma unroll
            for (int j = 0; j < PACK; j++) sum[j] += v[j];
        }
    }
    store_pack(dx + row * c + column, sum, c - column);
}
