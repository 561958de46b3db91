// Backward of a BatchNorm, once its sums are there.
#pragma once

#include "kernels/cpu/vector/block.h"

namespace proxyless::cpu {

// BatchNorm's backward as an affine function: dx = slope * grad + square * (x - mean) + constant,
// of which given statistics leave slope * grad.
template <class I>
struct NormGradient {
  float *slope, *square, *constant, *mean;  // [padded channels]
  bool batch;                               // statistics of the batch

  void take(int64_t channels, bool batch_statistics, Arena& arena) {
    batch = batch_statistics;
    const int64_t padded = round_up(channels, I::kLanes);
    for (float** vector : {&slope, &square, &constant, &mean}) {
      *vector = arena.template take<float>(padded);
    }
  }

  // For channel `index`, from sum(grad) and sum(grad (x - mean)) over `pixels` pixels.
  void fill(int64_t index, double scale, double mean_, double inv_std, double sum, double product,
            double pixels) {
    slope[index] = static_cast<float>(scale * inv_std);
    square[index] = static_cast<float>(-scale * inv_std * inv_std * inv_std * product / pixels);
    constant[index] = static_cast<float>(-scale * inv_std * sum / pixels);
    mean[index] = static_cast<float>(mean_);
  }
  void fill_padding(int64_t from) {
    for (int64_t i = from; i < round_up(from, I::kLanes); ++i) {
      slope[i] = square[i] = constant[i] = mean[i] = 0.0f;
    }
  }

  // For channels [index, index + kLanes).
  PROXYLESS_INLINE typename I::Vector operator()(typename I::Vector grad, typename I::Vector x,
                                                 int64_t index) const {
    // Not by factors of 0, which would let NaN of x through.
    auto rest = I::zero();
    if (batch) {
      rest = I::fma(I::load(square + index), I::sub(x, I::load(mean + index)),
                    I::load(constant + index));
    }
    return I::fma(I::load(slope + index), grad, rest);
  }
};

}  // namespace proxyless::cpu
