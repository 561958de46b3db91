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

// A size that only the run knows, to stand for a Count.
struct Size {
  int64_t value;
};

// body(rows, columns), as Counts where a window is of 3x3 pixels, as most are.
template <class Body>
PROXYLESS_INLINE void with_sizes(int64_t rows, int64_t columns, const Body& body) {
  if (rows == 3 && columns == 3) {
    body(Count<3>{}, Count<3>{});
  } else {
    body(Size{rows}, Size{columns});
  }
}

// body(c, load) for all channels, a vector at a time; load(pointer) gives the lanes that exist.
template <class I, class Body>
PROXYLESS_INLINE void for_each_vector(int64_t channels, const Body& body) {
  const int64_t whole = channels / I::kLanes * I::kLanes;
  for (int64_t c = 0; c < whole; c += I::kLanes) {
    body(c, [](const auto* at) { return I::load(at); });
  }
  if (const int64_t lanes = channels - whole; lanes > 0) {
    body(whole, [lanes](const auto* at) { return I::load(at, lanes); });
  }
}

template <class I>
struct PooledMaximum {
  typename I::Vector value, tap;
};

template <class I, class T>
class PoolPass {
  static constexpr int L = I::kLanes;
  using Vector = typename I::Vector;

 public:
  explicit PoolPass(const PoolShape& shape)
      : shape_(shape),
        rows_{shape.kernel, shape.stride, shape.height, shape.out_height()},
        columns_{shape.kernel, shape.stride, shape.width, shape.out_width()} {}

  void forward(const PoolForward& args) const {
    const PoolRows rows(shape_.batch, rows_.outputs);
    parallel_for(args.parallel, rows.slices(), [&](int64_t slice) {
      rows.for_each(slice, [&](int64_t image, int64_t y) {
        const int64_t first = (image * rows_.outputs + y) * columns_.outputs * shape_.channels;
        T* to = static_cast<T*>(args.y) + first;
        if (shape_.maximum) {
          uint8_t* taps = args.taps + first;
          for_each_maximum<true>(args.x, image, y,
                                 [&](int64_t x, int64_t c, const PooledMaximum<I>& found) {
                                   const int64_t at = x * shape_.channels + c, lanes = lanes_at(c);
                                   I::store(to + at, found.value, lanes);
                                   store_taps(taps + at, found.tap, lanes);
                                 });
        } else {
          for_each_average(args.x, image, y, [&](int64_t x, int64_t c, Vector average) {
            I::store(to + x * shape_.channels + c, average, lanes_at(c));
          });
        }
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
        const T* grad = row_of(args.grad, image, y);
        Vector sum = I::zero();
        const auto add = [&](int64_t x, int64_t c, Vector value) {
          const T* at = grad + x * args.grad.pixel_stride + c;
          sum = I::fma(I::load(at, lanes_at(c)), value, sum);
        };
        if (shape_.maximum) {
          for_each_maximum<false>(
              args.x, image, y,
              [&](int64_t x, int64_t c, const PooledMaximum<I>& found) { add(x, c, found.value); });
        } else {
          for_each_average(args.x, image, y, add);
        }
        I::add_to(own, sum);
      });
    });
    double result = 0.0;
    for (int64_t i = 0; i < rows.slices() * L; ++i) result += sums[i];
    *static_cast<float*>(args.result) = static_cast<float>(result);
  }

  template <bool kMaximum>
  void backward(const PoolBackward& args) const {
    const PoolRows rows(shape_.batch, shape_.height);
    const int64_t channels = shape_.channels;
    parallel_for(args.parallel, rows.slices(), [&](int64_t slice) {
      Reader readers[kMaxPoolKernel * kMaxPoolKernel];
      rows.for_each(slice, [&](int64_t image, int64_t y) {
        T* to = static_cast<T*>(args.dx) + (image * shape_.height + y) * shape_.width * channels;
        for (int64_t x = 0; x < shape_.width; ++x, to += channels) {
          const int64_t count = readers_of<kMaximum>(args, image, y, x, readers);
          for_each_vector<I>(channels, [&](int64_t c, const auto& load) {
            const int64_t lanes = smaller(L, channels - c);
            Vector dx = I::zero();
            for (int64_t i = 0; i < count; ++i) {
              const Vector grad = load(readers[i].grad + c), number = I::set1(readers[i].number);
              if constexpr (kMaximum) {
                const Vector taps = load_taps(readers[i].taps + c, lanes);
                dx = I::add(dx, taps == number ? grad : I::zero());
              } else {
                dx = I::fma(grad, number, dx);
              }
            }
            I::store(to + c, dx, lanes);
          });
        }
      });
    });
  }

 private:
  int64_t lanes_at(int64_t c) const { return smaller(L, shape_.channels - c); }

  const T* row_of(const Pixels& pixels, int64_t image, int64_t y) const {
    return static_cast<const T*>(pixels.data) + image * pixels.batch_stride + y * pixels.row_stride;
  }

