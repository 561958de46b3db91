// The contract of the fused separable block: BatchNorm, ReLU, a depthwise and a 1x1 convolution,
// with nothing between the last two.
//
// The BatchNorm's statistics are those of the block's input, so they are always given: either the
// batch's, which SeparableStatistics takes once for all blocks that read the same input, or others.
// Only the input and these need to be kept for backward.
#pragma once

#include <cstdint>

#include "kernels/mbconv.h"

namespace proxyless {

constexpr int64_t kMaxDilation = 64;

struct SeparableShape {
  int64_t batch, height, width, in_channels, out_channels;
  // Of the depthwise convolution, which pads by half its kernel, dilated as it is. It is odd.
  int64_t kernel, stride, dilation;

  int64_t in_pixels() const { return batch * height * width; }
  // Its convolutions are those of an MBConv without an expand layer.
  MBConvShape convolutions() const {
    MBConvShape shape{batch,        height, width, in_channels, in_channels,
                      out_channels, 0,      1,     kernel,      stride};
    shape.dilation = dilation;
    return shape;
  }
  int64_t out_height() const { return convolutions().out_height(); }
  int64_t out_width() const { return convolutions().out_width(); }
  int64_t out_pixels() const { return convolutions().out_pixels(); }
};

// What forward, backward and probe read; `vector` stands for float, or double with
// DType::kFloat64.
struct SeparableInput {
  SeparableShape shape;
  DType dtype;
  Pixels x;               // [N, H, W, C]
  const void* depthwise;  // [C, 1, kernel, kernel]
  const void* pointwise;  // [out_channels, C]
  const void* scale;      // vector [C], the BatchNorm's weight
  const void* shift;      // vector [C], the BatchNorm's bias
  double eps;
  bool batch_statistics;  // mean and variance are the batch's, so that gradients go through them
};

// Mean and variance of each channel.
struct SeparableStatistics {
  SeparableShape shape;  // out_channels, kernel, stride and dilation are not used
  DType dtype;
  Pixels x;    // [N, H, W, C]
  void* mean;  // vector [C], out
  void* var;   // vector [C], out, biased
  void* workspace;
  ParallelFor parallel;
};

struct SeparableForward {
  SeparableInput input;
  const void* mean;  // vector [C]
  const void* var;   // vector [C], biased
  void* y;           // [N, Ho, Wo, O] dense, out
  void* workspace;
  ParallelFor parallel;
};

struct SeparableProbe {
  SeparableInput input;
  const void* mean;  // vector [C]
  const void* var;   // vector [C], biased
  Pixels grad;       // [N, Ho, Wo, O], dL/dy
  void* result;      // vector [1], out: <grad, y>
  void* workspace;
  ParallelFor parallel;
};

struct SeparableBackward {
  SeparableInput input;
  const void* mean;  // vector [C], as forward had it
  const void* var;   // vector [C], biased
  Pixels grad;       // [N, Ho, Wo, O], dL/dy
  void* dx;          // [N, H, W, C] dense, out; or null
  void* ddepthwise;  // like depthwise, out; all four are null if weights need no gradient
  void* dpointwise;  // like pointwise, out
  void* dscale;      // vector [C], out
  void* dshift;      // vector [C], out
  void* workspace;
  ParallelFor parallel;
};

}  // namespace proxyless
