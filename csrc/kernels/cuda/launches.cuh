// Launches of the kernels that come in many sizes. Each is compiled in a file of its own.
#pragma once

#include "kernels/cuda/device/depthwise_backward.cuh"
#include "kernels/cuda/device/pixel_products.cuh"
#include "kernels/cuda/device/pointwise.cuh"

namespace proxyless::cuda {

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
