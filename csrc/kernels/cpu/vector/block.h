// Sizes of one problem in vectors and tasks, the memory it takes, and the operands that all passes
// share.
#pragma once

#include "kernels/cpu/mbconv.h"
#include "kernels/cpu/vector/loops.h"
#include "kernels/parallel.h"

namespace proxyless::cpu {

// Hands out pieces of the workspace. Without memory behind it, it only adds up what they take, so
// that a plan and its run cannot disagree.
class Arena {
 public:
  explicit Arena(void* memory) : base_(static_cast<char*>(memory)) {}

  template <class Value>
  Value* take(int64_t count) {
    const int64_t offset = used_;
    used_ += round_up(count * static_cast<int64_t>(sizeof(Value)), kWorkspaceAlignment);
    return base_ == nullptr ? nullptr : reinterpret_cast<Value*>(base_ + offset);
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// One stored value.
template <class I, class T>
float read_scalar(const T* value) {
  float lanes[I::kLanes];
  I::store(lanes, I::load(value, 1));
  return lanes[0];
}

template <class I, class T>
void write_scalar(T* to, float value) {
  I::store(to, I::set1(value), 1);
}

// to[0..count) = from[0..count), of other types.
template <class I, class From, class To>
void copy_values(const From* from, int64_t count, To* to) {
  for (int64_t i = 0; i < count; i += I::kLanes) {
    const int64_t lanes = smaller(I::kLanes, count - i);
    I::store(to + i, I::load(from + i, lanes), lanes);
  }
}

// values[i] += values[slice * stride + i] for slices 1, 2, ...; `count` is one of whole vectors.
template <class I>
void sum_slices(float* values, int64_t stride, int64_t slices, int64_t count) {
  for (int64_t i = 0; i < count; i += I::kLanes) {
    auto sum = I::load(values + i);
    for (int64_t slice = 1; slice < slices; ++slice) {
      sum = I::add(sum, I::load(values + slice * stride + i));
    }
    I::store(values + i, sum);
  }
}

// Goes through pixels in the order of a dense tensor.
template <class T>
class PixelWalk {
 public:
  PixelWalk(const Pixels& pixels, int64_t height, int64_t width, int64_t first)
      : pixels_(pixels), height_(height), width_(width), x_(first % width) {
    y_ = first / width % height;
    image_ = first / width / height;
    seek();
  }

  const T* operator*() const { return at_; }

  PixelWalk& operator++() {
    at_ += pixels_.pixel_stride;
    if (++x_ == width_) {
      x_ = 0;
      if (++y_ == height_) {
        y_ = 0;
        ++image_;
      }
      seek();
    }
    return *this;
  }

 private:
  void seek() {
    at_ = static_cast<const T*>(pixels_.data) + image_ * pixels_.batch_stride +
          y_ * pixels_.row_stride + x_ * pixels_.pixel_stride;
  }

  const Pixels& pixels_;
  int64_t height_, width_, image_, y_, x_;
  const T* at_;
};

// Where rows may be cut for parallel work, so that small batches keep several cores busy.
struct Unit {
  int64_t image, first_row, last_row;
};

constexpr int64_t kSlices = 16;            // tasks that pixels are dealt out to
constexpr int64_t kTile = 64;              // pixels of a matrix product's tile
constexpr int64_t kChunkBytes = 12 << 20;  // of the buffers that live between two passes
constexpr int64_t kMinUnitRows = 8;        // cutting finer would mostly repeat the borders' rows

// First element of part `part` of `count` ones dealt out to `parts`.
constexpr int64_t part_begin(int64_t count, int64_t parts, int64_t part) {
  return part * count / parts;
}

template <class I>
struct BlockSizes {
  static constexpr int L = I::kLanes;

  MBConvShape shape;
  int64_t mid_h, mid_w, out_h, out_w, mid_pixels, out_pixels;
  int64_t pad;          // of the depthwise convolution
  int64_t reach;        // rows that it spans
  int64_t patch;        // values of X that an expanded channel reads
  int64_t planes;       // vectors of expanded channels
  int64_t width;        // padded expanded channels: planes * L
  int64_t row_vectors;  // of a row of A1 with its padding on both sides
  int64_t segments;     // parts of a picture's rows

  explicit BlockSizes(const MBConvShape& s)
      : shape(s),
        mid_h(s.mid_height()),
        mid_w(s.mid_width()),
        out_h(s.out_height()),
        out_w(s.out_width()),
        mid_pixels(s.mid_pixels()),
        out_pixels(s.out_pixels()),
        pad(s.dilation * (s.kernel / 2)),
        reach(2 * pad + 1),
        patch(s.patch()),
        planes(ceil_div(s.hidden, L)),
        width(planes * L),
        row_vectors(mid_w + 2 * pad),
        segments(larger(1, smaller(ceil_div(kSlices, s.batch), out_h / kMinUnitRows))) {}

  // Planes of a chunk that keeps `value_bytes` of each value between two passes.
  int64_t chunk_planes(int64_t value_bytes) const {
    const int64_t block_bytes = value_bytes * out_pixels * L * I::kBlock;
    return smaller(planes, larger(1, kChunkBytes / block_bytes) * I::kBlock);
  }

  int64_t units() const { return shape.batch * segments; }
  int64_t slices() const { return smaller(units(), kSlices); }
  // Rows of unit `index` among `rows` rows of its picture.
  Unit unit(int64_t index, int64_t rows) const {
    const int64_t segment = index % segments;
    return {index / segments, part_begin(rows, segments, segment),
            part_begin(rows, segments, segment + 1)};
  }
};

// Tasks for work on the pixels of the output, tile by tile.
struct Tiles {
  int64_t pixels, tasks;

  explicit Tiles(int64_t pixel_count)
      : pixels(pixel_count), tasks(smaller(ceil_div(pixel_count, kTile), 4 * kSlices)) {}

  // body(first, count) for the tiles of a task.
  template <class Body>
  void for_each(int64_t task, const Body& body) const {
    const int64_t tiles = ceil_div(pixels, kTile);
    for (int64_t tile = part_begin(tiles, tasks, task); tile < part_begin(tiles, tasks, task + 1);
         ++tile) {
      body(tile * kTile, smaller(kTile, pixels - tile * kTile));
    }
  }
};

// The three BatchNorms' vectors, each at its own start. expand is null without an expand layer.
template <class Value>
struct NormVectors {
  Value *expand, *depthwise, *project;

  NormVectors(Value* all, const MBConvShape& shape)
      : expand(shape.has_expand() ? all : nullptr),
        depthwise(shape.has_expand() ? all + shape.hidden : all),
        project(depthwise + shape.hidden) {}
};

}  // namespace proxyless::cpu
