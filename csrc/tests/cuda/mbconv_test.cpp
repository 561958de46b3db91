// The fused MBConv for GPUs in the emulator: its own launches and kernels, from end to end, against
// the scalar CPU kernels in float64, which know nothing of tiles, chunks or 16 bits.
//
// Usage: mbconv_cuda_test_BUILD [orders] [case], how many orders of threads, and which one of the
// cases instead of all.
#include "kernels/cuda/mbconv.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <list>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "blocks.h"
#include "emulator.h"
#include "expect.h"
#include "kernels/cpu/mbconv_table.h"
#include "kernels/storage.h"
#include "loops.h"

namespace proxyless {
namespace {

using cuda::emulator::Buffer;
using cuda::emulator::Order;
using testing::Expectations;
using testing::weight_deviation;

// With the small one, blocks with many expanded channels need several chunks of them.
constexpr cuda::Device kSmall{2, 16 << 10}, kLarge{2, 64 << 20};

struct Case {
  MBConvShape shape;
  bool batch_statistics, residual, tf32;
  cuda::Device device = kSmall;
};

const Case kCases[] = {
    // batch, height, width, C, hidden, O, expand_kernel, expand_stride, kernel, stride
    {{2, 9, 7, 12, 40, 12, 1, 1, 3, 1}, true, true, false},  // channels between whole units
    {{1, 13, 18, 24, 72, 40, 1, 1, 5, 2}, true, false, true, kLarge},   // several tiles
    {{2, 6, 11, 10, 10, 5, 0, 1, 3, 2}, true, false, false},            // no expand layer
    {{1, 10, 20, 16, 33, 16, 1, 1, 7, 1}, false, true, false, kLarge},  // given statistics
    {{1, 7, 9, 3, 16, 7, 3, 2, 3, 1}, true, false, false},              // a stem
    {{2, 5, 5, 8, 16, 80, 1, 1, 7, 2}, true, false, false},             // more outputs than a tile
    {{1, 12, 10, 72, 40, 72, 1, 1, 5, 1}, true, true, false, kLarge},   // more inputs than a tile
    {{3, 3, 2, 4, 8, 4, 3, 1, 3, 1}, true, true, false},  // a shortcut around a 3x3 expand
    {{2, 4, 3, 16, 16, 8, 0, 1, 7, 1}, false, false, true},
    {{2, 6, 7, 4, 150, 4, 1, 1, 3, 1}, true, true, false},   // several chunks, the last one
    {{1, 9, 8, 4, 90, 6, 1, 1, 5, 2}, false, false, false},  // not full
    {{1, 9, 9, 5, 15, 6, 1, 1, 3, 2}, false, false, false},
};

// Numbers as the host has them, rounded to how the device stores them.
struct Numbers {
  Numbers(DType type, int64_t count, double mean, double deviation, std::mt19937& random)
      : dtype(type), values(static_cast<std::size_t>(count)) {
    std::vector<unsigned char> bytes(values.size() * static_cast<std::size_t>(dtype_bytes(type)));
    for (int64_t i = 0; i < count; ++i) {
      proxyless::write(bytes.data(), type, i, testing::normal(random, mean, deviation));
      values[static_cast<std::size_t>(i)] = read(bytes.data(), type, i);
    }
    stored = std::move(bytes);
  }

  DType dtype;
  std::vector<double> values;
  std::vector<unsigned char> stored;
};

struct Problem {
  Problem(const Case& c, DType type)
      : test(c),
        dtype(type),
        x(type, s().batch * s().height * s().width * s().in_channels, 0.3, 1, random),
        grad(type, s().out_pixels() * s().out_channels, 0, 1, random),
        expand(type, s().hidden * s().patch(), 0, weight_deviation(s().patch()), random),
        depthwise(type, s().hidden * s().kernel * s().kernel, 0, weight_deviation(s().kernel),
                  random),
        project(type, s().out_channels * s().hidden, 0, weight_deviation(s().hidden), random),
        scale(DType::kFloat32, s().norm_channels(), 2, 0.5, random),
        shift(DType::kFloat32, s().norm_channels(), 1, 1, random),
        mean(DType::kFloat32, s().norm_channels(), 0, 0.3, random),
        var(DType::kFloat32, s().norm_channels(), 1, 0.1, random) {}

