// The expand layer's BatchNorm from mean and covariance of X, on the way there and back.
//
// E = W1 X, so its mean is W1 mean(X) and its variance w cov(X) w; and with q = dZ1^T X and
// s = sum dZ1, all that its backward needs follows too: dE = slope dZ1 + of_value (E - mean) +
// constant is never made. See docs/kernels.md.
#pragma once

#include "kernels/cuda/device/norms.cuh"

namespace proxyless::cuda {

constexpr int kRowsAtOnce = 8;  // expanded channels that share a pass over the covariance

// Mean and covariance of X, [1 + K, K].
struct Moments {
  const double* data;
  int patch;  // K

  __device__ double mean(int i) const { return data[i]; }
  // Column i of row j, which the symmetric matrix has in row i too.
  __device__ double covariance(int j, int i) const {
    return data[(1 + static_cast<int64_t>(j)) * patch + i];
  }
};

// Element i of the products of kRowsAtOnce rows of the weight with the covariance.
template <class T>
__device__ __forceinline__ void times_covariance(double (&products)[kRowsAtOnce],
                                                 const Rows<T>& weight, int first_row, int rows,
                                                 const Moments& moments, int i) {
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) products[r] = 0;
  for (int j = 0; j < moments.patch; ++j) {
    const double covariance = moments.covariance(j, i);
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (first_row + r >= rows) break;
      products[r] += covariance * to_float(weight.row(first_row + r)[j]);
    }
  }
}

// Sums each value over the threads of a block; all get the sums.
template <int kValues>
__device__ __forceinline__ void sum_over_block(double (&values)[kValues]) {
  __shared__ double scratch[kWarps][kValues];
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    for (int distance = 1; distance < 32; distance *= 2) {
      values[i] += __shfl_xor_sync(0xffffffffu, values[i], distance);
    }
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32][i] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kValues; ++i) {
    values[i] = 0;
    for (int w = 0; w < kWarps; ++w) values[i] += scratch[w][i];
  }
  __syncthreads();
}

// The layer's statistics, folded too. Grid: groups of kRowsAtOnce padded channels.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks)
    expand_statistics(Rows<T> weight, Moments moments, NormParameters parameters,
                      float* out_means,  // [channels], out
                      float* out_vars,   // [channels], out
                      Norm norm) {
  const int first = static_cast<int>(blockIdx.x) * kRowsAtOnce;
  double means[kRowsAtOnce] = {}, vars[kRowsAtOnce] = {};
  for (int i = static_cast<int>(threadIdx.x); i < moments.patch; i += kThreads) {
    double products[kRowsAtOnce];
    times_covariance(products, weight, first, parameters.channels, moments, i);
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (first + r >= parameters.channels) break;
      const double w = to_float(weight.row(first + r)[i]);
      means[r] += w * moments.mean(i);
      vars[r] += w * products[r];
    }
  }
  sum_over_block(means);
  sum_over_block(vars);
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) {
    const int c = first + r;
    if (static_cast<int>(threadIdx.x) != r || c >= parameters.padded) continue;
    if (c >= parameters.channels) {
      norm.clear(c);
      continue;
    }
    out_means[c] = static_cast<float>(means[r]);
    // Rounding may have left a little less than 0; NaN stays.
    out_vars[c] = static_cast<float>(vars[r] < 0 ? 0 : vars[r]);
    parameters.fold(norm, c, out_means[c], out_vars[c]);
  }
}

// The layer's gradients for a chunk of channels.
template <class T>
struct ExpandGradients {
  Rows<T> weight;         // [channels, K]
  Moments moments;        // read with batch statistics
  Norm norm;              // [channels]
  const float* products;  // [channels, pitch], dZ1^T X
  int pitch;
  const float* dmid_sums;  // [channels], sums of dZ1
  int channels;
  double count;  // of the pixels
  bool batch_statistics;
  float *dscale, *dshift;      // [channels], out; or null
  T* dweight;                  // [channels, K], out; or null
  float *of_value, *constant;  // [channels], out; null without batch statistics
};

