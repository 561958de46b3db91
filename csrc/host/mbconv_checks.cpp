#include "host/mbconv_checks.h"

namespace proxyless::mbconv {
namespace {

// A shape of which only the pictures' sizes are filled in.
MBConvShape shape_of_pictures(const Sizes& x) {
  check.pictures(x);
  MBConvShape shape{};
  shape.batch = x[0];
  shape.in_channels = x[1];
  shape.height = x[2];
  shape.width = x[3];
  return shape;
}

void check_countable(const MBConvShape& shape) {
  const auto number = [](int64_t value) { return static_cast<double>(value); };
  const double kernel = number(shape.expand_kernel);
  const double patch = number(shape.in_channels) * (1 + kernel * kernel);
  check.countable(shape.batch, shape.height, shape.width,
                  patch + number(shape.hidden) + number(shape.out_channels));
}

}  // namespace

void check_shape(const MBConvShape& shape) {
  check.positive("height", shape.height);
  check.positive("width", shape.width);
  check.positive("in_channels", shape.in_channels);
  check.positive("hidden", shape.hidden);
  check.positive("out_channels", shape.out_channels);
  check.kernel("kernel", shape.kernel);
  check.stride("stride", shape.stride);
  check.stride("expand_stride", shape.expand_stride);
  if (shape.expand_kernel == 0) {
    check(shape.expand_stride == 1, "expand_stride must be 1 without expand");
    check(shape.hidden == shape.in_channels, "depthwise must have ", shape.in_channels,
          " channels, as x has, unless expand is given, not ", shape.hidden);
  } else {
    check.kernel("expand_kernel", shape.expand_kernel);
  }
  check_countable(shape);
}

MBConvShape check_block(const BlockSizes& sizes) {
  MBConvShape shape = shape_of_pictures(sizes.x);
  check.weight("depthwise", sizes.depthwise, "[hidden, 1, k, k]");
  check.weight("project", sizes.project, "[O, hidden, 1, 1]");
  if (sizes.expand) check.weight("expand", *sizes.expand, "[hidden, C, ke, ke]");

  shape.hidden = sizes.depthwise[0];
  shape.out_channels = sizes.project[0];
  shape.expand_kernel = sizes.expand ? (*sizes.expand)[2] : 0;
  shape.expand_stride = sizes.expand_stride;
  shape.kernel = sizes.depthwise[2];
  shape.stride = sizes.stride;

  if (sizes.expand) {
    check.kernel("the kernel of expand", shape.expand_kernel);
    check.sizes("expand", *sizes.expand,
                {shape.hidden, shape.in_channels, shape.expand_kernel, shape.expand_kernel});
  }
  check.kernel("the kernel of depthwise", shape.kernel);
  check.sizes("depthwise", sizes.depthwise, {shape.hidden, 1, shape.kernel, shape.kernel});
  check.sizes("project", sizes.project, {shape.out_channels, shape.hidden, 1, 1});
  check_shape(shape);
  check.sizes("scale", sizes.scale, {shape.norm_channels()});
  check.sizes("shift", sizes.shift, {shape.norm_channels()});
  check.eps(sizes.eps);
  return shape;
}

MBConvShape check_moments(const Sizes& x, int64_t kernel, int64_t stride) {
  MBConvShape shape = shape_of_pictures(x);
  check.kernel("kernel", kernel);
  check.stride("stride", stride);
  shape.expand_kernel = kernel;
  shape.expand_stride = stride;
  // Any block will do that has such an expand layer.
  shape.hidden = shape.out_channels = shape.stride = 1;
  shape.kernel = 3;
  check_countable(shape);
  return shape;
}

void check_residual(bool residual, const MBConvShape& shape) {
  check(!residual || shape.out_channels == shape.in_channels, "residual needs ", shape.in_channels,
        " output channels, as many as x has, not ", shape.out_channels);
  check(!residual || (shape.stride == 1 && shape.expand_stride == 1),
        "residual needs stride 1 and expand_stride 1");
}

void check_statistics(const std::optional<Sizes>& mean, const std::optional<Sizes>& var,
                      const MBConvShape& shape) {
  check(mean.has_value() == var.has_value(), "mean and var must be given together");
  if (!mean) return;
  check.sizes("mean", *mean, {shape.norm_channels()});
  check.sizes("var", *var, {shape.norm_channels()});
}

Sizes moments_sizes(const MBConvShape& shape) { return {1 + shape.patch(), shape.patch()}; }

}  // namespace proxyless::mbconv
