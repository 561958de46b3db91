// The 16-bit storage types as vectors see them: bits to be widened, nothing to compute with.
#pragma once

#include <cstdint>

#include "kernels/mbconv.h"

namespace proxyless::cpu {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

// body(a storage value) for the storage type of `dtype`; float64 has kernels of its own.
template <class I, class Body>
void with_storage([[maybe_unused]] DType dtype, const Body& body) {
  if constexpr (I::kBFloat16Only) {
    body(BFloat16{});
  } else {
    switch (dtype) {
      case DType::kBFloat16:
        return body(BFloat16{});
      case DType::kFloat16:
        return body(Half{});
      default:
        return body(float{});
    }
  }
}

}  // namespace proxyless::cpu
