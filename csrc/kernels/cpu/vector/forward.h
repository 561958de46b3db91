// Forward, and the gate probe, which is forward with sums instead of an output.
//
// Chunk by chunk of expanded channels:
//   expand, depthwise   rows of A1 are made when the depthwise convolution gets to them and live in
//                       the cache; D of the chunk is stored, with its statistics
//   project             P += W2 relu6(bn2(D)), tile by tile
// and at last the project layer's BatchNorm. X is read once per block of planes, D is written and
// read once, P read and written once per chunk.
#pragma once

#include "kernels/cpu/vector/norms.h"
#include "kernels/cpu/vector/rows.h"
#include "kernels/cpu/vector/sums.h"

namespace proxyless::cpu {

// Makes D of a chunk from X; backward does it again.
template <class I, class T>
class DepthwisePass {
  static constexpr int L = I::kLanes;
  using Operand = typename I::template Operand<T>;

 public:
  DepthwisePass(const BlockSizes<I>& block, const Input<I, T>& input,
                const FoldedExpand<I, Operand>& folded, const Weights<I, T>& weights)
      : block_(block), input_(input), folded_(folded), weights_(weights) {}

  int64_t scratch_size() const {
    return input_.template scratch_size<Operand>() +
           Band<I>::size(block_.shape.kernel, block_.row_vectors);
  }

  // Rows of one block of planes, `plane` of the chunk that begins with first_plane, for all units
  // of a slice; after each group of up to `group` rows runs done(image, first_row, rows).
  //   d: [NV][out_pixels] vectors, planes plane_stride apart
  template <int NV, class Done>
  void run(int64_t slice, int64_t first, int64_t plane, const KeptActivations<I>& kept,
           float* scratch, T* d, int64_t plane_stride, int64_t group, const Done& done) const {
    const int64_t first_plane = first + plane;
    const int64_t kernel = block_.shape.kernel, stride = block_.shape.stride;
    float* memory = scratch + input_.template scratch_size<Operand>();
    const Band<I> ring(memory, kernel, block_.row_vectors, block_.pad);
    ring.clear(NV);
    const int64_t parts = block_.slices();
    for (int64_t u = part_begin(block_.units(), parts, slice);
         u < part_begin(block_.units(), parts, slice + 1); ++u) {
      const Unit unit = block_.unit(u, block_.out_h);
      const bool keeps = kept.memory != nullptr;
      const Band<I> band = keeps ? kept.band(block_, plane, unit.image) : ring;
      int64_t made = larger(0, unit.first_row * stride - block_.pad);
      for (int64_t y = unit.first_row; y < unit.last_row; y += group) {
        const int64_t rows = smaller(group, unit.last_row - y);
        for (int64_t r = y; r < y + rows; ++r) {
          const int64_t below = r * stride - block_.pad + kernel;
          for (; made < smaller(below, block_.mid_h); ++made) {
            if (keeps) band.clear_row(made, NV);
            activation_row<I, T, Operand, NV>(block_, input_, folded_, unit.image, made,
                                              first_plane, reinterpret_cast<Operand*>(scratch),
                                              band.row(made), band.plane_stride());
          }
          T* out = d + (unit.image * block_.out_h + r) * block_.out_w * L;
          for (int v = 0; v < NV; ++v) {
            depthwise_row<I>(block_, weights_.depthwise, band, r, first_plane + v, v,
                             out + v * plane_stride);
          }
        }
        done(unit.image, y, rows);
      }
    }
  }

 private:
  const BlockSizes<I>& block_;
  const Input<I, T>& input_;
  const FoldedExpand<I, Operand>& folded_;
  const Weights<I, T>& weights_;
};

// Rows of the block's output in one go, enough to keep a product's tile busy.
template <class I>
int64_t row_group(const BlockSizes<I>& block) {
  return larger(1, smaller(kTile / block.out_w, block.out_h));
}

// P of the whole batch, and what its statistics are made of.
template <class I, class T>
class ProjectedPass {
  static constexpr int L = I::kLanes;
  using Operand = typename I::template Operand<T>;

