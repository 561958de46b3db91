// The fused MBConv in plain C++, the reference for every other instruction set.
//
// Expansion, depthwise convolution and their BatchNorms are separate for every expanded channel, so
// the block is worked through one expanded channel at a time, and of the expanded tensor only that
// channel's plane ever exists. A channel's batch statistics are those of its plane.
//
// What the expand layer reads is laid out first, as one plane for each value of a patch; then
// expand and project are sums of planes.
#include <algorithm>
#include <cstdint>

#include "kernels/cpu/mbconv_table.h"
#include "kernels/cpu/planes.h"
#include "kernels/parallel.h"
#include "kernels/relu6.h"
#include "kernels/storage.h"

namespace proxyless::cpu {
namespace {

using namespace scalar;

Window expand_window(const MBConvShape& s) {
  return {input_grid(s), mid_grid(s), s.expand_kernel, s.expand_stride, 1};
}

void activate(double* to, const double* plane, int64_t count, const Norm& norm) {
  for (int64_t i = 0; i < count; ++i) to[i] = relu6(norm(plane[i]));
}

// Turns grad = dL/drelu6(norm(plane)) into dL/dnorm(plane).
void activate_backward(double* grad, const double* plane, int64_t count, const Norm& norm) {
  for (int64_t i = 0; i < count; ++i) grad[i] = relu6_backward(norm(plane[i]), grad[i]);
}

// Lays out what the expand layer reads: a plane of the middle grid for each value of a patch.
//   planes: [C, N, H, W], patches: [K, N, Hm, Wm]
void unfold(double* patches, const double* planes, const MBConvShape& shape,
            const ParallelFor& parallel) {
  const Window window = expand_window(shape);
  parallel_for(parallel, shape.in_channels, [&](int64_t c) {
    const double* plane = planes + c * window.in.pixels();
    double* of_channel = patches + c * window.taps() * window.out.pixels();
    fill(of_channel, window.taps() * window.out.pixels(), 0);
    for (int64_t n = 0; n < shape.batch; ++n) {
      for_each_tap(window, n, [&](int64_t tap, int64_t out, int64_t in) {
        of_channel[tap * window.out.pixels() + out] = plane[in];
      });
    }
  });
}

// The transpose: adds up what the patches hold of each input pixel.
void fold(double* planes, const double* patches, const MBConvShape& shape,
          const ParallelFor& parallel) {
  const Window window = expand_window(shape);
  parallel_for(parallel, shape.in_channels, [&](int64_t c) {
    double* plane = planes + c * window.in.pixels();
    const double* of_channel = patches + c * window.taps() * window.out.pixels();
    fill(plane, window.in.pixels(), 0);
    for (int64_t n = 0; n < shape.batch; ++n) {
      for_each_tap(window, n, [&](int64_t tap, int64_t out, int64_t in) {
        plane[in] += of_channel[tap * window.out.pixels() + out];
      });
    }
  });
}

// The input, and the layers up to the depthwise convolution, one expanded channel at a time.
class ExpandedLayers {
 public:
  ExpandedLayers(Arena& arena, const MBConvShape& shape)
      : x(arena.take(shape.in_channels * input_grid(shape).pixels())),
        patches(arena.take(shape.patch() * shape.mid_pixels())),
        mean(arena.take(shape.norm_channels())),
        var(arena.take(shape.norm_channels())) {}

  void load(const MBConvInput& input, const ParallelFor& parallel) {
    input_ = &input;
    parallel_ = parallel;
    const MBConvShape& s = input.shape;
    parallel_for(parallel, s.in_channels, [&](int64_t c) {
      load_plane(x + c * input_grid(s).pixels(), input.x, input.dtype, input_grid(s), c);
    });
    if (s.has_expand()) unfold(patches, x, s, parallel);
  }

  void load_statistics(const void* given_mean, const void* given_var) {
    const DType dtype = vector_dtype(input_->dtype);
    for (int64_t i = 0; i < input_->shape.norm_channels(); ++i) {
      mean[i] = read(given_mean, dtype, i);
      var[i] = read(given_var, dtype, i);
    }
  }

