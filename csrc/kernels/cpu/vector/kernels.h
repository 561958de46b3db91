// The table of one instruction set's kernels.
#pragma once

#include "kernels/cpu/mbconv_table.h"
#include "kernels/cpu/vector/backward.h"
#include "kernels/cpu/vector/forward.h"
#include "kernels/cpu/vector/moments.h"

namespace proxyless::cpu {

template <class I>
MBConvPlan plan(const MBConvShape& shape, DType dtype) {
  MBConvPlan plan{};
  with_storage<I>(dtype, [&](auto storage) {
    using T = decltype(storage);
    MBConvInput input{};
    input.shape = shape;
    input.dtype = dtype;
    input.batch_statistics = true;
    MBConvMoments moments{};
    moments.shape = shape;
    MBConvForward forward{};
    forward.input = input;
    MBConvProbe probe{};
    probe.input = input;
    MBConvBackward backward{};
    backward.input = input;
    const Backward<I, T> planned(backward, nullptr);
    plan.chunk = smaller(planned.chunk() * I::kLanes, shape.hidden);
    plan.chunks = ceil_div(shape.hidden, planned.chunk() * I::kLanes);
    plan.slices = BlockSizes<I>(shape).slices();
    if (shape.has_expand()) plan.moments_bytes = Moments<I, T>(moments, nullptr).workspace();
    plan.forward_bytes = Forward<I, T>(forward, nullptr).workspace();
    plan.backward_bytes = planned.workspace();
    plan.probe_bytes = GateProbe<I, T>(probe, nullptr).workspace();
  });
  return plan;
}

template <class I>
void moments(const MBConvMoments& args) {
  with_storage<I>(args.dtype,
                  [&](auto storage) { Moments<I, decltype(storage)>(args, args.workspace).run(); });
}

template <class I>
void forward(const MBConvForward& args) {
  with_storage<I>(args.input.dtype,
                  [&](auto storage) { Forward<I, decltype(storage)>(args, args.workspace).run(); });
}

template <class I>
void gate_probe(const MBConvProbe& args) {
  with_storage<I>(args.input.dtype, [&](auto storage) {
    GateProbe<I, decltype(storage)>(args, args.workspace).run();
  });
}

template <class I>
void backward(const MBConvBackward& args) {
  with_storage<I>(args.input.dtype, [&](auto storage) {
    Backward<I, decltype(storage)>(args, args.workspace).run();
  });
}

template <class I>
constexpr MBConvKernels kVectorKernels = {plan<I>, moments<I>, forward<I>, gate_probe<I>,
                                          backward<I>};

}  // namespace proxyless::cpu
