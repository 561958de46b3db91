// The backward of the separable block.
#pragma once

#include "kernels/cpu/vector/depthwise_gradient.h"
#include "kernels/cpu/vector/norm_gradient.h"
#include "kernels/cpu/vector/separable_rows.h"
#include "kernels/cpu/vector/sums.h"

namespace proxyless::cpu {

template <class I, class T>
class SeparableBackwardPass {
  static constexpr int L = I::kLanes;
  static constexpr int kBlock = I::kBlock;
  using Operand = typename I::template Operand<T>;

 public:
  SeparableBackwardPass(const SeparableBackward& args, void* workspace)
      : args_(args),
        arena_(workspace),
        rows_(args.input),
        block_(rows_.block()),
        // The way back through the 1x1 convolution is one like an expand layer's, from dy to dD.
        back_block_(back_shape(args.input.shape)),
        grad_(back_block_, args.grad),
        depthwise_gradient_(block_),
        norm_(args, 0, channels(), block_.mid_pixels) {
    const int64_t slices = block_.slices();
    rows_.take(arena_);
    depthwise_gradient_.take(arena_);
    norm_.take(arena_);
    panels_ = {out_channels(), channels()};
    packed_ = arena_.template take<Operand>(panels_.size());
    sums_ = arena_.template take<GradientSums<I>>(slices * block_.planes);
    dpointwise_ = arena_.template take<float>(slices * out_channels() * block_.width);
    dtaps_ = arena_.template take<float>(slices * taps() * block_.width);
    dz_ = static_cast<float*>(args.dx);
    if constexpr (!kSame<T, float>) {
      dz_ = arena_.template take<float>(block_.mid_pixels * channels());
    }
    scratch_stride_ = pointwise_scratch() + depthwise_scratch();
    scratch_ = arena_.template take<float>(slices * scratch_stride_);
  }

  int64_t workspace() const { return arena_.used(); }

  void run() {
    prepare();
    parallel_for(args_.parallel, block_.slices(), [&](int64_t slice) { run_slice(slice); });
    if (weight_grads()) reduce();
    for (int64_t c = 0; c < channels(); ++c) set_norm(c);
    if (args_.dx == nullptr) return;
    const int64_t rows = block_.shape.batch * block_.mid_h;
    parallel_for(args_.parallel, rows, [&](int64_t row) { finish_row(row); });
  }

 private:
  static MBConvShape back_shape(const SeparableShape& s) {
    return {s.batch,
            s.out_height(),
            s.out_width(),
            s.out_channels,
            s.in_channels,
            s.in_channels,
            1,
            1,
            1,
            1};
  }

  int64_t channels() const { return block_.shape.in_channels; }
  int64_t out_channels() const { return block_.shape.out_channels; }
  int64_t taps() const { return block_.shape.kernel * block_.shape.kernel; }
  bool weight_grads() const { return args_.dpointwise != nullptr; }

  void prepare() {
    rows_.fill(args_.input, args_.mean, args_.var);
    depthwise_gradient_.fill(rows_.weights().depthwise);
    norm_.prepare();
    panels_.pack(packed_, out_channels(), args_.parallel, [&](int64_t out, int64_t channel) {
      return rows_.weights().project[out * channels() + channel];
    });
  }

  void run_slice(int64_t slice) const {
    float* scratch = scratch_ + slice * scratch_stride_;
    const int64_t begin = part_begin(block_.units(), block_.slices(), slice);
    const int64_t end = part_begin(block_.units(), block_.slices(), slice + 1);
    for (int64_t i = 0; i < taps() * block_.width; i += L) {
      I::store(dtaps_ + slice * taps() * block_.width + i, I::zero());
    }
    for (int64_t plane = 0; plane < block_.planes; ++plane) {
      sums_[slice * block_.planes + plane].start();
    }
    DepthwiseState state(*this, scratch + pointwise_scratch());
    rows_.rings(scratch).clear();
    for (int64_t u = begin; u < end; ++u) {
      const Unit outputs = block_.unit(u, block_.out_h), inputs = block_.unit(u, block_.mid_h);
      state.start(inputs, block_);
      if (weight_grads()) {
        pointwise(slice, outputs, u > begin, scratch, [&](int64_t last_row) {
          depthwise(slice, inputs.image, smaller(last_row * block_.shape.stride, inputs.last_row),
                    state);
        });
      }
      depthwise(slice, inputs.image, inputs.last_row, state);
    }
  }

