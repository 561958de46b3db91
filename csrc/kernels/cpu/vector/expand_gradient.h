// dW1 and the expand layer's BatchNorm, from what the passes over a chunk summed up:
//   Q = X^T dZ1 and sum(dZ1)
//   dW1 = slope Q^T + m b W1 cov(X) + m c mean(X)  with m pixels
//   sum(dZ1 (E - mean)) = W1 (Q - mean(X) sum(dZ1))
#pragma once

#include "kernels/cpu/vector/norm_gradient.h"
#include "kernels/cpu/vector/rows.h"

namespace proxyless::cpu {

template <class I, class T>
class ExpandGradient {
  static constexpr int L = I::kLanes;

 public:
  ExpandGradient(const MBConvBackward& args, const BlockSizes<I>& block)
      : args_(args),
        block_(block),
        norm_(args, 0, block.shape.hidden, block.mid_pixels),
        panels_{block.patch, block.patch} {}

  void take(int64_t chunk, Arena& arena) {
    width_ = chunk * L;
    norm_.take(arena);
    q_ = arena.template take<float>(block_.slices() * block_.patch * width_);
    sums_ = arena.template take<double>(block_.slices() * width_);
    covariance_ = arena.template take<float>(panels_.size());
  }

  void prepare() {
    norm_.prepare();
    if (!batch()) return;
    panels_.pack(covariance_, block_.patch, args_.parallel, [&](int64_t i, int64_t j) {
      return static_cast<float>(args_.moments[(1 + i) * block_.patch + j]);
    });
  }

  const NormGradient<I>& norm() const { return norm_; }
  // Of a slice, from a plane of the chunk on: [patch, row of width()], [width()].
  float* q(int64_t slice, int64_t plane) const {
    return q_ + slice * block_.patch * width_ + plane * L;
  }
  double* sums(int64_t slice, int64_t plane) const { return sums_ + slice * width_ + plane * L; }
  int64_t width() const { return width_; }

  // Results of channels [begin, end), those of the chunk.
  //   weights: W1 [hidden, patch]
  void reduce(const float* weights, int64_t begin, int64_t end) {
    const int64_t K = block_.patch, padded = round_up(end - begin, L);
    parallel_for(args_.parallel, K, [&](int64_t k) {
      sum_slices<I>(q_ + k * width_, K * width_, block_.slices(), padded);
    });
    parallel_for(args_.parallel, ceil_div(end - begin, I::kRows), [&](int64_t group) {
      const int64_t from = begin + group * I::kRows, to = smaller(end, from + I::kRows);
      for (int64_t c = from; c < to; ++c) set_norm(weights + c * K, c, c - begin);
      if (args_.dexpand != nullptr) store_gradient(weights, from, to, begin);
    });
  }

 private:
  bool batch() const { return args_.input.batch_statistics; }

  // Channel c, the chunk's `column`.
  void set_norm(const float* weight, int64_t c, int64_t column) {
    double sum = 0.0, product = 0.0;
    for (int64_t slice = 0; slice < block_.slices(); ++slice) sum += sums_[slice * width_ + column];
    for (int64_t k = 0; k < block_.patch; ++k) {
      const double q = static_cast<double>(q_[k * width_ + column]);
      const double mean = batch() ? args_.moments[k] : 0.0;
      product += static_cast<double>(weight[k]) * (q - mean * sum);
    }
    if (!batch()) product -= static_cast<double>(norm_.mean()[c]) * sum;
    norm_.set(c, sum, product);
  }

  // dW1 of channels [from, to), at most I::kRows.
  void store_gradient(const float* weights, int64_t from, int64_t to, int64_t begin) const {
    const int64_t K = block_.patch;
    const float m = static_cast<float>(block_.mid_pixels);
    for (int64_t panel = 0; panel < panels_.panels(); ++panel) {
      const int64_t column = panel * Panels<I, float>::kColumns;
      const int64_t columns = smaller(Panels<I, float>::kColumns, K - column);
      float values[I::kRows][Panels<I, float>::kColumns] = {};  // W1 cov(X)
      if (batch()) {
        with_count<I::kBlock>(panels_.panel_vectors(panel), [&](auto known) {
          multiply_rows<I, decltype(known)::value>(weights + from * K, K, to - from,
                                                   panels_.panel(covariance_, panel), K, values[0],
                                                   L, Panels<I, float>::kColumns);
        });
      }
      for (int64_t c = from; c < to; ++c) {
        float* row = values[c - from];
        for (int64_t j = 0; j < columns; ++j) {
          const float q = norm_.slope()[c] * q_[(column + j) * width_ + c - begin];
          if (batch()) {
            const float mean = static_cast<float>(args_.moments[column + j]);
            row[j] = q + m * (norm_.square()[c] * row[j] + norm_.constant()[c] * mean);
          } else {
            row[j] = q;
          }
        }
        copy_values<I>(row, columns, static_cast<T*>(args_.dexpand) + c * K + column);
      }
    }
  }

  const MBConvBackward& args_;
  const BlockSizes<I>& block_;
  NormGradient<I> norm_;
  Panels<I, float> panels_;  // [patch, patch]
  int64_t width_;            // channels of a chunk
  float* q_;                 // [slices, patch, width_]
  double* sums_;             // [slices, width_]
  float* covariance_;        // packed cov(X)
};

}  // namespace proxyless::cpu
