// Random numbers by counting: Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") and
// normals from it (Box & Muller 1958). src/tensor/random.rs is the same arithmetic, operation by operation, so that
// every device draws the same bits: nothing here may be fused or reordered, hence __fmaf_rn, __fmul_rn and __fadd_rn.
#pragma once

struct Words {
    unsigned x, y, z, w;
};

DEV Words philox(Words counter, unsigned key0, unsigned key1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        if (round > 0) key0 += 0x9E3779B9u, key1 += 0xBB67AE85u;
        const unsigned high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        const unsigned high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = {high1 ^ counter.y ^ key0, low1, high0 ^ counter.w ^ key1, low0};
    }
    return counter;
}

// Block `block` of what (seed, stream, index, step) draws; a first block mixes seed, stream and step into the key.
DEV Words random_words(unsigned long long seed, unsigned stream, unsigned long long index, unsigned long long step,
                       unsigned block) {
    const Words key = philox({(unsigned)step, (unsigned)(step >> 32), stream, 0xffffffffu}, (unsigned)seed,
                             (unsigned)(seed >> 32));
    return philox({block, (unsigned)index, (unsigned)(index >> 32), 0u}, key.x, key.y);
}

// The natural logarithm of a normal, positive number: Cephes' logf.
DEV float natural_log(float x) {
    const unsigned bits = __float_as_uint(x);
    int exponent = (int)(bits >> 23) - 126;
    float m = __uint_as_float((bits & 0x007FFFFFu) | 0x3F000000u);
    if (m < 0.70710678118f) {
        exponent -= 1;
        m = __fadd_rn(m, m);
    }
    const float f = __fadd_rn(m, -1.f);
    float p = 7.0376836e-2f;
    p = __fmaf_rn(p, f, -1.151461e-1f);
    p = __fmaf_rn(p, f, 1.1676999e-1f);
    p = __fmaf_rn(p, f, -1.2420141e-1f);
    p = __fmaf_rn(p, f, 1.4249323e-1f);
    p = __fmaf_rn(p, f, -1.6668057e-1f);
    p = __fmaf_rn(p, f, 2.0000715e-1f);
    p = __fmaf_rn(p, f, -2.4999994e-1f);
    p = __fmaf_rn(p, f, 3.333333e-1f);
    const float square = __fmul_rn(f, f), e = (float)exponent;
    const float tail = __fmaf_rn(e, -2.1219444e-4f, __fmul_rn(__fmul_rn(p, f), square));
    return __fmaf_rn(e, 0.6933594f, __fadd_rn(__fmaf_rn(-0.5f, square, tail), f));
}

// Sine and cosine of word / 2^32 turns: the nearest quarter is taken off exactly, the rest, at most an eighth to either
// side, goes through Cephes' sinf and cosf.
DEV void sin_cos_turns(unsigned word, float& sine, float& cosine) {
    const unsigned quarter = (word + (1u << 29)) >> 30;
    const int rest = (int)(word - (quarter << 30));
    const float x = __fmul_rn((float)(rest >> 6), 6.2831855f / 67108864.f), z = __fmul_rn(x, x);
    float s = __fmaf_rn(-1.9515296e-4f, z, 8.332161e-3f);
    s = __fmaf_rn(s, z, -1.6666655e-1f);
    const float sin = __fmaf_rn(__fmul_rn(s, z), x, x);
    float c = __fmaf_rn(2.4433157e-5f, z, -1.3887316e-3f);
    c = __fmaf_rn(c, z, 4.1666646e-2f);
    const float cos = __fmaf_rn(__fmul_rn(c, z), z, __fmaf_rn(-0.5f, z, 1.f));
    switch (quarter & 3) {
        case 0: sine = sin, cosine = cos; break;
        case 1: sine = cos, cosine = -sin; break;
        case 2: sine = -sin, cosine = -cos; break;
        default: sine = -cos, cosine = sin; break;
    }
}

// Two normals from two words: the radius from the first, the angle from the second.
DEV void box_muller(float& first, float& second, unsigned a, unsigned b) {
    const float u = __fmul_rn((float)((a >> 8) + 1), 1.f / 16777216.f);
    const float radius = __fsqrt_rn(__fmul_rn(-2.f, natural_log(u)));
    float sine, cosine;
    sin_cos_turns(b, sine, cosine);
    first = __fmul_rn(radius, cosine);
    second = __fmul_rn(radius, sine);
}

// Normals 4 block to 4 block + 3 of (seed, stream, index, step).
DEV void normals(float (&four)[4], unsigned long long seed, unsigned stream, unsigned long long index,
                 unsigned long long step, unsigned block) {
    const Words words = random_words(seed, stream, index, step, block);
    box_muller(four[0], four[1], words.x, words.y);
    box_muller(four[2], four[3], words.z, words.w);
}
