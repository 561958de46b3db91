#include "kernels/cpu/mbconv.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/mbconv_table.h"

namespace proxyless::cpu {
namespace {

constexpr Dispatch<MBConvKernels> kKernels{
    &kScalarKernels,
#if defined(__x86_64__) && defined(__GNUC__)
    &kVec128Kernels, &kAvx2Kernels, &kAvx512Kernels, &kAvx512Bf16Kernels,
#elif defined(__aarch64__) && defined(__GNUC__)
    &kVec128Kernels, nullptr, nullptr, nullptr,
#else
    nullptr,         nullptr, nullptr, nullptr,
#endif
};

}  // namespace

MBConvPlan plan_mbconv(const MBConvShape& shape, DType dtype, Isa isa) {
  return kKernels(dtype, isa).plan(shape, dtype);
}

void mbconv_moments(const MBConvMoments& args, Isa isa) { kKernels(args.dtype, isa).moments(args); }

void mbconv_forward(const MBConvForward& args, Isa isa) {
  kKernels(args.input.dtype, isa).forward(args);
}

void mbconv_gate_probe(const MBConvProbe& args, Isa isa) {
  kKernels(args.input.dtype, isa).gate_probe(args);
}

void mbconv_backward(const MBConvBackward& args, Isa isa) {
  kKernels(args.input.dtype, isa).backward(args);
}

}  // namespace proxyless::cpu