// Grid: groups of kRowsAtOnce channels.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) expand_gradients(ExpandGradients<T> args) {
  const int first = static_cast<int>(blockIdx.x) * kRowsAtOnce, patch = args.moments.patch;
  double dscales[kRowsAtOnce] = {};
  // Without batch statistics the mean of E is given, and X's is not known.
  for (int i = static_cast<int>(threadIdx.x); i < patch; i += kThreads) {
    const double mean = args.batch_statistics ? args.moments.mean(i) : 0;
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const int c = first + r;
      if (c >= args.channels) break;
      dscales[r] +=
          to_float(args.weight.row(c)[i]) *
          (args.products[static_cast<int64_t>(c) * args.pitch + i] - mean * args.dmid_sums[c]);
    }
  }
  sum_over_block(dscales);

  double of_values[kRowsAtOnce], constants[kRowsAtOnce];
#pragma unroll
  for (int r = 0; r < kRowsAtOnce; ++r) {
    const int c = first + r;
    of_values[r] = constants[r] = 0;
    if (c >= args.channels) break;
    const double dshift = args.dmid_sums[c];
    if (!args.batch_statistics) dscales[r] -= args.norm.mean[c] * dshift;
    const double dscale = dscales[r] * args.norm.inv_std[c];
    if (args.batch_statistics) {
      of_values[r] = -args.norm.slope[c] * args.norm.inv_std[c] * dscale / args.count;
      constants[r] = -args.norm.slope[c] * dshift / args.count;
    }
    if (static_cast<int>(threadIdx.x) != r) continue;
    if (args.dscale != nullptr) {
      args.dscale[c] = static_cast<float>(dscale);
      args.dshift[c] = static_cast<float>(dshift);
    }
    if (args.batch_statistics) {
      args.of_value[c] = static_cast<float>(of_values[r]);
      args.constant[c] = static_cast<float>(constants[r]);
    }
  }
  if (args.dweight == nullptr) return;

  for (int i = static_cast<int>(threadIdx.x); i < patch; i += kThreads) {
    double products[kRowsAtOnce] = {};
    if (args.batch_statistics) {
      times_covariance(products, args.weight, first, args.channels, args.moments, i);
    }
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      const int c = first + r;
      if (c >= args.channels) break;
      double gradient = static_cast<double>(args.norm.slope[c]) *
                        args.products[static_cast<int64_t>(c) * args.pitch + i];
      if (args.batch_statistics) {
        gradient += args.count * (of_values[r] * products[r] + constants[r] * args.moments.mean(i));
      }
      args.dweight[static_cast<int64_t>(c) * patch + i] =
          from_float<T>(static_cast<float>(gradient));
    }
  }
}

// What of dX does not come from dZ1: X B + constant with B = W1^T diag(of_value) W1.
template <class T>
struct InputMatrix {
  Rows<T> weight;  // [hidden, K]
  Moments moments;
  const float *of_value, *constants;  // [hidden], as expand_gradients gives them
  int hidden;
  T* matrix;        // [K, pitch], out, 0 beyond the last column
  int pitch;        // a multiple of a unit
  float* constant;  // [pitch], out, 0 beyond the last column
};

// Grid: rows of B, as many as columns.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) input_matrix(InputMatrix<T> args) {
  const int row = static_cast<int>(blockIdx.x), patch = args.moments.patch;
  if (row >= patch) {
    if (threadIdx.x == 0) args.constant[row] = 0;
    return;
  }
  double constant[1] = {};
  for (int j = static_cast<int>(threadIdx.x); j < args.pitch; j += kThreads) {
    float sum = 0;
    for (int k = 0; k < args.hidden && j < patch; ++k) {
      const T* weight = args.weight.row(k);
      sum = fmaf(args.of_value[k] * to_float(weight[row]), to_float(weight[j]), sum);
    }
    // The constant makes up for the mean of X times B as B is stored.
    const T stored = from_float<T>(sum);
    args.matrix[static_cast<int64_t>(row) * args.pitch + j] = stored;
    if (j < patch) constant[0] -= args.moments.mean(j) * to_float(stored);
  }
  for (int k = static_cast<int>(threadIdx.x); k < args.hidden; k += kThreads) {
    constant[0] += static_cast<double>(args.constants[k]) * to_float(args.weight.row(k)[row]);
  }
  sum_over_block(constant);
  if (threadIdx.x == 0) args.constant[row] = static_cast<float>(constant[0]);
}

}  // namespace proxyless::cuda
