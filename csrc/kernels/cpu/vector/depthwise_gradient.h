// Backward of the depthwise convolution: to its input, a row at a time, and to its taps.
#pragma once

#include "kernels/cpu/vector/depthwise.h"
#include "kernels/cpu/vector/rows.h"

namespace proxyless::cpu {

template <class I>
class DepthwiseGradient {
  static constexpr int L = I::kLanes;

 public:
  explicit DepthwiseGradient(const BlockSizes<I>& block) : block_(block) {}

  void take(Arena& arena) {
    const int64_t kernel = block_.shape.kernel;
    flipped_ = arena.template take<float>(block_.width * kernel * kernel);
  }

  // depthwise: [planes, kernel, kernel, L]
  //
  // The taps of each phase of the input's columns, in the order in which the gradient's columns
  // meet them: phase q has the taps kx = first(q), first(q) + stride, ..., the last one first.
  void fill(const float* depthwise) {
    const int64_t kernel = block_.shape.kernel, stride = block_.shape.stride;
    for (int64_t row = 0; row < block_.planes * kernel; ++row) {
      float* out = flipped_ + row * kernel * L;
      for (int64_t phase = 0; phase < stride; ++phase) {
        const int64_t first = first_tap(phase);
        for (int64_t i = phase_taps(phase) - 1; i >= 0; --i, out += L) {
          const float* tap = depthwise + (row * kernel + first + i * stride) * L;
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
      const int64_t base = (phase + block_.pad - first_tap(phase)) / stride - (taps - 1);
      const float* rows[kMaxKernel];
      const float* weights[kMaxKernel];
      int64_t count = 0, row;
      for (int64_t ky = 0; taps > 0 && ky < kernel; ++ky) {
        if (!joined(y, ky, row)) continue;
        rows[count] = grads.row(row) + v * grads.plane_stride() + base * L;
        weights[count++] = flipped + ky * kernel * L;
      }
      convolve<I>(rows, weights, count, taps, 1, out + phase * L, stride,
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
                   block_.shape.stride, dtaps + ky * kernel * L);
    }
  }

 private:
  int64_t first_tap(int64_t phase) const { return (phase + block_.pad) % block_.shape.stride; }
  int64_t phase_taps(int64_t phase) const {
    const int64_t rest = block_.shape.kernel - first_tap(phase);
    return rest <= 0 ? 0 : ceil_div(rest, block_.shape.stride);
  }

  // Whether tap ky joins row `y` of A1 to a row of D, and to which.
  bool joined(int64_t y, int64_t ky, int64_t& row) const {
    const int64_t at = y + block_.pad - ky;
    row = at / block_.shape.stride;
    return at >= 0 && at % block_.shape.stride == 0 && row < block_.out_h;
  }

  const BlockSizes<I>& block_;
  float* flipped_;  // [planes, kernel, kernel, L]
};

}  // namespace proxyless::cpu
