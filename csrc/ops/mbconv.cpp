#include "ops/mbconv.h"

#include <cmath>

#include "ops/refusal.h"

namespace proxyless::ops {
namespace {

template <class... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) refuse("mbconv: ", parts...);
}

void check_sizes(const char* name, const Tensor& tensor, const Sizes& sizes) {
  check(sizes_of(tensor) == sizes, name, " must have the shape ", to_string(sizes), ", not ",
        to_string(sizes_of(tensor)));
}

void check_place(const char* name, const Tensor& tensor, const Tensor& x) {
  check(tensor.device() == x.device(), name, " must be on the same device as x");
}

void check_type(const char* name, const Tensor& tensor, ScalarType type) {
  check(tensor.scalar_type() == type, name, " must be ", torch::headeronly::toString(type),
        " to go with x, not ", torch::headeronly::toString(tensor.scalar_type()));
}

// --- Parts of the block ---

void check_stride(const char* name, int64_t stride) {
  check(stride == 1 || stride == 2, name, " must be 1 or 2, not ", stride);
}

void check_x(const Tensor& x) {
  check(x.dim() == 4, "x must have the shape [N, C, H, W], not ", to_string(sizes_of(x)));
  check(x.size(1) > 0 && x.size(2) > 0 && x.size(3) > 0,
        "x must have at least one channel, row and column, not the shape ", to_string(sizes_of(x)));
  dtype_of(x);
}

// A weight [O, I, k, k] with an odd k.
void check_weight(const char* name, const Tensor& weight, const Tensor& x, int64_t out_channels,
                  int64_t in_channels) {
  const bool square = weight.dim() == 4 && weight.size(2) == weight.size(3);
  check(square && weight.size(0) == out_channels && weight.size(1) == in_channels, name,
        " must have the shape [", out_channels, ", ", in_channels, ", k, k], not ",
        to_string(sizes_of(weight)));
  check(weight.size(2) % 2 == 1 && weight.size(2) <= kMaxKernel, name,
        " must have an odd kernel up to ", kMaxKernel, ", not ", weight.size(2));
  check_type(name, weight, x.scalar_type());
  check_place(name, weight, x);
}

void check_vector(const char* name, const Tensor& vector, const Tensor& x,
                  const MBConvShape& shape) {
  check_sizes(name, vector, {shape.norm_channels()});
  check_type(name, vector, vector_type(x));
  check_place(name, vector, x);
}

// Everything is counted in int64, in bytes, the largest workspace included.
void check_countable(const MBConvShape& shape) {
  const auto number = [](int64_t value) { return static_cast<double>(value); };
  const double pixels = number(shape.batch) * number(shape.height) * number(shape.width);
  const double kernel = number(shape.expand_kernel);
  const double patch = number(shape.in_channels) * (1 + kernel * kernel);
  const double channels = patch + number(shape.hidden) + number(shape.out_channels);
  check((pixels + channels) * channels < 1e16, "x with ", shape.batch, " times ", shape.height,
        " by ", shape.width, " pixels and these weights would give more than int64 can count");
}

MBConvShape check_block(const MBConvArguments& args) {
  const Tensor& x = args.x;
  check_x(x);
  check(args.depthwise.dim() == 4 && args.depthwise.size(0) > 0,
        "depthwise must have the shape [hidden, 1, k, k], not ",
        to_string(sizes_of(args.depthwise)));
  check(args.project.dim() == 4 && args.project.size(0) > 0,
        "project must have the shape [O, hidden, 1, 1], not ", to_string(sizes_of(args.project)));

  MBConvShape shape{};
  shape.batch = x.size(0);
  shape.in_channels = x.size(1);
  shape.height = x.size(2);
  shape.width = x.size(3);
  shape.hidden = args.depthwise.size(0);
  shape.out_channels = args.project.size(0);
  shape.expand_stride = args.expand_stride;
  shape.stride = args.stride;

  check_stride("stride", args.stride);
  check_stride("expand_stride", args.expand_stride);
  if (args.expand) {
    check_weight("expand", *args.expand, x, shape.hidden, shape.in_channels);
    shape.expand_kernel = args.expand->size(2);
  } else {
    check(args.expand_stride == 1, "expand_stride must be 1 without expand");
    check(shape.hidden == shape.in_channels, "depthwise must have ", shape.in_channels,
          " channels, as x has, unless expand is given, not ", shape.hidden);
  }
  check_weight("depthwise", args.depthwise, x, shape.hidden, 1);
  shape.kernel = args.depthwise.size(2);
  check_sizes("project", args.project, {shape.out_channels, shape.hidden, 1, 1});
  check_type("project", args.project, x.scalar_type());
  check_place("project", args.project, x);
  check_vector("scale", args.scale, x, shape);
  check_vector("shift", args.shift, x, shape);
  check(args.eps >= 0 && std::isfinite(args.eps), "eps must be finite and not negative, not ",
        args.eps);
  check_countable(shape);
  return shape;
}

