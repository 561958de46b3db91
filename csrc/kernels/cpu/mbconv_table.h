// What every instruction set's source file provides: the same functions under its own name.
#pragma once

#include "kernels/cpu/mbconv.h"

namespace proxyless::cpu {

struct MBConvKernels {
  MBConvPlan (*plan)(const MBConvShape& shape, DType dtype);
  void (*moments)(const MBConvMoments& args);
  void (*forward)(const MBConvForward& args);
  void (*gate_probe)(const MBConvProbe& args);
  void (*backward)(const MBConvBackward& args);
};

extern const MBConvKernels kScalarKernels;
extern const MBConvKernels kVec128Kernels;
#if defined(__x86_64__) && defined(__GNUC__)
extern const MBConvKernels kAvx2Kernels;
extern const MBConvKernels kAvx512Kernels;
extern const MBConvKernels kAvx512Bf16Kernels;  // for kBFloat16 only
#endif

}  // namespace proxyless::cpu
