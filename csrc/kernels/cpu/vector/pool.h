// Pooling: each output pixel asks its window, and on the way back each input pixel the windows that
// it lies in, so that rows are independent of each other. Channels are the lanes.
#pragma once

#include "kernels/cpu/pool_table.h"
#include "kernels/cpu/vector/block.h"
#include "kernels/cpu/vector/storage.h"

namespace proxyless::cpu {

struct Range {
  int64_t first, last;  // [first, last)

  int64_t count() const { return last - first; }
};

// The windows along one dimension, with `size` input and `outputs` output pixels.
struct PoolAxis {
  int64_t kernel, stride, size, outputs;

  int64_t start(int64_t out) const { return out * stride - kernel / 2; }
  // What of a window lies within the picture.
  Range window(int64_t out) const {
    return {larger(0, start(out)), smaller(size, start(out) + kernel)};
  }
  // The outputs whose windows an input pixel lies in.
  Range outputs_of(int64_t in) const {
    const int64_t pad = kernel / 2;
    return {ceil_div(larger(0, in - pad), stride), smaller(outputs, (in + pad) / stride + 1)};
  }
};

// The rows of a picture, dealt out to tasks.
struct PoolRows {
  int64_t height, rows;

  PoolRows(int64_t batch, int64_t picture_height)
      : height(picture_height), rows(batch * picture_height) {}

  int64_t slices() const { return smaller(kSlices, rows); }
  // body(image, y) for the rows of a task.
  template <class Body>
  void for_each(int64_t slice, const Body& body) const {
    for (int64_t row = part_begin(rows, slices(), slice);
         row < part_begin(rows, slices(), slice + 1); ++row) {
      body(row / height, row % height);
    }
  }
};

// `lanes` channels of the pixels of a picture.
template <class I, class T>
struct PooledChannels {
  const T* data;
  int64_t row_stride, pixel_stride, lanes;

  auto operator()(int64_t y, int64_t x) const {
    const T* at = data + y * row_stride + x * pixel_stride;
    return lanes == I::kLanes ? I::load(at) : I::load(at, lanes);
  }
};

template <class I>
struct PooledMaximum {
  typename I::Vector value, tap;
};

// The values of one window and their places in it.
template <class I, class T>
PROXYLESS_INLINE PooledMaximum<I> pooled_maximum(const PooledChannels<I, T>& x, Range rows,
                                                 Range columns, int64_t first_tap, int64_t kernel) {
  using Vector = typename I::Vector;
  PooledMaximum<I> found{x(rows.first, columns.first), I::set1(static_cast<float>(first_tap))};
  for (int64_t y = rows.first; y < rows.last; ++y) {
    int64_t tap = first_tap + (y - rows.first) * kernel;
    for (int64_t column = columns.first; column < columns.last; ++column, ++tap) {
      const Vector value = x(y, column);
      const auto better = (value > found.value) | (value != value);  // NaN is.
      found.value = better ? value : found.value;
      found.tap = better ? I::set1(static_cast<float>(tap)) : found.tap;
    }
  }
  return found;
}

template <class I, class T>
PROXYLESS_INLINE typename I::Vector pooled_average(const PooledChannels<I, T>& x, Range rows,
                                                   Range columns) {
  typename I::Vector sum = I::zero();
  for (int64_t y = rows.first; y < rows.last; ++y) {
    for (int64_t column = columns.first; column < columns.last; ++column) {
      sum = I::add(sum, x(y, column));
    }
  }
  return sum / I::set1(static_cast<float>(rows.count() * columns.count()));
}

template <class I, class T>
class PoolPass {
  static constexpr int L = I::kLanes;
  using Vector = typename I::Vector;

 public:
  explicit PoolPass(const PoolShape& shape)
      : shape_(shape),
        rows_{shape.kernel, shape.stride, shape.height, shape.out_height()},
        columns_{shape.kernel, shape.stride, shape.width, shape.out_width()} {}

  // body(first channel, its lanes, pixel, maximum with its tap, or average) for an output row;
  // pixels count from the row's first.
  template <class Body>
  void for_each_output(const Pixels& x, int64_t image, int64_t out_y, const Body& body) const {
    const Range rows = rows_.window(out_y);
    for (int64_t out_x = 0; out_x < columns_.outputs; ++out_x) {
      const Range columns = columns_.window(out_x);
      const int64_t tap =
          (rows.first - rows_.start(out_y)) * shape_.kernel + columns.first - columns_.start(out_x);
      for (int64_t c = 0; c < shape_.channels; c += L) {
        const auto channels = channels_of(x, image, c);
        PooledMaximum<I> found;
        if (shape_.maximum) {
          found = pooled_maximum<I, T>(channels, rows, columns, tap, shape_.kernel);
        } else {
          found.value = pooled_average<I, T>(channels, rows, columns);
        }
        body(c, channels.lanes, out_x, found);
      }
    }
  }

  void forward(const PoolForward& args) const {
    const PoolRows rows(shape_.batch, rows_.outputs);
    parallel_for(args.parallel, rows.slices(), [&](int64_t slice) {
      rows.for_each(slice, [&](int64_t image, int64_t y) {
        const int64_t first = (image * rows_.outputs + y) * columns_.outputs * shape_.channels;
        for_each_output(
            args.x, image, y,
            [&](int64_t c, int64_t lanes, int64_t pixel, const PooledMaximum<I>& found) {
              const int64_t at = first + pixel * shape_.channels + c;
              I::store(static_cast<T*>(args.y) + at, found.value, lanes);
              if (args.taps != nullptr) store_taps(args.taps + at, found.tap, lanes);
            });
      });
    });
  }

