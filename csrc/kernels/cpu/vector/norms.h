// The BatchNorms of a block: their statistics in float64, and the affine functions they amount to.
#pragma once

#include "kernels/cpu/vector/block.h"
#include "kernels/cpu/vector/sums.h"

namespace proxyless::cpu {

inline double square_root(double value) { return __builtin_sqrt(value); }

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
      merge(sums + c / L - first, slices, stride, static_cast<int>(c % L), mean().depthwise + c,
            var().depthwise + c);
    }
  }

  // From the sums of tasks [tasks, vectors] over the outputs.
  void project_statistics(const PivotSums<I>* sums, int64_t tasks) {
    const int64_t vectors = ceil_div(shape_.out_channels, L);
    for (int64_t c = 0; c < shape_.out_channels; ++c) {
      merge(sums + c / L, tasks, vectors, static_cast<int>(c % L), mean().project + c,
            var().project + c);
    }
  }

  // The affine functions, once the statistics are there.
  void finish_expand(const MBConvInput& args) {
    finish(args, NormVectors(static_cast<const float*>(args.scale), shape_).expand,
           NormVectors(static_cast<const float*>(args.shift), shape_).expand, mean().expand,
           var().expand, 0, shape_.hidden, slope_, offset_);
  }
  void finish_depthwise(const MBConvInput& args, int64_t first, int64_t planes) {
    finish(args, NormVectors(static_cast<const float*>(args.scale), shape_).depthwise,
           NormVectors(static_cast<const float*>(args.shift), shape_).depthwise, mean().depthwise,
           var().depthwise, first * L, smaller(shape_.hidden, (first + planes) * L),
           slope_ + width_, offset_ + width_);
  }
  void finish_project(const MBConvInput& args) {
    finish(args, NormVectors(static_cast<const float*>(args.scale), shape_).project,
           NormVectors(static_cast<const float*>(args.shift), shape_).project, mean().project,
           var().project, 0, shape_.out_channels, slope_ + 2 * width_, offset_ + 2 * width_);
  }

 private:
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

  static void merge(const PivotSums<I>* sums, int64_t parts, int64_t stride, int lane, double* mean,
                    double* var) {
    Spread all = sums->spread(lane);
    for (int64_t part = 1; part < parts; ++part) all.merge(sums[part * stride].spread(lane));
    *mean = all.mean;
    const double biased = all.deviations / static_cast<double>(all.count);
    *var = biased < 0.0 ? 0.0 : biased;
  }

  // Padding lanes get 0, so that padded channels are 0 throughout.
  void finish(const MBConvInput& args, const float* scale, const float* shift, const double* mean,
              const double* var, int64_t first, int64_t last, float* slope, float* offset) {
    for (int64_t c = first; c < last; ++c) {
      const double factor = static_cast<double>(scale[c]) / square_root(var[c] + args.eps);
      slope[c] = static_cast<float>(factor);
      offset[c] = static_cast<float>(static_cast<double>(shift[c]) - mean[c] * factor);
    }
    for (int64_t c = last; c < round_up(last, L); ++c) slope[c] = offset[c] = 0.0f;
  }

  const MBConvShape& shape_;
  int64_t width_;
  double *mean_, *var_;     // [S]
  float *slope_, *offset_;  // expand [width], depthwise [width], project
};

}  // namespace proxyless::cpu
