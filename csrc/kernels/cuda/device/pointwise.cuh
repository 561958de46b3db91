// Products of every pixel's channels with a matrix: out [M, columns] = rows [M, depth] weight^T.
//
// What happens to the rows on the way in and to the products on the way out is an operation's
// affair: Project, ProjectBackward and ExpandBackward.
#pragma once

#include "kernels/cuda/device/products.cuh"
#include "kernels/cuda/device/sums.cuh"
#include "kernels/relu6.h"

namespace proxyless::cuda {

constexpr int kTileColumns = 64;
constexpr int kTilePitch = kTileColumns + 4;  // floats; another one would put columns into one bank

template <class T>
struct Factor {
  Rows<T> rows;    // [M, depth]
  Rows<T> weight;  // [columns, depth]
  int depth;       // a multiple of a unit, or 0
};

// The products of one block, 64 pixels by 64 columns, on their way out.
struct ProductTile {
  float* values;  // [64, kTilePitch], shared memory
  int64_t first_pixel;
  int first_column;
  int pixels;  // of the tile that are there

  __device__ float* at(int row, int column) const { return values + row * kTilePitch + column; }
};

// Partial sums that pass from one chunk of channels to the next, as float32.
struct Running {
  float* data;       // [M, pitch]
  int64_t pitch;     // a multiple of 8
  bool first, last;  // of the chunks: nothing is there yet, nothing need be kept

  // Adds what is there to a unit, or keeps the sum.
  template <int kValues>
  __device__ void add(float (&values)[kValues], int64_t pixel, int column) const {
    if (column >= pitch) return;
    float* sums = data + pixel * pitch + column;
    if (!first) {
      float before[kValues];
      load_floats(before, sums);
#pragma unroll
      for (int i = 0; i < kValues; ++i) values[i] += before[i];
    }
    if (!last) store_floats(sums, values);
  }
};

// Calls body(row, column, values) for the units of a tile that a thread owns.
template <class T, class Body>
__device__ __forceinline__ void for_each_unit(const ProductTile& tile, const Body& body) {
  constexpr int kUnits = kTileColumns / kUnit<T>;
  const int column = threadIdx.x % kUnits * kUnit<T>;
  for (int row = threadIdx.x / kUnits; row < tile.pixels; row += kThreads / kUnits) {
    float values[kUnit<T>];
    load_floats(values, tile.at(row, column));
    body(row, column, values);
  }
}

// P = relu6(bn(D)) W2^T, with the statistics of P, and the sums of a gate probe.
template <class T>
struct Project {
  static constexpr bool kActivates = true;
  const float *slope, *offset;  // [depth], the folded BatchNorm of D
  Running running;
  DenseRows<T> p;         // [M, O], out; of null data if P is not wanted
  Statistics statistics;  // [blocks, 3, pitch], out; of null data if they are not wanted
  Rows<T> grad;           // [M, O], dL/dy for a probe; or of null data
  float* probe;  // [blocks, 2, pitch], out: sums of grad, and of grad (P - the block's mean)

  __device__ void finish(const ProductTile& tile) const {
    for_each_unit<T>(tile, [&](int row, int column, float (&values)[kUnit<T>]) {
      const int64_t pixel = tile.first_pixel + row;
      running.add(values, pixel, tile.first_column + column);
      if (!running.first) store_floats(tile.at(row, column), values);
      if (running.last && p.data != nullptr)
        p.store_unit(pixel, tile.first_column + column, values);
    });
    if (!running.last || (statistics.data == nullptr && probe == nullptr)) return;
    __syncthreads();
    sum_columns(tile);
  }

 private:
  // Each thread has half of a column.
  __device__ void sum_columns(const ProductTile& tile) const {
    const int column = threadIdx.x % kTileColumns, half = threadIdx.x / kTileColumns;
    const int begin = half * kTilePixels / 2, end = min(begin + kTilePixels / 2, tile.pixels);
    const int64_t block = tile.first_pixel / kTilePixels;
    const float count = static_cast<float>(tile.pixels);
    const int to = tile.first_column + column;

    float sum = 0;
    for (int row = begin; row < end; ++row) sum += *tile.at(row, column);
    const float mean = sum_of_halves(sum) / count;
    float squares = 0;
    for (int row = begin; row < end; ++row) {
      const float difference = *tile.at(row, column) - mean;
      squares = fmaf(difference, difference, squares);
    }
    squares = sum_of_halves(squares);
    const bool writes = half == 0 && to < statistics.pitch;
    if (writes && statistics.data != nullptr) {
      statistics.of(block, 0)[to] = count;
      statistics.of(block, 1)[to] = mean;
      statistics.of(block, 2)[to] = squares;
    }
    if (probe == nullptr) return;
    float grads = 0, products = 0;
    for (int row = begin; row < end && to < p.channels; ++row) {
      const float value = to_float(grad.row(tile.first_pixel + row)[to]);
      grads += value;
      products = fmaf(value, *tile.at(row, column) - mean, products);
    }
    grads = sum_of_halves(grads);
    products = sum_of_halves(products);
    if (writes) {
      probe[(block * 2) * statistics.pitch + to] = grads;
      probe[(block * 2 + 1) * statistics.pitch + to] = products;
    }
  }

