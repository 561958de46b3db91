// What every instruction set's source file provides: the same functions under its own name.
#pragma once

#include "kernels/cpu/pool.h"

namespace proxyless::cpu {

struct PoolKernels {
  PoolPlan (*plan)(const PoolShape& shape);
  void (*forward)(const PoolForward& args);
  void (*gate_probe)(const PoolProbe& args);
  void (*backward)(const PoolBackward& args);
};

extern const PoolKernels kScalarPool;
extern const PoolKernels kVec128Pool;
#if defined(__x86_64__) && defined(__GNUC__)
extern const PoolKernels kAvx2Pool;
extern const PoolKernels kAvx512Pool;
#endif

}  // namespace proxyless::cpu
