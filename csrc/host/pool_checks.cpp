#include "host/pool_checks.h"

namespace proxyless::pool {

PoolShape check_pool(const Sizes& x, int64_t kernel, int64_t stride, bool maximum) {
  check.pictures(x);
  check(kernel > 0 && kernel % 2 == 1 && kernel <= kMaxPoolKernel,
        "kernel must be odd, positive and at most ", kMaxPoolKernel, ", not ", kernel);
  check.stride("stride", stride);
  check.countable(x[0], x[2], x[3], static_cast<double>(x[1]));
  return {x[0], x[2], x[3], x[1], kernel, stride, maximum};
}

}  // namespace proxyless::pool
