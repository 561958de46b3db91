// Backward. It keeps nothing of the expanded tensors: chunk by chunk, rows of A1 and D are made
// again.
//
//   head      dP from dL/dy and P
//   depthwise of a chunk: D again; dZ2 = dP W2 where ReLU6 let through; dW2 = dP^T A2; sums over
//   dZ2 expand    of a chunk: dD from dZ2 and D; rows of A1 again; dWd; dZ1 = dw^T(dD) where ReLU6
//   let
//             through; Q = X^T dZ1; dX += dZ1 (slope W1)
//   tail      what BatchNorm's backward adds in the expand layer
//
// dE = slope dZ1 + b (E - mean) + c has b and c that depend on sums over all pixels, but both are
// per channel, and E = W1 X. So they need neither dZ1 nor E once more:
//   dX  = dZ1 (slope W1) + (X - mean(X)) W1^T diag(b) W1 + c W1
//   dW1 = slope Q^T + m b W1 cov(X) + m c mean(X),  sum(dZ1 (E - mean)) = W1 (Q - mean(X) sum(dZ1))
// with m pixels.
#pragma once

#include "kernels/cpu/vector/depthwise_gradient.h"
#include "kernels/cpu/vector/forward.h"
#include "kernels/cpu/vector/input_gradient.h"
#include "kernels/cpu/vector/norm_gradient.h"

namespace proxyless::cpu {

template <class I, class T>
class Backward {
  static constexpr int L = I::kLanes;
  using Operand = typename I::template Operand<T>;
  static constexpr bool kFloatOperand = kSame<Operand, float>;

  // Rows of A1 are made in the first pass over a chunk and read in the second; this many are kept
  // for it. Where pictures are small, that is less work than the products that make them.
  static constexpr int64_t kKeptValues = 4 << 20;

  // sum(grad) and sum(grad (x - mean)) of a vector of channels
  struct Products {
    double sum[L], product[L];
  };

 public:
  Backward(const MBConvBackward& args, void* workspace)
      : args_(args),
        in_(args.input),
        arena_(workspace),
        block_(in_.shape),
        input_(block_, in_.x),
        tiles_(block_.out_pixels),
        pass_(block_, input_, folded_, weights_),
        depthwise_gradient_(block_),
        dx_(args, block_, input_),
        norms_(in_.shape) {
    const MBConvShape& s = block_.shape;
    const int64_t slices = block_.slices(), taps = s.kernel * s.kernel;
    chunk_ = block_.chunk_planes(2 * sizeof(T));
    out_vectors_ = ceil_div(s.out_channels, L);
    mid_group_ = larger(1, smaller(kTile / block_.mid_w, block_.mid_h));
    weights_.template take<T>(block_, arena_);
    folded_.take(block_, arena_);
    norms_.take(arena_);
    project_norm_.take(s.out_channels, batch(), arena_);
    depthwise_norm_.take(block_.width, batch(), arena_);
    head_ = arena_.template take<Products>(tiles_.tasks * out_vectors_);
    dp_ = arena_.template take<Operand>(block_.out_pixels * s.out_channels);
    project_panels_ = {s.out_channels, s.hidden};
    project_ = arena_.template take<Operand>(project_panels_.size());
    d_ = arena_.template take<T>(chunk_ * block_.out_pixels * L);
    dz2_ = arena_.template take<T>(chunk_ * block_.out_pixels * L);
    products_ = arena_.template take<Products>(slices * chunk_);
    dproject_ = arena_.template take<float>(slices * s.out_channels * chunk_ * L);
    dtaps_ = arena_.template take<float>(slices * chunk_ * taps * L);
    depthwise_gradient_.take(arena_);
    // Only without segments: they would write the rows at their borders twice.
    const int64_t kept_size = chunk_ * KeptActivations<I>::plane_size(block_);
    if (s.has_expand() && block_.segments == 1 && kept_size <= kKeptValues) {
      kept_.memory = arena_.template take<float>(kept_size);
    }
    if (s.has_expand()) {
      expand_norm_.take(block_.width, batch(), arena_);
      q_ = arena_.template take<float>(slices * block_.patch * chunk_ * L);
      dz1_sums_ = arena_.template take<double>(slices * chunk_ * L);
      square_panels_ = {block_.patch, block_.patch};
      covariance_ = arena_.template take<float>(square_panels_.size());
      back_panels_ = {block_.width, block_.patch};
      back_ = arena_.template take<Operand>(back_panels_.size());
    }
    dx_.take(arena_);
    scratch_stride_ = larger(depthwise_scratch(), expand_scratch());
    scratch_ = arena_.template take<float>(slices * scratch_stride_);
  }

