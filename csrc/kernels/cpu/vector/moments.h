// Mean and covariance of the patches of X.
//
// Two passes: the mean, then products of centred values, summed in float32 over a tile of pixels
// and in float64 beyond. 2 K^2 operations a pixel, a fraction K / hidden of the expand layer's.
#pragma once

#include "kernels/cpu/vector/rows.h"

namespace proxyless::cpu {

template <class I, class T>
class Moments {
  static constexpr int L = I::kLanes;

 public:
  Moments(const MBConvMoments& args, void* workspace)
      : args_(args), block_(args.shape), input_(block_, args.x), arena_(workspace) {
    vectors_ = ceil_div(block_.patch, L);
    const int64_t row = vectors_ * L;
    rows_ = larger(1, smaller(kTile / block_.mid_w, block_.mid_h));
    sums_ = arena_.template take<double>(block_.slices() * row * (1 + row));
    mean_ = arena_.template take<float>(row);
    scratch_stride_ =
        input_.template scratch_size<float>() + rows_ * block_.mid_w * row + row * row;
    scratch_ = arena_.template take<float>(block_.slices() * scratch_stride_);
  }

  int64_t workspace() const { return arena_.used(); }

  void run() const {
    const int64_t K = block_.patch, row = vectors_ * L;
    const double pixels = static_cast<double>(block_.mid_pixels);
    parallel_for(args_.parallel, block_.slices(), [&](int64_t slice) { sum_slice(slice); });
    for (int64_t k = 0; k < row; ++k) {
      double sum = 0.0;
      for (int64_t slice = 0; slice < block_.slices(); ++slice) sum += slice_sums(slice)[k];
      if (k < K) args_.moments[k] = sum / pixels;
      mean_[k] = static_cast<float>(sum / pixels);
    }
    parallel_for(args_.parallel, block_.slices(), [&](int64_t slice) { products_slice(slice); });
    parallel_for(args_.parallel, K, [&](int64_t i) {
      for (int64_t j = i; j < K; ++j) {
        double sum = 0.0;
        for (int64_t slice = 0; slice < block_.slices(); ++slice) {
          sum += slice_sums(slice)[(1 + i) * row + j];
        }
        args_.moments[(1 + i) * K + j] = args_.moments[(1 + j) * K + i] = covariance(i, j, sum);
      }
    });
  }

 private:
  double* slice_sums(int64_t slice) const {
    const int64_t row = vectors_ * L;
    return sums_ + slice * row * (1 + row);
  }

  // The mean was rounded to float32 before it was subtracted.
  double covariance(int64_t i, int64_t j, double sum) const {
    const double left = args_.moments[i] - static_cast<double>(mean_[i]);
    const double right = args_.moments[j] - static_cast<double>(mean_[j]);
    return sum / static_cast<double>(block_.mid_pixels) - left * right;
  }

  // body(image, row) for every row of a slice.
  template <class Body>
  void for_rows(int64_t slice, int64_t step, const Body& body) const {
    const int64_t parts = block_.slices();
    for (int64_t u = part_begin(block_.units(), parts, slice);
         u < part_begin(block_.units(), parts, slice + 1); ++u) {
      const Unit unit = block_.unit(u, block_.mid_h);
      for (int64_t y = unit.first_row; y < unit.last_row; y += step) {
        body(unit.image, y, smaller(step, unit.last_row - y));
      }
    }
  }

  void sum_slice(int64_t slice) const {
    double* sums = slice_sums(slice);
    for (int64_t k = 0; k < vectors_ * L; ++k) sums[k] = 0.0;
    float* scratch = scratch_ + slice * scratch_stride_;
    for_rows(slice, 1, [&](int64_t image, int64_t y, int64_t) {
      const PatchRow<float> row = input_.patches(image, y, scratch);
      for (int64_t v = 0; v < vectors_; ++v) {
        const int64_t lanes = smaller(L, block_.patch - v * L);
        for (int64_t x0 = 0; x0 < block_.mid_w; x0 += kTile) {
          typename I::Vector sum = I::zero();
          for (int64_t x = x0; x < smaller(x0 + kTile, block_.mid_w); ++x) {
            sum = I::add(sum, I::load(row.values + x * row.step + v * L, lanes));
          }
          I::add_to(sums + v * L, sum);
        }
      }
    });
  }

  void products_slice(int64_t slice) const {
    const int64_t row = vectors_ * L;
    double* sums = slice_sums(slice) + row;
    for (int64_t k = 0; k < row * row; ++k) sums[k] = 0.0;
    float* patches = scratch_ + slice * scratch_stride_;
    float* centred = patches + input_.template scratch_size<float>();
    float* products = centred + rows_ * block_.mid_w * row;
    for_rows(slice, rows_, [&](int64_t image, int64_t y, int64_t rows) {
      for (int64_t r = 0; r < rows; ++r) {
        const PatchRow<float> from = input_.patches(image, y + r, patches);
        for (int64_t x = 0; x < block_.mid_w; ++x) {
          float* out = centred + (r * block_.mid_w + x) * row;
          for (int64_t v = 0; v < vectors_; ++v) {
            const int64_t lanes = smaller(L, block_.patch - v * L);
            const auto values = I::load(from.values + x * from.step + v * L, lanes);
            I::store(out + v * L, I::sub(values, I::load(mean_ + v * L)));
          }
        }
      }
      for (int64_t first = 0; first < rows * block_.mid_w; first += kTile) {
        const int64_t pixels = smaller(kTile, rows * block_.mid_w - first);
        add_products(centred + first * row, pixels, products, sums);
      }
    });
  }

  // Rows of groups of channels times the columns on or right of the diagonal.
  void add_products(const float* centred, int64_t pixels, float* products, double* sums) const {
    const int64_t row = vectors_ * L;
    for (int64_t v = 0; v < vectors_; v += I::kBlock) {
      with_count<I::kBlock>(smaller(I::kBlock, vectors_ - v), [&](auto known) {
        constexpr int NV = decltype(known)::value;
        const int64_t rows = (v + NV) * L;
        multiply_transposed_planes<I, NV>(centred, row, rows, centred + v * L, L, row, pixels,
                                          false, products, NV * L);
        for (int64_t i = 0; i < rows; ++i) {
          for (int n = 0; n < NV; ++n) {
            I::add_to(sums + i * row + (v + n) * L, I::load(products + i * NV * L + n * L));
          }
        }
      });
    }
  }

  const MBConvMoments& args_;
  BlockSizes<I> block_;
  Input<I, T> input_;
  Arena arena_;
  int64_t vectors_, rows_, scratch_stride_;
  double* sums_;    // [slices, 1 + row, row]
  float* mean_;     // [row]
  float* scratch_;  // [slices, scratch_stride_]
};

}  // namespace proxyless::cpu