  // The layer's statistics of expanded channel k from those of the patches.
  void expand_statistics(const double* moments, int64_t k) {
    const int64_t patch = input_->shape.patch();
    const double* covariance = moments + patch;
    double m = 0, v = 0;
    for (int64_t i = 0; i < patch; ++i) {
      m += expand_weight(k, i) * moments[i];
      for (int64_t j = 0; j < patch; ++j) {
        v += expand_weight(k, i) * covariance[i * patch + j] * expand_weight(k, j);
      }
    }
    mean[k] = m;
    var[k] = v < 0 ? 0 : v;
  }

  // One plane of the expand convolution.
  void expand(double* plane, int64_t k) const {
    const Grid grid = mid_grid(input_->shape);
    parallel_for(parallel_, grid.batch, [&](int64_t n) {
      double* image = plane + n * grid.image();
      fill(image, grid.image(), 0);
      for (int64_t i = 0; i < input_->shape.patch(); ++i) {
        add_scaled(image, expand_weight(k, i), patches + i * grid.pixels() + n * grid.image(),
                   grid.image());
      }
    });
  }

  // One plane of the depthwise convolution.
  void depthwise(double* plane, const double* activated, int64_t k) const {
    convolve(plane, activated, depthwise_window(input_->shape), parallel_,
             [&](int64_t tap) { return depthwise_weight(k, tap); });
  }

  double expand_weight(int64_t k, int64_t i) const {
    return read(input_->expand, input_->dtype, k * input_->shape.patch() + i);
  }
  double depthwise_weight(int64_t k, int64_t tap) const {
    const int64_t taps = input_->shape.kernel * input_->shape.kernel;
    return read(input_->depthwise, input_->dtype, k * taps + tap);
  }
  double project_weight(int64_t o, int64_t k) const {
    return read(input_->project, input_->dtype, o * input_->shape.hidden + k);
  }

  // Where a BatchNorm's channels start among all.
  int64_t depthwise_norm() const { return input_->shape.has_expand() ? input_->shape.hidden : 0; }
  int64_t project_norm() const { return depthwise_norm() + input_->shape.hidden; }

  Norm norm(int64_t i) const {
    const DType dtype = vector_dtype(input_->dtype);
    return Norm(mean[i], var[i], input_->eps, read(input_->scale, dtype, i),
                read(input_->shift, dtype, i));
  }

  double* x;        // [C, N, H, W]
  double* patches;  // [K, N, Hm, Wm]
  double* mean;     // [S]
  double* var;      // [S]

 private:
  const MBConvInput* input_ = nullptr;
  ParallelFor parallel_{};
};

// The block before its last BatchNorm, whose statistics it takes too.
struct Projection {
  Projection(Arena& arena, const MBConvShape& shape)
      : block(arena, shape),
        mid(arena.take(shape.mid_pixels())),
        out(arena.take(shape.out_pixels())),
        p(arena.take(shape.out_channels * shape.out_pixels())) {}

  void run(const MBConvInput& input, const double* moments, const void* mean, const void* var,
           const ParallelFor& parallel) {
    const MBConvShape& s = input.shape;
    block.load(input, parallel);
    if (!input.batch_statistics) block.load_statistics(mean, var);

    fill(p, s.out_channels * s.out_pixels(), 0);
    for (int64_t k = 0; k < s.hidden; ++k) {
      const double* activated = block.x + k * s.mid_pixels();
      if (s.has_expand()) {
        block.expand(mid, k);
        if (input.batch_statistics) block.expand_statistics(moments, k);
        activate(mid, mid, s.mid_pixels(), block.norm(k));
        activated = mid;
      }
      block.depthwise(out, activated, k);
      const int64_t norm = block.depthwise_norm() + k;
      if (input.batch_statistics) {
        measure(out, s.out_pixels(), &block.mean[norm], &block.var[norm]);
      }
      activate(out, out, s.out_pixels(), block.norm(norm));
      parallel_for(parallel, s.out_channels, [&](int64_t o) {
        add_scaled(p + o * s.out_pixels(), block.project_weight(o, k), out, s.out_pixels());
      });
    }
    if (!input.batch_statistics) return;
    parallel_for(parallel, s.out_channels, [&](int64_t o) {
      const int64_t norm = block.project_norm() + o;
      measure(p + o * s.out_pixels(), s.out_pixels(), &block.mean[norm], &block.var[norm]);
    });
  }

