// The fused separable block of one instruction set on awkward shapes: within its memory, the same
// whatever the order of tasks and the memory's former contents, and equal to the scalar kernels.
//
// Usage: separable_test ISA
#include "kernels/cpu/separable.h"

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
using testing::fill_normal;
using testing::Guarded;
using testing::Pictures;
using testing::weight_deviation;

const SeparableShape kShapes[] = {
    // batch, height, width, C, O, kernel, stride, dilation
    {1, 1, 1, 1, 1, 1, 1, 1},     // every size 1
    {1, 1, 1, 5, 3, 7, 2, 2},     // one pixel
    {2, 2, 3, 4, 24, 5, 1, 3},    // smaller than the kernel
    {3, 1, 9, 2, 7, 3, 2, 1},     // one row
    {3, 9, 1, 8, 16, 3, 1, 2},    // one column
    {2, 13, 11, 7, 41, 5, 2, 1},  // primes
    {1, 35, 6, 5, 19, 5, 1, 1},   // so high that its rows are dealt out in parts
    {1, 37, 5, 19, 6, 3, 2, 2},  {2, 7, 7, 17, 33, 3, 1, 1},  // a channel more than whole vectors
    {1, 8, 6, 31, 95, 7, 2, 3},                               // a channel less than whole vectors
    {17, 8, 8, 20, 20, 7, 1, 1},                              // more pictures than parts
    {2, 9, 9, 64, 48, 3, 1, 2},
};

double tolerance(DType dtype, const std::string& name) {
  const bool is_forward = name == "y" || name == "mean" || name == "var";
  switch (dtype) {
    case DType::kFloat32:
      return 5e-5;
    case DType::kFloat64:
      return 1e-12;
    case DType::kBFloat16:
      return is_forward ? 0x1p-7 : 0.05;
    case DType::kFloat16:
      return is_forward ? 0x1p-10 : 0.01;
  }
  return 0;
}

struct Options {
  bool batch_statistics;
  bool input_grad;
  bool weight_grads;
};

// A block with random inputs and weights.
struct Problem {
  Problem(const SeparableShape& s, DType type)
      : shape(s),
        dtype(type),
        x(type, s.batch, s.height, s.width, s.in_channels, random),
        grad(type, s.batch, s.out_height(), s.out_width(), s.out_channels, random),
        depthwise(type, s.in_channels * s.kernel * s.kernel),
        pointwise(type, s.out_channels * s.in_channels),
        scale(vector_dtype(type), s.in_channels),
        shift(vector_dtype(type), s.in_channels),
        mean(vector_dtype(type), s.in_channels),
        var(vector_dtype(type), s.in_channels) {
    fill_normal(depthwise, random, 0, weight_deviation(s.kernel * s.kernel));
    fill_normal(pointwise, random, 0, weight_deviation(s.in_channels));
    fill_normal(scale, random, 2, 0.7);
    fill_normal(shift, random, 1, 1);
    fill_normal(mean, random, 0, 0.5);
    fill_normal(var, random, 1, 0.1);
  }

  std::vector<const Guarded*> memory() const {
    return {&x.array.memory, &grad.array.memory, &depthwise.memory, &pointwise.memory,
            &scale.memory,   &shift.memory,      &mean.memory,      &var.memory};
  }

  std::mt19937 random;  // first, since the others are filled from it
  SeparableShape shape;
  DType dtype;
  Pictures x, grad;
  Array depthwise, pointwise, scale, shift, mean, var;
};

