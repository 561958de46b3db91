// What forward, probe, backward and moments share: arena, the input in the kernels' form, and
// the launches of small kernels.
#pragma once

#include "kernels/cuda/device/expand_norm.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/layout.cuh"
#include "kernels/cuda/launches.cuh"
#include "kernels/cuda/plan.h"

namespace proxyless::cuda {

static_assert(kGroupBytes == kStageBytes, "the plan's groups are the kernels'");

// Hands out the workspace piece by piece; without memory it only counts.
class Arena {
 public:
  explicit Arena(void* memory) : memory_(static_cast<unsigned char*>(memory)) {}

  template <class T>
  T* take(int64_t count) {
    unsigned char* piece = memory_ == nullptr ? nullptr : memory_ + bytes_;
    bytes_ += round_up(count * static_cast<int64_t>(sizeof(T)), kWorkspaceAlignment);
    return reinterpret_cast<T*>(piece);
  }
  int64_t bytes() const { return bytes_; }

 private:
  unsigned char* memory_;
  int64_t bytes_ = 0;
};

// A grid of one thread for each of `count` elements.
inline dim3 grid_of(int64_t count, int64_t threads = kThreads) {
  return dim3(static_cast<unsigned>(ceil_div(count, threads)));
}

// Cuts the pixels into slices and sums them up.
template <class T>
void launch_column_sums(ColumnSums<T> args, int64_t slices, void* stream) {
  args.slice_pixels = ceil_div(args.pixels, slices);
  const dim3 grid(static_cast<unsigned>(slices),
                  static_cast<unsigned>(ceil_div(args.pitch, kStage<T>)));
  launch(column_sums<T>, grid, dim3(kThreads), stream, args);
}

// A dense matrix as aligned rows: itself where it is so, or else a copy in the arena.
template <class T>
class AlignedRows {
 public:
  AlignedRows(Arena& arena, int64_t rows, int64_t columns)
      : rows_(rows), columns_(columns), pitch_(round_up(columns, kUnit<T>)) {
    if (pitch_ != columns) copy_ = arena.take<T>(rows * pitch_);
  }

  Rows<T> load(const void* matrix, void* stream) {
    const T* from = static_cast<const T*>(matrix);
    if (pitch_ == columns_) return {from, pitch_};
    Arrange<T> args{};
    args.matrix = from;
    args.row_stride = columns_;
    args.column_stride = 1;
    args.to = copy_;
    args.pitch = pitch_;
    args.rows = rows_;
    args.columns = static_cast<int>(columns_);
    launch(arrange<T>, grid_of(rows_ * pitch_), dim3(kThreads), stream, args);
    return {copy_, pitch_};
  }

 private:
  int64_t rows_, columns_, pitch_;
  T* copy_ = nullptr;
};

// What the expand layer reads, as rows: pixels, or patches of a kernel or a stride larger than 1.
template <class T>
class InputRows {
 public:
  InputRows(Arena& arena, const MBConvShape& shape)
      : shape_(shape),
        pixels_(arena, unfolds(shape) ? 0 : shape.mid_pixels(), shape.in_channels),
        pitch_(round_up(patch(shape), kUnit<T>)) {
    if (unfolds(shape)) patches_ = arena.take<T>(shape.mid_pixels() * pitch_);
  }

  static bool unfolds(const MBConvShape& s) { return s.expand_kernel > 1 || s.expand_stride > 1; }
  // Without an expand layer the depthwise layer reads X itself.
  static int64_t patch(const MBConvShape& s) { return s.has_expand() ? s.patch() : s.in_channels; }

  Rows<T> load(const Pixels& x, void* stream) {
    if (!unfolds(shape_)) return pixels_.load(x.data, stream);
    Unfold<T> args{};
    args.x = static_cast<const T*>(x.data);
    args.rows = patches_;
    args.pitch = pitch_;
    args.channels = static_cast<int>(shape_.in_channels);
    args.height = static_cast<int>(shape_.height);
    args.width = static_cast<int>(shape_.width);
    args.kernel = static_cast<int>(shape_.expand_kernel);
    args.stride = static_cast<int>(shape_.expand_stride);
    args.out_height = static_cast<int>(shape_.mid_height());
    args.out_width = static_cast<int>(shape_.mid_width());
    args.pixels = shape_.mid_pixels();
    launch(unfold<T>, grid_of(args.pixels * pitch_), dim3(kThreads), stream, args);
    return {patches_, pitch_};
  }

 private:
  MBConvShape shape_;
  AlignedRows<T> pixels_;
  int64_t pitch_;
  T* patches_ = nullptr;
};

// A folded BatchNorm in the arena, [padded channels].
inline Norm take_norm(Arena& arena, int64_t padded) {
  return {arena.take<float>(padded), arena.take<float>(padded), arena.take<float>(padded),
          arena.take<float>(padded)};
}

inline Norm norm_from(const Norm& norm, int64_t channel) {
  return {norm.slope + channel, norm.offset + channel, norm.mean + channel, norm.inv_std + channel};
}

// The input, and the layers up to the depthwise convolution, a chunk of channels at a time.
template <class T>
class ExpandedLayers {
 public:
  // The BatchNorms' places in per-channel vectors: expand, depthwise, project.
  enum Layer { kExpand, kDepthwise, kProject };

