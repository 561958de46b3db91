// Pooling on the CPU: one entry for every instruction set.
#pragma once

#include "kernels/cpu/isa.h"
#include "kernels/pool.h"

namespace proxyless::cpu {

// The workspace that each of them takes, which depends on the shape alone.
struct PoolPlan {
  int64_t forward_bytes;
  int64_t probe_bytes;
  int64_t backward_bytes;
};

// Every instruction set computes the same; float64 runs on the scalar kernels everywhere.
// Preconditions are those of the MBConv's kernels.
PoolPlan plan_pool(const PoolShape& shape, DType dtype, Isa isa);
void pool_forward(const PoolForward& args, Isa isa);
void pool_gate_probe(const PoolProbe& args, Isa isa);
void pool_backward(const PoolBackward& args, Isa isa);

}  // namespace proxyless::cpu
