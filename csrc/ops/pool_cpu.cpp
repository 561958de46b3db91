// The operators of pooling, which are there for the CPU only.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "host/pool_checks.h"
#include "kernels/cpu/pool.h"
#include "ops/cpu.h"
#include "ops/tensor_checks.h"
#include "ops/tensors.h"

namespace proxyless::ops {
namespace {

using pool::check;

Sizes output_sizes(const PoolShape& s) {
  return {s.batch, s.channels, s.out_height(), s.out_width()};
}

cpu::PoolPlan plan(const PoolShape& shape, DType dtype) {
  return cpu::plan_pool(shape, dtype, selected_isa());
}

std::tuple<Tensor, Tensor> forward(const Tensor& x,  // [N, C, H, W]
                                   int64_t kernel, int64_t stride, bool maximum) {
  PoolForward args{};
  args.shape = pool::check_pool(sizes_of(x), kernel, stride, maximum);
  args.dtype = dtype_of(check, x);
  const Tensor y = new_picture(output_sizes(args.shape), x);
  // Empty for averages, which need none.
  const Tensor taps =
      torch::stable::empty(maximum ? output_sizes(args.shape) : Sizes{0, 0, 0, 0}, ScalarType::Byte,
                           std::nullopt, x.device(), std::nullopt, MemoryFormat::ChannelsLast);
  if (args.shape.batch == 0) return {y, taps};
  const Picture picture(x);
  args.x = picture.pixels();
  args.y = y.mutable_data_ptr();
  if (maximum) args.taps = static_cast<uint8_t*>(taps.mutable_data_ptr());
  run_on_cpu(cpu::pool_forward, args, plan(args.shape, args.dtype).forward_bytes);
  return {y, taps};
}

Tensor backward(const Tensor& grad,  // [N, C, Ho, Wo]
                const Tensor& taps,  // [N, C, Ho, Wo], of averages empty
                int64_t height, int64_t width, int64_t kernel, int64_t stride, bool maximum) {
  check.pictures(sizes_of(grad));
  const Sizes sizes{grad.size(0), grad.size(1), height, width};
  PoolBackward args{};
  args.shape = pool::check_pool(sizes, kernel, stride, maximum);
  args.dtype = dtype_of(check, grad);
  check.sizes("grad", sizes_of(grad), output_sizes(args.shape));
  const Tensor dx = new_picture(sizes, grad);
  if (args.shape.batch == 0) return dx;
  const Picture picture(grad);
  args.grad = picture.pixels();
  if (maximum) {
    check.sizes("taps", sizes_of(taps), sizes_of(grad));
    check_kind(check, "taps", taps, ScalarType::Byte, grad);
  }
  const Tensor dense = torch::stable::contiguous(taps, MemoryFormat::ChannelsLast);
  if (maximum) args.taps = static_cast<const uint8_t*>(dense.const_data_ptr());
  args.dx = dx.mutable_data_ptr();
  run_on_cpu(cpu::pool_backward, args, plan(args.shape, args.dtype).backward_bytes);
  return dx;
}

Tensor gate_probe(const Tensor& grad,  // [N, C, Ho, Wo]
                  const Tensor& x,     // [N, C, H, W]
                  int64_t kernel, int64_t stride, bool maximum) {
  PoolProbe args{};
  args.shape = pool::check_pool(sizes_of(x), kernel, stride, maximum);
  args.dtype = dtype_of(check, x);
  check.sizes("grad", sizes_of(grad), output_sizes(args.shape));
  check_kind(check, "grad", grad, x.scalar_type(), x);
  const Tensor result = new_dense({}, vector_type(x), x);
  if (args.shape.batch == 0) {
    torch::stable::fill_(result, 0);
    return result;
  }
  const Picture picture(x), grad_picture(grad);
  args.x = picture.pixels();
  args.grad = grad_picture.pixels();
  args.result = result.mutable_data_ptr();
  run_on_cpu(cpu::pool_gate_probe, args, plan(args.shape, args.dtype).probe_bytes);
  return result;
}

}  // namespace
}  // namespace proxyless::ops

STABLE_TORCH_LIBRARY_IMPL(proxyless, CPU, m) {
  m.impl("pool_forward", TORCH_BOX(&proxyless::ops::forward));
  m.impl("pool_backward", TORCH_BOX(&proxyless::ops::backward));
  m.impl("pool_gate_probe", TORCH_BOX(&proxyless::ops::gate_probe));
}
