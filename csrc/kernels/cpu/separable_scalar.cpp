// The fused separable block in plain C++, the reference for every other instruction set.
//
// Everything but the 1x1 convolution is separate for every channel, so the block is worked through
// one channel at a time, of which only that channel's planes exist. The 1x1 convolution is a sum of
// planes.
#include <cstdint>

#include "kernels/cpu/planes.h"
#include "kernels/cpu/separable_table.h"
#include "kernels/math.h"
#include "kernels/parallel.h"
#include "kernels/storage.h"

namespace proxyless::cpu {
namespace {

using namespace scalar;

// The planes of one channel, from the input to what the 1x1 convolution reads.
class Channel {
 public:
  Channel(Arena& arena, const SeparableShape& shape)
      : x(arena.take(shape.in_pixels())),
        activated(arena.take(shape.in_pixels())),
        filtered(arena.take(shape.out_pixels())) {}

  // Makes them.
  template <class Args>
  void run(const Args& args, int64_t c) {
    const SeparableInput& input = args.input;
    const Window window = depthwise_window(input.shape.convolutions());
    load_plane(x, input.x, input.dtype, window.in, c);
    const Norm of_channel = norm(args, c);
    for (int64_t i = 0; i < window.in.pixels(); ++i) activated[i] = relu(of_channel(x[i]));
    convolve(filtered, activated, window, args.parallel,
             [&](int64_t tap) { return depthwise_weight(input, c, tap); });
  }

  template <class Args>
  static Norm norm(const Args& args, int64_t c) {
    const SeparableInput& input = args.input;
    const DType dtype = vector_dtype(input.dtype);
    return Norm(read(args.mean, dtype, c), read(args.var, dtype, c), input.eps,
                read(input.scale, dtype, c), read(input.shift, dtype, c));
  }
  static double depthwise_weight(const SeparableInput& input, int64_t c, int64_t tap) {
    const int64_t kernel = input.shape.kernel;
    return read(input.depthwise, input.dtype, c * kernel * kernel + tap);
  }
  static double pointwise_weight(const SeparableInput& input, int64_t o, int64_t c) {
    return read(input.pointwise, input.dtype, o * input.shape.in_channels + c);
  }

  double* x;          // [N, H, W]
  double* activated;  // [N, H, W], what the depthwise convolution reads
  double* filtered;   // [N, Ho, Wo], what the 1x1 convolution reads
};

// The output, plane by plane.
struct Output {
  Output(Arena& arena, const SeparableShape& shape)
      : channel(arena, shape), y(arena.take(shape.out_channels * shape.out_pixels())) {}

  template <class Args>
  void run(const Args& args) {
    const SeparableShape& s = args.input.shape;
    const int64_t pixels = s.out_pixels();
    fill(y, s.out_channels * pixels, 0);
    for (int64_t c = 0; c < s.in_channels; ++c) {
      channel.run(args, c);
      parallel_for(args.parallel, s.out_channels, [&](int64_t o) {
        add_scaled(y + o * pixels, Channel::pointwise_weight(args.input, o, c), channel.filtered,
                   pixels);
      });
    }
  }

  Channel channel;
  double* y;  // [O, N, Ho, Wo]
};

void forward(const SeparableForward& args) {
  const SeparableShape& s = args.input.shape;
  const Grid grid = out_grid(s.convolutions());
  Arena arena(args.workspace);
  Output output(arena, s);
  output.run(args);
  parallel_for(args.parallel, s.out_channels, [&](int64_t o) {
    store_plane(output.y + o * grid.pixels(), args.y, args.input.dtype, grid, s.out_channels, o);
  });
}

void gate_probe(const SeparableProbe& args) {
  const SeparableShape& s = args.input.shape;
  const Grid grid = out_grid(s.convolutions());
  Arena arena(args.workspace);
  Output output(arena, s);
  output.run(args);
  double* grad = output.channel.filtered;
  double result = 0;
  for (int64_t o = 0; o < s.out_channels; ++o) {
    load_plane(grad, args.grad, args.input.dtype, grid, o);
    result += dot(grad, output.y + o * grid.pixels(), grid.pixels());
  }
  write(args.result, vector_dtype(args.input.dtype), 0, result);
}

class Backward {
 public:
  Backward(Arena& arena, const SeparableShape& shape)
      : channel_(arena, shape),
        grad_(arena.take(shape.out_channels * shape.out_pixels())),
        dfiltered_(arena.take(shape.out_pixels())),
        dtaps_(arena.take(shape.kernel * shape.kernel)),
        dx_(arena.take(shape.in_pixels())) {}

