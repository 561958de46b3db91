// Matrices brought into the form in which the other kernels read them, and sums of slices out of
// the form in which they give them.
#pragma once

#include "kernels/cuda/device/numbers.cuh"

namespace proxyless::cuda {

// A convolution's patches as rows, [N Ho Wo, C k k], or, with a kernel and a stride of 1, a picture
// as aligned rows.
template <class T>
struct Unfold {
  const T* x;  // [N, H, W, C]
  T* rows;     // [pixels, pitch], out, 0 beyond the patch
  int64_t pitch;
  int channels, height, width, kernel, stride, out_height, out_width;
  int64_t pixels;  // N Ho Wo
};

// Grid: elements of rows.
template <class T>
__global__ void __launch_bounds__(kThreads) unfold(Unfold<T> args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t pixel = i / args.pitch;
  if (pixel >= args.pixels) return;
  const int taps = args.kernel * args.kernel;
  const int place = static_cast<int>(i % args.pitch), c = place / taps, tap = place % taps;
  const int64_t picture = pixel / args.out_width / args.out_height;
  const int y = static_cast<int>(pixel / args.out_width % args.out_height) * args.stride +
                tap / args.kernel - args.kernel / 2;
  const int x =
      static_cast<int>(pixel % args.out_width) * args.stride + tap % args.kernel - args.kernel / 2;
  const bool valid = c < args.channels && y >= 0 && y < args.height && x >= 0 && x < args.width;
  const int64_t from = (picture * args.height + y) * args.width + x;
  args.rows[i] = valid ? args.x[from * args.channels + c] : from_float<T>(0);
}

// The transpose: dx [N, H, W, C] from the gradients of the patches.
template <class T>
struct Fold {
  Rows<T> rows;  // [N Ho Wo, C k k]
  Rows<T> grad;  // [N H W, C] to be added, or of null data
  T* dx;         // [N, H, W, C], out
  int64_t elements;
  int channels, height, width, kernel, stride, out_height, out_width;
};

// Grid: elements of dx.
template <class T>
__global__ void __launch_bounds__(kThreads) fold(Fold<T> args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.elements) return;
  const int c = static_cast<int>(i % args.channels);
  const int64_t pixel = i / args.channels, picture = pixel / args.width / args.height;
  const int x = static_cast<int>(pixel % args.width);
  const int y = static_cast<int>(pixel / args.width % args.height);
  float sum = args.grad.data != nullptr ? to_float(args.grad.row(pixel)[c]) : 0;
  for (int tap_y = 0; tap_y < args.kernel; ++tap_y) {
    const int out_y = y + args.kernel / 2 - tap_y;
    if (out_y < 0 || out_y % args.stride != 0 || out_y / args.stride >= args.out_height) continue;
    for (int tap_x = 0; tap_x < args.kernel; ++tap_x) {
      const int out_x = x + args.kernel / 2 - tap_x;
      if (out_x < 0 || out_x % args.stride != 0 || out_x / args.stride >= args.out_width) continue;
      const int64_t out =
          (picture * args.out_height + out_y / args.stride) * args.out_width + out_x / args.stride;
      const int place = (c * args.kernel + tap_y) * args.kernel + tap_x;
      sum += to_float(args.rows.row(out)[place]);
    }
  }
  args.dx[i] = from_float<T>(sum);
}

// A dense matrix [rows, columns] as aligned rows, or its transpose, columns multiplied by factors.
template <class T>
struct Arrange {
  const T* matrix;  // element (r, c) at r row_stride + c column_stride
  int64_t row_stride, column_stride;
  const float* factors;  // [columns], or null
  T* to;                 // [rows, pitch], out, 0 beyond the last column
  int64_t pitch, rows;
  int columns;
};

// Grid: elements of the result.
template <class T>
__global__ void __launch_bounds__(kThreads) arrange(Arrange<T> args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.rows * args.pitch) return;
  const int64_t row = i / args.pitch, column = i % args.pitch;
  float value = 0;
  if (column < args.columns) {
    value = to_float(args.matrix[row * args.row_stride + column * args.column_stride]);
    if (args.factors != nullptr) value *= args.factors[column];
  }
  args.to[i] = from_float<T>(value);
}

// Partial sums of slices, each a matrix whose rows are `pitch` floats apart.
struct Slices {
  const float* sums;
  int64_t slice_pitch, pitch;
  int slices;

  __device__ double sum(int64_t row, int64_t column) const {
    double sum = 0;
    for (int64_t slice = 0; slice < slices; ++slice) {
      sum += sums[slice * slice_pitch + row * pitch + column];
    }
    return sum;
  }
};

// Slices added up and put to r row_stride + c column_stride.
template <class T>
struct SumSlices {
  Slices from;
  int rows, columns;
  T* to;
  int64_t row_stride, column_stride;
};

// Grid: elements of the result.
template <class T>
__global__ void __launch_bounds__(kThreads) sum_slices(SumSlices<T> args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t row = i / args.columns, column = i % args.columns;
  if (row >= args.rows) return;
  args.to[row * args.row_stride + column * args.column_stride] =
      from_float<T>(static_cast<float>(args.from.sum(row, column)));
}

// The moments' mean [K] from sums of pixels, and its negative as float32 [padded].
__global__ void __launch_bounds__(kThreads)
    finish_mean(Slices sums, double count, int patch, int padded, double* mean, float* negative) {
  const int i = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (i >= padded) return;
  const double value = i < patch ? sums.sum(0, i) / count : 0;
  negative[i] = static_cast<float>(-value);
  if (i < patch) mean[i] = value;
}

// The covariance [K, K] from its lower triangle, summed around the mean as float32 has it.
__global__ void __launch_bounds__(kThreads)
    finish_covariance(Slices sums, double count, int patch, const double* mean,
                      const float* negative, double* covariance) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int row = static_cast<int>(i / patch), column = static_cast<int>(i % patch);
  if (row >= patch) return;
  covariance[i] = sums.sum(max(row, column), min(row, column)) / count -
                  (mean[row] + negative[row]) * (mean[column] + negative[column]);
}

}  // namespace proxyless::cuda
