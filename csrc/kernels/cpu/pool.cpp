#include "kernels/cpu/pool.h"

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/pool_table.h"

namespace proxyless::cpu {
namespace {

constexpr Dispatch<PoolKernels> kKernels{
    &kScalarPool,
#if defined(__x86_64__) && defined(__GNUC__)
    &kVec128Pool, &kAvx2Pool, &kAvx512Pool, &kAvx512Pool,
#elif defined(__aarch64__) && defined(__GNUC__)
    &kVec128Pool, nullptr, nullptr, nullptr,
#else
    nullptr,      nullptr, nullptr, nullptr,
#endif
};

}  // namespace

PoolPlan plan_pool(const PoolShape& shape, DType dtype, Isa isa) {
  return kKernels(dtype, isa).plan(shape);
}

void pool_forward(const PoolForward& args, Isa isa) { kKernels(args.dtype, isa).forward(args); }

void pool_gate_probe(const PoolProbe& args, Isa isa) { kKernels(args.dtype, isa).gate_probe(args); }

void pool_backward(const PoolBackward& args, Isa isa) { kKernels(args.dtype, isa).backward(args); }

}  // namespace proxyless::cpu
