// Backward: everything between X, P and statistics is made again, a chunk of channels at a time.
#pragma once

#include "kernels/cuda/block.cuh"

namespace proxyless::cuda {

template <class T>
class Backward {
 public:
  Backward(Arena& arena, const MBConvShape& shape, const Device& device)
      : block_(arena, shape, backward_chunk(shape, sizeof(T), device)),
        device_(device),
        grad_(arena, shape.out_pixels(), shape.out_channels),
        p_(arena, shape.out_pixels(), shape.out_channels),
        project_norm_(arena, block_.out_padded),
        depthwise_norm_(arena, block_.hidden_padded),
        dp_(arena.take<T>(shape.out_pixels() * block_.out_padded)),
        project_transposed_(arena.take<T>(shape.hidden * block_.out_padded)),
        dz_(arena.take<T>(shape.out_pixels() * block_.chunk)),
        dmid_(arena.take<T>(shape.mid_pixels() * block_.chunk)) {
    const MBConvShape& s = shape;
    const int64_t taps = s.kernel * s.kernel;
    blocks_ = ceil_div(s.out_pixels(), kTilePixels);
    const TileSize tile = mid_tile(s.stride);
    mid_tiles_y_ = ceil_div(s.mid_height(), tile.rows);
    mid_tiles_x_ = ceil_div(s.mid_width(), tile.columns);
    mid_tiles_ = s.batch * mid_tiles_y_ * mid_tiles_x_;
    tiles_per_slice_ = ceil_div(mid_tiles_, pixel_slices(mid_tiles_ * tile.rows * tile.columns,
                                                         block_.chunk / kGroup<T>, device));
    mid_slices_ = ceil_div(mid_tiles_, tiles_per_slice_);
    sum_slices_ = pixel_slices(s.out_pixels(), 1, device);
    project_slices_ = pixel_slices(
        s.out_pixels(),
        ceil_div(block_.out_padded, kOuterTile) * ceil_div(block_.chunk, kOuterTile), device);

    column_sums_ = arena.take<float>(sum_slices_ * 2 * block_.out_padded);
    dz_sums_ = arena.take<float>(blocks_ * 2 * block_.chunk);
    tap_sums_ = arena.take<float>(mid_slices_ * taps * block_.chunk);
    project_sums_ = arena.take<float>(project_slices_ * block_.out_padded * block_.chunk);
    if (s.has_expand()) take_expand(arena, s);
  }

  void run(const MBConvBackward& args, const Launch& how) {
    args_ = &args;
    how_ = how;
    block_.load(args.input, how);
    block_.fold_given(static_cast<const float*>(args.mean), static_cast<const float*>(args.var));
    grad_rows_ = grad_.load(args.grad.data, how.stream);
    norm_of_project();
    transpose_project();
    if (shape().has_expand()) transpose_expand();
    for (int64_t first = 0; first < shape().hidden; first += block_.chunk) {
      block_.run_depthwise(first, Statistics{});
      project(first);
      depthwise(first);
      if (shape().has_expand()) expand(first);
    }
    if (args.dx != nullptr && (!shape().has_expand() || InputRows<T>::unfolds(shape()))) input();
  }

 private:
  // What a BatchNorm's backward needs beside its folded form, [padded channels].
  struct OfNorm {
    OfNorm(Arena& arena, int64_t padded)
        : of_value(arena.take<float>(padded)), constant(arena.take<float>(padded)) {}

    float *of_value, *constant;
  };