  const MBConvShape& s() const { return test.shape; }

  std::mt19937 random;  // first, since the others are drawn from it
  Case test;
  DType dtype;
  Numbers x, grad, expand, depthwise, project, scale, shift, mean, var;
};

using Results = std::map<std::string, std::vector<double>>;

Pixels dense(const void* data, int64_t height, int64_t width, int64_t channels) {
  return {data, height * width * channels, width * channels, channels};
}

// What both sides do: allocate, run the entry points one after the other, and read back.
// `Side` says where memory is and which kernels run.
template <class Side>
class Run {
 public:
  explicit Run(const Problem& problem) : problem_(problem), side_(problem) {
    const MBConvShape& s = problem.s();
    input_ = {s,
              Side::dtype(problem.dtype),
              dense(side_.load(problem.x), s.height, s.width, s.in_channels),
              s.has_expand() ? side_.load(problem.expand) : nullptr,
              side_.load(problem.depthwise),
              side_.load(problem.project),
              side_.load(problem.scale),
              side_.load(problem.shift),
              testing::kEps,
              problem.test.batch_statistics};
    grad_ = dense(side_.load(problem.grad), s.out_height(), s.out_width(), s.out_channels);
    moments();
    forward();
    gate_probe();
    backward();
  }

  const Results& results() const { return results_; }

 private:
  const MBConvShape& s() const { return problem_.s(); }
  bool takes_moments() const { return problem_.test.batch_statistics && s().has_expand(); }
  DType dtype() const { return Side::dtype(problem_.dtype); }

  void moments() {
    if (!takes_moments()) return;
    MBConvMoments args{};
    args.shape = s();
    args.dtype = dtype();
    args.x = input_.x;
    args.moments =
        static_cast<double*>(result("moments", DType::kFloat64, (1 + s().patch()) * s().patch()));
    side_.moments(args);
    read_back();
    moments_ = args.moments;
  }

  void forward() {
    MBConvForward args{};
    args.input = input_;
    args.moments = moments_;
    if (problem_.test.batch_statistics) {
      args.mean = result("mean", Side::kVector, s().norm_channels());
      args.var = result("var", Side::kVector, s().norm_channels());
    } else {
      args.mean = side_.load(problem_.mean);
      args.var = side_.load(problem_.var);
    }
    args.residual = problem_.test.residual;
    args.p = result("p", dtype(), s().out_pixels() * s().out_channels);
    args.y = result("y", dtype(), s().out_pixels() * s().out_channels);
    side_.forward(args);
    read_back();
    mean_ = args.mean;
    var_ = args.var;
    p_ = args.p;
  }

  void gate_probe() {
    MBConvProbe args{};
    args.input = input_;
    args.moments = moments_;
    args.grad = grad_;
    if (!problem_.test.batch_statistics) {
      args.mean = mean_;
      args.var = var_;
    }
    args.result = result("probe", Side::kVector, 1);
    side_.gate_probe(args);
    read_back();
  }

  void backward() {
    MBConvBackward args{};
    args.input = input_;
    args.moments = moments_;
    args.mean = mean_;
    args.var = var_;
    args.p = p_;
    args.grad = grad_;
    args.residual = problem_.test.residual;
    args.dx = result("dx", dtype(), static_cast<int64_t>(problem_.x.values.size()));
    if (s().has_expand()) args.dexpand = result("dexpand", dtype(), s().hidden * s().patch());
    args.ddepthwise = result("ddepthwise", dtype(), s().hidden * s().kernel * s().kernel);
    args.dproject = result("dproject", dtype(), s().out_channels * s().hidden);
    args.dscale = result("dscale", Side::kVector, s().norm_channels());
    args.dshift = result("dshift", Side::kVector, s().norm_channels());
    side_.backward(args);
    read_back();
  }