  // Of the two threads that share a column; both get it.
  __device__ static float sum_of_halves(float value) {
    __shared__ float halves[2][kTileColumns];
    const int column = threadIdx.x % kTileColumns;
    halves[threadIdx.x / kTileColumns][column] = value;
    __syncthreads();
    const float sum = halves[0][column] + halves[1][column];
    __syncthreads();
    return sum;
  }
};

// dZ2 = (dP W2) where ReLU6 let D through, with the sums that BatchNorm's gradient needs.
template <class T>
struct ProjectBackward {
  static constexpr bool kActivates = false;
  Rows<T> d;                                     // [M, columns]
  const float *slope, *offset, *mean, *inv_std;  // [columns], the BatchNorm of D
  T* dz;                                         // [M, pitch], out
  int64_t pitch;                                 // a multiple of a group
  float* sums;                                   // [blocks, 2, pitch], out: of dz, and of dz h

  __device__ void finish(const ProductTile& tile) const {
    constexpr int kUnits = kTileColumns / kUnit<T>;
    __shared__ float scratch[kSumFloats<kUnits, kUnit<T>>];
    const int c = tile.first_column + static_cast<int>(threadIdx.x) % kUnits * kUnit<T>;
    const bool valid = c < pitch;
    float slopes[kUnit<T>] = {}, offsets[kUnit<T>] = {}, grads[kUnit<T>] = {},
          products[kUnit<T>] = {};
    if (valid) {
      load_floats(slopes, slope + c);
      load_floats(offsets, offset + c);
      for_each_unit<T>(tile, [&](int row, int column, float (&values)[kUnit<T>]) {
        const int64_t pixel = tile.first_pixel + row;
        float stored[kUnit<T>];
        load<T>(stored, d.row(pixel) + tile.first_column + column);
#pragma unroll
        for (int i = 0; i < kUnit<T>; ++i) {
          values[i] = relu6_backward(fmaf(stored[i], slopes[i], offsets[i]), values[i]);
          grads[i] += values[i];
          products[i] = fmaf(values[i], (stored[i] - mean[c + i]) * inv_std[c + i], products[i]);
        }
        store<T>(dz + pixel * pitch + c, values);
      });
    }
    sum_over_threads<kUnits>(grads, scratch);
    sum_over_threads<kUnits>(products, scratch);
    if (!valid || threadIdx.x >= kUnits) return;
    const int64_t block = tile.first_pixel / kTilePixels;
    store_floats(sums + block * 2 * pitch + c, grads);
    store_floats(sums + (block * 2 + 1) * pitch + c, products);
  }
};

// dX = dZ1 (slope W1) + X B + constant, and what a shortcut adds.
template <class T>
struct ExpandBackward {
  static constexpr bool kActivates = false;
  Running running;
  DenseRows<T> dx;        // [M, C], out
  const float* constant;  // [C], or null
  Rows<T> grad;           // [M, C] to be added, or of null data

