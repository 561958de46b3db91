// The checks of a pool's sizes, for all layers above the kernels.
#pragma once

#include <cstdint>

#include "host/checks.h"
#include "kernels/pool.h"

namespace proxyless::pool {

constexpr Checks check("pool");

PoolShape check_pool(const Sizes& x,  // [N, C, H, W]
                     int64_t kernel, int64_t stride, bool maximum);

}  // namespace proxyless::pool
