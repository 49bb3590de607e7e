// Sums and maxima over a block, in a fixed order: the same bits whatever the hardware schedules first.
#pragma once

// The sum of `value` over all threads of the block, for every thread. Every thread must call it; scratch is its own, so
// calls may follow each other without a barrier between them.
DEV float block_sum(float value) {
    SHARED_ARRAY(float, warp_sums, 32);
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = value;
    __syncthreads();
    const int lane = threadIdx.x % 32;
    const float total = warp_sum(lane < blockDim.x / 32 ? warp_sums[lane] : 0.f);
    __syncthreads();
    return total;
}

// The largest `value` of all threads of the block, for every thread; otherwise as block_sum.
DEV float block_max(float value) {
    SHARED_ARRAY(float, warp_maxima, 32);
    value = warp_max(value);
    if (threadIdx.x % 32 == 0) warp_maxima[threadIdx.x / 32] = value;
    __syncthreads();
    const int lane = threadIdx.x % 32;
    const float largest = warp_max(lane < blockDim.x / 32 ? warp_maxima[lane] : warp_maxima[0]);
    __syncthreads();
    return largest;
}
