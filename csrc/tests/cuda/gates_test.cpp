// The gates for GPUs in the emulator, against the CPU's.
#include "kernels/cuda/gates.h"

#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "emulator.h"
#include "expect.h"
#include "kernels/cpu/gates.h"
#include "kernels/storage.h"

namespace proxyless {
namespace {

using cuda::emulator::Buffer;
using cuda::emulator::Order;
using testing::Expectations;

struct Type {
  DType dtype;
  const char* name;
  double epsilon;   // the distance from 1 to the next number
  double smallest;  // differences that sums in another order, or tiny numbers, may make
};

constexpr Type kTypes[] = {{DType::kFloat32, "float32", 0x1p-23, 1e-14},
                           {DType::kFloat64, "float64", 0x1p-52, 1e-14},
                           {DType::kBFloat16, "bfloat16", 0x1p-7, 1e-14},
                           {DType::kFloat16, "float16", 0x1p-10, 0x1p-24}};

// Edges and candidates: none, one warp and more, more edges than a block has warps.
constexpr int64_t kSizes[][2] = {{0, 3}, {2, 0}, {1, 1}, {21, 7}, {5, 32}, {4, 33}, {3, 100}};

class Matrices {
 public:
  Matrices(const Type& type, int64_t edges, int64_t candidates)
      : type_(type), edges_(edges), candidates_(candidates), alpha_(bytes()), gates_(bytes()) {
    std::mt19937 random;
    const auto number = [&] { return static_cast<double>(random()) / 0x1p31 - 1; };
    for (int64_t i = 0; i < count(); ++i) {
      const int64_t edge = i / candidates, candidate = i % candidates;
      // Edge 1 is all even; another has as many candidates less as its number says.
      const bool missing = edge > 1 && candidate > 0 && candidate >= candidates - edge;
      const double alpha = edge == 1 ? 0.5 : 5 * number();
      write(alpha_.data(), type.dtype, i,
            missing ? -std::numeric_limits<double>::infinity() : alpha);
      write(gates_.data(), type.dtype, i, missing ? 0 : 3 * number());
    }
  }

  std::vector<double> of_cpu() const {
    std::vector<unsigned char> gradient(bytes());
    cpu::alpha_gradient(arguments(alpha_.data(), gates_.data(), gradient.data()));
    return values(gradient.data());
  }

  std::vector<double> of_gpu() const {
    Buffer alpha(bytes(), "alpha"), gates(bytes(), "gate_gradient"), gradient(bytes(), "gradient");
    alpha.write(alpha_.data());
    gates.write(gates_.data());
    cuda::alpha_gradient(arguments(alpha.data(), gates.data(), gradient.data()), nullptr);
    return values(gradient.data());
  }

 private:
  int64_t count() const { return edges_ * candidates_; }
  std::size_t bytes() const { return static_cast<std::size_t>(count() * dtype_bytes(type_.dtype)); }

  AlphaGradient arguments(const void* alpha, const void* gates, void* gradient) const {
    return {type_.dtype, edges_, candidates_, alpha, gates, gradient};
  }

  std::vector<double> values(const void* gradient) const {
    std::vector<double> result;
    for (int64_t i = 0; i < count(); ++i) result.push_back(read(gradient, type_.dtype, i));
    return result;
  }

  Type type_;
  int64_t edges_, candidates_;
  std::vector<unsigned char> alpha_, gates_;
};

bool close(const Type& type, const std::vector<double>& found,
           const std::vector<double>& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double bar = type.epsilon * std::fabs(expected[i]) + type.smallest;
    if (!(std::fabs(found[i] - expected[i]) <= bar)) return false;
  }
  return true;
}

void test(Expectations& expectations, const Type& type, int64_t edges, int64_t candidates) {
  const std::string name = std::string(type.name) + " " + std::to_string(edges) + " by " +
                           std::to_string(candidates) + ": ";
  const Matrices matrices(type, edges, candidates);
  const std::vector<double> expected = matrices.of_cpu();
  for (const Order order : {Order::kForward, Order::kReverse, Order::kRandom}) {
    cuda::emulator::set_order(order, 0);
    try {
      expectations.expect(close(type, matrices.of_gpu(), expected),
                          name + "not what the CPU gives");
    } catch (const cuda::emulator::Error& error) {
      expectations.expect(false, name + error.what());
    }
  }
}

}  // namespace
}  // namespace proxyless

int main() {
  using namespace proxyless;
  testing::Expectations expectations;
  for (const Type& type : kTypes) {
    for (const auto& [edges, candidates] : kSizes) test(expectations, type, edges, candidates);
  }
  return expectations.exit_code();
}
