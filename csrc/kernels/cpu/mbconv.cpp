#include "kernels/cpu/mbconv.h"

#include "kernels/cpu/mbconv_table.h"

namespace proxyless::cpu {
namespace {

const MBConvKernels& kernels([[maybe_unused]] DType dtype, [[maybe_unused]] Isa isa) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (dtype == DType::kFloat64) return kScalarKernels;
  if (dtype == DType::kBFloat16 && isa == Isa::kAvx512Bf16) return kAvx512Bf16Kernels;
  if (isa == Isa::kAvx512Bf16 || isa == Isa::kAvx512) return kAvx512Kernels;
  if (isa == Isa::kAvx2) return kAvx2Kernels;
#endif
  return kScalarKernels;
}

}  // namespace

MBConvPlan plan_mbconv(const MBConvShape& shape, DType dtype, Isa isa) {
  return kernels(dtype, isa).plan(shape, dtype);
}

void mbconv_moments(const MBConvMoments& args, Isa isa) { kernels(args.dtype, isa).moments(args); }

void mbconv_forward(const MBConvForward& args, Isa isa) {
  kernels(args.input.dtype, isa).forward(args);
}

void mbconv_gate_probe(const MBConvProbe& args, Isa isa) {
  kernels(args.input.dtype, isa).gate_probe(args);
}

void mbconv_backward(const MBConvBackward& args, Isa isa) {
  kernels(args.input.dtype, isa).backward(args);
}

}  // namespace proxyless::cpu
