// The operators of the gates on GPUs, on the current stream of alpha's device.
#include <torch/csrc/stable/library.h>

#include "kernels/cuda/gates.h"
#include "ops/cuda_stream.h"
#include "ops/gates.h"

namespace proxyless::ops {
namespace {

Tensor alpha_gradient_on_gpu(const Tensor& alpha, const Tensor& gate_gradient) {
  return alpha_gradient(alpha, gate_gradient, [&](const AlphaGradient& args) {
    const CurrentStream stream("alpha_gradient", alpha);
    cuda::alpha_gradient(args, stream.get());
  });
}

}  // namespace
}  // namespace proxyless::ops

STABLE_TORCH_LIBRARY_IMPL(proxyless, CUDA, m) {
  m.impl("alpha_gradient", TORCH_BOX(&proxyless::ops::alpha_gradient_on_gpu));
}
