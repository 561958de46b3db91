#include "kernels/cpu/separable.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/separable_table.h"

namespace proxyless::cpu {
namespace {

constexpr Dispatch<SeparableKernels> kKernels{
    &kScalarSeparable,
#if defined(__x86_64__) && defined(__GNUC__)
    &kVec128Separable, &kAvx2Separable, &kAvx512Separable, &kAvx512Bf16Separable,
#elif defined(__aarch64__) && defined(__GNUC__)
    &kVec128Separable, nullptr, nullptr, nullptr,
#else
    nullptr,           nullptr, nullptr, nullptr,
#endif
};

}  // namespace

SeparablePlan plan_separable(const SeparableShape& shape, DType dtype, Isa isa) {
  return kKernels(dtype, isa).plan(shape, dtype);
}

void separable_statistics(const SeparableStatistics& args, Isa isa) {
  kKernels(args.dtype, isa).statistics(args);
}

void separable_forward(const SeparableForward& args, Isa isa) {
  kKernels(args.input.dtype, isa).forward(args);
}

void separable_gate_probe(const SeparableProbe& args, Isa isa) {
  kKernels(args.input.dtype, isa).gate_probe(args);
}

void separable_backward(const SeparableBackward& args, Isa isa) {
  kKernels(args.input.dtype, isa).backward(args);
}

}  // namespace proxyless::cpu
