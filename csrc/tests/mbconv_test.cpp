// The fused MBConv of one instruction set on awkward shapes: within its memory, the same whatever
// the order of tasks and the memory's former contents, and equal to the scalar kernels.
//
// Usage: mbconv_test ISA
#include "kernels/cpu/mbconv.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
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
using testing::distance;
using testing::Expectations;
using testing::fill_normal;
using testing::Guarded;
using testing::identical;
using testing::is_forward;
using testing::kFewPixels;
using testing::kNanGarbage;
using testing::kOtherGarbage;
using testing::Pictures;
using testing::weight_deviation;

const MBConvShape kShapes[] = {
    // batch, height, width, C, hidden, O, expand_kernel, expand_stride, kernel, stride
    {1, 1, 1, 1, 1, 1, 1, 1, 3, 1},      // every size 1
    {1, 1, 1, 5, 30, 5, 1, 1, 7, 2},     // one pixel
    {2, 2, 3, 4, 24, 4, 1, 1, 7, 1},     // smaller than the kernel
    {3, 1, 9, 2, 7, 3, 1, 1, 5, 2},      // one row
    {3, 9, 1, 8, 16, 8, 1, 1, 3, 1},     // one column
    {2, 13, 11, 7, 41, 13, 1, 1, 5, 2},  // primes
    {1, 35, 6, 5, 19, 5, 1, 1, 5, 1},    // so high that its rows are dealt out in parts
    {1, 37, 5, 3, 9, 6, 3, 2, 7, 1},
    {2, 7, 7, 17, 33, 17, 1, 1, 3, 1},  // a channel more than whole vectors
    {1, 8, 6, 15, 95, 31, 1, 1, 7, 2},  // a channel less than whole vectors
    {2, 10, 10, 16, 96, 24, 1, 1, 5, 1},
    {3, 5, 4, 19, 19, 5, 0, 1, 3, 1},  // no expand layer
    {1, 6, 7, 32, 32, 16, 0, 1, 5, 2},
    {2, 3, 3, 33, 33, 33, 0, 1, 7, 1},
    {2, 11, 13, 3, 16, 8, 3, 2, 3, 1},  // a stem in front of a separable block
    {1, 7, 6, 3, 9, 4, 5, 1, 5, 2},
    {2, 2, 1, 2, 5, 3, 7, 2, 3, 2},
};

// How far a result may be from the scalar kernels' as `distance` counts it: with 16 bits by the
// spacing of the stored numbers. The fast kernels also round D and dZ2 of 16-bit pictures, and
// bfloat16's operands of products, so that some values come to lie on the other side of ReLU6's
// ends: gradients are less near.
double tolerance(DType dtype, const std::string& name) {
  if (name == "moments") return dtype == DType::kFloat64 ? 1e-12 : 5e-5;
  switch (dtype) {
    case DType::kFloat32:
      return 5e-5;
    case DType::kFloat64:
      return 1e-12;
    case DType::kBFloat16:
      return is_forward(name) ? 0x1p-7 : 0.15;
    case DType::kFloat16:
      return is_forward(name) ? 0x1p-10 : 0.02;
  }
  return 0;
}

struct Options {
  bool batch_statistics;
  bool residual;
  bool input_grad;
  bool weight_grads;  // and p, without which there is no backward for them
};

// A block with random inputs and weights.
struct Problem {
  Problem(const MBConvShape& s, DType type)
      : shape(s),
        dtype(type),
        x(type, s.batch, s.height, s.width, s.in_channels, random),
        grad(type, s.batch, s.out_height(), s.out_width(), s.out_channels, random),
        expand(type, s.hidden * s.patch()),
        depthwise(type, s.hidden * s.kernel * s.kernel),
        project(type, s.out_channels * s.hidden),
        scale(vector_dtype(type), s.norm_channels()),
        shift(vector_dtype(type), s.norm_channels()),
        mean(vector_dtype(type), s.norm_channels()),
        var(vector_dtype(type), s.norm_channels()) {
    fill_normal(expand, random, 0, weight_deviation(s.patch()));
    fill_normal(depthwise, random, 0, weight_deviation(s.kernel * s.kernel));
    fill_normal(project, random, 0, weight_deviation(s.hidden));
    fill_normal(scale, random, 2, 0.7);
    fill_normal(shift, random, 1, 1);
    fill_normal(mean, random, 0, 0.5);
    fill_normal(var, random, 1, 0.1);
  }

