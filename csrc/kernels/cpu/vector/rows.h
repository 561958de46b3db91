// Rows of X as the expand layer reads them, rows of A1 made from them, and rows of D from those.
#pragma once

#include "kernels/cpu/vector/depthwise.h"
#include "kernels/cpu/vector/gemm.h"
#include "kernels/cpu/vector/pack.h"

namespace proxyless::cpu {

// Pixels of one row and where they are: `values` [mid_w, patch] with rows `step` apart.
template <class Value>
struct PatchRow {
  const Value* values;
  int64_t step;
};

template <class A, class B>
constexpr bool kSame = false;
template <class A>
constexpr bool kSame<A, A> = true;

template <class I, class T>
class Input {
 public:
  static constexpr int L = I::kLanes;

  Input(const BlockSizes<I>& block, const Pixels& x) : block_(block), x_(x) {}

  // Whether rows of patches, as Values, are X itself.
  template <class Value>
  bool direct() const {
    return kSame<T, Value> && block_.shape.expand_kernel == 1 && block_.shape.expand_stride == 1;
  }
  // Values that one row of patches takes in scratch; a pair may be read at its end.
  template <class Value>
  int64_t scratch_size() const {
    return direct<Value>() ? 0 : round_up(block_.mid_w * block_.patch + 1, L);
  }

  const T* row(int64_t image, int64_t y) const {
    return static_cast<const T*>(x_.data) + image * x_.batch_stride + y * x_.row_stride;
  }
  int64_t step() const { return x_.pixel_stride; }

  // Row `y` of the patches of an image; unless direct(), it is laid out in scratch.
  template <class Value>
  PatchRow<Value> patches(int64_t image, int64_t y, Value* scratch) const {
    if constexpr (kSame<T, Value>) {
      if (direct<Value>()) return {row(image, y), x_.pixel_stride};
    }
    const MBConvShape& s = block_.shape;
    if (s.expand_kernel == 1) {
      const T* from = row(image, y * s.expand_stride);
      for (int64_t x = 0; x < block_.mid_w; ++x) {
        const T* pixel = from + x * s.expand_stride * x_.pixel_stride;
        copy_values<I>(pixel, s.in_channels, scratch + x * block_.patch);
      }
    } else {
      unfold(image, y, scratch);
    }
    return {scratch, block_.patch};
  }

 private:
  // Patches in the order of a convolution's weight: channel, then tap.
  template <class Value>
  void unfold(int64_t image, int64_t y, Value* scratch) const {
    const MBConvShape& s = block_.shape;
    const int64_t kernel = s.expand_kernel, half = kernel / 2;
    for (int64_t ky = 0; ky < kernel; ++ky) {
      const int64_t in_y = y * s.expand_stride + ky - half;
      const bool inside = in_y >= 0 && in_y < s.height;
      for (int64_t x = 0; x < block_.mid_w; ++x) {
        const int64_t left = x * s.expand_stride - half;
        const int64_t begin = inside ? larger(0, -left) : kernel;
        const int64_t end = inside ? smaller(kernel, s.width - left) : kernel;
        const T* from = inside ? row(image, in_y) + (left + begin) * x_.pixel_stride : nullptr;
        Value* out = scratch + x * block_.patch + ky * kernel;
        for (int64_t c = 0; c < s.in_channels; ++c, out += kernel * kernel) {
          for (int64_t kx = 0; kx < begin; ++kx) out[kx] = Value{};
          for (int64_t kx = begin; kx < end; ++kx) {
            copy_value(from + c + (kx - begin) * x_.pixel_stride, out + kx);
          }
          for (int64_t kx = end; kx < kernel; ++kx) out[kx] = Value{};
        }
      }
    }
  }

  template <class Value>
  static void copy_value(const T* from, Value* to) {
    if constexpr (kSame<T, Value>) {
      *to = *from;
    } else {
      write_scalar<I>(to, read_scalar<I>(from));
    }
  }

  const BlockSizes<I>& block_;
  const Pixels& x_;
};

// Expand layer with its BatchNorm folded into the weights: A1 = relu6(W X + shift).
template <class I, class Operand>
struct FoldedExpand {
  static constexpr int L = I::kLanes;

  Panels<I, Operand> panels;  // [patch, hidden]
  Operand* weights;
  float* shift;  // [width]

  void take(const BlockSizes<I>& block, Arena& arena) {
    panels = {block.patch, block.shape.hidden};
    weights = arena.template take<Operand>(block.shape.has_expand() ? panels.size() : 0);
    shift = arena.template take<float>(block.shape.has_expand() ? block.width : 0);
  }

