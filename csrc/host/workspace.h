// Memory that a kernel works in.
//
// Fresh pages cost more than the work in them: the kernel of the operating system clears each one
// at its first use, which took a third of the time of a block of 7 x 7 pixels. So the memory
// of the last call is kept for the next one, as libraries of matrix products do.
#pragma once

#include <cstddef>

namespace proxyless {

class Workspace {
 public:
  // At most this much stays with the process between two calls.
  static constexpr std::size_t kKeptBytes = std::size_t{64} << 20;

  explicit Workspace(std::size_t bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  void* data() const { return memory_; }  // aligned to cpu::kWorkspaceAlignment

 private:
  void* memory_;
  std::size_t bytes_;
};

}  // namespace proxyless
