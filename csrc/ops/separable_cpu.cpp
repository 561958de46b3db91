// The separable operators, which are there for the CPU only.
//
// Kernels take no empty batch. What such a batch gives is decided here, as for the MBConv.
#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "host/separable_checks.h"
#include "kernels/cpu/separable.h"
#include "kernels/storage.h"
#include "ops/cpu.h"
#include "ops/tensor_checks.h"
#include "ops/tensors.h"

namespace proxyless::ops {
namespace {

using separable::check;

// The arguments that forward, backward and probe have in common, as kernels take them.
class SeparableArguments {
 public:
  SeparableArguments(const Tensor& x,          // [N, C, H, W]
                     const Tensor& depthwise,  // [C, 1, k, k]
                     const Tensor& pointwise,  // [O, C, 1, 1]
                     const Tensor& scale,      // [C]
                     const Tensor& shift,      // [C]
                     const Tensor& mean,       // [C]
                     const Tensor& var,        // [C]
                     double eps, int64_t stride, int64_t dilation, bool batch_statistics)
      : shape_(separable::check_block({sizes_of(x), sizes_of(depthwise), sizes_of(pointwise),
                                       sizes_of(scale), sizes_of(shift), sizes_of(mean),
                                       sizes_of(var), eps, stride, dilation})),
        x_(x),
        depthwise_(depthwise),
        pointwise_(pointwise),
        scale_(scale),
        shift_(shift),
        mean_(mean),
        var_(var) {
    input_.shape = shape_;
    input_.dtype = dtype_of(check, x);
    check_kind(check, "depthwise", depthwise, x.scalar_type(), x);
    check_kind(check, "pointwise", pointwise, x.scalar_type(), x);
    check_vector(check, "scale", scale, x);
    check_vector(check, "shift", shift, x);
    check_vector(check, "mean", mean, x);
    check_vector(check, "var", var, x);
    const DType vectors = vector_dtype(input_.dtype);
    check_finite(check, "scale", scale_.data(), vectors, shape_.in_channels);
    check_finite(check, "shift", shift_.data(), vectors, shape_.in_channels);
    input_.x = x_.pixels();
    input_.depthwise = depthwise_.data();
    input_.pointwise = pointwise_.data();
    input_.scale = scale_.data();
    input_.shift = shift_.data();
    input_.eps = eps;
    input_.batch_statistics = batch_statistics;
  }

  const SeparableShape& shape() const { return shape_; }
  Sizes output_sizes() const {
    return {shape_.batch, shape_.out_channels, shape_.out_height(), shape_.out_width()};
  }
  void check_grad(const Tensor& grad, const Tensor& x) const {
    check.sizes("grad", sizes_of(grad), output_sizes());
    check_kind(check, "grad", grad, x.scalar_type(), x);
  }

  // Arguments of a kernel with these filled in, valid as long as this object.
  template <class Args>
  Args start() const {
    Args args{};
    args.input = input_;
    args.mean = mean_.data();
    args.var = var_.data();
    return args;
  }

  cpu::SeparablePlan plan() const {
    return cpu::plan_separable(shape_, input_.dtype, selected_isa());
  }

