#include "host/separable_checks.h"

namespace proxyless::separable {

SeparableShape check_pictures(const Sizes& x) {
  check.pictures(x);
  SeparableShape shape{};
  shape.batch = x[0];
  shape.in_channels = x[1];
  shape.height = x[2];
  shape.width = x[3];
  // Any block will do that has such an input.
  shape.out_channels = shape.kernel = shape.stride = shape.dilation = 1;
  check.countable(shape.batch, shape.height, shape.width, static_cast<double>(shape.in_channels));
  return shape;
}

SeparableShape check_block(const BlockSizes& sizes) {
  SeparableShape shape = check_pictures(sizes.x);
  check.weight("depthwise", sizes.depthwise, "[C, 1, k, k]");
  check.weight("pointwise", sizes.pointwise, "[O, C, 1, 1]");
  shape.out_channels = sizes.pointwise[0];
  shape.kernel = sizes.depthwise[2];
  shape.stride = sizes.stride;
  shape.dilation = sizes.dilation;

  check.kernel("the kernel of depthwise", shape.kernel);
  check.sizes("depthwise", sizes.depthwise, {shape.in_channels, 1, shape.kernel, shape.kernel});
  check.sizes("pointwise", sizes.pointwise, {shape.out_channels, shape.in_channels, 1, 1});
  check.stride("stride", shape.stride);
  check(shape.dilation > 0 && shape.dilation <= kMaxDilation,
        "dilation must be positive and at most ", kMaxDilation, ", not ", shape.dilation);
  check.countable(shape.batch, shape.height, shape.width,
                  static_cast<double>(shape.in_channels) + static_cast<double>(shape.out_channels));
  check.sizes("scale", sizes.scale, {shape.in_channels});
  check.sizes("shift", sizes.shift, {shape.in_channels});
  check.sizes("mean", sizes.mean, {shape.in_channels});
  check.sizes("var", sizes.var, {shape.in_channels});
  check.eps(sizes.eps);
  return shape;
}

}  // namespace proxyless::separable
