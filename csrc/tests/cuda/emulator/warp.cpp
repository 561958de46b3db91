#include "warp.h"

#include <cstring>
#include <deque>
#include <vector>

#include "access_checker.h"
#include "grid.h"

namespace proxyless::cuda::emulator {
namespace {

constexpr unsigned kAllLanes = 0xffffffffu;

// The meetings of the lanes of a mask.
struct Collective {
  explicit Collective(unsigned its_mask) : mask(its_mask) {}

  unsigned mask;
  unsigned arrived = 0;  // at the one that comes next
  const char* operation = nullptr;
  Place place{};
  // A lane may come to a meeting while others still have to read the results of the one before.
  Lanes lanes[2];
  int meeting = 0;
};

using Warp = std::deque<Collective>;
std::vector<Warp> warps;  // of the running block

Collective& collective_of(Warp& warp, unsigned mask) {
  for (Collective& collective : warp) {
    if (collective.mask == mask) return collective;
  }
  return warp.emplace_back(mask);
}

}  // namespace

void start_warps(int count) {
  warps.resize(static_cast<std::size_t>(count));
  for (Warp& warp : warps) {
    for (Collective& collective : warp) collective.arrived = 0;
  }
}

const Lanes& meet(unsigned mask, const char* operation, Place place, const void* value,
                  std::size_t bytes, void (*complete)(Lanes&)) {
  Thread& thread = *current_thread();
  const unsigned own = 1u << thread.lane;
  if ((mask & own) == 0) {
    fail("lane %d calls %s at %s:%d with mask %08x, which lacks it", thread.lane, operation,
         place.file, place.line, mask);
  }
  Collective& collective = collective_of(warps[static_cast<std::size_t>(thread.warp)], mask);
  Lanes& lanes = collective.lanes[collective.meeting];
  if (collective.arrived == 0) {
    collective.operation = operation;
    collective.place = place;
  } else if (std::strcmp(collective.operation, operation) != 0 ||
             collective.place.line != place.line ||
             std::strcmp(collective.place.file, place.file) != 0) {
    fail("lane %d comes to %s at %s:%d while others of its warp wait in %s at %s:%d", thread.lane,
         operation, place.file, place.line, collective.operation, collective.place.file,
         collective.place.line);
  }
  std::memcpy(lanes.values[thread.lane], value, bytes);
  collective.arrived |= own;
  if (collective.arrived != mask) {
    thread.collective = &collective;
    wait(State::kInCollective, place);
    return lanes;
  }
  if (complete != nullptr) complete(lanes);
  collective.arrived = 0;
  collective.meeting ^= 1;
  wake(thread.warp, &collective);
  wait(State::kReady, place);  // the last to come has no head start
  return lanes;
}

void wait_for_warp(unsigned mask, Place place) {
  // The race checker remembers barriers of whole warps only.
  const auto note = [](Lanes&) { note_warp_barrier(current_thread()->warp); };
  meet(mask, "__syncwarp", place, "", 0, mask == kAllLanes ? +note : nullptr);
}

unsigned long long shuffle(unsigned mask, const char* operation, Place place,
                           unsigned long long value, int from, int first, int last) {
  const Lanes& lanes = meet(mask, operation, place, &value, sizeof(value));
  if (from < first || from > last) return value;
  if ((mask >> from & 1) == 0) {
    fail("%s at %s:%d reads lane %d, which mask %08x lacks", operation, place.file, place.line,
         from, mask);
  }
  std::memcpy(&value, lanes.values[from], sizeof(value));
  return value;
}

unsigned ballot(unsigned mask, bool predicate, Place place) {
  const Lanes& lanes = meet(mask, "__ballot_sync", place, &predicate, 1);
  unsigned result = 0;
  for (int i = 0; i < kWarpThreads; ++i) {
    if ((mask >> i & 1) != 0 && lanes.values[i][0] != 0) result |= 1u << i;
  }
  return result;
}

}  // namespace proxyless::cuda::emulator
