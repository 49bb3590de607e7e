// Several matrix products in one launch, which alone are too small to fill a GPU. Names as in matmul.cu.
//   group      nt of up to eight b and second pairs and one a: the query, key and value of a transformer, and the keys and
//              values of several that read one text
//   nn_group   y_i = alpha a_i b_i of up to four pairs: what the LoRAs of several layers get as their gradients
//   nn_sum     y = sum of a_i b_i + sum of a2_i b2_i + residual, of up to three pairs and as many second ones: the gradient of
//              what a group multiplied
//   tn_group   y_i = a_i^T b_i, float, of up to eight pairs over one k, in slices of it: the gradients of those LoRAs'
//              factors. The first `firsts` are [m, n], the others [m2, n2]: A [rank, in] and B [out, rank].
// blockIdx.z is the product, of tn_group the slice, where blockIdx.y is the product.
//
// FLOPs and bytes of each as in matmul.cu: a product of a rank is bound by memory, by what it reads of its long operand.
#include "kernel.h"
#include "matmul.h"

// Product i of so many: field by field, since an array with a number that is not known would lie in memory.
template <int MOST> DEV const scalar_t* chosen(const scalar_t* const (&x)[MOST], int number) {
    const scalar_t* found = x[0];
#pragma unroll
    for (int i = 1; i < MOST; i++) found = number == i ? x[i] : found;
    return found;
}
// y [groups, m, n], a2 [groups, m, k2]: product blockIdx.z of a group.
struct Group {
    scalar_t* y;
    const scalar_t *b, *a2, *b2;
};
DEV Group group(scalar_t* y, const scalar_t* const (&b)[8], const scalar_t* a2, const scalar_t* const (&b2)[8], long long m,
                int n, int k2) {
    const int i = blockIdx.z;
    return {y + i * m * n, chosen(b, i), a2 + i * m * k2, chosen(b2, i)};
}

template <int ROWS, int COLUMNS, int THREADS>
DEV void each_product(scalar_t* y, const scalar_t* const (&a)[4], const scalar_t* const (&b)[4], long long m, int n, int k,
                      float alpha) {
    matmul<false, ROWS, COLUMNS, THREADS>(y + blockIdx.z * m * n, chosen(a, blockIdx.z), chosen(b, blockIdx.z), nullptr,
                                          nullptr, nullptr, nullptr, m, n, k, 0, alpha);
}
template <int ROWS, int COLUMNS, int THREADS>
DEV void sum_of_products(scalar_t* y, const scalar_t* const (&a)[3], const scalar_t* const (&b)[3], const scalar_t* const (&a2)[3],
                         const scalar_t* const (&b2)[3], const scalar_t* residual, int products, long long m, int n, int k,
                         int k2) {
    const Corner corner = corner_of_block<ROWS, COLUMNS>(m, n);
    Sums<ROWS, COLUMNS, THREADS, scalar_t> sums;
    Walk<true, ROWS, THREADS> from_a;
    Walk<false, COLUMNS, THREADS> from_b;
    int left = 0, next = 0;
    const auto begin_next = [&] {
        const bool second = next >= products;
        const int i = second ? next - products : next, values = second ? k2 : k;
        begin(from_a, {second ? chosen(a2, i) : chosen(a, i), m, values, values}, corner.m);
        begin(from_b, {second ? chosen(b2, i) : chosen(b, i), n, values, n}, corner.n);
        left = values;
        next++;
    };
    begin_next();
    product<true, false>(sums, products * steps_of(k, k2), [&](scalar_t* tile_a, scalar_t* tile_b) {
        if (left <= 0) {
            stay_a_branch();
            begin_next();
        }
        fetch(from_a, tile_a, left);
        fetch(from_b, tile_b, left);
        left -= STEP;
    });
    finish(sums, y, n, corner.n, {1.f, nullptr, nullptr, 1, residual},
           [&](int row) { return corner.m + row < m ? corner.m + row : -1; });
}
template <int SIZE, int THREADS>
DEV void each_transposed(float* y, const scalar_t* const (&a)[8], const scalar_t* const (&b)[8], int firsts, int m, int n,
                         int m2, int n2, long long k, int k_slice) {
    const int number = blockIdx.y, products = gridDim.y, others = max(number - firsts, 0);
    const bool first = number < firsts;
    const int rows = first ? m : m2, columns = first ? n : n2;
    // The grid has as many tiles as the larger ones need.
    if ((int)blockIdx.x >= (rows + SIZE - 1) / SIZE * ((columns + SIZE - 1) / SIZE)) return;
    const long long size = (long long)m * n, size2 = (long long)m2 * n2;
    const long long whole = firsts * size + (products - firsts) * size2;
    y += blockIdx.z * whole + min(number, firsts) * size + others * size2;
    matmul_transposed<SIZE, THREADS, false>(y, chosen(a, number), chosen(b, number), rows, columns, k, k_slice);
}

