// What the devices' implementations of the mbconv operators share: checks of the arguments.
//
// Every check throws std::runtime_error with a sentence that names the argument. None looks at the
// values of a tensor, which on a GPU would have to be waited for.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "kernels/mbconv.h"

namespace proxyless::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

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

MBConvShape check_block(const MBConvArguments& args);
MBConvShape check_moments(const Tensor& x, int64_t kernel, int64_t stride);

// Further arguments of an operator, against the block's shape.
void check_residual(const MBConvShape& shape);
// Whether they are given; both are or none.
bool check_statistics(const MBConvArguments& args, const MBConvShape& shape,
                      const OptionalTensor& mean, const OptionalTensor& var);
// A tensor of x's device, [N, O, Ho, Wo].
void check_output_like(const char* name, const Tensor& tensor, const Tensor& x,
                       const MBConvShape& shape);
void check_moments_given(const Tensor& moments, const Tensor& x, const MBConvShape& shape);
void check_finite(const char* name, const void* values, const MBConvShape& shape, DType dtype);

DType dtype_of(const Tensor& x);
// Of per-channel vectors.
ScalarType vector_type(const Tensor& x);

}  // namespace proxyless::ops
