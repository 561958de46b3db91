// Finds data races, accesses outside device memory, and reads of what nobody has written.
//
// Every access of a traced thread is compared with what is remembered of the accesses before, by
// which barriers lie between them: so a race is found in any order of the threads, even in one that
// gives the right result.
#pragma once

#include <cstddef>

#include "memory.h"

namespace proxyless::cuda::emulator {

// Whether any of the program's code tells of its accesses, see tracing.cpp.
bool is_traced();
void start_tracing();

enum class Access {
  kRead,
  kWrite,
  kAsyncStart,    // may be written from now
  kAsyncArrival,  // to now
};

// Of the current thread. `caller` is an address in the kernel's code.
void note_access(Access access, const void* address, std::size_t bytes, const void* caller,
                 std::size_t alignment = 1);

void note_launch();
void note_block();
void note_barrier();
void note_warp_barrier(int warp);
void note_host_write(const Region& region);
void note_cleared(const Region& region);

}  // namespace proxyless::cuda::emulator
