// Vectors of AVX-512: the operations that the kernels are written in.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/vector/storage.h"

namespace proxyless::cpu {

struct Avx512 {
  using Vector = __m512;
  using Doubles = __m512d;
  static constexpr int kLanes = 16;
  static constexpr int kDoubles = 8;
  // 8 pixels times 3 vectors are 24 accumulators of 32 registers, with 11 loads for 24 products.
  static constexpr int kRows = 8;
  static constexpr int kBlock = 3;

  static constexpr bool kBFloat16Only = false;
  // What products of pictures stored as T are made of.
  template <class T>
  using Operand = float;

  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector set1(float value) { return _mm512_set1_ps(value); }
  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector sub(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }

  // The second operand of min and max is the result if one is NaN, so NaN comes through.
  static Vector relu(Vector z) { return _mm512_max_ps(_mm512_setzero_ps(), z); }
  // grad where z > 0 or z is NaN, else 0.
  static Vector relu_backward(Vector grad, Vector z) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_NLE_UQ), grad);
  }
  static Vector relu6(Vector z) {
    return _mm512_min_ps(_mm512_set1_ps(6.0f), _mm512_max_ps(_mm512_setzero_ps(), z));
  }
  // grad where 0 < z < 6 or z is NaN, else 0.
  static Vector relu6_backward(Vector grad, Vector z) {
    const __mmask16 positive = _mm512_cmp_ps_mask(z, _mm512_setzero_ps(), _CMP_NLE_UQ);
    const __mmask16 inside =
        _mm512_mask_cmp_ps_mask(positive, z, _mm512_set1_ps(6.0f), _CMP_NGE_UQ);
    return _mm512_maskz_mov_ps(inside, grad);
  }

  static Vector load(const float* p) { return _mm512_loadu_ps(p); }
  static Vector load(const float* p, int64_t count) {
    return _mm512_maskz_loadu_ps(mask(count), p);
  }
  static void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
  static void store(float* p, Vector v, int64_t count) { _mm512_mask_storeu_ps(p, mask(count), v); }

  static Vector load(const BFloat16* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vector load(const BFloat16* p, int64_t count) {
    return widen(_mm256_maskz_loadu_epi16(mask(count), p));
  }
  static void store(BFloat16* p, Vector v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v));
  }
  static void store(BFloat16* p, Vector v, int64_t count) {
    _mm256_mask_storeu_epi16(p, mask(count), narrow(v));
  }

  static Vector load(const Half* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vector load(const Half* p, int64_t count) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(count), p));
  }
  static void store(Half* p, Vector v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static void store(Half* p, Vector v, int64_t count) {
    _mm256_mask_storeu_epi16(p, mask(count), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }

  // Whole numbers from 0 to 255.
  static Vector load_bytes(const uint8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
  }
  static void store_bytes(uint8_t* p, Vector v) {
    const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
  }

  static Doubles load(const double* p) { return _mm512_loadu_pd(p); }
  static void store(double* p, Doubles v) { _mm512_storeu_pd(p, v); }
  static Doubles zero_doubles() { return _mm512_setzero_pd(); }
  static Doubles set1(double value) { return _mm512_set1_pd(value); }
  static Doubles fma(Doubles a, Doubles b, Doubles c) { return _mm512_fmadd_pd(a, b, c); }
  // sums[0..kLanes) += v
  static void add_to(double* sums, Vector v) {
    const __m256 low = _mm512_castps512_ps256(v);
    const __m256 high = _mm512_extractf32x8_ps(v, 1);
    _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), _mm512_cvtps_pd(low)));
    _mm512_storeu_pd(sums + 8, _mm512_add_pd(_mm512_loadu_pd(sums + 8), _mm512_cvtps_pd(high)));
  }

 protected:
  static __mmask16 mask(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }

 private:
  static Vector widen(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  // Rounds to nearest, ties to even; NaN stays NaN.
  static __m256i narrow(Vector v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(quiet, 16));
  }
};

}  // namespace proxyless::cpu
