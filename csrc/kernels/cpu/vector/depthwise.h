// The depthwise convolution of one vector of channels, a row at a time.
//
// Rows hold one vector per pixel, zero beyond the picture's sides. Forward, and backward to the
// input, are the same row product: backward with stride s is, for each of the s x s phases of the
// input's pixels, a convolution of the gradient with every s-th tap. A loaded pixel serves all
// outputs that it is a tap of, so that products, not loads, are the limit.
#pragma once

#include "kernels/cpu/vector/loops.h"

namespace proxyless::cpu {

constexpr int kDepthwiseGroup = 8;  // outputs at a time

// out[x * out_step] = sum over r < rows, t < taps of in[r][x * stride + t * dilation] *
// weights[r][t], for x in [0, count); every entry of in and weights is a vector, and so are the
// steps.
template <class I, int kTaps, int kStride, int kDilation = 1, class Out>
inline void convolve_row(const float* const* in, const float* const* weights, int64_t rows,
                         Out* out, int64_t out_step, int64_t count) {
  constexpr int L = I::kLanes;
  for_groups<kDepthwiseGroup>(count, [&](auto known, int64_t first) {
    constexpr int M = decltype(known)::value;
    constexpr int kSpan = (M - 1) * kStride + (kTaps - 1) * kDilation + 1;
    typename I::Vector acc[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) acc[m] = I::zero();
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = in[r] + first * kStride * L;
      typename I::Vector w[kTaps];
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) w[t] = I::load(weights[r] + t * L);
#pragma GCC unroll 24
      for (int x = 0; x < kSpan; ++x) {
        const typename I::Vector value = I::load(row + x * L);
#pragma GCC unroll 8
        for (int t = 0; t < kTaps; ++t) {
          const int from = x - t * kDilation;
          if (from >= 0 && from % kStride == 0 && from / kStride < M) {
            acc[from / kStride] = I::fma(value, w[t], acc[from / kStride]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) I::store(out + (first + m) * out_step * L, acc[m]);
  });
}

// The same for any number of taps, any stride and any dilation.
template <class I, class Out>
inline void convolve_any_row(const float* const* in, const float* const* weights, int64_t rows,
                             int64_t taps, int64_t stride, int64_t dilation, Out* out,
                             int64_t out_step, int64_t count) {
  constexpr int L = I::kLanes;
  for_groups<kDepthwiseGroup>(count, [&](auto known, int64_t first) {
    constexpr int M = decltype(known)::value;
    typename I::Vector acc[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) acc[m] = I::zero();
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t t = 0; t < taps; ++t) {
        const typename I::Vector w = I::load(weights[r] + t * L);
        const float* row = in[r] + (first * stride + t * dilation) * L;
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) acc[m] = I::fma(I::load(row + m * stride * L), w, acc[m]);
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) I::store(out + (first + m) * out_step * L, acc[m]);
  });
}

// What there may be an unrolled loop for: digits of taps, stride and dilation.
constexpr int64_t unrolled_kind(int64_t taps, int64_t stride, int64_t dilation) {
  return taps < 10 && stride < 10 && dilation < 10 ? taps * 100 + stride * 10 + dilation : 0;
}

template <class I, class Out>
inline void convolve(const float* const* in, const float* const* weights, int64_t rows,
                     int64_t taps, int64_t stride, int64_t dilation, Out* out, int64_t out_step,
                     int64_t count) {
  switch (unrolled_kind(taps, stride, dilation)) {
    case 111:
      return convolve_row<I, 1, 1>(in, weights, rows, out, out_step, count);
    case 211:
      return convolve_row<I, 2, 1>(in, weights, rows, out, out_step, count);
    case 311:
      return convolve_row<I, 3, 1>(in, weights, rows, out, out_step, count);
    case 411:
      return convolve_row<I, 4, 1>(in, weights, rows, out, out_step, count);
    case 511:
      return convolve_row<I, 5, 1>(in, weights, rows, out, out_step, count);
    case 711:
      return convolve_row<I, 7, 1>(in, weights, rows, out, out_step, count);
    case 321:
      return convolve_row<I, 3, 2>(in, weights, rows, out, out_step, count);
    case 521:
      return convolve_row<I, 5, 2>(in, weights, rows, out, out_step, count);
    case 721:
      return convolve_row<I, 7, 2>(in, weights, rows, out, out_step, count);
    case 312:
      return convolve_row<I, 3, 1, 2>(in, weights, rows, out, out_step, count);
    default:
      return convolve_any_row<I>(in, weights, rows, taps, stride, dilation, out, out_step, count);
  }
}

// sums[t] += sum over x < count of grad[x] * in[x * stride + t * dilation], t in [0, kTaps); all
// vectors.
//
// Two sets of accumulators, so that products do not wait for one another.
template <class I, int kTaps, int kStride, int kDilation = 1>
inline void correlate_row(const float* grad, const float* in, int64_t count, float* sums) {
  constexpr int L = I::kLanes;
  typename I::Vector acc[2][kTaps];
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) {
    acc[0][t] = I::load(sums + t * L);
    acc[1][t] = I::zero();
  }
  for_groups<kDepthwiseGroup>(count, [&](auto known, int64_t first) {
    constexpr int M = decltype(known)::value;
    constexpr int kSpan = (M - 1) * kStride + (kTaps - 1) * kDilation + 1;
    typename I::Vector g[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) g[m] = I::load(grad + (first + m) * L);
    const float* row = in + first * kStride * L;
#pragma GCC unroll 24
    for (int x = 0; x < kSpan; ++x) {
      const typename I::Vector value = I::load(row + x * L);
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) {
        const int from = x - t * kDilation;
        if (from >= 0 && from % kStride == 0 && from / kStride < M) {
          const int m = from / kStride;
          acc[m % 2][t] = I::fma(value, g[m], acc[m % 2][t]);
        }
      }
    }
  });
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) I::store(sums + t * L, I::add(acc[0][t], acc[1][t]));
}

template <class I>
inline void correlate(const float* grad, const float* in, int64_t count, int64_t taps,
                      int64_t stride, int64_t dilation, float* sums) {
  constexpr int L = I::kLanes;
  switch (unrolled_kind(taps, stride, dilation)) {
    case 311:
      return correlate_row<I, 3, 1>(grad, in, count, sums);
    case 511:
      return correlate_row<I, 5, 1>(grad, in, count, sums);
    case 711:
      return correlate_row<I, 7, 1>(grad, in, count, sums);
    case 321:
      return correlate_row<I, 3, 2>(grad, in, count, sums);
    case 521:
      return correlate_row<I, 5, 2>(grad, in, count, sums);
    case 721:
      return correlate_row<I, 7, 2>(grad, in, count, sums);
    case 312:
      return correlate_row<I, 3, 1, 2>(grad, in, count, sums);
    default:
      for (int64_t t = 0; t < taps; ++t) {
        typename I::Vector acc = I::load(sums + t * L);
        for (int64_t x = 0; x < count; ++x) {
          acc = I::fma(I::load(grad + x * L), I::load(in + (x * stride + t * dilation) * L), acc);
        }
        I::store(sums + t * L, acc);
      }
  }
}

}  // namespace proxyless::cpu
