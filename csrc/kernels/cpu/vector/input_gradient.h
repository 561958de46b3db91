// dX: where the passes sum it up, what BatchNorm's backward adds in the expand layer, and the
// result as it is stored.
#pragma once

#include "kernels/cpu/vector/norm_gradient.h"
#include "kernels/cpu/vector/rows.h"

namespace proxyless::cpu {

template <class I, class T>
class InputGradient {
  static constexpr int L = I::kLanes;

 public:
  InputGradient(const MBConvBackward& args, const BlockSizes<I>& block, const Input<I, T>& input)
      : args_(args),
        block_(block),
        input_(input),
        channels_(block.shape.has_expand() ? block.patch : block.shape.in_channels),
        panels_{block.patch, block.patch} {}

  void take(Arena& arena) {
    const MBConvShape& s = block_.shape;
    float* own = in_place() ? nullptr : arena.template take<float>(block_.mid_pixels * channels_);
    sums_ = in_place() ? static_cast<float*>(args_.dx) : own;
    if (!s.has_expand()) return;
    const int64_t row = panels_.vectors() * L;
    padded_ = arena.template take<float>(s.hidden * row);
    scaled_ = arena.template take<float>(s.hidden * block_.patch);
    correction_ = arena.template take<float>(block_.patch * row);
    offset_ = arena.template take<float>(row);
    packed_ = arena.template take<float>(panels_.size());
    patches_ = arena.template take<float>(block_.slices() * patches_size());
  }

  bool wanted() const { return args_.dx != nullptr; }
  // [mid_pixels, channels]: of the patches, or without an expand layer of X.
  float* sums() const { return sums_; }

  // What the passes summed up becomes dX.
  //   weights: W1 [hidden, patch]; norm: backward of the expand layer's BatchNorm
  void finish(const float* weights, const NormGradient<I>& norm) const {
    const MBConvShape& s = block_.shape;
    if (s.has_expand() && args_.input.batch_statistics) {
      sum_correction(weights, norm);
      parallel_for(args_.parallel, block_.slices(), [&](int64_t slice) { correct(slice); });
    }
    const bool folds = s.has_expand() && (s.expand_kernel > 1 || s.expand_stride > 1);
    if (!folds && in_place() && !args_.residual) return;
    const int64_t rows = s.batch * s.height;
    parallel_for(args_.parallel, rows, [&](int64_t row) {
      // Where there is a residual, pixels of the gradient and of dX are the same.
      PixelWalk<T> walk(args_.grad, block_.out_h, block_.out_w, row * s.width);
      for (int64_t x = 0; x < s.width; ++x, ++walk) {
        const int64_t pixel = row * s.width + x;
        T* out = static_cast<T*>(args_.dx) + pixel * s.in_channels;
        const T* residual = args_.residual ? *walk : nullptr;
        if (folds) {
          fold_pixel(row / s.height, row % s.height, x, residual, out);
        } else {
          store_pixel(sums_ + pixel * s.in_channels, residual, out);
        }
      }
    });
  }

 private:
  // They are summed up where they are to be.
  bool in_place() const {
    return kSame<T, float> && (!block_.shape.has_expand() || input_.template direct<float>());
  }
  int64_t patches_size() const { return input_.template scratch_size<float>(); }

  void store_pixel(const float* dx, const T* residual, T* out) const {
    const int64_t channels = block_.shape.in_channels;
    for (int64_t c = 0; c < channels; c += L) {
      const int64_t lanes = smaller(L, channels - c);
      auto value = I::load(dx + c, lanes);
      if (residual != nullptr) value = I::add(value, I::load(residual + c, lanes));
      I::store(out + c, value, lanes);
    }
  }

  // dX of one pixel from the gradients of all patches it is in.
  void fold_pixel(int64_t image, int64_t y, int64_t x, const T* residual, T* out) const {
    const MBConvShape& s = block_.shape;
    const int64_t kernel = s.expand_kernel, half = kernel / 2, stride = s.expand_stride;
    for (int64_t c = 0; c < s.in_channels; ++c) {
      float sum = residual == nullptr ? 0.0f : read_scalar<I>(residual + c);
      for (int64_t ky = 0; ky < kernel; ++ky) {
        const int64_t at_y = y + half - ky;
        if (at_y < 0 || at_y % stride != 0 || at_y / stride >= block_.mid_h) continue;
        for (int64_t kx = 0; kx < kernel; ++kx) {
          const int64_t at_x = x + half - kx;
          if (at_x < 0 || at_x % stride != 0 || at_x / stride >= block_.mid_w) continue;
          const int64_t pixel =
              (image * block_.mid_h + at_y / stride) * block_.mid_w + at_x / stride;
          sum += sums_[pixel * block_.patch + (c * kernel + ky) * kernel + kx];
        }
      }
      write_scalar<I>(out + c, sum);
    }
  }

