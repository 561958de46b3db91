#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/launches.cuh"
#include "kernels/cuda/plan.h"

namespace proxyless::cuda {
namespace {

template <class T, int kKernel, int kStride>
void launch_sized(const DepthwiseBackward<T>& args, int64_t slices, void* stream) {
  const int64_t groups = ceil_div(args.expand.channels, kGroup<T>);
  launch(depthwise_backward<T, kKernel, kStride>,
         dim3(static_cast<unsigned>(slices), static_cast<unsigned>(groups)), dim3(kThreads), stream,
         args);
}

}  // namespace

TileSize mid_tile(int64_t stride) {
  return stride == 1 ? TileSize{MidTile<3, 1>::kRows, MidTile<3, 1>::kColumns}
                     : TileSize{MidTile<3, 2>::kRows, MidTile<3, 2>::kColumns};
}

template <class T>
void launch_depthwise_backward(const DepthwiseBackward<T>& args, int64_t kernel, int64_t stride,
                               int64_t slices, void* stream) {
  switch (kernel * 10 + stride) {
    case 31:
      return launch_sized<T, 3, 1>(args, slices, stream);
    case 32:
      return launch_sized<T, 3, 2>(args, slices, stream);
    case 51:
      return launch_sized<T, 5, 1>(args, slices, stream);
    case 52:
      return launch_sized<T, 5, 2>(args, slices, stream);
    case 71:
      return launch_sized<T, 7, 1>(args, slices, stream);
    default:
      return launch_sized<T, 7, 2>(args, slices, stream);
  }
}

template void launch_depthwise_backward(const DepthwiseBackward<float>&, int64_t, int64_t, int64_t,
                                        void*);
template void launch_depthwise_backward(const DepthwiseBackward<__half>&, int64_t, int64_t, int64_t,
                                        void*);
template void launch_depthwise_backward(const DepthwiseBackward<__nv_bfloat16>&, int64_t, int64_t,
                                        int64_t, void*);

}  // namespace proxyless::cuda
