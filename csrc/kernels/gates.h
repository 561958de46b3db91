// The contract of the gates: gradients of the alphas of a whole supernet, the same for all devices.
#pragma once

#include <cstdint>

#include "kernels/mbconv.h"

namespace proxyless {

// dL/dalpha_i = p_i (dL/dg_i - sum_j p_j dL/dg_j) with p = softmax(alpha), for every edge.
// Everything is computed in float64.
struct AlphaGradient {
  DType dtype;  // of all three matrices
  int64_t edges, candidates;
  const void* alpha;          // [edges, candidates], -inf where an edge has no such candidate
  const void* gate_gradient;  // [edges, candidates], dL/dg
  void* gradient;             // [edges, candidates], out
};

}  // namespace proxyless
