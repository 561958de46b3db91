#include "host/mbconv_checks.h"

#include <cmath>

namespace proxyless::mbconv {
namespace {

void check_positive(const char* name, int64_t value) {
  check(value > 0, name, " must be positive, not ", value);
}

void check_kernel(const char* name, int64_t value) {
  check(value > 0 && value % 2 == 1 && value <= kMaxKernel, name,
        " must be odd, positive and at most ", kMaxKernel, ", not ", value);
}

void check_stride(const char* name, int64_t value) {
  check(value == 1 || value == 2, name, " must be 1 or 2, not ", value);
}

// A shape of which only the pictures' sizes are filled in.
MBConvShape shape_of_pictures(const Sizes& x) {
  check(x.size() == 4, "x must have the shape [N, C, H, W], not ", to_string(x));
  check(x[1] > 0 && x[2] > 0 && x[3] > 0,
        "x must have at least one channel, row and column, not the shape ", to_string(x));
  MBConvShape shape{};
  shape.batch = x[0];
  shape.in_channels = x[1];
  shape.height = x[2];
  shape.width = x[3];
  return shape;
}

void check_weight(const char* name, const Sizes& sizes, const char* expected) {
  check(sizes.size() == 4 && sizes[0] > 0, name, " must have the shape ", expected, ", not ",
        to_string(sizes));
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

}  // namespace

void check_sizes(const char* name, const Sizes& sizes, const Sizes& expected) {
  check(sizes == expected, name, " must have the shape ", to_string(expected), ", not ",
        to_string(sizes));
}

void check_shape(const MBConvShape& shape) {
  check_positive("height", shape.height);
  check_positive("width", shape.width);
  check_positive("in_channels", shape.in_channels);
  check_positive("hidden", shape.hidden);
  check_positive("out_channels", shape.out_channels);
  check_kernel("kernel", shape.kernel);
  check_stride("stride", shape.stride);
  check_stride("expand_stride", shape.expand_stride);
  if (shape.expand_kernel == 0) {
    check(shape.expand_stride == 1, "expand_stride must be 1 without expand");
    check(shape.hidden == shape.in_channels, "depthwise must have ", shape.in_channels,
          " channels, as x has, unless expand is given, not ", shape.hidden);
  } else {
    check_kernel("expand_kernel", shape.expand_kernel);
  }
  check_countable(shape);
}

MBConvShape check_block(const BlockSizes& sizes) {
  MBConvShape shape = shape_of_pictures(sizes.x);
  check_weight("depthwise", sizes.depthwise, "[hidden, 1, k, k]");
  check_weight("project", sizes.project, "[O, hidden, 1, 1]");
  if (sizes.expand) check_weight("expand", *sizes.expand, "[hidden, C, ke, ke]");

  shape.hidden = sizes.depthwise[0];
  shape.out_channels = sizes.project[0];
  shape.expand_kernel = sizes.expand ? (*sizes.expand)[2] : 0;
  shape.expand_stride = sizes.expand_stride;
  shape.kernel = sizes.depthwise[2];
  shape.stride = sizes.stride;

  if (sizes.expand) {
    check_kernel("the kernel of expand", shape.expand_kernel);
    check_sizes("expand", *sizes.expand,
                {shape.hidden, shape.in_channels, shape.expand_kernel, shape.expand_kernel});
  }
  check_kernel("the kernel of depthwise", shape.kernel);
  check_sizes("depthwise", sizes.depthwise, {shape.hidden, 1, shape.kernel, shape.kernel});
  check_sizes("project", sizes.project, {shape.out_channels, shape.hidden, 1, 1});
  check_shape(shape);
  check_sizes("scale", sizes.scale, {shape.norm_channels()});
  check_sizes("shift", sizes.shift, {shape.norm_channels()});
  check(sizes.eps >= 0 && std::isfinite(sizes.eps), "eps must be finite and not negative, not ",
        sizes.eps);
  return shape;
}

MBConvShape check_moments(const Sizes& x, int64_t kernel, int64_t stride) {
  MBConvShape shape = shape_of_pictures(x);
  check_kernel("kernel", kernel);
  check_stride("stride", stride);
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
  check_sizes("mean", *mean, {shape.norm_channels()});
  check_sizes("var", *var, {shape.norm_channels()});
}

Sizes moments_sizes(const MBConvShape& shape) { return {1 + shape.patch(), shape.patch()}; }

}  // namespace proxyless::mbconv
