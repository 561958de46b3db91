// Loops whose counts the compiler has to know, so that accumulators stay in registers.
//
// Everything below this folder's sources is instantiated once per instruction set with flags of its
// own. Inline functions of the standard library could be compiled with those flags and then be used
// everywhere, also on CPUs without them, so nothing here uses any.
#pragma once

#include <cstdint>

#define PROXYLESS_INLINE inline __attribute__((always_inline))

namespace proxyless::cpu {

template <int kValue>
struct Count {
  static constexpr int value = kValue;
};

constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t multiple) { return ceil_div(a, multiple) * multiple; }

// body(Count<count>), for a count from 1 to kMax.
template <int kMax, class Body>
PROXYLESS_INLINE void with_count(int64_t count, const Body& body) {
  if constexpr (kMax == 1) {
    body(Count<1>{});
  } else if (count == kMax) {
    body(Count<kMax>{});
  } else {
    with_count<kMax - 1>(count, body);
  }
}

// Cuts [0, count) into as few groups of at most kMax as possible, all of nearly the same size, and
// runs body(Count<size>, first) for each.
template <int kMax, class Body>
PROXYLESS_INLINE void for_groups(int64_t count, const Body& body) {
  const int64_t groups = ceil_div(count, kMax);
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t first = group * count / groups;
    const int64_t size = (group + 1) * count / groups - first;
    with_count<kMax>(size, [&](auto known) { body(known, first); });
  }
}

}  // namespace proxyless::cpu
