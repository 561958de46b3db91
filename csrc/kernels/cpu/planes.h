// Planes of channels, which the scalar kernels are written in.
//
// A plane holds one channel of all pictures, [N, H, W], in float64 whatever the storage. Each sum
// belongs to one task of a parallel loop, so that threads change no bit.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/math.h"
#include "kernels/parallel.h"
#include "kernels/storage.h"

namespace proxyless::cpu::scalar {

// Hands out the workspace piece by piece; without memory it only counts.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<double*>(memory)) {}

  double* take(int64_t count) {
    double* piece = memory_ == nullptr ? nullptr : memory_ + taken_;
    taken_ += count;
    return piece;
  }
  int64_t bytes() const { return taken_ * static_cast<int64_t>(sizeof(double)); }

 private:
  double* memory_;
  int64_t taken_ = 0;
};

inline void fill(double* values, int64_t count, double value) { std::fill_n(values, count, value); }

inline void add_scaled(double* to, double factor, const double* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += factor * values[i];
}

inline double sum(const double* values, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += values[i];
  return total;
}

inline double dot(const double* a, const double* b, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += a[i] * b[i];
  return total;
}

// The extents of a plane.
struct Grid {
  int64_t batch, height, width;

  int64_t image() const { return height * width; }
  int64_t pixels() const { return batch * image(); }
};

inline Grid input_grid(const MBConvShape& s) { return {s.batch, s.height, s.width}; }
inline Grid mid_grid(const MBConvShape& s) { return {s.batch, s.mid_height(), s.mid_width()}; }
inline Grid out_grid(const MBConvShape& s) { return {s.batch, s.out_height(), s.out_width()}; }

inline Pixels dense(const void* data, const Grid& grid, int64_t channels) {
  return {data, grid.image() * channels, grid.width * channels, channels};
}

// Calls body(pixel, offset): which pixel of the plane, and how many elements before its channel 0.
template <class Body>
inline void for_each_pixel(const Grid& grid, const Pixels& stored, const Body& body) {
  int64_t pixel = 0;
  for (int64_t n = 0; n < grid.batch; ++n) {
    for (int64_t y = 0; y < grid.height; ++y) {
      for (int64_t x = 0; x < grid.width; ++x, ++pixel) {
        body(pixel, n * stored.batch_stride + y * stored.row_stride + x * stored.pixel_stride);
      }
    }
  }
}

inline void load_plane(double* plane, const Pixels& from, DType dtype, const Grid& grid,
                       int64_t channel) {
  for_each_pixel(grid, from, [&](int64_t pixel, int64_t offset) {
    plane[pixel] = read(from.data, dtype, offset + channel);
  });
}

inline void store_plane(const double* plane, void* to, DType dtype, const Grid& grid,
                        int64_t channels, int64_t channel) {
  for_each_pixel(grid, dense(to, grid, channels), [&](int64_t pixel, int64_t offset) {
    write(to, dtype, offset + channel, plane[pixel]);
  });
}

// A convolution of planes, padded by half its kernel, dilated as it is.
struct Window {
  Grid in, out;
  int64_t kernel, stride, dilation;

  int64_t taps() const { return kernel * kernel; }
};

inline Window depthwise_window(const MBConvShape& s) {
  return {mid_grid(s), out_grid(s), s.kernel, s.stride, s.dilation};
}

// Calls body(tap, out, in) for every tap of every output pixel of one picture that falls on an
// input pixel rather than on padding. The pixels are places in the whole planes.
template <class Body>
inline void for_each_tap(const Window& window, int64_t image, const Body& body) {
  const int64_t padding = window.dilation * (window.kernel / 2);
  int64_t out = image * window.out.image();
  for (int64_t out_y = 0; out_y < window.out.height; ++out_y) {
    for (int64_t out_x = 0; out_x < window.out.width; ++out_x, ++out) {
      for (int64_t ky = 0; ky < window.kernel; ++ky) {
        const int64_t y = out_y * window.stride + ky * window.dilation - padding;
        if (y < 0 || y >= window.in.height) continue;
        for (int64_t kx = 0; kx < window.kernel; ++kx) {
          const int64_t x = out_x * window.stride + kx * window.dilation - padding;
          if (x < 0 || x >= window.in.width) continue;
          body(ky * window.kernel + kx, out, image * window.in.image() + y * window.in.width + x);
        }
      }
    }
  }
}

// out = the convolution of `in`; weight(tap) is a tap's.
template <class Weight>
void convolve(double* out, const double* in, const Window& window, const ParallelFor& parallel,
              const Weight& weight) {
  parallel_for(parallel, window.out.batch, [&](int64_t n) {
    fill(out + n * window.out.image(), window.out.image(), 0);
    for_each_tap(window, n,
                 [&](int64_t tap, int64_t to, int64_t from) { out[to] += weight(tap) * in[from]; });
  });
}

// din = dL/din, given dout.
template <class Weight>
void convolve_backward(double* din, const double* dout, const Window& window,
                       const ParallelFor& parallel, const Weight& weight) {
  parallel_for(parallel, window.in.batch, [&](int64_t n) {
    fill(din + n * window.in.image(), window.in.image(), 0);
    for_each_tap(window, n, [&](int64_t tap, int64_t to, int64_t from) {
      din[from] += weight(tap) * dout[to];
    });
  });
}

// dtaps = dL/dweights, given dout.
inline void correlate(double* dtaps, const double* dout, const double* in, const Window& window) {
  fill(dtaps, window.taps(), 0);
  for (int64_t n = 0; n < window.out.batch; ++n) {
    for_each_tap(window, n,
                 [&](int64_t tap, int64_t to, int64_t from) { dtaps[tap] += dout[to] * in[from]; });
  }
}

using Norm = BatchNorm<double>;

inline void measure(const double* plane, int64_t count, double* mean, double* var) {
  *mean = sum(plane, count) / static_cast<double>(count);
  double squares = 0;
  for (int64_t i = 0; i < count; ++i) squares += (plane[i] - *mean) * (plane[i] - *mean);
  *var = squares / static_cast<double>(count);
}

struct NormGradients {
  double scale, shift;
};

// Turns grad = dL/dnorm(plane) into dL/dplane.
inline NormGradients normalise_backward(double* grad, const double* plane, int64_t count,
                                        const Norm& norm, bool batch_statistics) {
  NormGradients d{0, sum(grad, count)};
  for (int64_t i = 0; i < count; ++i) d.scale += grad[i] * norm.normalise(plane[i]);
  for (int64_t i = 0; i < count; ++i) {
    grad[i] = batch_statistics
                  ? norm.backward(plane[i], grad[i], d.scale, d.shift, static_cast<double>(count))
                  : norm.backward(grad[i]);
  }
  return d;
}

// The workspace that `Buffers` takes.
template <class Buffers, class Shape>
int64_t bytes(const Shape& shape) {
  Arena arena(nullptr);
  Buffers(arena, shape);
  return arena.bytes();
}

}  // namespace proxyless::cpu::scalar
