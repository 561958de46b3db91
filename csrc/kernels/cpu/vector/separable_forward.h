// The forward of the separable block, and its gate probe.
#pragma once

#include "kernels/cpu/vector/separable_rows.h"
#include "kernels/cpu/vector/sums.h"

namespace proxyless::cpu {

template <class I, class T>
class SeparableForwardPass {
  // A float32 y is made where it is to be; others need a place.
  static constexpr bool kInPlace = kSame<T, float>;

 public:
  SeparableForwardPass(const SeparableForward& args, void* workspace)
      : args_(args), arena_(workspace), rows_(args.input) {
    rows_.take(arena_);
    if constexpr (!kInPlace) wide_ = arena_.template take<float>(rows_.block().slices() * size());
  }

  int64_t workspace() const { return arena_.used(); }

  void run() {
    const BlockSizes<I>& block = rows_.block();
    const int64_t channels = block.shape.out_channels;
    rows_.fill(args_.input, args_.mean, args_.var, args_.parallel);
    parallel_for(args_.parallel, block.slices(), [&](int64_t slice) {
      rows_.run(slice, [&](int64_t image, int64_t y, int64_t rows, const auto* d) {
        const int64_t first = (image * block.out_h + y) * block.out_w, count = rows * block.out_w;
        T* out = static_cast<T*>(args_.y) + first * channels;
        if constexpr (kInPlace) {
          rows_.multiply(d, count, out);
        } else {
          float* wide = wide_ + slice * size();
          rows_.multiply(d, count, wide);
          copy_values<I>(wide, count * channels, out);
        }
      });
    });
  }

 private:
  int64_t size() const { return rows_.group_pixels() * rows_.block().shape.out_channels; }

  const SeparableForward& args_;
  Arena arena_;
  PointwiseRows<I, T> rows_;
  float* wide_ = nullptr;  // [slices, size()]
};

template <class I, class T>
class SeparableProbePass {
  static constexpr int L = I::kLanes;

 public:
  SeparableProbePass(const SeparableProbe& args, void* workspace)
      : args_(args), arena_(workspace), rows_(args.input) {
    rows_.take(arena_);
    const int64_t slices = rows_.block().slices();
    y_ = arena_.template take<float>(slices * size());
    sums_ = arena_.template take<double>(slices * L);
  }

  int64_t workspace() const { return arena_.used(); }

  void run() {
    const BlockSizes<I>& block = rows_.block();
    rows_.fill(args_.input, args_.mean, args_.var, args_.parallel);
    parallel_for(args_.parallel, block.slices(), [&](int64_t slice) {
      float* y = y_ + slice * size();
      double* sums = sums_ + slice * L;
      for (int lane = 0; lane < L; ++lane) sums[lane] = 0.0;
      rows_.run(slice, [&](int64_t image, int64_t first_row, int64_t rows, const auto* d) {
        const int64_t count = rows * block.out_w;
        rows_.multiply(d, count, y);
        add_products((image * block.out_h + first_row) * block.out_w, count, y, sums);
      });
    });
    double result = 0.0;
    for (int64_t i = 0; i < block.slices() * L; ++i) result += sums_[i];
    *static_cast<float*>(args_.result) = static_cast<float>(result);
  }

 private:
  int64_t size() const { return rows_.group_pixels() * rows_.block().shape.out_channels; }

  // sums += grad y of pixels [first, first + count)
  void add_products(int64_t first, int64_t count, const float* y, double* sums) const {
    const BlockSizes<I>& block = rows_.block();
    const int64_t channels = block.shape.out_channels;
    for (int64_t c = 0; c < channels; c += L) {
      const int64_t lanes = smaller(L, channels - c);
      auto sum = I::zero();
      PixelWalk<T> walk(args_.grad, block.out_h, block.out_w, first);
      for (int64_t i = 0; i < count; ++i, ++walk) {
        sum = I::fma(I::load(*walk + c, lanes), I::load(y + i * channels + c, lanes), sum);
      }
      I::add_to(sums, sum);
    }
  }

  const SeparableProbe& args_;
  Arena arena_;
  PointwiseRows<I, T> rows_;
  float* y_;      // [slices, size()]
  double* sums_;  // [slices, L]
};

}  // namespace proxyless::cpu
