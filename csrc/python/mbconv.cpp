// The fused MBConv on NumPy arrays, to test and to look at the kernels without torch.
//
// This layer checks the arrays, allocates results and workspace, and runs the kernels. Pictures are
// [N, H, W, C]; weights have the shapes of their convolutions.
#include "kernels/cpu/mbconv.h"

#include <optional>
#include <stdexcept>
#include <string>

#include "arrays.h"
#include "bindings.h"
#include "host/mbconv_checks.h"
#include "kernels/cuda/plan.h"
#include "kernels/storage.h"

namespace proxyless {
namespace {

DType dtype_called(const std::string& name) {
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  throw std::invalid_argument("dtype is \"" + name +
                              "\", but must be float32, float64, bfloat16 or float16.");
}

std::optional<Sizes> sizes_of_optional(const OptionalArray& array) {
  return array ? std::optional(sizes_of(*array)) : std::nullopt;
}

MBConvInput block_input(const py::array& x, const OptionalArray& expand, const py::array& depthwise,
                        const py::array& project, const py::array& scale, const py::array& shift,
                        double eps, int64_t stride, int64_t expand_stride) {
  MBConvInput input{};
  input.shape = with_pictures(mbconv::check_block(
      {sizes_of_pictures(x), sizes_of_optional(expand), sizes_of(depthwise), sizes_of(project),
       sizes_of(scale), sizes_of(shift), eps, stride, expand_stride}));
  const DType dtype = dtype_of_pictures(x);
  input.dtype = dtype;
  input.x = pixels("x", x, dtype);
  if (expand) input.expand = dense("expand", *expand, dtype);
  input.depthwise = dense("depthwise", depthwise, dtype);
  input.project = dense("project", project, dtype);
  input.scale = dense("scale", scale, vector_dtype(dtype));
  input.shift = dense("shift", shift, vector_dtype(dtype));
  input.eps = eps;
  return input;
}

const void* statistics(const char* name, const py::array& vector, const MBConvInput& input) {
  return dense(name, vector, vector_dtype(input.dtype));
}

bool needs_moments(const MBConvInput& input) {
  return input.batch_statistics && input.shape.has_expand();
}

const double* given_moments(const py::array& moments, const MBConvInput& input) {
  mbconv::check.sizes("moments", sizes_of(moments), mbconv::moments_sizes(input.shape));
  return static_cast<const double*>(dense("moments", moments, DType::kFloat64));
}

py::array compute_moments(const MBConvShape& shape, DType dtype, const Pixels& x, cpu::Isa isa,
                          int64_t threads) {
  py::array moments = new_array(DType::kFloat64, mbconv::moments_sizes(shape));
  MBConvMoments args{};
  args.shape = shape;
  args.dtype = dtype;
  args.x = x;
  args.moments = static_cast<double*>(moments.mutable_data());
  run(args, cpu::mbconv_moments, isa, cpu::plan_mbconv(shape, dtype, isa).moments_bytes, threads);
  return moments;
}

Sizes output_sizes(const MBConvShape& s) {
  return {s.batch, s.out_height(), s.out_width(), s.out_channels};
}

cpu::MBConvPlan plan_of(const MBConvInput& input, cpu::Isa isa) {
  return cpu::plan_mbconv(input.shape, input.dtype, isa);
}

py::dict plan(const MBConvShape& shape, DType dtype, const OptionalName& isa) {
  const cpu::MBConvPlan plan = cpu::plan_mbconv(shape, dtype, select_isa(isa));
  py::dict result;
  result["chunk"] = plan.chunk;
  result["chunks"] = plan.chunks;
  result["slices"] = plan.slices;
  result["moments_bytes"] = plan.moments_bytes;
  result["forward_bytes"] = plan.forward_bytes;
  result["backward_bytes"] = plan.backward_bytes;
  result["probe_bytes"] = plan.probe_bytes;
  return result;
}

py::tuple cuda_chunks(const MBConvShape& shape, DType dtype, int64_t l2_bytes) {
  require(l2_bytes > 0, "l2_bytes must be positive, not " + std::to_string(l2_bytes) + ".");
  const cuda::Device device{1, l2_bytes};
  return py::make_tuple(cuda::forward_chunk(shape, dtype_bytes(dtype), device),
                        cuda::backward_chunk(shape, dtype_bytes(dtype), device));
}

// Defines a function of a block's sizes, its type and one argument more.
template <class Result, class Last>
void def_of_sizes(py::module_& m, const char* name,
                  Result (*function)(const MBConvShape&, DType, Last), const py::arg_v& last,
                  const char* doc) {
  using py::arg;
  const auto checked = [function](int64_t batch, int64_t height, int64_t width, int64_t in_channels,
                                  int64_t hidden, int64_t out_channels, int64_t kernel,
                                  int64_t stride, int64_t expand_kernel, int64_t expand_stride,
                                  const std::string& dtype, Last value) {
    const MBConvShape shape{batch,        height,        width,         in_channels, hidden,
                            out_channels, expand_kernel, expand_stride, kernel,      stride};
    mbconv::check_shape(with_pictures(shape));
    return function(shape, dtype_called(dtype), value);
  };
  m.def(name, checked, arg("batch"), arg("height"), arg("width"), arg("in_channels"), arg("hidden"),
        arg("out_channels"), arg("kernel"), arg("stride"), arg("expand_kernel") = 1,
        arg("expand_stride") = 1, arg("dtype") = "float32", last, doc);
}

py::array moments(const py::array& x, int64_t kernel, int64_t stride, int64_t threads,
                  const OptionalName& isa) {
  const MBConvShape shape =
      with_pictures(mbconv::check_moments(sizes_of_pictures(x), kernel, stride));
  const DType dtype = dtype_of_pictures(x);
  return compute_moments(shape, dtype, pixels("x", x, dtype), select_isa(isa), threads);
}

py::tuple forward(const py::array& x, const OptionalArray& expand, const py::array& depthwise,
                  const py::array& project, const py::array& scale, const py::array& shift,
                  const OptionalArray& mean, const OptionalArray& var, double eps, int64_t stride,
                  int64_t expand_stride, bool residual, bool save, int64_t threads,
                  const OptionalName& isa_name) {
  MBConvForward args{};
  MBConvInput& input = args.input;
  input = block_input(x, expand, depthwise, project, scale, shift, eps, stride, expand_stride);
  const MBConvShape& s = input.shape;
  mbconv::check_statistics(sizes_of_optional(mean), sizes_of_optional(var), s);
  mbconv::check_residual(residual, s);
  const cpu::Isa isa = select_isa(isa_name);

  input.batch_statistics = !mean;
  const DType vectors = vector_dtype(input.dtype);
  const py::array used_mean = mean ? *mean : new_array(vectors, {s.norm_channels()});
  const py::array used_var = var ? *var : new_array(vectors, {s.norm_channels()});
  // Forward writes them only if they are new.
  args.mean = const_cast<void*>(statistics("mean", used_mean, input));
  args.var = const_cast<void*>(statistics("var", used_var, input));
  OptionalArray patch_moments;
  if (needs_moments(input)) {
    patch_moments = compute_moments(s, input.dtype, input.x, isa, threads);
    args.moments = given_moments(*patch_moments, input);
  }
  py::array y = new_array(input.dtype, output_sizes(s));
  OptionalArray p;
  if (save) p = new_array(input.dtype, output_sizes(s));
  args.residual = residual;
  args.y = y.mutable_data();
  args.p = p ? p->mutable_data() : nullptr;
  run(args, cpu::mbconv_forward, isa, plan_of(input, isa).forward_bytes, threads);
  return py::make_tuple(y, array_or_none(p), used_mean, used_var, array_or_none(patch_moments));
}

double gate_probe(const py::array& grad, const py::array& x, const OptionalArray& expand,
                  const py::array& depthwise, const py::array& project, const py::array& scale,
                  const py::array& shift, const OptionalArray& mean, const OptionalArray& var,
                  const OptionalArray& moments, double eps, int64_t stride, int64_t expand_stride,
                  int64_t threads, const OptionalName& isa_name) {
  MBConvProbe args{};
  MBConvInput& input = args.input;
  input = block_input(x, expand, depthwise, project, scale, shift, eps, stride, expand_stride);
  const MBConvShape& s = input.shape;
  mbconv::check_statistics(sizes_of_optional(mean), sizes_of_optional(var), s);
  mbconv::check.sizes("grad", sizes_of(grad), output_sizes(s));
  const cpu::Isa isa = select_isa(isa_name);

  input.batch_statistics = !mean;
  if (mean) {
    args.mean = statistics("mean", *mean, input);
    args.var = statistics("var", *var, input);
  }
  OptionalArray patch_moments = moments;
  if (needs_moments(input)) {
    if (!moments) patch_moments = compute_moments(s, input.dtype, input.x, isa, threads);
    args.moments = given_moments(*patch_moments, input);
  }
  double result = 0;  // or a float
  args.grad = pixels("grad", grad, input.dtype);
  args.result = &result;
  run(args, cpu::mbconv_gate_probe, isa, plan_of(input, isa).probe_bytes, threads);
  return read(&result, vector_dtype(input.dtype), 0);
}

py::tuple backward(const py::array& grad, const py::array& x, const OptionalArray& expand,
                   const py::array& depthwise, const py::array& project, const py::array& scale,
                   const py::array& shift, const py::array& p, const py::array& mean,
                   const py::array& var, const OptionalArray& moments, double eps, int64_t stride,
                   int64_t expand_stride, bool residual, bool batch_statistics, bool input_grad,
                   bool weight_grads, int64_t threads, const OptionalName& isa_name) {
  MBConvBackward args{};
  MBConvInput& input = args.input;
  input = block_input(x, expand, depthwise, project, scale, shift, eps, stride, expand_stride);
  const MBConvShape& s = input.shape;
  mbconv::check.sizes("grad", sizes_of(grad), output_sizes(s));
  mbconv::check.sizes("p", sizes_of(p), output_sizes(s));
  mbconv::check_statistics(sizes_of(mean), sizes_of(var), s);
  mbconv::check_residual(residual, s);
  const cpu::Isa isa = select_isa(isa_name);

  input.batch_statistics = batch_statistics;
  args.mean = statistics("mean", mean, input);
  args.var = statistics("var", var, input);
  if (needs_moments(input)) {
    require(moments.has_value(),
            "moments must be given with batch statistics and an expand layer.");
    args.moments = given_moments(*moments, input);
  }
  args.p = dense("p", p, input.dtype);
  args.grad = pixels("grad", grad, input.dtype);
  args.residual = residual;

  OptionalArray dx, dexpand, ddepthwise, dproject, dscale, dshift;
  if (input_grad) dx = result_like(x, args.dx);
  if (weight_grads) {
    if (expand) dexpand = result_like(*expand, args.dexpand);
    ddepthwise = result_like(depthwise, args.ddepthwise);
    dproject = result_like(project, args.dproject);
    dscale = result_like(scale, args.dscale);
    dshift = result_like(shift, args.dshift);
  }
  run(args, cpu::mbconv_backward, isa, plan_of(input, isa).backward_bytes, threads);
  return py::make_tuple(array_or_none(dx), array_or_none(dexpand), array_or_none(ddepthwise),
                        array_or_none(dproject), array_or_none(dscale), array_or_none(dshift));
}

}  // namespace

void bind_mbconv(py::module_& m) {
  using py::arg;
  def_of_sizes(m, "mbconv_plan", &plan, arg("isa") = py::none(),
               R"(Say how the CPU kernels cut up a block, and what workspace they take.

Without an expand layer, `expand_kernel` is 0. `chunk` counts the expanded channels that are worked
on at a time, `chunks` the passes over the batch that takes, and `slices` the parts of the batch
that threads can share; the entries ending in `_bytes` are the workspace of the entry points, in
bytes. Raises ValueError for sizes that no block can have.)");
  def_of_sizes(
      m, "cuda_mbconv_chunks", &cuda_chunks, arg("l2_bytes") = 40 << 20,
      R"(Say how many expanded channels GPU kernels work on at a time, in forward and in backward.

Sizes are as for `mbconv_plan`; `l2_bytes` is the size of the GPU's L2 cache. No GPU is needed.
Raises ValueError for sizes that no block can have.)");
  m.def("mbconv_moments", &moments, arg("x"), arg("kernel"), arg("stride"), arg("threads") = 1,
        arg("isa") = py::none(),
        R"(Compute mean and biased covariance of the patches that an expand layer reads.

x: [N, H, W, C], float32 or float64. Returns float64 [1 + K, K] with K = C * kernel**2 in the order
c, ky, kx; row 0 is the mean. `isa` is the instruction set, by default `selected_isa()`.)");
  m.def("mbconv_forward", &forward, arg("x"), arg("expand"), arg("depthwise"), arg("project"),
        arg("scale"), arg("shift"), arg("mean") = py::none(), arg("var") = py::none(),
        arg("eps") = 1e-3, arg("stride") = 1, arg("expand_stride") = 1, arg("residual") = false,
        arg("save") = true, arg("threads") = 1, arg("isa") = py::none(),
        R"(Run a block, normalised by its batch's statistics unless `mean` and `var` are given.

x: [N, H, W, C], with adjacent channels and else any strides; expand: [hidden, C, ke, ke] or None;
depthwise: [hidden, 1, k, k]; project: [O, hidden, 1, 1]; scale, shift, mean, var: [S], the
BatchNorms' channels in the order of the layers. All have one dtype, float32 or float64.

Returns (y, p, mean, var, moments): the output [N, Ho, Wo, O], the project layer before its
BatchNorm (None unless `save`), the statistics used (var is biased) and those of the patches (None
unless batch statistics of an expand layer are taken). Raises ValueError naming a wrong argument.)");
  m.def("mbconv_gate_probe", &gate_probe, arg("grad"), arg("x"), arg("expand"), arg("depthwise"),
        arg("project"), arg("scale"), arg("shift"), arg("mean") = py::none(),
        arg("var") = py::none(), arg("moments") = py::none(), arg("eps") = 1e-3, arg("stride") = 1,
        arg("expand_stride") = 1, arg("threads") = 1, arg("isa") = py::none(),
        R"(Compute <grad, y> for the y that `mbconv_forward` would give without residual.

grad: [N, Ho, Wo, O]; the others as for `mbconv_forward`. `moments` are computed if they are needed
and not given. Raises ValueError naming a wrong argument.)");
  m.def("mbconv_backward", &backward, arg("grad"), arg("x"), arg("expand"), arg("depthwise"),
        arg("project"), arg("scale"), arg("shift"), arg("p"), arg("mean"), arg("var"),
        arg("moments") = py::none(), arg("eps") = 1e-3, arg("stride") = 1, arg("expand_stride") = 1,
        arg("residual") = false, arg("batch_statistics") = true, arg("input_grad") = true,
        arg("weight_grads") = true, arg("threads") = 1, arg("isa") = py::none(),
        R"(Compute the gradients of a block, given grad = dL/dy [N, Ho, Wo, O].

p, mean, var and moments are what `mbconv_forward` returned; the others as it was given them. With
`batch_statistics` mean and var depend on x, else they are constants.

Returns (dx, dexpand, ddepthwise, dproject, dscale, dshift), shaped like what they are the gradients
of; None stands for those not asked for. Raises ValueError naming a wrong argument.)");
}

}  // namespace proxyless
