// The mbconv operators on the CPU: checks the values that checks of shapes do not see, allocates
// results and workspace, and runs the kernels on torch's threads.
//
// Kernels take no empty batch. What such a batch gives is decided here: no pictures, statistics
// that are NaN like the mean of no values, and gradients of weights that are 0.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>

#include "host/isa_choice.h"
#include "host/workspace.h"
#include "kernels/cpu/mbconv.h"
#include "ops/mbconv.h"

namespace proxyless::ops {
namespace {

// --- The block's arguments ---

template <class T>
bool all_finite(const void* data, int64_t count) {
  const T* values = static_cast<const T*>(data);
  return std::all_of(values, values + count, [](T value) { return std::isfinite(value); });
}

void check_finite(const char* name, const Dense& vector, const MBConvShape& shape, DType dtype) {
  const int64_t count = shape.norm_channels();
  const bool finite = dtype == DType::kFloat64 ? all_finite<double>(vector.data(), count)
                                               : all_finite<float>(vector.data(), count);
  if (!finite) {
    throw std::invalid_argument("mbconv: " + std::string(name) + " has a value that is not finite");
  }
}

// The arguments as kernels take them.
class Block {
 public:
  Block(const MBConvArguments& args, const MBConvShape& shape, bool batch_statistics)
      : x_(args.x),
        expand_(args.expand),
        depthwise_(args.depthwise),
        project_(args.project),
        scale_(args.scale),
        shift_(args.shift) {
    input_.shape = shape;
    input_.dtype = dtype_of(args.x);
    input_.x = x_.pixels();
    input_.expand = expand_.data();
    input_.depthwise = depthwise_.data();
    input_.project = project_.data();
    input_.scale = scale_.data();
    input_.shift = shift_.data();
    input_.eps = args.eps;
    input_.batch_statistics = batch_statistics;
    check_finite("scale", scale_, shape, input_.dtype);
    check_finite("shift", shift_, shape, input_.dtype);
  }

  // Valid as long as this object.
  const MBConvInput& input() const { return input_; }
  bool needs_moments() const { return input_.batch_statistics && input_.shape.has_expand(); }

 private:
  Picture x_;
  Dense expand_, depthwise_, project_, scale_, shift_;
  MBConvInput input_{};
};

// --- Running a kernel ---

ParallelFor torch_threads() {
  const auto run = [](void*, int64_t tasks, void (*body)(void* body_context, int64_t task),
                      void* body_context) {
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) body(body_context, task);
    });
  };
  return {run, nullptr};
}

cpu::Isa selected_isa() {
  static const cpu::Isa isa = isa_of_environment();
  return isa;
}

// Runs a kernel for pictures like x.
template <class Args>
void run(void (*kernel)(const Args&, cpu::Isa), Args& args, const MBConvShape& shape,
         int64_t cpu::MBConvPlan::* bytes, const Tensor& x) {
  const cpu::Isa isa = selected_isa();
  const Workspace workspace(
      static_cast<std::size_t>(cpu::plan_mbconv(shape, dtype_of(x), isa).*bytes));
  args.workspace = workspace.data();
  args.parallel = torch_threads();
  kernel(args, isa);
}

// [1 + K, K], still without values; without any if they are not `wanted`.
Tensor new_moments(const MBConvShape& shape, const Tensor& x, bool wanted = true) {
  const Sizes sizes{1 + shape.patch(), shape.patch()};
  return new_dense(wanted ? sizes : Sizes{0}, ScalarType::Double, x);
}

void write_moments(const Tensor& moments,  // [1 + K, K]
                   const Pixels& pixels, const MBConvShape& shape, const Tensor& x) {
  MBConvMoments args{};
  args.shape = shape;
  args.dtype = dtype_of(x);
  args.x = pixels;
  args.moments = moments.mutable_data_ptr<double>();
  run(cpu::mbconv_moments, args, shape, &cpu::MBConvPlan::moments_bytes, x);
}

void fill_with_nan(const Tensor& tensor) {
  torch::stable::fill_(tensor, std::numeric_limits<double>::quiet_NaN());
}

// --- The operators ---

