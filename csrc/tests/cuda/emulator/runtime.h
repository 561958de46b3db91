// What compiled kernels call. Kernels may be traced by the race checker; none of this is.
#pragma once

#include <vector_types.h>

#include <cstddef>

namespace proxyless::cuda::emulator {

// A line of a kernel. As a default argument, here() is where the function was called.
struct Place {
  const char* file;
  int line;

  static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// --- The grid ---

// Runs kernel(arguments) in every thread of the grid. Throws an Error if a thread does something
// wrong.
void run_grid(dim3 grid, dim3 block, void (*kernel)(const void*), const void* arguments);

// By value, so that looking at them is no access to memory.
uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();
int lane();

// Reports a mistake of the running thread, and never goes on with it.
[[noreturn, gnu::format(printf, 1, 2)]] void fail(const char* format, ...);

void wait_for_block(Place place);

// --- Warps ---

constexpr int kWarpThreads = 32;
constexpr int kLaneBytes = 64;

// What each lane has brought to a collective, and then what it takes away.
struct Lanes {
  alignas(16) unsigned char values[kWarpThreads][kLaneBytes];
};

// Waits for all lanes of the mask, the last of which calls complete(), if there is one, on what
// they have brought. The result stays until the lane comes to its next collective but one.
const Lanes& meet(unsigned mask, const char* operation, Place place, const void* value,
                  std::size_t bytes, void (*complete)(Lanes&) = nullptr);

void wait_for_warp(unsigned mask, Place place);

// Returns lane `from`'s value, of up to 8 bytes, or the lane's own if that is none of the lanes
// `first` to `last`.
unsigned long long shuffle(unsigned mask, const char* operation, Place place,
                           unsigned long long value, int from, int first, int last);

unsigned ballot(unsigned mask, bool predicate, Place place);

}  // namespace proxyless::cuda::emulator
