#include "kernels/cuda/backward.cuh"
#include "kernels/cuda/forward.cuh"
#include "kernels/cuda/mbconv.h"
#include "kernels/cuda/moments.cuh"

namespace proxyless::cuda {
namespace {

template <template <class> class Pass, class T>
int64_t bytes(const MBConvShape& shape, const Device& device) {
  Arena arena(nullptr);
  Pass<T>(arena, shape, device);
  return arena.bytes();
}

template <class T>
MBConvPlan plan_of(const MBConvShape& shape, const Device& device) {
  MBConvPlan plan{};
  plan.forward_chunk = forward_chunk(shape, sizeof(T), device);
  plan.backward_chunk = backward_chunk(shape, sizeof(T), device);
  if (shape.has_expand()) plan.moments_bytes = bytes<MomentsOfInput, T>(shape, device);
  plan.forward_bytes = bytes<Forward, T>(shape, device);
  plan.backward_bytes = bytes<Backward, T>(shape, device);
  plan.probe_bytes = bytes<GateProbe, T>(shape, device);
  return plan;
}

// Calls body(T{}) for the numbers of `dtype`, which is not float64.
template <class Body>
auto with_number(DType dtype, const Body& body) {
  if (dtype == DType::kBFloat16) return body(__nv_bfloat16{});
  if (dtype == DType::kFloat16) return body(__half{});
  return body(float{});
}

template <template <class> class Pass, class Args>
void run(const Args& args, const MBConvShape& shape, DType dtype, const Launch& how) {
  with_number(dtype, [&](auto number) {
    Arena arena(args.workspace);
    Pass<decltype(number)>(arena, shape, how.device).run(args, how);
  });
}

}  // namespace

const char* unsupported(const MBConvShape& shape, DType dtype) {
  if (dtype == DType::kFloat64) {
    return "x must be Float, BFloat16 or Half on a GPU, not Double; use plain layers for Double";
  }
  if (shape.kernel != 3 && shape.kernel != 5 && shape.kernel != 7) {
    return "depthwise must have a kernel of 3, 5 or 7 on a GPU; use plain layers for others";
  }
  return nullptr;
}

MBConvPlan plan_mbconv(const MBConvShape& shape, DType dtype, const Device& device) {
  return with_number(dtype, [&](auto number) { return plan_of<decltype(number)>(shape, device); });
}

void mbconv_moments(const MBConvMoments& args, const Launch& launch) {
  run<MomentsOfInput>(args, args.shape, args.dtype, launch);
}

void mbconv_forward(const MBConvForward& args, const Launch& launch) {
  run<Forward>(args, args.input.shape, args.input.dtype, launch);
}

void mbconv_gate_probe(const MBConvProbe& args, const Launch& launch) {
  run<GateProbe>(args, args.input.shape, args.input.dtype, launch);
}

void mbconv_backward(const MBConvBackward& args, const Launch& launch) {
  run<Backward>(args, args.input.shape, args.input.dtype, launch);
}

}  // namespace proxyless::cuda