  void take_expand(Arena& arena, const MBConvShape& s) {
    patch_padded_ = round_up(s.patch(), kUnit<T>);
    running_pitch_ = round_up(s.patch(), 8);
    expand_slices_ = pixel_slices(
        s.mid_pixels(), ceil_div(block_.chunk, kOuterTile) * ceil_div(patch_padded_, kOuterTile),
        device_);
    expand_of_value_ = arena.take<float>(block_.hidden_padded);
    expand_constant_ = arena.take<float>(block_.hidden_padded);
    expand_sums_ = arena.take<float>(expand_slices_ * block_.chunk * patch_padded_);
    dmid_sums_ = arena.take<float>(expand_slices_ * block_.chunk);
    expand_products_ = arena.take<float>(block_.chunk * patch_padded_);
    dmid_total_ = arena.take<float>(block_.chunk);
    expand_transposed_ = arena.take<T>(s.patch() * block_.hidden_padded);
    input_matrix_ = arena.take<T>(s.patch() * patch_padded_);
    input_constant_ = arena.take<float>(patch_padded_);
    if (block_.chunk < s.hidden) running_ = arena.take<float>(s.mid_pixels() * running_pitch_);
    if (InputRows<T>::unfolds(s)) dpatches_ = arena.take<T>(s.mid_pixels() * s.patch());
  }

  using B = ExpandedLayers<T>;

  const MBConvShape& shape() const { return args_->input.shape; }
  bool batch_statistics() const { return args_->input.batch_statistics; }
  bool weight_grads() const { return args_->dproject != nullptr; }

  // Where a layer's gradients start in per-channel vectors; null if they are not wanted.
  float* vector_place(void* vector, typename B::Layer layer, int64_t first) const {
    return vector == nullptr ? nullptr : static_cast<float*>(vector) + block_.place(layer) + first;
  }

  NormGradients gradients_of(typename B::Layer layer, int64_t first, const OfNorm& norm) const {
    NormGradients result{};
    result.dscale = vector_place(args_->dscale, layer, first);
    result.dshift = vector_place(args_->dshift, layer, first);
    if (batch_statistics()) {
      result.of_value = norm.of_value + first;
      result.constant = norm.constant + first;
    }
    result.count = static_cast<double>(shape().out_pixels());
    return result;
  }

  // From dL/dy to dL/dP.
  void norm_of_project() {
    const Norm& norm = block_.norms[B::kProject];
    const int64_t pixels = shape().out_pixels(), padded = block_.out_padded;
    const Rows<T> p = p_.load(args_->p, how_.stream);
    ColumnSums<T> sums{};
    sums.values = grad_rows_;
    sums.x = p;
    sums.norm = norm;
    sums.sums = column_sums_;
    sums.pitch = padded;
    sums.pixels = pixels;
    launch_column_sums(sums, sum_slices_, how_.stream);
    launch(combine_sums, grid_of(padded, kCombineChannels), dim3(kCombineThreads), how_.stream,
           column_sums_, padded, sum_slices_, norm, static_cast<int>(shape().out_channels),
           static_cast<int>(padded), gradients_of(B::kProject, 0, project_norm_));

    BackwardOfNormalise<T> last{};
    last.grad = grad_rows_;
    last.p = p;
    last.slope = norm.slope;
    if (batch_statistics()) {
      last.of_value = project_norm_.of_value;
      last.constant = project_norm_.constant;
    }
    last.dp = dp_;
    last.units = static_cast<int>(padded / kUnit<T>);
    last.pixels = pixels;
    launch(normalise_backward<T>, grid_of(pixels * last.units), dim3(kThreads), how_.stream, last);
  }

  // Both weights as products with gradients read them.
  void transpose_project() const {
    Arrange<T> args{};
    args.matrix = static_cast<const T*>(args_->input.project);
    args.row_stride = 1;
    args.column_stride = shape().hidden;
    args.to = project_transposed_;
    args.pitch = block_.out_padded;
    args.rows = shape().hidden;
    args.columns = static_cast<int>(shape().out_channels);
    launch(arrange<T>, grid_of(args.rows * args.pitch), dim3(kThreads), how_.stream, args);
  }

  void transpose_expand() const {
    Arrange<T> args{};
    args.matrix = static_cast<const T*>(args_->input.expand);
    args.row_stride = 1;
    args.column_stride = shape().patch();
    args.factors = block_.norms[B::kExpand].slope;
    args.to = expand_transposed_;
    args.pitch = block_.hidden_padded;
    args.rows = shape().patch();
    args.columns = static_cast<int>(shape().hidden);
    launch(arrange<T>, grid_of(args.rows * args.pitch), dim3(kThreads), how_.stream, args);
  }

