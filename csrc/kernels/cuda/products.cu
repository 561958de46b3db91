#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/launches.cuh"
#include "kernels/cuda/plan.h"

namespace proxyless::cuda {

template <class T, class Operation>
void launch_pointwise(const PointwiseProduct<T>& product, const Operation& operation,
                      void* stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(product.pixels, kTilePixels)),
                  static_cast<unsigned>(ceil_div(product.columns, kTileColumns)));
  launch(pointwise<T, Operation>, grid, dim3(kThreads), stream, product, operation);
}

template <class T, Factors kFactors>
void launch_pixel_products(const PixelProducts<T>& args, int64_t slices, void* stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(args.columns, kOuterTile)),
                  static_cast<unsigned>(ceil_div(args.rows, kOuterTile)),
                  static_cast<unsigned>(slices));
  launch(pixel_products<T, kFactors>, grid, dim3(kThreads), stream, args);
}

#define PROXYLESS_INSTANTIATE(T)                                                                \
  template void launch_pointwise(const PointwiseProduct<T>&, const Project<T>&, void*);         \
  template void launch_pointwise(const PointwiseProduct<T>&, const ProjectBackward<T>&, void*); \
  template void launch_pointwise(const PointwiseProduct<T>&, const ExpandBackward<T>&, void*);  \
  template void launch_pixel_products<T, Factors::kPlain>(const PixelProducts<T>&, int64_t,     \
                                                          void*);                               \
  template void launch_pixel_products<T, Factors::kActivated>(const PixelProducts<T>&, int64_t, \
                                                              void*);                           \
  template void launch_pixel_products<T, Factors::kCentred>(const PixelProducts<T>&, int64_t,   \
                                                            void*);
PROXYLESS_INSTANTIATE(float)
PROXYLESS_INSTANTIATE(__half)
PROXYLESS_INSTANTIATE(__nv_bfloat16)
#undef PROXYLESS_INSTANTIATE

}  // namespace proxyless::cuda
