// Sums over pixels of the products of every two channels: out [I, J] = a [M, I]^T b [M, J].
//
// Pixels are cut into slices, each of which gives a partial sum; sum_slices adds them up.
#pragma once

#include "kernels/cuda/device/products.cuh"
#include "kernels/cuda/device/sums.cuh"
#include "kernels/relu6.h"

namespace proxyless::cuda {

constexpr int kOuterTile = 64;  // channels of either factor in a block

// What becomes of the factors on the way in.
enum class Factors {
  kPlain,
  kActivated,  // b is relu6(bn(b))
  kCentred,    // of both, the mean is taken off, in float32
};

template <class T>
struct PixelProducts {
  Rows<T> a, b;                 // [M, rows], [M, columns]
  const float *slope, *offset;  // kActivated: [columns]; kCentred: of both, offset = -mean [rows]
  float* sums;                  // [slices, rows, pitch], out
  float* row_sums;              // kPlain: [slices, rows], out, sums of a; or null
  int64_t pixels;               // M
  int64_t slice_pixels;
  int rows, columns;  // multiples of a unit
  int pitch;          // at least `columns`, even
  bool tf32;
};

// A stage in shared memory: pixels by 64 channels of numbers S, and a gap between pixels that puts
// what a warp reads at once into different banks.
template <class S>
struct OuterStage {
  static constexpr int kPixels = 64 / static_cast<int>(sizeof(S));
  static constexpr int kPitch = kOuterTile + 8;
  static constexpr int kNumbers = kPixels * kPitch;
};

// The fragment of 16 channels, transposed on the way: matrix i of the four is of pixels 8 (i / 2)
// and channels 8 (i % 2), or the other way round if `pixels_first`.
template <class S>
__device__ __forceinline__ Fragment<S> channels_fragment(const S* stage, int step, int channel,
                                                         bool pixels_first, bool tf32) {
  const int lane = threadIdx.x % 32;
  unsigned bits[4];
  if constexpr (sizeof(S) == 2) {
    const int matrix = lane / 8;
    const int pixel = step * 16 + lane % 8 + (pixels_first ? matrix % 2 : matrix / 2) * 8;
    const int c = channel + (pixels_first ? matrix / 2 : matrix % 2) * 8;
    ldmatrix_x4_trans(bits, stage + pixel * OuterStage<S>::kPitch + c);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int pixel = step * 8 + lane % 4 + (pixels_first ? i % 2 : i / 2) * 4;
      const int c = channel + lane / 4 + (pixels_first ? i / 2 : i % 2) * 8;
      bits[i] = __float_as_uint(stage[pixel * OuterStage<S>::kPitch + c]);
    }
  }
  return fragment<S>(bits, tf32);
}

