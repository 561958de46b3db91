// The checks of a separable block's sizes, for all layers above the kernels.
#pragma once

#include <cstdint>

#include "host/checks.h"
#include "kernels/separable.h"

namespace proxyless::separable {

constexpr Checks check("separable");

// What forward, backward and probe are given, without the values.
struct BlockSizes {
  Sizes x;                        // [N, C, H, W]
  Sizes depthwise;                // [C, 1, k, k]
  Sizes pointwise;                // [O, C, 1, 1]
  Sizes scale, shift, mean, var;  // [C]
  double eps;
  int64_t stride, dilation;
};

SeparableShape check_block(const BlockSizes& sizes);

// A shape of which only the pictures' sizes are filled in.
SeparableShape check_pictures(const Sizes& x);  // [N, C, H, W]

}  // namespace proxyless::separable
