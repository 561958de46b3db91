#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/launches.cuh"
#include "kernels/cuda/plan.h"

namespace proxyless::cuda {

TileSize out_tile(int64_t kernel, int64_t stride) {
  return with_size(kernel, stride, [](auto size) {
    using Tile = OutTile<decltype(size)::kKernel, decltype(size)::kStride>;
    return TileSize{Tile::kRows, Tile::kColumns};
  });
}

template <class T>
void launch_expand_depthwise(const ExpandDepthwise<T>& args, int64_t kernel, int64_t stride,
                             int64_t pictures, void* stream) {
  const dim3 grid(static_cast<unsigned>(pictures * args.tiles_y * args.tiles_x),
                  static_cast<unsigned>(ceil_div(args.expand.channels, kGroup<T>)));
  with_size(kernel, stride, [&](auto size) {
    launch(expand_depthwise<T, decltype(size)::kKernel, decltype(size)::kStride>, grid,
           dim3(kThreads), stream, args);
  });
}

template void launch_expand_depthwise(const ExpandDepthwise<float>&, int64_t, int64_t, int64_t,
                                      void*);
template void launch_expand_depthwise(const ExpandDepthwise<__half>&, int64_t, int64_t, int64_t,
                                      void*);
template void launch_expand_depthwise(const ExpandDepthwise<__nv_bfloat16>&, int64_t, int64_t,
                                      int64_t, void*);

}  // namespace proxyless::cuda
