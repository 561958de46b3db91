// Vectors of AVX2 with FMA and F16C: the operations that the kernels are written in.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/vector/storage.h"

namespace proxyless::cpu {

struct Avx2 {
  using Vector = __m256;
  using Doubles = __m256d;
  static constexpr int kLanes = 8;
  static constexpr int kDoubles = 4;
  // 6 pixels times 2 vectors are 12 accumulators of 16 registers.
  static constexpr int kRows = 6;
  static constexpr int kBlock = 2;

  static constexpr bool kBFloat16Only = false;
  // What products of pictures stored as T are made of.
  template <class T>
  using Operand = float;

  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector set1(float value) { return _mm256_set1_ps(value); }
  static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector sub(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }

  // The second operand of min and max is the result if one is NaN, so NaN comes through.
  static Vector relu(Vector z) { return _mm256_max_ps(_mm256_setzero_ps(), z); }
  // grad where z > 0 or z is NaN, else 0.
  static Vector relu_backward(Vector grad, Vector z) {
    return _mm256_and_ps(grad, _mm256_cmp_ps(z, _mm256_setzero_ps(), _CMP_NLE_UQ));
  }
  static Vector relu6(Vector z) {
    return _mm256_min_ps(_mm256_set1_ps(6.0f), _mm256_max_ps(_mm256_setzero_ps(), z));
  }
  // grad where 0 < z < 6 or z is NaN, else 0.
  static Vector relu6_backward(Vector grad, Vector z) {
    const Vector positive = _mm256_cmp_ps(z, _mm256_setzero_ps(), _CMP_NLE_UQ);
    const Vector below = _mm256_cmp_ps(z, _mm256_set1_ps(6.0f), _CMP_NGE_UQ);
    return _mm256_and_ps(grad, _mm256_and_ps(positive, below));
  }

  static Vector load(const float* p) { return _mm256_loadu_ps(p); }
  static Vector load(const float* p, int64_t count) { return _mm256_maskload_ps(p, mask(count)); }
  static void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
  // Not by a masked store, which takes ten times as long on some CPUs.
  static void store(float* p, Vector v, int64_t count) {
    if (count == kLanes) return store(p, v);
    __m128 rest = _mm256_castps256_ps128(v);
    if (count >= 4) {
      _mm_storeu_ps(p, rest);
      rest = _mm256_extractf128_ps(v, 1);
      p += 4;
    }
    if (count & 2) {
      _mm_storel_pi(reinterpret_cast<__m64*>(p), rest);
      rest = _mm_movehl_ps(rest, rest);
      p += 2;
    }
    if (count & 1) _mm_store_ss(p, rest);
  }

  // Whole numbers from 0 to 255.
  static Vector load_bytes(const uint8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
  }
  static void store_bytes(uint8_t* p, Vector v) {
    const __m256i wide = _mm256_cvtps_epi32(v);
    const __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(words, words));
  }

  template <class Storage>
  static Vector load(const Storage* p) {
    return widen(Storage{}, load_bits(p));
  }
  template <class Storage>
  static Vector load(const Storage* p, int64_t count) {
    return widen(Storage{}, load_bits(p, count));
  }
  template <class Storage>
  static void store(Storage* p, Vector v) {
    store_bits(p, narrow(Storage{}, v));
  }
  template <class Storage>
  static void store(Storage* p, Vector v, int64_t count) {
    store_bits(p, narrow(Storage{}, v), count);
  }

  static Doubles load(const double* p) { return _mm256_loadu_pd(p); }
  static void store(double* p, Doubles v) { _mm256_storeu_pd(p, v); }
  static Doubles zero_doubles() { return _mm256_setzero_pd(); }
  static Doubles set1(double value) { return _mm256_set1_pd(value); }
  static Doubles fma(Doubles a, Doubles b, Doubles c) { return _mm256_fmadd_pd(a, b, c); }
  // sums[0..kLanes) += v
  static void add_to(double* sums, Vector v) {
    const __m128 low = _mm256_castps256_ps128(v);
    const __m128 high = _mm256_extractf128_ps(v, 1);
    _mm256_storeu_pd(sums, _mm256_add_pd(_mm256_loadu_pd(sums), _mm256_cvtps_pd(low)));
    _mm256_storeu_pd(sums + 4, _mm256_add_pd(_mm256_loadu_pd(sums + 4), _mm256_cvtps_pd(high)));
  }

 private:
  static __m256i mask(int64_t count) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes);
  }

  template <class Storage>
  static __m128i load_bits(const Storage* p) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  }
  template <class Storage>
  static __m128i load_bits(const Storage* p, int64_t count) {
    Storage values[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) values[i] = p[i];
    return load_bits(values);
  }
  template <class Storage>
  static void store_bits(Storage* p, __m128i bits) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bits);
  }
  template <class Storage>
  static void store_bits(Storage* p, __m128i bits, int64_t count) {
    Storage values[kLanes];
    store_bits(values, bits);
    for (int64_t i = 0; i < count; ++i) p[i] = values[i];
  }

  // The first argument only says which storage the bits are of.
  static Vector widen(Half, __m128i bits) { return _mm256_cvtph_ps(bits); }
  static Vector widen(BFloat16, __m128i bits) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static __m128i narrow(Half, Vector v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
  // Rounds to nearest, ties to even; NaN stays NaN.
  static __m128i narrow(BFloat16, Vector v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan);
    const __m256i high = _mm256_srli_epi32(quiet, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  }
};

}  // namespace proxyless::cpu
