// scalar_t through float: single values, and packs of 16 bytes that one instruction moves.
#pragma once

#ifndef scalar_t
#define scalar_t float
#endif

DEV float to_float(float x) { return x; }
DEV float rounded(float x, float) { return x; }
DEV bf16 rounded(float x, bf16) { return to_bf16(x); }
DEV f16 rounded(float x, f16) { return to_f16(x); }
template <class T> DEV T from_float(float x) { return rounded(x, T{}); }

template <class T> DEV float load(const T* x, size_t i) { return to_float(x[i]); }
template <class T> DEV void store(T* y, size_t i, float value) { y[i] = from_float<T>(value); }

// Values of scalar_t in 16 bytes: 4 of float, 8 of bf16 and f16.
constexpr int PACK = 16 / sizeof(scalar_t);

DEV void unpack(float (&values)[4], const uint4& bits, float) {
    values[0] = __uint_as_float(bits.x);
    values[1] = __uint_as_float(bits.y);
    values[2] = __uint_as_float(bits.z);
    values[3] = __uint_as_float(bits.w);
}
template <class T> DEV void unpack(float (&values)[8], const uint4& bits, T) {
    const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        values[2 * i] = to_float(T{(uint16_t)words[i]});
        values[2 * i + 1] = to_float(T{(uint16_t)(words[i] >> 16)});
    }
}
DEV uint4 packed(const float (&values)[4], float) {
    return {__float_as_uint(values[0]), __float_as_uint(values[1]), __float_as_uint(values[2]),
            __float_as_uint(values[3])};
}
template <class T> DEV uint4 packed(const float (&values)[8], T type) {
    return {pack2(values[0], values[1], type), pack2(values[2], values[3], type), pack2(values[4], values[5], type),
            pack2(values[6], values[7], type)};
}

// Adds two neighbours, which lie at a multiple of both together.
template <class T> DEV void add_pair(float (&values)[2], const T* x) {
    const unsigned bits = *reinterpret_cast<const unsigned*>(x);
    values[0] += to_float(T{(uint16_t)bits}), values[1] += to_float(T{(uint16_t)(bits >> 16)});
}

// A pack that is all there, at a multiple of 16 bytes.
DEV void load_whole(float (&values)[PACK], const scalar_t* x) {
    unpack(values, *reinterpret_cast<const uint4*>(x), scalar_t{});
}
DEV void store_whole(scalar_t* y, const float (&values)[PACK]) {
    // The simulator does not see a store of what a call returns.
    const uint4 bits = packed(values, scalar_t{});
    *reinterpret_cast<uint4*>(y) = bits;
}

DEV bool aligned16(const void* p) { return (reinterpret_cast<uintptr_t>(p) & 15) == 0; }

// The next PACK values at x, of which `left` exist (it may be 0 or less); zeros for the rest. One 16-byte load where
// they are all there and x is aligned, so every length and every view is legal and the usual ones are fast.
DEV void load_pack(float (&values)[PACK], const scalar_t* x, long long left) {
    if (left >= PACK && aligned16(x)) {
        load_whole(values, x);
    } else {
#pragma unroll
        for (int i = 0; i < PACK; i++) values[i] = i < left ? to_float(x[i]) : 0.f;
    }
}
DEV void store_pack(scalar_t* y, const float (&values)[PACK], long long left) {
    if (left >= PACK && aligned16(y)) {
        store_whole(y, values);
    } else {
#pragma unroll
        for (int i = 0; i < PACK; i++)
            if (i < left) y[i] = from_float<scalar_t>(values[i]);
    }
}

// The same for arrays that stay float whatever scalar_t is: PACK values, in 16-byte loads where that is possible.
template <class T> DEV void load_floats(float (&values)[PACK], const T* x, long long left) {
    if (left >= PACK && aligned16(x)) {
#pragma unroll
        for (int i = 0; i < PACK; i += 4) {
            const float4 four = *reinterpret_cast<const float4*>(x + i);
            values[i] = four.x, values[i + 1] = four.y, values[i + 2] = four.z, values[i + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < PACK; i++) values[i] = i < left ? x[i] : 0.f;
    }
}
DEV void store_floats(float* y, const float (&values)[PACK], long long left) {
    if (left >= PACK && aligned16(y)) {
#pragma unroll
        for (int i = 0; i < PACK; i += 4)
            *reinterpret_cast<float4*>(y + i) = {values[i], values[i + 1], values[i + 2], values[i + 3]};
    } else {
#pragma unroll
        for (int i = 0; i < PACK; i++)
            if (i < left) y[i] = values[i];
    }
}

// For kernels that see `rows` rows of `width` values: the pack of a row that this thread has; false past the last.
DEV bool row_of_thread(long long rows, int width, long long& row, int& column) {
    const int packs = (width + PACK - 1) / PACK;
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    row = i / packs;
    column = int(i % packs) * PACK;
    return row < rows;
}
