// The operators of the gates but for what devices do differently: the kernels.
#pragma once

#include "host/refusal.h"
#include "kernels/gates.h"
#include "ops/tensors.h"

namespace proxyless::ops {

// `run` takes an AlphaGradient whose matrices are dense.
template <class Run>
Tensor alpha_gradient(const Tensor& alpha,          // [E, N]
                      const Tensor& gate_gradient,  // [E, N]
                      const Run& run) {
  const auto check = [](bool condition, const auto&... parts) {
    if (!condition) refuse("alpha_gradient: ", parts...);
  };
  const std::optional<DType> dtype = kernel_dtype(alpha);
  check(dtype.has_value(), "alpha must be Float, Double, BFloat16 or Half, not ",
        torch::headeronly::toString(alpha.scalar_type()));
  check(alpha.dim() == 2, "alpha must have the shape [E, N], not ", to_string(sizes_of(alpha)));
  check(sizes_of(gate_gradient) == sizes_of(alpha), "gate_gradient must have alpha's shape ",
        to_string(sizes_of(alpha)), ", not ", to_string(sizes_of(gate_gradient)));
  check(gate_gradient.scalar_type() == alpha.scalar_type(), "gate_gradient must be ",
        torch::headeronly::toString(alpha.scalar_type()), " to go with alpha, not ",
        torch::headeronly::toString(gate_gradient.scalar_type()));
  check(gate_gradient.device() == alpha.device(),
        "gate_gradient must be on the same device as alpha");

  const Dense dense_alpha(alpha), dense_gate_gradient(gate_gradient);
  const Tensor gradient = dense_like(alpha);
  run(AlphaGradient{*dtype, alpha.size(0), alpha.size(1), dense_alpha.data(),
                    dense_gate_gradient.data(), gradient.mutable_data_ptr()});
  return gradient;
}

}  // namespace proxyless::ops