  void probe(const PoolProbe& args) const {
    double* sums = static_cast<double*>(args.workspace);  // [slices, L]
    const PoolRows rows(shape_.batch, rows_.outputs);
    parallel_for(args.parallel, rows.slices(), [&](int64_t slice) {
      double* own = sums + slice * L;
      for (int lane = 0; lane < L; ++lane) own[lane] = 0.0;
      rows.for_each(slice, [&](int64_t image, int64_t y) {
        Vector sum = I::zero();
        for_each_output(args.x, image, y,
                        [&](int64_t c, int64_t, int64_t pixel, const PooledMaximum<I>& found) {
                          sum =
                              I::fma(channels_of(args.grad, image, c)(y, pixel), found.value, sum);
                        });
        I::add_to(own, sum);
      });
    });
    double result = 0.0;
    for (int64_t i = 0; i < rows.slices() * L; ++i) result += sums[i];
    *static_cast<float*>(args.result) = static_cast<float>(result);
  }

  void backward(const PoolBackward& args) const {
    const PoolRows rows(shape_.batch, shape_.height);
    parallel_for(args.parallel, rows.slices(), [&](int64_t slice) {
      rows.for_each(slice, [&](int64_t image, int64_t y) {
        T* to =
            static_cast<T*>(args.dx) + (image * shape_.height + y) * shape_.width * shape_.channels;
        for (int64_t x = 0; x < shape_.width; ++x, to += shape_.channels) {
          for (int64_t c = 0; c < shape_.channels; c += L) {
            const int64_t lanes = smaller(L, shape_.channels - c);
            I::store(to + c,
                     shape_.maximum ? of_maxima(args, image, y, x, c)
                                    : of_averages(args, image, y, x, c),
                     lanes);
          }
        }
      });
    });
  }

 private:
  PooledChannels<I, T> channels_of(const Pixels& pixels, int64_t image, int64_t c) const {
    return {static_cast<const T*>(pixels.data) + image * pixels.batch_stride + c, pixels.row_stride,
            pixels.pixel_stride, smaller(L, shape_.channels - c)};
  }

  Vector of_averages(const PoolBackward& args, int64_t image, int64_t y, int64_t x,
                     int64_t c) const {
    const auto grad = channels_of(args.grad, image, c);
    const Range rows = rows_.outputs_of(y), columns = columns_.outputs_of(x);
    Vector sum = I::zero();
    for (int64_t out_y = rows.first; out_y < rows.last; ++out_y) {
      const int64_t height = rows_.window(out_y).count();
      for (int64_t out_x = columns.first; out_x < columns.last; ++out_x) {
        const int64_t pixels = height * columns_.window(out_x).count();
        sum = I::add(sum, grad(out_y, out_x) / I::set1(static_cast<float>(pixels)));
      }
    }
    return sum;
  }

  Vector of_maxima(const PoolBackward& args, int64_t image, int64_t y, int64_t x, int64_t c) const {
    const auto grad = channels_of(args.grad, image, c);
    const Range rows = rows_.outputs_of(y), columns = columns_.outputs_of(x);
    Vector sum = I::zero();
    for (int64_t out_y = rows.first; out_y < rows.last; ++out_y) {
      for (int64_t out_x = columns.first; out_x < columns.last; ++out_x) {
        const int64_t tap = (y - rows_.start(out_y)) * shape_.kernel + x - columns_.start(out_x);
        const int64_t pixel = (image * rows_.outputs + out_y) * columns_.outputs + out_x;
        const Vector taps = load_taps(args.taps + pixel * shape_.channels + c, grad.lanes);
        sum =
            I::add(sum, taps == I::set1(static_cast<float>(tap)) ? grad(out_y, out_x) : I::zero());
      }
    }
    return sum;
  }

  static void store_taps(uint8_t* to, Vector taps, int64_t lanes) {
    float values[L];
    I::store(values, taps);
    for (int64_t lane = 0; lane < lanes; ++lane) to[lane] = static_cast<uint8_t>(values[lane]);
  }

  static Vector load_taps(const uint8_t* from, int64_t lanes) {
    float values[L] = {};
    for (int64_t lane = 0; lane < lanes; ++lane) values[lane] = static_cast<float>(from[lane]);
    return I::load(values);
  }

  const PoolShape& shape_;
  PoolAxis rows_, columns_;
};

template <class I>
PoolPlan plan_pool(const PoolShape& shape) {
  const int64_t slices = PoolRows(shape.batch, shape.out_height()).slices();
  return {0, slices * I::kLanes * static_cast<int64_t>(sizeof(double)), 0};
}

template <class I>
void pool_forward(const PoolForward& args) {
  with_storage<I>(args.dtype,
                  [&](auto storage) { PoolPass<I, decltype(storage)>(args.shape).forward(args); });
}

template <class I>
void pool_gate_probe(const PoolProbe& args) {
  with_storage<I>(args.dtype,
                  [&](auto storage) { PoolPass<I, decltype(storage)>(args.shape).probe(args); });
}

template <class I>
void pool_backward(const PoolBackward& args) {
  with_storage<I>(args.dtype,
                  [&](auto storage) { PoolPass<I, decltype(storage)>(args.shape).backward(args); });
}

template <class I>
constexpr PoolKernels kVectorPool = {plan_pool<I>, pool_forward<I>, pool_gate_probe<I>,
                                     pool_backward<I>};

}  // namespace proxyless::cpu
