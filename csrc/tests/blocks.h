// What tests of the fused MBConv have in common: numbers, names, and what a block is called.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>

#include "kernels/mbconv.h"
#include "kernels/storage.h"

namespace proxyless::testing {

constexpr double kEps = 1e-3;

// A random number around `mean`, whatever the platform.
inline double normal(std::mt19937& random, double mean, double deviation) {
  double sum = 0;  // of 12 uniform numbers, which has the variance 1
  for (int i = 0; i < 12; ++i) sum += static_cast<double>(random()) / 4294967296.0;
  return mean + deviation * (sum - 6);
}

// Of weights, so that a layer keeps the size of numbers.
inline double weight_deviation(int64_t fan_in) {
  return 1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, fan_in)));
}

// Whether forward gives it, rather than something that has come through ReLU6's gradient.
inline bool is_forward(const std::string& name) {
  return name == "y" || name == "p" || name == "mean" || name == "var";
}

inline std::string describe(const MBConvShape& s, DType dtype) {
  std::string text = dtype_name(dtype);
  for (const int64_t size : {s.batch, s.height, s.width, s.in_channels, s.hidden, s.out_channels}) {
    text += " " + std::to_string(size);
  }
  text += " expand " + std::to_string(s.expand_kernel) + "/" + std::to_string(s.expand_stride);
  return text + " depthwise " + std::to_string(s.kernel) + "/" + std::to_string(s.stride);
}

}  // namespace proxyless::testing
