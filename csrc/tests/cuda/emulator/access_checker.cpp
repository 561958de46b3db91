#include "access_checker.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>

#include "grid.h"

namespace proxyless::cuda::emulator {
namespace {

constexpr int kMaxWarps = 32;

bool traced = false;

// A time for everything that orders accesses.
using Time = std::uint32_t;
Time now = 1;
Time launch_start = 1, block_start = 1, barrier = 1;
Time warp_barriers[kMaxWarps];

// An access that is being checked.
struct Check {
  Access access;
  const void* address;
  std::size_t bytes;
  const void* caller;
  const Region* region;
  const Thread* thread;
};

const char* verb_of(Access access) {
  switch (access) {
    case Access::kRead:
      return "reads";
    case Access::kWrite:
      return "writes";
    default:
      return "copies asynchronously to";
  }
}

[[noreturn]] void report(const Check& check, const char* problem) {
  Dl_info image{};
  dladdr(check.caller, &image);
  // Of the call, which is before the address that it returns to.
  const auto offset = reinterpret_cast<std::uintptr_t>(check.caller) -
                      reinterpret_cast<std::uintptr_t>(image.dli_fbase) - 1;
  if (check.region == nullptr) {
    fail("%s %zu bytes at %p, %s (addr2line -Cipe %s %#zx)", verb_of(check.access), check.bytes,
         check.address, problem, image.dli_fname, offset);
  }
  fail("%s %zu bytes at offset %td of the %zu of %s, %s (addr2line -Cipe %s %#zx)",
       verb_of(check.access), check.bytes,
       static_cast<const unsigned char*>(check.address) - check.region->data, check.region->bytes,
       check.region->name, problem, image.dli_fname, offset);
}

// Whether what thread `number` did at a time in this launch comes before what happens now.
bool is_before_now(const Check& check, Time time, int number) {
  if (time < block_start) return check.region->shared;
  if (time < barrier || number == check.thread->number) return true;
  const int warp = check.thread->warp;
  return number / kWarpThreads == warp && time < warp_barriers[warp];
}

bool is_read_before_now(const Check& check, const Cell& cell) {
  const bool shared = check.region->shared;
  if (cell.read_at < launch_start) return true;
  if (!shared && (cell.read_by_other_blocks || cell.read_at < block_start)) return false;
  if (cell.read_at < barrier) return true;
  const int warp = check.thread->warp;
  if (cell.read_by_other_warps || cell.read_by_warp != warp) return false;
  return cell.read_at < warp_barriers[warp] || (cell.read_lanes & ~(1u << check.thread->lane)) == 0;
}

void check_cell(const Check& check, const Cell& cell) {
  if (check.access == Access::kAsyncArrival) return;  // nobody has come here since the start
  if (cell.arriving) report(check, "where an asynchronous copy may still arrive");
  const Time written_since = check.region->shared ? block_start : 1;
  if (check.access == Access::kRead && cell.written_at < written_since) {
    report(check, "which have not been written");
  }
  if (cell.written_at >= launch_start && !is_before_now(check, cell.written_at, cell.writer)) {
    report(check, cell.written_at < block_start ? "a race with a write of another block"
                                                : "a race with a write of another thread");
  }
  if (check.access != Access::kRead && !is_read_before_now(check, cell)) {
    report(check, cell.read_at < block_start || cell.read_by_other_blocks
                      ? "a race with a read of another block"
                      : "a race with a read of another thread");
  }
}

void remember_read(const Check& check, Cell& cell) {
  const int warp = check.thread->warp;
  if (cell.read_at < block_start) {
    cell.read_by_other_blocks = !check.region->shared && cell.read_at >= launch_start;
  }
  if (cell.read_at < barrier) {
    cell.read_by_other_warps = false;
    cell.read_lanes = 0;
  } else if (cell.read_by_warp != warp) {
    cell.read_by_other_warps = true;
    cell.read_lanes = 0;
  } else if (cell.read_at < warp_barriers[warp]) {
    cell.read_lanes = 0;
  }
  cell.read_at = now;
  cell.read_by_warp = static_cast<std::uint8_t>(warp);
  cell.read_lanes |= 1u << check.thread->lane;
}

void remember(const Check& check, Cell& cell) {
  switch (check.access) {
    case Access::kRead:
      remember_read(check, cell);
      break;
    case Access::kAsyncStart:
      cell.arriving = true;
      break;
    case Access::kAsyncArrival:
      cell.arriving = false;
      [[fallthrough]];
    case Access::kWrite:
      cell.written_at = now;
      cell.writer = static_cast<std::uint16_t>(check.thread->number);
  }
}

void write_at(const Region& region, Time time) {
  if (region.cells == nullptr) return;
  Cell cell{};
  cell.written_at = time;
  std::fill_n(region.cells, (region.bytes + kCellBytes - 1) / kCellBytes, cell);
}

}  // namespace

bool is_traced() { return traced; }
void start_tracing() { traced = true; }

void note_access(Access access, const void* address, std::size_t bytes, const void* caller,
                 std::size_t alignment) {
  const Thread* const thread = current_thread();
  if (!traced || thread == nullptr || thread->fiber.has_on_stack(address)) return;
  const Region* const region = region_at(address);
  const Check check{access, address, bytes, caller, region, thread};
  if (region == nullptr) {
    if (access == Access::kRead && is_constant(address)) return;
    report(check, "which is no device memory");
  }
  if (!region->contains(address, bytes)) report(check, "which is not all inside");
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0) report(check, "misaligned");
  Cell* const end = region->cells + (region->offset_of(address) + bytes - 1) / kCellBytes + 1;
  for (Cell* cell = region->cells + region->offset_of(address) / kCellBytes; cell < end; ++cell) {
    check_cell(check, *cell);
    remember(check, *cell);
  }
}

void note_launch() { launch_start = ++now; }
void note_block() {
  block_start = barrier = ++now;
  std::fill(std::begin(warp_barriers), std::end(warp_barriers), now);
}
void note_barrier() { barrier = ++now; }
void note_warp_barrier(int warp) { warp_barriers[warp] = ++now; }
void note_host_write(const Region& region) { write_at(region, now); }
void note_cleared(const Region& region) { write_at(region, 0); }

}  // namespace proxyless::cuda::emulator
