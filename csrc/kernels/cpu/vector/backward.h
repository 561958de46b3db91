// Backward. It keeps nothing of the expanded tensors: chunk by chunk, rows of A1 and D are made
// again.
//
//   dP                      from dL/dy and P
//   first pass of a chunk   D again; dZ2 = dP W2 where ReLU6 let through; dW2 = dP^T A2
//   second pass of a chunk  dD from dZ2 and D; dWd; dZ1 = dw^T(dD) where ReLU6 let through;
//                           Q = X^T dZ1; dX += dZ1 (slope W1)
//
// dE = slope dZ1 + b (E - mean) + c would need a third pass, because b and c depend on sums over
// all pixels. But both are per channel, and E = W1 X:
//   dX = dZ1 (slope W1) + (X - mean(X)) W1^T diag(b) W1 + c W1
// (input_gradient.h), and likewise dW1 (expand_gradient.h), need neither dZ1 nor E once more.
#pragma once

#include "kernels/cpu/vector/depthwise_gradient.h"
#include "kernels/cpu/vector/expand_gradient.h"
#include "kernels/cpu/vector/forward.h"
#include "kernels/cpu/vector/input_gradient.h"
#include "kernels/cpu/vector/norm_gradient.h"
#include "kernels/cpu/vector/project_gradient.h"

namespace proxyless::cpu {

template <class I, class T>
class Backward {
  static constexpr int L = I::kLanes;
  using Operand = typename I::template Operand<T>;
  static constexpr bool kFloatOperand = kSame<Operand, float>;

  // Rows of A1 are made in the first pass over a chunk and read in the second; this many are kept
  // for it. Where pictures are small, that is less work than the products that make them.
  static constexpr int64_t kKeptValues = 4 << 20;

 public:
  Backward(const MBConvBackward& args, void* workspace)
      : args_(args),
        in_(args.input),
        arena_(workspace),
        block_(in_.shape),
        input_(block_, in_.x),
        pass_(block_, input_, folded_, weights_),
        norms_(in_.shape),
        project_gradient_(args, block_),
        depthwise_norm_(args, block_.shape.has_expand() ? block_.shape.hidden : 0,
                        block_.shape.hidden, block_.out_pixels),
        depthwise_gradient_(block_),
        expand_gradient_(args, block_),
        dx_(args, block_, input_) {
    const MBConvShape& s = block_.shape;
    const int64_t slices = block_.slices();
    chunk_ = block_.chunk_planes(2 * sizeof(T));
    mid_group_ = larger(1, smaller(kTile / block_.mid_w, block_.mid_h));
    weights_.take(block_, arena_);
    folded_.take(block_, arena_);
    norms_.take(arena_);
    project_gradient_.take(arena_);
    project_panels_ = {s.out_channels, s.hidden};
    project_ = arena_.template take<Operand>(project_panels_.size());
    d_ = arena_.template take<T>(chunk_ * block_.out_pixels * L);
    dz2_ = arena_.template take<T>(chunk_ * block_.out_pixels * L);
    sums_ = arena_.template take<GradientSums<I>>(slices * chunk_);
    dproject_ = arena_.template take<float>(slices * s.out_channels * chunk_ * L);
    depthwise_norm_.take(arena_);
    depthwise_gradient_.take(arena_);
    dtaps_ = arena_.template take<float>(slices * chunk_ * s.kernel * s.kernel * L);
    if (s.has_expand()) {
      expand_gradient_.take(chunk_, arena_);
      back_panels_ = {block_.width, block_.patch};
      back_ = arena_.template take<Operand>(back_panels_.size());
      // Only without segments: they would write the rows at their borders twice.
      const int64_t kept_size = chunk_ * KeptActivations<I>::plane_size(block_);
      if (block_.segments == 1 && kept_size <= kKeptValues) {
        kept_.memory = arena_.template take<float>(kept_size);
      }
    }
    dx_.take(arena_);
    scratch_stride_ = larger(depthwise_scratch(), expand_scratch());
    scratch_ = arena_.template take<float>(slices * scratch_stride_);
  }

  int64_t workspace() const { return arena_.used(); }
  int64_t chunk() const { return chunk_; }

