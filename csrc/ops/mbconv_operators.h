// The mbconv operators but for what devices do differently: the order of checks, results, kernels.
//
// Kernels take no empty batch. What such a batch gives is decided here: no pictures, statistics
// that are NaN like the mean of no values, and gradients of weights that are 0.
#pragma once

#include <limits>
#include <tuple>

#include "ops/mbconv.h"

namespace proxyless::ops {

// The operators on a device. A Device is what that takes:
//   Picture, Dense      what its kernels can read, see tensors.h
//   Device(x, tf32)     ready to compute where x is, as long as this object lives
//   check(shape)        refuses blocks that it has no kernels for
//   check_vector(name, vector, shape)  refuses values, where looking at them costs nothing
//   run(args, shape)    a kernel, for the arguments of each; adds workspace
template <class Device>
class MBConvOperators {
 public:
  static Tensor moments(const Tensor& x, int64_t kernel, int64_t stride) {
    const MBConvShape shape = check_moments(x, kernel, stride);
    const Device device(x, false);
    device.check(shape);
    const Tensor result = new_moments(shape, x);
    if (shape.batch == 0) {
      fill_with_nan(result);
    } else {
      const typename Device::Picture picture(x);
      write_moments(device, result, picture.pixels(), shape, x);
    }
    return result;
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> forward(
      const Tensor& x, const OptionalTensor& expand, const Tensor& depthwise, const Tensor& project,
      const Tensor& scale, const Tensor& shift, const OptionalTensor& mean,
      const OptionalTensor& var, double eps, int64_t stride, int64_t expand_stride, bool residual,
      bool save, bool tf32) {
    const MBConvArguments arguments{x,     expand, depthwise, project,      scale,
                                    shift, eps,    stride,    expand_stride};
    const MBConvShape shape = check_forward(arguments, mean, var, residual);
    const Device device(x, tf32);
    const KernelInput block(device, arguments, shape, !mean);

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
      write_moments(device, moments, args.input.x, shape, x);
      args.moments = moments.const_data_ptr<double>();
    }
    args.mean = used_mean.mutable_data_ptr();
    args.var = used_var.mutable_data_ptr();
    args.residual = residual;
    args.p = save ? p.mutable_data_ptr() : nullptr;
    args.y = y.mutable_data_ptr();
    device.run(args, shape);
    return results;
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
      const Tensor& grad, const Tensor& x, const OptionalTensor& expand, const Tensor& depthwise,
      const Tensor& project, const Tensor& scale, const Tensor& shift, const Tensor& p,
      const Tensor& mean, const Tensor& var, const Tensor& moments, double eps, int64_t stride,
      int64_t expand_stride, bool residual, bool batch_statistics, bool input_grad,
      bool weight_grads, bool tf32) {
    const MBConvArguments arguments{x,     expand, depthwise, project,      scale,
                                    shift, eps,    stride,    expand_stride};
    const MBConvShape shape =
        check_backward(arguments, grad, p, mean, var, moments, residual, batch_statistics);
    const Device device(x, tf32);
    const KernelInput block(device, arguments, shape, batch_statistics);

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

    const typename Device::Picture grad_picture(grad);
    const typename Device::Picture dense_p(
        torch::stable::contiguous(p, MemoryFormat::ChannelsLast));
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
    device.run(args, shape);
    return results;
  }

  static Tensor gate_probe(const Tensor& grad, const Tensor& x, const OptionalTensor& expand,
                           const Tensor& depthwise, const Tensor& project, const Tensor& scale,
                           const Tensor& shift, const OptionalTensor& mean,
                           const OptionalTensor& var, const OptionalTensor& moments, double eps,
                           int64_t stride, int64_t expand_stride, bool tf32) {
    const MBConvArguments arguments{x,     expand, depthwise, project,      scale,
                                    shift, eps,    stride,    expand_stride};
    const MBConvShape shape = check_gate_probe(arguments, grad, mean, var, moments);
    const Device device(x, tf32);
    const KernelInput block(device, arguments, shape, !mean);
    Tensor result = new_dense({}, vector_type(x), x);
    if (shape.batch == 0) {
      torch::stable::fill_(result, 0);
      return result;
    }

    const typename Device::Picture grad_picture(grad);
    const Dense dense_mean(mean), dense_var(var);
    OptionalTensor used_moments;
    if (block.needs_moments()) {
      used_moments = moments ? *moments : new_moments(shape, x);
      if (!moments) write_moments(device, *used_moments, block.input().x, shape, x);
    }
    const Dense dense_moments(used_moments);
    MBConvProbe args{};
    args.input = block.input();
    args.moments = static_cast<const double*>(dense_moments.data());
    args.mean = dense_mean.data();
    args.var = dense_var.data();
    args.grad = grad_picture.pixels();
    args.result = result.mutable_data_ptr();
    device.run(args, shape);
    return result;
  }

 private:
  using Dense = typename Device::Dense;

  // The block's arguments as kernels take them.
  class KernelInput {
   public:
    KernelInput(const Device& device, const MBConvArguments& args, const MBConvShape& shape,
                bool batch_statistics)
        : x_(args.x),
          expand_(args.expand),
          depthwise_(args.depthwise),
          project_(args.project),
          scale_(args.scale),
          shift_(args.shift) {
      device.check(shape);
      device.check_vector("scale", scale_.data(), shape);
      device.check_vector("shift", shift_.data(), shape);
      input_.shape = shape;
      input_.dtype = dtype_of(mbconv::check, args.x);
      input_.x = x_.pixels();
      input_.expand = expand_.data();
      input_.depthwise = depthwise_.data();
      input_.project = project_.data();
      input_.scale = scale_.data();
      input_.shift = shift_.data();
      input_.eps = args.eps;
      input_.batch_statistics = batch_statistics;
    }

    // Valid as long as this object.
    const MBConvInput& input() const { return input_; }
    bool needs_moments() const { return input_.batch_statistics && input_.shape.has_expand(); }

   private:
    typename Device::Picture x_;
    Dense expand_, depthwise_, project_, scale_, shift_;
    MBConvInput input_{};
  };

  // [1 + K, K], still without values; without any if they are not `wanted`.
  static Tensor new_moments(const MBConvShape& shape, const Tensor& x, bool wanted = true) {
    const Sizes sizes{1 + shape.patch(), shape.patch()};
    return new_dense(wanted ? sizes : Sizes{0}, ScalarType::Double, x);
  }

  static void write_moments(const Device& device,
                            const Tensor& moments,  // [1 + K, K]
                            const Pixels& pixels, const MBConvShape& shape, const Tensor& x) {
    MBConvMoments args{};
    args.shape = shape;
    args.dtype = dtype_of(mbconv::check, x);
    args.x = pixels;
    args.moments = moments.mutable_data_ptr<double>();
    device.run(args, shape);
  }

  static void fill_with_nan(const Tensor& tensor) {
    torch::stable::fill_(tensor, std::numeric_limits<double>::quiet_NaN());
  }
};

}  // namespace proxyless::ops