// Grid: groups of 64 columns, of 64 rows, slices. Of kCentred products, which are symmetric, only
// blocks on and below the diagonal are computed.
template <class T, Factors kFactors>
__global__ void __launch_bounds__(kThreads, kBlocks) pixel_products(PixelProducts<T> args) {
  constexpr bool kCentred = kFactors == Factors::kCentred;
  using Staged = typename Choose<kCentred, float, T>::Type;
  using Stage = OuterStage<Staged>;
  __shared__ __align__(128) Staged memory[2][2][Stage::kNumbers];

  const int first_row = static_cast<int>(blockIdx.y) * kOuterTile;
  const int first_column = static_cast<int>(blockIdx.x) * kOuterTile;
  if (kCentred && first_column > first_row) return;
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int64_t slice = blockIdx.z;
  const int64_t begin = slice * args.slice_pixels;
  const int64_t end = min(begin + args.slice_pixels, args.pixels);
  const bool tf32 = args.tf32 && !kCentred;

  constexpr int kUnits = kOuterTile / kUnit<T>;  // of a pixel
  const int unit = thread % kUnits;
  const auto stage_factor = [&](Staged* to, const Rows<T>& from, int channel, int channels,
                                int64_t pixel) {
    for (int row = thread / kUnits; row < Stage::kPixels; row += kThreads / kUnits) {
      const bool valid = pixel + row < end && channel < channels;
      Staged* unit_to = to + row * Stage::kPitch + unit * kUnit<T>;
      if constexpr (kCentred) {
        float values[kUnit<T>] = {};
        if (valid) {
          load<T>(values, from.row(pixel + row) + channel);
#pragma unroll
          for (int i = 0; i < kUnit<T>; ++i) values[i] += args.offset[channel + i];
        }
        store_floats(unit_to, values);
      } else {
        cp_async_16(unit_to, valid ? from.row(pixel + row) + channel : from.data, valid);
      }
    }
  };
  const auto stage = [&](int buffer, int64_t pixel) {
    stage_factor(memory[buffer][0], args.a, first_row + unit * kUnit<T>, args.rows, pixel);
    stage_factor(memory[buffer][1], args.b, first_column + unit * kUnit<T>, args.columns, pixel);
    cp_async_commit();
  };

  float slope[kUnit<T>] = {}, offset[kUnit<T>] = {};
  const int own_column = first_column + unit * kUnit<T>;
  if (kFactors == Factors::kActivated && own_column < args.columns) {
    load_floats(slope, args.slope + own_column);
    load_floats(offset, args.offset + own_column);
  }

  // Each warp multiplies 32 rows by 32 columns.
  const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
  const bool has_work =
      first_row + warp_row < args.rows && first_column + warp_column < args.columns;
  // The first column of blocks adds up a on the way.
  const bool sums_rows = kFactors == Factors::kPlain && blockIdx.x == 0 && args.row_sums != nullptr;
  float row_sums[kUnit<T>] = {};
  float sums[2][4][4] = {};
  stage(0, begin);
  int buffer = 0;
  for (int64_t pixel = begin; pixel < end; pixel += Stage::kPixels, buffer ^= 1) {
    if (pixel + Stage::kPixels < end) {
      stage(buffer ^ 1, pixel + Stage::kPixels);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    // Of what this thread copied; pixels past the end stay 0.
    if constexpr (kFactors == Factors::kPlain) {
      for (int row = thread / kUnits; sums_rows && row < Stage::kPixels; row += kThreads / kUnits) {
        float values[kUnit<T>];
        load<Staged>(values, memory[buffer][0] + row * Stage::kPitch + unit * kUnit<T>);
#pragma unroll
        for (int i = 0; i < kUnit<T>; ++i) row_sums[i] += values[i];
      }
    }
    if constexpr (kFactors == Factors::kActivated) {
      for (int row = thread / kUnits; row < Stage::kPixels && pixel + row < end;
           row += kThreads / kUnits) {
        Staged* at = memory[buffer][1] + row * Stage::kPitch + unit * kUnit<T>;
        float values[kUnit<T>];
        load<T>(values, at);
#pragma unroll
        for (int i = 0; i < kUnit<T>; ++i) values[i] = relu6(fmaf(values[i], slope[i], offset[i]));
        store<T>(at, values);
      }
    }
    __syncthreads();
    if (has_work) {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        Fragment<Staged> a[2], b[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          a[i] = channels_fragment<Staged>(memory[buffer][0], step, warp_row + i * 16, false, tf32);
          b[i] =
              channels_fragment<Staged>(memory[buffer][1], step, warp_column + i * 16, true, tf32);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) multiply<Staged>(sums[i][j], a[i], b[j / 2], j % 2, tf32);
        }
      }
    }
    __syncthreads();
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + warp_row + i * 16 + lane / 4 + half * 8;
        const int column = first_column + warp_column + j * 8 + lane % 4 * 2;
        if (row >= args.rows || column >= args.columns) continue;
        float* to = args.sums + (slice * args.rows + row) * args.pitch + column;
        *reinterpret_cast<float2*>(to) =
            make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
      }
    }
  }

  if (!sums_rows) return;
  sum_over_threads<kUnits>(row_sums, reinterpret_cast<float*>(memory));
  const int row = first_row + thread * kUnit<T>;
  if (thread < kUnits && row < args.rows) {
    store_floats(args.row_sums + slice * args.rows + row, row_sums);
  }
}

}  // namespace proxyless::cuda
