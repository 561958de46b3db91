// Device memory: the shared memory of a block, and Buffers.
//
// Kernels' __shared__ variables are the only thread-local ones of the program. So they lie side by
// side, where the program's image says.
#pragma once

#include <cstddef>
#include <cstdint>

namespace proxyless::cuda::emulator {

// What the checker knows of two bytes of memory: no number that threads exchange is smaller. Times
// are the checker's.
struct Cell {
  std::uint32_t written_at, read_at;  // last, or 0
  std::uint32_t read_lanes;           // since the warp's last barrier, of warp `read_by_warp`
  std::uint16_t writer;               // thread of its block
  std::uint8_t read_by_warp;
  bool read_by_other_warps;   // since the block's last barrier
  bool read_by_other_blocks;  // since the launch
  bool arriving;              // an asynchronous copy has not been waited for
};

constexpr std::size_t kCellBytes = 2;

// Of adjacent memory. There are cells only if kernels are traced.
struct Region {
  unsigned char* data;
  std::size_t bytes;
  Cell* cells;
  bool shared;
  const char* name;

  std::size_t offset_of(const void* address) const {
    return static_cast<std::size_t>(static_cast<const unsigned char*>(address) - data);
  }
  bool contains(const void* address, std::size_t count) const {
    const std::size_t offset = offset_of(address);
    return offset <= bytes && count <= bytes - offset;
  }
};

const Region& shared_memory();

// The region of device memory that the address is in or next to, or null.
const Region* region_at(const void* address);

// Whether it belongs to the program's constants, which threads may read.
bool is_constant(const void* address);

// At the start of a block, so that nothing is left of the one before.
void fill_shared_memory();

// Throws an Error if anything was written next to a Buffer.
void check_red_zones();

}  // namespace proxyless::cuda::emulator
