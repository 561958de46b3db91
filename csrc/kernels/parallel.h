// ParallelFor for lambdas.
#pragma once

#include <cstdint>

#include "kernels/mbconv.h"

namespace proxyless {

// Runs body(task) for every task in [0, tasks).
template <class Body>
void parallel_for(const ParallelFor& parallel, int64_t tasks, const Body& body) {
  const auto call = [](void* context, int64_t task) {
    (**static_cast<const Body**>(context))(task);
  };
  const Body* pointer = &body;
  parallel.run(parallel.context, tasks, call, &pointer);
}

}  // namespace proxyless