  // From dP to the gradient behind the depthwise layer's BatchNorm, of the chunk from `first` on.
  void project(int64_t first) const {
    const MBConvShape& s = shape();
    const int channels = static_cast<int>(block_.chunk_channels(first));
    const Norm norm = norm_from(block_.norms[B::kDepthwise], first);
    PointwiseProduct<T> product{};
    product.first.rows = {dp_, block_.out_padded};
    product.first.weight = {project_transposed_ + first * block_.out_padded, block_.out_padded};
    product.first.depth = static_cast<int>(block_.out_padded);
    product.pixels = s.out_pixels();
    product.columns = channels;
    product.tf32 = how_.tf32;
    ProjectBackward<T> out{};
    out.d = {block_.d, block_.chunk};
    out.slope = norm.slope;
    out.offset = norm.offset;
    out.mean = norm.mean;
    out.inv_std = norm.inv_std;
    out.dz = dz_;
    out.pitch = block_.chunk;
    out.sums = dz_sums_;
    launch_pointwise(product, out, how_.stream);
    launch(combine_sums, grid_of(block_.chunk, kCombineChannels), dim3(kCombineThreads),
           how_.stream, dz_sums_, block_.chunk, blocks_, norm, channels,
           static_cast<int>(block_.chunk), gradients_of(B::kDepthwise, first, depthwise_norm_));
    if (!weight_grads()) return;

    PixelProducts<T> weights{};
    weights.a = {dp_, block_.out_padded};
    weights.b = {block_.d, block_.chunk};
    weights.slope = norm.slope;
    weights.offset = norm.offset;
    weights.sums = project_sums_;
    weights.pixels = s.out_pixels();
    weights.slice_pixels = ceil_div(s.out_pixels(), project_slices_);
    weights.rows = static_cast<int>(block_.out_padded);
    weights.columns = static_cast<int>(round_up(channels, kUnit<T>));
    weights.pitch = static_cast<int>(block_.chunk);
    weights.tf32 = how_.tf32;
    launch_pixel_products<T, Factors::kActivated>(weights, project_slices_, how_.stream);
    add_slices(
        slices(project_sums_, block_.out_padded * block_.chunk, block_.chunk, project_slices_),
        s.out_channels, channels, static_cast<T*>(args_->dproject) + first, s.hidden, 1);
  }

  // From there to the gradient behind the expand layer's BatchNorm.
  void depthwise(int64_t first) const {
    const MBConvShape& s = shape();
    DepthwiseBackward<T> args{};
    args.expand = block_.expand_of(first);
    args.depthwise = block_.depthwise_of(first);
    args.d = {block_.d, block_.chunk};
    args.dz = {dz_, block_.chunk};
    args.norm = {block_.norms[B::kDepthwise].slope + first, depthwise_norm_.of_value + first,
                 depthwise_norm_.constant + first, batch_statistics()};
    args.dmid = dmid_;
    args.pitch = block_.chunk;
    args.tap_sums = weight_grads() ? tap_sums_ : nullptr;
    args.out_height = static_cast<int>(s.out_height());
    args.out_width = static_cast<int>(s.out_width());
    args.tiles = mid_tiles_;
    args.tiles_y = static_cast<int>(mid_tiles_y_);
    args.tiles_x = static_cast<int>(mid_tiles_x_);
    args.tiles_per_slice = static_cast<int>(tiles_per_slice_);
    launch_depthwise_backward(args, s.kernel, s.stride, mid_slices_, how_.stream);
    if (!weight_grads()) return;
    const int64_t taps = s.kernel * s.kernel;
    add_slices(slices(tap_sums_, taps * block_.chunk, block_.chunk, mid_slices_), taps,
               block_.chunk_channels(first), static_cast<T*>(args_->ddepthwise) + first * taps, 1,
               taps);
  }

