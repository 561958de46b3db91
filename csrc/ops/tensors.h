// Tensors on the way into a kernel and out of it.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "host/refusal.h"
#include "kernels/mbconv.h"

namespace proxyless::ops {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline Sizes sizes_of(const Tensor& tensor) {
  return Sizes(tensor.sizes().begin(), tensor.sizes().end());
}

// How kernels know numbers of the tensor's type, if they do.
inline std::optional<DType> kernel_dtype(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::kFloat32;
    case ScalarType::Double:
      return DType::kFloat64;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Half:
      return DType::kFloat16;
    default:
      return std::nullopt;
  }
}

// --- What kernels read ---

// Values without gaps between them: the tensor itself if it is so, or else a copy.
class Dense {
 public:
  explicit Dense(const OptionalTensor& tensor) {
    if (tensor) tensor_ = torch::stable::contiguous(*tensor);
  }

  // Valid as long as this object; null without a tensor.
  const void* data() const { return tensor_ ? tensor_->const_data_ptr() : nullptr; }

 private:
  OptionalTensor tensor_;
};

// A picture with adjacent channels: the tensor itself if it is one, or else a copy.
class Picture {
 public:
  explicit Picture(const Tensor& tensor)
      : tensor_(tensor.stride(1) == 1 || tensor.size(1) == 1
                    ? tensor
                    : torch::stable::contiguous(tensor, MemoryFormat::ChannelsLast)) {}

  // Valid as long as this object.
  Pixels pixels() const {
    // The stride of a dimension of size 1 may be anything; here it is that of a dense picture.
    const auto stride = [this](int64_t dimension, int64_t dense) {
      return tensor_.size(dimension) == 1 ? dense : tensor_.stride(dimension);
    };
    Pixels pixels{};
    pixels.data = tensor_.const_data_ptr();
    pixels.pixel_stride = stride(3, tensor_.size(1));
    pixels.row_stride = stride(2, tensor_.size(3) * pixels.pixel_stride);
    pixels.batch_stride = stride(0, tensor_.size(2) * pixels.row_stride);
    return pixels;
  }

 private:
  Tensor tensor_;  // [N, C, H, W]
};

// Where vector instructions of GPUs can load from.
constexpr std::uintptr_t kGpuAlignment = 16;

inline Tensor aligned(const Tensor& dense) {
  const auto address = reinterpret_cast<std::uintptr_t>(dense.const_data_ptr());
  return address % kGpuAlignment == 0 ? dense : torch::stable::clone(dense);
}

// Like Dense and Picture, for kernels that read aligned memory without gaps only.
class AlignedDense : public Dense {
 public:
  explicit AlignedDense(const OptionalTensor& tensor)
      : Dense(tensor ? aligned(torch::stable::contiguous(*tensor)) : tensor) {}
};

class AlignedPicture : public Picture {
 public:
  explicit AlignedPicture(const Tensor& tensor)
      : Picture(aligned(torch::stable::contiguous(tensor, MemoryFormat::ChannelsLast))) {}
};

// --- What kernels write, on the device of `like` ---

inline Tensor new_dense(const Sizes& sizes, ScalarType type, const Tensor& like) {
  return torch::stable::new_empty(like, sizes, type);
}

// [N, C, H, W] with adjacent channels, of the type of `like`.
inline Tensor new_picture(const Sizes& sizes, const Tensor& like) {
  return torch::stable::empty(sizes, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              MemoryFormat::ChannelsLast);
}

// Of the sizes and the type of `like`; without any values if it is not `wanted`.
inline Tensor dense_like(const Tensor& like, bool wanted = true) {
  return new_dense(wanted ? sizes_of(like) : Sizes{0}, like.scalar_type(), like);
}

}  // namespace proxyless::ops
