// What the passes of the separable block share: rows of A and of D, and products with W2.
#pragma once

#include "kernels/cpu/separable_table.h"
#include "kernels/cpu/vector/norms.h"
#include "kernels/cpu/vector/rows.h"

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

}  // namespace proxyless::cpu
