// The cp.async copies of a thread that it has not waited for yet.
#pragma once

#include <vector>

namespace proxyless::cuda::emulator {

class AsyncCopies {
 public:
  static constexpr int kBytes = 16;

  // Begins to copy, or to write zeros if `from` is null. The copy is made now or at the wait, as
  // the emulator's seed decides. Addresses are the caller's to check.
  void start(void* to, const void* from, const void* caller);
  void commit() { ++groups_; }
  // Until the latest `pending` groups are left.
  void wait(int pending, const void* caller);
  bool any() const { return !copies_.empty(); }

 private:
  struct Copy {
    void* to;
    const void* from;
    int group;
    bool arrived;
  };

  std::vector<Copy> copies_;
  int groups_ = 0;
};

}  // namespace proxyless::cuda::emulator