  // body(x, c, maximum) for an output row; without kTaps their places are not looked for.
  template <bool kTaps, class Body>
  PROXYLESS_INLINE void for_each_maximum(const Pixels& x, int64_t image, int64_t out_y,
                                         const Body& body) const {
    const Range rows = rows_.window(out_y);
    for (int64_t out_x = 0; out_x < columns_.outputs; ++out_x) {
      const Range columns = columns_.window(out_x);
      const int64_t first_tap =
          (rows.first - rows_.start(out_y)) * shape_.kernel + columns.first - columns_.start(out_x);
      const T* corner = row_of(x, image, rows.first) + columns.first * x.pixel_stride;
      with_sizes(rows.count(), columns.count(), [&](auto height, auto width) {
        for_each_vector<I>(shape_.channels, [&](int64_t c, const auto& load) {
          PooledMaximum<I> found{load(corner + c), I::set1(static_cast<float>(first_tap))};
          for (int64_t row = 0; row < height.value; ++row) {
            const T* at = corner + row * x.row_stride + c;
            int64_t tap = first_tap + row * shape_.kernel;
            for (int64_t column = 0; column < width.value; ++column, ++tap) {
              const Vector value = load(at + column * x.pixel_stride);
              const auto better = (value > found.value) | (value != value);  // NaN is.
              found.value = better ? value : found.value;
              if constexpr (kTaps) {
                found.tap = better ? I::set1(static_cast<float>(tap)) : found.tap;
              }
            }
          }
          body(out_x, c, found);
        });
      });
    }
  }

  // body(x, c, average) for an output row.
  template <class Body>
  PROXYLESS_INLINE void for_each_average(const Pixels& x, int64_t image, int64_t out_y,
                                         const Body& body) const {
    const Range rows = rows_.window(out_y);
    for (int64_t out_x = 0; out_x < columns_.outputs; ++out_x) {
      const Range columns = columns_.window(out_x);
      const T* corner = row_of(x, image, rows.first) + columns.first * x.pixel_stride;
      const Vector pixels = I::set1(static_cast<float>(rows.count() * columns.count()));
      with_sizes(rows.count(), columns.count(), [&](auto height, auto width) {
        for_each_vector<I>(shape_.channels, [&](int64_t c, const auto& load) {
          Vector sum = I::zero();
          for (int64_t row = 0; row < height.value; ++row) {
            const T* at = corner + row * x.row_stride + c;
            for (int64_t column = 0; column < width.value; ++column) {
              sum = I::add(sum, load(at + column * x.pixel_stride));
            }
          }
          body(out_x, c, sum / pixels);
        });
      });
    }
  }

  // An output pixel whose window has an input pixel in it: as this tap, or with this share.
  struct Reader {
    const T* grad;        // [C]
    const uint8_t* taps;  // [C], of maxima
    float number;
  };

  // Fills `readers` with those of an input pixel; gives their number.
  template <bool kMaximum>
  int64_t readers_of(const PoolBackward& args, int64_t image, int64_t y, int64_t x,
                     Reader* readers) const {
    const Range rows = rows_.outputs_of(y), columns = columns_.outputs_of(x);
    int64_t count = 0;
    for (int64_t out_y = rows.first; out_y < rows.last; ++out_y) {
      const T* grad = row_of(args.grad, image, out_y);
      for (int64_t out_x = columns.first; out_x < columns.last; ++out_x) {
        Reader& reader = readers[count++];
        reader.grad = grad + out_x * args.grad.pixel_stride;
        if constexpr (kMaximum) {
          const int64_t pixel = (image * rows_.outputs + out_y) * columns_.outputs + out_x;
          reader.taps = args.taps + pixel * shape_.channels;
          reader.number = static_cast<float>((y - rows_.start(out_y)) * shape_.kernel + x -
                                             columns_.start(out_x));
        } else {
          const int64_t pixels = rows_.window(out_y).count() * columns_.window(out_x).count();
          reader.number = 1.0f / static_cast<float>(pixels);
        }
      }
    }
    return count;
  }

  static void store_taps(uint8_t* to, Vector taps, int64_t lanes) {
    if (lanes == L) return I::store_bytes(to, taps);
    uint8_t bytes[L];
    I::store_bytes(bytes, taps);
    for (int64_t lane = 0; lane < lanes; ++lane) to[lane] = bytes[lane];
  }

  static Vector load_taps(const uint8_t* from, int64_t lanes) {
    if (lanes == L) return I::load_bytes(from);
    uint8_t bytes[L] = {};
    for (int64_t lane = 0; lane < lanes; ++lane) bytes[lane] = from[lane];
    return I::load_bytes(bytes);
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
  with_storage<I>(args.dtype, [&](auto storage) {
    const PoolPass<I, decltype(storage)> pass(args.shape);
    if (args.shape.maximum) {
      pass.template backward<true>(args);
    } else {
      pass.template backward<false>(args);
    }
  });
}

template <class I>
constexpr PoolKernels kVectorPool = {plan_pool<I>, pool_forward<I>, pool_gate_probe<I>,
                                     pool_backward<I>};

}  // namespace proxyless::cpu
