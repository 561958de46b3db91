// Checks of sizes that the operators have in common.
//
// A check throws std::invalid_argument with a sentence that names operator and argument.
#pragma once

#include <cstdint>

#include "host/refusal.h"

namespace proxyless {

class Checks {
 public:
  // `name` is the operator's.
  explicit constexpr Checks(const char* name) : name_(name) {}

  template <class... Parts>
  void operator()(bool condition, const Parts&... parts) const {
    if (!condition) refuse(name_, ": ", parts...);
  }

  void positive(const char* name, int64_t value) const;
  void kernel(const char* name, int64_t value) const;
  void stride(const char* name, int64_t value) const;
  void eps(double value) const;
  void sizes(const char* name, const Sizes& sizes, const Sizes& expected) const;
  void pictures(const Sizes& x) const;
  void weight(const char* name, const Sizes& sizes, const char* expected) const;
  // Everything is counted in int64, in bytes, the largest workspace included.
  //   channels: of all tensors together
  void countable(int64_t batch, int64_t height, int64_t width, double channels) const;

 private:
  const char* name_;
};

}  // namespace proxyless
