// Kernels that test the simulator's checks: right where `bug` is 0, with one mistake each where it is not. Host only.
#include "kernel.h"

CONSTANT(PLANTED_THREADS, 64);

// y = x reversed, twice over through shared memory.
KERNEL_BOUNDS(planted_block_exchange, PLANTED_THREADS, 1)(float* y, const float* x, int bug) {
    SHARED_ARRAY(float, s, PLANTED_THREADS);
    const int t = threadIdx.x, last = PLANTED_THREADS - 1;
    if (bug != 1 || t != 7) s[t] = x[t];  // 1: one value is never written
    if (bug != 2) __syncthreads();        // 2: read before others have written
    float value = s[last - t];
    if (bug != 3) __syncthreads();        // 3: written while others still read
    s[t] = value;
    __syncthreads();
    y[t] = s[last - (last - t)];
}

// y = x with neighbours swapped, inside each warp.
KERNEL_BOUNDS(planted_warp_exchange, PLANTED_THREADS, 1)(float* y, const float* x, int bug) {
    SHARED_ARRAY(float, s, PLANTED_THREADS);
    const int t = threadIdx.x;
    s[t] = x[t];
    if (bug != 1) __syncwarp();  // 1: read before the neighbour has written
    const float value = s[t ^ 1];
    if (bug != 2) __syncwarp();  // 2: written before the neighbour has read
    s[t] = value;
    y[t] = s[t];
}

// y = x for n values; a thread each.
KERNEL_BOUNDS(planted_copy, PLANTED_THREADS, 1)(float* y, const float* x, int n, int bug) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const bool last = i == n - 1;
    if (bug == 1 && last) y[n] = 0.f;                           // 1: writes past the end
    if (bug == 2 && i == 0) y[0] = x[-1];                       // 2: reads before the start
    if (bug == 3 && last) return;                               // 3: leaves an output unwritten
    if (bug == 4) const_cast<float*>(x)[i] = 0.f;               // 4: writes an input
    if (bug == 5) y[i] += 1.f;                                  // 5: reads an output that nobody has written
    if (bug == 6)                                               // 6: loads 16 bytes from a multiple of 4
        *reinterpret_cast<uint4*>(y) = *reinterpret_cast<const uint4*>(x + 1);
    if (bug == 7) y[1ll << 40] = 0.f;                           // 7: an address of nothing
    y[i] = x[i];
}

// y = x through asynchronous copies of 16 bytes by 16 threads.
KERNEL_BOUNDS(planted_async_copy, PLANTED_THREADS, 1)(float* y, const float* x, int bug) {
    DYN_SHARED(float, s);
    const int t = threadIdx.x;
    if (t < PLANTED_THREADS / 4) copy_async(s + 4 * t, x + 4 * t, 16);
    copy_async_commit();
    if (bug == 1) __syncthreads();                        // 1: read before the wait
    else if (bug == 2) { y[t] = x[t]; return; }           // 2: never waited for
    else if (bug == 4) { copy_async_wait<1>(); __syncthreads(); }  // 4: waits for the group before
    else {
        copy_async_wait<0>();
        if (bug != 3) __syncthreads();                    // 3: reads what another thread has waited for
    }
    y[t] = s[t];
}

// y = x through dynamic shared memory, of which the launch must give PLANTED_THREADS + shift values.
KERNEL_BOUNDS(planted_dynamic, PLANTED_THREADS, 1)(float* y, const float* x, int shift) {
    DYN_SHARED(float, s);
    s[threadIdx.x + shift] = x[threadIdx.x];
    y[threadIdx.x] = s[threadIdx.x + shift];
}

KERNEL_BOUNDS(planted_divergence, PLANTED_THREADS, 1)(float* y, int bug) {
    SHARED_ARRAY(float, s, 1);
    const int t = threadIdx.x;
    if (bug == 1 && t < 40) __syncthreads();              // 1: a barrier that some threads never reach
    if (bug == 2) { if (t < 32) __syncthreads();          // 2: two different barriers
        else __syncthreads(); }
    if (bug == 3 && t == 5) { y[t] = 0.f; return; }       // 3: a lane has left its warp
    if (bug == 4 && t % 32 == 3) __syncwarp();            // 4: lanes of one warp do different things
    y[t] = warp_sum(1.f);
    if (bug == 5) {                                       // 5: more static shared memory than a block has
        SHARED_ARRAY(float, large, 13000);
        large[t] = s[0];
    }
}