  void run() {
    prepare();
    project_gradient_.run();
    for (int64_t first = 0; first < block_.planes; first += chunk_) {
      const int64_t planes = smaller(chunk_, block_.planes - first);
      const int64_t begin = first * L, end = smaller(block_.shape.hidden, (first + planes) * L);
      parallel_for(args_.parallel, block_.slices(),
                   [&](int64_t slice) { depthwise(slice, first, planes); });
      reduce_depthwise(begin, end);
      if (!weight_grads() && !dx_.wanted()) continue;
      parallel_for(args_.parallel, block_.slices(),
                   [&](int64_t slice) { expand(slice, first, planes); });
      if (block_.shape.has_expand()) expand_gradient_.reduce(weights_.expand, begin, end);
      if (weight_grads()) reduce_taps(first, planes);
    }
    if (dx_.wanted()) dx_.finish(weights_.expand, expand_gradient_.norm());
  }

 private:
  static constexpr int kBlock = I::kBlock;

  bool weight_grads() const { return args_.dproject != nullptr; }
  int64_t group_pixels() const { return larger(kTile, block_.out_w); }

  void prepare() {
    const MBConvShape& s = block_.shape;
    weights_.fill(block_, in_.expand, in_.depthwise, in_.project);
    norms_.load(static_cast<const float*>(args_.mean), static_cast<const float*>(args_.var));
    norms_.finish_depthwise(in_, 0, block_.planes);
    depthwise_norm_.prepare();
    project_panels_.pack(
        project_, s.out_channels, args_.parallel,
        [&](int64_t out, int64_t hidden) { return weights_.project[out * s.hidden + hidden]; });
    depthwise_gradient_.fill(weights_.depthwise);
    if (!s.has_expand()) return;
    norms_.finish_expand(in_);
    folded_.fill(weights_.expand, norms_.expand_slope(), norms_.expand_offset(), args_.parallel);
    back_panels_.pack(back_, s.hidden, args_.parallel, [&](int64_t hidden, int64_t k) {
      return weights_.expand[hidden * block_.patch + k] * norms_.expand_slope()[hidden];
    });
    expand_gradient_.prepare();
  }

  void depthwise(int64_t slice, int64_t first, int64_t planes) const {
    float* scratch = scratch_ + slice * scratch_stride_;
    float* a2 = scratch + pass_.scratch_size();
    float* da2 = a2 + kBlock * group_pixels() * L;
    float* wide = da2 + kBlock * group_pixels() * L;
    const int64_t channels = block_.shape.out_channels, plane_stride = block_.out_pixels * L;
    const int64_t row = chunk_ * L, tile_stride = group_pixels() * L;
    float* dproject = dproject_ + slice * channels * row;
    for (int64_t plane = 0; plane < planes; plane += kBlock) {
      with_count<kBlock>(smaller(kBlock, planes - plane), [&](auto known) {
        constexpr int NV = decltype(known)::value;
        T* d = d_ + plane * plane_stride;
        T* dz2 = dz2_ + plane * plane_stride;
        GradientSums<I>* sums = sums_ + slice * chunk_ + plane;
        for (int v = 0; v < NV; ++v) sums[v].start();
        const Operand* panel = project_panels_.panel(project_, (first + plane) / kBlock);
        bool begun = false;
        pass_.template run<NV>(
            slice, first, plane, kept_, scratch, d, plane_stride, row_group(block_),
            [&](int64_t image, int64_t y, int64_t rows) {
              const int64_t pixel = (image * block_.out_h + y) * block_.out_w;
              const int64_t count = rows * block_.out_w;
              const Operand* dp = project_gradient_.dp() + pixel * channels;
              multiply_rows<I, NV>(dp, channels, count, panel, channels, da2, tile_stride);
              for (int v = 0; v < NV; ++v) {
                relu6_rows(d + v * plane_stride + pixel * L, da2 + v * tile_stride, count,
                           (first + plane + v) * L, a2 + v * tile_stride,
                           dz2 + v * plane_stride + pixel * L, sums[v]);
              }
              if (weight_grads()) {
                multiply_transposed_planes<I, NV>(as_floats(dp, count * channels, wide), channels,
                                                  channels, a2, tile_stride, L, count, begun,
                                                  dproject + plane * L, row);
                begun = true;
              }
            });
      });
    }
  }

  // The values themselves, or, if they are not float32, a copy in `wide`.
  static const float* as_floats(const float* values, int64_t, float*) { return values; }
  template <class Value>
  static const float* as_floats(const Value* values, int64_t count, float* wide) {
    copy_values<I>(values, count, wide);
    return wide;
  }

