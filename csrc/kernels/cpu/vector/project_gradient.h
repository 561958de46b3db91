// dP, the gradient of the project convolution's output, from dL/dy and P.
#pragma once

#include "kernels/cpu/vector/norm_gradient.h"

namespace proxyless::cpu {

template <class I, class T>
class ProjectGradient {
  static constexpr int L = I::kLanes;
  using Operand = typename I::template Operand<T>;

 public:
  ProjectGradient(const MBConvBackward& args, const BlockSizes<I>& block)
      : args_(args),
        block_(block),
        tiles_(block.out_pixels),
        channels_(block.shape.out_channels),
        vectors_(ceil_div(channels_, L)),
        norm_(args, block.shape.norm_channels() - channels_, channels_, block.out_pixels) {}

  void take(Arena& arena) {
    norm_.take(arena);
    sums_ = arena.template take<GradientSums<I>>(tiles_.tasks * vectors_);
    dp_ = arena.template take<Operand>(block_.out_pixels * channels_);
  }

  void run() {
    norm_.prepare();
    parallel_for(args_.parallel, tiles_.tasks, [&](int64_t task) { sum(task); });
    for (int64_t c = 0; c < channels_; ++c) {
      double total = 0.0, product = 0.0;
      for (int64_t task = 0; task < tiles_.tasks; ++task) {
        total += sums_[task * vectors_ + c / L].sum[c % L];
        product += sums_[task * vectors_ + c / L].product[c % L];
      }
      norm_.set(c, total, product);
    }
    parallel_for(args_.parallel, tiles_.tasks, [&](int64_t task) { apply(task); });
  }

  const Operand* dp() const { return dp_; }  // [out_pixels, out_channels]

 private:
  const T* p(int64_t pixel) const { return static_cast<const T*>(args_.p) + pixel * channels_; }
  PixelWalk<T> grads_from(int64_t pixel) const {
    return {args_.grad, block_.out_h, block_.out_w, pixel};
  }

  void sum(int64_t task) const {
    for (int64_t v = 0; v < vectors_; ++v) {
      const int64_t lanes = smaller(L, channels_ - v * L);
      const auto mean = I::load(norm_.mean() + v * L);
      GradientSums<I>& sums = sums_[task * vectors_ + v];
      sums.start();
      tiles_.for_each(task, [&](int64_t first, int64_t count) {
        auto total = I::zero(), product = I::zero();
        PixelWalk<T> walk = grads_from(first);
        for (int64_t pixel = first; pixel < first + count; ++pixel, ++walk) {
          const auto grad = I::load(*walk + v * L, lanes);
          const auto deviation = I::sub(I::load(p(pixel) + v * L, lanes), mean);
          total = I::add(total, grad);
          product = I::fma(grad, deviation, product);
        }
        I::add_to(sums.sum, total);
        I::add_to(sums.product, product);
      });
    }
  }

  void apply(int64_t task) const {
    tiles_.for_each(task, [&](int64_t first, int64_t count) {
      PixelWalk<T> walk = grads_from(first);
      for (int64_t pixel = first; pixel < first + count; ++pixel, ++walk) {
        for (int64_t c = 0; c < channels_; c += L) {
          const int64_t lanes = smaller(L, channels_ - c);
          const auto dp = norm_(I::load(*walk + c, lanes), I::load(p(pixel) + c, lanes), c);
          I::store(dp_ + pixel * channels_ + c, dp, lanes);
        }
      }
    });
  }

  const MBConvBackward& args_;
  const BlockSizes<I>& block_;
  Tiles tiles_;
  int64_t channels_, vectors_;
  NormGradient<I> norm_;
  GradientSums<I>* sums_;  // [tasks, vectors]
  Operand* dp_;
};

}  // namespace proxyless::cpu
