#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/launches.cuh"
#include "kernels/cuda/plan.h"

namespace proxyless::cuda {

TileSize mid_tile(int64_t stride) {
  // The same for every kernel.
  return with_size(3, stride, [](auto size) {
    using Tile = MidTile<decltype(size)::kKernel, decltype(size)::kStride>;
    return TileSize{Tile::kRows, Tile::kColumns};
  });
}

template <class T>
void launch_depthwise_backward(const DepthwiseBackward<T>& args, int64_t kernel, int64_t stride,
                               int64_t slices, void* stream) {
  const dim3 grid(static_cast<unsigned>(slices),
                  static_cast<unsigned>(ceil_div(args.expand.channels, kGroup<T>)));
  with_size(kernel, stride, [&](auto size) {
    launch(depthwise_backward<T, decltype(size)::kKernel, decltype(size)::kStride>, grid,
           dim3(kThreads), stream, args);
  });
}

template void launch_depthwise_backward(const DepthwiseBackward<float>&, int64_t, int64_t, int64_t,
                                        void*);
template void launch_depthwise_backward(const DepthwiseBackward<__half>&, int64_t, int64_t, int64_t,
                                        void*);
template void launch_depthwise_backward(const DepthwiseBackward<__nv_bfloat16>&, int64_t, int64_t,
                                        int64_t, void*);

}  // namespace proxyless::cuda