  // A2 from D, dZ2 from dA2, and its sums.
  void relu6_rows(const T* d, const float* da2, int64_t count, int64_t channel, float* a2, T* dz2,
                  GradientSums<I>& sums) const {
    const auto slope = I::load(norms_.depthwise_slope() + channel);
    const auto offset = I::load(norms_.depthwise_offset() + channel);
    const auto mean = I::load(depthwise_norm_.mean() + channel);
    auto sum = I::zero(), product = I::zero();
    for (int64_t i = 0; i < count * L; i += L) {
      const auto value = I::load(d + i);
      const auto z = I::fma(value, slope, offset);
      const auto grad = I::relu6_backward(I::load(da2 + i), z);
      I::store(a2 + i, I::relu6(z));
      I::store(dz2 + i, grad);
      sum = I::add(sum, grad);
      product = I::fma(grad, I::sub(value, mean), product);
    }
    I::add_to(sums.sum, sum);
    I::add_to(sums.product, product);
  }

  // Of channels [begin, end), those of the chunk.
  void reduce_depthwise(int64_t begin, int64_t end) {
    const MBConvShape& s = block_.shape;
    const int64_t slices = block_.slices(), row = chunk_ * L;
    for (int64_t c = begin; c < end; ++c) {
      double sum = 0.0, product = 0.0;
      for (int64_t slice = 0; slice < slices; ++slice) {
        const GradientSums<I>& part = sums_[slice * chunk_ + (c - begin) / L];
        sum += part.sum[c % L];
        product += part.product[c % L];
      }
      depthwise_norm_.set(c, sum, product);
    }
    if (!weight_grads()) return;
    parallel_for(args_.parallel, s.out_channels, [&](int64_t out) {
      sum_slices<I>(dproject_ + out * row, s.out_channels * row, slices, round_up(end - begin, L));
      copy_values<I>(dproject_ + out * row, end - begin,
                     static_cast<T*>(args_.dproject) + out * s.hidden + begin);
    });
  }

  int64_t depthwise_scratch() const {
    const int64_t wide = kFloatOperand ? 0 : group_pixels() * block_.shape.out_channels;
    return pass_.scratch_size() + 2 * kBlock * group_pixels() * L + round_up(wide, L);
  }

  // Of the patches of a group of rows, as float32 for Q.
  int64_t patches_size() const {
    const bool copied = block_.shape.has_expand() && !input_.template direct<float>();
    return copied ? round_up(mid_group_ * block_.mid_w * block_.patch + 1, L) : 0;
  }
  // Of a row of them as an operand of the expand layer, where that is something else.
  int64_t operands_size() const {
    return kFloatOperand ? 0 : input_.template scratch_size<Operand>();
  }
  int64_t grad_vectors() const { return block_.out_w + 2 * block_.pad; }
  int64_t expand_scratch() const {
    return patches_size() + operands_size() + Band<I>::size(block_.shape.kernel, grad_vectors()) +
           Band<I>::size(1, block_.row_vectors) + 2 * kBlock * mid_group_ * block_.mid_w * L;
  }

  void expand(int64_t slice, int64_t first, int64_t planes) const {
    const MBConvShape& s = block_.shape;
    float* scratch = scratch_ + slice * scratch_stride_;
    const int64_t taps = s.kernel * s.kernel, parts = block_.slices();
    float* dtaps = dtaps_ + slice * chunk_ * taps * L;
    for (int64_t i = 0; i < planes * taps * L; i += L) I::store(dtaps + i, I::zero());
    if (s.has_expand()) {
      double* sums = expand_gradient_.sums(slice, 0);
      for (int64_t i = 0; i < chunk_ * L; ++i) sums[i] = 0.0;
    }
    for (int64_t plane = 0; plane < planes; plane += kBlock) {
      with_count<kBlock>(smaller(kBlock, planes - plane), [&](auto known) {
        const int64_t begin = part_begin(block_.units(), parts, slice);
        for (int64_t u = begin; u < part_begin(block_.units(), parts, slice + 1); ++u) {
          expand_unit<decltype(known)::value>(slice, first, plane, block_.unit(u, block_.mid_h),
                                              u > begin, scratch);
        }
      });
    }
  }

