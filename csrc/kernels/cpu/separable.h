// The fused separable block on the CPU: one entry for every instruction set.
#pragma once

#include "kernels/cpu/isa.h"
#include "kernels/separable.h"

namespace proxyless::cpu {

// The workspace that each of them takes, which depends on the shape alone.
struct SeparablePlan {
  int64_t statistics_bytes;
  int64_t forward_bytes;
  int64_t probe_bytes;
  int64_t backward_bytes;  // with all gradients
};

// Every instruction set computes the same; float64 runs on the scalar kernels everywhere.
// Preconditions are those of the MBConv's kernels.
SeparablePlan plan_separable(const SeparableShape& shape, DType dtype, Isa isa);
void separable_statistics(const SeparableStatistics& args, Isa isa);
void separable_forward(const SeparableForward& args, Isa isa);
void separable_gate_probe(const SeparableProbe& args, Isa isa);
void separable_backward(const SeparableBackward& args, Isa isa);

}  // namespace proxyless::cpu
