// What the depthwise convolution reads: relu6(bn(X W1^T)), made in shared memory and nowhere else.
#pragma once

#include "kernels/cuda/device/products.cuh"
#include "kernels/relu6.h"

namespace proxyless::cuda {

// Expanded channels that a block works on, 64 bytes of each pixel.
template <class T>
constexpr int kGroup = kStage<T>;

// The expand layer of a chunk, or X itself without one.
template <class T>
struct Expand {
  Rows<T> x;                    // [N, H, W, patch]; without an expand layer the chunk's channels
  Rows<T> weight;               // [channels, patch]; null without an expand layer
  int patch;                    // values summed over, a multiple of a unit
  const float *slope, *offset;  // [channels], the folded BatchNorm
  int channels;                 // of the chunk
  int height, width;
  bool tf32;
};

// Bytes of shared memory that load_expanded needs beside the tile: two stages of both operands.
template <class T>
constexpr int kExpandScratch = 2 * (kTilePixels + kGroup<T>)*kStageBytes;

// Loops here are not unrolled where that would only keep more addresses in registers, of which the
// convolution around needs all.
//
// Fills a tile of pixels, [rows, kColumns, 64 bytes], whose first is (top, left) of a picture, with
// the group of channels that starts at `channel`; 0 outside the picture and beyond the last
// channel. The block may read the tile when this returns, and `scratch` is free.
template <class T, int kRows, int kColumns>
__device__ __forceinline__ void load_expanded(unsigned char* tile, unsigned char* scratch,
                                              const Expand<T>& in, int64_t picture, int top,
                                              int left, int channel) {
  const int thread = opaque(threadIdx.x);
  const int64_t first_pixel = picture * in.height * in.width;
  const auto is_inside = [&](int y, int x) {
    return y >= 0 && y < in.height && x >= 0 && x < in.width;
  };

  if (in.weight.data == nullptr) {
#pragma unroll 1
    for (int i = thread; i < kRows * kColumns * kStageUnits; i += kThreads) {
      const int unit = i % kStageUnits, pixel = i / kStageUnits;
      const int y = top + pixel / kColumns, x = left + pixel % kColumns;
      const int c = channel + unit * kUnit<T>;
      const bool valid = is_inside(y, x) && c < in.channels;
      const T* from = in.x.row(first_pixel + y * in.width + x) + c;
      cp_async_16(tile + i * 16, valid ? from : in.x.data, valid);
    }
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    return;
  }

#pragma unroll 1
  for (int i = thread; i < kRows * kColumns * kStageUnits; i += kThreads) {
    const int pixel = i / kStageUnits;
    if (!is_inside(top + pixel / kColumns, left + pixel % kColumns)) {
      *reinterpret_cast<uint4*>(tile + i * 16) = make_uint4(0, 0, 0, 0);
    }
  }

  // The pixels inside the picture, counted row by row, are the product's rows, 64 at a time.
  const int first_y = max(top, 0), first_x = max(left, 0);
  const int columns = min(left + kColumns, in.width) - first_x;
  const int pixels = (min(top + kRows, in.height) - first_y) * columns;
  const int stages = (in.patch + kStage<T> - 1) / kStage<T>;
  const int steps = (pixels + kTilePixels - 1) / kTilePixels * stages;

  constexpr int kRowsBytes = kTilePixels * kStageBytes;
  constexpr int kBufferBytes = kExpandScratch<T> / 2;
  const auto stage = [&](int step) {
    unsigned char* rows = scratch + step % 2 * kBufferBytes;
    const int unit = thread % kStageUnits;
    const int k = step % stages * kStage<T> + unit * kUnit<T>;
#pragma unroll 1
    for (int row = thread / kStageUnits; row < kTilePixels; row += kThreads / kStageUnits) {
      const int pixel = step / stages * kTilePixels + row;
      const bool valid = pixel < pixels && k < in.patch;
      const int y = first_y + pixel / columns, x = first_x + pixel % columns;
      const T* from = in.x.row(first_pixel + y * in.width + x) + k;
      stage_unit(rows, row, unit, valid ? from : in.x.data, valid);
    }
#pragma unroll 1
    for (int row = thread / kStageUnits; row < kGroup<T>; row += kThreads / kStageUnits) {
      const bool valid = channel + row < in.channels && k < in.patch;
      const T* from = in.weight.row(channel + row) + k;
      stage_unit(rows + kRowsBytes, row, unit, valid ? from : in.weight.data, valid);
    }
    cp_async_commit();
  };

  constexpr int kTiles = kGroup<T> / 8;
  float sums[kTiles][4];
  stage(0);
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    if (step % stages == 0) {
#pragma unroll
      for (int i = 0; i < kTiles; ++i) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0;
    }
    if (step + 1 < steps) {
      stage(step + 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    __syncthreads();
    const unsigned char* rows = scratch + step % 2 * kBufferBytes;
    multiply_stage<T>(sums, rows, rows + kRowsBytes, kTiles, in.tf32, thread);
    if (step % stages == stages - 1) {
      const int lane = thread % 32, warp = thread / 32;
#pragma unroll 1
      for (int half = 0; half < 2; ++half) {
        const int pixel = step / stages * kTilePixels + warp * 16 + lane / 4 + half * 8;
        if (pixel >= pixels) continue;
        const int row = first_y - top + pixel / columns, column = first_x - left + pixel % columns;
        T* to = reinterpret_cast<T*>(tile + (row * kColumns + column) * kStageBytes);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          const int group_channel = i * 8 + lane % 4 * 2;
          float activated[2];
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int c = channel + group_channel + j;
            // An index that is no constant would put the sums into local memory.
            const float sum = half == 0 ? sums[i][j] : sums[i][2 + j];
            // Chosen rather than multiplied by 0, which would let inf and NaN through.
            activated[j] = c < in.channels ? relu6(fmaf(sum, in.slope[c], in.offset[c])) : 0;
          }
          store<T>(to + group_channel, activated);
        }
      }
    }
    __syncthreads();
  }
}

}  // namespace proxyless::cuda
