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
#include "kernels/cpu/vector/depthwise_gradient.h"
#include "kernels/cpu/vector/norm_gradient.h"
#include "kernels/cpu/vector/norms.h"
#include "kernels/cpu/vector/rows.h"
#include "kernels/cpu/vector/sums.h"

namespace proxyless::cpu {

// Rings of rows of all planes, one for each block of planes.
template <class I>
class Rings {
 public:
  Rings(float* memory, const BlockSizes<I>& block, int64_t rows, int64_t row_vectors)
      : memory_(memory), block_(block), rows_(rows), row_vectors_(row_vectors) {}

  static int64_t size(const BlockSizes<I>& block, int64_t rows, int64_t row_vectors) {
    return ceil_div(block.planes, I::kBlock) * Band<I>::size(rows, row_vectors);
  }

  // Of the block of planes that begins with `plane`.
  Band<I> band(int64_t plane) const {
    float* memory = memory_ + plane / I::kBlock * Band<I>::size(rows_, row_vectors_);
    return {memory, rows_, row_vectors_, block_.pad};
  }

  void clear() const {
    for (int64_t plane = 0; plane < block_.planes; plane += I::kBlock) {
      band(plane).clear(smaller(I::kBlock, block_.planes - plane));
    }
  }

 private:
  float* memory_;
  const BlockSizes<I>& block_;
  int64_t rows_, row_vectors_;
};

// What forward, probe and backward share: rows of A and of D.
template <class I, class T>
class SeparableRows {
  static constexpr int L = I::kLanes;

 public:
  explicit SeparableRows(const SeparableInput& in)
      : block_(in.shape.convolutions()), input_(block_, in.x) {}
  SeparableRows(const SeparableRows&) = delete;
  SeparableRows& operator=(const SeparableRows&) = delete;

  void take(Arena& arena) {
    weights_.take(block_, arena);
    slope_ = arena.template take<float>(block_.width);
    offset_ = arena.template take<float>(block_.width);
  }

  void fill(const SeparableInput& in, const void* mean, const void* var) {
    weights_.fill(block_, nullptr, in.depthwise, in.pointwise);
    fold_norm<I>(static_cast<const float*>(in.scale), static_cast<const float*>(in.shift),
                 static_cast<const float*>(mean), static_cast<const float*>(var), in.eps, 0,
                 block_.shape.in_channels, slope_, offset_);
  }

  const BlockSizes<I>& block() const { return block_; }
  const Input<I, T>& input() const { return input_; }
  const Weights<I, T>& weights() const { return weights_; }

  // Lanes of a plane that are channels.
  int64_t lanes(int64_t plane) const { return smaller(L, block_.shape.in_channels - plane * L); }

  // Row `y` of A of one plane.
  void activation_row(int64_t image, int64_t y, int64_t plane, float* out) const {
    const auto slope = I::load(slope_ + plane * L), offset = I::load(offset_ + plane * L);
    const T* from = input_.row(image, y) + plane * L;
    const int64_t count = lanes(plane), step = input_.step();
    const auto activate = [&](auto x, int64_t at) {
      I::store(out + at * L, I::relu(I::fma(x, slope, offset)));
    };
    if (count == L) {
      for (int64_t x = 0; x < block_.mid_w; ++x) activate(I::load(from + x * step), x);
    } else {
      for (int64_t x = 0; x < block_.mid_w; ++x) activate(I::load(from + x * step, count), x);
    }
  }

  int64_t rings_size() const { return Rings<I>::size(block_, block_.reach, block_.row_vectors); }
  Rings<I> rings(float* memory) const { return {memory, block_, block_.reach, block_.row_vectors}; }

  // Rows of the output in one go, enough to keep a product's tile busy.
  int64_t group_rows() const { return larger(1, smaller(kTile / block_.out_w, block_.out_h)); }
  int64_t group_pixels() const { return group_rows() * block_.out_w; }

