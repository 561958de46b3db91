// Weights in the order in which the matrix products read them.
#pragma once

#include "kernels/cpu/vector/block.h"

namespace proxyless::cpu {

// Columns are cut into panels of I::kBlock vectors; the last one may be narrower. A panel holds its
// rows one after the other, so that panel p starts at p * kColumns * padded_rows(). Rows of
// bfloat16 go in pairs: both values of a column side by side.
template <class I, class Operand>
struct Panels {
  static constexpr int64_t kColumns = I::kBlock * I::kLanes;
  static constexpr int64_t kTogether = sizeof(float) / sizeof(Operand);

  int64_t rows, columns;

  int64_t padded_rows() const { return round_up(rows, kTogether); }
  int64_t vectors() const { return ceil_div(columns, I::kLanes); }
  int64_t panels() const { return ceil_div(columns, kColumns); }
  int64_t size() const { return padded_rows() * vectors() * I::kLanes; }
  int64_t panel_vectors(int64_t panel) const {
    return smaller(I::kBlock, vectors() - panel * I::kBlock);
  }
  const Operand* panel(const Operand* packed, int64_t index) const {
    return packed + index * kColumns * padded_rows();
  }

  // dst[panel][row][column] = element(row, column) for rows below `filled`, and 0 in the padding.
  template <class Element>
  void pack(Operand* dst, int64_t filled, const ParallelFor& parallel,
            const Element& element) const {
    parallel_for(parallel, panels(), [&](int64_t index) {
      const int64_t padded = panel_vectors(index) * I::kLanes;
      const int64_t valid = smaller(padded, columns - index * kColumns);
      Operand* out = dst + index * kColumns * padded_rows();
      for (int64_t row = 0; row < padded_rows(); ++row) {
        Operand* values = out + row / kTogether * kTogether * padded + row % kTogether;
        int64_t column = 0;
        if (row < filled) {
          for (; column < valid; ++column) {
            put(values + column * kTogether, element(row, index * kColumns + column));
          }
        }
        for (; column < padded; ++column) put(values + column * kTogether, 0.0f);
      }
    });
  }

 private:
  static void put(float* to, float value) { *to = value; }
  static void put(BFloat16* to, float value) { write_scalar<I>(to, value); }
};

// The block's weights as float32, and the depthwise ones with their taps as vectors.
template <class I, class T>
struct Weights {
  static constexpr int L = I::kLanes;

  const float *expand, *project;  // as in the arguments
  float* depthwise;               // [planes][kernel][kernel][L]

  void take(const BlockSizes<I>& block, Arena& arena) {
    const MBConvShape& s = block.shape;
    depthwise = arena.template take<float>(block.width * s.kernel * s.kernel);
    if constexpr (sizeof(T) != sizeof(float)) {
      wide_expand_ = arena.template take<float>(s.hidden * block.patch);
      wide_project_ = arena.template take<float>(s.out_channels * s.hidden);
    }
  }

  // As in the arguments; without an expand layer, `expand_weight` is null.
  void fill(const BlockSizes<I>& block, const void* expand_weight, const void* depthwise_weight,
            const void* project_weight) {
    const MBConvShape& s = block.shape;
    expand = widened(expand_weight, s.hidden * block.patch, wide_expand_);
    project = widened(project_weight, s.out_channels * s.hidden, wide_project_);
    const int64_t taps = s.kernel * s.kernel;
    const T* from = static_cast<const T*>(depthwise_weight);
    for (int64_t plane = 0; plane < block.planes; ++plane) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        float* out = depthwise + (plane * taps + tap) * L;
        for (int64_t lane = 0; lane < L; ++lane) {
          const int64_t channel = plane * L + lane;
          out[lane] = channel < s.hidden ? read_scalar<I>(from + channel * taps + tap) : 0.0f;
        }
      }
    }
  }

 private:
  static const float* widened(const void* from, int64_t count, [[maybe_unused]] float* wide) {
    if constexpr (sizeof(T) == sizeof(float)) {
      return static_cast<const float*>(from);
    } else {
      copy_values<I>(static_cast<const T*>(from), count, wide);
      return wide;
    }
  }

  float* wide_expand_ = nullptr;
  float* wide_project_ = nullptr;
};

}  // namespace proxyless::cpu
