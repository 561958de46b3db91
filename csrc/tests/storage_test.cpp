// The 16-bit formats: every number comes back from float64 as it was, and what lies between two
// numbers goes to the nearer one, or to the even one from the middle.
#include "kernels/storage.h"

#include <cmath>
#include <string>

#include "expect.h"

namespace proxyless {
namespace {

using testing::Expectations;

template <class Number>
void test_format(Expectations& expectations, const std::string& name, uint16_t one,
                 uint16_t infinity) {
  const auto value = [](int bits) {
    return static_cast<double>(Number{static_cast<uint16_t>(bits)});
  };
  const auto bits_of = [](double x) { return static_cast<int>(Number::from(x).bits); };
  const auto expect = [&](bool holds, const std::string& what) {
    expectations.expect(holds, name + ": " + what);
  };

  expect(value(0) == 0 && value(one) == 1, "0 and 1");
  expect(value(0x8000) == 0 && std::signbit(value(0x8000)), "-0");
  expect(std::isinf(value(infinity)) && std::isnan(value(infinity + 1)), "infinity and NaN");
  expect(std::isnan(value(bits_of(NAN))), "NaN stays NaN");
  expect(bits_of(1e300) == infinity && bits_of(-1e300) == (infinity | 0x8000), "overflow");

  bool returns = true, rounds = true;
  for (int bits = 0; bits <= infinity; ++bits) {
    returns &= bits_of(value(bits)) == bits && bits_of(-value(bits)) == (bits | 0x8000);
    if (bits >= infinity - 1) continue;
    const double middle = (value(bits) + value(bits + 1)) / 2;
    rounds &= bits_of(middle) == bits + bits % 2;
    rounds &= bits_of(std::nextafter(middle, 0)) == bits;
    rounds &= bits_of(std::nextafter(middle, HUGE_VAL)) == bits + 1;
  }
  expect(returns, "every number comes back as it was");
  expect(rounds, "rounds to nearest, ties to even");
}

}  // namespace
}  // namespace proxyless

int main() {
  proxyless::testing::Expectations expectations;
  proxyless::test_format<proxyless::BFloat16>(expectations, "bfloat16", 0x3f80, 0x7f80);
  proxyless::test_format<proxyless::Half>(expectations, "float16", 0x3c00, 0x7c00);
  return expectations.exit_code();
}
