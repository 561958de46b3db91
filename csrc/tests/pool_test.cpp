// Pooling of one instruction set on awkward shapes: within its memory, the same whatever the order
// of tasks and the memory's former contents, and equal to the scalar kernels.
//
// Usage: pool_test ISA
#include "kernels/cpu/pool.h"

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "arrays.h"
#include "blocks.h"
#include "guarded.h"
#include "isa_program.h"
#include "kernels/storage.h"
#include "loops.h"
#include "python/threads.h"

namespace proxyless {
namespace {

using cpu::Isa;
using testing::Array;
using testing::Arrays;
using testing::Guarded;
using testing::Pictures;

const PoolShape kShapes[] = {
    // batch, height, width, channels, kernel, stride, maximum: both are tried
    {1, 1, 1, 1, 1, 1, false},    // every size 1
    {1, 1, 1, 5, 7, 2, false},    // one pixel
    {2, 2, 3, 4, 5, 1, false},    // smaller than the kernel
    {3, 1, 9, 2, 3, 2, false},    // one row
    {3, 9, 1, 8, 3, 1, false},    // one column
    {2, 13, 11, 7, 5, 2, false},  // primes
    {2, 7, 7, 17, 3, 1, false},   // a channel more than whole vectors
    {1, 8, 6, 31, 15, 2, false},  // a channel less, and the largest kernel
    {17, 8, 8, 20, 3, 1, false},  // more rows than tasks
    {2, 9, 9, 64, 3, 2, false},
};

double tolerance(DType dtype) {
  switch (dtype) {
    case DType::kFloat32:
      return 1e-6;
    case DType::kFloat64:
      return 1e-14;
    case DType::kBFloat16:
      return 0x1p-7;
    case DType::kFloat16:
      return 0x1p-10;
  }
  return 0;
}

// Random pictures, and the gradient of what is made of them.
struct Problem {
  Problem(const PoolShape& s, DType type)
      : shape(s),
        dtype(type),
        x(type, s.batch, s.height, s.width, s.channels, random),
        grad(type, s.batch, s.out_height(), s.out_width(), s.channels, random) {}

  std::vector<const Guarded*> memory() const { return {&x.array.memory, &grad.array.memory}; }

  std::mt19937 random;  // first, since the others are filled from it
  PoolShape shape;
  DType dtype;
  Pictures x, grad;
};

// Runs the entry points one after the other.
class Run {
 public:
  Run(const Problem& problem, Isa isa, const ParallelFor& parallel, unsigned char garbage)
      : problem_(problem),
        isa_(isa),
        parallel_(parallel),
        garbage_(garbage),
        taps_(problem.shape.maximum ? outputs() : 0, 1, garbage) {
    const PoolShape& s = problem.shape;
    const cpu::PoolPlan plan = cpu::plan_pool(s, problem.dtype, isa);

    auto forward = start<PoolForward>();
    forward.x = problem.x.pixels();
    forward.y = result("y", problem.dtype, outputs());
    if (s.maximum) forward.taps = taps_.data();
    run(forward, cpu::pool_forward, plan.forward_bytes);

    auto probe = start<PoolProbe>();
    probe.x = problem.x.pixels();
    probe.grad = problem.grad.pixels();
    probe.result = result("probe", vector_dtype(problem.dtype), 1);
    run(probe, cpu::pool_gate_probe, plan.probe_bytes);

    auto backward = start<PoolBackward>();
    backward.grad = problem.grad.pixels();
    if (s.maximum) backward.taps = taps_.data();
    backward.dx = result("dx", problem.dtype, s.batch * s.height * s.width * s.channels);
    run(backward, cpu::pool_backward, plan.backward_bytes);
  }

  const Arrays& results() const { return results_; }
  const Guarded& taps() const { return taps_; }
  bool intact() const { return intact_; }

 private:
  int64_t outputs() const {
    const PoolShape& s = problem_.shape;
    return s.batch * s.out_height() * s.out_width() * s.channels;
  }

  template <class Args>
  Args start() const {
    Args args{};
    args.shape = problem_.shape;
    args.dtype = problem_.dtype;
    return args;
  }

  void* result(const std::string& name, DType dtype, int64_t count) {
    return results_.emplace(name, Array(dtype, count, garbage_)).first->second.data();
  }

  template <class Args>
  void run(Args& args, void (*kernel)(const Args&, Isa), int64_t workspace_bytes) {
    const Guarded workspace(workspace_bytes, 0, garbage_);
    args.workspace = workspace.data();
    args.parallel = parallel_;
    kernel(args, isa_);
    intact_ &= workspace.intact() && taps_.intact();
    for (const auto& entry : results_) intact_ &= entry.second.memory.intact();
  }

  const Problem& problem_;
  Isa isa_;
  ParallelFor parallel_;
  unsigned char garbage_;
  Guarded taps_;
  Arrays results_;
  bool intact_ = true;
};

std::string describe(const PoolShape& s, DType dtype) {
  std::string text = dtype_name(dtype);
  for (const int64_t size : {s.batch, s.height, s.width, s.channels, s.kernel, s.stride}) {
    text += " " + std::to_string(size);
  }
  return text + (s.maximum ? " maxima" : " averages");
}

void test_pool(testing::Expectations& expectations, const PoolShape& shape, DType dtype, Isa isa) {
  const auto expect = [&](bool holds, const std::string& what) {
    expectations.expect(holds, describe(shape, dtype) + ": " + what);
  };
  const Problem problem(shape, dtype);
  const auto inputs = testing::contents(problem.memory());
  const Run scalar(problem, Isa::kScalar, testing::in_order(), testing::kNanGarbage);
  const Run run(problem, isa, testing::in_order(), testing::kNanGarbage);

  expect(testing::contents(problem.memory()) == inputs, "an input changed");
  bool intact = run.intact();
  for (const Guarded* part : problem.memory()) intact &= part->intact();
  expect(intact, "memory outside the results and the workspace changed");
  expect(run.taps() == scalar.taps(), "taps are not the scalar kernels'");
  for (const auto& [name, expected] : scalar.results()) {
    const double error = testing::distance(run.results().at(name), expected, true);
    // Sums of rows are taken in float32 whatever is stored.
    const double most = name == "probe" && dtype != DType::kFloat64 ? 1e-5 : tolerance(dtype);
    expect(error <= most, name + " is " + std::to_string(error) + " from the scalar kernels'");
  }

  Threads threads(2);
  const auto same = [&](const ParallelFor& parallel, unsigned char garbage) {
    return testing::identical(run.results(), Run(problem, isa, parallel, garbage).results());
  };
  expect(same(testing::in_order(), testing::kOtherGarbage), "depends on the memory's old contents");
  expect(same(testing::in_reverse(), testing::kNanGarbage), "depends on the order of tasks");
  expect(same(threads.parallel_for(), testing::kNanGarbage), "depends on the number of threads");
}

}  // namespace
}  // namespace proxyless

int main(int argc, char** argv) {
  using namespace proxyless;
  return testing::run_for_isa(argc, argv, [](testing::Expectations& expectations, cpu::Isa isa) {
    for (PoolShape shape : kShapes) {
      for (const DType dtype :
           {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
        for (const bool maximum : {false, true}) {
          shape.maximum = maximum;
          test_pool(expectations, shape, dtype, isa);
        }
      }
    }
  });
}
