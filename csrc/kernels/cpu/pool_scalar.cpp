// Pooling in plain C++, the reference for every other instruction set: one channel at a time.
#include <cmath>
#include <cstdint>

#include "kernels/cpu/planes.h"
#include "kernels/cpu/pool_table.h"
#include "kernels/parallel.h"
#include "kernels/storage.h"

namespace proxyless::cpu {
namespace {

using namespace scalar;

// One channel of what goes in and comes out, forward or backward.
struct Planes {
  Planes(Arena& arena, const PoolShape& shape)
      : window(depthwise_window(shape.windows())),
        inside(arena.take(window.in.pixels())),
        outside(arena.take(window.out.pixels())),
        other(arena.take(window.out.pixels())) {}

  Window window;
  double* inside;   // [N, H, W]
  double* outside;  // [N, Ho, Wo]
  double* other;    // [N, Ho, Wo]
};

// Calls body(planes, c) for every channel, each with planes of its own.
template <class Args, class Body>
void for_each_channel(const Args& args, const Body& body) {
  const int64_t values = bytes<Planes>(args.shape) / static_cast<int64_t>(sizeof(double));
  parallel_for(args.parallel, args.shape.channels, [&](int64_t c) {
    Arena arena(static_cast<double*>(args.workspace) + c * values);
    body(Planes(arena, args.shape), c);
  });
}

// Makes `outside` of `inside`. Of maxima `other` gets the taps, of averages the sizes of windows.
void pool(const Planes& planes, bool maximum) {
  const Window& window = planes.window;
  fill(planes.outside, window.out.pixels(), 0);
  fill(planes.other, window.out.pixels(), maximum ? -1 : 0);
  for (int64_t n = 0; n < window.out.batch; ++n) {
    for_each_tap(window, n, [&](int64_t tap, int64_t out, int64_t in) {
      const double value = planes.inside[in];
      if (!maximum) {
        planes.outside[out] += value;
        planes.other[out] += 1;
      } else if (planes.other[out] < 0 || value > planes.outside[out] || std::isnan(value)) {
        planes.outside[out] = value;
        planes.other[out] = static_cast<double>(tap);
      }
    });
  }
  if (maximum) return;
  for (int64_t i = 0; i < window.out.pixels(); ++i) planes.outside[i] /= planes.other[i];
}

void forward(const PoolForward& args) {
  const int64_t channels = args.shape.channels;
  for_each_channel(args, [&](const Planes& planes, int64_t c) {
    const Grid& grid = planes.window.out;
    load_plane(planes.inside, args.x, args.dtype, planes.window.in, c);
    pool(planes, args.shape.maximum);
    store_plane(planes.outside, args.y, args.dtype, grid, channels, c);
    if (args.taps == nullptr) return;
    for (int64_t i = 0; i < grid.pixels(); ++i) {
      args.taps[i * channels + c] = static_cast<uint8_t>(planes.other[i]);
    }
  });
}

void gate_probe(const PoolProbe& args) {
  const PoolShape& s = args.shape;
  // Behind the planes of all channels.
  double* sums = static_cast<double*>(args.workspace) +
                 s.channels * bytes<Planes>(s) / static_cast<int64_t>(sizeof(double));
  for_each_channel(args, [&](const Planes& planes, int64_t c) {
    const Grid& grid = planes.window.out;
    load_plane(planes.inside, args.x, args.dtype, planes.window.in, c);
    pool(planes, s.maximum);
    load_plane(planes.other, args.grad, args.dtype, grid, c);
    sums[c] = dot(planes.outside, planes.other, grid.pixels());
  });
  write(args.result, vector_dtype(args.dtype), 0, sum(sums, s.channels));
}

void backward(const PoolBackward& args) {
  const int64_t channels = args.shape.channels;
  for_each_channel(args, [&](const Planes& planes, int64_t c) {
    const Window& window = planes.window;
    load_plane(planes.outside, args.grad, args.dtype, window.out, c);
    fill(planes.inside, window.in.pixels(), 0);
    fill(planes.other, window.out.pixels(), 0);
    const auto for_all_taps = [&](const auto& body) {
      for (int64_t n = 0; n < window.out.batch; ++n) for_each_tap(window, n, body);
    };
    if (args.shape.maximum) {
      for_all_taps([&](int64_t tap, int64_t out, int64_t in) {
        if (tap == args.taps[out * channels + c]) planes.inside[in] += planes.outside[out];
      });
    } else {
      for_all_taps([&](int64_t, int64_t out, int64_t) { planes.other[out] += 1; });
      for_all_taps([&](int64_t, int64_t out, int64_t in) {
        planes.inside[in] += planes.outside[out] / planes.other[out];
      });
    }
    store_plane(planes.inside, args.dx, args.dtype, window.in, channels, c);
  });
}

PoolPlan plan(const PoolShape& s) {
  const int64_t planes = s.channels * bytes<Planes>(s);
  return {planes, planes + s.channels * static_cast<int64_t>(sizeof(double)), planes};
}

}  // namespace

const PoolKernels kScalarPool{plan, forward, gate_probe, backward};

}  // namespace proxyless::cpu