  MBConvInput input(bool batch_statistics) const {
    return {shape,
            dtype,
            x.pixels(),
            shape.has_expand() ? expand.data() : nullptr,
            depthwise.data(),
            project.data(),
            scale.data(),
            shift.data(),
            testing::kEps,
            batch_statistics};
  }

  std::vector<const Guarded*> memory() const {
    return {&x.array.memory, &grad.array.memory, &expand.memory, &depthwise.memory, &project.memory,
            &scale.memory,   &shift.memory,      &mean.memory,   &var.memory};
  }

  std::mt19937 random;  // first, since the others are filled from it
  MBConvShape shape;
  DType dtype;
  Pictures x, grad;
  Array expand, depthwise, project, scale, shift, mean, var;
};

// Runs the entry points one after the other. Kernels later in the chain read what `reference` had
// for the earlier ones, if there is one, so that each is compared for itself.
class Run {
 public:
  Run(const Problem& problem, const Options& options, Isa isa, const ParallelFor& parallel,
      unsigned char garbage, const Arrays* reference = nullptr)
      : problem_(problem),
        options_(options),
        isa_(isa),
        parallel_(parallel),
        garbage_(garbage),
        reference_(reference),
        plan_(cpu::plan_mbconv(problem.shape, problem.dtype, isa)) {
    const bool has_moments = options.batch_statistics && problem.shape.has_expand();
    if (has_moments) moments();
    forward();
    gate_probe();
    backward();
  }

  const Arrays& results() const { return results_; }
  bool intact() const { return intact_; }

 private:
  void moments() {
    const MBConvShape& s = problem_.shape;
    MBConvMoments args{};
    args.shape = s;
    args.dtype = problem_.dtype;
    args.x = problem_.x.pixels();
    args.moments = result("moments", DType::kFloat64, (1 + s.patch()) * s.patch()).doubles();
    run(args, cpu::mbconv_moments, plan_.moments_bytes);
  }

  void forward() {
    const MBConvShape& s = problem_.shape;
    const DType vectors = vector_dtype(problem_.dtype);
    const int64_t outputs = s.out_pixels() * s.out_channels;
    MBConvForward args{};
    args.input = problem_.input(options_.batch_statistics);
    args.moments = moments_of_patches();
    args.mean = problem_.mean.data();
    args.var = problem_.var.data();
    if (options_.batch_statistics) {
      args.mean = result("mean", vectors, s.norm_channels()).data();
      args.var = result("var", vectors, s.norm_channels()).data();
    }
    args.residual = options_.residual;
    if (keeps_p()) args.p = result("p", problem_.dtype, outputs).data();
    args.y = result("y", problem_.dtype, outputs).data();
    run(args, cpu::mbconv_forward, plan_.forward_bytes);
  }

  void gate_probe() {
    MBConvProbe args{};
    args.input = problem_.input(options_.batch_statistics);
    args.moments = moments_of_patches();
    if (!options_.batch_statistics) {
      args.mean = problem_.mean.data();
      args.var = problem_.var.data();
    }
    args.grad = problem_.grad.pixels();
    args.result = result("probe", vector_dtype(problem_.dtype), 1).data();
    run(args, cpu::mbconv_gate_probe, plan_.probe_bytes);
  }

  void backward() {
    if (!keeps_p()) return;
    const MBConvShape& s = problem_.shape;
    const DType dtype = problem_.dtype, vectors = vector_dtype(dtype);
    MBConvBackward args{};
    args.input = problem_.input(options_.batch_statistics);
    args.moments = moments_of_patches();
    args.mean = options_.batch_statistics ? earlier("mean").data() : problem_.mean.data();
    args.var = options_.batch_statistics ? earlier("var").data() : problem_.var.data();
    args.p = earlier("p").data();
    args.grad = problem_.grad.pixels();
    args.residual = options_.residual;
    if (options_.input_grad) {
      args.dx = result("dx", dtype, s.batch * s.height * s.width * s.in_channels).data();
    }
    if (options_.weight_grads) {
      if (s.has_expand()) args.dexpand = result("dexpand", dtype, problem_.expand.count).data();
      args.ddepthwise = result("ddepthwise", dtype, problem_.depthwise.count).data();
      args.dproject = result("dproject", dtype, problem_.project.count).data();
      args.dscale = result("dscale", vectors, s.norm_channels()).data();
      args.dshift = result("dshift", vectors, s.norm_channels()).data();
    }
    run(args, cpu::mbconv_backward, plan_.backward_bytes);
  }