 public:
  ProjectedPass(const MBConvInput& args, const double* moments, const ParallelFor& parallel,
                Arena& arena)
      : args_(args),
        moments_(moments),
        parallel_(parallel),
        block_(args.shape),
        input_(block_, args.x),
        tiles_(block_.out_pixels),
        pass_(block_, input_, folded_, weights_),
        norms_(args.shape) {
    chunk_ = block_.chunk_planes(sizeof(T));
    weights_.take(block_, arena);
    folded_.take(block_, arena);
    norms_.take(arena);
    panels_ = {block_.width, block_.shape.out_channels};
    project_ = arena.template take<Operand>(panels_.size());
    d_ = arena.template take<T>(chunk_ * block_.out_pixels * L);
    sums_ = arena.template take<PivotSums<I>>(block_.slices() * chunk_);
    scratch_stride_ = larger(block_.slices() * pass_.scratch_size(), tiles_.tasks * tile_size());
    scratch_ = arena.template take<float>(scratch_stride_);
  }

  const BlockSizes<I>& block() const { return block_; }
  const Input<I, T>& input() const { return input_; }
  const Tiles& tiles() const { return tiles_; }
  Norms<I>& norms() { return norms_; }
  int64_t chunk() const { return chunk_; }

  // p: [out_pixels, out_channels]; done(task, first, count) follows on the last sum of each tile.
  template <class Done>
  void run(const void* mean, const void* var, float* p, const Done& done) {
    const MBConvShape& s = block_.shape;
    weights_.fill(block_, args_.expand, args_.depthwise, args_.project);
    norms_.load(static_cast<const float*>(mean), static_cast<const float*>(var));
    if (s.has_expand()) {
      if (args_.batch_statistics) norms_.expand_statistics(weights_.expand, moments_, parallel_);
      norms_.finish_expand(args_);
      folded_.fill(weights_.expand, norms_.expand_slope(), norms_.expand_offset(), parallel_);
    }
    panels_.pack(project_, s.hidden, parallel_, [&](int64_t hidden, int64_t out) {
      return weights_.project[out * s.hidden + hidden];
    });
    for (int64_t first = 0; first < block_.planes; first += chunk_) {
      const int64_t planes = smaller(chunk_, block_.planes - first);
      parallel_for(parallel_, block_.slices(),
                   [&](int64_t slice) { depthwise(slice, first, planes); });
      if (args_.batch_statistics) {
        norms_.depthwise_statistics(sums_, block_.slices(), first, planes, chunk_);
      }
      norms_.finish_depthwise(args_, first, planes);
      const bool last = first + planes == block_.planes;
      parallel_for(parallel_, tiles_.tasks, [&](int64_t task) {
        tiles_.for_each(task, [&](int64_t pixel, int64_t count) {
          project(task, first, planes, pixel, count, p);
          if (last) done(task, pixel, count);
        });
      });
    }
  }

 private:
  int64_t tile_size() const { return chunk_ * kTile * L; }

  void depthwise(int64_t slice, int64_t first, int64_t planes) const {
    float* scratch = scratch_ + slice * pass_.scratch_size();
    for (int64_t plane = 0; plane < planes; plane += I::kBlock) {
      with_count<I::kBlock>(smaller(I::kBlock, planes - plane), [&](auto known) {
        constexpr int NV = decltype(known)::value;
        T* d = d_ + plane * block_.out_pixels * L;
        PivotSums<I>* sums = sums_ + slice * chunk_ + plane;
        for (int v = 0; v < NV; ++v) sums[v].start();
        pass_.template run<NV>(
            slice, first, plane, {}, scratch, d, block_.out_pixels * L, row_group(block_),
            [&](int64_t image, int64_t y, int64_t rows) {
              if (!args_.batch_statistics) return;
              const T* values = d + (image * block_.out_h + y) * block_.out_w * L;
              for (int v = 0; v < NV; ++v) {
                sums[v].add(values + v * block_.out_pixels * L, L, rows * block_.out_w, L);
              }
            });
      });
    }
  }

  void project(int64_t task, int64_t first, int64_t planes, int64_t pixel, int64_t count,
               float* p) const {
    Operand* a2 = reinterpret_cast<Operand*>(scratch_ + task * tile_size());
    for (int64_t plane = 0; plane < planes; ++plane) {
      const auto slope = I::load(norms_.depthwise_slope() + (first + plane) * L);
      const auto offset = I::load(norms_.depthwise_offset() + (first + plane) * L);
      const T* d = d_ + (plane * block_.out_pixels + pixel) * L;
      Operand* out = a2 + plane * kTile * L;
      for (int64_t i = 0; i < count * L; i += L) {
        I::store(out + i, I::relu6(I::fma(I::load(d + i), slope, offset)));
      }
    }
    const int64_t channels = block_.shape.out_channels;
    for (int64_t panel = 0; panel < panels_.panels(); ++panel) {
      with_count<I::kBlock>(panels_.panel_vectors(panel), [&](auto known) {
        constexpr int NV = decltype(known)::value;
        const int64_t column = panel * Panels<I, Operand>::kColumns;
        multiply_planes<I, NV>(
            a2, kTile * L, planes, count, panels_.panel(project_, panel) + first * L * NV * L,
            first > 0, p + pixel * channels + column, channels, smaller(NV * L, channels - column));
      });
    }
  }

