// The gates on a GPU: the same contract as the CPU's, on device memory and a CUDA stream.
#pragma once

#include "kernels/gates.h"

namespace proxyless::cuda {

// Enqueues one kernel for all edges on the stream, a cudaStream_t. Any number of edges and of
// candidates will do, 0 too. A launch that fails is a std::runtime_error.
void alpha_gradient(const AlphaGradient& args, void* stream);

}  // namespace proxyless::cuda
