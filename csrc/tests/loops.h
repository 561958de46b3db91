// Ways to run a kernel's tasks, between which results may not differ by a bit.
#pragma once

#include <cstdint>

#include "kernels/mbconv.h"

namespace proxyless::testing {

inline ParallelFor in_order() {
  const auto run = [](void*, int64_t tasks, void (*body)(void*, int64_t), void* body_context) {
    for (int64_t task = 0; task < tasks; ++task) body(body_context, task);
  };
  return {run, nullptr};
}

inline ParallelFor in_reverse() {
  const auto run = [](void*, int64_t tasks, void (*body)(void*, int64_t), void* body_context) {
    for (int64_t task = tasks - 1; task >= 0; --task) body(body_context, task);
  };
  return {run, nullptr};
}

}  // namespace proxyless::testing