  void* result(const std::string& name, DType type, int64_t count) {
    fresh_.push_back({name, type, count, side_.allocate(count * dtype_bytes(type))});
    return fresh_.back().data;
  }

  void read_back() {
    for (const Fresh& fresh : fresh_) {
      std::vector<double>& values = results_[fresh.name];
      for (int64_t i = 0; i < fresh.count; ++i) values.push_back(read(fresh.data, fresh.type, i));
    }
    fresh_.clear();
  }

  struct Fresh {
    std::string name;
    DType type;
    int64_t count;
    void* data;
  };

  const Problem& problem_;
  Side side_;
  MBConvInput input_{};
  Pixels grad_{};
  const double* moments_ = nullptr;
  void *mean_ = nullptr, *var_ = nullptr, *p_ = nullptr;
  std::vector<Fresh> fresh_;
  Results results_;
};

// The scalar kernels, in float64.
class Host {
 public:
  static constexpr DType kVector = DType::kFloat64;
  static DType dtype(DType) { return DType::kFloat64; }

  explicit Host(const Problem& problem) : plan_(kernels_.plan(problem.s(), DType::kFloat64)) {}

  void* load(const Numbers& numbers) {
    void* memory = allocate(static_cast<int64_t>(numbers.values.size() * sizeof(double)));
    std::copy(numbers.values.begin(), numbers.values.end(), static_cast<double*>(memory));
    return memory;
  }
  void* allocate(int64_t bytes) {
    memory_.emplace_back(static_cast<std::size_t>(bytes) / sizeof(double));
    return memory_.back().data();
  }

  void moments(MBConvMoments& args) { run(args, kernels_.moments, plan_.moments_bytes); }
  void forward(MBConvForward& args) { run(args, kernels_.forward, plan_.forward_bytes); }
  void gate_probe(MBConvProbe& args) { run(args, kernels_.gate_probe, plan_.probe_bytes); }
  void backward(MBConvBackward& args) { run(args, kernels_.backward, plan_.backward_bytes); }

 private:
  template <class Args>
  void run(Args& args, void (*kernel)(const Args&), int64_t workspace_bytes) {
    args.workspace = allocate(workspace_bytes);
    args.parallel = testing::in_order();
    kernel(args);
  }

  const cpu::MBConvKernels& kernels_ = cpu::kScalarKernels;
  cpu::MBConvPlan plan_;
  std::list<std::vector<double>> memory_;
};

// The kernels under test, on the emulator.
class Gpu {
 public:
  static constexpr DType kVector = DType::kFloat32;
  static DType dtype(DType type) { return type; }

  explicit Gpu(const Problem& problem)
      : plan_(cuda::plan_mbconv(problem.s(), problem.dtype, problem.test.device)),
        launch_{problem.test.device, nullptr, problem.test.tf32} {}

  void* load(const Numbers& numbers) {
    void* memory = allocate(static_cast<int64_t>(numbers.stored.size()));
    if (!numbers.stored.empty()) memory_.back().write(numbers.stored.data());
    return memory;
  }
  void* allocate(int64_t bytes) {
    memory_.emplace_back(static_cast<std::size_t>(bytes));
    return memory_.back().data();
  }

  void moments(MBConvMoments& args) { run(args, cuda::mbconv_moments, plan_.moments_bytes); }
  void forward(MBConvForward& args) { run(args, cuda::mbconv_forward, plan_.forward_bytes); }
  void gate_probe(MBConvProbe& args) { run(args, cuda::mbconv_gate_probe, plan_.probe_bytes); }
  void backward(MBConvBackward& args) { run(args, cuda::mbconv_backward, plan_.backward_bytes); }

 private:
  template <class Args>
  void run(Args& args, void (*kernel)(const Args&, const cuda::Launch&), int64_t workspace_bytes) {
    args.workspace = allocate(workspace_bytes);
    kernel(args, launch_);
  }