  // Rows of one block of planes of one unit.
  template <int NV>
  void expand_unit(int64_t slice, int64_t first, int64_t plane, const Unit& unit, bool begun,
                   float* scratch) const {
    const MBConvShape& s = block_.shape;
    const int64_t width = block_.mid_w;
    float* memory = scratch + patches_size() + operands_size();
    const Band<I> grads(memory, s.kernel, grad_vectors(), block_.pad);
    memory += Band<I>::size(s.kernel, grad_vectors());
    const bool kept = kept_.memory != nullptr;
    const Band<I> a1 = kept ? kept_.band(block_, plane, unit.image)
                            : Band<I>(memory, 1, block_.row_vectors, block_.pad);
    grads.clear(NV);
    if (!kept) a1.clear(NV);
    float* dz1 = memory + Band<I>::size(1, block_.row_vectors);
    const int64_t dz1_stride = mid_group_ * width * L;

    int64_t made = larger(
        0, ceil_div(unit.first_row + block_.pad - (s.kernel - 1) + s.kernel * s.stride, s.stride) -
               s.kernel);
    for (int64_t y = unit.first_row; y < unit.last_row; y += mid_group_) {
      const int64_t rows = smaller(mid_group_, unit.last_row - y);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t last = smaller((y + r + block_.pad) / s.stride, block_.out_h - 1);
        for (; made <= last; ++made) grad_row<NV>(first, plane, unit.image, made, grads);
        float* patches = scratch + (patches_size() > 0 ? r * width * block_.patch : 0);
        if (!kept) {
          activation_row<I, T, Operand, NV>(block_, input_, folded_, unit.image, y + r,
                                            first + plane, operand_scratch(scratch, patches),
                                            a1.row(y + r), a1.plane_stride());
        }
        if (patches_size() > 0 && (kept || !kFloatOperand)) {
          input_.patches(unit.image, y + r, patches);
        }
        for (int v = 0; v < NV; ++v) {
          float* out = dz1 + v * dz1_stride + r * width * L;
          depthwise_gradient_.transposed_row(grads, v, first + plane + v, y + r, out);
          if (s.has_expand()) {
            mask_row(a1.row(y + r) + v * a1.plane_stride(), out,
                     expand_gradient_.sums(slice, plane + v));
          }
          if (weight_grads()) {
            depthwise_gradient_.correlate_taps(
                grads, v, y + r, a1,
                dtaps_ + (slice * chunk_ + plane + v) * s.kernel * s.kernel * L);
          }
        }
      }
      finish_group<NV>(slice, first, plane, unit.image, y, rows, begun, scratch, dz1, dz1_stride);
      begun = true;
    }
  }

  // Where the expand layer's operands of a row go: with the patches if they are the same.
  Operand* operand_scratch(float* scratch, float* patches) const {
    if constexpr (kFloatOperand) {
      return patches;
    } else {
      return reinterpret_cast<Operand*>(scratch + patches_size());
    }
  }

  // dD of row `y`
  template <int NV>
  void grad_row(int64_t first, int64_t plane, int64_t image, int64_t y,
                const Band<I>& grads) const {
    const int64_t pixel = (image * block_.out_h + y) * block_.out_w;
    for (int v = 0; v < NV; ++v) {
      const int64_t offset = ((plane + v) * block_.out_pixels + pixel) * L;
      float* out = grads.row(y) + v * grads.plane_stride();
      for (int64_t i = 0; i < block_.out_w * L; i += L) {
        I::store(out + i, depthwise_norm_(I::load(dz2_ + offset + i), I::load(d_ + offset + i),
                                          (first + plane + v) * L));
      }
    }
  }

  void mask_row(const float* a1, float* dz1, double* sums) const {
    for (int64_t x0 = 0; x0 < block_.mid_w; x0 += kRun) {
      auto sum = I::zero();
      for (int64_t x = x0; x < smaller(x0 + kRun, block_.mid_w); ++x) {
        const auto grad = I::relu6_backward(I::load(dz1 + x * L), I::load(a1 + x * L));
        I::store(dz1 + x * L, grad);
        sum = I::add(sum, grad);
      }
      I::add_to(sums, sum);
    }
  }

