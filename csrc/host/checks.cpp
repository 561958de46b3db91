#include "host/checks.h"

#include <cmath>

#include "kernels/mbconv.h"

namespace proxyless {

void Checks::positive(const char* name, int64_t value) const {
  (*this)(value > 0, name, " must be positive, not ", value);
}

void Checks::kernel(const char* name, int64_t value) const {
  (*this)(value > 0 && value % 2 == 1 && value <= kMaxKernel, name,
          " must be odd, positive and at most ", kMaxKernel, ", not ", value);
}

void Checks::stride(const char* name, int64_t value) const {
  (*this)(value == 1 || value == 2, name, " must be 1 or 2, not ", value);
}

void Checks::eps(double value) const {
  (*this)(value >= 0 && std::isfinite(value), "eps must be finite and not negative, not ", value);
}

void Checks::sizes(const char* name, const Sizes& sizes, const Sizes& expected) const {
  (*this)(sizes == expected, name, " must have the shape ", to_string(expected), ", not ",
          to_string(sizes));
}

void Checks::pictures(const Sizes& x) const {
  (*this)(x.size() == 4, "x must have the shape [N, C, H, W], not ", to_string(x));
  (*this)(x[1] > 0 && x[2] > 0 && x[3] > 0,
          "x must have at least one channel, row and column, not the shape ", to_string(x));
}

void Checks::weight(const char* name, const Sizes& sizes, const char* expected) const {
  (*this)(sizes.size() == 4 && sizes[0] > 0, name, " must have the shape ", expected, ", not ",
          to_string(sizes));
}

void Checks::countable(int64_t batch, int64_t height, int64_t width, double channels) const {
  const double pixels =
      static_cast<double>(batch) * static_cast<double>(height) * static_cast<double>(width);
  (*this)((pixels + channels) * channels < 1e16, "x with ", batch, " times ", height, " by ", width,
          " pixels and these weights would give more than int64 can count");
}

}  // namespace proxyless
