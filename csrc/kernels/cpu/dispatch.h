// Which instruction set's kernels run.
#pragma once

#include "kernels/cpu/isa.h"
#include "kernels/mbconv.h"

namespace proxyless::cpu {

// The same functions for every instruction set; null where the compiler's target has none of it.
template <class Kernels>
struct Dispatch {
  const Kernels* scalar;
  const Kernels* vec128;
  const Kernels* avx2;
  const Kernels* avx512;
  const Kernels* avx512_bf16;  // for kBFloat16 only

  const Kernels& operator()(DType dtype, Isa isa) const {
    if (dtype == DType::kFloat64) return *scalar;
    switch (isa) {
      case Isa::kAvx512Bf16:
        return dtype == DType::kBFloat16 ? *avx512_bf16 : *avx512;
      case Isa::kAvx512:
        return *avx512;
      case Isa::kAvx2:
        return *avx2;
      case Isa::kSse2:
      case Isa::kNeon:
        return *vec128;
      default:
        return *scalar;
    }
  }
};

}  // namespace proxyless::cpu
