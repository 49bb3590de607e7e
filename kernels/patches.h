// Patches of images in NHWC as rows of a product's tile, gathered on the way to shared memory, for conv2d.cu. Where channels
// come in whole steps of k, `Pixels` keeps where a thread's pixels are and goes from tap to tap by constants; `Patches` finds
// each chunk anew, for channels of any number.
#pragma once

struct Shape {
    int h, w, c_in, ho, wo, c_out, kh, kw, stride, top, left;
};

// A pixel of the image that the product's lines are, as (image, y, x); image -1 past the last.
struct Pixel {
    int image, y, x;
};
DEV Pixel pixel_at(long long line, long long lines, int h, int w) {
    if (line >= lines) return {-1, 0, 0};
    return {(int)(line / w / h), (int)(line / w % h), (int)(line % w)};
}

// The first of the channels of x under tap `tap` at output pixel `p`, or null where that is outside.
DEV const scalar_t* under_tap(const scalar_t* x, const Shape& s, const Pixel& p, int tap) {
    const int y = p.y * s.stride + tap / s.kw - s.top, column = p.x * s.stride + tap % s.kw - s.left;
    if (p.image < 0 || tap >= s.kh * s.kw || y < 0 || y >= s.h || column < 0 || column >= s.w) return nullptr;
    return x + (((long long)p.image * s.h + y) * s.w + column) * s.c_in;
}
// The first of the channels of dy that reached pixel `p` of x through tap `tap`, or null where none did.
DEV const scalar_t* through_tap(const scalar_t* dy, const Shape& s, const Pixel& p, int tap) {
    const int y = p.y + s.top - tap / s.kw, x = p.x + s.left - tap % s.kw;
    if (p.image < 0 || tap >= s.kh * s.kw || y < 0 || x < 0 || y % s.stride || x % s.stride) return nullptr;
    if (y / s.stride >= s.ho || x / s.stride >= s.wo) return nullptr;
    return dy + (((long long)p.image * s.ho + y / s.stride) * s.wo + x / s.stride) * s.c_out;
}

// Copies a pack of patch values, `value` = tap * c + channel on; find(tap) is where the tap's c channels are, or null.
// `anywhere` is a valid address.
template <class Find>
DEV void copy_patch(scalar_t* to, const scalar_t* anywhere, int value, int c, bool aligned, Find find) {
    if (aligned) {
        const scalar_t* channels = find(value / c);
        copy_async(to, channels ? channels + value % c : anywhere, channels ? 16 : 0);
    } else {
#pragma unroll 1
        for (int j = 0; j < PACK; j++) {
            const scalar_t* channels = find((value + j) / c);
            to[j] = channels ? channels[(value + j) % c] : from_float<scalar_t>(0.f);
        }
    }
}

// Fetches patches line by line: lines are pixels of a image of h x w, values taps and channels.
template <int SIZE, int THREADS> struct Patches {
    static constexpr int CHUNKS = STEP / PACK, EACH = SIZE * CHUNKS / THREADS;
    Pixel pixels[EACH];
};
template <int SIZE, int THREADS>
DEV void find_pixels(Patches<SIZE, THREADS>& patches, long long first, long long lines, int h, int w) {
    using P = Patches<SIZE, THREADS>;
#pragma unroll
    for (int i = 0; i < P::EACH; i++)
        patches.pixels[i] = pixel_at(first + (i * THREADS + threadIdx.x) / P::CHUNKS, lines, h, w);
}
template <int SIZE, int THREADS, class Find>
DEV void fetch_patches(scalar_t* tile, const Patches<SIZE, THREADS>& patches, const scalar_t* x, int c, int k, Find find) {
    using P = Patches<SIZE, THREADS>;
    const bool aligned = aligned16(x) && c % PACK == 0;
    const int chunk = threadIdx.x % P::CHUNKS;
#pragma unroll
    for (int i = 0; i < P::EACH; i++) {
        const int row = (i * THREADS + threadIdx.x) / P::CHUNKS;
        copy_patch(tile + chunk_at<true, SIZE>(row, chunk), x, k + chunk * PACK, c, aligned,
                   [&](int tap) { return find(patches.pixels[i], tap); });
    }
}

