// Memory with guards on both sides that notice whoever leaves it.
//
// A write shows in the guards' bytes in any build; under AddressSanitizer the guards are poisoned
// too, so that a read does not go unnoticed either.
#pragma once

#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

namespace proxyless::testing {

class Guarded {
 public:
  static constexpr std::size_t kAlignment = 64;

  // The memory starts `offset` bytes past an aligned address and is filled with `garbage`.
  Guarded(int64_t bytes, int64_t offset, unsigned char garbage)
      : front_(kGuard + static_cast<std::size_t>(offset)),
        bytes_(static_cast<std::size_t>(bytes)),
        memory_(static_cast<unsigned char*>(
            ::operator new(front_ + bytes_ + kGuard, std::align_val_t{kAlignment}))) {
    std::memset(memory_.get(), kCanary, front_ + bytes_ + kGuard);
    std::memset(data(), garbage, bytes_);
    raise();
  }
  Guarded(Guarded&&) = default;
  ~Guarded() {
    if (memory_ != nullptr) lower();
  }

  unsigned char* data() const { return memory_.get() + front_; }
  std::size_t size() const { return bytes_; }

  // Whether the guards are as they were.
  bool intact() const {
    lower();
    const auto is_canary = [](unsigned char byte) { return byte == kCanary; };
    const bool same = std::all_of(memory_.get(), data(), is_canary) &&
                      std::all_of(data() + bytes_, data() + bytes_ + kGuard, is_canary);
    raise();
    return same;
  }

  friend bool operator==(const Guarded& a, const Guarded& b) {
    return a.bytes_ == b.bytes_ && std::memcmp(a.data(), b.data(), a.bytes_) == 0;
  }

 private:
  static constexpr std::size_t kGuard = 4 * kAlignment;  // more than any vector
  static constexpr unsigned char kCanary = 0xa5;

  struct Free {
    void operator()(unsigned char* memory) const {
      ::operator delete(memory, std::align_val_t{kAlignment});
    }
  };

  void raise() const {
    ASAN_POISON_MEMORY_REGION(memory_.get(), front_);
    ASAN_POISON_MEMORY_REGION(data() + bytes_, kGuard);
  }
  void lower() const { ASAN_UNPOISON_MEMORY_REGION(memory_.get(), front_ + bytes_ + kGuard); }

  std::size_t front_, bytes_;
  std::unique_ptr<unsigned char, Free> memory_;
};

}  // namespace proxyless::testing
