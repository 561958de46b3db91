#include "ops/mbconv.h"

#include "host/mbconv_checks.h"

namespace proxyless::ops {
namespace {

using mbconv::check;

std::optional<Sizes> sizes_of_optional(const OptionalTensor& tensor) {
  return tensor ? std::optional(sizes_of(*tensor)) : std::nullopt;
}

MBConvShape check_block(const MBConvArguments& args) {
  const Tensor& x = args.x;
  const MBConvShape shape =
      mbconv::check_block({sizes_of(x), sizes_of_optional(args.expand), sizes_of(args.depthwise),
                           sizes_of(args.project), sizes_of(args.scale), sizes_of(args.shift),
                           args.eps, args.stride, args.expand_stride});
  dtype_of(check, x);
  if (args.expand) check_kind(check, "expand", *args.expand, x.scalar_type(), x);
  check_kind(check, "depthwise", args.depthwise, x.scalar_type(), x);
  check_kind(check, "project", args.project, x.scalar_type(), x);
  check_vector(check, "scale", args.scale, x);
  check_vector(check, "shift", args.shift, x);
  return shape;
}

void check_statistics(const OptionalTensor& mean, const OptionalTensor& var, const Tensor& x,
                      const MBConvShape& shape) {
  mbconv::check_statistics(sizes_of_optional(mean), sizes_of_optional(var), shape);
  if (!mean) return;
  check_vector(check, "mean", *mean, x);
  check_vector(check, "var", *var, x);
}

void check_output(const char* name, const Tensor& tensor, const Tensor& x,
                  const MBConvShape& shape) {
  check.sizes(name, sizes_of(tensor),
              {shape.batch, shape.out_channels, shape.out_height(), shape.out_width()});
  check_kind(check, name, tensor, x.scalar_type(), x);
}

void check_moments_of(const Tensor& moments, const Tensor& x, const MBConvShape& shape) {
  check.sizes("moments", sizes_of(moments), mbconv::moments_sizes(shape));
  check_kind(check, "moments", moments, ScalarType::Double, x);
}

}  // namespace

MBConvShape check_moments(const Tensor& x, int64_t kernel, int64_t stride) {
  const MBConvShape shape = mbconv::check_moments(sizes_of(x), kernel, stride);
  dtype_of(check, x);
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

}  // namespace proxyless::ops
