#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/launches.cuh"
#include "kernels/cuda/plan.h"

namespace proxyless::cuda {
namespace {

template <class T, int kKernel, int kStride>
void launch_sized(const ExpandDepthwise<T>& args, int64_t pictures, void* stream) {
  const int64_t tiles = pictures * args.tiles_y * args.tiles_x;
  const int64_t groups = ceil_div(args.expand.channels, kGroup<T>);
  launch(expand_depthwise<T, kKernel, kStride>,
         dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(groups)), dim3(kThreads), stream,
         args);
}

template <int kKernel>
TileSize tile_of(int64_t stride) {
  return stride == 1 ? TileSize{OutTile<kKernel, 1>::kRows, OutTile<kKernel, 1>::kColumns}
                     : TileSize{OutTile<kKernel, 2>::kRows, OutTile<kKernel, 2>::kColumns};
}

}  // namespace

TileSize out_tile(int64_t kernel, int64_t stride) {
  return kernel == 3 ? tile_of<3>(stride) : kernel == 5 ? tile_of<5>(stride) : tile_of<7>(stride);
}

template <class T>
void launch_expand_depthwise(const ExpandDepthwise<T>& args, int64_t kernel, int64_t stride,
                             int64_t pictures, void* stream) {
  switch (kernel * 10 + stride) {
    case 31:
      return launch_sized<T, 3, 1>(args, pictures, stream);
    case 32:
      return launch_sized<T, 3, 2>(args, pictures, stream);
    case 51:
      return launch_sized<T, 5, 1>(args, pictures, stream);
    case 52:
      return launch_sized<T, 5, 2>(args, pictures, stream);
    case 71:
      return launch_sized<T, 7, 1>(args, pictures, stream);
    default:
      return launch_sized<T, 7, 2>(args, pictures, stream);
  }
}

template void launch_expand_depthwise(const ExpandDepthwise<float>&, int64_t, int64_t, int64_t,
                                      void*);
template void launch_expand_depthwise(const ExpandDepthwise<__half>&, int64_t, int64_t, int64_t,
                                      void*);
template void launch_expand_depthwise(const ExpandDepthwise<__nv_bfloat16>&, int64_t, int64_t,
                                      int64_t, void*);

}  // namespace proxyless::cuda