  bool keeps_p() const { return options_.input_grad || options_.weight_grads; }

  const double* moments_of_patches() const {
    return results_.count("moments") == 0 ? nullptr : earlier("moments").doubles();
  }

  const Array& earlier(const std::string& name) const {
    return (reference_ != nullptr ? *reference_ : results_).at(name);
  }

  const Array& result(const std::string& name, DType dtype, int64_t count) {
    return results_.emplace(name, Array(dtype, count, garbage_)).first->second;
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
  const Arrays* reference_;
  cpu::MBConvPlan plan_;
  Arrays results_;
  bool intact_ = true;
};

std::string describe(const MBConvShape& s, DType dtype, const Options& options) {
  std::string text = testing::describe(s, dtype);
  if (options.batch_statistics) text += " batch statistics";
  if (options.residual) text += " residual";
  if (options.input_grad) text += " dx";
  if (options.weight_grads) text += " dweights";
  return text;
}

void test_block(Expectations& expectations, const MBConvShape& shape, DType dtype,
                const Options& options, Isa isa) {
  const auto expect = [&](bool holds, const std::string& what) {
    expectations.expect(holds, describe(shape, dtype, options) + ": " + what);
  };
  const Problem problem(shape, dtype);
  const auto inputs = testing::contents(problem.memory());
  const Run scalar(problem, options, Isa::kScalar, testing::in_order(), kNanGarbage);
  const Run run(problem, options, isa, testing::in_order(), kNanGarbage, &scalar.results());

  expect(testing::contents(problem.memory()) == inputs, "an input changed");
  bool intact = run.intact();
  for (const Guarded* part : problem.memory()) intact &= part->intact();
  expect(intact, "memory outside the results and the workspace changed");
  const bool is_wide = dtype_bytes(dtype) >= 4;
  const bool are_few = options.batch_statistics && shape.out_pixels() < kFewPixels;
  for (const auto& [name, expected] : scalar.results()) {
    if (!is_wide && are_few && (!is_forward(name) || shape.out_pixels() == 1)) continue;
    const bool largest = is_wide || name == "moments" || name == "probe";
    const double error = distance(run.results().at(name), expected, largest);
    expect(error <= tolerance(dtype, name),
           name + " is " + std::to_string(error) + " from the scalar kernels'");
  }

  if (!options.input_grad || !options.weight_grads) return;  // Their sums are among all gradients'.
  Threads threads(2);
  const auto repeated = [&](const ParallelFor& parallel, unsigned char garbage) {
    return Run(problem, options, isa, parallel, garbage, &scalar.results());
  };
  const auto same = [&](const Run& other) { return identical(run.results(), other.results()); };
  expect(same(repeated(testing::in_order(), kOtherGarbage)),
         "depends on the memory's old contents");
  expect(same(repeated(testing::in_reverse(), kNanGarbage)), "depends on the order of tasks");
  expect(same(repeated(threads.parallel_for(), kNanGarbage)), "depends on the number of threads");
}

}  // namespace
}  // namespace proxyless

int main(int argc, char** argv) {
  using namespace proxyless;
  return testing::run_for_isa(argc, argv, [](testing::Expectations& expectations, cpu::Isa isa) {
    for (const MBConvShape& s : kShapes) {
      const bool residual = s.in_channels == s.out_channels && s.stride * s.expand_stride == 1;
      for (const DType dtype :
           {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
        for (const bool batch_statistics : {true, false}) {
          for (const Options& options : {Options{batch_statistics, residual, true, true},
                                         Options{batch_statistics, false, true, false},
                                         Options{batch_statistics, residual, false, true},
                                         Options{batch_statistics, residual, false, false}}) {
            test_block(expectations, s, dtype, options, isa);
          }
        }
      }
    }
  });
}
