// The checks of a block's sizes and options, for all layers above the kernels.
#pragma once

#include <cstdint>
#include <optional>

#include "host/checks.h"
#include "kernels/mbconv.h"

namespace proxyless::mbconv {

constexpr Checks check("mbconv");

// What forward, backward and probe are given, without the values.
struct BlockSizes {
  Sizes x;                      // [N, C, H, W]
  std::optional<Sizes> expand;  // [hidden, C, ke, ke]
  Sizes depthwise;              // [hidden, 1, k, k]
  Sizes project;                // [O, hidden, 1, 1]
  Sizes scale, shift;           // [S]
  double eps;
  int64_t stride, expand_stride;
};

// That a block can have these sizes; a batch may be empty.
void check_shape(const MBConvShape& shape);

MBConvShape check_block(const BlockSizes& sizes);

MBConvShape check_moments(const Sizes& x,  // [N, C, H, W]
                          int64_t kernel, int64_t stride);

void check_residual(bool residual, const MBConvShape& shape);

// Mean and variance, each of which may be missing.
void check_statistics(const std::optional<Sizes>& mean, const std::optional<Sizes>& var,
                      const MBConvShape& shape);

Sizes moments_sizes(const MBConvShape& shape);  // [1 + K, K]

}  // namespace proxyless::mbconv
