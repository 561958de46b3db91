// What the compiler calls at accesses to memory with -fsanitize=thread, instead of the functions of
// that sanitizer's library. Atomics are the host code's, and not checked.
#include <cstddef>

#include "access_checker.h"

namespace {

using proxyless::cuda::emulator::Access;

void note(Access access, const void* address, std::size_t bytes, const void* caller) {
  proxyless::cuda::emulator::note_access(access, address, bytes, caller);
}

void note_aligned(Access access, const void* address, std::size_t bytes, const void* caller) {
  proxyless::cuda::emulator::note_access(access, address, bytes, caller, bytes);
}

}  // namespace

extern "C" {

#define DEFINE_ACCESSES(bytes)                                                 \
  void __tsan_read##bytes(void* address) {                                     \
    note_aligned(Access::kRead, address, bytes, __builtin_return_address(0));  \
  }                                                                            \
  void __tsan_write##bytes(void* address) {                                    \
    note_aligned(Access::kWrite, address, bytes, __builtin_return_address(0)); \
  }                                                                            \
  void __tsan_unaligned_read##bytes(void* address) {                           \
    note(Access::kRead, address, bytes, __builtin_return_address(0));          \
  }                                                                            \
  void __tsan_unaligned_write##bytes(void* address) {                          \
    note(Access::kWrite, address, bytes, __builtin_return_address(0));         \
  }
DEFINE_ACCESSES(1)
DEFINE_ACCESSES(2)
DEFINE_ACCESSES(4)
DEFINE_ACCESSES(8)
DEFINE_ACCESSES(16)

void __tsan_read_range(void* address, std::size_t bytes) {
  note(Access::kRead, address, bytes, __builtin_return_address(0));
}
void __tsan_write_range(void* address, std::size_t bytes) {
  note(Access::kWrite, address, bytes, __builtin_return_address(0));
}

void __tsan_init() { proxyless::cuda::emulator::start_tracing(); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

unsigned char __tsan_atomic8_load(const volatile unsigned char* address, int) {
  return __atomic_load_n(address, __ATOMIC_SEQ_CST);
}
unsigned __tsan_atomic32_fetch_add(volatile unsigned* address, unsigned value, int) {
  return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}

}  // extern "C"
