// What surrounds the loop of tile.h: fetching operands whose rows are whole chunks of 16 bytes, and storing the sums. The
// addresses of a thread are found once, a step adds constants to them; sums go through shared memory, so that whole rows of
// 16 bytes leave a thread at a time. Operands of any other kind are fetched value by value (`fetch_any`) and stored so.
#pragma once

// ---- operands ----
// `lines` rows or columns that the product keeps, of `k` values each. Line by line in memory where LINES is set, value by value
// of all lines where it is not; `stride` values from one row of memory to the next.
struct Operand {
    const scalar_t* x;
    long long lines;
    int k, stride;
};

// The chunks that a thread copies of an operand's tile at each step: EACH of them, APART rows of the tile from each other.
template <bool LINES, int SIZE, int THREADS> struct Walk {
    static constexpr int CHUNKS = (LINES ? STEP : SIZE) / PACK, APART = THREADS / CHUNKS;
    static constexpr int EACH = (LINES ? SIZE : STEP) / APART;
    static_assert(APART % 8 == 0 || (!LINES && sizeof(scalar_t) == 4), "rows that are not 8 apart have other permutations");
    // The first one's source, the bytes from it to the second's and so on, and those to its own in the next step.
    const scalar_t* from;
    long long apart, next;
    // A bit for each that has such a line and value; the others are zeros, and their sources are never read.
    unsigned there;
    // The first one's bytes into the tile.
    int to;
};
// Row of the tile of the first one, and where in their rows all of them are.
template <class W> DEV int first_row() { return threadIdx.x / W::CHUNKS; }
template <class W> DEV int own_chunk() { return threadIdx.x % W::CHUNKS; }

