// Matrix products of staged tiles on tensor cores.
//
// A stage is 64 bytes of every row of both operands, 32 numbers of 16 bits or 16 of 32: two steps
// of the tensor cores' products, whose fragments lie alike for all types when counted in bytes.
// Products of float32 are split into three of TF32 (3xTF32), which keeps float32's digits, unless
// one of them is allowed to do.
#pragma once

#include "kernels/cuda/device/numbers.cuh"
#include "kernels/cuda/device/ptx.cuh"

namespace proxyless::cuda {

constexpr int kStageBytes = 64;
constexpr int kStageUnits = kStageBytes / 16;
constexpr int kTilePixels = 64;  // rows of the first operand in a block's product, 16 for each warp

template <class T>
constexpr int kStage = kStageBytes / static_cast<int>(sizeof(T));

// Which part of the pixels a block has, and which group of channels.
struct BlockPlace {
  int pixels, channels;
};

// In a grid of parts of the pixels by groups of channels. CUDA starts blocks along x first; here
// those that read the same pixels start together, so that all but one find them in the L2 cache.
__device__ __forceinline__ BlockPlace block_place() {
  const unsigned block = blockIdx.y * gridDim.x + blockIdx.x;
  return {static_cast<int>(block / gridDim.y), static_cast<int>(block % gridDim.y)};
}

// Where a unit of a row lies in a staged tile: permuted so that eight rows' units, which ldmatrix
// reads at once, are in different banks.
__device__ __forceinline__ int staged(int row, int unit) {
  return row * kStageBytes + ((unit ^ (row >> 1)) & 3) * 16;
}

// --- Products of fragments, c [16, 8] += a b ---

template <class T>
struct Fragment {
  unsigned values[4];
};

// As a sum of two TF32 numbers.
template <>
struct Fragment<float> {
  unsigned values[4], rests[4];
};

template <class T>
__device__ __forceinline__ Fragment<T> fragment(const unsigned (&bits)[4], bool) {
  return {{bits[0], bits[1], bits[2], bits[3]}};
}

template <>
__device__ __forceinline__ Fragment<float> fragment<float>(const unsigned (&bits)[4], bool tf32) {
  Fragment<float> result{};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float value = __uint_as_float(bits[i]);
    result.values[i] = cvt_rna_tf32(value);
    if (tf32) continue;
    const float rest = value - __uint_as_float(result.values[i]);
    // Infinity has no rest; the difference is NaN.
    result.rests[i] = cvt_rna_tf32(isfinite(rest) ? rest : 0.0f);
  }
  return result;
}

// b's fragment holds two such matrices; `half` chooses one.
template <class T>
__device__ __forceinline__ void multiply(float (&c)[4], const Fragment<T>& a, const Fragment<T>& b,
                                         int half, bool tf32) {
  const unsigned b0 = b.values[2 * half], b1 = b.values[2 * half + 1];
  if constexpr (sizeof(T) == 2) {
    mma_m16n8k16<T>(c, a.values, b0, b1);
  } else {
    if (!tf32) {
      mma_m16n8k8_tf32(c, a.rests, b0, b1);
      mma_m16n8k8_tf32(c, a.values, b.rests[2 * half], b.rests[2 * half + 1]);
    }
    mma_m16n8k8_tf32(c, a.values, b0, b1);
  }
}

// --- Products of stages ---

// c [16, 8 kTiles] += a b^T for the warp's 16 rows of `a` [64, stage] and b [8 kTiles, stage], of
// which the first `tiles` groups of 8 rows are multiplied, or one more. `thread` is threadIdx.x.
// Lane l has of tile i columns 2 (l % 4) and the next, in c[i][0..1] of row l / 4, in c[i][2..3] of
// row l / 4 + 8.
template <class T, int kTiles>
__device__ __forceinline__ void multiply_stage(float (&c)[kTiles][4], const unsigned char* a,
                                               const unsigned char* b, int tiles, bool tf32,
                                               int thread) {
  const int lane = thread % 32, warp = thread / 32;
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    unsigned bits[4];
    ldmatrix_x4(bits, a + staged(warp * 16 + lane % 16, step * 2 + lane / 16));
    const Fragment<T> rows = fragment<T>(bits, tf32);
#pragma unroll
    for (int tile = 0; tile < kTiles; tile += 2) {
      if (tile >= tiles) break;
      const int row = tile * 8 + lane % 8 + lane / 16 * 8;
      ldmatrix_x4(bits, b + staged(row, step * 2 + lane / 8 % 2));
      const Fragment<T> columns = fragment<T>(bits, tf32);
      multiply<T>(c[tile], rows, columns, 0, tf32);
      multiply<T>(c[tile + 1], rows, columns, 1, tf32);
    }
  }
}

// Starts to copy a stage of matrix rows: `unit` of staged row `row` is the unit at `from`, or 0.
__device__ __forceinline__ void stage_unit(unsigned char* tile, int row, int unit, const void* from,
                                           bool valid) {
  cp_async_16(tile + staged(row, unit), from, valid);
}

}  // namespace proxyless::cuda
