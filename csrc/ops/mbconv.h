// What the devices' implementations of the mbconv operators share: the checks of their arguments,
// which are those of host/mbconv_checks.h, and of types and devices.
#pragma once

#include "host/mbconv_checks.h"
#include "kernels/mbconv.h"
#include "ops/tensor_checks.h"
#include "ops/tensors.h"

namespace proxyless::ops {

// The arguments that forward, backward and probe have in common.
struct MBConvArguments {
  const Tensor& x;               // [N, C, H, W]
  const OptionalTensor& expand;  // [hidden, C, ke, ke]
  const Tensor& depthwise;       // [hidden, 1, k, k]
  const Tensor& project;         // [O, hidden, 1, 1]
  const Tensor& scale;           // [S]
  const Tensor& shift;           // [S]
  double eps;
  int64_t stride, expand_stride;
};

MBConvShape check_moments(const Tensor& x,  // [N, C, H, W]
                          int64_t kernel, int64_t stride);

MBConvShape check_forward(const MBConvArguments& args,
                          const OptionalTensor& mean,  // [S]
                          const OptionalTensor& var,   // [S]
                          bool residual);

MBConvShape check_backward(const MBConvArguments& args,
                           const Tensor& grad,     // [N, O, Ho, Wo]
                           const Tensor& p,        // [N, O, Ho, Wo]
                           const Tensor& mean,     // [S]
                           const Tensor& var,      // [S]
                           const Tensor& moments,  // [1 + K, K], or [0] if not used
                           bool residual, bool batch_statistics);

MBConvShape check_gate_probe(const MBConvArguments& args,
                             const Tensor& grad,              // [N, O, Ho, Wo]
                             const OptionalTensor& mean,      // [S]
                             const OptionalTensor& var,       // [S]
                             const OptionalTensor& moments);  // [1 + K, K]

}  // namespace proxyless::ops
