// The BatchNorms of a block: their statistics in float64, and the affine functions they amount to.
#pragma once

#include "kernels/cpu/vector/block.h"
#include "kernels/cpu/vector/sums.h"

namespace proxyless::cpu {

inline double square_root(double value) { return __builtin_sqrt(value); }

// z = slope * x + offset for channels [first, last). Padding lanes get 0, so that padded channels
// are 0 throughout.
template <class I, class Statistic>
void fold_norm(const float* scale, const float* shift, const Statistic* mean, const Statistic* var,
               double eps, int64_t first, int64_t last, float* slope, float* offset) {
  for (int64_t c = first; c < last; ++c) {
    const double factor =
        static_cast<double>(scale[c]) / square_root(static_cast<double>(var[c]) + eps);
    slope[c] = static_cast<float>(factor);
    offset[c] =
        static_cast<float>(static_cast<double>(shift[c]) - static_cast<double>(mean[c]) * factor);
  }
  for (int64_t c = last; c < round_up(last, I::kLanes); ++c) slope[c] = offset[c] = 0.0f;
}

template <class I>
class Norms {
  static constexpr int L = I::kLanes;

 public:
  explicit Norms(const MBConvShape& shape) : shape_(shape), width_(round_up(shape.hidden, L)) {}

  void take(Arena& arena) {
    mean_ = arena.template take<double>(shape_.norm_channels());
    var_ = arena.template take<double>(shape_.norm_channels());
    slope_ = arena.template take<float>(2 * width_ + round_up(shape_.out_channels, L));
    offset_ = arena.template take<float>(2 * width_ + round_up(shape_.out_channels, L));
  }

  // [width], or [out_channels] padded to whole vectors: z = slope * x + offset.
  const float* expand_slope() const { return slope_; }
  const float* expand_offset() const { return offset_; }
  const float* depthwise_slope() const { return slope_ + width_; }
  const float* depthwise_offset() const { return offset_ + width_; }
  const float* project_slope() const { return slope_ + 2 * width_; }
  const float* project_offset() const { return offset_ + 2 * width_; }

  NormVectors<double> mean() const { return {mean_, shape_}; }
  NormVectors<double> var() const { return {var_, shape_}; }

  // Given statistics [S]; null where the batch's are to be computed.
  void load(const float* mean, const float* var) {
    for (int64_t c = 0; mean != nullptr && c < shape_.norm_channels(); ++c) {
      mean_[c] = static_cast<double>(mean[c]);
      var_[c] = static_cast<double>(var[c]);
    }
  }

  void save(float* mean, float* var) const {
    for (int64_t c = 0; c < shape_.norm_channels(); ++c) {
      mean[c] = static_cast<float>(mean_[c]);
      var[c] = static_cast<float>(var_[c]);
    }
  }

  // From the mean and covariance of X: mean = w mean(X), var = w^T cov(X) w.
  //   weights: [hidden, K], moments: [1 + K, K], K = patch()
  void expand_statistics(const float* weights, const double* moments, const ParallelFor& parallel) {
    const int64_t K = shape_.patch();
    parallel_for(parallel, ceil_div(shape_.hidden, kGroup), [&](int64_t group) {
      const int64_t first = group * kGroup;
      with_count<kGroup>(smaller(kGroup, shape_.hidden - first), [&](auto known) {
        quadratic_forms<decltype(known)::value>(weights + first * K, moments, first);
      });
    });
  }

  // From the sums of the slices [slices, stride] over planes [first, first + planes).
  void depthwise_statistics(const PivotSums<I>* sums, int64_t slices, int64_t first, int64_t planes,
                            int64_t stride) {
    const int64_t last = smaller(shape_.hidden, (first + planes) * L);
    for (int64_t c = first * L; c < last; ++c) {
      merge_parts(sums + c / L - first, slices, stride, static_cast<int>(c % L),
                  mean().depthwise + c, var().depthwise + c);
    }
  }