  void run(const SeparableBackward& args) {
    const SeparableShape& s = args.input.shape;
    const Grid grid = out_grid(s.convolutions());
    parallel_for(args.parallel, s.out_channels, [&](int64_t o) {
      load_plane(grad_ + o * grid.pixels(), args.grad, args.input.dtype, grid, o);
    });
    for (int64_t c = 0; c < s.in_channels; ++c) {
      channel_.run(args, c);
      pointwise(args, c);
      depthwise(args, c);
      activation(args, c);
    }
  }

 private:
  static bool weight_grads(const SeparableBackward& args) { return args.dpointwise != nullptr; }

  // From dL/dy to dL/dfiltered.
  void pointwise(const SeparableBackward& args, int64_t c) {
    const SeparableShape& s = args.input.shape;
    const Grid grid = out_grid(s.convolutions());
    if (weight_grads(args)) {
      parallel_for(args.parallel, s.out_channels, [&](int64_t o) {
        write(args.dpointwise, args.input.dtype, o * s.in_channels + c,
              dot(grad_ + o * grid.pixels(), channel_.filtered, grid.pixels()));
      });
    }
    parallel_for(args.parallel, s.batch, [&](int64_t n) {
      const int64_t first = n * grid.image();
      fill(dfiltered_ + first, grid.image(), 0);
      for (int64_t o = 0; o < s.out_channels; ++o) {
        add_scaled(dfiltered_ + first, Channel::pointwise_weight(args.input, o, c),
                   grad_ + o * grid.pixels() + first, grid.image());
      }
    });
  }

  // From there to dL/dactivated, which lies where dL/dx will.
  void depthwise(const SeparableBackward& args, int64_t c) {
    const Window window = depthwise_window(args.input.shape.convolutions());
    if (weight_grads(args)) {
      correlate(dtaps_, dfiltered_, channel_.activated, window);
      for (int64_t tap = 0; tap < window.taps(); ++tap) {
        write(args.ddepthwise, args.input.dtype, c * window.taps() + tap, dtaps_[tap]);
      }
    }
    convolve_backward(dx_, dfiltered_, window, args.parallel,
                      [&](int64_t tap) { return Channel::depthwise_weight(args.input, c, tap); });
  }

  // From there to dL/dx.
  void activation(const SeparableBackward& args, int64_t c) {
    const SeparableInput& input = args.input;
    const Grid grid = input_grid(input.shape.convolutions());
    const Norm norm = Channel::norm(args, c);
    for (int64_t i = 0; i < grid.pixels(); ++i) {
      dx_[i] = relu_backward(norm(channel_.x[i]), dx_[i]);
    }
    const NormGradients d =
        normalise_backward(dx_, channel_.x, grid.pixels(), norm, input.batch_statistics);
    if (weight_grads(args)) {
      write(args.dscale, vector_dtype(input.dtype), c, d.scale);
      write(args.dshift, vector_dtype(input.dtype), c, d.shift);
    }
    if (args.dx == nullptr) return;
    store_plane(dx_, args.dx, input.dtype, grid, input.shape.in_channels, c);
  }

  Channel channel_;
  double* grad_;       // [O, N, Ho, Wo]
  double* dfiltered_;  // [N, Ho, Wo]
  double* dtaps_;      // [kernel, kernel]
  double* dx_;         // [N, H, W]
};

void backward(const SeparableBackward& args) {
  Arena arena(args.workspace);
  Backward(arena, args.input.shape).run(args);
}

void statistics(const SeparableStatistics& args) {
  const Grid grid{args.shape.batch, args.shape.height, args.shape.width};
  double* planes = static_cast<double*>(args.workspace);
  const DType dtype = vector_dtype(args.dtype);
  parallel_for(args.parallel, args.shape.in_channels, [&](int64_t c) {
    double* plane = planes + c * grid.pixels();
    load_plane(plane, args.x, args.dtype, grid, c);
    double mean, var;
    measure(plane, grid.pixels(), &mean, &var);
    write(args.mean, dtype, c, mean);
    write(args.var, dtype, c, var);
  });
}

SeparablePlan plan(const SeparableShape& s, DType) {
  SeparablePlan plan{};
  plan.statistics_bytes = s.in_channels * s.in_pixels() * static_cast<int64_t>(sizeof(double));
  plan.forward_bytes = bytes<Output>(s);
  plan.probe_bytes = bytes<Output>(s);
  plan.backward_bytes = bytes<Backward>(s);
  return plan;
}

}  // namespace

const SeparableKernels kScalarSeparable{plan, statistics, forward, gate_probe, backward};

}  // namespace proxyless::cpu