// The second pairs may be missing, and so may products behind the first.
KERNEL_BOUNDS(matmul_group_tall, TILE_TALL_THREADS, 1)
(scalar_t* y, const scalar_t* a, const scalar_t* b_0, const scalar_t* b_1, const scalar_t* b_2, const scalar_t* b_3,
 const scalar_t* b_4, const scalar_t* b_5, const scalar_t* b_6, const scalar_t* b_7, const scalar_t* a2, const scalar_t* b2_0,
 const scalar_t* b2_1, const scalar_t* b2_2, const scalar_t* b2_3, const scalar_t* b2_4, const scalar_t* b2_5,
 const scalar_t* b2_6, const scalar_t* b2_7, long long m, int n, int k, int k2, float alpha) {
    const Group g = group(y, {b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7}, a2,
                          {b2_0, b2_1, b2_2, b2_3, b2_4, b2_5, b2_6, b2_7}, m, n, k2);
    matmul<true, TILE_TALL, TILE_LARGE, TILE_TALL_THREADS>(g.y, a, g.b, g.a2, g.b2, nullptr, nullptr, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_group_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* a, const scalar_t* b_0, const scalar_t* b_1, const scalar_t* b_2, const scalar_t* b_3,
 const scalar_t* b_4, const scalar_t* b_5, const scalar_t* b_6, const scalar_t* b_7, const scalar_t* a2, const scalar_t* b2_0,
 const scalar_t* b2_1, const scalar_t* b2_2, const scalar_t* b2_3, const scalar_t* b2_4, const scalar_t* b2_5,
 const scalar_t* b2_6, const scalar_t* b2_7, long long m, int n, int k, int k2, float alpha) {
    const Group g = group(y, {b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7}, a2,
                          {b2_0, b2_1, b2_2, b2_3, b2_4, b2_5, b2_6, b2_7}, m, n, k2);
    matmul<true, TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS>(g.y, a, g.b, g.a2, g.b2, nullptr, nullptr, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_group_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b_0, const scalar_t* b_1, const scalar_t* b_2, const scalar_t* b_3,
 const scalar_t* b_4, const scalar_t* b_5, const scalar_t* b_6, const scalar_t* b_7, const scalar_t* a2, const scalar_t* b2_0,
 const scalar_t* b2_1, const scalar_t* b2_2, const scalar_t* b2_3, const scalar_t* b2_4, const scalar_t* b2_5,
 const scalar_t* b2_6, const scalar_t* b2_7, long long m, int n, int k, int k2, float alpha) {
    const Group g = group(y, {b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7}, a2,
                          {b2_0, b2_1, b2_2, b2_3, b2_4, b2_5, b2_6, b2_7}, m, n, k2);
    matmul<true, TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS>(g.y, a, g.b, g.a2, g.b2, nullptr, nullptr, m, n, k, k2, alpha);
}
KERNEL_BOUNDS(matmul_group_any, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a, const scalar_t* b_0, const scalar_t* b_1, const scalar_t* b_2, const scalar_t* b_3,
 const scalar_t* b_4, const scalar_t* b_5, const scalar_t* b_6, const scalar_t* b_7, const scalar_t* a2, const scalar_t* b2_0,
 const scalar_t* b2_1, const scalar_t* b2_2, const scalar_t* b2_3, const scalar_t* b2_4, const scalar_t* b2_5,
 const scalar_t* b2_6, const scalar_t* b2_7, long long m, int n, int k, int k2, float alpha) {
    const Group g = group(y, {b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7}, a2,
                          {b2_0, b2_1, b2_2, b2_3, b2_4, b2_5, b2_6, b2_7}, m, n, k2);
    matmul_any<true>(g.y, a, g.b, g.a2, g.b2, nullptr, nullptr, m, n, k, k2, alpha);
}
// y [products, m, n].
KERNEL_BOUNDS(matmul_nn_group_tall, TILE_TALL_THREADS, 1)
(scalar_t* y, const scalar_t* a_0, const scalar_t* a_1, const scalar_t* a_2, const scalar_t* a_3, const scalar_t* b_0,
 const scalar_t* b_1, const scalar_t* b_2, const scalar_t* b_3, long long m, int n, int k, float alpha) {
    each_product<TILE_TALL, TILE_LARGE, TILE_TALL_THREADS>(y, {a_0, a_1, a_2, a_3}, {b_0, b_1, b_2, b_3}, m, n, k, alpha);
}
KERNEL_BOUNDS(matmul_nn_group_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* a_0, const scalar_t* a_1, const scalar_t* a_2, const scalar_t* a_3, const scalar_t* b_0,
 const scalar_t* b_1, const scalar_t* b_2, const scalar_t* b_3, long long m, int n, int k, float alpha) {
    each_product<TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS>(y, {a_0, a_1, a_2, a_3}, {b_0, b_1, b_2, b_3}, m, n, k, alpha);
}
KERNEL_BOUNDS(matmul_nn_group_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a_0, const scalar_t* a_1, const scalar_t* a_2, const scalar_t* a_3, const scalar_t* b_0,
 const scalar_t* b_1, const scalar_t* b_2, const scalar_t* b_3, long long m, int n, int k, float alpha) {
    each_product<TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS>(y, {a_0, a_1, a_2, a_3}, {b_0, b_1, b_2, b_3}, m, n, k, alpha);
}
// The third pairs and residual may be missing.
KERNEL_BOUNDS(matmul_nn_sum_tall, TILE_TALL_THREADS, 1)
(scalar_t* y, const scalar_t* a_0, const scalar_t* a_1, const scalar_t* a_2, const scalar_t* b_0, const scalar_t* b_1,
 const scalar_t* b_2, const scalar_t* a2_0, const scalar_t* a2_1, const scalar_t* a2_2, const scalar_t* b2_0,
 const scalar_t* b2_1, const scalar_t* b2_2, const scalar_t* residual, int products, long long m, int n, int k, int k2) {
    sum_of_products<TILE_TALL, TILE_LARGE, TILE_TALL_THREADS>(y, {a_0, a_1, a_2}, {b_0, b_1, b_2}, {a2_0, a2_1, a2_2}, {b2_0, b2_1, b2_2},
                                   residual, products, m, n, k, k2);
}
KERNEL_BOUNDS(matmul_nn_sum_large, TILE_LARGE_THREADS, 2)
(scalar_t* y, const scalar_t* a_0, const scalar_t* a_1, const scalar_t* a_2, const scalar_t* b_0, const scalar_t* b_1,
 const scalar_t* b_2, const scalar_t* a2_0, const scalar_t* a2_1, const scalar_t* a2_2, const scalar_t* b2_0,
 const scalar_t* b2_1, const scalar_t* b2_2, const scalar_t* residual, int products, long long m, int n, int k, int k2) {
    sum_of_products<TILE_LARGE, TILE_LARGE, TILE_LARGE_THREADS>(y, {a_0, a_1, a_2}, {b_0, b_1, b_2}, {a2_0, a2_1, a2_2}, {b2_0, b2_1, b2_2},
                                   residual, products, m, n, k, k2);
}
KERNEL_BOUNDS(matmul_nn_sum_small, TILE_SMALL_THREADS, 4)
(scalar_t* y, const scalar_t* a_0, const scalar_t* a_1, const scalar_t* a_2, const scalar_t* b_0, const scalar_t* b_1,
 const scalar_t* b_2, const scalar_t* a2_0, const scalar_t* a2_1, const scalar_t* a2_2, const scalar_t* b2_0,
 const scalar_t* b2_1, const scalar_t* b2_2, const scalar_t* residual, int products, long long m, int n, int k, int k2) {
    sum_of_products<TILE_SMALL, TILE_SMALL, TILE_SMALL_THREADS>(y, {a_0, a_1, a_2}, {b_0, b_1, b_2}, {a2_0, a2_1, a2_2}, {b2_0, b2_1, b2_2},
                                   residual, products, m, n, k, k2);
}
// y [slices, what the products have together].
KERNEL_BOUNDS(matmul_tn_group_large, TILE_LARGE_THREADS, 2)
(float* y, const scalar_t* a_0, const scalar_t* a_1, const scalar_t* a_2, const scalar_t* a_3, const scalar_t* a_4,
 const scalar_t* a_5, const scalar_t* a_6, const scalar_t* a_7, const scalar_t* b_0, const scalar_t* b_1, const scalar_t* b_2,
 const scalar_t* b_3, const scalar_t* b_4, const scalar_t* b_5, const scalar_t* b_6, const scalar_t* b_7, int firsts, int m,
 int n, int m2, int n2, long long k, int k_slice) {
    each_transposed<TILE_LARGE, TILE_LARGE_THREADS>(y, {a_0, a_1, a_2, a_3, a_4, a_5, a_6, a_7}, {b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7},
                              firsts, m, n, m2, n2, k, k_slice);
}
KERNEL_BOUNDS(matmul_tn_group_small, TILE_SMALL_THREADS, 4)
(float* y, const scalar_t* a_0, const scalar_t* a_1, const scalar_t* a_2, const scalar_t* a_3, const scalar_t* a_4,
 const scalar_t* a_5, const scalar_t* a_6, const scalar_t* a_7, const scalar_t* b_0, const scalar_t* b_1, const scalar_t* b_2,
 const scalar_t* b_3, const scalar_t* b_4, const scalar_t* b_5, const scalar_t* b_6, const scalar_t* b_7, int firsts, int m,
 int n, int m2, int n2, long long k, int k_slice) {
    each_transposed<TILE_SMALL, TILE_SMALL_THREADS>(y, {a_0, a_1, a_2, a_3, a_4, a_5, a_6, a_7}, {b_0, b_1, b_2, b_3, b_4, b_5, b_6, b_7},
                              firsts, m, n, m2, n2, k, k_slice);
}
