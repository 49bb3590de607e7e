// Convolutions of channels of any number, for conv2d.cu: each chunk of 16 bytes is found anew, and fetched value by value where
// channels are no multiple of PACK.
#pragma once

template <int SIZE, int THREADS>
DEV void forward_any(scalar_t* y, const scalar_t* x, const scalar_t* weight, const float* bias, const scalar_t* t,
                 const scalar_t* residual, int n, const Shape& s) {
    const long long pixels = (long long)n * s.ho * s.wo;
    const Corner corner = corner_of_block<SIZE, SIZE>(pixels, s.c_out);
    const long long first = corner.m;
    const int first_n = corner.n, k = s.kh * s.kw * s.c_in;
    Sums<SIZE, SIZE, THREADS, scalar_t> sums;
    Patches<SIZE, THREADS> patches;
    find_pixels(patches, first, pixels, s.ho, s.wo);
    const Operand weights = {weight, s.c_out, k, k};
    int done = 0;
    product<true, true>(sums, (k + STEP - 1) / STEP, [&](scalar_t* tile_a, scalar_t* tile_b) {
        fetch_patches(tile_a, patches, x, s.c_in, done, [&](const Pixel& p, int tap) { return under_tap(x, s, p, tap); });
        fetch_any<true, SIZE, THREADS>(tile_b, weights, first_n, done);
        done += STEP;
    });
    const Epilogue with = {1.f, bias, t, s.ho * s.wo, residual};
    each(sums, [&](int row, int column, float sum) {
        const long long pixel = first + row;
        const int channel = first_n + column;
        if (pixel < pixels && channel < s.c_out)
            store(y, pixel * s.c_out + channel, finished(with, sum, pixel, channel, s.c_out));
    });
}

template <int SIZE, int THREADS>
DEV void dgrad_any(scalar_t* dx, const scalar_t* dy, const scalar_t* weight, const float* bias, int n, const Shape& s) {
    const long long pixels = (long long)n * s.h * s.w;
    const Corner corner = corner_of_block<SIZE, SIZE>(pixels, s.c_in);
    const long long first = corner.m;
    const int first_n = corner.n, taps = s.kh * s.kw, k = taps * s.c_out;
    Sums<SIZE, SIZE, THREADS, scalar_t> sums;
    Patches<SIZE, THREADS> patches;
    find_pixels(patches, first, pixels, s.h, s.w);
    const bool aligned = aligned16(weight) && s.c_in % PACK == 0;
    int done = 0;
    product<true, false>(sums, (k + STEP - 1) / STEP, [&](scalar_t* tile_a, scalar_t* tile_b) {
        fetch_patches(tile_a, patches, dy, s.c_out, done,
                      [&](const Pixel& p, int tap) { return through_tap(dy, s, p, tap); });
        // Rows are (tap, output channel), lines input channels.
        constexpr int CHUNKS = SIZE / PACK;
#pragma unroll 1
        for (int e = 0; e < STEP * CHUNKS / THREADS; e++) {
            const int at = e * THREADS + threadIdx.x, row = at / CHUNKS, chunk = at % CHUNKS;
            const int value = done + row, channel = first_n + chunk * PACK;
            const int count = value < k ? max(min(s.c_in - channel, PACK), 0) : 0;
            const long long line = (long long)(value % s.c_out) * taps + value / s.c_out;
            copy_chunk(tile_b + chunk_at<false, SIZE>(row, chunk), count ? weight + line * s.c_in + channel : weight, count,
                       aligned);
        }
        done += STEP;
    });
    each(sums, [&](int row, int column, float sum) {
        const int channel = first_n + column;
        if (first + row < pixels && channel < s.c_in)
            store(dx, (first + row) * s.c_in + channel, bias ? sum + bias[channel] : sum);
    });
}
