// What every instruction set's source file provides: the same functions under its own name.
#pragma once

#include "kernels/cpu/separable.h"

namespace proxyless::cpu {

struct SeparableKernels {
  SeparablePlan (*plan)(const SeparableShape& shape, DType dtype);
  void (*statistics)(const SeparableStatistics& args);
  void (*forward)(const SeparableForward& args);
  void (*gate_probe)(const SeparableProbe& args);
  void (*backward)(const SeparableBackward& args);
};

extern const SeparableKernels kScalarSeparable;
extern const SeparableKernels kVec128Separable;
#if defined(__x86_64__) && defined(__GNUC__)
extern const SeparableKernels kAvx2Separable;
extern const SeparableKernels kAvx512Separable;
extern const SeparableKernels kAvx512Bf16Separable;  // for kBFloat16 only
#endif

}  // namespace proxyless::cpu
