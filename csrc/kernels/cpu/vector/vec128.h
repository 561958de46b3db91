// Vectors of 128 bits, in the compiler's own notation: SSE2 on x86-64 and Advanced SIMD on AArch64.
#pragma once

#include <cstdint>

#include "kernels/cpu/vector/storage.h"

namespace proxyless::cpu {

struct Vec128 {
  using Vector = float __attribute__((vector_size(16)));
  using Doubles = double __attribute__((vector_size(16)));
  static constexpr int kLanes = 4;
  static constexpr int kDoubles = 2;
#ifdef __aarch64__
  static constexpr int kRows = 8;  // 24 accumulators of 32 registers
  static constexpr int kBlock = 3;
#else
  static constexpr int kRows = 6;  // 12 accumulators of 16 registers
  static constexpr int kBlock = 2;
#endif

  static constexpr bool kBFloat16Only = false;
  // What products of pictures stored as T are made of.
  template <class T>
  using Operand = float;

  static Vector zero() { return Vector{}; }
  static Vector set1(float value) { return Vector{value, value, value, value}; }
  static Vector add(Vector a, Vector b) { return a + b; }
  static Vector sub(Vector a, Vector b) { return a - b; }
  // One instruction where there is one: the file is compiled with -ffp-contract=fast.
  static Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }

  // Comparisons with NaN are false, so NaN comes through.
  static Vector relu(Vector z) { return z < zero() ? zero() : z; }
  // grad where z > 0 or z is NaN, else 0.
  static Vector relu_backward(Vector grad, Vector z) { return z <= zero() ? zero() : grad; }
  static Vector relu6(Vector z) {
    const Vector positive = relu(z);
    return positive > set1(6.0f) ? set1(6.0f) : positive;
  }
  // grad where 0 < z < 6 or z is NaN, else 0.
  static Vector relu6_backward(Vector grad, Vector z) {
    const Vector below = z >= set1(6.0f) ? zero() : grad;
    return z <= zero() ? zero() : below;
  }

  static Vector load(const float* p) {
    Vector v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(float* p, Vector v) { __builtin_memcpy(p, &v, sizeof v); }
  template <class Storage>
  static Vector load(const Storage* p, int64_t count = kLanes) {
    Vector v{};
    for (int64_t i = 0; i < count; ++i) v[i] = widen(p[i]);
    return v;
  }
  template <class Storage>
  static void store(Storage* p, Vector v, int64_t count = kLanes) {
    for (int64_t i = 0; i < count; ++i) narrow(v[i], p + i);
  }

  // Whole numbers from 0 to 255.
  static Vector load_bytes(const uint8_t* p) {
    Vector v;
    for (int i = 0; i < kLanes; ++i) v[i] = static_cast<float>(p[i]);
    return v;
  }
  static void store_bytes(uint8_t* p, Vector v) {
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint8_t>(v[i]);
  }

  static Doubles load(const double* p) {
    Doubles v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(double* p, Doubles v) { __builtin_memcpy(p, &v, sizeof v); }
  static Doubles zero_doubles() { return Doubles{}; }
  static Doubles set1(double value) { return Doubles{value, value}; }
  static Doubles fma(Doubles a, Doubles b, Doubles c) { return a * b + c; }
  // sums[0..kLanes) += v
  static void add_to(double* sums, Vector v) {
    for (int i = 0; i < kLanes; ++i) sums[i] += static_cast<double>(v[i]);
  }

 private:
  static float as_float(uint32_t bits) {
    float value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
  }
  static uint32_t as_bits(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, sizeof bits);
    return bits;
  }

  static float widen(float value) { return value; }
  static void narrow(float value, float* to) { *to = value; }

  static float widen(BFloat16 value) { return as_float(uint32_t{value.bits} << 16); }
  // Rounds to nearest, ties to even; NaN stays NaN.
  static void narrow(float value, BFloat16* to) {
    const uint32_t bits = as_bits(value);
    const uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    to->bits = static_cast<uint16_t>((value != value ? 0x7fc00000 : rounded) >> 16);
  }

  static float widen(Half value) {
    const uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
    if (magnitude >= 0x7c00) return as_float(sign | 0x7f800000 | magnitude << 13);
    // Exact, also for subnormal numbers: the factor makes up for the different bias of exponents.
    return as_float(sign | as_bits(as_float(magnitude << 13) * 0x1p112f));
  }
  // Rounds to nearest, ties to even; NaN stays NaN.
  static void narrow(float value, Half* to) {
    const uint32_t bits = as_bits(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    uint32_t half;
    if (magnitude > 0x7f800000) {
      half = 0x7e00;
    } else if (magnitude >= 0x47800000) {
      half = 0x7c00;  // 65536 and more
    } else if (magnitude < 0x38800000) {
      // Below the smallest normal number: the addition rounds to a multiple of the smallest one.
      half = as_bits(as_float(magnitude) + 0.5f) - as_bits(0.5f);
    } else {
      half = (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000) >> 13;
    }
    to->bits = static_cast<uint16_t>(sign | half);
  }
};

}  // namespace proxyless::cpu