  const MBConvInput& args_;
  const double* moments_;
  const ParallelFor& parallel_;
  BlockSizes<I> block_;
  Input<I, T> input_;
  Tiles tiles_;
  Weights<I, T> weights_;
  FoldedExpand<I, Operand> folded_;
  DepthwisePass<I, T> pass_;
  Norms<I> norms_;
  Panels<I, Operand> panels_;
  int64_t chunk_, scratch_stride_;
  Operand* project_;    // packed
  T* d_;                // [chunk_, out_pixels, L]
  PivotSums<I>* sums_;  // [slices, chunk_]
  float* scratch_;
};

template <class I, class T>
class Forward {
  static constexpr int L = I::kLanes;
  // A float32 P is summed up where it is to be, or where y will be; others need a place.
  static constexpr bool kInPlace = sizeof(T) == sizeof(float);

 public:
  Forward(const MBConvForward& args, void* workspace)
      : args_(args), arena_(workspace), pass_(args.input, args.moments, args_.parallel, arena_) {
    const BlockSizes<I>& block = pass_.block();
    vectors_ = ceil_div(block.shape.out_channels, L);
    sums_ = arena_.template take<PivotSums<I>>(pass_.tiles().tasks * vectors_);
    if constexpr (!kInPlace) {
      p_ = arena_.template take<float>(block.out_pixels * block.shape.out_channels);
    }
  }

  int64_t workspace() const { return arena_.used(); }
  int64_t chunk() const { return pass_.chunk(); }

  void run() {
    const MBConvInput& in = args_.input;
    const int64_t channels = in.shape.out_channels;
    if constexpr (kInPlace) p_ = static_cast<float*>(args_.p == nullptr ? args_.y : args_.p);
    for (int64_t i = 0; i < pass_.tiles().tasks * vectors_; ++i) sums_[i].start();
    pass_.run(in.batch_statistics ? nullptr : args_.mean, in.batch_statistics ? nullptr : args_.var,
              p_, [&](int64_t task, int64_t first, int64_t count) {
                if (!in.batch_statistics) return;
                for (int64_t v = 0; v < vectors_; ++v) {
                  sums_[task * vectors_ + v].add(p_ + first * channels + v * L, channels, count,
                                                 smaller(L, channels - v * L));
                }
              });
    Norms<I>& norms = pass_.norms();
    if (in.batch_statistics) {
      norms.project_statistics(sums_, pass_.tiles().tasks);
      norms.save(static_cast<float*>(args_.mean), static_cast<float*>(args_.var));
    }
    norms.finish_project(in);
    const int64_t rows = in.shape.batch * pass_.block().out_h;
    const int64_t tasks = smaller(rows, 4 * kSlices);
    parallel_for(args_.parallel, tasks, [&](int64_t task) {
      for (int64_t row = part_begin(rows, tasks, task); row < part_begin(rows, tasks, task + 1);
           ++row) {
        output_row(norms, row);
      }
    });
  }

 private:
  // y = bn3(P) (+ x), and P as it is stored.
  void output_row(const Norms<I>& norms, int64_t row) const {
    const BlockSizes<I>& block = pass_.block();
    const int64_t channels = block.shape.out_channels;
    const T* x = args_.residual ? pass_.input().row(row / block.out_h, row % block.out_h) : nullptr;
    for (int64_t i = 0; i < block.out_w; ++i) {
      const int64_t pixel = (row * block.out_w + i) * channels;
      for (int64_t c = 0; c < channels; c += L) {
        const int64_t lanes = smaller(L, channels - c);
        const auto p = I::load(p_ + pixel + c, lanes);
        auto y = I::fma(p, I::load(norms.project_slope() + c), I::load(norms.project_offset() + c));
        if (args_.residual) y = I::add(y, I::load(x + i * pass_.input().step() + c, lanes));
        I::store(static_cast<T*>(args_.y) + pixel + c, y, lanes);
        if (!kInPlace && args_.p != nullptr) {
          I::store(static_cast<T*>(args_.p) + pixel + c, p, lanes);
        }
      }
    }
  }

