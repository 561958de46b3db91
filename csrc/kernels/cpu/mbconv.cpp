#include "kernels/cpu/mbconv.h"

#include "kernels/cpu/mbconv_table.h"

namespace proxyless::cpu {
namespace {

const MBConvKernels& kernels(DType, Isa) {
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
