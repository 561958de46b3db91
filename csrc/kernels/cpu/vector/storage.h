// The 16-bit storage types as vectors see them: bits to be widened, nothing to compute with.
#pragma once

#include <cstdint>

namespace proxyless::cpu {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

}  // namespace proxyless::cpu
