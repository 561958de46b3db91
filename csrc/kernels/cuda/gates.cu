#include "kernels/cuda/device/gates.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/gates.h"
#include "kernels/cuda/plan.h"

namespace proxyless::cuda {
namespace {

template <class T>
void run(const AlphaGradient& args, void* stream) {
  launch(alpha_gradients<T>, dim3(static_cast<unsigned>(ceil_div(args.edges, kWarps))),
         dim3(kThreads), stream, static_cast<const T*>(args.alpha),
         static_cast<const T*>(args.gate_gradient), args.edges, args.candidates,
         static_cast<T*>(args.gradient));
}

}  // namespace

void alpha_gradient(const AlphaGradient& args, void* stream) {
  if (args.candidates == 0) return;
  switch (args.dtype) {
    case DType::kFloat32:
      return run<float>(args, stream);
    case DType::kFloat64:
      return run<double>(args, stream);
    case DType::kBFloat16:
      return run<__nv_bfloat16>(args, stream);
    case DType::kFloat16:
      return run<__half>(args, stream);
  }
}

}  // namespace proxyless::cuda
