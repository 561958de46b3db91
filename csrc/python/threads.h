// A ParallelFor on threads that live as long as one loop.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "kernels/mbconv.h"

namespace proxyless {

class Threads {
 public:
  explicit Threads(int64_t count) : count_(count) {}

  // Valid as long as this object.
  ParallelFor parallel_for() { return {run, &count_}; }

 private:
  static void run(void* count, int64_t tasks, void (*body)(void* body_context, int64_t task),
                  void* body_context) {
    std::atomic<int64_t> next{0};
    const auto work = [&] {
      for (int64_t task = next++; task < tasks; task = next++) body(body_context, task);
    };
    std::vector<std::thread> others;
    for (int64_t i = 1; i < *static_cast<int64_t*>(count) && i < tasks; ++i) {
      others.emplace_back(work);
    }
    work();
    for (std::thread& other : others) other.join();
  }

  int64_t count_;
};

}  // namespace proxyless
