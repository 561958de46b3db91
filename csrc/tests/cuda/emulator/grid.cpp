#include "grid.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "access_checker.h"
#include "memory.h"
#include "warp.h"

namespace proxyless::cuda::emulator {
namespace {

constexpr std::size_t kMessageBytes = 1024;

Order order = Order::kForward;
std::uint64_t random_state = 0;

struct Launch {
  dim3 grid, block;
  void (*kernel)(const void*);
  const void* arguments;
  uint3 block_index;
} running;

std::vector<std::unique_ptr<Thread>> threads;  // of the running block
std::vector<std::unique_ptr<Thread>> spare;    // of larger ones, since stacks are dear
Thread* current = nullptr;
// Of the first mistake, or empty. A fiber must not allocate it.
char message[kMessageBytes];

void run_thread() {
  running.kernel(running.arguments);
  if (current->copies.any()) fail("returned before its asynchronous copies had arrived");
  current->state = State::kFinished;
}

// Threads that were left in the middle cannot be used again.
[[noreturn]] void throw_error(const std::string& what) {
  threads.clear();
  message[0] = '\0';
  throw Error(what);
}

std::string block_name() {
  const uint3 block = running.block_index;
  return "block (" + std::to_string(block.x) + ", " + std::to_string(block.y) + ", " +
         std::to_string(block.z) + ")";
}

std::string name_of(const Place& place) {
  return std::string(place.file) + ":" + std::to_string(place.line);
}

bool is_same(const Place& a, const Place& b) {
  return a.line == b.line && std::string(a.file) == b.file;
}

template <class Item>
void put_in_order(std::vector<Item>& items) {
  if (order == Order::kReverse) std::reverse(items.begin(), items.end());
  if (order != Order::kRandom) return;
  for (std::size_t left = items.size(); left > 1; --left) {
    std::swap(items[left - 1], items[random_bits() % left]);
  }
}

void check_configuration(dim3 grid, dim3 block) {
  constexpr unsigned kMaxThreads = 1024, kMaxBlockZ = 64, kMaxGridX = 0x7fffffff,
                     kMaxGridYZ = 0xffff;
  const std::uint64_t block_threads = std::uint64_t{block.x} * block.y * block.z;
  if (block_threads == 0 || block_threads > kMaxThreads || block.z > kMaxBlockZ) {
    throw Error("a block must have 1 to 1024 threads, at most 64 of them in z");
  }
  if (grid.x > kMaxGridX || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ) {
    throw Error("a grid must have less than 2^31 blocks in x and 2^16 in y and z");
  }
}

void move_last(std::vector<std::unique_ptr<Thread>>& from,
               std::vector<std::unique_ptr<Thread>>& to) {
  to.push_back(std::move(from.back()));
  from.pop_back();
}

void start_threads() {
  const dim3 block = running.block;
  const std::size_t count = std::size_t{block.x} * block.y * block.z;
  while (threads.size() > count) move_last(threads, spare);
  while (threads.size() < count && !spare.empty()) move_last(spare, threads);
  while (threads.size() < count) threads.push_back(std::make_unique<Thread>(run_thread));
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = *threads[i];
    thread.state = State::kReady;
    thread.index = {i % block.x, i / block.x % block.y, i / block.x / block.y};
    thread.number = static_cast<int>(i);
    thread.warp = thread.number / kWarpThreads;
    thread.lane = thread.number % kWarpThreads;
  }
  start_warps(static_cast<int>((count + kWarpThreads - 1) / kWarpThreads));
}

// Runs each of them until it waits or has finished.
void run(const std::vector<Thread*>& ready) {
  for (Thread* thread : ready) {
    current = thread;
    thread->fiber.resume();
    current = nullptr;
    if (message[0] != '\0') throw_error(message);
  }
}

std::vector<Thread*> threads_in(State state) {
  std::vector<Thread*> result;
  for (const auto& thread : threads) {
    if (thread->state == state) result.push_back(thread.get());
  }
  return result;
}

// When no thread can go on: lets all of them leave their barrier. Returns whether any is left.
bool release_barrier() {
  const std::vector<Thread*> in_collective = threads_in(State::kInCollective);
  if (!in_collective.empty()) {
    throw_error(block_name() + ": deadlock, since some lanes never come to the collective at " +
                name_of(in_collective[0]->place));
  }
  const std::vector<Thread*> at_barrier = threads_in(State::kAtBarrier);
  if (at_barrier.empty()) return false;
  const Place& place = at_barrier[0]->place;
  if (at_barrier.size() != threads.size()) {
    throw_error(block_name() + ": divergent barrier, " + std::to_string(at_barrier.size()) +
                " threads of " + std::to_string(threads.size()) + " come to the one at " +
                name_of(place) + " and the others have returned");
  }
  for (Thread* thread : at_barrier) {
    if (!is_same(thread->place, place)) {
      throw_error(block_name() + ": divergent barrier, some threads wait at " + name_of(place) +
                  " and others at " + name_of(thread->place));
    }
    thread->state = State::kReady;
  }
  note_barrier();
  return true;
}

void run_block() {
  fill_shared_memory();
  note_block();
  start_threads();
  do {
    for (;;) {
      std::vector<Thread*> ready = threads_in(State::kReady);
      if (ready.empty()) break;
      put_in_order(ready);
      run(ready);
    }
  } while (release_barrier());
}

}  // namespace

