#include "kernels/cpu/mbconv.h"

#include "kernels/cpu/mbconv_table.h"

namespace proxyless::cpu {
namespace {

const MBConvKernels& kernels(DType dtype, Isa isa) {
  if (dtype == DType::kFloat64) return kScalarKernels;
  switch (isa) {
#if defined(__x86_64__) && defined(__GNUC__)
    case Isa::kAvx512Bf16:
      return dtype == DType::kBFloat16 ? kAvx512Bf16Kernels : kAvx512Kernels;
    case Isa::kAvx512:
      return kAvx512Kernels;
    case Isa::kAvx2:
      return kAvx2Kernels;
#endif
#if (defined(__x86_64__) || defined(__aarch64__)) && defined(__GNUC__)
    case Isa::kSse2:
    case Isa::kNeon:
      return kVec128Kernels;
#endif
    default:
      return kScalarKernels;
  }
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