  // D of a unit, a group of rows of all planes after the other; done(first_row, rows) follows each.
  //   rings: cleared once, for all units
  //   d:     [planes, group_pixels()] vectors
  template <class Value, class Done>
  void for_groups_of(const Unit& unit, const Rings<I>& rings, Value* d, const Done& done) const {
    const int64_t stride = block_.shape.stride, group = group_rows();
    int64_t made = larger(0, unit.first_row * stride - block_.pad);
    for (int64_t y = unit.first_row; y < unit.last_row; y += group) {
      const int64_t rows = smaller(group, unit.last_row - y);
      for (int64_t plane = 0; plane < block_.planes; ++plane) {
        const int64_t v = plane % I::kBlock;
        const Band<I> band = rings.band(plane - v);
        Value* out = d + plane * group_pixels() * L;
        int64_t next = made;
        for (int64_t r = y; r < y + rows; ++r, out += block_.out_w * L) {
          const int64_t below = r * stride - block_.pad + block_.reach;
          for (; next < smaller(below, block_.mid_h); ++next) {
            activation_row(unit.image, next, plane, band.row(next) + v * band.plane_stride());
          }
          depthwise_row<I>(block_, weights_.depthwise, band, r, plane, v, out);
        }
      }
      made =
          larger(made, smaller((y + rows - 1) * stride - block_.pad + block_.reach, block_.mid_h));
      done(y, rows);
    }
  }

 private:
  BlockSizes<I> block_;
  Input<I, T> input_;
  Weights<I, T> weights_;
  float *slope_, *offset_;  // [width], A = relu(slope X + offset)
};

// The product with W2 behind rows of D.
template <class I, class T>
class PointwiseRows {
  static constexpr int L = I::kLanes;
  using Operand = typename I::template Operand<T>;

 public:
  explicit PointwiseRows(const SeparableInput& in)
      : rows_(in), panels_{rows_.block().width, in.shape.out_channels} {}

  void take(Arena& arena) {
    rows_.take(arena);
    packed_ = arena.template take<Operand>(panels_.size());
    scratch_ = arena.template take<float>(block().slices() * scratch_size());
  }

  void fill(const SeparableInput& in, const void* mean, const void* var,
            const ParallelFor& parallel) {
    rows_.fill(in, mean, var);
    const int64_t channels = in.shape.in_channels;
    panels_.pack(packed_, channels, parallel, [&](int64_t channel, int64_t out) {
      return rows_.weights().project[out * channels + channel];
    });
  }

  const BlockSizes<I>& block() const { return rows_.block(); }
  int64_t group_pixels() const { return rows_.group_pixels(); }

  // D of all units of a slice; done(image, first_row, rows, d) follows each group of rows.
  template <class Done>
  void run(int64_t slice, const Done& done) const {
    float* scratch = scratch_ + slice * scratch_size();
    const Rings<I> rings = rows_.rings(scratch);
    Operand* d = reinterpret_cast<Operand*>(scratch + rows_.rings_size());
    rings.clear();
    const int64_t parts = block().slices();
    for (int64_t u = part_begin(block().units(), parts, slice);
         u < part_begin(block().units(), parts, slice + 1); ++u) {
      const Unit unit = block().unit(u, block().out_h);
      rows_.for_groups_of(unit, rings, d, [&](int64_t y, int64_t rows) {
        done(unit.image, y, rows, static_cast<const Operand*>(d));
      });
    }
  }

  // out [count, out_channels] = the product with `count` pixels of a group.
  void multiply(const Operand* d, int64_t count, float* out) const {
    const int64_t channels = block().shape.out_channels;
    for (int64_t panel = 0; panel < panels_.panels(); ++panel) {
      with_count<I::kBlock>(panels_.panel_vectors(panel), [&](auto known) {
        constexpr int NV = decltype(known)::value;
        const int64_t column = panel * Panels<I, Operand>::kColumns;
        multiply_planes<I, NV>(d, group_pixels() * L, block().planes, count,
                               panels_.panel(packed_, panel), false, out + column, channels,
                               smaller(NV * L, channels - column));
      });
    }
  }

 private:
  int64_t scratch_size() const { return rows_.rings_size() + block().planes * group_pixels() * L; }

