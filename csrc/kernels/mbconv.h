// The contract of the fused MBConv: sizes and arguments, the same for every device.
//
// An MBConv is expand (convolution, BatchNorm, ReLU6), depthwise (convolution, BatchNorm, ReLU6)
// and project (1x1 convolution, BatchNorm), and optionally adds its input. Kernels see raw pointers
// only; whoever calls them has checked shapes and allocated results and workspace.
//
// Per-channel vectors of the three BatchNorms are stored one after the other, in the order of the
// layers: [S] with S = norm_channels().
#pragma once

#include <cstddef>
#include <cstdint>

namespace proxyless {

// How pictures and weights are stored. Everything is accumulated in float32 at least, and
// per-channel vectors are float32, except that all are float64 with kFloat64.
enum class DType { kFloat32, kFloat64, kBFloat16, kFloat16 };

constexpr int64_t kMaxKernel = 63;  // of any convolution

struct MBConvShape {
  int64_t batch, height, width, in_channels;
  int64_t hidden;  // expanded channels; in_channels if there is no expand layer
  int64_t out_channels;
  int64_t expand_kernel;   // odd; 1 in an MBConv, 0 if there is no expand layer
  int64_t expand_stride;   // 1 in an MBConv; the stem in front of a separable block has 2
  int64_t kernel, stride;  // of the depthwise convolution; the kernel is odd
  int64_t dilation = 1;    // of the depthwise convolution; 1 in an MBConv

  bool has_expand() const { return expand_kernel > 0; }
  // Every convolution pads by half its kernel, dilated as it is.
  int64_t mid_height() const { return has_expand() ? strided(height, expand_stride) : height; }
  int64_t mid_width() const { return has_expand() ? strided(width, expand_stride) : width; }
  int64_t out_height() const { return strided(mid_height(), stride); }
  int64_t out_width() const { return strided(mid_width(), stride); }
  int64_t mid_pixels() const { return batch * mid_height() * mid_width(); }
  int64_t out_pixels() const { return batch * out_height() * out_width(); }
  // Values that one expanded channel of one pixel is made of.
  int64_t patch() const { return in_channels * expand_kernel * expand_kernel; }
  int64_t norm_channels() const { return (has_expand() ? 2 : 1) * hidden + out_channels; }

 private:
  static int64_t strided(int64_t size, int64_t stride) { return (size + stride - 1) / stride; }
};

// [N, H, W, C] with adjacent channels; the strides count elements.
struct Pixels {
  const void* data;
  int64_t batch_stride, row_stride, pixel_stride;
};

// Runs body(body_context, task) for every task in [0, tasks), in any order, on any threads, and
// returns when all have run. What kernels compute does not depend on the order or the threads. Only
// those of the CPU use it.
struct ParallelFor {
  void (*run)(void* context, int64_t tasks, void (*body)(void* body_context, int64_t task),
              void* body_context);
  void* context;
};

// What forward, backward and probe read. K = patch(); `vector` stands for float, or double with
// DType::kFloat64.
struct MBConvInput {
  MBConvShape shape;
  DType dtype;
  Pixels x;               // [N, H, W, C]
  const void* expand;     // [hidden, C, expand_kernel, expand_kernel], null without an expand layer
  const void* depthwise;  // [hidden, 1, kernel, kernel]
  const void* project;    // [out_channels, hidden]
  const void* scale;      // vector [S], the BatchNorms' weights
  const void* shift;      // vector [S], the BatchNorms' biases
  double eps;
  bool batch_statistics;  // normalise by the batch's statistics instead of given ones
};

// Mean and covariance (divided by the number of pixels) of the patches that the expand layer reads.
// BatchNorm's statistics of the expand layer follow from them, so that no pass over the expanded
// tensor is needed; candidates that read the same input share them.
//   moments: double [1 + K, K]; row 0 holds the mean.
struct MBConvMoments {
  MBConvShape shape;  // hidden, out_channels, kernel and stride are not used
  DType dtype;
  Pixels x;         // [N, H, W, C]
  double* moments;  // [1 + K, K], out
  void* workspace;
  ParallelFor parallel;
};

struct MBConvForward {
  MBConvInput input;
  const double* moments;  // [1 + K, K]; read with batch statistics and an expand layer, else null
  void* mean;             // vector [S]; out with batch statistics, else in
  void* var;              // vector [S], biased; out with batch statistics, else in
  bool residual;          // add x; needs out_channels == in_channels, and strides of 1
  void* p;  // [N, Ho, Wo, O] dense, out: the project layer before its BatchNorm; or null
  void* y;  // [N, Ho, Wo, O] dense, out
  void* workspace;
  ParallelFor parallel;
};

struct MBConvProbe {
  MBConvInput input;
  const double* moments;  // as for MBConvForward
  const void* mean;       // vector [S]; read without batch statistics, else null
  const void* var;        // vector [S], biased; read without batch statistics, else null
  Pixels grad;            // [N, Ho, Wo, O], dL/dy
  void* result;           // vector [1], out: <grad, y> for forward's y without residual
  void* workspace;
  ParallelFor parallel;
};

struct MBConvBackward {
  MBConvInput input;
  const double* moments;  // as for MBConvForward
  const void* mean;       // vector [S], as forward used or gave it
  const void* var;        // vector [S], biased
  const void* p;          // [N, Ho, Wo, O] dense, from forward
  Pixels grad;            // [N, Ho, Wo, O], dL/dy
  bool residual;
  void* dx;          // [N, H, W, C] dense, out; or null
  void* dexpand;     // like expand, out; null without an expand layer. All five are null if weights
  void* ddepthwise;  // like depthwise, out                             need no gradient.
  void* dproject;    // like project, out
  void* dscale;      // vector [S], out
  void* dshift;      // vector [S], out
  void* workspace;
  ParallelFor parallel;
};

}  // namespace proxyless