  ExpandedLayers block;
  double* mid;  // [N, Hm, Wm]
  double* out;  // [N, Ho, Wo]
  double* p;    // [O, N, Ho, Wo]
};

void forward(const MBConvForward& args) {
  const MBConvInput& input = args.input;
  const MBConvShape& s = input.shape;
  const Grid grid = out_grid(s);
  Arena arena(args.workspace);
  Projection projection(arena, s);
  projection.run(input, args.moments, args.mean, args.var, args.parallel);
  const ExpandedLayers& block = projection.block;

  parallel_for(args.parallel, s.out_channels, [&](int64_t o) {
    double* plane = projection.p + o * grid.pixels();
    if (args.p != nullptr) store_plane(plane, args.p, input.dtype, grid, s.out_channels, o);
    const Norm norm = block.norm(block.project_norm() + o);
    for (int64_t i = 0; i < grid.pixels(); ++i) plane[i] = norm(plane[i]);
    if (args.residual) add_scaled(plane, 1, block.x + o * grid.pixels(), grid.pixels());
    store_plane(plane, args.y, input.dtype, grid, s.out_channels, o);
  });
  if (!input.batch_statistics) return;
  for (int64_t i = 0; i < s.norm_channels(); ++i) {
    write(args.mean, vector_dtype(input.dtype), i, block.mean[i]);
    write(args.var, vector_dtype(input.dtype), i, block.var[i]);
  }
}

void gate_probe(const MBConvProbe& args) {
  const MBConvShape& s = args.input.shape;
  const Grid grid = out_grid(s);
  Arena arena(args.workspace);
  Projection projection(arena, s);
  projection.run(args.input, args.moments, args.mean, args.var, args.parallel);
  const ExpandedLayers& block = projection.block;

  double result = 0;
  for (int64_t o = 0; o < s.out_channels; ++o) {
    load_plane(projection.out, args.grad, args.input.dtype, grid, o);
    const Norm norm = block.norm(block.project_norm() + o);
    const double* p = projection.p + o * grid.pixels();
    for (int64_t i = 0; i < grid.pixels(); ++i) result += projection.out[i] * norm(p[i]);
  }
  write(args.result, vector_dtype(args.input.dtype), 0, result);
}

class Backward {
 public:
  Backward(Arena& arena, const MBConvShape& shape)
      : block_(arena, shape),
        expanded_(arena.take(shape.mid_pixels())),
        activated_(arena.take(shape.mid_pixels())),
        dmid_(arena.take(shape.mid_pixels())),
        filtered_(arena.take(shape.out_pixels())),
        projectable_(arena.take(shape.out_pixels())),
        dout_(arena.take(shape.out_pixels())),
        dtaps_(arena.take(shape.kernel * shape.kernel)),
        p_(arena.take(shape.out_channels * shape.out_pixels())),
        dp_(arena.take(shape.out_channels * shape.out_pixels())),
        dpatches_(arena.take(shape.patch() * shape.mid_pixels())),
        dx_(arena.take(shape.in_channels * input_grid(shape).pixels())) {}

  void run(const MBConvBackward& args) {
    args_ = &args;
    const MBConvShape& s = shape();
    block_.load(args.input, args.parallel);
    block_.load_statistics(args.mean, args.var);
    norm_of_project();
    fill(dpatches_, s.patch() * s.mid_pixels(), 0);
    for (int64_t k = 0; k < s.hidden; ++k) {
      recompute(k);
      project(k);
      depthwise(k);
      if (s.has_expand()) expand(k);
    }
    if (args.dx != nullptr) input();
  }

