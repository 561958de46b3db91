// Backward of the depthwise convolution: to its input, a row at a time, and to its taps.
#pragma once

#include "kernels/cpu/vector/rows.h"

namespace proxyless::cpu {

template <class I>
class DepthwiseGradient {
  static constexpr int L = I::kLanes;

 public:
  explicit DepthwiseGradient(const BlockSizes<I>& block)
      : block_(block),
        tap_step_(block.shape.dilation % 2 == 0 ? 1 : block.shape.stride),
        column_step_(block.shape.dilation * tap_step_ / block.shape.stride) {}

  void take(Arena& arena) {
    const int64_t kernel = block_.shape.kernel;
    flipped_ = arena.template take<float>(block_.width * kernel * kernel);
  }

  // depthwise: [planes, kernel, kernel, L]
  //
  // The taps of each phase of the input's columns, in the order in which the gradient's columns
  // meet them: phase q has the taps kx = first(q), first(q) + tap_step_, ..., the last one first.
  void fill(const float* depthwise) {
    const int64_t kernel = block_.shape.kernel, stride = block_.shape.stride;
    for (int64_t row = 0; row < block_.planes * kernel; ++row) {
      float* out = flipped_ + row * kernel * L;
      for (int64_t phase = 0; phase < stride; ++phase) {
        const int64_t first = first_tap(phase);
        for (int64_t i = phase_taps(phase) - 1; i >= 0; --i, out += L) {
          const float* tap = depthwise + (row * kernel + first + i * tap_step_) * L;
          I::store(out, I::load(tap));
        }
      }
    }
  }

  // dA1 = dw^T(dD) of row `y`
  void transposed_row(const Band<I>& grads, int64_t v, int64_t plane, int64_t y, float* out) const {
    const int64_t kernel = block_.shape.kernel, stride = block_.shape.stride;
    const float* flipped = flipped_ + plane * kernel * kernel * L;
    for (int64_t phase = 0; phase < smaller(stride, block_.mid_w); ++phase) {
      const int64_t taps = phase_taps(phase);
      const int64_t last = phase + block_.pad - first_tap(phase) * block_.shape.dilation;
      const int64_t base = last / stride - (taps - 1) * column_step_;
      const float* rows[kMaxKernel];
      const float* weights[kMaxKernel];
      int64_t count = 0, row;
      for (int64_t ky = 0; taps > 0 && ky < kernel; ++ky) {
        if (!joined(y, ky, row)) continue;
        rows[count] = grads.row(row) + v * grads.plane_stride() + base * L;
        weights[count++] = flipped + ky * kernel * L;
      }
      convolve<I>(rows, weights, count, taps, 1, column_step_, out + phase * L, stride,
                  ceil_div(block_.mid_w - phase, stride));
      flipped += taps * L;
    }
  }

  // dtaps [kernel, kernel, L] += what row `y` of A1 adds.
  void correlate_taps(const Band<I>& grads, int64_t v, int64_t y, const Band<I>& a1,
                      float* dtaps) const {
    const int64_t kernel = block_.shape.kernel;
    const float* in = a1.row(y) + v * a1.plane_stride() - block_.pad * L;
    int64_t row;
    for (int64_t ky = 0; ky < kernel; ++ky) {
      if (!joined(y, ky, row)) continue;
      correlate<I>(grads.row(row) + v * grads.plane_stride(), in, block_.out_w, kernel,
                   block_.shape.stride, block_.shape.dilation, dtaps + ky * kernel * L);
    }
  }

 private:
  // The first tap that joins columns of a phase to columns of D; `kernel` if none does.
  int64_t first_tap(int64_t phase) const {
    const MBConvShape& s = block_.shape;
    for (int64_t kx = 0; kx < smaller(tap_step_, s.kernel); ++kx) {
      if ((phase + block_.pad - kx * s.dilation) % s.stride == 0) return kx;
    }
    return s.kernel;
  }
  int64_t phase_taps(int64_t phase) const {
    return ceil_div(block_.shape.kernel - first_tap(phase), tap_step_);
  }

  // Whether tap ky joins row `y` of A1 to a row of D, and to which.
  bool joined(int64_t y, int64_t ky, int64_t& row) const {
    const int64_t at = y + block_.pad - ky * block_.shape.dilation;
    row = at / block_.shape.stride;
    return at >= 0 && at % block_.shape.stride == 0 && row < block_.out_h;
  }

  const BlockSizes<I>& block_;
  // Between taps of one phase: so many taps, and the columns of D that they meet. Strides are 1 or
  // 2, and where an even dilation meets the latter, all taps are of one phase.
  int64_t tap_step_, column_step_;
  float* flipped_;  // [planes, kernel, kernel, L]
};

}  // namespace proxyless::cpu
