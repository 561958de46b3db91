// The mbconv operators on GPUs, on the current stream of x's device.
//
// Values in tensors are not looked at, since the GPU would have to be waited for: BatchNorm vectors
// that are not finite do what they do in PyTorch's layers.
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/library.h>

#include <stdexcept>
#include <string>

#include "host/refusal.h"
#include "kernels/cuda/mbconv.h"
#include "ops/cuda_stream.h"
#include "ops/mbconv_operators.h"

namespace proxyless::ops {
namespace {

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, name, device);
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA says nothing of the device: ") +
                             cudaGetErrorString(error));
  }
  return value;
}

class Gpu {
 public:
  using Picture = AlignedPicture;
  using Dense = AlignedDense;

  Gpu(const Tensor& x, bool tf32)
      : x_(x), stream_("mbconv", x), launch_{device(x.get_device_index()), stream_.get(), tf32} {}

  void check(const MBConvShape& shape) const {
    const char* const why_not = cuda::unsupported(shape, dtype_of(mbconv::check, x_));
    if (why_not != nullptr) refuse("mbconv: ", why_not);
  }

  void check_vector(const char*, const void*, const MBConvShape&) const {}

  void run(MBConvMoments& args, const MBConvShape& shape) const {
    run(cuda::mbconv_moments, args, shape, &cuda::MBConvPlan::moments_bytes);
  }
  void run(MBConvForward& args, const MBConvShape& shape) const {
    run(cuda::mbconv_forward, args, shape, &cuda::MBConvPlan::forward_bytes);
  }
  void run(MBConvBackward& args, const MBConvShape& shape) const {
    run(cuda::mbconv_backward, args, shape, &cuda::MBConvPlan::backward_bytes);
  }
  void run(MBConvProbe& args, const MBConvShape& shape) const {
    run(cuda::mbconv_gate_probe, args, shape, &cuda::MBConvPlan::probe_bytes);
  }

 private:
  // Attributes, unlike other properties, are cheap to ask for.
  static cuda::Device device(int index) {
    return {attribute(cudaDevAttrMultiProcessorCount, index),
            attribute(cudaDevAttrL2CacheSize, index)};
  }

  // torch's allocator gives the workspace to others only behind this on the stream.
  template <class Args>
  void run(void (*kernel)(const Args&, const cuda::Launch&), Args& args, const MBConvShape& shape,
           int64_t cuda::MBConvPlan::* bytes) const {
    const int64_t needed =
        cuda::plan_mbconv(shape, dtype_of(mbconv::check, x_), launch_.device).*bytes;
    const Tensor workspace = new_dense({needed}, ScalarType::Byte, x_);
    args.workspace = workspace.mutable_data_ptr();
    kernel(args, launch_);
  }

  const Tensor& x_;
  CurrentStream stream_;
  cuda::Launch launch_;
};

using Operators = MBConvOperators<Gpu>;

}  // namespace
}  // namespace proxyless::ops

STABLE_TORCH_LIBRARY_IMPL(proxyless, CUDA, m) {
  m.impl("mbconv_moments", TORCH_BOX(&proxyless::ops::Operators::moments));
  m.impl("mbconv_forward", TORCH_BOX(&proxyless::ops::Operators::forward));
  m.impl("mbconv_backward", TORCH_BOX(&proxyless::ops::Operators::backward));
  m.impl("mbconv_gate_probe", TORCH_BOX(&proxyless::ops::Operators::gate_probe));
}
