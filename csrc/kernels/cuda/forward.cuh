// Forward and gate probe: P of all chunks, with statistics, and what each makes of it.
#pragma once

#include "kernels/cuda/block.cuh"

namespace proxyless::cuda {

// The statistics of all BatchNorms, [S]: given, or to be taken.
struct NormStatistics {
  const float *given_mean, *given_var;  // read without batch statistics
  float *mean, *var;                    // written with batch statistics
};

// The block before its last BatchNorm, whose statistics it takes too.
template <class T>
class Projection {
 public:
  Projection(Arena& arena, const MBConvShape& shape, const Device& device)
      : block(arena, shape, forward_chunk(shape, sizeof(T), device)),
        blocks(ceil_div(shape.out_pixels(), kTilePixels)),
        project_(arena, shape.out_channels, shape.hidden),
        d_statistics_{arena.take<float>(block.tiles * 3 * block.chunk), block.chunk},
        p_statistics_{arena.take<float>(blocks * 3 * block.out_padded), block.out_padded},
        running_pitch_(round_up(shape.out_channels, 8)) {
    if (block.chunk < shape.hidden) {
      running_ = arena.take<float>(shape.out_pixels() * running_pitch_);
    }
  }

  void run(const MBConvInput& input, const Launch& how, const double* moments,
           const NormStatistics& statistics, const Project<T>& out) {
    const MBConvShape& s = input.shape;
    norm_statistics_ = statistics;
    block.load(input, how);
    const Rows<T> project = project_.load(input.project, how.stream);
    if (input.batch_statistics) {
      if (s.has_expand()) {
        launch(expand_statistics<T>, grid_of(block.hidden_padded, kRowsAtOnce), dim3(kThreads),
               how.stream, block.expand, Moments{moments, static_cast<int>(s.patch())},
               block.parameters(ExpandedLayers<T>::kExpand, 0, s.hidden, block.hidden_padded),
               statistics.mean, statistics.var, block.norms[ExpandedLayers<T>::kExpand]);
      }
    } else {
      block.fold_given(statistics.given_mean, statistics.given_var);
    }

    for (int64_t first = 0; first < s.hidden; first += block.chunk) {
      block.run_depthwise(first, input.batch_statistics ? d_statistics_ : Statistics{});
      if (input.batch_statistics) {
        take_statistics(ExpandedLayers<T>::kDepthwise, d_statistics_, block.tiles, first,
                        block.chunk_channels(first), block.chunk);
      }
      project_chunk(first, project, out);
    }
    if (input.batch_statistics) {
      take_statistics(ExpandedLayers<T>::kProject, p_statistics_, blocks, 0, s.out_channels,
                      block.out_padded);
    }
  }

  const Statistics& p_statistics() const { return p_statistics_; }

  ExpandedLayers<T> block;
  int64_t blocks;  // of the project product

 private:
  void take_statistics(typename ExpandedLayers<T>::Layer layer, const Statistics& statistics,
                       int64_t of_blocks, int64_t first, int64_t channels, int64_t padded) const {
    const int64_t place = block.place(layer) + first;
    launch(combine_statistics, grid_of(padded, kCombineChannels), dim3(kCombineThreads),
           block.stream(), statistics, of_blocks, block.parameters(layer, first, channels, padded),
           norm_statistics_.mean + place, norm_statistics_.var + place,
           norm_from(block.norms[layer], first));
  }

  void project_chunk(int64_t first, const Rows<T>& project, Project<T> out) const {
    const MBConvShape& s = block.shape();
    PointwiseProduct<T> product{};
    product.first.rows = {block.d, block.chunk};
    product.first.weight = {project.data + first, project.pitch};
    product.first.depth = static_cast<int>(round_up(block.chunk_channels(first), kUnit<T>));
    product.pixels = s.out_pixels();
    product.columns = static_cast<int>(s.out_channels);
    product.tf32 = block.launch_args.tf32;
    out.slope = block.norms[ExpandedLayers<T>::kDepthwise].slope + first;
    out.offset = block.norms[ExpandedLayers<T>::kDepthwise].offset + first;
    out.running = {running_, running_pitch_, first == 0, first + block.chunk >= s.hidden};
    out.p.channels = static_cast<int>(s.out_channels);
    if (block.input_args->batch_statistics || out.probe != nullptr) out.statistics = p_statistics_;
    launch_pointwise(product, out, block.stream());
  }

