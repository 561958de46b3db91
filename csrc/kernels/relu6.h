// ReLU6, forward beside backward, for CPUs and GPUs.
#pragma once

#if defined(__CUDACC__)
#define PROXYLESS_HOST_DEVICE __host__ __device__
#else
#define PROXYLESS_HOST_DEVICE
#endif

namespace proxyless {

// Comparisons are written so that NaN passes through, as it does in PyTorch's layers.
template <class T>
PROXYLESS_HOST_DEVICE constexpr T relu6(T z) {
  return z < T{0} ? T{0} : z > T{6} ? T{6} : z;
}

// dL/dz, given grad = dL/drelu6(z).
template <class T>
PROXYLESS_HOST_DEVICE constexpr T relu6_backward(T z, T grad) {
  return z <= T{0} || z >= T{6} ? T{0} : grad;
}

}  // namespace proxyless