  // From there to the expand layer's gradients, and to what the chunk adds to dL/dX.
  void expand(int64_t first) const {
    const MBConvShape& s = shape();
    const int64_t channels = block_.chunk_channels(first);
    const bool last = first + block_.chunk >= s.hidden;
    if (weight_grads() || batch_statistics()) expand_gradients_of(first, channels);
    if (args_->dx == nullptr) return;

    PointwiseProduct<T> product{};
    product.first.rows = {dmid_, block_.chunk};
    product.first.weight = {expand_transposed_ + first, block_.hidden_padded};
    product.first.depth = static_cast<int>(round_up(channels, kUnit<T>));
    product.pixels = s.mid_pixels();
    product.columns = static_cast<int>(s.patch());
    product.tf32 = how_.tf32;
    ExpandBackward<T> out{};
    out.running = {running_, running_pitch_, first == 0, last};
    out.dx = {dpatches_ != nullptr ? dpatches_ : static_cast<T*>(args_->dx), product.columns};
    if (last && dpatches_ == nullptr && args_->residual) out.grad = grad_rows_;
    if (last && batch_statistics()) {
      make_input_matrix();
      product.second.rows = block_.x;
      product.second.weight = {input_matrix_, patch_padded_};
      product.second.depth = static_cast<int>(patch_padded_);
      out.constant = input_constant_;
    }
    launch_pointwise(product, out, how_.stream);
  }

  void expand_gradients_of(int64_t first, int64_t channels) const {
    const MBConvShape& s = shape();
    const int64_t rows = round_up(channels, kUnit<T>);
    PixelProducts<T> products{};
    products.a = {dmid_, block_.chunk};
    products.b = block_.x;
    products.sums = expand_sums_;
    products.row_sums = dmid_sums_;
    products.pixels = s.mid_pixels();
    products.slice_pixels = ceil_div(s.mid_pixels(), expand_slices_);
    products.rows = static_cast<int>(rows);
    products.columns = static_cast<int>(patch_padded_);
    products.pitch = static_cast<int>(patch_padded_);
    products.tf32 = how_.tf32;
    launch_pixel_products<T, Factors::kPlain>(products, expand_slices_, how_.stream);
    add_slices(slices(expand_sums_, rows * patch_padded_, patch_padded_, expand_slices_), channels,
               patch_padded_, expand_products_, patch_padded_, 1);
    add_slices(slices(dmid_sums_, rows, rows, expand_slices_), 1, channels, dmid_total_, 0, 1);

    ExpandGradients<T> args{};
    args.weight = {block_.expand.data + first * block_.expand.pitch, block_.expand.pitch};
    args.moments = moments();
    args.norm = norm_from(block_.norms[B::kExpand], first);
    args.products = expand_products_;
    args.pitch = static_cast<int>(patch_padded_);
    args.dmid_sums = dmid_total_;
    args.channels = static_cast<int>(channels);
    args.count = static_cast<double>(s.mid_pixels());
    args.batch_statistics = batch_statistics();
    args.dscale = vector_place(args_->dscale, B::kExpand, first);
    args.dshift = vector_place(args_->dshift, B::kExpand, first);
    if (weight_grads()) args.dweight = static_cast<T*>(args_->dexpand) + first * s.patch();
    args.of_value = expand_of_value_ + first;
    args.constant = expand_constant_ + first;
    launch(expand_gradients<T>, grid_of(channels, kRowsAtOnce), dim3(kThreads), how_.stream, args);
  }

  void make_input_matrix() const {
    InputMatrix<T> args{};
    args.weight = block_.expand;
    args.moments = moments();
    args.of_value = expand_of_value_;
    args.constants = expand_constant_;
    args.hidden = static_cast<int>(shape().hidden);
    args.matrix = input_matrix_;
    args.pitch = static_cast<int>(patch_padded_);
    args.constant = input_constant_;
    launch(input_matrix<T>, dim3(static_cast<unsigned>(patch_padded_)), dim3(kThreads), how_.stream,
           args);
  }

