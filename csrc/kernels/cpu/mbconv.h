// The fused MBConv on the CPU: one entry for every instruction set.
#pragma once

#include "kernels/cpu/isa.h"
#include "kernels/mbconv.h"

namespace proxyless::cpu {

// How the kernels cut a problem up, and the workspace that takes. It depends on the shape alone,
// not on the number of threads, and with it the order of every sum.
struct MBConvPlan {
  int64_t chunk;   // expanded channels that are worked on at a time
  int64_t chunks;  // such passes over the batch
  int64_t slices;  // parts of the batch that can be worked on in parallel
  int64_t moments_bytes;
  int64_t forward_bytes;
  int64_t backward_bytes;  // with all gradients
  int64_t probe_bytes;
};

// Every instruction set computes the same; float64 runs on the scalar kernels everywhere.
// Preconditions of all: the batch and the sizes are positive, and the plan's workspace is there,
// aligned to kWorkspaceAlignment.
constexpr std::size_t kWorkspaceAlignment = 64;

MBConvPlan plan_mbconv(const MBConvShape& shape, DType dtype, Isa isa);
void mbconv_moments(const MBConvMoments& args, Isa isa);
void mbconv_forward(const MBConvForward& args, Isa isa);
void mbconv_gate_probe(const MBConvProbe& args, Isa isa);
void mbconv_backward(const MBConvBackward& args, Isa isa);

}  // namespace proxyless::cpu
