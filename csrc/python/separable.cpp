// The fused separable block on NumPy arrays, to test and to look at the kernels without torch.
//
// This layer checks the arrays, allocates results and workspace, and runs the kernels. Pictures are
// [N, H, W, C]; weights have the shapes of their convolutions.
#include "kernels/cpu/separable.h"

#include "arrays.h"
#include "bindings.h"
#include "host/separable_checks.h"
#include "kernels/storage.h"

namespace proxyless {
namespace {

// A kernel's arguments but for those that it alone has.
template <class Args>
Args block_arguments(const py::array& x, const py::array& depthwise, const py::array& pointwise,
                     const py::array& scale, const py::array& shift, const py::array& mean,
                     const py::array& var, double eps, int64_t stride, int64_t dilation) {
  Args args{};
  SeparableInput& input = args.input;
  input.shape = with_pictures(separable::check_block(
      {sizes_of_pictures(x), sizes_of(depthwise), sizes_of(pointwise), sizes_of(scale),
       sizes_of(shift), sizes_of(mean), sizes_of(var), eps, stride, dilation}));
  const DType dtype = dtype_of_pictures(x), vectors = vector_dtype(dtype);
  input.dtype = dtype;
  input.x = pixels("x", x, dtype);
  input.depthwise = dense("depthwise", depthwise, dtype);
  input.pointwise = dense("pointwise", pointwise, dtype);
  input.scale = dense("scale", scale, vectors);
  input.shift = dense("shift", shift, vectors);
  input.eps = eps;
  args.mean = dense("mean", mean, vectors);
  args.var = dense("var", var, vectors);
  return args;
}

Pixels grad_pixels(const py::array& grad, const SeparableInput& input) {
  const SeparableShape& s = input.shape;
  separable::check.sizes("grad", sizes_of(grad),
                         {s.batch, s.out_height(), s.out_width(), s.out_channels});
  return pixels("grad", grad, input.dtype);
}

cpu::SeparablePlan plan_of(const SeparableInput& input, cpu::Isa isa) {
  return cpu::plan_separable(input.shape, input.dtype, isa);
}

py::tuple statistics(const py::array& x, int64_t threads, const OptionalName& isa_name) {
  SeparableStatistics args{};
  args.shape = with_pictures(separable::check_pictures(sizes_of_pictures(x)));
  args.dtype = dtype_of_pictures(x);
  args.x = pixels("x", x, args.dtype);
  const cpu::Isa isa = select_isa(isa_name);
  py::array mean = new_array(vector_dtype(args.dtype), {args.shape.in_channels});
  py::array var = new_array(vector_dtype(args.dtype), {args.shape.in_channels});
  args.mean = mean.mutable_data();
  args.var = var.mutable_data();
  run(args, cpu::separable_statistics, isa,
      cpu::plan_separable(args.shape, args.dtype, isa).statistics_bytes, threads);
  return py::make_tuple(mean, var);
}

py::array forward(const py::array& x, const py::array& depthwise, const py::array& pointwise,
                  const py::array& scale, const py::array& shift, const py::array& mean,
                  const py::array& var, double eps, int64_t stride, int64_t dilation,
                  bool batch_statistics, int64_t threads, const OptionalName& isa_name) {
  auto args = block_arguments<SeparableForward>(x, depthwise, pointwise, scale, shift, mean, var,
                                                eps, stride, dilation);
  args.input.batch_statistics = batch_statistics;
  const cpu::Isa isa = select_isa(isa_name);
  const SeparableShape& s = args.input.shape;
  py::array y =
      new_array(args.input.dtype, {s.batch, s.out_height(), s.out_width(), s.out_channels});
  args.y = y.mutable_data();
  run(args, cpu::separable_forward, isa, plan_of(args.input, isa).forward_bytes, threads);
  return y;
}

double gate_probe(const py::array& grad, const py::array& x, const py::array& depthwise,
                  const py::array& pointwise, const py::array& scale, const py::array& shift,
                  const py::array& mean, const py::array& var, double eps, int64_t stride,
                  int64_t dilation, int64_t threads, const OptionalName& isa_name) {
  auto args = block_arguments<SeparableProbe>(x, depthwise, pointwise, scale, shift, mean, var, eps,
                                              stride, dilation);
  args.grad = grad_pixels(grad, args.input);
  const cpu::Isa isa = select_isa(isa_name);
  double result = 0;  // or a float
  args.result = &result;
  run(args, cpu::separable_gate_probe, isa, plan_of(args.input, isa).probe_bytes, threads);
  return read(&result, vector_dtype(args.input.dtype), 0);
}

py::tuple backward(const py::array& grad, const py::array& x, const py::array& depthwise,
                   const py::array& pointwise, const py::array& scale, const py::array& shift,
                   const py::array& mean, const py::array& var, double eps, int64_t stride,
                   int64_t dilation, bool batch_statistics, bool input_grad, bool weight_grads,
                   int64_t threads, const OptionalName& isa_name) {
  auto args = block_arguments<SeparableBackward>(x, depthwise, pointwise, scale, shift, mean, var,
                                                 eps, stride, dilation);
  args.grad = grad_pixels(grad, args.input);
  args.input.batch_statistics = batch_statistics;
  const cpu::Isa isa = select_isa(isa_name);
  OptionalArray dx, ddepthwise, dpointwise, dscale, dshift;
  if (input_grad) dx = result_like(x, args.dx);
  if (weight_grads) {
    ddepthwise = result_like(depthwise, args.ddepthwise);
    dpointwise = result_like(pointwise, args.dpointwise);
    dscale = result_like(scale, args.dscale);
    dshift = result_like(shift, args.dshift);
  }
  run(args, cpu::separable_backward, isa, plan_of(args.input, isa).backward_bytes, threads);
  return py::make_tuple(array_or_none(dx), array_or_none(ddepthwise), array_or_none(dpointwise),
                        array_or_none(dscale), array_or_none(dshift));
}

}  // namespace

void bind_separable(py::module_& m) {
  using py::arg;
  m.def("separable_statistics", &statistics, arg("x"), arg("threads") = 1, arg("isa") = py::none(),
        R"(Compute mean and biased variance of each channel.

x: [N, H, W, C], float32 or float64. Returns two vectors [C] of x's type. `isa` is the instruction
set, by default `selected_isa()`.)");
  m.def("separable_forward", &forward, arg("x"), arg("depthwise"), arg("pointwise"), arg("scale"),
        arg("shift"), arg("mean"), arg("var"), arg("eps") = 1e-3, arg("stride") = 1,
        arg("dilation") = 1, arg("batch_statistics") = true, arg("threads") = 1,
        arg("isa") = py::none(),
        R"(Run a block: BatchNorm by `mean` and `var`, ReLU, a depthwise and a 1x1 convolution.

x: [N, H, W, C], with adjacent channels and else any strides; depthwise: [C, 1, k, k]; pointwise:
[O, C, 1, 1]; scale, shift, mean, var: [C]. All have one dtype, float32 or float64. The output is
the same whatever `batch_statistics` says.

Returns [N, Ho, Wo, O]. Raises ValueError naming a wrong argument.)");
  m.def("separable_gate_probe", &gate_probe, arg("grad"), arg("x"), arg("depthwise"),
        arg("pointwise"), arg("scale"), arg("shift"), arg("mean"), arg("var"), arg("eps") = 1e-3,
        arg("stride") = 1, arg("dilation") = 1, arg("threads") = 1, arg("isa") = py::none(),
        R"(Compute <grad, y> for the y that `separable_forward` would give.

grad: [N, Ho, Wo, O]; the others as for `separable_forward`. Raises ValueError naming a wrong
argument.)");
  m.def("separable_backward", &backward, arg("grad"), arg("x"), arg("depthwise"), arg("pointwise"),
        arg("scale"), arg("shift"), arg("mean"), arg("var"), arg("eps") = 1e-3, arg("stride") = 1,
        arg("dilation") = 1, arg("batch_statistics") = true, arg("input_grad") = true,
        arg("weight_grads") = true, arg("threads") = 1, arg("isa") = py::none(),
        R"(Compute the gradients of a block, given grad = dL/dy [N, Ho, Wo, O].

With `batch_statistics` mean and var depend on x, else they are constants. The others are as for
`separable_forward`.

Returns (dx, ddepthwise, dpointwise, dscale, dshift), shaped like what they are the gradients of;
None stands for those not asked for. Raises ValueError naming a wrong argument.)");
}

}  // namespace proxyless
