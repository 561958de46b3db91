// The separable block: y = W2 D with D = dw(A) and A = relu(bn(X)).
//
// No channel of D has to wait for the others, as D has no BatchNorm. So there are no chunks: a
// group of rows of D is made for all channels and multiplied while it is in the cache. Rows of A
// live in rings as high as the depthwise kernel.
//
//   forward    X is read once, y written once
//   probe      the same, with sums of grad y instead of y
//   backward   D of a group of rows again for dW2 = dy^T D; of the same rows dD = W2^T dy in rings,
//              dWd, and dZ = dw^T(dD) where ReLU let through, which lies where dX will; at last dX
//              from dZ and X, once the BatchNorm's sums over all pixels are there
#pragma once

#include "kernels/cpu/separable_table.h"
#include "kernels/cpu/vector/separable_backward.h"
#include "kernels/cpu/vector/separable_forward.h"
#include "kernels/cpu/vector/sums.h"

namespace proxyless::cpu {

// Mean and variance of each channel of X.
template <class I, class T>
class SeparableStatisticsPass {
  static constexpr int L = I::kLanes;

 public:
  SeparableStatisticsPass(const SeparableStatistics& args, void* workspace)
      : args_(args),
        arena_(workspace),
        block_(args.shape.convolutions()),
        input_(block_, args.x),
        sums_(arena_.template take<PivotSums<I>>(block_.slices() * block_.planes)) {}

  int64_t workspace() const { return arena_.used(); }

  void run() const {
    parallel_for(args_.parallel, block_.slices(), [&](int64_t slice) { sum(slice); });
    for (int64_t c = 0; c < args_.shape.in_channels; ++c) {
      double mean, var;
      merge_parts(sums_ + c / L, block_.slices(), block_.planes, static_cast<int>(c % L), &mean,
                  &var);
      static_cast<float*>(args_.mean)[c] = static_cast<float>(mean);
      static_cast<float*>(args_.var)[c] = static_cast<float>(var);
    }
  }

 private:
  void sum(int64_t slice) const {
    PivotSums<I>* sums = sums_ + slice * block_.planes;
    for (int64_t plane = 0; plane < block_.planes; ++plane) sums[plane].start();
    // Rows without gaps between them are one.
    const bool dense = args_.x.row_stride == block_.mid_w * args_.x.pixel_stride;
    const int64_t parts = block_.slices();
    for (int64_t u = part_begin(block_.units(), parts, slice);
         u < part_begin(block_.units(), parts, slice + 1); ++u) {
      const Unit unit = block_.unit(u, block_.mid_h);
      const int64_t step = dense ? unit.last_row - unit.first_row : 1;
      for (int64_t y = unit.first_row; y < unit.last_row; y += step) {
        for (int64_t plane = 0; plane < block_.planes; ++plane) {
          sums[plane].add(input_.row(unit.image, y) + plane * L, input_.step(), step * block_.mid_w,
                          smaller(L, args_.shape.in_channels - plane * L));
        }
      }
    }
  }

  const SeparableStatistics& args_;
  Arena arena_;
  BlockSizes<I> block_;
  Input<I, T> input_;
  PivotSums<I>* sums_;  // [slices, planes]
};

template <class I>
SeparablePlan plan_separable(const SeparableShape& shape, DType dtype) {
  SeparablePlan plan{};
  with_storage<I>(dtype, [&](auto storage) {
    using T = decltype(storage);
    SeparableInput input{};
    input.shape = shape;
    SeparableStatistics statistics{};
    statistics.shape = shape;
    SeparableForward forward{};
    forward.input = input;
    SeparableProbe probe{};
    probe.input = input;
    SeparableBackward backward{};
    backward.input = input;
    plan.statistics_bytes = SeparableStatisticsPass<I, T>(statistics, nullptr).workspace();
    plan.forward_bytes = SeparableForwardPass<I, T>(forward, nullptr).workspace();
    plan.probe_bytes = SeparableProbePass<I, T>(probe, nullptr).workspace();
    plan.backward_bytes = SeparableBackwardPass<I, T>(backward, nullptr).workspace();
  });
  return plan;
}

template <class I>
void separable_statistics(const SeparableStatistics& args) {
  with_storage<I>(args.dtype, [&](auto storage) {
    SeparableStatisticsPass<I, decltype(storage)>(args, args.workspace).run();
  });
}

template <class I>
void separable_forward(const SeparableForward& args) {
  with_storage<I>(args.input.dtype, [&](auto storage) {
    SeparableForwardPass<I, decltype(storage)>(args, args.workspace).run();
  });
}

template <class I>
void separable_gate_probe(const SeparableProbe& args) {
  with_storage<I>(args.input.dtype, [&](auto storage) {
    SeparableProbePass<I, decltype(storage)>(args, args.workspace).run();
  });
}

template <class I>
void separable_backward(const SeparableBackward& args) {
  with_storage<I>(args.input.dtype, [&](auto storage) {
    SeparableBackwardPass<I, decltype(storage)>(args, args.workspace).run();
  });
}

template <class I>
constexpr SeparableKernels kVectorSeparable = {plan_separable<I>, separable_statistics<I>,
                                               separable_forward<I>, separable_gate_probe<I>,
                                               separable_backward<I>};

}  // namespace proxyless::cpu