  // dL/dX from the patches' gradients, or, without an expand layer, from the depthwise layer's.
  void input() const {
    const MBConvShape& s = shape();
    Fold<T> args{};
    args.rows = s.has_expand() ? Rows<T>{dpatches_, s.patch()} : Rows<T>{dmid_, block_.chunk};
    if (args_->residual) args.grad = grad_rows_;
    args.dx = static_cast<T*>(args_->dx);
    args.elements = s.batch * s.height * s.width * s.in_channels;
    args.channels = static_cast<int>(s.in_channels);
    args.height = static_cast<int>(s.height);
    args.width = static_cast<int>(s.width);
    args.kernel = s.has_expand() ? static_cast<int>(s.expand_kernel) : 1;
    args.stride = s.has_expand() ? static_cast<int>(s.expand_stride) : 1;
    args.out_height = static_cast<int>(s.mid_height());
    args.out_width = static_cast<int>(s.mid_width());
    launch(fold<T>, grid_of(args.elements), dim3(kThreads), how_.stream, args);
  }

  Moments moments() const { return {args_->moments, static_cast<int>(shape().patch())}; }

  static Slices slices(const float* sums, int64_t slice_pitch, int64_t pitch, int64_t count) {
    return {sums, slice_pitch, pitch, static_cast<int>(count)};
  }

  template <class U>
  void add_slices(const Slices& from, int64_t rows, int64_t columns, U* to, int64_t row_stride,
                  int64_t column_stride) const {
    SumSlices<U> args{from,       static_cast<int>(rows), static_cast<int>(columns), to,
                      row_stride, column_stride};
    launch(sum_slices<U>, grid_of(rows * columns), dim3(kThreads), how_.stream, args);
  }

  const MBConvBackward* args_ = nullptr;
  Launch how_{};
  ExpandedLayers<T> block_;
  Device device_;
  AlignedRows<T> grad_, p_;
  Rows<T> grad_rows_{};
  OfNorm project_norm_, depthwise_norm_;
  T* dp_;                  // [N, Ho, Wo, O padded]
  T* project_transposed_;  // [hidden, O padded]
  T* dz_;                  // [N, Ho, Wo, chunk], dL/dbn(D)
  T* dmid_;                // [N, Hm, Wm, chunk], dL/dbn(E), or dL/dX without an expand layer

  int64_t blocks_;                                 // of the project product
  int64_t mid_tiles_, mid_tiles_y_, mid_tiles_x_;  // of all pictures, of one
  int64_t tiles_per_slice_, mid_slices_;           // of the depthwise backward
  int64_t sum_slices_, project_slices_;
  float* column_sums_;   // [sum_slices_, 2, O padded]
  float* dz_sums_;       // [blocks_, 2, chunk]
  float* tap_sums_;      // [mid_slices_, k k, chunk]
  float* project_sums_;  // [project_slices_, O padded, chunk]

  // With an expand layer only. K = patch.
  int64_t patch_padded_ = 0, running_pitch_ = 0, expand_slices_ = 0;
  float* expand_of_value_ = nullptr;  // [hidden padded]
  float* expand_constant_ = nullptr;  // [hidden padded]
  float* expand_sums_ = nullptr;      // [expand_slices_, chunk, K padded]
  float* dmid_sums_ = nullptr;        // [expand_slices_, chunk]
  float* expand_products_ = nullptr;  // [chunk, K padded], dZ1^T X
  float* dmid_total_ = nullptr;       // [chunk]
  T* expand_transposed_ = nullptr;    // [K, hidden padded], times the BatchNorm's slope
  T* input_matrix_ = nullptr;         // [K, K padded]
  float* input_constant_ = nullptr;   // [K padded]
  float* running_ = nullptr;          // [N, Hm, Wm, running_pitch_]
  T* dpatches_ = nullptr;             // [N, Hm, Wm, K]
};

}  // namespace proxyless::cuda
