// BatchNorms: from partial statistics and sums to what the other kernels use of them.
//
// Results of blocks are added up in float64, 32 channels to a block of threads, in a fixed order.
#pragma once

#include "kernels/cuda/device/sums.cuh"

namespace proxyless::cuda {

constexpr int kCombineThreads = 512;
constexpr int kCombineChannels = 32;

// One BatchNorm as kernels use it, all [padded channels] and 0 beyond the last channel:
// z = slope x + offset, and h = (x - mean) inv_std.
struct Norm {
  float *slope, *offset, *mean, *inv_std;

  __device__ void set(int c, float its_mean, float var, float scale, float shift, float eps) const {
    mean[c] = its_mean;
    inv_std[c] = 1.0f / sqrtf(var + eps);
    slope[c] = scale * inv_std[c];
    offset[c] = fmaf(-its_mean, slope[c], shift);
  }
  __device__ void clear(int c) const { mean[c] = inv_std[c] = slope[c] = offset[c] = 0; }
};

// A BatchNorm's parameters as the caller has them.
struct NormParameters {
  const float *scale, *shift;  // [channels]
  float eps;
  int channels, padded;

  __device__ void fold(const Norm& norm, int c, float mean, float var) const {
    norm.set(c, mean, var, scale[c], shift[c], eps);
  }
};

// Adds up body(block) over blocks, for the channel of this thread; all threads of the channel get
// the sum. For blocks of kCombineThreads.
template <class Body>
__device__ __forceinline__ double sum_over_blocks(int64_t blocks, double* scratch,
                                                  const Body& body) {
  constexpr int kRows = kCombineThreads / kCombineChannels;
  const int column = threadIdx.x % kCombineChannels, row = threadIdx.x / kCombineChannels;
  double sum = 0;
  for (int64_t block = row; block < blocks; block += kRows) sum += body(block);
  scratch[row * kCombineChannels + column] = sum;
  __syncthreads();
  sum = 0;
  for (int r = 0; r < kRows; ++r) sum += scratch[r * kCombineChannels + column];
  __syncthreads();
  return sum;
}

__device__ __forceinline__ int combined_channel() {
  return static_cast<int>(blockIdx.x * kCombineChannels + threadIdx.x % kCombineChannels);
}

// Folds given statistics. Grid: padded channels.
__global__ void __launch_bounds__(kThreads)
    fold_norm(NormParameters parameters, const float* mean, const float* var, Norm norm) {
  const int c = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
  if (c >= parameters.padded) return;
  if (c < parameters.channels) {
    parameters.fold(norm, c, mean[c], var[c]);
  } else {
    norm.clear(c);
  }
}

// Mean and variance from those of blocks, and folds them. Grid: groups of 32 padded channels.
__global__ void __launch_bounds__(kCombineThreads)
    combine_statistics(Statistics statistics, int64_t blocks, NormParameters parameters,
                       float* means,  // [channels], out
                       float* vars,   // [channels], out
                       Norm norm) {
  __shared__ double scratch[kCombineThreads];
  const int c = combined_channel();
  const bool valid = c < parameters.channels;
  const auto of = [&](int64_t block, int kind) {
    return valid ? static_cast<double>(statistics.of(block, kind)[c]) : 0;
  };
  const double count = sum_over_blocks(blocks, scratch, [&](int64_t b) { return of(b, 0); });
  const double sum =
      sum_over_blocks(blocks, scratch, [&](int64_t b) { return of(b, 0) * of(b, 1); });
  const double mean = valid ? sum / count : 0;
  const double squares = sum_over_blocks(blocks, scratch, [&](int64_t b) {
    const double difference = of(b, 1) - mean;
    return of(b, 2) + of(b, 0) * difference * difference;
  });
  if (threadIdx.x >= kCombineChannels || c >= parameters.padded) return;
  if (!valid) {
    norm.clear(c);
    return;
  }
  means[c] = static_cast<float>(mean);
  vars[c] = static_cast<float>(squares / count);
  parameters.fold(norm, c, means[c], vars[c]);
}

// What a BatchNorm's backward makes of sums over pixels of dz and dz h: its own gradients and
// dL/dx = slope dz + of_value x + constant.
struct NormGradients {
  float *dscale, *dshift;      // [channels], out; or null
  float *of_value, *constant;  // [padded channels], out; null without batch statistics
  double count;                // of the values of a channel
};

// From the sums of blocks, [blocks, 2, pitch]. Grid: groups of 32 padded channels.
__global__ void __launch_bounds__(kCombineThreads)
    combine_sums(const float* sums, int64_t pitch, int64_t blocks, Norm norm, int channels,
                 int padded, NormGradients gradients) {
  __shared__ double scratch[kCombineThreads];
  const int c = combined_channel();
  const bool valid = c < channels;
  const auto sum_of = [&](int kind) {
    return sum_over_blocks(blocks, scratch, [&](int64_t block) {
      return valid ? static_cast<double>(sums[(block * 2 + kind) * pitch + c]) : 0;
    });
  };
  const double dshift = sum_of(0), dscale = sum_of(1);
  if (threadIdx.x >= kCombineChannels || c >= padded) return;
  if (valid && gradients.dscale != nullptr) {
    gradients.dscale[c] = static_cast<float>(dscale);
    gradients.dshift[c] = static_cast<float>(dshift);
  }
  if (gradients.of_value == nullptr) return;
  const double slope = norm.slope[c] / gradients.count;  // all 0 beyond the last channel
  const double of_value = -slope * dscale * norm.inv_std[c];
  gradients.of_value[c] = static_cast<float>(of_value);
  gradients.constant[c] = static_cast<float>(-slope * dshift - of_value * norm.mean[c]);
}

// --- Over pixels ---

// y = bn(p), and x added for a shortcut.
template <class T>
struct Normalise {
  Rows<T> p;
  Norm norm;
  Rows<T> x;  // or of null data
  DenseRows<T> y;
  int64_t pixels;
};

// Grid: pixels, units of a pixel, 128 of them to a block.
template <class T>
__global__ void __launch_bounds__(kThreads) normalise(Normalise<T> args) {
  const int units = (args.y.channels + kUnit<T> - 1) / kUnit<T>;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t pixel = i / units;
  if (pixel >= args.pixels) return;
  const int c = static_cast<int>(i % units) * kUnit<T>;
  float values[kUnit<T>], slope[kUnit<T>], offset[kUnit<T>];
  load<T>(values, args.p.row(pixel) + c);
  load_floats(slope, args.norm.slope + c);
  load_floats(offset, args.norm.offset + c);
#pragma unroll
  for (int j = 0; j < kUnit<T>; ++j) values[j] = fmaf(values[j], slope[j], offset[j]);
  if (args.x.data != nullptr) {
    float shortcut[kUnit<T>];
    load<T>(shortcut, args.x.row(pixel) + c);
#pragma unroll
    for (int j = 0; j < kUnit<T>; ++j) values[j] += shortcut[j];
  }
  args.y.store_unit(pixel, c, values);
}

// dP = slope G + of_value P + constant.
template <class T>
struct BackwardOfNormalise {
  Rows<T> grad, p;
  const float *slope, *of_value, *constant;  // [padded channels]; the last two may be null
  T* dp;                                     // [M, units], out, 0 beyond the last channel
  int units;                                 // of a pixel
  int64_t pixels;
};

// Grid: as for normalise.
template <class T>
__global__ void __launch_bounds__(kThreads) normalise_backward(BackwardOfNormalise<T> args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t pixel = i / args.units;
  if (pixel >= args.pixels) return;
  const int c = static_cast<int>(i % args.units) * kUnit<T>;
  float gradient[kUnit<T>], slope[kUnit<T>];
  load<T>(gradient, args.grad.row(pixel) + c);
  load_floats(slope, args.slope + c);
#pragma unroll
  for (int j = 0; j < kUnit<T>; ++j) gradient[j] *= slope[j];
  if (args.of_value != nullptr) {
    float values[kUnit<T>], of_value[kUnit<T>], constant[kUnit<T>];
    load<T>(values, args.p.row(pixel) + c);
    load_floats(of_value, args.of_value + c);
    load_floats(constant, args.constant + c);
#pragma unroll
    for (int j = 0; j < kUnit<T>; ++j) gradient[j] += fmaf(of_value[j], values[j], constant[j]);
  }
  store<T>(args.dp + i * kUnit<T>, gradient);
}

// Sums over a slice of pixels of each channel of `values`, and with a second operand x of values h
// instead, h = (x - mean) inv_std.
template <class T>
struct ColumnSums {
  Rows<T> values;
  Rows<T> x;      // or of null data
  Norm norm;      // of x
  float* sums;    // [slices, 1 or 2, pitch], out
  int64_t pitch;  // a multiple of a unit
  int64_t pixels, slice_pixels;
};

// Grid: slices, groups of 64 bytes of channels.
template <class T>
__global__ void __launch_bounds__(kThreads) column_sums(ColumnSums<T> args) {
  __shared__ float scratch[kSumFloats<4, kUnit<T>>];
  const int c = (static_cast<int>(blockIdx.y) * 4 + static_cast<int>(threadIdx.x) % 4) * kUnit<T>;
  const bool valid = c < args.pitch, has_x = args.x.data != nullptr;
  const int64_t slice = blockIdx.x;
  const int64_t end = min((slice + 1) * args.slice_pixels, args.pixels);
  float sums[kUnit<T>] = {}, products[kUnit<T>] = {};
  float mean[kUnit<T>] = {}, inv_std[kUnit<T>] = {};
  if (valid && has_x) {
    load_floats(mean, args.norm.mean + c);
    load_floats(inv_std, args.norm.inv_std + c);
  }
  for (int64_t pixel = slice * args.slice_pixels + threadIdx.x / 4; valid && pixel < end;
       pixel += kThreads / 4) {
    float values[kUnit<T>];
    load<T>(values, args.values.row(pixel) + c);
#pragma unroll
    for (int i = 0; i < kUnit<T>; ++i) sums[i] += values[i];
    if (!has_x) continue;
    float x[kUnit<T>];
    load<T>(x, args.x.row(pixel) + c);
#pragma unroll
    for (int i = 0; i < kUnit<T>; ++i) {
      products[i] = fmaf(values[i], (x[i] - mean[i]) * inv_std[i], products[i]);
    }
  }
  const int kinds = has_x ? 2 : 1;
  sum_over_threads<4>(sums, scratch);
  if (has_x) sum_over_threads<4>(products, scratch);
  if (!valid || threadIdx.x >= 4) return;
  store_floats(args.sums + slice * kinds * args.pitch + c, sums);
  if (has_x) store_floats(args.sums + (slice * kinds + 1) * args.pitch + c, products);
}

// --- Of a gate probe ---

// Each channel's part of <grad, bn(P)>. Grid: groups of 32 channels.
__global__ void __launch_bounds__(kCombineThreads)
    combine_probe(const float* probe,  // [blocks, 2, pitch], as Project gives it
                  Statistics statistics, int64_t blocks, Norm norm, int channels,
                  double* products) {  // [channels], out
  __shared__ double scratch[kCombineThreads];
  const int c = combined_channel();
  const bool valid = c < channels;
  const double mean = valid ? norm.mean[c] : 0;
  const auto of = [&](int64_t block, int kind) {
    return valid ? static_cast<double>(probe[(block * 2 + kind) * statistics.pitch + c]) : 0;
  };
  const double grads = sum_over_blocks(blocks, scratch, [&](int64_t b) { return of(b, 0); });
  const double centred = sum_over_blocks(blocks, scratch, [&](int64_t b) {
    return valid ? of(b, 1) + (statistics.of(b, 1)[c] - mean) * of(b, 0) : 0;
  });
  if (threadIdx.x >= kCombineChannels || !valid) return;
  const double shift = norm.offset[c] + static_cast<double>(norm.slope[c]) * mean;
  products[c] = norm.slope[c] * centred + shift * grads;
}

// Their sum. Grid: one block.
__global__ void __launch_bounds__(32)
    sum_products(const double* products, int channels, float* result) {
  double sum = 0;
  for (int c = static_cast<int>(threadIdx.x); c < channels; c += 32) sum += products[c];
  for (int distance = 1; distance < 32; distance *= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  }
  if (threadIdx.x == 0) *result = static_cast<float>(sum);
}

}  // namespace proxyless::cuda
