// Stacks to run code on, in turns, without the operating system.
#pragma once

#include <cstddef>

namespace proxyless::cuda::emulator {

class Fiber {
 public:
  // Runs `body` on a stack of its own, and again each time that it has returned.
  explicit Fiber(void (*body)());
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // Goes on where it was, until it calls suspend().
  void resume();
  static void suspend();

  bool has_on_stack(const void* address) const {
    return static_cast<std::size_t>(static_cast<const char*>(address) - stack_) < kStackBytes;
  }

 private:
  static constexpr std::size_t kStackBytes = 128 << 10;
  using Context = void* [5];

  [[noreturn]] static void enter();
  void start();

  void (*body_)();
  char* stack_;
  bool started_ = false;
  Context context_;
  void* fake_stack_ = nullptr;  // AddressSanitizer's, while the fiber does not run
};

}  // namespace proxyless::cuda::emulator
