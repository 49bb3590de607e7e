// What kernels for compute capability 9.0 alone have besides kernel.h, whose files are named *_hopper.cu: barriers in shared
// memory, copies of boxes by tensor maps, products of four warps that read their operands from shared memory, and registers
// that go from one group of warps to another. PTX ISA 8.0: mbarrier, cp.async.bulk.tensor, wgmma, setmaxnreg.
//
//   TENSOR_MAP name                  a parameter that says where a tensor lies and which boxes of it are copied; its bytes are
//                                    made on the host (src/device/gpu/tensor_map.rs), which checks them
//   DYN_SHARED_TILES(name)           dynamic shared memory, as bytes, at a multiple of 1024
//   Barrier                          8 bytes in shared memory. A phase ends when `n` threads have arrived and all expected bytes
//                                    have landed. `barrier_wait(b, p)` returns when the phase of parity p has ended: of a new
//                                    barrier, at once for p = 1
//   barrier_init(b, n)               then `barriers_ready()`, by all threads
//   barrier_expect(b, bytes)         arrives, and makes the phase wait for so many bytes
//   barrier_arrive(b)
//   load_box(to, map, b, x, y, ..)   copies the box that begins at x (innermost), y, ..; one thread. What lies outside is zeros
//   load_patches(to, map, b, c, x, y, n, kx, ky)   the pixels from (x, y, n) on, in the map's bounds, each moved by (kx, ky)
//   store_box(map, from, x, y)       and `stores_commit()`, `stores_wait<n>()`: from shared memory; n groups may be under way
//   shared_is_written()              by threads: boxes may be stored and products made of it after the next barrier
//   products_begin()                 before the first product, and after sums or registers of products were changed
//   multiply_rows<N, STEPS>(d, a, b, T{})   d [64, N] += a b over 16 STEPS of k; by 128 threads: an aligned group of four warps
//   multiply_held<N, STEPS>(d, a, b, T{})   the same with a in registers, as multiply_tile has it
//   held(x)                          after a sum or a register of a was computed, before products_begin
//   products_commit(), products_wait<n>()   only after the wait may sums, a's registers and operands be touched
//   registers_less<n>(), registers_more<n>()   by a group of four warps
//   meet<id>(threads)                a barrier of so many threads; ids from 1 to 15
//
// With lane l of warp w of the group, value v of d is row 16 w + l / 4 + 8 (v / 2 % 2), column 8 (v / 4) + 2 (l % 4) + v % 2.
#pragma once
#if defined(__CUDACC__)
#include "device_hopper.h"
#else
#include "sim/sim_hopper.h"
#endif

// An operand of a product, as the tensor cores find it in shared memory: wgmma's matrix descriptor. Its rows have SPAN = 128, 64
// or 32 bytes, whose chunks of 16 bytes are permuted over 8 rows as tensor maps of that span do. Offsets are in units of 16
// bytes: `leading` and `stride` from one group of rows to the next.
struct Matrix {
    unsigned low, high;
    DEV_MEMBER Matrix(const void* tile, int leading, int stride, int span)
        : low((shared_address(tile) & 0x3ffff) >> 4 | (unsigned)(leading >> 4) << 16),
          high((unsigned)(stride >> 4) | (span == 128 ? 1u : span == 64 ? 2u : 3u) << 30) {}
    // Of the same operand so many units later.
    DEV_MEMBER unsigned long long bits(int units = 0) const { return (unsigned long long)high << 32 | (low + units); }
};
// Rows are rows of a or columns of b, with SPAN / 2 values of k each (K-major). NEXT: to the next 16 of k.
template <int SPAN> struct RowsOfK : Matrix {
    static constexpr bool ROWS = true;
    static constexpr int NEXT = 32 >> 4;
    DEV_MEMBER explicit RowsOfK(const void* tile) : Matrix(tile, 16, 8 * SPAN, SPAN) {}
};
// Rows are values of k, each with SPAN / 2 rows of a or columns of b: first all K values of k of the first ones, then of the
// next (MN-major).
template <int SPAN, int K> struct RowsOfN : Matrix {
    static constexpr bool ROWS = false;
    static constexpr int NEXT = 16 * SPAN >> 4;
    DEV_MEMBER explicit RowsOfN(const void* tile) : Matrix(tile, K * SPAN, 8 * SPAN, SPAN) {}
};
// The same operand so many bytes later.
template <class M> DEV M moved(M matrix, int bytes) {
    matrix.low += (unsigned)bytes >> 4;
    return matrix;
}
