// Expand and depthwise layers of a chunk of channels in one kernel, with the batch's statistics.
#pragma once

#include "kernels/cuda/device/expanded.cuh"
#include "kernels/cuda/device/sums.cuh"

namespace proxyless::cuda {

template <class T>
struct ExpandDepthwise {
  Expand<T> expand;
  const T* depthwise;     // [channels, k, k]
  T* d;                   // [N, Ho, Wo, pitch], out, 0 beyond the last channel
  int64_t pitch;          // a multiple of a group
  Statistics statistics;  // [tiles, 3, pitch], out; of null data where they are not wanted
  int out_height, out_width;
  int tiles_y, tiles_x;  // of a picture
};

// The output pixels of a block and those of a thread, which are in one column.
template <int kKernel, int kStride>
struct OutTile {
  static constexpr int kRows = kStride == 2 && kKernel > 3 ? 4 : 8;
  static constexpr int kColumns = kStride == 2 ? 8 : 16;
  static constexpr int kRun = kRows * kColumns * kStageUnits / kThreads;
  // What they read.
  static constexpr int kInRows = (kRows - 1) * kStride + kKernel;
  static constexpr int kInColumns = (kColumns - 1) * kStride + kKernel;
};

// Puts the group's weights into shared memory, [k k, 64 bytes], 0 beyond the last channel.
template <class T, int kKernel>
__device__ __forceinline__ void load_taps(T* taps, const T* depthwise, int channel, int channels) {
  constexpr int kTaps = kKernel * kKernel;
  for (int i = threadIdx.x; i < kGroup<T> * kTaps; i += kThreads) {
    const int c = i / kTaps, tap = i % kTaps;
    taps[tap * kGroup<T> + c] = channel + c < channels
                                    ? depthwise[static_cast<int64_t>(channel + c) * kTaps + tap]
                                    : from_float<T>(0);
  }
}

// Grid: tiles of all pictures, groups of channels.
template <class T, int kKernel, int kStride>
__global__ void __launch_bounds__(kThreads, kBlocks) expand_depthwise(ExpandDepthwise<T> args) {
  using Tile = OutTile<kKernel, kStride>;
  constexpr int kTapBytes = kKernel * kKernel * kStageBytes;
  constexpr int kScratch = kExpandScratch<T> > kTapBytes ? kExpandScratch<T> : kTapBytes;
  __shared__ __align__(128) unsigned char tile[Tile::kInRows * Tile::kInColumns * kStageBytes];
  __shared__ __align__(128) unsigned char scratch[kScratch];

  const BlockPlace place = block_place();
  const int tile_x = place.pixels % args.tiles_x;
  const int tile_y = place.pixels / args.tiles_x % args.tiles_y;
  const int64_t picture = place.pixels / args.tiles_x / args.tiles_y;
  const int channel = place.channels * kGroup<T>;
  const int first_y = tile_y * Tile::kRows, first_x = tile_x * Tile::kColumns;
  load_expanded<T, Tile::kInRows, Tile::kInColumns>(tile, scratch, args.expand, picture,
                                                    first_y * kStride - kKernel / 2,
                                                    first_x * kStride - kKernel / 2, channel);
  T* taps = reinterpret_cast<T*>(scratch);
  load_taps<T, kKernel>(taps, args.depthwise, channel, args.expand.channels);
  __syncthreads();

  const int thread = threadIdx.x, unit = thread % kStageUnits;
  const int column = thread / kStageUnits % Tile::kColumns;
  const int row = thread / kStageUnits / Tile::kColumns * Tile::kRun;
  float sums[Tile::kRun][kUnit<T>] = {};
#pragma unroll
  for (int tap_x = 0; tap_x < kKernel; ++tap_x) {
    float weights[kKernel][kUnit<T>];
#pragma unroll
    for (int tap_y = 0; tap_y < kKernel; ++tap_y) {
      load<T>(weights[tap_y], taps + (tap_y * kKernel + tap_x) * kGroup<T> + unit * kUnit<T>);
    }
#pragma unroll
    for (int in_row = 0; in_row < (Tile::kRun - 1) * kStride + kKernel; ++in_row) {
      float values[kUnit<T>];
      load<T>(values, tile +
                          ((row * kStride + in_row) * Tile::kInColumns + column * kStride + tap_x) *
                              kStageBytes +
                          unit * 16);
#pragma unroll
      for (int run = 0; run < Tile::kRun; ++run) {
        const int tap_y = in_row - run * kStride;
        if (tap_y < 0 || tap_y >= kKernel) continue;
#pragma unroll
        for (int i = 0; i < kUnit<T>; ++i) {
          sums[run][i] = fmaf(values[i], weights[tap_y][i], sums[run][i]);
        }
      }
    }
  }

  const auto is_inside = [&](int run) {
    return first_y + row + run < args.out_height && first_x + column < args.out_width;
  };
#pragma unroll
  for (int run = 0; run < Tile::kRun; ++run) {
    if (!is_inside(run)) continue;
    const int64_t pixel =
        (picture * args.out_height + first_y + row + run) * args.out_width + first_x + column;
    store<T>(args.d + pixel * args.pitch + channel + unit * kUnit<T>, sums[run]);
  }
  if (args.statistics.data == nullptr) return;

  __syncthreads();
  float* floats = reinterpret_cast<float*>(scratch);
  const float count = static_cast<float>(min(Tile::kRows, args.out_height - first_y) *
                                         min(Tile::kColumns, args.out_width - first_x));
  float mean[kUnit<T>] = {}, squares[kUnit<T>] = {};
#pragma unroll
  for (int run = 0; run < Tile::kRun; ++run) {
    if (!is_inside(run)) continue;
#pragma unroll
    for (int i = 0; i < kUnit<T>; ++i) mean[i] += sums[run][i];
  }
  sum_over_threads<kStageUnits>(mean, floats);
#pragma unroll
  for (int i = 0; i < kUnit<T>; ++i) mean[i] /= count;
#pragma unroll
  for (int run = 0; run < Tile::kRun; ++run) {
    if (!is_inside(run)) continue;
#pragma unroll
    for (int i = 0; i < kUnit<T>; ++i) {
      const float difference = sums[run][i] - mean[i];
      squares[i] = fmaf(difference, difference, squares[i]);
    }
  }
  sum_over_threads<kStageUnits>(squares, floats);
  if (thread >= kStageUnits) return;
  const int64_t block = place.pixels;
  const int first = channel + unit * kUnit<T>;
  float counts[kUnit<T>];
#pragma unroll
  for (int i = 0; i < kUnit<T>; ++i) counts[i] = count;
  store_floats(args.statistics.of(block, 0) + first, counts);
  store_floats(args.statistics.of(block, 1) + first, mean);
  store_floats(args.statistics.of(block, 2) + first, squares);
}

}  // namespace proxyless::cuda