void set_order(Order new_order, unsigned seed) {
  order = new_order;
  random_state = seed;
}

std::uint32_t random_bits() {
  // SplitMix64.
  random_state += 0x9e3779b97f4a7c15u;
  std::uint64_t bits = random_state;
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
  return static_cast<std::uint32_t>(bits >> 32);
}

void run_grid(dim3 grid, dim3 block, void (*kernel)(const void*), const void* arguments) {
  check_configuration(grid, block);
  running = {grid, block, kernel, arguments, {}};
  note_launch();
  std::vector<std::uint64_t> blocks(std::uint64_t{grid.x} * grid.y * grid.z);
  std::iota(blocks.begin(), blocks.end(), std::uint64_t{0});
  put_in_order(blocks);
  for (const std::uint64_t number : blocks) {
    running.block_index = {static_cast<unsigned>(number % grid.x),
                           static_cast<unsigned>(number / grid.x % grid.y),
                           static_cast<unsigned>(number / grid.x / grid.y)};
    run_block();
  }
  check_red_zones();
}

Thread* current_thread() { return current; }
uint3 thread_index() { return current->index; }
uint3 block_index() { return running.block_index; }
dim3 block_size() { return running.block; }
dim3 grid_size() { return running.grid; }
int lane() { return current->lane; }

void wait(State state, Place place) {
  current->state = state;
  current->place = place;
  Fiber::suspend();
}

void wake(int warp, const void* collective) {
  const std::size_t first = static_cast<std::size_t>(warp) * kWarpThreads;
  for (std::size_t i = first; i < std::min(first + kWarpThreads, threads.size()); ++i) {
    Thread& thread = *threads[i];
    if (thread.state == State::kInCollective && thread.collective == collective) {
      thread.state = State::kReady;
    }
  }
}

void wait_for_block(Place place) { wait(State::kAtBarrier, place); }

// Nothing may be thrown through a kernel, which may be compiled in any way.
void fail(const char* format, ...) {
  const uint3 block = running.block_index, thread = current->index;
  const int prefix =
      std::snprintf(message, kMessageBytes, "block (%u, %u, %u), thread (%u, %u, %u): ", block.x,
                    block.y, block.z, thread.x, thread.y, thread.z);
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message + prefix, kMessageBytes - static_cast<std::size_t>(prefix), format,
                 arguments);
  va_end(arguments);
  for (;;) Fiber::suspend();
}

}  // namespace proxyless::cuda::emulator
