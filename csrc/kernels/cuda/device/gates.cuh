// Gradients of the alphas, a warp for each edge.
#pragma once

#include "kernels/cuda/device/numbers.cuh"

namespace proxyless::cuda {

__device__ __forceinline__ double to_double(double value) { return value; }
template <class T>
__device__ __forceinline__ double to_double(T value) {
  return static_cast<double>(to_float(value));
}

template <class T>
__device__ __forceinline__ T from_double(double value) {
  return from_float<T>(static_cast<float>(value));
}
template <>
__device__ __forceinline__ double from_double<double>(double value) {
  return value;
}

// Matrices [edges, candidates] with at least one candidate; see AlphaGradient. Grid: groups of
// kWarps edges.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    alpha_gradients(const T* alpha, const T* gate_gradient, int64_t edges, int64_t candidates,
                    T* gradient) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t edge = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  if (edge >= edges) return;
  alpha += edge * candidates;
  gate_gradient += edge * candidates;
  gradient += edge * candidates;

  double highest = to_double(alpha[0]);
  for (int64_t i = lane; i < candidates; i += 32) highest = max(highest, to_double(alpha[i]));
  for (int distance = 1; distance < 32; distance *= 2) {
    highest = max(highest, __shfl_xor_sync(0xffffffffu, highest, distance));
  }

  double total = 0, mean = 0;
  for (int64_t i = lane; i < candidates; i += 32) {
    const double power = exp(to_double(alpha[i]) - highest);
    total += power;
    mean += power * to_double(gate_gradient[i]);
  }
  for (int distance = 1; distance < 32; distance *= 2) {
    total += __shfl_xor_sync(0xffffffffu, total, distance);
    mean += __shfl_xor_sync(0xffffffffu, mean, distance);
  }
  mean /= total;

  for (int64_t i = lane; i < candidates; i += 32) {
    const double probability = exp(to_double(alpha[i]) - highest) / total;
    gradient[i] = from_double<T>(probability * (to_double(gate_gradient[i]) - mean));
  }
}

}  // namespace proxyless::cuda