  const MBConvForward& args_;
  Arena arena_;
  ProjectedPass<I, T> pass_;
  int64_t vectors_;
  PivotSums<I>* sums_;  // [tasks, vectors]
  float* p_ = nullptr;  // [out_pixels, out_channels]
};

// <grad, y> = sum over channels of slope (sum grad (P - pivot)) + (slope pivot + offset) sum grad.
template <class I, class T>
class GateProbe {
  static constexpr int L = I::kLanes;

  struct Products {
    double grad[L];    // sum of grad
    double grad_p[L];  // sum of grad (P - pivot)
  };

 public:
  GateProbe(const MBConvProbe& args, void* workspace)
      : args_(args), arena_(workspace), pass_(args.input, args.moments, args_.parallel, arena_) {
    const BlockSizes<I>& block = pass_.block();
    const int64_t count = pass_.tiles().tasks * ceil_div(block.shape.out_channels, L);
    sums_ = arena_.template take<PivotSums<I>>(count);
    products_ = arena_.template take<Products>(count);
    p_ = arena_.template take<float>(block.out_pixels * block.shape.out_channels);
  }

  int64_t workspace() const { return arena_.used(); }

  void run() {
    const MBConvInput& in = args_.input;
    const int64_t channels = in.shape.out_channels, vectors = ceil_div(channels, L);
    const int64_t tasks = pass_.tiles().tasks;
    for (int64_t i = 0; i < tasks * vectors; ++i) {
      sums_[i].start();
      for (int lane = 0; lane < L; ++lane)
        products_[i].grad[lane] = products_[i].grad_p[lane] = 0.0;
    }
    pass_.run(args_.mean, args_.var, p_, [&](int64_t task, int64_t first, int64_t count) {
      for (int64_t v = 0; v < vectors; ++v) {
        const int64_t lanes = smaller(L, channels - v * L);
        PivotSums<I>& sums = sums_[task * vectors + v];
        sums.add(p_ + first * channels + v * L, channels, count, lanes);
        add_products(first, count, v * L, lanes, sums.pivot, products_[task * vectors + v]);
      }
    });
    Norms<I>& norms = pass_.norms();
    if (in.batch_statistics) norms.project_statistics(sums_, tasks);
    const float* scale = NormVectors(static_cast<const float*>(in.scale), in.shape).project;
    const float* shift = NormVectors(static_cast<const float*>(in.shift), in.shape).project;
    double result = 0.0;
    for (int64_t c = 0; c < channels; ++c) {
      const double mean = norms.mean().project[c];
      const double slope =
          static_cast<double>(scale[c]) / square_root(norms.var().project[c] + in.eps);
      for (int64_t task = 0; task < tasks; ++task) {
        const int64_t index = task * vectors + c / L, lane = c % L;
        const double grad = products_[index].grad[lane];
        const double deviation = static_cast<double>(sums_[index].pivot[lane]) - mean;
        result += slope * (products_[index].grad_p[lane] + deviation * grad) +
                  static_cast<double>(shift[c]) * grad;
      }
    }
    *static_cast<float*>(args_.result) = static_cast<float>(result);
  }

 private:
  void add_products(int64_t first, int64_t count, int64_t channel, int64_t lanes,
                    const float* pivot, Products& products) const {
    const BlockSizes<I>& block = pass_.block();
    const int64_t channels = block.shape.out_channels;
    const auto center = I::load(pivot);
    auto grads = I::zero(), with_p = I::zero();
    PixelWalk<T> walk(args_.grad, block.out_h, block.out_w, first);
    for (int64_t i = first; i < first + count; ++i, ++walk) {
      const auto grad = I::load(*walk + channel, lanes);
      const auto p = I::load(p_ + i * channels + channel, lanes);
      grads = I::add(grads, grad);
      with_p = I::fma(grad, I::sub(p, center), with_p);
    }
    I::add_to(products.grad, grads);
    I::add_to(products.grad_p, with_p);
  }

  const MBConvProbe& args_;
  Arena arena_;
  ProjectedPass<I, T> pass_;
  PivotSums<I>* sums_;  // [tasks, vectors]
  Products* products_;  // [tasks, vectors]
  float* p_;            // [out_pixels, out_channels]
};

}  // namespace proxyless::cpu
