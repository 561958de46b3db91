// The scalar mathematics of a block's layers, forward beside backward, in float or double.
#pragma once

#include <cmath>

#include "kernels/relu6.h"

namespace proxyless {

// NaN passes through, as in relu6.
template <class T>
constexpr T relu(T z) {
  return z < T{0} ? T{0} : z;
}

// dL/dz, given grad = dL/drelu(z).
template <class T>
constexpr T relu_backward(T z, T grad) {
  return z <= T{0} ? T{0} : grad;
}

// BatchNorm of one channel: z = scale h + shift with h = (x - mean) / sqrt(var + eps).
template <class T>
struct BatchNorm {
  T mean, inv_std, scale, shift;

  BatchNorm(T mean_, T var, T eps, T scale_, T shift_)
      : mean(mean_), inv_std(T{1} / std::sqrt(var + eps)), scale(scale_), shift(shift_) {}

  T normalise(T x) const { return (x - mean) * inv_std; }
  T operator()(T x) const { return scale * normalise(x) + shift; }

  // dL/dx of a channel of `count` values, given grad = dL/dz of one of them, with sum(grad) =
  // dshift and sum(grad h) = dscale. The mean and the variance are functions of the values.
  T backward(T x, T grad, T dscale, T dshift, T count) const {
    return scale * inv_std * (grad - (dshift + normalise(x) * dscale) / count);
  }

  // The same for a given mean and variance.
  T backward(T grad) const { return scale * inv_std * grad; }
};

}  // namespace proxyless
