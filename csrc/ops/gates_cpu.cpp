// The operators of the gates on the CPU.
#include <torch/csrc/stable/library.h>

#include "kernels/cpu/gates.h"
#include "ops/gates.h"

namespace proxyless::ops {
namespace {

Tensor alpha_gradient_on_cpu(const Tensor& alpha, const Tensor& gate_gradient) {
  return alpha_gradient(alpha, gate_gradient, cpu::alpha_gradient);
}

}  // namespace
}  // namespace proxyless::ops

STABLE_TORCH_LIBRARY_IMPL(proxyless, CPU, m) {
  m.impl("alpha_gradient", TORCH_BOX(&proxyless::ops::alpha_gradient_on_cpu));
}
