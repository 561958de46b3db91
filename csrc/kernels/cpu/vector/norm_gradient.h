// Backward of one of a block's BatchNorms, once its sums are there.
#pragma once

#include "kernels/cpu/vector/block.h"
#include "kernels/cpu/vector/norms.h"

namespace proxyless::cpu {

// sum(grad) and sum(grad (x - mean)) of a vector of channels.
template <class I>
struct GradientSums {
  double sum[I::kLanes], product[I::kLanes];

  void start() {
    for (int lane = 0; lane < I::kLanes; ++lane) sum[lane] = product[lane] = 0.0;
  }
};

// dx = slope * grad + square * (x - mean) + constant, of which given statistics leave slope * grad.
template <class I>
class NormGradient {
 public:
  // args: of a kernel's backward; offset: of its first channel in the vectors; pixels: values of a
  // channel.
  template <class Args>
  NormGradient(const Args& args, int64_t offset, int64_t channels, int64_t pixels)
      : scale_(static_cast<const float*>(args.input.scale)),
        given_mean_(static_cast<const float*>(args.mean)),
        var_(static_cast<const float*>(args.var)),
        dscale_(static_cast<float*>(args.dscale)),
        dshift_(static_cast<float*>(args.dshift)),
        eps_(args.input.eps),
        batch_statistics_(args.input.batch_statistics),
        offset_(offset),
        channels_(channels),
        pixels_(static_cast<double>(pixels)) {}

  void take(Arena& arena) {
    for (float** vector : {&slope_, &square_, &constant_, &mean_}) {
      *vector = arena.template take<float>(round_up(channels_, I::kLanes));
    }
  }

  // Before all else: means, and zeros for the padding.
  void prepare() {
    for (int64_t c = 0; c < round_up(channels_, I::kLanes); ++c) {
      slope_[c] = square_[c] = constant_[c] = 0.0f;
      mean_[c] = c < channels_ ? given_mean_[offset_ + c] : 0.0f;
    }
  }

  // From sum(grad) and sum(grad (x - mean)) of channel c; they are also results.
  void set(int64_t c, double sum, double product) {
    const double inv_std = 1.0 / square_root(static_cast<double>(var_[offset_ + c]) + eps_);
    if (dscale_ != nullptr) {
      dscale_[offset_ + c] = static_cast<float>(product * inv_std);
      dshift_[offset_ + c] = static_cast<float>(sum);
    }
    const double slope = static_cast<double>(scale_[offset_ + c]) * inv_std;
    slope_[c] = static_cast<float>(slope);
    square_[c] = static_cast<float>(-slope * inv_std * inv_std * product / pixels_);
    constant_[c] = static_cast<float>(-slope * sum / pixels_);
  }

  // [channels], padded to whole vectors
  const float* slope() const { return slope_; }
  const float* square() const { return square_; }
  const float* constant() const { return constant_; }
  const float* mean() const { return mean_; }

  // For one vector of channels.
  struct Lanes {
    typename I::Vector slope, square, constant, mean;
    bool batch_statistics;

    PROXYLESS_INLINE typename I::Vector operator()(typename I::Vector grad,
                                                   typename I::Vector x) const {
      // Not by factors of 0, which would let NaN of x through.
      auto rest = I::zero();
      if (batch_statistics) rest = I::fma(square, I::sub(x, mean), constant);
      return I::fma(slope, grad, rest);
    }
  };

  // For channels [first, first + kLanes).
  PROXYLESS_INLINE Lanes lanes(int64_t first) const {
    return {I::load(slope_ + first), I::load(square_ + first), I::load(constant_ + first),
            I::load(mean_ + first), batch_statistics_};
  }
  PROXYLESS_INLINE typename I::Vector operator()(typename I::Vector grad, typename I::Vector x,
                                                 int64_t first) const {
    return lanes(first)(grad, x);
  }

 private:
  const float *scale_, *given_mean_, *var_;  // of all BatchNorms, like the next two
  float *dscale_, *dshift_;
  double eps_;
  bool batch_statistics_;
  int64_t offset_, channels_;
  double pixels_;
  float *slope_, *square_, *constant_, *mean_;
};

}  // namespace proxyless::cpu
