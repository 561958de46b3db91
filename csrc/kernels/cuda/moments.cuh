// Mean and covariance of what the expand layer reads.
#pragma once

#include "kernels/cuda/block.cuh"

namespace proxyless::cuda {

template <class T>
class MomentsOfInput {
 public:
  MomentsOfInput(Arena& arena, const MBConvShape& shape, const Device& device)
      : input_(arena, shape),
        padded_(round_up(shape.patch(), kUnit<T>)),
        sum_slices_(pixel_slices(shape.mid_pixels(), ceil_div(padded_, kStage<T>), device)),
        product_slices_(pixel_slices(shape.mid_pixels(), product_blocks(padded_), device)),
        sums_(arena.take<float>(sum_slices_ * padded_)),
        products_(arena.take<float>(product_slices_ * padded_ * padded_)),
        negative_mean_(arena.take<float>(padded_)) {}

  void run(const MBConvMoments& args, const Launch& how) {
    const MBConvShape& s = args.shape;
    const int64_t pixels = s.mid_pixels();
    const int patch = static_cast<int>(s.patch()), padded = static_cast<int>(padded_);
    const double count = static_cast<double>(pixels);
    const Rows<T> x = input_.load(args.x, how.stream);

    ColumnSums<T> sums{};
    sums.values = x;
    sums.sums = sums_;
    sums.pitch = padded_;
    sums.pixels = pixels;
    launch_column_sums(sums, sum_slices_, how.stream);
    launch(finish_mean, grid_of(padded_), dim3(kThreads), how.stream,
           Slices{sums_, padded_, padded_, static_cast<int>(sum_slices_)}, count, patch, padded,
           args.moments, negative_mean_);

    PixelProducts<T> products{};
    products.a = products.b = x;
    products.offset = negative_mean_;
    products.sums = products_;
    products.pixels = pixels;
    products.slice_pixels = ceil_div(pixels, product_slices_);
    products.rows = products.columns = products.pitch = padded;
    launch_pixel_products<T, Factors::kCentred>(products, product_slices_, how.stream);
    launch(finish_covariance, grid_of(s.patch() * s.patch()), dim3(kThreads), how.stream,
           Slices{products_, padded_ * padded_, padded_, static_cast<int>(product_slices_)}, count,
           patch, args.moments, negative_mean_, args.moments + patch);
  }

 private:
  // On and below the diagonal.
  static int64_t product_blocks(int64_t padded) {
    const int64_t tiles = ceil_div(padded, kOuterTile);
    return tiles * (tiles + 1) / 2;
  }

  InputRows<T> input_;
  int64_t padded_, sum_slices_, product_slices_;
  float* sums_;           // [sum_slices_, K padded]
  float* products_;       // [product_slices_, K padded, K padded]
  float* negative_mean_;  // [K padded]
};

}  // namespace proxyless::cuda