 private:
  const MBConvShape& shape() const { return args_->input.shape; }
  DType dtype() const { return args_->input.dtype; }
  bool weight_grads() const { return args_->dproject != nullptr; }

  // From dL/dy to dL/dp.
  void norm_of_project() {
    const Grid grid = out_grid(shape());
    parallel_for(args_->parallel, shape().out_channels, [&](int64_t o) {
      double* p = p_ + o * grid.pixels();
      double* dp = dp_ + o * grid.pixels();
      load_plane(p, dense(args_->p, grid, shape().out_channels), dtype(), grid, o);
      load_plane(dp, args_->grad, dtype(), grid, o);
      normalise(dp, p, grid.pixels(), block_.project_norm() + o);
    });
  }

  // What forward had of expanded channel k.
  void recompute(int64_t k) {
    const MBConvShape& s = shape();
    if (s.has_expand()) {
      block_.expand(expanded_, k);
      activate(activated_, expanded_, s.mid_pixels(), block_.norm(k));
    } else {
      std::copy_n(block_.x + k * s.mid_pixels(), s.mid_pixels(), activated_);
    }
    block_.depthwise(filtered_, activated_, k);
    activate(projectable_, filtered_, s.out_pixels(), block_.norm(block_.depthwise_norm() + k));
  }

  // From dL/dp to the gradient of what expanded channel k gives the project layer.
  void project(int64_t k) {
    const MBConvShape& s = shape();
    const Grid grid = out_grid(s);
    if (weight_grads()) {
      parallel_for(args_->parallel, s.out_channels, [&](int64_t o) {
        write(args_->dproject, dtype(), o * s.hidden + k,
              dot(dp_ + o * grid.pixels(), projectable_, grid.pixels()));
      });
    }
    parallel_for(args_->parallel, s.batch, [&](int64_t n) {
      double* image = dout_ + n * grid.image();
      fill(image, grid.image(), 0);
      for (int64_t o = 0; o < s.out_channels; ++o) {
        add_scaled(image, block_.project_weight(o, k), dp_ + o * grid.pixels() + n * grid.image(),
                   grid.image());
      }
    });
  }

  // From there to the gradient of what expanded channel k gives the depthwise layer.
  void depthwise(int64_t k) {
    const Window window = depthwise_window(shape());
    const int64_t norm = block_.depthwise_norm() + k;
    activate_backward(dout_, filtered_, window.out.pixels(), block_.norm(norm));
    normalise(dout_, filtered_, window.out.pixels(), norm);

    if (weight_grads()) {
      correlate(dtaps_, dout_, activated_, window);
      for (int64_t tap = 0; tap < window.taps(); ++tap) {
        write(args_->ddepthwise, dtype(), k * window.taps() + tap, dtaps_[tap]);
      }
    }
    double* dmid = shape().has_expand() ? dmid_ : dx_ + k * window.in.pixels();
    convolve_backward(dmid, dout_, window, args_->parallel,
                      [&](int64_t tap) { return block_.depthwise_weight(k, tap); });
  }

  // From there to what expanded channel k adds to the gradients of the patches.
  void expand(int64_t k) {
    const MBConvShape& s = shape();
    const int64_t pixels = s.mid_pixels();
    activate_backward(dmid_, expanded_, pixels, block_.norm(k));
    normalise(dmid_, expanded_, pixels, k);
    parallel_for(args_->parallel, s.patch(), [&](int64_t i) {
      if (weight_grads()) {
        write(args_->dexpand, dtype(), k * s.patch() + i,
              dot(dmid_, block_.patches + i * pixels, pixels));
      }
      add_scaled(dpatches_ + i * pixels, block_.expand_weight(k, i), dmid_, pixels);
    });
  }

  // Gathers dL/dx, which depthwise() has made already if there is no expand layer.
  void input() {
    const MBConvShape& s = shape();
    const Grid grid = input_grid(s);
    if (s.has_expand()) fold(dx_, dpatches_, s, args_->parallel);
    parallel_for(args_->parallel, s.in_channels, [&](int64_t c) {
      double* dx = dx_ + c * grid.pixels();
      if (args_->residual) {
        for_each_pixel(grid, args_->grad, [&](int64_t pixel, int64_t offset) {
          dx[pixel] += read(args_->grad.data, dtype(), offset + c);
        });
      }
      store_plane(dx, args_->dx, dtype(), grid, s.in_channels, c);
    });
  }