  // From the sums of tasks [tasks, vectors] over the outputs.
  void project_statistics(const PivotSums<I>* sums, int64_t tasks) {
    const int64_t vectors = ceil_div(shape_.out_channels, L);
    for (int64_t c = 0; c < shape_.out_channels; ++c) {
      merge_parts(sums + c / L, tasks, vectors, static_cast<int>(c % L), mean().project + c,
                  var().project + c);
    }
  }

  // The affine functions, once the statistics are there.
  void finish_expand(const MBConvInput& args) {
    finish(args, &NormVectors<const float>::expand, &NormVectors<double>::expand, 0, shape_.hidden,
           0);
  }
  void finish_depthwise(const MBConvInput& args, int64_t first, int64_t planes) {
    finish(args, &NormVectors<const float>::depthwise, &NormVectors<double>::depthwise, first * L,
           smaller(shape_.hidden, (first + planes) * L), width_);
  }
  void finish_project(const MBConvInput& args) {
    finish(args, &NormVectors<const float>::project, &NormVectors<double>::project, 0,
           shape_.out_channels, 2 * width_);
  }

 private:
  // Channels [first, last) of one of the BatchNorms, whose affine functions begin at `at`.
  void finish(const MBConvInput& args, const float* NormVectors<const float>::* given,
              double* NormVectors<double>::* statistics, int64_t first, int64_t last, int64_t at) {
    const auto of = [&](const void* vectors) {
      return NormVectors(static_cast<const float*>(vectors), shape_).*given;
    };
    fold_norm<I>(of(args.scale), of(args.shift), mean().*statistics, var().*statistics, args.eps,
                 first, last, slope_ + at, offset_ + at);
  }

  static constexpr int kGroup = 4;    // channels at a time
  static constexpr int kColumns = 2;  // vectors of columns of cov(X) at a time

  // For channels [first, first + N): rows of cov(X) stay in the cache for all of them.
  template <int N>
  void quadratic_forms(const float* weights, const double* moments, int64_t first) {
    constexpr int D = I::kDoubles;
    const int64_t K = shape_.patch();
    const double* covariance = moments + K;
    double mean[N] = {}, var[N] = {};
    for (int64_t k = 0; k < K; ++k) {
      for (int n = 0; n < N; ++n) mean[n] += static_cast<double>(weights[n * K + k]) * moments[k];
    }
    int64_t column = 0;
    for (; column + kColumns * D <= K; column += kColumns * D) {
      typename I::Doubles acc[N][kColumns];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
#pragma GCC unroll 4
        for (int v = 0; v < kColumns; ++v) acc[n][v] = I::zero_doubles();
      }
      for (int64_t k = 0; k < K; ++k) {
        typename I::Doubles row[kColumns];
#pragma GCC unroll 4
        for (int v = 0; v < kColumns; ++v) row[v] = I::load(covariance + k * K + column + v * D);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
          const auto weight = I::set1(static_cast<double>(weights[n * K + k]));
#pragma GCC unroll 4
          for (int v = 0; v < kColumns; ++v) acc[n][v] = I::fma(weight, row[v], acc[n][v]);
        }
      }
      for (int n = 0; n < N; ++n) {
        double lanes[kColumns * D];
        for (int v = 0; v < kColumns; ++v) I::store(lanes + v * D, acc[n][v]);
        for (int d = 0; d < kColumns * D; ++d) {
          var[n] += lanes[d] * static_cast<double>(weights[n * K + column + d]);
        }
      }
    }
    for (; column < K; ++column) {
      for (int n = 0; n < N; ++n) {
        double sum = 0.0;
        for (int64_t k = 0; k < K; ++k) {
          sum += static_cast<double>(weights[n * K + k]) * covariance[k * K + column];
        }
        var[n] += sum * static_cast<double>(weights[n * K + column]);
      }
    }
    for (int n = 0; n < N; ++n) {
      this->mean().expand[first + n] = mean[n];
      this->var().expand[first + n] = var[n] < 0.0 ? 0.0 : var[n];
    }
  }

  const MBConvShape& shape_;
  int64_t width_;
  double *mean_, *var_;     // [S]
  float *slope_, *offset_;  // expand [width], depthwise [width], project
};

}  // namespace proxyless::cpu
