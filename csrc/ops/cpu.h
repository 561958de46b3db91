// How operators on the CPU run kernels: on torch's threads, with the instruction set of the
// environment.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstddef>
#include <cstdint>

#include "host/isa_choice.h"
#include "host/workspace.h"
#include "kernels/mbconv.h"

namespace proxyless::ops {

inline ParallelFor torch_threads() {
  const auto run = [](void*, int64_t tasks, void (*body)(void* body_context, int64_t task),
                      void* body_context) {
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) body(body_context, task);
    });
  };
  return {run, nullptr};
}

inline cpu::Isa selected_isa() {
  static const cpu::Isa isa = isa_of_environment();
  return isa;
}

// Adds workspace and threads to the arguments.
template <class Args>
void run_on_cpu(void (*kernel)(const Args&, cpu::Isa), Args& args, int64_t workspace_bytes) {
  const Workspace workspace(static_cast<std::size_t>(workspace_bytes));
  args.workspace = workspace.data();
  args.parallel = torch_threads();
  kernel(args, selected_isa());
}

}  // namespace proxyless::ops