  // BatchNorm `norm` of all: turns grad from dL/dnorm(plane) into dL/dplane.
  void normalise(double* grad, const double* plane, int64_t count, int64_t norm) const {
    const bool batch_statistics = args_->input.batch_statistics;
    const NormGradients d =
        normalise_backward(grad, plane, count, block_.norm(norm), batch_statistics);
    if (!weight_grads()) return;
    write(args_->dscale, vector_dtype(dtype()), norm, d.scale);
    write(args_->dshift, vector_dtype(dtype()), norm, d.shift);
  }

  const MBConvBackward* args_ = nullptr;
  ExpandedLayers block_;
  double* expanded_;     // [N, Hm, Wm], the expand layer before its BatchNorm
  double* activated_;    // [N, Hm, Wm], what the depthwise layer reads
  double* dmid_;         // [N, Hm, Wm]
  double* filtered_;     // [N, Ho, Wo], the depthwise layer before its BatchNorm
  double* projectable_;  // [N, Ho, Wo], what the project layer reads
  double* dout_;         // [N, Ho, Wo]
  double* dtaps_;        // [kernel, kernel]
  double* p_;            // [O, N, Ho, Wo]
  double* dp_;           // [O, N, Ho, Wo]
  double* dpatches_;     // [K, N, Hm, Wm]
  double* dx_;           // [C, N, H, W]
};

void backward(const MBConvBackward& args) {
  Arena arena(args.workspace);
  Backward(arena, args.input.shape).run(args);
}

// The planes of the input and of the patches, and nothing else: moments know no more of the shape.
struct MomentsPlanes {
  MomentsPlanes(Arena& arena, const MBConvShape& shape)
      : x(arena.take(shape.in_channels * input_grid(shape).pixels())),
        patches(arena.take(shape.patch() * shape.mid_pixels())) {}

  double* x;        // [C, N, H, W]
  double* patches;  // [K, N, Hm, Wm]
};

void moments(const MBConvMoments& args) {
  const MBConvShape& s = args.shape;
  const int64_t patch = s.patch(), pixels = s.mid_pixels();
  const double count = static_cast<double>(pixels);
  Arena arena(args.workspace);
  const MomentsPlanes planes(arena, s);
  parallel_for(args.parallel, s.in_channels, [&](int64_t c) {
    load_plane(planes.x + c * input_grid(s).pixels(), args.x, args.dtype, input_grid(s), c);
  });
  unfold(planes.patches, planes.x, s, args.parallel);

  double* mean = args.moments;
  double* covariance = args.moments + patch;
  // Centring first keeps the digits that a difference of two large sums would lose.
  parallel_for(args.parallel, patch, [&](int64_t i) {
    double* plane = planes.patches + i * pixels;
    mean[i] = sum(plane, pixels) / count;
    for (int64_t pixel = 0; pixel < pixels; ++pixel) plane[pixel] -= mean[i];
  });
  parallel_for(args.parallel, patch, [&](int64_t i) {
    for (int64_t j = 0; j < patch; ++j) {
      covariance[i * patch + j] =
          dot(planes.patches + i * pixels, planes.patches + j * pixels, pixels) / count;
    }
  });
}

MBConvPlan plan(const MBConvShape& shape, DType) {
  MBConvPlan plan{};
  plan.chunk = 1;
  plan.chunks = shape.hidden;
  plan.slices = shape.batch;
  plan.moments_bytes = bytes<MomentsPlanes>(shape);
  plan.forward_bytes = bytes<Projection>(shape);
  plan.backward_bytes = bytes<Backward>(shape);
  plan.probe_bytes = bytes<Projection>(shape);
  return plan;
}

}  // namespace

const MBConvKernels kScalarKernels{plan, moments, forward, gate_probe, backward};

}  // namespace proxyless::cpu
