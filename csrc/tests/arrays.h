// Arrays of numbers in guarded memory, for the tests of kernels.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "blocks.h"
#include "guarded.h"
#include "kernels/storage.h"

namespace proxyless::testing {

constexpr unsigned char kNanGarbage = 0xff;  // NaN in every type
constexpr unsigned char kOtherGarbage = 0x3c;

// With 16 bits, gradients of such small pictures through the batch's statistics are little but
// rounding.
constexpr int64_t kFewPixels = 8;

// An array of numbers in guarded memory that is aligned to a number, but not to a vector.
struct Array {
  Array(DType type, int64_t elements, unsigned char garbage = kNanGarbage)
      : dtype(type),
        count(elements),
        memory(elements * dtype_bytes(type), dtype_bytes(type), garbage) {}

  void* data() const { return memory.data(); }
  double* doubles() const { return reinterpret_cast<double*>(memory.data()); }

  DType dtype;
  int64_t count;
  Guarded memory;
};

using Arrays = std::map<std::string, Array>;

inline void fill_normal(const Array& array, std::mt19937& random, double mean, double deviation) {
  for (int64_t i = 0; i < array.count; ++i) {
    write(array.data(), array.dtype, i, normal(random, mean, deviation));
  }
}

// Pictures with gaps between pixels, rows and images, in which there is NaN.
struct Pictures {
  Pictures(DType dtype, int64_t batch, int64_t height, int64_t width, int64_t channels,
           std::mt19937& random)
      : pixel_stride(channels + 3),
        row_stride(width * pixel_stride + 1),
        batch_stride(height * row_stride + 2),
        // The last image ends with its last channel.
        array(dtype, (batch - 1) * batch_stride + (height - 1) * row_stride +
                         (width - 1) * pixel_stride + channels) {
    Array dense(dtype, batch * height * width * channels);
    fill_normal(dense, random, 0.5, 1.5);
    int64_t from = 0;
    for (int64_t n = 0; n < batch; ++n) {
      for (int64_t y = 0; y < height; ++y) {
        for (int64_t x = 0; x < width; ++x) {
          for (int64_t c = 0; c < channels; ++c, ++from) {
            write(array.data(), dtype, n * batch_stride + y * row_stride + x * pixel_stride + c,
                  read(dense.data(), dtype, from));
          }
        }
      }
    }
  }

  Pixels pixels() const { return {array.data(), batch_stride, row_stride, pixel_stride}; }

  int64_t pixel_stride, row_stride, batch_stride;
  Array array;
};

// A copy of what is in memory, byte for byte.
inline std::vector<std::vector<unsigned char>> contents(const std::vector<const Guarded*>& memory) {
  std::vector<std::vector<unsigned char>> copies;
  for (const Guarded* part : memory) {
    copies.emplace_back(part->data(), part->data() + part->size());
  }
  return copies;
}

inline bool identical(const Arrays& a, const Arrays& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, array] : a) {
    if (!(array.memory == b.at(name).memory)) return false;
  }
  return true;
}

// The largest difference, relative to the array's largest value or to 1 if that is less; of 16-bit
// blocks the same of the Euclidean norms, since single values of them may differ much.
inline double distance(const Array& actual, const Array& expected, bool largest) {
  double difference = 0, size = largest ? 1 : 1e-30;
  for (int64_t i = 0; i < expected.count; ++i) {
    const double a = read(actual.data(), actual.dtype, i);
    const double e = read(expected.data(), expected.dtype, i);
    if (!std::isfinite(a)) return HUGE_VAL;
    difference = largest ? std::max(difference, std::fabs(a - e)) : std::hypot(difference, a - e);
    size = largest ? std::max(size, std::fabs(e)) : std::hypot(size, e);
  }
  return difference / size;
}

}  // namespace proxyless::testing
