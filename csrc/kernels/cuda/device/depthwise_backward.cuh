// From the gradient behind the depthwise layer's ReLU6 to that behind the expand layer's, with the
// depthwise weights' gradients. What the layer read is made again on the way.
#pragma once

#include "kernels/cuda/device/expand_depthwise.cuh"

namespace proxyless::cuda {

// How a BatchNorm's gradient goes back: dL/dx = slope grad + of_value x + constant of each channel,
// where the last two are there only if the statistics were the batch's.
struct NormBackward {
  const float *slope, *of_value, *constant;  // [channels padded to a group]
  bool batch_statistics;
};

template <class T>
struct DepthwiseBackward {
  Expand<T> expand;
  const T* depthwise;  // [channels, k, k]
  Rows<T> d;           // [N, Ho, Wo, channels], the layer before its BatchNorm
  Rows<T> dz;          // [N, Ho, Wo, channels], dL/dbn(d)
  NormBackward norm;   // from dz to dL/dd
  T* dmid;             // [N, H, W, pitch], out: dL/dbn(E), or dL/dX without an expand layer
  int64_t pitch;       // of all results, a multiple of a group
  float* tap_sums;     // [slices, k k, pitch], out: gradients of the weights; or null
  int out_height, out_width;
  int64_t tiles;         // of all pictures
  int tiles_y, tiles_x;  // of a picture
  int tiles_per_slice;
};

// The input pixels of a tile, and the outputs that they are read for.
template <int kKernel, int kStride>
struct MidTile {
  // Fewer with stride 2, for which a thread needs more registers.
  static constexpr int kRows = kStride == 2 ? 4 : 8, kColumns = 16;
  static constexpr int kRun = kRows * kColumns * kStageUnits / kThreads;
  static constexpr int kPadding = kKernel / 2;
  static constexpr int kBefore = kPadding / kStride;  // outputs before that of the first pixel
  static constexpr int kOutRows = (kRows - 1 + kPadding) / kStride + kBefore + 1;
  static constexpr int kOutColumns = (kColumns - 1 + kPadding) / kStride + kBefore + 1;
};

// Puts dL/dd of the outputs that a tile is read for into shared memory, [kOutRows, kOutColumns, 64
// bytes], 0 outside the picture. The first is at (top, left) of the picture.
template <class T, int kKernel, int kStride>
__device__ __forceinline__ void load_gradients(unsigned char* to, const DepthwiseBackward<T>& args,
                                               int64_t picture, int top, int left, int channel,
                                               int thread) {
  using Tile = MidTile<kKernel, kStride>;
  const int unit_channel = channel + thread % kStageUnits * kUnit<T>;
  float slope[kUnit<T>], of_value[kUnit<T>] = {}, constant[kUnit<T>] = {};
  load_floats(slope, args.norm.slope + unit_channel);
  if (args.norm.batch_statistics) {
    load_floats(of_value, args.norm.of_value + unit_channel);
    load_floats(constant, args.norm.constant + unit_channel);
  }
#pragma unroll 1
  for (int i = thread; i < Tile::kOutRows * Tile::kOutColumns * kStageUnits; i += kThreads) {
    const int out = i / kStageUnits;
    const int y = top + out / Tile::kOutColumns, x = left + out % Tile::kOutColumns;
    float gradient[kUnit<T>] = {};
    if (y >= 0 && y < args.out_height && x >= 0 && x < args.out_width) {
      const int64_t pixel = (picture * args.out_height + y) * args.out_width + x;
      load<T>(gradient, args.dz.row(pixel) + unit_channel);
#pragma unroll
      for (int j = 0; j < kUnit<T>; ++j) gradient[j] *= slope[j];
      if (args.norm.batch_statistics) {
        float value[kUnit<T>];
        load<T>(value, args.d.row(pixel) + unit_channel);
#pragma unroll
        for (int j = 0; j < kUnit<T>; ++j) gradient[j] += fmaf(of_value[j], value[j], constant[j]);
      }
    }
    store<T>(to + i * 16, gradient);
  }
}

// Adds to `sums` what the weights' gradients get from a tile: thread t works on word t % 16 of each
// pixel, for one row of taps, together with kSharers - 1 other groups of 16 threads.
template <class T, int kKernel, int kStride, int kChannels, int kSharers>
__device__ __forceinline__ void add_tap_sums(float (&sums)[kKernel][kChannels],
                                             const unsigned char* tile, const unsigned char* dd,
                                             int thread) {
  using Tile = MidTile<kKernel, kStride>;
  const int word = thread % 16, group = thread / 16;
  const int tap_y = group / kSharers;
  if (tap_y >= kKernel) return;
  for (int row = group % kSharers; row < Tile::kRows; row += kSharers) {
    const int shifted = row + Tile::kPadding - tap_y;
    if (shifted % kStride != 0) continue;
    const unsigned char* out_row =
        dd + (shifted / kStride + Tile::kBefore) * Tile::kOutColumns * kStageBytes + word * 4;
    const unsigned char* in_row = tile + row * Tile::kColumns * kStageBytes + word * 4;
    float gradients[Tile::kOutColumns][kChannels];
#pragma unroll
    for (int x = 0; x < Tile::kOutColumns; ++x) load<T>(gradients[x], out_row + x * kStageBytes);
#pragma unroll
    for (int x = 0; x < Tile::kColumns; ++x) {
      float values[kChannels];
      load<T>(values, in_row + x * kStageBytes);
#pragma unroll
      for (int tap_x = 0; tap_x < kKernel; ++tap_x) {
        const int out_x = x + Tile::kPadding - tap_x;
        if (out_x % kStride != 0) continue;
#pragma unroll
        for (int i = 0; i < kChannels; ++i) {
          sums[tap_x][i] =
              fmaf(values[i], gradients[out_x / kStride + Tile::kBefore][i], sums[tap_x][i]);
        }
      }
    }
  }
}

// Grid: slices of the tiles, groups of channels.
template <class T, int kKernel, int kStride>
__global__ void __launch_bounds__(kThreads, kBlocks) depthwise_backward(DepthwiseBackward<T> args) {
  using Tile = MidTile<kKernel, kStride>;
  constexpr int kTaps = kKernel * kKernel;
  constexpr int kChannels = 4 / static_cast<int>(sizeof(T));  // of a word
  constexpr int kSharers = kThreads / 16 / kKernel;
  constexpr int kGradientBytes = Tile::kOutRows * Tile::kOutColumns * kStageBytes;
  constexpr int kSumBytes = kSharers * kTaps * kGroup<T> * 4;
  constexpr int kLarger = kGradientBytes > kExpandScratch<T> ? kGradientBytes : kExpandScratch<T>;
  __shared__ __align__(128) unsigned char tile[Tile::kRows * Tile::kColumns * kStageBytes];
  // What the expand layer needs, then the gradients behind the depthwise layer, then sums.
  __shared__ __align__(128) unsigned char scratch[kLarger > kSumBytes ? kLarger : kSumBytes];
  __shared__ __align__(128) T taps[kTaps * kGroup<T>];

  const int channel = static_cast<int>(blockIdx.y) * kGroup<T>;
  const int64_t slice = blockIdx.x;
  load_taps<T, kKernel>(taps, args.depthwise, channel, args.expand.channels);

  float tap_sums[kKernel][kChannels] = {};
  const int64_t end = min((slice + 1) * args.tiles_per_slice, args.tiles);
  for (int64_t index = slice * args.tiles_per_slice; index < end; ++index) {
    const int thread = opaque(threadIdx.x), unit = thread % kStageUnits;
    const int unit_channel = channel + unit * kUnit<T>;
    const int column = thread / kStageUnits % Tile::kColumns;
    const int row = thread / kStageUnits / Tile::kColumns * Tile::kRun;
    const int first_x = static_cast<int>(index % args.tiles_x) * Tile::kColumns;
    const int first_y = static_cast<int>(index / args.tiles_x % args.tiles_y) * Tile::kRows;
    const int64_t picture = index / args.tiles_x / args.tiles_y;
    load_expanded<T, Tile::kRows, Tile::kColumns>(tile, scratch, args.expand, picture, first_y,
                                                  first_x, channel);

    load_gradients<T, kKernel, kStride>(scratch, args, picture, first_y / kStride - Tile::kBefore,
                                        first_x / kStride - Tile::kBefore, channel, thread);
    __syncthreads();

    float dmid[Tile::kRun][kUnit<T>] = {};
#pragma unroll 1
    for (int nth = 0; nth < (kKernel + kStride - 1) / kStride; ++nth) {
      // With stride 2, a column is read through every other column of taps.
      const int tap_x = nth * kStride + (column + Tile::kPadding) % kStride;
      if (tap_x >= kKernel) continue;
      const int out_x = (column + Tile::kPadding - tap_x) / kStride + Tile::kBefore;
      const unsigned char* out_column =
          scratch + (row / kStride * Tile::kOutColumns + out_x) * kStageBytes + unit * 16;
      // For tap row t, window[run] is the output row that reads row `run` through it: the one that
      // read row run - 1 through t - 1.
      float window[Tile::kRun][kUnit<T>];
#pragma unroll
      for (int tap_y = 0; tap_y < kKernel; ++tap_y) {
#pragma unroll
        for (int run = Tile::kRun - 1; run >= 0; --run) {
          const int shifted = run + Tile::kPadding - tap_y;
          if (shifted % kStride != 0) continue;
          if (tap_y == 0 || run == 0) {
            load<T>(window[run], out_column + (shifted / kStride + Tile::kBefore) *
                                                  Tile::kOutColumns * kStageBytes);
          }
        }
        float weights[kUnit<T>];
        load<T>(weights, taps + (tap_y * kKernel + tap_x) * kGroup<T> + unit * kUnit<T>);
#pragma unroll
        for (int run = 0; run < Tile::kRun; ++run) {
          if ((run + Tile::kPadding - tap_y) % kStride != 0) continue;
#pragma unroll
          for (int i = 0; i < kUnit<T>; ++i) {
            dmid[run][i] = fmaf(window[run][i], weights[i], dmid[run][i]);
          }
        }
#pragma unroll
        for (int run = Tile::kRun - 1; run > 0; --run) {
#pragma unroll
          for (int i = 0; i < kUnit<T>; ++i) window[run][i] = window[run - 1][i];
        }
      }
    }
#pragma unroll
    for (int run = 0; run < Tile::kRun; ++run) {
      const int y = first_y + row + run, x = first_x + column;
      if (y >= args.expand.height || x >= args.expand.width) continue;
      if (args.expand.weight.data != nullptr) {
        float activated[kUnit<T>];
        load<T>(activated,
                tile + ((row + run) * Tile::kColumns + column) * kStageBytes + unit * 16);
#pragma unroll
        for (int i = 0; i < kUnit<T>; ++i) {
          // ReLU6 has kept apart what is inside its range.
          dmid[run][i] = relu6_backward(activated[i], dmid[run][i]);
        }
      }
      const int64_t pixel = (picture * args.expand.height + y) * args.expand.width + x;
      store<T>(args.dmid + pixel * args.pitch + unit_channel, dmid[run]);
    }
    if (args.tap_sums != nullptr) {
      add_tap_sums<T, kKernel, kStride, kChannels, kSharers>(tap_sums, tile, scratch, thread);
    }
    __syncthreads();
  }

  if (args.tap_sums == nullptr) return;

  float* floats = reinterpret_cast<float*>(scratch);
  const int thread = threadIdx.x;
  const int word = thread % 16, tap_y = thread / 16 / kSharers, sharer = thread / 16 % kSharers;
  if (tap_y < kKernel) {
#pragma unroll
    for (int tap_x = 0; tap_x < kKernel; ++tap_x) {
#pragma unroll
      for (int i = 0; i < kChannels; ++i) {
        floats[(sharer * kTaps + tap_y * kKernel + tap_x) * kGroup<T> + word * kChannels + i] =
            tap_sums[tap_x][i];
      }
    }
  }
  __syncthreads();
  for (int i = thread; i < kTaps * kGroup<T>; i += kThreads) {
    const int tap = i / kGroup<T>, c = i % kGroup<T>;
    float sum = 0;
    for (int s = 0; s < kSharers; ++s) sum += floats[s * kTaps * kGroup<T> + i];
    args.tap_sums[(slice * kTaps + tap) * args.pitch + channel + c] = sum;
  }
}

}  // namespace proxyless::cuda
