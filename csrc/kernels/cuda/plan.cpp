#include "kernels/cuda/plan.h"

#include <algorithm>
#include <limits>

namespace proxyless::cuda {
namespace {

// What the start of a kernel takes, as the bytes that memory moves in that time: about 4 us at
// 2 TB/s.
constexpr int64_t kLaunchBytes = 8 << 20;

// The chunks' tensors may take this many times the space of X and P, which are kept for backward.
constexpr int64_t kMaxBuffers = 10;

constexpr int64_t kMinSlicePixels = 256;
constexpr int64_t kBlocksPerMultiprocessor = 4;

// The tensors of a pass, as bytes.
struct Pass {
  int64_t chunk_channel;  // of the tensors that exist for a chunk at a time, per channel
  int64_t chunk_traffic;  // of reading and writing them, per channel
  int64_t again;          // read again for every chunk
  int64_t running;        // read and written again for every chunk but the first
  int64_t kernels;        // for each chunk
  int64_t kept;           // X and P
};

int64_t best_chunk(const Pass& pass, int64_t hidden, int64_t group, const Device& device) {
  // The rest of the cache is for what streams through it meanwhile.
  const auto in_cache = [&](int64_t bytes) { return bytes <= device.l2_bytes / 2; };
  int64_t best = group, fewest = std::numeric_limits<int64_t>::max();
  for (int64_t chunk = group; chunk < hidden + group; chunk += group) {
    const int64_t buffers = chunk * pass.chunk_channel;
    if (chunk > group && !in_cache(buffers) && buffers > kMaxBuffers * pass.kept) break;
    const int64_t chunks = ceil_div(hidden, chunk);
    int64_t bytes = chunks * pass.kernels * kLaunchBytes;
    if (!in_cache(buffers)) bytes += hidden * pass.chunk_traffic;
    if (!in_cache(pass.again + buffers)) bytes += (chunks - 1) * pass.again;
    if (!in_cache(pass.running + buffers)) bytes += (chunks - 1) * pass.running;
    if (bytes <= fewest) {
      fewest = bytes;
      best = chunk;
    }
  }
  return best;
}

int64_t kept_bytes(const MBConvShape& s, int64_t number_bytes) {
  return (s.mid_pixels() * s.patch() + s.out_pixels() * s.out_channels) * number_bytes;
}

}  // namespace

int64_t forward_chunk(const MBConvShape& s, int64_t number_bytes, const Device& device) {
  const int64_t group = kGroupBytes / number_bytes;
  if (!s.has_expand()) return round_up(s.hidden, group);
  Pass pass{};
  pass.chunk_channel = s.out_pixels() * number_bytes;
  pass.chunk_traffic = 2 * pass.chunk_channel;
  pass.again = s.mid_pixels() * s.patch() * number_bytes;
  pass.running = 2 * s.out_pixels() * s.out_channels * 4;
  pass.kernels = 3;
  pass.kept = kept_bytes(s, number_bytes);
  return best_chunk(pass, s.hidden, group, device);
}

int64_t backward_chunk(const MBConvShape& s, int64_t number_bytes, const Device& device) {
  const int64_t group = kGroupBytes / number_bytes;
  if (!s.has_expand()) return round_up(s.hidden, group);
  const int64_t out_channel = s.out_pixels() * number_bytes;
  const int64_t mid_channel = s.mid_pixels() * number_bytes;
  Pass pass{};
  pass.chunk_channel = 2 * out_channel + mid_channel;      // D and dZ2, dZ1
  pass.chunk_traffic = 6 * out_channel + 3 * mid_channel;  // D 4 times, dZ2 twice, dZ1 3 times
  pass.again = 3 * mid_channel * s.patch() + 2 * out_channel * s.out_channels;
  pass.running = 2 * s.mid_pixels() * s.patch() * 4;
  pass.kernels = 10;
  pass.kept = kept_bytes(s, number_bytes);
  return best_chunk(pass, s.hidden, group, device);
}

int64_t pixel_slices(int64_t pixels, int64_t blocks, const Device& device) {
  const int64_t wanted = ceil_div(kBlocksPerMultiprocessor * device.multiprocessors, blocks);
  return std::max<int64_t>(1, std::min(wanted, pixels / kMinSlicePixels));
}

}  // namespace proxyless::cuda
