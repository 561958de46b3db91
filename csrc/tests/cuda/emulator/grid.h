// The threads of the block that runs.
#pragma once

#include <cstdint>

#include "async_copies.h"
#include "emulator.h"
#include "fiber.h"
#include "runtime.h"

namespace proxyless::cuda::emulator {

enum class State { kReady, kAtBarrier, kInCollective, kFinished };

struct Thread {
  explicit Thread(void (*body)()) : fiber(body) {}

  Fiber fiber;
  State state = State::kReady;
  Place place{};                     // where it waits
  const void* collective = nullptr;  // which it waits for
  AsyncCopies copies;
  uint3 index{};
  int number = 0, warp = 0, lane = 0;  // in the block
};

// Null while the host runs.
Thread* current_thread();

// Lets others run until somebody makes the current thread ready.
void wait(State state, Place place);

// Makes the warp's threads that wait for a collective ready.
void wake(int warp, const void* collective);

// Of a sequence that the seed decides.
std::uint32_t random_bits();

}  // namespace proxyless::cuda::emulator