  __device__ void finish(const ProductTile& tile) const {
    for_each_unit<T>(tile, [&](int row, int column, float (&values)[kUnit<T>]) {
      const int64_t pixel = tile.first_pixel + row;
      const int c = tile.first_column + column;
      running.add(values, pixel, c);
      if (!running.last || c >= dx.channels) return;
      if (constant != nullptr) {
        float constants[kUnit<T>];
        load_floats(constants, constant + c);
#pragma unroll
        for (int i = 0; i < kUnit<T>; ++i) values[i] += constants[i];
      }
      if (grad.data != nullptr) {
        float shortcut[kUnit<T>];
        load<T>(shortcut, grad.row(pixel) + c);
#pragma unroll
        for (int i = 0; i < kUnit<T>; ++i) values[i] += shortcut[i];
      }
      dx.store_unit(pixel, c, values);
    });
  }
};

// What a product takes: the second factor, if it has any depth, adds to the first.
template <class T>
struct PointwiseProduct {
  Factor<T> first, second;
  int64_t pixels;  // M
  int columns;
  bool tf32;
};

// Turns the staged units that this thread copied into relu6(bn) of them.
template <class T, class Operation>
__device__ __forceinline__ void activate_stage(unsigned char* rows, int pixels, int k, int depth,
                                               const Operation& operation) {
  const int unit = threadIdx.x % kStageUnits;
  const int channel = k + unit * kUnit<T>;
  if (channel >= depth) return;
  float slope[kUnit<T>], offset[kUnit<T>];
  load_floats(slope, operation.slope + channel);
  load_floats(offset, operation.offset + channel);
  for (int row = threadIdx.x / kStageUnits; row < pixels; row += kThreads / kStageUnits) {
    float values[kUnit<T>];
    load<T>(values, rows + staged(row, unit));
#pragma unroll
    for (int i = 0; i < kUnit<T>; ++i) values[i] = relu6(fmaf(values[i], slope[i], offset[i]));
    store<T>(rows + staged(row, unit), values);
  }
}

// Grid: groups of 64 pixels, of 64 columns.
template <class T, class Operation>
__global__ void __launch_bounds__(kThreads, kBlocks)
    pointwise(PointwiseProduct<T> product, Operation operation) {
  constexpr int kRowsBytes = kTilePixels * kStageBytes;
  constexpr int kBufferBytes = kRowsBytes + kTileColumns * kStageBytes;
  constexpr int kTileBytes = kTilePixels * kTilePitch * 4;
  // First two stages of both factors, then the products.
  __shared__ __align__(
      128) unsigned char memory[2 * kBufferBytes > kTileBytes ? 2 * kBufferBytes : kTileBytes];

  const int thread = threadIdx.x;
  const BlockPlace place = block_place();
  const int64_t first_pixel = static_cast<int64_t>(place.pixels) * kTilePixels;
  const int first_column = place.channels * kTileColumns;
  const int pixels =
      static_cast<int>(min(product.pixels - first_pixel, static_cast<int64_t>(kTilePixels)));
  const int columns = min(product.columns - first_column, kTileColumns);
  const int first_stages = (product.first.depth + kStage<T> - 1) / kStage<T>;
  const int stages = first_stages + (product.second.depth + kStage<T> - 1) / kStage<T>;

  const auto stage = [&](int step) {
    const bool is_first = step < first_stages;
    // Chosen one by one: a reference to either would put both into local memory.
    const Rows<T> factor = {is_first ? product.first.rows.data : product.second.rows.data,
                            is_first ? product.first.rows.pitch : product.second.rows.pitch};
    const Rows<T> weight = {is_first ? product.first.weight.data : product.second.weight.data,
                            is_first ? product.first.weight.pitch : product.second.weight.pitch};
    const int depth = is_first ? product.first.depth : product.second.depth;
    unsigned char* rows = memory + step % 2 * kBufferBytes;
    const int unit = thread % kStageUnits;
    const int k = (is_first ? step : step - first_stages) * kStage<T> + unit * kUnit<T>;
    for (int row = thread / kStageUnits; row < kTilePixels; row += kThreads / kStageUnits) {
      const bool valid = row < pixels && k < depth;
      const T* from = factor.row(first_pixel + row) + k;
      stage_unit(rows, row, unit, valid ? from : factor.data, valid);
    }
    for (int row = thread / kStageUnits; row < kTileColumns; row += kThreads / kStageUnits) {
      const bool valid = row < columns && k < depth;
      const T* from = weight.row(first_column + row) + k;
      stage_unit(rows + kRowsBytes, row, unit, valid ? from : weight.data, valid);
    }
    cp_async_commit();
  };

  float sums[kTileColumns / 8][4] = {};
  stage(0);
  for (int step = 0; step < stages; ++step) {
    if (step + 1 < stages) {
      stage(step + 1);
      cp_async_wait<1>();
    } else {
      cp_async_wait<0>();
    }
    unsigned char* rows = memory + step % 2 * kBufferBytes;
    if constexpr (Operation::kActivates) {
      activate_stage<T>(rows, pixels, step * kStage<T>, product.first.depth, operation);
    }
    __syncthreads();
    multiply_stage<T>(sums, rows, rows + kRowsBytes, (columns + 7) / 8, product.tf32, thread);
    __syncthreads();
  }

  const ProductTile tile{reinterpret_cast<float*>(memory), first_pixel, first_column, pixels};
  const int lane = thread % 32, warp = thread / 32;
#pragma unroll
  for (int i = 0; i < kTileColumns / 8; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* to = tile.at(warp * 16 + lane / 4 + half * 8, i * 8 + lane % 4 * 2);
      *reinterpret_cast<float2*>(to) = make_float2(sums[i][half * 2], sums[i][half * 2 + 1]);
    }
  }
  __syncthreads();
  operation.finish(tile);
}

}  // namespace proxyless::cuda