  // dW2 of a unit; done(last_row) follows each group of rows, while they are in the cache.
  template <class Done>
  void pointwise(int64_t slice, const Unit& unit, bool begun, float* scratch,
                 const Done& done) const {
    const Rings<I> rings = rows_.rings(scratch);
    float* d = scratch + rows_.rings_size();
    float* wide = d + block_.planes * rows_.group_pixels() * L;
    float* dpointwise = dpointwise_ + slice * out_channels() * block_.width;
    const int64_t plane_stride = rows_.group_pixels() * L;
    rows_.for_groups_of(unit, rings, d, [&](int64_t y, int64_t rows) {
      const PatchRow<float> grad = grad_rows(unit.image, y, rows, wide);
      for (int64_t plane = 0; plane < block_.planes; plane += kBlock) {
        with_count<kBlock>(smaller(kBlock, block_.planes - plane), [&](auto known) {
          multiply_transposed_planes<I, decltype(known)::value>(
              grad.values, grad.step, out_channels(), d + plane * plane_stride, plane_stride, L,
              rows * block_.out_w, begun, dpointwise + plane * L, block_.width);
        });
      }
      begun = true;
      done(y + rows);
    });
  }

  // dy of a group of rows as float32; unless it lies so, it is laid out in `wide`.
  PatchRow<float> grad_rows(int64_t image, int64_t y, int64_t rows, float* wide) const {
    if constexpr (kSame<T, float>) {
      if (args_.grad.row_stride == block_.out_w * grad_.step()) {
        return {grad_.row(image, y), grad_.step()};
      }
    }
    for (int64_t i = 0; i < rows * block_.out_w; ++i) {
      const T* pixel = grad_.row(image, y + i / block_.out_w) + i % block_.out_w * grad_.step();
      copy_values<I>(pixel, out_channels(), wide + i * out_channels());
    }
    return {wide, out_channels()};
  }

  int64_t pointwise_scratch() const {
    return rows_.rings_size() + block_.planes * rows_.group_pixels() * L +
           rows_.group_pixels() * out_channels();
  }

  // Rows of dD of all planes and of A of a few, and how far they are made in a unit.
  struct DepthwiseState {
    Rings<I> grads;
    Band<I> a;
    float* da;          // [mid_w, L]
    Operand* operands;  // of a row of dy
    int64_t made;       // rows of dD
    int64_t next;       // row of dZ

    DepthwiseState(const SeparableBackwardPass& pass, float* memory)
        : grads(memory, pass.block_, pass.block_.reach, pass.grad_vectors()),
          a(memory + pass.grads_size(), 1, pass.block_.row_vectors, pass.block_.pad),
          da(memory + pass.grads_size() + Band<I>::size(1, pass.block_.row_vectors)),
          operands(reinterpret_cast<Operand*>(da + pass.block_.mid_w * L)) {
      grads.clear();
      a.clear(kBlock);
    }

    void start(const Unit& unit, const BlockSizes<I>& block) {
      const int64_t stride = block.shape.stride;
      next = unit.first_row;
      made = larger(0, ceil_div(next - block.pad + block.reach * stride, stride) - block.reach);
    }
  };

  // dZ of the rows before `last_row`, dWd and the BatchNorm's sums.
  void depthwise(int64_t slice, int64_t image, int64_t last_row, DepthwiseState& state) const {
    const int64_t stride = block_.shape.stride;
    for (; state.next < last_row; ++state.next) {
      const int64_t y = state.next;
      const int64_t last = smaller((y + block_.pad) / stride, block_.out_h - 1);
      for (; state.made <= last; ++state.made) {
        grad_row(image, state.made, state.grads, state.operands);
      }
      for (int64_t plane = 0; plane < block_.planes; ++plane) {
        const int64_t v = plane % kBlock;
        const Band<I> band = state.grads.band(plane - v);
        float* a_row = state.a.row(y) + v * state.a.plane_stride();
        rows_.activation_row(image, y, plane, a_row);
        depthwise_gradient_.transposed_row(band, v, plane, y, state.da);
        activation_backward(slice, image, y, plane, a_row, state.da);
        if (weight_grads()) {
          depthwise_gradient_.correlate_taps(band, v, y, state.a,
                                             dtaps_ + (slice * block_.planes + plane) * taps() * L);
        }
      }
    }
  }

  int64_t grad_vectors() const { return block_.out_w + 2 * block_.pad; }
  int64_t grads_size() const { return Rings<I>::size(block_, block_.reach, grad_vectors()); }
  int64_t depthwise_scratch() const {
    return grads_size() + Band<I>::size(1, block_.row_vectors) + block_.mid_w * L +
           grad_.template scratch_size<Operand>();
  }

