// A loop runs every task once and then ends all its threads, however few the system gives.
#include "python/threads.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "expect.h"
#include "kernels/parallel.h"

namespace proxyless {
namespace {

using testing::Expectations;

// A thread of a system that gives `left` more.
class ScarceThread {
 public:
  template <class Work>
  explicit ScarceThread(Work work) : thread_(make(std::move(work))) {}

  void join() {
    thread_.join();
    ++joined;
  }

  static inline int left = 0, made = 0, joined = 0;

 private:
  template <class Work>
  static std::thread make(Work work) {
    if (left == 0) {
      throw std::system_error(std::make_error_code(std::errc::resource_unavailable_try_again));
    }
    --left;
    ++made;
    return std::thread(std::move(work));
  }

  std::thread thread_;
};

void test_loop(Expectations& expectations, int64_t count, int64_t tasks, int given) {
  ScarceThread::left = given;
  ScarceThread::made = ScarceThread::joined = 0;
  std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
  ThreadsOf<ScarceThread> threads(count);
  parallel_for(threads.parallel_for(), tasks,
               [&](int64_t task) { ++runs[static_cast<std::size_t>(task)]; });

  const auto expect = [&](bool holds, const std::string& what) {
    expectations.expect(holds, std::to_string(tasks) + " tasks on " + std::to_string(count) +
                                   " threads of which " + std::to_string(given) +
                                   " are given: " + what);
  };
  expect(std::all_of(runs.begin(), runs.end(), [](const auto& times) { return times == 1; }),
         "every task runs once");
  const int64_t useful = std::max<int64_t>(std::min(count, tasks) - 1, 0);
  expect(ScarceThread::made == std::min<int64_t>(given, useful), "as many threads as there can be");
  expect(ScarceThread::joined == ScarceThread::made, "no thread outlives the loop");
}

}  // namespace
}  // namespace proxyless

int main() {
  proxyless::testing::Expectations expectations;
  for (const int64_t count : {1, 2, 5}) {
    for (const int64_t tasks : {0, 1, 3, 1000}) {
      for (const int given : {0, 1, 2, 9}) proxyless::test_loop(expectations, count, tasks, given);
    }
  }
  return expectations.exit_code();
}
