// The fused MBConv on a GPU: the same contract as the CPU's, on device memory and a CUDA stream.
//
// No CUDA header is needed to call it. Everything is enqueued on the stream; nothing waits for the
// GPU, allocates, or depends on values in its memory, so that calls can be captured in a graph.
#pragma once

#include "kernels/mbconv.h"

namespace proxyless::cuda {

// What a plan depends on, from the device's properties.
struct Device {
  int64_t multiprocessors;
  int64_t l2_bytes;
};

// How the kernels cut a problem up, and the workspace that takes. It depends on the shape and the
// device alone, and with it the order of every sum.
struct MBConvPlan {
  int64_t forward_chunk;   // expanded channels whose D exists at a time, in forward and probe
  int64_t backward_chunk;  // those whose D, dZ2 and dZ1 exist at a time
  int64_t moments_bytes;
  int64_t forward_bytes;
  int64_t backward_bytes;  // with all gradients
  int64_t probe_bytes;
};

// How to run. Products of float32 are exact to float32 unless `tf32`.
struct Launch {
  Device device;
  void* stream;  // a cudaStream_t
  bool tf32;
};

constexpr std::size_t kWorkspaceAlignment = 256;

// Why a block cannot run here, as the end of a sentence that starts with "mbconv: ", or null.
const char* unsupported(const MBConvShape& shape, DType dtype);

// Preconditions of all: the block is supported, the batch and the sizes are positive, pictures are
// dense, pictures and weights are aligned to 16 bytes, and the plan's workspace is there, aligned
// to kWorkspaceAlignment. `parallel` is not used. A launch that fails is a std::runtime_error.
MBConvPlan plan_mbconv(const MBConvShape& shape, DType dtype, const Device& device);
void mbconv_moments(const MBConvMoments& args, const Launch& launch);
void mbconv_forward(const MBConvForward& args, const Launch& launch);
void mbconv_gate_probe(const MBConvProbe& args, const Launch& launch);
void mbconv_backward(const MBConvBackward& args, const Launch& launch);

}  // namespace proxyless::cuda