  // correction = W1^T diag(square) W1 and offset = constant W1 - mean(X) correction, for
  // dX += X correction + offset
  void sum_correction(const float* weights, const NormGradient<I>& norm) const {
    const MBConvShape& s = block_.shape;
    const int64_t K = block_.patch, row = panels_.vectors() * L;
    const double* moments = args_.moments;
    parallel_for(args_.parallel, s.hidden, [&](int64_t c) {
      const float* weight = weights + c * K;
      for (int64_t k = 0; k < row; ++k) padded_[c * row + k] = k < K ? weight[k] : 0.0f;
      for (int64_t k = 0; k < K; ++k) scaled_[c * K + k] = norm.square()[c] * weight[k];
    });
    parallel_for(args_.parallel, panels_.panels(), [&](int64_t panel) {
      const int64_t v = panel * I::kBlock;
      with_count<I::kBlock>(panels_.panel_vectors(panel), [&](auto known) {
        constexpr int NV = decltype(known)::value;
        multiply_transposed_planes<I, NV>(scaled_, K, K, padded_ + v * L, L, row, s.hidden, false,
                                          correction_ + v * L, row);
      });
    });
    for (int64_t j = 0; j < row; ++j) offset_[j] = 0.0f;
    parallel_for(args_.parallel, ceil_div(K, L), [&](int64_t v) {
      for (int64_t j = v * L; j < smaller(K, (v + 1) * L); ++j) {
        double offset = 0.0;
        for (int64_t c = 0; c < s.hidden; ++c) {
          offset += static_cast<double>(norm.constant()[c] * padded_[c * row + j]);
        }
        for (int64_t k = 0; k < K; ++k) {
          offset -= moments[k] * static_cast<double>(correction_[k * row + j]);
        }
        offset_[j] = static_cast<float>(offset);
      }
    });
    panels_.pack(packed_, K, args_.parallel,
                 [&](int64_t i, int64_t j) { return correction_[i * row + j]; });
  }

  void correct(int64_t slice) const {
    const int64_t rows = block_.shape.batch * block_.mid_h, parts = block_.slices();
    float* patches = patches_ + slice * patches_size();
    for (int64_t r = part_begin(rows, parts, slice); r < part_begin(rows, parts, slice + 1); ++r) {
      correct_row(r, input_.patches(r / block_.mid_h, r % block_.mid_h, patches));
    }
  }

  void correct_row(int64_t index, const PatchRow<float>& x) const {
    const int64_t K = block_.patch;
    for (int64_t panel = 0; panel < panels_.panels(); ++panel) {
      const int64_t column = panel * Panels<I, float>::kColumns;
      with_count<I::kBlock>(panels_.panel_vectors(panel), [&](auto known) {
        constexpr int NV = decltype(known)::value;
        const float* weights = panels_.panel(packed_, panel);
        const int64_t tail = K - column - (NV - 1) * L;
        for_groups<I::kRows>(block_.mid_w, [&](auto pixels_known, int64_t first) {
          constexpr int M = decltype(pixels_known)::value;
          typename I::Vector acc[M][NV];
          for (int m = 0; m < M; ++m) {
            for (int v = 0; v < NV; ++v) acc[m][v] = I::load(offset_ + column + v * L);
          }
          multiply<I, M, NV>(acc, x.values + first * x.step, x.step, weights, K);
          for (int m = 0; m < M; ++m) {
            float* out = sums_ + (index * block_.mid_w + first + m) * K + column;
            for (int v = 0; v < NV; ++v) {
              const int64_t lanes = v + 1 < NV ? L : smaller(L, tail);
              I::store(out + v * L, I::add(acc[m][v], I::load(out + v * L, lanes)), lanes);
            }
          }
        });
      });
    }
  }

  const MBConvBackward& args_;
  const BlockSizes<I>& block_;
  const Input<I, T>& input_;
  int64_t channels_;
  Panels<I, float> panels_;  // [patch, patch]
  float* sums_;
  float* padded_;      // W1 [hidden, patch padded to vectors]
  float* scaled_;      // square W1 [hidden, patch]
  float* correction_;  // [patch, patch padded to vectors]
  float* offset_;      // [patch padded to vectors]
  float* packed_;      // the correction
  float* patches_;     // [slices, patches_size()]
};

}  // namespace proxyless::cpu
