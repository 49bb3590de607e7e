// x P(x), P the normal distribution (Hendrycks & Gimpel 2016, arXiv:1606.08415), and its slope.
#pragma once

// e^(-x x / 2), and P(x) from it. Nothing cancels on the left: P(-|x|) is found first.
struct Normal {
    float bell, below;
};
// As erfc where that is not finer than what is stored. Else by a polynomial in t = 1 / (1 + 0.305 |x|) of P(-|x|) e^(x x / 2), the
// fit of least relative error, 1e-7 (3e-7 as it is computed), over all x: a half of erfc's instructions.
DEV Normal normal(float x) {
    if constexpr (sizeof(scalar_t) == sizeof(float)) return {expf(-0.5f * x * x), 0.5f * erfcf(-x * 0.70710678f)};
    const float t = reciprocal(fmaf(0.305f, fabsf(x), 1.f)), bell = exp2_or_zero(x * x * -0.72134752f);
    float sum = fmaf(0.03670264f, t, -0.15300407f);
    sum = fmaf(sum, t, 0.18574661f);
    sum = fmaf(sum, t, -0.038006734f);
    sum = fmaf(sum, t, 0.12103896f);
    sum = fmaf(sum, t, 0.10341515f);
    sum = fmaf(sum, t, 0.12246782f);
    sum = fmaf(sum, t, 0.12163966f);
    const float beyond = sum * t * bell;
    return {bell, x > 0.f ? 1.f - beyond : beyond};
}
DEV float gelu(float x) { return x * normal(x).below; }
struct Gelu {
    float gelu, slope;
};
// The slope is P(x) + x p(x).
DEV Gelu gelu_and_slope(float x) {
    const Normal at = normal(x);
    return {x * at.below, at.below + x * 0.39894228f * at.bell};
}
DEV float gelu_slope(float x) { return gelu_and_slope(x).slope; }