  cuda::MBConvPlan plan_;
  cuda::Launch launch_;
  std::list<Buffer> memory_;
};

// Relative to the Euclidean norm of what is expected: single values of 16 bits may lie on the
// other side of an end of ReLU6.
double distance(const std::vector<double>& actual, const std::vector<double>& expected) {
  double difference = 0, size = 1e-30;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (!std::isfinite(actual[i])) return HUGE_VAL;
    difference = std::hypot(difference, actual[i] - expected[i]);
    size = std::hypot(size, expected[i]);
  }
  return difference / size;
}

// How far that may be. A few values per channel amplify what rounding does to gradients.
double tolerance(const Problem& problem, const std::string& name) {
  const bool forward = testing::is_forward(name);
  if (name == "moments") return 2e-6;
  if (problem.dtype == DType::kFloat32 && !problem.test.tf32) return forward ? 3e-6 : 5e-5;
  if (problem.dtype == DType::kBFloat16) return forward ? 0.02 : 0.15;
  return forward ? 0.003 : 0.03;
}

void test_block(Expectations& expectations, const Case& test, DType dtype, int orders) {
  const std::string block = testing::describe(test.shape, dtype);
  const Problem problem(test, dtype);
  const Run<Host> expected(problem);
  Results first;
  for (int order = 0; order < orders; ++order) {
    cuda::emulator::set_order(order == 0   ? Order::kForward
                              : order == 1 ? Order::kReverse
                                           : Order::kRandom,
                              static_cast<unsigned>(order));
    const std::string where = block + ", order " + std::to_string(order) + ": ";
    try {
      const Run<Gpu> run(problem);
      if (order == 0) first = run.results();
      expectations.expect(run.results() == first, where + "not the bits of another order");
    } catch (const cuda::emulator::Error& error) {
      expectations.expect(false, where + error.what());
      return;
    }
  }
  for (const auto& [name, values] : expected.results()) {
    const double error = distance(first.at(name), values);
    expectations.expect(error <= tolerance(problem, name),
                        block + ": " + name + " is " + std::to_string(error) + " from float64");
  }
}

// NaN reaches what depends on it and nothing else, as in float64. The statistics are given, since
// those of the batch would spread it.
void test_nan(Expectations& expectations, DType dtype) {
  Problem problem({{2, 9, 11, 12, 40, 12, 1, 1, 3, 1}, false, true, false}, dtype);
  constexpr int64_t kPlace = 500;
  problem.x.values[kPlace] = std::nan("");
  write(problem.x.stored.data(), dtype, kPlace, std::nan(""));
  cuda::emulator::set_order(Order::kForward, 0);
  const Run<Host> expected(problem);
  const Run<Gpu> run(problem);
  for (const char* name : {"y", "p"}) {
    const std::vector<double>&actual = run.results().at(name),
          &wanted = expected.results().at(name);
    std::size_t spread = 0, lost = 0, there = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      there += std::isnan(wanted[i]);
      spread += std::isnan(actual[i]) && !std::isnan(wanted[i]);
      lost += std::isnan(wanted[i]) && !std::isnan(actual[i]);
    }
    expectations.expect(there > 0 && there < wanted.size() && spread == 0 && lost == 0,
                        std::string(name) + ": NaN lost " + std::to_string(lost) + " times of " +
                            std::to_string(there) + " and spread " + std::to_string(spread) +
                            " times");
  }
}

}  // namespace
}  // namespace proxyless

int main(int argc, char** argv) {
  using namespace proxyless;
  const int orders = argc > 1 ? std::atoi(argv[1]) : 5;
  const int only = argc > 2 ? std::atoi(argv[2]) : -1;
  testing::Expectations expectations;
  for (int i = 0; i < static_cast<int>(std::size(kCases)); ++i) {
    if (only >= 0 && i != only) continue;
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      test_block(expectations, kCases[i], dtype, orders);
    }
  }
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    if (only < 0) test_nan(expectations, dtype);
  }
  return expectations.exit_code();
}
