// The mbconv operators on the CPU, on torch's threads.
#include <torch/csrc/stable/library.h>

#include "kernels/cpu/mbconv.h"
#include "kernels/storage.h"
#include "ops/cpu.h"
#include "ops/mbconv_operators.h"

namespace proxyless::ops {
namespace {

class Cpu {
 public:
  using Picture = ops::Picture;
  using Dense = ops::Dense;

  Cpu(const Tensor& x, bool) : dtype_(dtype_of(mbconv::check, x)) {}

  void check(const MBConvShape&) const {}

  void check_vector(const char* name, const void* vector, const MBConvShape& shape) const {
    check_finite(mbconv::check, name, vector, vector_dtype(dtype_), shape.norm_channels());
  }

  void run(MBConvMoments& args, const MBConvShape& shape) const {
    run(cpu::mbconv_moments, args, shape, &cpu::MBConvPlan::moments_bytes);
  }
  void run(MBConvForward& args, const MBConvShape& shape) const {
    run(cpu::mbconv_forward, args, shape, &cpu::MBConvPlan::forward_bytes);
  }
  void run(MBConvBackward& args, const MBConvShape& shape) const {
    run(cpu::mbconv_backward, args, shape, &cpu::MBConvPlan::backward_bytes);
  }
  void run(MBConvProbe& args, const MBConvShape& shape) const {
    run(cpu::mbconv_gate_probe, args, shape, &cpu::MBConvPlan::probe_bytes);
  }

 private:
  template <class Args>
  void run(void (*kernel)(const Args&, cpu::Isa), Args& args, const MBConvShape& shape,
           int64_t cpu::MBConvPlan::* bytes) const {
    run_on_cpu(kernel, args, cpu::plan_mbconv(shape, dtype_, selected_isa()).*bytes);
  }

  DType dtype_;
};

using Operators = MBConvOperators<Cpu>;

}  // namespace
}  // namespace proxyless::ops

STABLE_TORCH_LIBRARY_IMPL(proxyless, CPU, m) {
  m.impl("mbconv_moments", TORCH_BOX(&proxyless::ops::Operators::moments));
  m.impl("mbconv_forward", TORCH_BOX(&proxyless::ops::Operators::forward));
  m.impl("mbconv_backward", TORCH_BOX(&proxyless::ops::Operators::backward));
  m.impl("mbconv_gate_probe", TORCH_BOX(&proxyless::ops::Operators::gate_probe));
}
