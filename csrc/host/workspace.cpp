#include "host/workspace.h"

#include <mutex>
#include <new>
#include <utility>

#include "kernels/cpu/mbconv.h"

namespace proxyless {
namespace {

constexpr std::align_val_t kAlignment{cpu::kWorkspaceAlignment};

// The one block that waits for its next use.
struct Kept {
  std::mutex mutex;
  void* memory = nullptr;
  std::size_t bytes = 0;
};

Kept& kept() {
  static Kept& instance =
      *new Kept;  // Never destroyed: other threads may still be running at exit.
  return instance;
}

}  // namespace

Workspace::Workspace(std::size_t bytes) : memory_(nullptr), bytes_(bytes) {
  {
    Kept& block = kept();
    const std::lock_guard lock(block.mutex);
    if (block.bytes >= bytes) {
      memory_ = std::exchange(block.memory, nullptr);
      bytes_ = std::exchange(block.bytes, 0);
    }
  }
  if (memory_ == nullptr) memory_ = ::operator new(bytes, kAlignment);
}

Workspace::~Workspace() {
  if (bytes_ <= kKeptBytes) {
    Kept& block = kept();
    const std::lock_guard lock(block.mutex);
    if (block.bytes < bytes_) {
      std::swap(block.memory, memory_);
      std::swap(block.bytes, bytes_);
    }
  }
  ::operator delete(memory_, kAlignment);
}

}  // namespace proxyless
