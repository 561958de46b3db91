// How the host starts a kernel. The emulator has this function too.
#pragma once

#include "kernels/cuda/device/platform.cuh"

#if !defined(PROXYLESS_CUDA_EMULATOR)

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace proxyless::cuda {

// Enqueues kernel(args...) on a stream. Nothing is launched for an empty grid.
template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, void* stream,
            const Args&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(args...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA cannot launch a kernel of proxyless_ext: ") +
                             cudaGetErrorString(error));
  }
}

}  // namespace proxyless::cuda

#endif