// Runs the entry points one after the other.
class Run {
 public:
  Run(const Problem& problem, const Options& options, Isa isa, const ParallelFor& parallel,
      unsigned char garbage)
      : problem_(problem), options_(options), isa_(isa), parallel_(parallel), garbage_(garbage) {
    const SeparableShape& s = problem.shape;
    const DType dtype = problem.dtype, vectors = vector_dtype(dtype);
    const cpu::SeparablePlan plan = cpu::plan_separable(s, dtype, isa);

    SeparableStatistics statistics{};
    statistics.shape = s;
    statistics.dtype = dtype;
    statistics.x = problem.x.pixels();
    statistics.mean = result("mean", vectors, s.in_channels);
    statistics.var = result("var", vectors, s.in_channels);
    run(statistics, cpu::separable_statistics, plan.statistics_bytes);

    auto forward = start<SeparableForward>();
    forward.y = result("y", dtype, s.out_pixels() * s.out_channels);
    run(forward, cpu::separable_forward, plan.forward_bytes);

    auto probe = start<SeparableProbe>();
    probe.grad = problem.grad.pixels();
    probe.result = result("probe", vectors, 1);
    run(probe, cpu::separable_gate_probe, plan.probe_bytes);

    auto backward = start<SeparableBackward>();
    backward.grad = problem.grad.pixels();
    if (options.input_grad) backward.dx = result("dx", dtype, s.in_pixels() * s.in_channels);
    if (options.weight_grads) {
      backward.ddepthwise = result("ddepthwise", dtype, problem.depthwise.count);
      backward.dpointwise = result("dpointwise", dtype, problem.pointwise.count);
      backward.dscale = result("dscale", vectors, s.in_channels);
      backward.dshift = result("dshift", vectors, s.in_channels);
    }
    run(backward, cpu::separable_backward, plan.backward_bytes);
  }

  const Arrays& results() const { return results_; }
  bool intact() const { return intact_; }

 private:
  // With the given statistics even where they stand for the batch's, so that each kernel is
  // compared for itself.
  template <class Args>
  Args start() const {
    Args args{};
    args.input = {problem_.shape,
                  problem_.dtype,
                  problem_.x.pixels(),
                  problem_.depthwise.data(),
                  problem_.pointwise.data(),
                  problem_.scale.data(),
                  problem_.shift.data(),
                  testing::kEps,
                  options_.batch_statistics};
    args.mean = problem_.mean.data();
    args.var = problem_.var.data();
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
    intact_ &= workspace.intact();
    for (const auto& entry : results_) intact_ &= entry.second.memory.intact();
  }

  const Problem& problem_;
  const Options& options_;
  Isa isa_;
  ParallelFor parallel_;
  unsigned char garbage_;
  Arrays results_;
  bool intact_ = true;
};

std::string describe(const SeparableShape& s, DType dtype, const Options& options) {
  std::string text = dtype_name(dtype);
  for (const int64_t size : {s.batch, s.height, s.width, s.in_channels, s.out_channels, s.kernel,
                             s.stride, s.dilation}) {
    text += " " + std::to_string(size);
  }
  if (options.batch_statistics) text += " batch statistics";
  if (options.input_grad) text += " dx";
  if (options.weight_grads) text += " dweights";
  return text;
}

void test_block(testing::Expectations& expectations, const SeparableShape& shape, DType dtype,
                const Options& options, Isa isa) {
  const auto expect = [&](bool holds, const std::string& what) {
    expectations.expect(holds, describe(shape, dtype, options) + ": " + what);
  };
  const Problem problem(shape, dtype);
  const auto inputs = testing::contents(problem.memory());
  const Run scalar(problem, options, Isa::kScalar, testing::in_order(), testing::kNanGarbage);
  const Run run(problem, options, isa, testing::in_order(), testing::kNanGarbage);

  expect(testing::contents(problem.memory()) == inputs, "an input changed");
  bool intact = run.intact();
  for (const Guarded* part : problem.memory()) intact &= part->intact();
  expect(intact, "memory outside the results and the workspace changed");
  const bool is_wide = dtype_bytes(dtype) >= 4;
  for (const auto& [name, expected] : scalar.results()) {
    const double error =
        testing::distance(run.results().at(name), expected, is_wide || name == "probe");
    expect(error <= tolerance(dtype, name),
           name + " is " + std::to_string(error) + " from the scalar kernels'");
  }

  if (!options.input_grad || !options.weight_grads) return;  // Their sums are among all gradients'.
  Threads threads(2);
  const auto same = [&](const ParallelFor& parallel, unsigned char garbage) {
    return testing::identical(run.results(),
                              Run(problem, options, isa, parallel, garbage).results());
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
    for (const SeparableShape& s : kShapes) {
      for (const DType dtype :
           {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
        for (const Options& options : {Options{true, true, true}, Options{false, true, true},
                                       Options{true, true, false}, Options{true, false, true}}) {
          test_block(expectations, s, dtype, options, isa);
        }
      }
    }
  });
}
