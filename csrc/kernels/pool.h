// The contract of pooling: maxima or averages of windows of kernel x kernel pixels, padded by half
// the kernel. What lies beyond the picture is left out.
//
// Backward needs none of the values: of a maximum which tap of its window it was, of an average
// nothing.
#pragma once

#include <cstdint>

#include "kernels/mbconv.h"

namespace proxyless {

constexpr int64_t kMaxPoolKernel = 15;  // The last of its taps still fits a byte.

struct PoolShape {
  int64_t batch, height, width, channels;
  int64_t kernel, stride;  // The kernel is odd.
  bool maximum;            // or else the average

  // Its windows are those of a depthwise convolution.
  MBConvShape windows() const {
    return {batch, height, width, channels, channels, channels, 0, 1, kernel, stride};
  }
  int64_t out_height() const { return windows().out_height(); }
  int64_t out_width() const { return windows().out_width(); }
};

struct PoolForward {
  PoolShape shape;
  DType dtype;
  Pixels x;       // [N, H, W, C]
  void* y;        // [N, Ho, Wo, C] dense, out
  uint8_t* taps;  // [N, Ho, Wo, C] dense, out: where in their windows maxima are, row by row; of
                  // equal values the first, of NaN the last. Null for averages.
  void* workspace;
  ParallelFor parallel;
};

struct PoolProbe {
  PoolShape shape;
  DType dtype;
  Pixels x;      // [N, H, W, C]
  Pixels grad;   // [N, Ho, Wo, C], dL/dy
  void* result;  // float [1], or double with kFloat64, out: <grad, y>
  void* workspace;
  ParallelFor parallel;
};

struct PoolBackward {
  PoolShape shape;
  DType dtype;
  Pixels grad;          // [N, Ho, Wo, C], dL/dy
  const uint8_t* taps;  // as forward gave them
  void* dx;             // [N, H, W, C] dense, out
  void* workspace;
  ParallelFor parallel;
};

}  // namespace proxyless
