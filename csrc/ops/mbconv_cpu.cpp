// The mbconv operators on the CPU, on torch's threads.
#include <torch/csrc/stable/library.h>

#include <cmath>

#include "host/isa_choice.h"
#include "host/refusal.h"
#include "host/workspace.h"
#include "kernels/cpu/mbconv.h"
#include "kernels/storage.h"
#include "ops/mbconv_operators.h"

namespace proxyless::ops {
namespace {

ParallelFor torch_threads() {
  const auto run = [](void*, int64_t tasks, void (*body)(void* body_context, int64_t task),
                      void* body_context) {
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) body(body_context, task);
    });
  };
  return {run, nullptr};
}

cpu::Isa selected_isa() {
  static const cpu::Isa isa = isa_of_environment();
  return isa;
}

class Cpu {
 public:
  using Picture = ops::Picture;
  using Dense = ops::Dense;

  Cpu(const Tensor& x, bool) : dtype_(dtype_of(x)) {}

  void check(const MBConvShape&) const {}

  void check_vector(const char* name, const void* vector, const MBConvShape& shape) const {
    const DType dtype = vector_dtype(dtype_);
    for (int64_t i = 0; i < shape.norm_channels(); ++i) {
      if (!std::isfinite(read(vector, dtype, i))) {
        refuse("mbconv: ", name, " has a value that is not finite");
      }
    }
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
    const cpu::Isa isa = selected_isa();
    const Workspace workspace(
        static_cast<std::size_t>(cpu::plan_mbconv(shape, dtype_, isa).*bytes));
    args.workspace = workspace.data();
    args.parallel = torch_threads();
    kernel(args, isa);
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