 private:
  SeparableShape shape_;
  Picture x_;
  Dense depthwise_, pointwise_, scale_, shift_, mean_, var_;
  SeparableInput input_{};
};

std::tuple<Tensor, Tensor> statistics(const Tensor& x) {
  SeparableStatistics args{};
  args.shape = separable::check_pictures(sizes_of(x));
  args.dtype = dtype_of(check, x);
  const Tensor mean = new_dense({args.shape.in_channels}, vector_type(x), x);
  const Tensor var = new_dense({args.shape.in_channels}, vector_type(x), x);
  if (args.shape.batch == 0) {
    for (const Tensor& vector : {mean, var}) {
      torch::stable::fill_(vector, std::numeric_limits<double>::quiet_NaN());
    }
    return {mean, var};
  }
  const Picture picture(x);
  args.x = picture.pixels();
  args.mean = mean.mutable_data_ptr();
  args.var = var.mutable_data_ptr();
  run_on_cpu(cpu::separable_statistics, args,
             cpu::plan_separable(args.shape, args.dtype, selected_isa()).statistics_bytes);
  return {mean, var};
}

Tensor forward(const Tensor& x, const Tensor& depthwise, const Tensor& pointwise,
               const Tensor& scale, const Tensor& shift, const Tensor& mean, const Tensor& var,
               double eps, int64_t stride, int64_t dilation, bool batch_statistics) {
  const SeparableArguments block(x, depthwise, pointwise, scale, shift, mean, var, eps, stride,
                                 dilation, batch_statistics);
  const Tensor y = new_picture(block.output_sizes(), x);
  if (block.shape().batch == 0) return y;
  auto args = block.start<SeparableForward>();
  args.y = y.mutable_data_ptr();
  run_on_cpu(cpu::separable_forward, args, block.plan().forward_bytes);
  return y;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& grad,  // [N, O, Ho, Wo]
    const Tensor& x, const Tensor& depthwise, const Tensor& pointwise, const Tensor& scale,
    const Tensor& shift, const Tensor& mean, const Tensor& var, double eps, int64_t stride,
    int64_t dilation, bool batch_statistics, bool input_grad, bool weight_grads) {
  const SeparableArguments block(x, depthwise, pointwise, scale, shift, mean, var, eps, stride,
                                 dilation, batch_statistics);
  block.check_grad(grad, x);
  const Tensor dx = input_grad ? new_picture(sizes_of(x), x) : dense_like(x, false);
  const Tensor ddepthwise = dense_like(depthwise, weight_grads);
  const Tensor dpointwise = dense_like(pointwise, weight_grads);
  const Tensor dscale = dense_like(scale, weight_grads);
  const Tensor dshift = dense_like(shift, weight_grads);
  const std::tuple results(dx, ddepthwise, dpointwise, dscale, dshift);
  if (block.shape().batch == 0) {
    for (const Tensor& gradient : {ddepthwise, dpointwise, dscale, dshift}) {
      torch::stable::fill_(gradient, 0);
    }
    return results;
  }
  const Picture grad_picture(grad);
  auto args = block.start<SeparableBackward>();
  args.grad = grad_picture.pixels();
  args.dx = input_grad ? dx.mutable_data_ptr() : nullptr;
  if (weight_grads) {
    args.ddepthwise = ddepthwise.mutable_data_ptr();
    args.dpointwise = dpointwise.mutable_data_ptr();
    args.dscale = dscale.mutable_data_ptr();
    args.dshift = dshift.mutable_data_ptr();
  }
  run_on_cpu(cpu::separable_backward, args, block.plan().backward_bytes);
  return results;
}

Tensor gate_probe(const Tensor& grad,  // [N, O, Ho, Wo]
                  const Tensor& x, const Tensor& depthwise, const Tensor& pointwise,
                  const Tensor& scale, const Tensor& shift, const Tensor& mean, const Tensor& var,
                  double eps, int64_t stride, int64_t dilation) {
  const SeparableArguments block(x, depthwise, pointwise, scale, shift, mean, var, eps, stride,
                                 dilation, false);
  block.check_grad(grad, x);
  const Tensor result = new_dense({}, vector_type(x), x);
  if (block.shape().batch == 0) {
    torch::stable::fill_(result, 0);
    return result;
  }
  const Picture grad_picture(grad);
  auto args = block.start<SeparableProbe>();
  args.grad = grad_picture.pixels();
  args.result = result.mutable_data_ptr();
  run_on_cpu(cpu::separable_gate_probe, args, block.plan().probe_bytes);
  return result;
}

}  // namespace
}  // namespace proxyless::ops

STABLE_TORCH_LIBRARY_IMPL(proxyless, CPU, m) {
  m.impl("separable_statistics", TORCH_BOX(&proxyless::ops::statistics));
  m.impl("separable_forward", TORCH_BOX(&proxyless::ops::forward));
  m.impl("separable_backward", TORCH_BOX(&proxyless::ops::backward));
  m.impl("separable_gate_probe", TORCH_BOX(&proxyless::ops::gate_probe));
}