Tensor mbconv_moments(const Tensor& x, int64_t kernel, int64_t stride) {
  const MBConvShape shape = check_moments(x, kernel, stride);
  const Tensor moments = new_moments(shape, x);
  if (shape.batch == 0) {
    fill_with_nan(moments);
  } else {
    const Picture picture(x);
    write_moments(moments, picture.pixels(), shape, x);
  }
  return moments;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mbconv_forward(
    const Tensor& x, const OptionalTensor& expand, const Tensor& depthwise, const Tensor& project,
    const Tensor& scale, const Tensor& shift, const OptionalTensor& mean, const OptionalTensor& var,
    double eps, int64_t stride, int64_t expand_stride, bool residual, bool save) {
  const MBConvArguments arguments{x,     expand, depthwise, project,      scale,
                                  shift, eps,    stride,    expand_stride};
  const MBConvShape shape = check_forward(arguments, mean, var, residual);
  const Block block(arguments, shape, !mean);

  const Sizes sizes{shape.batch, shape.out_channels, shape.out_height(), shape.out_width()};
  const Tensor y = new_picture(sizes, x);
  const Tensor p = save ? new_picture(sizes, x) : dense_like(x, false);
  const Tensor used_mean = mean ? torch::stable::clone(*mean) : dense_like(scale);
  const Tensor used_var = var ? torch::stable::clone(*var) : dense_like(scale);
  const Tensor moments = new_moments(shape, x, block.needs_moments());
  const std::tuple results(y, p, used_mean, used_var, moments);
  if (shape.batch == 0) {
    if (!mean) {
      for (const Tensor& statistics : {used_mean, used_var, moments}) fill_with_nan(statistics);
    }
    return results;
  }

  MBConvForward args{};
  args.input = block.input();
  if (block.needs_moments()) {
    write_moments(moments, args.input.x, shape, x);
    args.moments = moments.const_data_ptr<double>();
  }
  args.mean = used_mean.mutable_data_ptr();
  args.var = used_var.mutable_data_ptr();
  args.residual = residual;
  args.p = save ? p.mutable_data_ptr() : nullptr;
  args.y = y.mutable_data_ptr();
  run(cpu::mbconv_forward, args, shape, &cpu::MBConvPlan::forward_bytes, x);
  return results;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mbconv_backward(
    const Tensor& grad, const Tensor& x, const OptionalTensor& expand, const Tensor& depthwise,
    const Tensor& project, const Tensor& scale, const Tensor& shift, const Tensor& p,
    const Tensor& mean, const Tensor& var, const Tensor& moments, double eps, int64_t stride,
    int64_t expand_stride, bool residual, bool batch_statistics, bool input_grad,
    bool weight_grads) {
  const MBConvArguments arguments{x,     expand, depthwise, project,      scale,
                                  shift, eps,    stride,    expand_stride};
  const MBConvShape shape =
      check_backward(arguments, grad, p, mean, var, moments, residual, batch_statistics);
  const Block block(arguments, shape, batch_statistics);

  const Tensor dx = input_grad ? new_picture(sizes_of(x), x) : dense_like(x, false);
  const Tensor dexpand = expand ? dense_like(*expand, weight_grads) : dense_like(x, false);
  const Tensor ddepthwise = dense_like(depthwise, weight_grads);
  const Tensor dproject = dense_like(project, weight_grads);
  const Tensor dscale = dense_like(scale, weight_grads);
  const Tensor dshift = dense_like(shift, weight_grads);
  const std::tuple results(dx, dexpand, ddepthwise, dproject, dscale, dshift);
  if (shape.batch == 0) {
    for (const Tensor& gradient : {dexpand, ddepthwise, dproject, dscale, dshift}) {
      torch::stable::fill_(gradient, 0);
    }
    return results;
  }

  const Picture grad_picture(grad);
  const Picture dense_p(torch::stable::contiguous(p, MemoryFormat::ChannelsLast));
  const Dense dense_mean(mean), dense_var(var), dense_moments(moments);
  MBConvBackward args{};
  args.input = block.input();
  if (block.needs_moments()) args.moments = static_cast<const double*>(dense_moments.data());
  args.mean = dense_mean.data();
  args.var = dense_var.data();
  args.p = dense_p.pixels().data;
  args.grad = grad_picture.pixels();
  args.residual = residual;
  args.dx = input_grad ? dx.mutable_data_ptr() : nullptr;
  if (weight_grads) {
    args.dexpand = expand ? dexpand.mutable_data_ptr() : nullptr;
    args.ddepthwise = ddepthwise.mutable_data_ptr();
    args.dproject = dproject.mutable_data_ptr();
    args.dscale = dscale.mutable_data_ptr();
    args.dshift = dshift.mutable_data_ptr();
  }
  run(cpu::mbconv_backward, args, shape, &cpu::MBConvPlan::backward_bytes, x);
  return results;
}

Tensor mbconv_gate_probe(const Tensor& grad, const Tensor& x, const OptionalTensor& expand,
                         const Tensor& depthwise, const Tensor& project, const Tensor& scale,
                         const Tensor& shift, const OptionalTensor& mean, const OptionalTensor& var,
                         const OptionalTensor& moments, double eps, int64_t stride,
                         int64_t expand_stride) {
  const MBConvArguments arguments{x,     expand, depthwise, project,      scale,
                                  shift, eps,    stride,    expand_stride};
  const MBConvShape shape = check_gate_probe(arguments, grad, mean, var, moments);
  const Block block(arguments, shape, !mean);
  double result = 0;
  if (shape.batch > 0) {
    const Picture grad_picture(grad);
    const Dense dense_mean(mean), dense_var(var);
    OptionalTensor used_moments;
    if (block.needs_moments()) {
      used_moments = moments ? *moments : new_moments(shape, x);
      if (!moments) write_moments(*used_moments, block.input().x, shape, x);
    }
    const Dense dense_moments(used_moments);
    MBConvProbe args{};
    args.input = block.input();
    args.moments = static_cast<const double*>(dense_moments.data());
    args.mean = dense_mean.data();
    args.var = dense_var.data();
    args.grad = grad_picture.pixels();
    args.result = &result;
    run(cpu::mbconv_gate_probe, args, shape, &cpu::MBConvPlan::probe_bytes, x);
  }
  return torch::stable::full({}, result, vector_type(x));
}

}  // namespace
}  // namespace proxyless::ops

STABLE_TORCH_LIBRARY_IMPL(proxyless, CPU, m) {
  m.impl("mbconv_moments", TORCH_BOX(&proxyless::ops::mbconv_moments));
  m.impl("mbconv_forward", TORCH_BOX(&proxyless::ops::mbconv_forward));
  m.impl("mbconv_backward", TORCH_BOX(&proxyless::ops::mbconv_backward));
  m.impl("mbconv_gate_probe", TORCH_BOX(&proxyless::ops::mbconv_gate_probe));
}