// From the first value of k on, for a tile whose lines begin at `first`.
template <bool LINES, int SIZE, int THREADS>
DEV void begin(Walk<LINES, SIZE, THREADS>& walk, const Operand& of, long long first) {
    using W = Walk<LINES, SIZE, THREADS>;
    const int row = first_row<W>(), chunk = own_chunk<W>();
    const long long line = first + (LINES ? row : chunk * PACK), stride = of.stride;
    walk.from = of.x + (LINES ? line * stride + chunk * PACK : row * stride + line);
    walk.apart = W::APART * stride * (int)sizeof(scalar_t);
    walk.next = (LINES ? 1 : stride) * STEP * (int)sizeof(scalar_t);
    walk.to = chunk_at<LINES, SIZE>(row, chunk) * (int)sizeof(scalar_t);
    walk.there = 0;
#pragma unroll
    for (int i = 0; i < W::EACH; i++) walk.there |= (line + (LINES ? i * W::APART : 0) < of.lines ? 1u : 0u) << i;
}
// Begins to copy the tile of the next step, of which `left` values of k are there.
template <bool LINES, int SIZE, int THREADS> DEV void fetch(Walk<LINES, SIZE, THREADS>& walk, scalar_t* tile, int left) {
    using W = Walk<LINES, SIZE, THREADS>;
    if (left < STEP) {
        stay_a_branch();
#pragma unroll
        for (int i = 0; i < W::EACH; i++)
            if ((LINES ? own_chunk<W>() * PACK : first_row<W>() + i * W::APART) >= left) walk.there &= ~(1u << i);
    }
    const scalar_t* from = walk.from;
#pragma unroll
    for (int i = 0; i < W::EACH; i++) {
        copy_async_if(shifted(tile, walk.to + i * W::APART * W::CHUNKS * 16), from, walk.there & 1u << i);
        from = shifted(from, walk.apart);
    }
    walk.from = shifted(walk.from, walk.next);
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
// Begins to copy the tile of SIZE lines and STEP values from `k` on; zeros where there are none. The tile's rows are lines
// line(row) of x [.., stride], of which the first `values` values are theirs; -1 is none.
template <int SIZE, int THREADS, class Line>
DEV void fetch_any_lines(scalar_t* tile, const scalar_t* x, int values, int stride, int k, Line line) {
    constexpr int CHUNKS = STEP / PACK;
    const bool aligned = aligned16(x) && stride % PACK == 0;
#pragma unroll 1
    for (int i = 0; i < SIZE * CHUNKS / THREADS; i++) {
        const int at = i * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS, value = k + chunk * PACK;
        const long long from = line(row);
        const int count = from >= 0 ? max(min(values - value, PACK), 0) : 0;
        copy_chunk(tile + chunk_at<true, SIZE>(row, chunk), count ? x + from * stride + value : x, count, aligned);
    }
}
// The same of an operand from line `first` on.
template <bool LINES, int SIZE, int THREADS>
DEV void fetch_any(scalar_t* tile, const Operand& from, long long first, int k) {
    if constexpr (LINES) {
        fetch_any_lines<SIZE, THREADS>(tile, from.x, from.k, from.stride, k,
                                       [&](int row) { return first + row < from.lines ? first + row : -1; });
    } else {
        constexpr int CHUNKS = SIZE / PACK;
        const bool aligned = aligned16(from.x) && from.stride % PACK == 0;
#pragma unroll 1
        for (int i = 0; i < STEP * CHUNKS / THREADS; i++) {
            const int at = i * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
            const long long line = first + chunk * PACK;
            const int count = k + row < from.k ? (int)max(min(from.lines - line, (long long)PACK), 0ll) : 0;
            const scalar_t* source = count ? from.x + (long long)(k + row) * from.stride + line : from.x;
            copy_chunk(tile + chunk_at<false, SIZE>(row, chunk), source, count, aligned);
        }
    }
}

// ---- results ----
// What becomes of a sum: alpha sum + bias [n] + t [images, n] + residual, which is like y; all but the sum may be missing.
struct Epilogue {
    float alpha;
    const float* bias;
    const scalar_t* t;
    // Rows of y for each row of t.
    int rows_of_t;
    const scalar_t* residual;
};
// Of value by value stores. `line` is a row of y, `at` the value's place in it.
DEV float finished(const Epilogue& with, float sum, long long line, int column, int n) {
    float value = with.alpha * sum;
    if (with.bias) value += with.bias[column];
    if (with.t) value += load(with.t, line / with.rows_of_t * n + column);
    if (with.residual) value += load(with.residual, line * n + column);
    return value;
}

// Stores rows of y [.., n] from the tile's sums: row r of the tile is line(r) of y, or none where that is negative; columns
// begin at `first`. In 16 bits n is a multiple of PACK, and y and residual are aligned.
template <int ROWS, int COLUMNS, int THREADS, class T, class Line>
DEV void finish(Sums<ROWS, COLUMNS, THREADS, T>& sums, T* y, int n, int first, const Epilogue& with, Line line) {
    using S = Sums<ROWS, COLUMNS, THREADS, T>;
    // Rows 16 bytes longer than they are: eight of them lie in different banks.
    constexpr int PITCH = COLUMNS + PACK, CHUNKS = COLUMNS / PACK, APART = THREADS / CHUNKS;
    DYN_SHARED(T, stage);
    const int row = threadIdx.x / CHUNKS, column = threadIdx.x % CHUNKS * PACK;
    const bool inside = first + column < n;
    T* chunk = stage + row * PITCH + column;
    __syncthreads();  // all have done with the ring
    if (with.residual) {
#pragma unroll
        for (int i = 0; i < ROWS / APART; i++) {
            const long long at = line(row + i * APART);
            const bool there = inside && at >= 0;
            copy_async_if(chunk + i * APART * PITCH, with.residual + (there ? at * n + first + column : 0), there ? 1u : 0u);
        }
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
    }
    // Columns in pairs, of which the warp has so many in y.
    const int own = first + own_column<S>(), pairs = (n - first - warp_column<S>() + 7) / 8;
    float bias[S::N / 8][2] = {};
    if (with.bias) {
#pragma unroll
        for (int j = 0; j < S::N / 8; j++)
            if (j < pairs) bias[j][0] = with.bias[own + j * 8], bias[j][1] = with.bias[own + j * 8 + 1];
    }
#pragma unroll
    for (int i = 0; i < S::M / 16; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            T* staged = stage + (own_row<S>() + i * 16 + h * 8) * PITCH + own_column<S>();
            float v[S::N / 8][2];
#pragma unroll
            for (int j = 0; j < S::N / 8; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) v[j][e] = with.alpha * sums.d[i][j][2 * h + e] + bias[j][e];
            if (with.t) {
                const long long at = line(own_row<S>() + i * 16 + h * 8);
                const T* t = with.t + (at < 0 ? 0 : at / with.rows_of_t * n) + own;
#pragma unroll
                for (int j = 0; j < S::N / 8; j++)
                    if (j < pairs) add_pair(v[j], t + j * 8);
            }
            if (with.residual) {
#pragma unroll
                for (int j = 0; j < S::N / 8; j++) add_pair(v[j], staged + j * 8);
            }
#pragma unroll
            for (int j = 0; j < S::N / 8; j++)
                *reinterpret_cast<unsigned*>(staged + j * 8) = pack2(v[j][0], v[j][1], T{});
        }
    __syncthreads();
    if (!inside) return;
#pragma unroll
    for (int i = 0; i < ROWS / APART; i++) {
        const long long at = line(row + i * APART);
        if (at >= 0)
            *reinterpret_cast<uint4*>(y + at * n + first + column) = *reinterpret_cast<const uint4*>(chunk + i * APART * PITCH);
    }
}
template <int ROWS, int COLUMNS, int THREADS, class Line>
DEV void finish(Sums<ROWS, COLUMNS, THREADS, float>& sums, float* y, int n, int first, const Epilogue& with, Line line) {
    each(sums, [&](int row, int column, float sum) {
        const long long at = line(row);
        if (at >= 0 && first + column < n) y[at * n + first + column] = finished(with, sum, at, first + column, n);
    });
}
// Float sums as they are, [m, n] from the corner on.
template <int ROWS, int COLUMNS, int THREADS, class T>
DEV void store_sums(const Sums<ROWS, COLUMNS, THREADS, T>& sums, float* y, long long first_m, int first_n, long long m, int n) {
    each(sums, [&](int row, int column, float sum) {
        if (first_m + row < m && first_n + column < n) y[(first_m + row) * n + first_n + column] = sum;
    });
}
// Float sums of a slice of k as they are, rows as `finish` has them. In 16 bits n is even.
template <int ROWS, int COLUMNS, int THREADS, class T, class Line>
DEV void store_part(const Sums<ROWS, COLUMNS, THREADS, T>& sums, float* part, int n, int first, Line line) {
    using S = Sums<ROWS, COLUMNS, THREADS, T>;
    const int own = first + own_column<S>(), pairs = (n - first - warp_column<S>() + 7) / 8;
#pragma unroll
    for (int i = 0; i < S::M / 16; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const long long at = line(own_row<S>() + i * 16 + h * 8);
            if (at < 0) continue;
            float* to = part + at * n + own;
#pragma unroll
            for (int j = 0; j < S::N / 8; j++)
                if (j < pairs) {
                    const float2 pair = {sums.d[i][j][2 * h], sums.d[i][j][2 * h + 1]};
                    *reinterpret_cast<float2*>(to + j * 8) = pair;
                }
        }
}
template <int ROWS, int COLUMNS, int THREADS, class Line>
DEV void store_part(const Sums<ROWS, COLUMNS, THREADS, float>& sums, float* part, int n, int first, Line line) {
    each(sums, [&](int row, int column, float sum) {
        const long long at = line(row);
        if (at >= 0 && first + column < n) part[at * n + first + column] = sum;
    });
}
