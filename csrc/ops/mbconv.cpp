#include "ops/mbconv.h"

#include "host/mbconv_checks.h"

namespace proxyless::ops {
namespace {

using mbconv::check;
using mbconv::check_sizes;

std::optional<Sizes> sizes_of_optional(const OptionalTensor& tensor) {
  return tensor ? std::optional(sizes_of(*tensor)) : std::nullopt;
}

void check_kind(const char* name, const Tensor& tensor, ScalarType type, const Tensor& x) {
  check(tensor.scalar_type() == type, name, " must be ", torch::headeronly::toString(type),
        " to go with x, not ", torch::headeronly::toString(tensor.scalar_type()));
  check(tensor.device() == x.device(), name, " must be on the same device as x");
}

void check_vector(const char* name, const Tensor& vector, const Tensor& x) {
  check_kind(name, vector, vector_type(x), x);
}

MBConvShape check_block(const MBConvArguments& args) {
  const Tensor& x = args.x;
  const MBConvShape shape =
      mbconv::check_block({sizes_of(x), sizes_of_optional(args.expand), sizes_of(args.depthwise),
                           sizes_of(args.project), sizes_of(args.scale), sizes_of(args.shift),
                           args.eps, args.stride, args.expand_stride});
  dtype_of(x);
  if (args.expand) check_kind("expand", *args.expand, x.scalar_type(), x);
  check_kind("depthwise", args.depthwise, x.scalar_type(), x);
  check_kind("project", args.project, x.scalar_type(), x);
  check_vector("scale", args.scale, x);
  check_vector("shift", args.shift, x);
  return shape;
}

void check_statistics(const OptionalTensor& mean, const OptionalTensor& var, const Tensor& x,
                      const MBConvShape& shape) {
  mbconv::check_statistics(sizes_of_optional(mean), sizes_of_optional(var), shape);
  if (!mean) return;
  check_vector("mean", *mean, x);
  check_vector("var", *var, x);
}

void check_output(const char* name, const Tensor& tensor, const Tensor& x,
                  const MBConvShape& shape) {
  check_sizes(name, sizes_of(tensor),
              {shape.batch, shape.out_channels, shape.out_height(), shape.out_width()});
  check_kind(name, tensor, x.scalar_type(), x);
}

void check_moments_of(const Tensor& moments, const Tensor& x, const MBConvShape& shape) {
  check_sizes("moments", sizes_of(moments), mbconv::moments_sizes(shape));
  check_kind("moments", moments, ScalarType::Double, x);
}

}  // namespace

MBConvShape check_moments(const Tensor& x, int64_t kernel, int64_t stride) {
  const MBConvShape shape = mbconv::check_moments(sizes_of(x), kernel, stride);
  dtype_of(x);
  return shape;
}

MBConvShape check_forward(const MBConvArguments& args, const OptionalTensor& mean,
                          const OptionalTensor& var, bool residual) {
  const MBConvShape shape = check_block(args);
  check_statistics(mean, var, args.x, shape);
  mbconv::check_residual(residual, shape);
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
  mbconv::check_residual(residual, shape);
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