  int64_t workspace() const { return arena_.used(); }
  int64_t chunk() const { return chunk_; }

  void run() {
    prepare();
    head();
    for (int64_t first = 0; first < block_.planes; first += chunk_) {
      const int64_t planes = smaller(chunk_, block_.planes - first);
      parallel_for(args_.parallel, block_.slices(),
                   [&](int64_t slice) { depthwise(slice, first, planes); });
      reduce_depthwise(first, planes);
      if (!needs_expand()) continue;
      parallel_for(args_.parallel, block_.slices(),
                   [&](int64_t slice) { expand(slice, first, planes); });
      if (block_.shape.has_expand()) reduce_expand(first, planes);
      if (weight_grads()) reduce_taps(first, planes);
    }
    if (dx_.wanted()) dx_.finish(weights_.expand, expand_norm_);
  }

 private:
  static constexpr int kBlock = I::kBlock;

  bool weight_grads() const { return args_.dproject != nullptr; }
  bool needs_expand() const { return weight_grads() || dx_.wanted(); }
  bool batch() const { return in_.batch_statistics; }
  int64_t group_pixels() const { return larger(kTile, block_.out_w); }

  NormVectors<const float> scale() const {
    return {static_cast<const float*>(in_.scale), block_.shape};
  }
  NormVectors<float> dscale() const { return {static_cast<float*>(args_.dscale), block_.shape}; }
  NormVectors<float> dshift() const { return {static_cast<float*>(args_.dshift), block_.shape}; }
  double inv_std(double var) const { return 1.0 / square_root(var + in_.eps); }

  void prepare() {
    const MBConvShape& s = block_.shape;
    weights_.template fill<T>(block_, in_);
    norms_.load(static_cast<const float*>(args_.mean), static_cast<const float*>(args_.var));
    norms_.finish_depthwise(in_, 0, block_.planes);
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
    if (batch()) {
      square_panels_.pack(covariance_, block_.patch, args_.parallel, [&](int64_t i, int64_t j) {
        return static_cast<float>(args_.moments[(1 + i) * block_.patch + j]);
      });
    }
  }

  PixelWalk<T> grads_from(int64_t pixel) const {
    return {args_.grad, block_.out_h, block_.out_w, pixel};
  }

  void head() {
    const MBConvShape& s = block_.shape;
    const int64_t channels = s.out_channels;
    const T* p = static_cast<const T*>(args_.p);
    for (int64_t c = 0; c < channels; ++c) {
      project_norm_.mean[c] = static_cast<float>(norms_.mean().project[c]);
    }
    parallel_for(args_.parallel, tiles_.tasks, [&](int64_t task) {
      for (int64_t v = 0; v < out_vectors_; ++v) {
        const int64_t lanes = smaller(L, channels - v * L);
        const auto mean = I::load(project_norm_.mean + v * L, lanes);
        Products& products = head_[task * out_vectors_ + v];
        for (int lane = 0; lane < L; ++lane) products.sum[lane] = products.product[lane] = 0.0;
        tiles_.for_each(task, [&](int64_t first, int64_t count) {
          auto sum = I::zero(), product = I::zero();
          PixelWalk<T> walk = grads_from(first);
          for (int64_t pixel = first; pixel < first + count; ++pixel, ++walk) {
            const auto grad = I::load(*walk + v * L, lanes);
            const auto deviation = I::sub(I::load(p + pixel * channels + v * L, lanes), mean);
            sum = I::add(sum, grad);
            product = I::fma(grad, deviation, product);
          }
          I::add_to(products.sum, sum);
          I::add_to(products.product, product);
        });
      }
    });
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0.0, product = 0.0;
      for (int64_t task = 0; task < tiles_.tasks; ++task) {
        sum += head_[task * out_vectors_ + c / L].sum[c % L];
        product += head_[task * out_vectors_ + c / L].product[c % L];
      }
      const double r = inv_std(norms_.var().project[c]);
      if (weight_grads()) {
        dshift().project[c] = static_cast<float>(sum);
        dscale().project[c] = static_cast<float>(product * r);
      }
      project_norm_.fill(c, static_cast<double>(scale().project[c]), norms_.mean().project[c], r,
                         sum, product, static_cast<double>(block_.out_pixels));
    }
    project_norm_.fill_padding(channels);
    parallel_for(args_.parallel, tiles_.tasks, [&](int64_t task) {
      tiles_.for_each(task, [&](int64_t first, int64_t count) {
        PixelWalk<T> walk = grads_from(first);
        for (int64_t pixel = first; pixel < first + count; ++pixel, ++walk) {
          for (int64_t c = 0; c < channels; c += L) {
            const int64_t lanes = smaller(L, channels - c);
            const auto dp = project_norm_(I::load(*walk + c, lanes),
                                          I::load(p + pixel * channels + c, lanes), c);
            I::store(dp_ + pixel * channels + c, dp, lanes);
          }
        }
      });
    });
  }

