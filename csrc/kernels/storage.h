// How numbers are stored: the types behind DType, and plain conversions to and from float64.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/mbconv.h"

namespace proxyless {

// A number of 16 bits: sign, exponent and mantissa, laid out as in IEEE 754.
template <int kMantissaBits>
struct Float16Bits {
  uint16_t bits;

  explicit operator double() const;
  // The nearest number; of two equally near ones the even one.
  static Float16Bits from(double value);

 private:
  static constexpr int kSign = 0x8000;
  static constexpr int kMaxExponent = (1 << (15 - kMantissaBits)) - 1;
  static constexpr int kInfinity = kMaxExponent << kMantissaBits;
  static constexpr int kNaN = kInfinity | kInfinity >> 1;
  // The smallest numbers are this power of 2 apart.
  static constexpr int kMinQuantum = 1 - kMaxExponent / 2 - kMantissaBits;
};

using BFloat16 = Float16Bits<7>;
using Half = Float16Bits<10>;

constexpr int64_t dtype_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}

// As NumPy calls it.
constexpr const char* dtype_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kBFloat16:
      return "bfloat16";
    case DType::kFloat16:
      return "float16";
  }
  return "unknown";  // Only a value outside the enumeration comes here.
}

// The storage of the per-channel vectors that go with pictures stored as `dtype`.
constexpr DType vector_dtype(DType dtype) {
  return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
}

inline double read(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kFloat32:
      return static_cast<double>(static_cast<const float*>(data)[index]);
    case DType::kFloat64:
      return static_cast<const double*>(data)[index];
    case DType::kBFloat16:
      return static_cast<double>(static_cast<const BFloat16*>(data)[index]);
    case DType::kFloat16:
      return static_cast<double>(static_cast<const Half*>(data)[index]);
  }
  return 0;  // Only a value outside the enumeration comes here.
}

inline void write(void* data, DType dtype, int64_t index, double value) {
  switch (dtype) {
    case DType::kFloat32:
      static_cast<float*>(data)[index] = static_cast<float>(value);
      break;
    case DType::kFloat64:
      static_cast<double*>(data)[index] = value;
      break;
    case DType::kBFloat16:
      static_cast<BFloat16*>(data)[index] = BFloat16::from(value);
      break;
    case DType::kFloat16:
      static_cast<Half*>(data)[index] = Half::from(value);
      break;
  }
}

template <int kMantissaBits>
Float16Bits<kMantissaBits>::operator double() const {
  const int magnitude = bits & ~kSign;
  const int exponent = magnitude >> kMantissaBits;
  const int mantissa = magnitude - (exponent << kMantissaBits);
  double value;
  if (exponent == kMaxExponent) {
    value = mantissa == 0 ? std::numeric_limits<double>::infinity()
                          : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(mantissa, kMinQuantum);
  } else {
    value = std::ldexp(mantissa + (1 << kMantissaBits), kMinQuantum + exponent - 1);
  }
  return (bits & kSign) != 0 ? -value : value;
}

template <int kMantissaBits>
Float16Bits<kMantissaBits> Float16Bits<kMantissaBits>::from(double value) {
  const double size = std::fabs(value);
  int magnitude;
  if (std::isnan(value)) {
    magnitude = kNaN;
  } else if (std::isinf(value)) {
    magnitude = kInfinity;
  } else if (size == 0) {
    magnitude = 0;
  } else {
    const int quantum = std::max(std::ilogb(size) - kMantissaBits, kMinQuantum);
    // The leading 1 of a normal number carries over into the exponent's field, which numbers
    // without one have 0.
    magnitude = ((quantum - kMinQuantum) << kMantissaBits) +
                static_cast<int>(std::nearbyint(std::ldexp(size, -quantum)));
    magnitude = std::min(magnitude, kInfinity);
  }
  return {static_cast<uint16_t>(std::signbit(value) ? magnitude | kSign : magnitude)};
}

}  // namespace proxyless
