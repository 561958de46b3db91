// Launches of the kernels that come in many sizes. Each is compiled in a file of its own.
#pragma once

#include "kernels/cuda/device/depthwise_backward.cuh"
#include "kernels/cuda/device/pixel_products.cuh"
#include "kernels/cuda/device/pointwise.cuh"

namespace proxyless::cuda {

// A depthwise convolution's size as a type.
template <int kernel, int stride>
struct Size {
  static constexpr int kKernel = kernel, kStride = stride;
};

// Calls body(Size<kernel, stride>{}).
template <class Body>
auto with_size(int64_t kernel, int64_t stride, const Body& body) {
  switch (kernel * 10 + stride) {
    case 31:
      return body(Size<3, 1>{});
    case 32:
      return body(Size<3, 2>{});
    case 51:
      return body(Size<5, 1>{});
    case 52:
      return body(Size<5, 2>{});
    case 71:
      return body(Size<7, 1>{});
    default:
      return body(Size<7, 2>{});
  }
}

// The output tile of a block of expand_depthwise.
struct TileSize {
  int rows, columns;
};
TileSize out_tile(int64_t kernel, int64_t stride);

// Over all tiles of `pictures` pictures.
template <class T>
void launch_expand_depthwise(const ExpandDepthwise<T>& args, int64_t kernel, int64_t stride,
                             int64_t pictures, void* stream);

// The input tile of a block of depthwise_backward.
TileSize mid_tile(int64_t stride);

template <class T>
void launch_depthwise_backward(const DepthwiseBackward<T>& args, int64_t kernel, int64_t stride,
                               int64_t slices, void* stream);

template <class T, class Operation>
void launch_pointwise(const PointwiseProduct<T>& product, const Operation& operation, void* stream);

template <class T, Factors kFactors>
void launch_pixel_products(const PixelProducts<T>& args, int64_t slices, void* stream);

}  // namespace proxyless::cuda
