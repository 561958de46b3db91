// Sums over pixels, exact enough for statistics: float32 within a run of pixels, float64 beyond.
#pragma once

#include "kernels/cpu/vector/loops.h"

namespace proxyless::cpu {

constexpr int64_t kRun = 128;  // pixels that are summed in float32

// Mean and sum of squared deviations of `count` values.
struct Spread {
  double mean, deviations;
  int64_t count;

  // Of the union of both (Chan et al., Updating formulae for computing sample variances).
  void merge(const Spread& other) {
    if (other.count == 0) return;
    const int64_t both = count + other.count;
    const double delta = other.mean - mean;
    const double share = static_cast<double>(other.count) / static_cast<double>(both);
    mean += delta * share;
    deviations += other.deviations + delta * delta * share * static_cast<double>(count);
    count = both;
  }
};

// Sums of one vector of channels around a pivot, the mean of the first values. Squares around it,
// rather than around zero, lose no digits where the mean is large against the deviation.
template <class I>
struct PivotSums {
  static constexpr int L = I::kLanes;

  float pivot[L];
  double sum[L];
  double square[L];
  int64_t count;

  void start() {
    count = 0;
    for (int i = 0; i < L; ++i) pivot[i] = 0.0f;
    for (int i = 0; i < L; ++i) sum[i] = square[i] = 0.0;
  }

  // values: [pixels] vectors, `step` apart, of which the first `lanes` entries count.
  template <class T>
  void add(const T* values, int64_t step, int64_t pixels, int64_t lanes) {
    if (count == 0) choose_pivot(values, step, smaller(pixels, kRun), lanes);
    count += pixels;
    const typename I::Vector center = I::load(pivot);
    while (pixels > 0) {
      const int64_t run = smaller(pixels, kRun);
      typename I::Vector s = I::zero(), q = I::zero();
      for (int64_t p = 0; p < run; ++p, values += step) {
        const typename I::Vector d = I::sub(load(values, lanes), center);
        s = I::add(s, d);
        q = I::fma(d, d, q);
      }
      I::add_to(sum, s);
      I::add_to(square, q);
      pixels -= run;
    }
  }

  Spread spread(int lane) const {
    const double n = static_cast<double>(count), s = sum[lane];
    return {static_cast<double>(pivot[lane]) + s / n, square[lane] - s * s / n, count};
  }

 private:
  template <class T>
  static typename I::Vector load(const T* values, int64_t lanes) {
    return lanes == L ? I::load(values) : I::load(values, lanes);
  }

  template <class T>
  void choose_pivot(const T* values, int64_t step, int64_t pixels, int64_t lanes) {
    const typename I::Vector share = I::set1(1.0f / static_cast<float>(pixels));
    typename I::Vector mean = I::zero();
    for (int64_t p = 0; p < pixels; ++p, values += step) {
      mean = I::fma(load(values, lanes), share, mean);
    }
    I::store(pivot, mean);
  }
};

// Mean and biased variance of a lane, from sums over parts that are `stride` apart.
template <class I>
void merge_parts(const PivotSums<I>* sums, int64_t parts, int64_t stride, int lane, double* mean,
                 double* var) {
  Spread all = sums->spread(lane);
  for (int64_t part = 1; part < parts; ++part) all.merge(sums[part * stride].spread(lane));
  *mean = all.mean;
  const double biased = all.deviations / static_cast<double>(all.count);
  *var = biased < 0.0 ? 0.0 : biased;
}

}  // namespace proxyless::cpu
