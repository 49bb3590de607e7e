// The one include of a kernel file. The same source is compiled by nvcc for GPUs (device.h) and by the host's C++
// compiler for the simulator (sim/sim.h), which runs it block by block and checks every memory access.
//
// A kernel uses CUDA's own words (threadIdx, __syncthreads, ...) and, where CUDA's differ between the two sides:
//
//   KERNEL(name)(parameters)                   a kernel for blocks of up to 1024 threads
//   KERNEL_BOUNDS(name, threads, blocks)(...)  one for at most `threads`, `blocks` of which should fit on a multiprocessor
//   CONSTANT(name, value)                      a whole number that the launch code needs too: build.rs hands it to Rust
//   SHARED_ARRAY(type, name, length)           shared memory of a size known here
//   DYN_SHARED(type, name)                     the launch's dynamic shared memory
//   DEV                                        before every other function
//
// Parameters are plain values in the order of the launch: `T*` for outputs (and what is updated in place), `const T*`
// for inputs, then int, unsigned, long long and float. build.rs reads them from this text, and the launch builder
// (src/device/gpu/launch.rs) checks each argument against them.
//
// Storage is scalar_t: a file is compiled once each for float, bf16 and f16. Arithmetic is float. Blocks are made of
// whole warps, and every lane of a warp takes part in each of the warp's operations: there are no lane masks.
#pragma once
#if defined(__CUDACC__)
#include "device.h"
#else
#include "sim/sim.h"
#endif
#include "scalar.h"
