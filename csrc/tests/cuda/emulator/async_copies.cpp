#include "async_copies.h"

#include <cstring>

#include "access_checker.h"
#include "grid.h"

namespace proxyless::cuda::emulator {
namespace {

void copy(void* to, const void* from) {
  if (from != nullptr) {
    std::memcpy(to, from, AsyncCopies::kBytes);
  } else {
    std::memset(to, 0, AsyncCopies::kBytes);
  }
}

}  // namespace

void AsyncCopies::start(void* to, const void* from, const void* caller) {
  if (from != nullptr) note_access(Access::kRead, from, kBytes, caller);
  note_access(Access::kAsyncStart, to, kBytes, caller);
  const bool arrives = random_bits() % 2 == 0;
  if (arrives) copy(to, from);
  copies_.push_back({to, from, groups_, arrives});
}

void AsyncCopies::wait(int pending, const void* caller) {
  std::size_t done = 0;
  for (; done < copies_.size() && copies_[done].group < groups_ - pending; ++done) {
    const Copy& it = copies_[done];
    if (it.from != nullptr) note_access(Access::kRead, it.from, kBytes, caller);
    note_access(Access::kAsyncArrival, it.to, kBytes, caller);
    if (!it.arrived) copy(it.to, it.from);
  }
  copies_.erase(copies_.begin(), copies_.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace proxyless::cuda::emulator