  AlignedRows<T> project_;
  Statistics d_statistics_, p_statistics_;
  int64_t running_pitch_;
  float* running_ = nullptr;  // [N, Ho, Wo, running_pitch_]
  NormStatistics norm_statistics_{};
};

template <class T>
class Forward {
 public:
  Forward(Arena& arena, const MBConvShape& shape, const Device& device)
      : projection_(arena, shape, device),
        p_(arena.take<T>(shape.out_pixels() * shape.out_channels)),
        aligned_p_(arena, shape.out_pixels(), shape.out_channels),
        shortcut_(arena, needs_pixels(shape) ? shape.out_pixels() : 0, shape.in_channels) {}

  void run(const MBConvForward& args, const Launch& how) {
    const MBConvShape& s = args.input.shape;
    T* p = args.p != nullptr ? static_cast<T*>(args.p) : p_;
    Project<T> out{};
    out.p.data = p;
    float *mean = static_cast<float*>(args.mean), *var = static_cast<float*>(args.var);
    projection_.run(args.input, how, args.moments, {mean, var, mean, var}, out);

    const ExpandedLayers<T>& block = projection_.block;
    Normalise<T> last{};
    last.p = aligned_p_.load(p, how.stream);
    last.norm = block.norms[ExpandedLayers<T>::kProject];
    if (args.residual) {
      last.x = needs_pixels(s) ? shortcut_.load(args.input.x.data, how.stream) : block.x;
    }
    last.y = {static_cast<T*>(args.y), static_cast<int>(s.out_channels)};
    last.pixels = s.out_pixels();
    launch(normalise<T>, grid_of(s.out_pixels() * ceil_div(s.out_channels, kUnit<T>)),
           dim3(kThreads), how.stream, last);
  }

 private:
  // Whether the shortcut's pixels are not what the block reads already.
  static bool needs_pixels(const MBConvShape& s) {
    return InputRows<T>::unfolds(s) && s.in_channels == s.out_channels;
  }

  Projection<T> projection_;
  T* p_;  // [N, Ho, Wo, O]
  AlignedRows<T> aligned_p_, shortcut_;
};

template <class T>
class GateProbe {
 public:
  GateProbe(Arena& arena, const MBConvShape& shape, const Device& device)
      : projection_(arena, shape, device),
        mean_(arena.take<float>(shape.norm_channels())),
        var_(arena.take<float>(shape.norm_channels())),
        sums_(arena.take<float>(projection_.blocks * 2 * projection_.block.out_padded)),
        products_(arena.take<double>(shape.out_channels)),
        grad_(arena, shape.out_pixels(), shape.out_channels) {}

  void run(const MBConvProbe& args, const Launch& how) {
    const MBConvShape& s = args.input.shape;
    Project<T> out{};
    out.grad = grad_.load(args.grad.data, how.stream);
    out.probe = sums_;
    const NormStatistics statistics{static_cast<const float*>(args.mean),
                                    static_cast<const float*>(args.var), mean_, var_};
    projection_.run(args.input, how, args.moments, statistics, out);
    const int channels = static_cast<int>(s.out_channels);
    launch(combine_probe, grid_of(s.out_channels, kCombineChannels), dim3(kCombineThreads),
           how.stream, sums_, projection_.p_statistics(), projection_.blocks,
           projection_.block.norms[ExpandedLayers<T>::kProject], channels, products_);
    launch(sum_products, dim3(1), dim3(32), how.stream, products_, channels,
           static_cast<float*>(args.result));
  }

 private:
  Projection<T> projection_;
  float *mean_, *var_;  // [S]
  float* sums_;         // [blocks, 2, O]
  double* products_;    // [O]
  AlignedRows<T> grad_;
};

}  // namespace proxyless::cuda