  // dD of row `y` of all planes.
  void grad_row(int64_t image, int64_t y, const Rings<I>& grads, Operand* operands) const {
    const PatchRow<Operand> grad = grad_.patches(image, y, operands);
    for (int64_t plane = 0; plane < block_.planes; plane += kBlock) {
      const Band<I> band = grads.band(plane);
      with_count<kBlock>(smaller(kBlock, block_.planes - plane), [&](auto known) {
        multiply_rows<I, decltype(known)::value>(grad.values, grad.step, block_.out_w,
                                                 panels_.panel(packed_, plane / kBlock),
                                                 out_channels(), band.row(y), band.plane_stride());
      });
    }
  }

  // dZ of a row of one plane from dA, and its sums.
  void activation_backward(int64_t slice, int64_t image, int64_t y, int64_t plane, const float* a,
                           const float* da) const {
    const int64_t lanes = rows_.lanes(plane), step = rows_.input().step();
    const T* x = rows_.input().row(image, y) + plane * L;
    float* dz = dz_ + ((image * block_.mid_h + y) * block_.mid_w) * channels() + plane * L;
    const auto mean = I::load(norm_.mean() + plane * L);
    GradientSums<I>& sums = sums_[slice * block_.planes + plane];
    for (int64_t x0 = 0; x0 < block_.mid_w; x0 += kRun) {
      auto sum = I::zero(), product = I::zero();
      for (int64_t i = x0; i < smaller(x0 + kRun, block_.mid_w); ++i) {
        const auto grad = I::relu_backward(I::load(da + i * L), I::load(a + i * L));
        sum = I::add(sum, grad);
        product = I::fma(grad, I::sub(I::load(x + i * step, lanes), mean), product);
        if (args_.dx != nullptr) I::store(dz + i * channels(), grad, lanes);
      }
      I::add_to(sums.sum, sum);
      I::add_to(sums.product, product);
    }
  }

  void set_norm(int64_t c) {
    double sum = 0.0, product = 0.0;
    for (int64_t slice = 0; slice < block_.slices(); ++slice) {
      const GradientSums<I>& part = sums_[slice * block_.planes + c / L];
      sum += part.sum[c % L];
      product += part.product[c % L];
    }
    norm_.set(c, sum, product);
  }

  // The weights' gradients from those of the slices.
  void reduce() const {
    const int64_t slices = block_.slices(), width = block_.width;
    parallel_for(args_.parallel, out_channels(), [&](int64_t out) {
      sum_slices<I>(dpointwise_ + out * width, out_channels() * width, slices, width);
      copy_values<I>(dpointwise_ + out * width, channels(),
                     static_cast<T*>(args_.dpointwise) + out * channels());
    });
    sum_slices<I>(dtaps_, taps() * width, slices, taps() * width);
    T* ddepthwise = static_cast<T*>(args_.ddepthwise);
    for (int64_t c = 0; c < channels(); ++c) {
      for (int64_t tap = 0; tap < taps(); ++tap) {
        write_scalar<I>(ddepthwise + c * taps() + tap, dtaps_[(c / L * taps() + tap) * L + c % L]);
      }
    }
  }

  // dX from dZ and X.
  void finish_row(int64_t row) const {
    const int64_t first = row * block_.mid_w * channels(), step = rows_.input().step();
    for (int64_t c = 0; c < channels(); c += L) {
      const int64_t count = smaller(L, channels() - c);
      const typename NormGradient<I>::Lanes norm = norm_.lanes(c);
      const T* x = rows_.input().row(row / block_.mid_h, row % block_.mid_h) + c;
      const float* dz = dz_ + first + c;
      T* dx = static_cast<T*>(args_.dx) + first + c;
      for (int64_t i = 0; i < block_.mid_w; ++i, x += step, dz += channels(), dx += channels()) {
        I::store(dx, norm(I::load(dz, count), I::load(x, count)), count);
      }
    }
  }

  const SeparableBackward& args_;
  Arena arena_;
  SeparableRows<I, T> rows_;
  const BlockSizes<I>& block_;
  BlockSizes<I> back_block_;
  Input<I, T> grad_;
  DepthwiseGradient<I> depthwise_gradient_;
  NormGradient<I> norm_;
  Panels<I, Operand> panels_;
  int64_t scratch_stride_;
  Operand* packed_;        // W2^T [out_channels, in_channels]
  GradientSums<I>* sums_;  // of dZ [slices, planes]
  float* dpointwise_;      // [slices, out_channels, width]
  float* dtaps_;           // [slices, planes, kernel, kernel, L]
  float* dz_;              // [mid_pixels, in_channels]
  float* scratch_;         // [slices, scratch_stride_]
};

}  // namespace proxyless::cpu