  // slope, offset [hidden]: BatchNorm as an affine function of the convolution's output.
  void fill(const float* expand, const float* slope, const float* offset,
            const ParallelFor& parallel) {
    panels.pack(weights, panels.rows, parallel, [&](int64_t k, int64_t channel) {
      return expand[channel * panels.rows + k] * slope[channel];
    });
    const int64_t padded = panels.vectors() * L;
    for (int64_t c = 0; c < padded; ++c) shift[c] = c < panels.columns ? offset[c] : 0.0f;
  }
};

// Row `y` of A1 of one block of planes: out[plane][x], planes plane_stride apart. Without an expand
// layer A1 is X. Lanes beyond the last channel are left as they are: a weight of 0 would not keep
// inf and NaN out of them.
template <class I, class T, class Operand, int NV>
void activation_row(const BlockSizes<I>& block, const Input<I, T>& input,
                    const FoldedExpand<I, Operand>& folded, int64_t image, int64_t y,
                    int64_t first_plane, Operand* scratch, float* out, int64_t plane_stride) {
  constexpr int L = I::kLanes;
  const int64_t tail = smaller(L, block.shape.hidden - (first_plane + NV - 1) * L);
  const auto put = [&](int64_t x, int v, typename I::Vector value) {
    float* to = out + v * plane_stride + x * L;
    if (v + 1 < NV || tail == L) {
      I::store(to, value);
    } else {
      I::store(to, value, tail);
    }
  };
  if (!block.shape.has_expand()) {
    const T* from = input.row(image, y) + first_plane * L;
    for (int64_t x = 0; x < block.mid_w; ++x, from += input.step()) {
      for (int v = 0; v < NV; ++v) {
        put(x, v, I::load(from + v * L, v + 1 < NV ? L : tail));
      }
    }
    return;
  }
  const PatchRow<Operand> row = input.patches(image, y, scratch);
  const Operand* weights = folded.panels.panel(folded.weights, first_plane / I::kBlock);
  const float* shift = folded.shift + first_plane * L;
  for_groups<I::kRows>(block.mid_w, [&](auto known, int64_t first) {
    constexpr int M = decltype(known)::value;
    typename I::Vector acc[M][NV];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[m][v] = I::load(shift + v * L);
    }
    multiply<I, M, NV>(acc, row.values + first * row.step, row.step, weights, block.patch);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) put(first + m, v, I::relu6(acc[m][v]));
    }
  });
}

// Rows of one block of planes that a depthwise convolution slides over: a ring of `rows` rows with
// zeros beyond the sides. A ring as high as the picture holds all of it.
template <class I>
class Band {
 public:
  static constexpr int L = I::kLanes;

  static int64_t size(int64_t rows, int64_t row_vectors) {
    return I::kBlock * rows * row_vectors * L;
  }

  // memory: [planes, rows, row_vectors, L], planes plane_stride apart
  Band(float* memory, int64_t rows, int64_t row_vectors, int64_t pad, int64_t plane_stride)
      : memory_(memory),
        rows_(rows),
        row_vectors_(row_vectors),
        pad_(pad),
        plane_stride_(plane_stride) {}

  // In memory of size().
  Band(float* memory, int64_t rows, int64_t row_vectors, int64_t pad)
      : Band(memory, rows, row_vectors, pad, rows * row_vectors * L) {}

  int64_t plane_stride() const { return plane_stride_; }
  // First pixel of row y; padding lies before it.
  float* row(int64_t y) const { return memory_ + ((y % rows_) * row_vectors_ + pad_) * L; }

  void clear(int64_t planes) const {
    for (int64_t y = 0; y < rows_; ++y) clear_row(y, planes);
  }
  void clear_row(int64_t y, int64_t planes) const {
    for (int64_t plane = 0; plane < planes; ++plane) {
      float* values = row(y) - pad_ * L + plane * plane_stride_;
      for (int64_t i = 0; i < row_vectors_ * L; i += L) I::store(values + i, I::zero());
    }
  }

 private:
  float* memory_;
  int64_t rows_, row_vectors_, pad_, plane_stride_;
};

// Row `y` of D of one plane, the band's plane `v`.
//   weights: [planes, kernel, kernel, L]
template <class I, class Out>
void depthwise_row(const BlockSizes<I>& block, const float* weights, const Band<I>& band, int64_t y,
                   int64_t plane, int64_t v, Out* out) {
  constexpr int L = I::kLanes;
  const MBConvShape& s = block.shape;
  const float* rows[kMaxKernel];
  const float* taps[kMaxKernel];
  int64_t count = 0;
  for (int64_t ky = 0; ky < s.kernel; ++ky) {
    const int64_t from = y * s.stride - block.pad + ky * s.dilation;
    if (from < 0 || from >= block.mid_h) continue;
    rows[count] = band.row(from) + v * band.plane_stride() - block.pad * L;
    taps[count++] = weights + (plane * s.kernel + ky) * s.kernel * L;
  }
  convolve<I>(rows, taps, count, s.kernel, s.stride, s.dilation, out, 1, block.out_w);
}

// A1 of a chunk, kept from one pass to the next: [planes, batch, mid_h, row_vectors, L].
template <class I>
struct KeptActivations {
  static constexpr int L = I::kLanes;

  float* memory = nullptr;  // null if rows are to be made again

  static int64_t plane_size(const BlockSizes<I>& block) {
    return block.shape.batch * block.mid_h * block.row_vectors * L;
  }
  // The block of planes that begins with `plane` of the chunk.
  Band<I> band(const BlockSizes<I>& block, int64_t plane, int64_t image) const {
    const int64_t size = plane_size(block);
    float* rows = memory + plane * size + image * block.mid_h * block.row_vectors * L;
    return {rows, block.mid_h, block.row_vectors, block.pad, size};
  }
};

}  // namespace proxyless::cpu
