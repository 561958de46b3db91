// Vectors of AVX-512 with products of bfloat16, for pictures that are stored so.
#pragma once

#include "kernels/cpu/vector/avx512.h"

namespace proxyless::cpu {

struct Avx512Bf16 : Avx512 {
  static constexpr bool kBFloat16Only = true;
  using Pairs = __m512bh;  // two bfloat16 for each lane
  template <class T>
  using Operand = BFloat16;  // T being BFloat16

  using Avx512::load;
  using Avx512::store;
  static void store(BFloat16* p, Vector v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v));
  }
  static void store(BFloat16* p, Vector v, int64_t count) {
    _mm256_mask_storeu_epi16(p, mask(count), (__m256i)_mm512_cvtneps_pbh(v));
  }

  // c + the products of both halves of each lane
  static Vector fma(Pairs a, Pairs b, Vector c) { return _mm512_dpbf16_ps(c, a, b); }
  using Avx512::fma;
  static Pairs load_pairs(const BFloat16* p) { return (Pairs)_mm512_loadu_si512(p); }
  static Pairs set_pair(const BFloat16* p) {
    int bits;
    __builtin_memcpy(&bits, p, sizeof bits);
    return (Pairs)_mm512_set1_epi32(bits);
  }
  // The value and zero.
  static Pairs set_half_pair(const BFloat16* p) { return (Pairs)_mm512_set1_epi32(p->bits); }
};

}  // namespace proxyless::cpu