// --- What else an operator may take ---

void check_residual(bool residual, const MBConvShape& shape) {
  check(!residual || shape.out_channels == shape.in_channels, "residual needs ", shape.in_channels,
        " output channels, as many as x has, not ", shape.out_channels);
  check(!residual || (shape.stride == 1 && shape.expand_stride == 1),
        "residual needs stride 1 and expand_stride 1");
}

void check_statistics(const OptionalTensor& mean, const OptionalTensor& var, const Tensor& x,
                      const MBConvShape& shape) {
  check(mean.has_value() == var.has_value(), "mean and var must be given together");
  if (!mean) return;
  check_vector("mean", *mean, x, shape);
  check_vector("var", *var, x, shape);
}

void check_output(const char* name, const Tensor& tensor, const Tensor& x,
                  const MBConvShape& shape) {
  check_sizes(name, tensor,
              {shape.batch, shape.out_channels, shape.out_height(), shape.out_width()});
  check_type(name, tensor, x.scalar_type());
  check_place(name, tensor, x);
}

void check_moments_of(const Tensor& moments, const Tensor& x, const MBConvShape& shape) {
  check_sizes("moments", moments, {1 + shape.patch(), shape.patch()});
  check_type("moments", moments, ScalarType::Double);
  check_place("moments", moments, x);
}

}  // namespace

MBConvShape check_moments(const Tensor& x, int64_t kernel, int64_t stride) {
  check_x(x);
  check(kernel > 0 && kernel % 2 == 1 && kernel <= kMaxKernel,
        "kernel must be odd, positive and at most ", kMaxKernel, ", not ", kernel);
  check_stride("stride", stride);
  MBConvShape shape{};
  shape.batch = x.size(0);
  shape.in_channels = x.size(1);
  shape.height = x.size(2);
  shape.width = x.size(3);
  shape.expand_kernel = kernel;
  shape.expand_stride = stride;
  // Any block will do that has such an expand layer.
  shape.hidden = shape.out_channels = shape.stride = 1;
  shape.kernel = 3;
  check_countable(shape);
  return shape;
}

MBConvShape check_forward(const MBConvArguments& args, const OptionalTensor& mean,
                          const OptionalTensor& var, bool residual) {
  const MBConvShape shape = check_block(args);
  check_statistics(mean, var, args.x, shape);
  check_residual(residual, shape);
  return shape;
}

MBConvShape check_backward(const MBConvArguments& args, const Tensor& grad, const Tensor& p,
                           const Tensor& mean, const Tensor& var, const Tensor& moments,
                           bool residual, bool batch_statistics) {
  const MBConvShape shape = check_block(args);
  check_output("grad", grad, args.x, shape);
  check(p.dim() == 4, "p must be what forward returned with save=True");
  check_output("p", p, args.x, shape);
  check_statistics(mean, var, args.x, shape);
  if (batch_statistics && shape.has_expand()) check_moments_of(moments, args.x, shape);
  check_residual(residual, shape);
  return shape;
}

MBConvShape check_gate_probe(const MBConvArguments& args, const Tensor& grad,
                             const OptionalTensor& mean, const OptionalTensor& var,
                             const OptionalTensor& moments) {
  const MBConvShape shape = check_block(args);
  check_output("grad", grad, args.x, shape);
  check_statistics(mean, var, args.x, shape);
  if (moments && shape.has_expand()) check_moments_of(*moments, args.x, shape);
  return shape;
}

DType dtype_of(const Tensor& x) {
  const std::optional<DType> dtype = kernel_dtype(x);
  check(dtype.has_value(), "x must be Float, Double, BFloat16 or Half, not ",
        torch::headeronly::toString(x.scalar_type()));
  return *dtype;
}

ScalarType vector_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace proxyless::ops
