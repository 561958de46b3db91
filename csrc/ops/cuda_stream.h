// Where a GPU's kernels are enqueued.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include "host/refusal.h"
#include "ops/tensors.h"

namespace proxyless::ops {

// The current stream of a tensor's device, which is the current device as long as this lives.
class CurrentStream {
 public:
  // `name` is the operator's, for its refusal of a tensor that is elsewhere.
  CurrentStream(const char* name, const Tensor& tensor) : guard_(device_of(name, tensor)) {
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream_));
  }

  void* get() const { return stream_; }  // a cudaStream_t

 private:
  static int32_t device_of(const char* name, const Tensor& tensor) {
    if (!tensor.is_cuda()) refuse(name, ": tensors must be on a GPU here, move them with .cuda()");
    return tensor.get_device_index();
  }

  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

}  // namespace proxyless::ops
