// x P(x), P the normal distribution (Hendrycks & Gimpel 2016, arXiv:1606.08415), and its slope.
#pragma once

// As erfc, so that nothing cancels on the left.
DEV float normal_distribution(float x) { return 0.5f * erfcf(-x * 0.70710678f); }
DEV float gelu(float x) { return x * normal_distribution(x); }
// P(x) + x p(x)
DEV float gelu_slope(float x) { return normal_distribution(x) + x * 0.39894228f * expf(-0.5f * x * x); }
