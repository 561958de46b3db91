// A ParallelFor on threads that live as long as one loop.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#include "kernels/mbconv.h"

namespace proxyless {

// Uses `count` threads, the caller's among them, or as many as the system gives. Thread is
// std::thread, but for tests.
template <class Thread>
class ThreadsOf {
 public:
  explicit ThreadsOf(int64_t count) : count_(count) {}

  // Valid as long as this object.
  ParallelFor parallel_for() { return {run, &count_}; }

 private:
  struct Joined {
    std::vector<Thread> threads;
    ~Joined() {
      for (Thread& thread : threads) thread.join();
    }
  };

  static void run(void* count, int64_t tasks, void (*body)(void* body_context, int64_t task),
                  void* body_context) {
    std::atomic<int64_t> next{0};
    const auto work = [&] {
      for (int64_t task = next++; task < tasks; task = next++) body(body_context, task);
    };
    const int64_t wanted = std::min(*static_cast<int64_t*>(count), tasks) - 1;
    Joined others;
    try {
      for (int64_t i = 0; i < wanted; ++i) others.threads.emplace_back(work);
    } catch (const std::system_error&) {
      // There are no more: those that were made, and this one, do all the work.
    }
    work();
  }

  int64_t count_;
};

using Threads = ThreadsOf<std::thread>;

}  // namespace proxyless
