// What the lanes of a warp do together. Which lane holds which value of a fragment: PTX ISA, "Matrix multiply-accumulate
// operation using mma instruction" (figures for m16n8k16) and "ldmatrix".
#include <cmath>
#include <cstring>

#include "fault.h"
#include "warp.h"

void warp_sync(Warp& w, const Instruction& i, Mask mask) {
    if (w.words[i.from[0]][std::countr_zero(mask)] != mask) fail(w, i, "the mask names other lanes than those that are there");
}

void shuffle_xor(Warp& w, const Instruction& i, Mask mask) {
    u32 result[LANES];
    each_lane(mask, [&](int lane) {
        const u32 offset = w.words[i.from[1]][lane] & 31, clamp = w.words[i.from[2]][lane];
        if (w.words[i.from[3]][lane] != mask) fail(w, i, "the mask names other lanes than those that are there");
        const u32 segment = clamp >> 8 & 31, last = ((u32)lane & segment) | (clamp & 31 & ~segment);
        const u32 other = (u32)lane ^ offset, source = other > last ? (u32)lane : other;
        if (!(mask >> source & 1)) fail(w, i, "a value from a lane that is not there");
        result[lane] = w.words[i.from[0]][source];
    });
    each_lane(mask, [&](int lane) { w.words[i.to[0]][lane] = result[lane]; });
    if (i.count == 2) w.predicates[i.to[1]] |= mask;
}

// Matrix n has its rows at the addresses of lanes 8 n to 8 n + 7. Lane l gets of each matrix row l / 4, columns 2 (l % 4)
// and the next; transposed, the same of columns.
void load_matrices(Warp& w, const Instruction& i, Mask mask) {
    if (mask != ~0u) fail(w, i, "not all 32 lanes are there");
    u32 row[LANES];
    for (int lane = 0; lane < 8 * i.count; lane++) {
        row[lane] = w.words[i.from[0]][lane] + (u32)i.immediate;
        if (row[lane] % 16) fail(w, i, "lane %d: a row that does not begin at a multiple of 16 bytes", lane);
        use_shared(w, i, lane, row[lane], 16, false);
    }
    const u8* shared = w.block->shared.data();
    for (int n = 0; n < i.count; n++) {
        u32 result[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            if (i.flag) {
                u16 low, high;
                memcpy(&low, shared + row[8 * n + 2 * (lane % 4)] + 2 * (lane / 4), 2);
                memcpy(&high, shared + row[8 * n + 2 * (lane % 4) + 1] + 2 * (lane / 4), 2);
                result[lane] = low | (u32)high << 16;
            } else {
                memcpy(&result[lane], shared + row[8 * n + lane / 4] + 4 * (lane % 4), 4);
            }
        }
        memcpy(w.words[i.to[n]], result, sizeof result);
    }
}

namespace {

float value_of(u16 bits, bool is_bf16) {
    return is_bf16 ? std::bit_cast<float>((u32)bits << 16) : (float)std::bit_cast<_Float16>(bits);
}

int exponent(float x) {
    int e;
    if (x == 0) return -126;
    frexpf(x, &e);
    return e - 1 < -126 ? -126 : e - 1;
}

// Exact products, aligned to the largest exponent and cut to `bits` fractional bits, summed, and cut to f32: what MMA-Sim
// (arXiv:2511.10909) measured. Hopper: 25 bits over all 16 products; Ampere: 24 bits over two halves.
float fused(const float* a, const float* b, int stride, int count, float c, int bits) {
    double product[17], plain = c;
    int most = exponent(c);
    for (int k = 0; k < count; k++) {
        product[k] = (double)a[k] * b[k * stride];
        plain += product[k];
        if (product[k] != 0) most = std::max(most, exponent(a[k]) + exponent(b[k * stride]));
    }
    product[count] = c;
    if (!std::isfinite(plain)) return (float)plain;
    const double scale = ldexp(1.0, bits - most);
    double sum = 0;
    for (int k = 0; k <= count; k++) sum += trunc(product[k] * scale);
    sum /= scale;
    const float rounded = (float)sum;
    return std::fabs((double)rounded) > std::fabs(sum) ? nextafterf(rounded, 0.f) : rounded;
}

// d [16, 8] = a [16, 16] b [16, 8] + c.
void multiply(Warp& w, const Instruction& i, Mask mask, bool is_bf16) {
    if (mask != ~0u) fail(w, i, "not all 32 lanes are there");
    float a[16][16], b[16][8], c[16][8];
    const auto half = [&](u32 r, int lane, int which) {
        const u32 bits = w.words[r][lane];
        return value_of((u16)(which ? bits >> 16 : bits), is_bf16);
    };
    for (int lane = 0; lane < LANES; lane++) {
        const int group = lane / 4, pair = lane % 4 * 2;
        for (int n = 0; n < 8; n++) a[group + (n / 2 % 2) * 8][pair + n % 2 + n / 4 * 8] = half(i.from[n / 2], lane, n % 2);
        for (int n = 0; n < 4; n++) b[pair + n % 2 + n / 2 * 8][group] = half(i.from[4 + n / 2], lane, n % 2);
        for (int n = 0; n < 4; n++) c[group + n / 2 * 8][pair + n % 2] = std::bit_cast<float>(w.words[i.from[6 + n]][lane]);
    }
    static const char* rounding = getenv("PTX_DRIVER_MMA");
    static const bool hopper = rounding && !strcmp(rounding, "hopper"), ampere = rounding && !strcmp(rounding, "ampere");
    for (int m = 0; m < 16; m++) {
        if (hopper || ampere) {
            for (int n = 0; n < 8; n++) {
                if (hopper) c[m][n] = fused(a[m], &b[0][n], 8, 16, c[m][n], 25);
                else c[m][n] = fused(a[m] + 8, &b[8][n], 8, 8, fused(a[m], &b[0][n], 8, 8, c[m][n], 24), 24);
            }
            continue;
        }
        double sum[8];
        for (int n = 0; n < 8; n++) sum[n] = c[m][n];
        for (int k = 0; k < 16; k++) for (int n = 0; n < 8; n++) sum[n] += (double)a[m][k] * (double)b[k][n];
        for (int n = 0; n < 8; n++) c[m][n] = (float)sum[n];
    }
    for (int lane = 0; lane < LANES; lane++)
        for (int n = 0; n < 4; n++)
            w.words[i.to[n]][lane] = std::bit_cast<u32>(c[lane / 4 + n / 2 * 8][lane % 4 * 2 + n % 2]);
}

}  // namespace

void multiply_bf16(Warp& w, const Instruction& i, Mask mask) { multiply(w, i, mask, true); }
void multiply_f16(Warp& w, const Instruction& i, Mask mask) { multiply(w, i, mask, false); }