  SeparableRows<I, T> rows_;
  Panels<I, Operand> panels_;
  Operand* packed_;  // W2 [in_channels, out_channels]
  float* scratch_;   // [slices, scratch_size()]
};

template <class I, class T>
class SeparableForwardPass {
  // A float32 y is made where it is to be; others need a place.
  static constexpr bool kInPlace = kSame<T, float>;

 public:
  SeparableForwardPass(const SeparableForward& args, void* workspace)
      : args_(args), arena_(workspace), rows_(args.input) {
    rows_.take(arena_);
    if constexpr (!kInPlace) wide_ = arena_.template take<float>(rows_.block().slices() * size());
  }

  int64_t workspace() const { return arena_.used(); }

  void run() {
    const BlockSizes<I>& block = rows_.block();
    const int64_t channels = block.shape.out_channels;
    rows_.fill(args_.input, args_.mean, args_.var, args_.parallel);
    parallel_for(args_.parallel, block.slices(), [&](int64_t slice) {
      rows_.run(slice, [&](int64_t image, int64_t y, int64_t rows, const auto* d) {
        const int64_t first = (image * block.out_h + y) * block.out_w, count = rows * block.out_w;
        T* out = static_cast<T*>(args_.y) + first * channels;
        if constexpr (kInPlace) {
          rows_.multiply(d, count, out);
        } else {
          float* wide = wide_ + slice * size();
          rows_.multiply(d, count, wide);
          copy_values<I>(wide, count * channels, out);
        }
      });
    });
  }

 private:
  int64_t size() const { return rows_.group_pixels() * rows_.block().shape.out_channels; }

  const SeparableForward& args_;
  Arena arena_;
  PointwiseRows<I, T> rows_;
  float* wide_ = nullptr;  // [slices, size()]
};

template <class I, class T>
class SeparableProbePass {
  static constexpr int L = I::kLanes;

 public:
  SeparableProbePass(const SeparableProbe& args, void* workspace)
      : args_(args), arena_(workspace), rows_(args.input) {
    rows_.take(arena_);
    const int64_t slices = rows_.block().slices();
    y_ = arena_.template take<float>(slices * size());
    sums_ = arena_.template take<double>(slices * L);
  }

  int64_t workspace() const { return arena_.used(); }

  void run() {
    const BlockSizes<I>& block = rows_.block();
    rows_.fill(args_.input, args_.mean, args_.var, args_.parallel);
    parallel_for(args_.parallel, block.slices(), [&](int64_t slice) {
      float* y = y_ + slice * size();
      double* sums = sums_ + slice * L;
      for (int lane = 0; lane < L; ++lane) sums[lane] = 0.0;
      rows_.run(slice, [&](int64_t image, int64_t first_row, int64_t rows, const auto* d) {
        const int64_t count = rows * block.out_w;
        rows_.multiply(d, count, y);
        add_products((image * block.out_h + first_row) * block.out_w, count, y, sums);
      });
    });
    double result = 0.0;
    for (int64_t i = 0; i < block.slices() * L; ++i) result += sums_[i];
    *static_cast<float*>(args_.result) = static_cast<float>(result);
  }

 private:
  int64_t size() const { return rows_.group_pixels() * rows_.block().shape.out_channels; }

  // sums += grad y of pixels [first, first + count)
  void add_products(int64_t first, int64_t count, const float* y, double* sums) const {
    const BlockSizes<I>& block = rows_.block();
    const int64_t channels = block.shape.out_channels;
    for (int64_t c = 0; c < channels; c += L) {
      const int64_t lanes = smaller(L, channels - c);
      auto sum = I::zero();
      PixelWalk<T> walk(args_.grad, block.out_h, block.out_w, first);
      for (int64_t i = 0; i < count; ++i, ++walk) {
        sum = I::fma(I::load(*walk + c, lanes), I::load(y + i * channels + c, lanes), sum);
      }
      I::add_to(sums, sum);
    }
  }

  const SeparableProbe& args_;
  Arena arena_;
  PointwiseRows<I, T> rows_;
  float* y_;      // [slices, size()]
  double* sums_;  // [slices, L]
};

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