  float* slice_dproject(int64_t slice) const {
    return dproject_ + slice * block_.shape.out_channels * chunk_ * L;
  }

  void depthwise(int64_t slice, int64_t first, int64_t planes) const {
    float* scratch = scratch_ + slice * scratch_stride_;
    float* a2 = scratch + pass_.scratch_size();
    float* da2 = a2 + kBlock * group_pixels() * L;
    float* wide = da2 + kBlock * group_pixels() * L;
    const int64_t channels = block_.shape.out_channels, plane_stride = block_.out_pixels * L;
    const int64_t row = chunk_ * L, tile_stride = group_pixels() * L;
    float* dproject = slice_dproject(slice);
    for (int64_t plane = 0; plane < planes; plane += kBlock) {
      with_count<kBlock>(smaller(kBlock, planes - plane), [&](auto known) {
        constexpr int NV = decltype(known)::value;
        T* d = d_ + plane * plane_stride;
        T* dz2 = dz2_ + plane * plane_stride;
        Products* products = products_ + slice * chunk_ + plane;
        for (int v = 0; v < NV; ++v) {
          for (int lane = 0; lane < L; ++lane) {
            products[v].sum[lane] = products[v].product[lane] = 0.0;
          }
        }
        const Operand* panel = project_panels_.panel(project_, (first + plane) / kBlock);
        bool begun = false;
        pass_.template run<NV>(
            slice, first, plane, kept_, scratch, d, plane_stride, row_group(block_),
            [&](int64_t image, int64_t y, int64_t rows) {
              const int64_t pixel = (image * block_.out_h + y) * block_.out_w;
              const int64_t count = rows * block_.out_w;
              const Operand* dp = dp_ + pixel * channels;
              multiply_rows<I, NV>(dp, channels, count, panel, channels, da2, tile_stride);
              for (int v = 0; v < NV; ++v) {
                relu6_rows(d + v * plane_stride + pixel * L, da2 + v * tile_stride, count,
                           (first + plane + v) * L, a2 + v * tile_stride,
                           dz2 + v * plane_stride + pixel * L, products[v]);
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
    for (int64_t i = 0; i < count; i += L) {
      const int64_t lanes = smaller(L, count - i);
      I::store(wide + i, I::load(values + i, lanes), lanes);
    }
    return wide;
  }

  // A2 from D, dZ2 from dA2, and their sums.
  void relu6_rows(const T* d, const float* da2, int64_t count, int64_t channel, float* a2, T* dz2,
                  Products& products) const {
    const auto slope = I::load(norms_.depthwise_slope() + channel);
    const auto offset = I::load(norms_.depthwise_offset() + channel);
    float means[L];
    for (int lane = 0; lane < L; ++lane) {
      const bool padding = channel + lane >= block_.shape.hidden;
      means[lane] = padding ? 0.0f : static_cast<float>(norms_.mean().depthwise[channel + lane]);
    }
    const auto mean = I::load(means);
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
    I::add_to(products.sum, sum);
    I::add_to(products.product, product);
  }

  void reduce_depthwise(int64_t first, int64_t planes) {
    const MBConvShape& s = block_.shape;
    const int64_t slices = block_.slices(), row = chunk_ * L;
    const int64_t begin = first * L, end = smaller(s.hidden, (first + planes) * L);
    for (int64_t c = begin; c < end; ++c) {
      double sum = 0.0, product = 0.0;
      for (int64_t slice = 0; slice < slices; ++slice) {
        const Products& part = products_[slice * chunk_ + c / L - first];
        sum += part.sum[c % L];
        product += part.product[c % L];
      }
      const double r = inv_std(norms_.var().depthwise[c]);
      if (weight_grads()) {
        dshift().depthwise[c] = static_cast<float>(sum);
        dscale().depthwise[c] = static_cast<float>(product * r);
      }
      depthwise_norm_.fill(c, static_cast<double>(scale().depthwise[c]), norms_.mean().depthwise[c],
                           r, batch() ? sum : 0.0, batch() ? product : 0.0,
                           static_cast<double>(block_.out_pixels));
    }
    if (end == s.hidden) depthwise_norm_.fill_padding(s.hidden);
    if (!weight_grads()) return;
    parallel_for(args_.parallel, s.out_channels, [&](int64_t out) {
      sum_slices(dproject_ + out * row, s.out_channels * row, slices, end - begin);
      store_values(dproject_ + out * row, end - begin,
                   static_cast<T*>(args_.dproject) + out * s.hidden + begin);
    });
  }

  // values[i] += values[slice * stride + i] for slices 1, 2, ...; whole vectors of `count` entries.
  static void sum_slices(float* values, int64_t stride, int64_t slices, int64_t count) {
    for (int64_t i = 0; i < count; i += L) {
      auto sum = I::load(values + i);
      for (int64_t slice = 1; slice < slices; ++slice) {
        sum = I::add(sum, I::load(values + slice * stride + i));
      }
      I::store(values + i, sum);
    }
  }

  static void store_values(const float* from, int64_t count, T* to) {
    for (int64_t i = 0; i < count; i += L) {
      const int64_t lanes = smaller(L, count - i);
      I::store(to + i, I::load(from + i, lanes), lanes);
    }
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
      double* sums = dz1_sums_ + slice * chunk_ * L;
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
                     dz1_sums_ + (slice * chunk_ + plane + v) * L);
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
                    int64_t rows, bool begun, const float* patches, const float* dz1,
                    int64_t dz1_stride) const {
    const MBConvShape& s = block_.shape;
    const int64_t pixel = (image * block_.mid_h + y) * block_.mid_w, count = rows * block_.mid_w;
    if (!s.has_expand()) {
      if (dx_.wanted()) scatter_planes<NV>(first + plane, pixel, count, dz1, dz1_stride);
      return;
    }
    float* q = q_ + slice * block_.patch * chunk_ * L + plane * L;
    const bool dense = patches_size() > 0 || in_.x.row_stride == block_.mid_w * in_.x.pixel_stride;
    const int64_t step = patches_size() > 0 ? block_.patch : in_.x.pixel_stride;
    const int64_t run = dense ? count : block_.mid_w;
    for (int64_t i = 0; i < count; i += run) {
      const float* x = patches + i * block_.patch;
      if (patches_size() == 0) {
        x = input_.patches(image, y + i / block_.mid_w, static_cast<float*>(nullptr)).values;
      }
      multiply_transposed_planes<I, NV>(x, step, block_.patch, dz1 + i * L, dz1_stride, L, run,
                                        begun || i > 0, q, chunk_ * L);
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
  static const Operand* as_operand(const float* values, int64_t count) {
    if constexpr (kFloatOperand) {
      return values;
    } else {
      Operand* out = reinterpret_cast<Operand*>(const_cast<float*>(values) + count);
      for (int64_t i = 0; i < count; i += L) I::store(out + i, I::load(values + i));
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
      sum_slices(sums, chunk_ * taps * L, block_.slices(), taps * L);
      for (int64_t c = 0; c < smaller(L, s.hidden - (first + plane) * L); ++c) {
        T* out = static_cast<T*>(args_.ddepthwise) + ((first + plane) * L + c) * taps;
        for (int64_t tap = 0; tap < taps; ++tap) write_scalar<I>(out + tap, sums[tap * L + c]);
      }
    });
  }

  // Sums of the expand layer's BatchNorm and dW1 of a chunk.
  void reduce_expand(int64_t first, int64_t planes) {
    const MBConvShape& s = block_.shape;
    const int64_t K = block_.patch, row = chunk_ * L, slices = block_.slices();
    const int64_t begin = first * L, end = smaller(s.hidden, (first + planes) * L);
    parallel_for(args_.parallel, K,
                 [&](int64_t k) { sum_slices(q_ + k * row, K * row, slices, planes * L); });
    parallel_for(args_.parallel, ceil_div(end - begin, I::kRows), [&](int64_t group) {
      const int64_t from = begin + group * I::kRows, to = smaller(end, from + I::kRows);
      for (int64_t c = from; c < to; ++c) reduce_expand_channel(c, begin);
      if (weight_grads()) expand_gradient(from, to, begin);
    });
    if (end == s.hidden) expand_norm_.fill_padding(s.hidden);
  }

  void reduce_expand_channel(int64_t c, int64_t begin) {
    const int64_t K = block_.patch, row = chunk_ * L;
    const float* weight = weights_.expand + c * K;
    double sum = 0.0, product = 0.0;
    for (int64_t slice = 0; slice < block_.slices(); ++slice) {
      sum += dz1_sums_[slice * row + c - begin];
    }
    if (batch()) {
      for (int64_t k = 0; k < K; ++k) {
        const double q = static_cast<double>(q_[k * row + c - begin]);
        product += static_cast<double>(weight[k]) * (q - args_.moments[k] * sum);
      }
    } else {
      for (int64_t k = 0; k < K; ++k) {
        product += static_cast<double>(weight[k]) * static_cast<double>(q_[k * row + c - begin]);
      }
      product -= norms_.mean().expand[c] * sum;
    }
    const double r = inv_std(norms_.var().expand[c]);
    if (weight_grads()) {
      dshift().expand[c] = static_cast<float>(sum);
      dscale().expand[c] = static_cast<float>(product * r);
    }
    expand_norm_.fill(c, static_cast<double>(scale().expand[c]), norms_.mean().expand[c], r, sum,
                      product, static_cast<double>(block_.mid_pixels));
  }

  // dW1 of channels [from, to), at most I::kRows.
  void expand_gradient(int64_t from, int64_t to, int64_t begin) const {
    const int64_t K = block_.patch, row = chunk_ * L;
    const float m = static_cast<float>(block_.mid_pixels);
    for (int64_t panel = 0; panel < square_panels_.panels(); ++panel) {
      const int64_t column = panel * Panels<I, float>::kColumns;
      const int64_t columns = smaller(Panels<I, float>::kColumns, K - column);
      float products[I::kRows][kBlock * L] = {};
      if (batch()) {
        with_count<kBlock>(square_panels_.panel_vectors(panel), [&](auto known) {
          constexpr int NV = decltype(known)::value;
          multiply_rows<I, NV>(weights_.expand + from * K, K, to - from,
                               square_panels_.panel(covariance_, panel), K, products[0], L,
                               kBlock * L);
        });
      }
      for (int64_t c = from; c < to; ++c) {
        float* values = products[c - from];
        for (int64_t j = 0; j < columns; ++j) {
          const float q = expand_norm_.slope[c] * q_[(column + j) * row + c - begin];
          if (batch()) {
            const float mean = static_cast<float>(args_.moments[column + j]);
            values[j] =
                q + m * (expand_norm_.square[c] * values[j] + expand_norm_.constant[c] * mean);
          } else {
            values[j] = q;
          }
        }
        store_values(values, columns, static_cast<T*>(args_.dexpand) + c * K + column);
      }
    }
  }

  const MBConvBackward& args_;
  const MBConvInput& in_;
  Arena arena_;
  Block<I> block_;
  Input<I, T> input_;
  Tiles tiles_;
  Weights<I> weights_;
  FoldedExpand<I, Operand> folded_;
  DepthwisePass<I, T> pass_;
  DepthwiseGradient<I> depthwise_gradient_;
  InputGradient<I, T> dx_;
  KeptActivations<I> kept_;
  Norms<I> norms_;
  NormGradient<I> expand_norm_, depthwise_norm_, project_norm_;
  Panels<I, Operand> project_panels_, back_panels_;
  Panels<I, float> square_panels_;
  int64_t chunk_, out_vectors_, mid_group_, scratch_stride_;
  Products* head_;      // [tasks, out_vectors_]
  Products* products_;  // [slices, chunk_]
  Operand* dp_;         // [out_pixels, out_channels]
  Operand* project_;    // packed W2 [out_channels, hidden]
  T *d_, *dz2_;         // [chunk_, out_pixels, L]
  float* dproject_;     // [slices, out_channels, chunk_ * L]
  float* dtaps_;        // [slices, chunk_, kernel, kernel, L]
  float* q_;            // [slices, patch, chunk_ * L]
  double* dz1_sums_;    // [slices, chunk_, L]
  float* covariance_;   // packed cov(X) [patch, patch]
  Operand* back_;       // packed slope W1 [width, patch]
  float* scratch_;      // [slices, scratch_stride_]
};

}  // namespace proxyless::cpu