  // dX and Q of a group of rows.
  template <int NV>
  void finish_group(int64_t slice, int64_t first, int64_t plane, int64_t image, int64_t y,
                    int64_t rows, bool begun, const float* patches, float* dz1,
                    int64_t dz1_stride) const {
    const MBConvShape& s = block_.shape;
    const int64_t pixel = (image * block_.mid_h + y) * block_.mid_w, count = rows * block_.mid_w;
    if (!s.has_expand()) {
      if (dx_.wanted()) scatter_planes<NV>(first + plane, pixel, count, dz1, dz1_stride);
      return;
    }
    float* q = expand_gradient_.q(slice, plane);
    const bool dense = patches_size() > 0 || in_.x.row_stride == block_.mid_w * in_.x.pixel_stride;
    const int64_t step = patches_size() > 0 ? block_.patch : in_.x.pixel_stride;
    const int64_t run = dense ? count : block_.mid_w;
    for (int64_t i = 0; i < count; i += run) {
      const float* x = patches + i * block_.patch;
      if (patches_size() == 0) {
        x = input_.patches(image, y + i / block_.mid_w, static_cast<float*>(nullptr)).values;
      }
      multiply_transposed_planes<I, NV>(x, step, block_.patch, dz1 + i * L, dz1_stride, L, run,
                                        begun || i > 0, q, expand_gradient_.width());
    }
    if (!dx_.wanted()) return;
    const Operand* operand = as_operand(dz1, NV * dz1_stride);
    for (int64_t panel = 0; panel < back_panels_.panels(); ++panel) {
      with_count<kBlock>(back_panels_.panel_vectors(panel), [&](auto known) {
        constexpr int NO = decltype(known)::value;
        const int64_t column = panel * Panels<I, Operand>::kColumns;
        multiply_planes<I, NO>(operand, dz1_stride, NV, count,
                               back_panels_.panel(back_, panel) + (first + plane) * L * NO * L,
                               first + plane > 0, dx_.sums() + pixel * block_.patch + column,
                               block_.patch, smaller(NO * L, block_.patch - column));
      });
    }
  }

  // The values themselves, or, if an operand is something else, a copy behind them.
  static const Operand* as_operand(float* values, int64_t count) {
    if constexpr (kFloatOperand) {
      return values;
    } else {
      Operand* out = reinterpret_cast<Operand*>(values + count);
      copy_values<I>(values, count, out);
      return out;
    }
  }

  // Without an expand layer, dX is dA1.
  template <int NV>
  void scatter_planes(int64_t plane, int64_t pixel, int64_t count, const float* dz1,
                      int64_t dz1_stride) const {
    const int64_t channels = block_.shape.in_channels;
    for (int64_t i = 0; i < count; ++i) {
      float* out = dx_.sums() + (pixel + i) * channels + plane * L;
      for (int v = 0; v < NV; ++v) {
        I::store(out + v * L, I::load(dz1 + v * dz1_stride + i * L),
                 smaller(L, channels - (plane + v) * L));
      }
    }
  }

  void reduce_taps(int64_t first, int64_t planes) const {
    const MBConvShape& s = block_.shape;
    const int64_t taps = s.kernel * s.kernel;
    parallel_for(args_.parallel, planes, [&](int64_t plane) {
      float* sums = dtaps_ + plane * taps * L;
      sum_slices<I>(sums, chunk_ * taps * L, block_.slices(), taps * L);
      for (int64_t c = 0; c < smaller(L, s.hidden - (first + plane) * L); ++c) {
        T* out = static_cast<T*>(args_.ddepthwise) + ((first + plane) * L + c) * taps;
        for (int64_t tap = 0; tap < taps; ++tap) write_scalar<I>(out + tap, sums[tap * L + c]);
      }
    });
  }

  const MBConvBackward& args_;
  const MBConvInput& in_;
  Arena arena_;
  BlockSizes<I> block_;
  Input<I, T> input_;
  Weights<I, T> weights_;
  FoldedExpand<I, Operand> folded_;
  DepthwisePass<I, T> pass_;
  Norms<I> norms_;
  ProjectGradient<I, T> project_gradient_;
  NormGradient<I> depthwise_norm_;
  DepthwiseGradient<I> depthwise_gradient_;
  ExpandGradient<I, T> expand_gradient_;
  InputGradient<I, T> dx_;
  KeptActivations<I> kept_;
  Panels<I, Operand> project_panels_, back_panels_;
  int64_t chunk_, mid_group_, scratch_stride_;
  Operand* project_;       // packed W2 [out_channels, hidden]
  T *d_, *dz2_;            // [chunk_, out_pixels, L]
  GradientSums<I>* sums_;  // of dZ2 [slices, chunk_]
  float* dproject_;        // [slices, out_channels, chunk_ * L]
  float* dtaps_;           // [slices, chunk_, kernel, kernel, L]
  Operand* back_;          // packed slope W1 [width, patch]
  float* scratch_;         // [slices, scratch_stride_]
};

}  // namespace proxyless::cpu
