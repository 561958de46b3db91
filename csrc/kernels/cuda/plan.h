// How a problem is cut up for a GPU of a given size.
#pragma once

#include "kernels/cuda/mbconv.h"

namespace proxyless::cuda {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return ceil_div(value, multiple) * multiple;
}

// Bytes of each pixel that a block of threads works on: a group of expanded channels.
constexpr int64_t kGroupBytes = 64;

// Expanded channels of a chunk, a multiple of a group: the width with which the fewest bytes go
// through the GPU's memory. Of a chunk that fits into the L2 cache D and the gradients cost
// nothing, but X and running sums pass once for every chunk.
int64_t forward_chunk(const MBConvShape& shape, int64_t number_bytes, const Device& device);
int64_t backward_chunk(const MBConvShape& shape, int64_t number_bytes, const Device& device);

// Parts that `pixels` are cut into when each part takes `blocks` blocks: enough for the GPU, but
// not of fewer than a few hundred pixels.
int64_t pixel_slices(int64_t pixels, int64_t blocks, const Device& device);

}  // namespace proxyless::cuda
