// Sums over the threads of a block, in a fixed order.
#pragma once

#include "kernels/cuda/device/numbers.cuh"

namespace proxyless::cuda {

// Floats of shared memory that sum_over_threads needs.
template <int kUnits, int kValues>
constexpr int kSumFloats = kWarps * kUnits * kValues;

// Sums each of the values over the block's threads of the same threadIdx.x % kUnits, a power of 2
// up to 32. All threads get the sums. Begins and ends with `scratch` free for the whole block.
template <int kUnits, int kValues>
__device__ __forceinline__ void sum_over_threads(float (&values)[kValues], float* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
#pragma unroll
    for (int distance = kUnits; distance < 32; distance *= 2) {
      values[i] += __shfl_xor_sync(0xffffffffu, values[i], distance);
    }
  }
  if (lane < kUnits) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) scratch[(warp * kUnits + lane) * kValues + i] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    values[i] = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      values[i] += scratch[(w * kUnits + lane % kUnits) * kValues + i];
    }
  }
  __syncthreads();
}

// Statistics of one block's values of a channel, as partial results in global memory: [blocks, 3,
// pitch], their number, mean, and sum of squared differences from it.
struct Statistics {
  float* data;
  int64_t pitch;

  __device__ float* of(int64_t block, int kind) const { return data + (block * 3 + kind) * pitch; }
};

}  // namespace proxyless::cuda