  ExpandedLayers(Arena& arena, const MBConvShape& shape, int64_t chunk_width)
      : chunk(chunk_width),
        hidden_padded(round_up(shape.hidden, chunk_width)),
        out_padded(round_up(shape.out_channels, kUnit<T>)),
        norms{take_norm(arena, shape.has_expand() ? hidden_padded : 0),
              take_norm(arena, hidden_padded), take_norm(arena, out_padded)},
        d(arena.take<T>(shape.out_pixels() * chunk_width)),
        input_(arena, shape),
        expand_(arena, shape.has_expand() ? shape.hidden : 0, shape.patch()) {
    const TileSize tile = out_tile(shape.kernel, shape.stride);
    tiles_y_ = ceil_div(shape.out_height(), tile.rows);
    tiles_x_ = ceil_div(shape.out_width(), tile.columns);
    tiles = shape.batch * tiles_y_ * tiles_x_;
  }

  void load(const MBConvInput& input, const Launch& how) {
    input_args = &input;
    launch_args = how;
    x = input_.load(input.x, how.stream);
    if (shape().has_expand()) expand = expand_.load(input.expand, how.stream);
  }

  const MBConvShape& shape() const { return input_args->shape; }
  void* stream() const { return launch_args.stream; }

  int64_t chunk_channels(int64_t first) const { return std::min(chunk, shape().hidden - first); }
  int64_t channels(Layer layer) const {
    return layer == kProject ? shape().out_channels : shape().hidden;
  }
  // Where a layer's channels start in per-channel vectors.
  int64_t place(Layer layer) const {
    const int64_t expanded = shape().has_expand() ? shape().hidden : 0;
    return layer == kExpand ? 0 : layer == kDepthwise ? expanded : expanded + shape().hidden;
  }

  // Of `channels` channels of a layer, the first being `first`.
  NormParameters parameters(Layer layer, int64_t first, int64_t count, int64_t padded) const {
    NormParameters result{};
    result.scale = static_cast<const float*>(input_args->scale) + place(layer) + first;
    result.shift = static_cast<const float*>(input_args->shift) + place(layer) + first;
    result.eps = static_cast<float>(input_args->eps);
    result.channels = static_cast<int>(count);
    result.padded = static_cast<int>(padded);
    return result;
  }

  // Folds the statistics that are given for all layers.
  void fold_given(const float* mean, const float* var) const {
    for (const Layer layer : {kExpand, kDepthwise, kProject}) {
      if (layer == kExpand && !shape().has_expand()) continue;
      const int64_t padded = layer == kProject ? out_padded : hidden_padded;
      launch(fold_norm, grid_of(padded), dim3(kThreads), stream(),
             parameters(layer, 0, channels(layer), padded), mean + place(layer), var + place(layer),
             norms[layer]);
    }
  }

  // The expand layer of a chunk as the depthwise kernels read it.
  Expand<T> expand_of(int64_t first) const {
    Expand<T> result{};
    result.x = x;
    if (shape().has_expand()) {
      result.weight = {expand.data + first * expand.pitch, expand.pitch};
      result.slope = norms[kExpand].slope + first;
      result.offset = norms[kExpand].offset + first;
    }
    result.patch = static_cast<int>(x.pitch);
    result.channels = static_cast<int>(chunk_channels(first));
    result.height = static_cast<int>(shape().mid_height());
    result.width = static_cast<int>(shape().mid_width());
    result.tf32 = launch_args.tf32;
    return result;
  }

  const T* depthwise_of(int64_t first) const {
    return static_cast<const T*>(input_args->depthwise) + first * shape().kernel * shape().kernel;
  }

  // D of the chunk that starts at channel `first`.
  void run_depthwise(int64_t first, const Statistics& statistics) const {
    ExpandDepthwise<T> args{};
    args.expand = expand_of(first);
    args.depthwise = depthwise_of(first);
    args.d = d;
    args.pitch = chunk;
    args.statistics = statistics;
    args.out_height = static_cast<int>(shape().out_height());
    args.out_width = static_cast<int>(shape().out_width());
    args.tiles_y = static_cast<int>(tiles_y_);
    args.tiles_x = static_cast<int>(tiles_x_);
    launch_expand_depthwise(args, shape().kernel, shape().stride, shape().batch, stream());
  }

  int64_t chunk;          // a multiple of a group; the pitch of a chunk's tensors
  int64_t hidden_padded;  // whole chunks
  int64_t out_padded;     // whole units
  int64_t tiles;          // blocks of the depthwise kernel
  Norm norms[3];
  T* d;  // [N, Ho, Wo, chunk]
  Rows<T> x, expand;
  const MBConvInput* input_args = nullptr;
  Launch launch_args{};

 private:
  InputRows<T> input_;
  AlignedRows<T> expand_;
  int64_t tiles_y_, tiles_x_;
};

}  // namespace proxyless::cuda