// The patches that a thread copies where channels come in whole steps, those of the tile's rows first_row + i APART: where the
// tap at (0, 0) finds its image's pixel, in memory and in the image, of h x w pixels of `c` channels.
template <int SIZE, int THREADS> struct Pixels {
    using W = Walk<true, SIZE, THREADS>;
    const scalar_t* at[W::EACH];
    int y[W::EACH], x[W::EACH];
    int h, w, c;
    // Of the present tap and step: what is added to `at`, in values, and which patches are inside of their images.
    long long offset;
    unsigned there;
    int to;
};
// pixel(row) is that of a row of the tile, with coordinates in the image as the tap at (0, 0) has them.
template <int SIZE, int THREADS, class Find>
DEV void begin(Pixels<SIZE, THREADS>& pixels, const scalar_t* x, int h, int w, int c, Find pixel) {
    using W = Walk<true, SIZE, THREADS>;
    pixels.h = h, pixels.w = w, pixels.c = c;
    pixels.to = chunk_at<true, SIZE>(first_row<W>(), own_chunk<W>()) * (int)sizeof(scalar_t);
#pragma unroll
    for (int i = 0; i < W::EACH; i++) {
        const Pixel p = pixel(first_row<W>() + i * W::APART);
        pixels.at[i] = x + (((long long)p.image * h + p.y) * w + p.x) * c + own_chunk<W>() * PACK;
        // No tap brings those that are not there into the image.
        pixels.y[i] = p.image < 0 ? -(1 << 30) : p.y, pixels.x[i] = p.x;
    }
}
// Goes to the first channel of the tap at (y, x).
template <int SIZE, int THREADS> DEV void go_to(Pixels<SIZE, THREADS>& pixels, int y, int x) {
    pixels.offset = (long long)(y * pixels.w + x) * pixels.c;
    pixels.there = 0;
#pragma unroll
    for (int i = 0; i < Pixels<SIZE, THREADS>::W::EACH; i++) {
        const int row = pixels.y[i] + y, column = pixels.x[i] + x;
        const bool inside = (unsigned)row < (unsigned)pixels.h && (unsigned)column < (unsigned)pixels.w;
        pixels.there |= (inside ? 1u : 0u) << i;
    }
}
template <int SIZE, int THREADS> DEV void fetch(Pixels<SIZE, THREADS>& pixels, scalar_t* tile) {
    using W = Walk<true, SIZE, THREADS>;
#pragma unroll
    for (int i = 0; i < W::EACH; i++)
        copy_async_if(shifted(tile, pixels.to + i * W::APART * W::CHUNKS * 16), pixels.at[i] + pixels.offset,
                      pixels.there & 1u << i);
    pixels.offset += STEP;
}
// Lines of a product that are pixels of images of h x w, as (image, y, x); image -1 past the last. They fit an int.
DEV Pixel pixel_of(int line, int lines, int h, int w) {
    const int row = line / w;
    return {line < lines ? row / h : -1, row % h, line % w};
}

// The pixels of x at coordinate `first` and every `stride`th from there on, along one axis: which positions of dy reached them,
// and through which taps.
struct Class {
    // Pixels, taps, and the first of both.
    int pixels, taps, first, first_tap;
    // From pixel i of the class to the position that reached it through the first tap; the next tap is the position before.
    int position;
};
DEV Class class_of(int first, int size, int taps, int stride, int before) {
    const int tap = (first + before) % stride;
    return {(size - first + stride - 1) / stride, (taps - tap + stride - 1) / stride, first, tap, (first + before) / stride};
}
