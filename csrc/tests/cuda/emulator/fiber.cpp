#include "fiber.h"

#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <new>

// There only if the program's kernels are compiled for AddressSanitizer.
#pragma weak __sanitizer_start_switch_fiber
#pragma weak __sanitizer_finish_switch_fiber
#pragma weak __asan_unpoison_memory_region

namespace proxyless::cuda::emulator {
namespace {

constexpr std::size_t kGuardBytes = 4096;

// Who resumes fibers: the stack that the program began on.
struct Resumer {
  void* context[5];
  void* fake_stack;
  const void* stack_bottom;
  std::size_t stack_bytes;
} resumer;

Fiber* running = nullptr;

// What swapcontext does, without its system calls. The compiler wants the two halves in different
// functions.
[[noreturn, gnu::noinline]] void go_to(void** context) { __builtin_longjmp(context, 1); }
[[gnu::noinline]] void switch_between(void** from, void** to) {
  if (__builtin_setjmp(from) == 0) go_to(to);
}
[[gnu::noinline]] void switch_to_new(void** from, const ucontext_t& to) {
  if (__builtin_setjmp(from) == 0) setcontext(&to);
}

void before_switch(void** own_fake_stack, const void* bottom, std::size_t bytes) {
  if (__sanitizer_start_switch_fiber != nullptr) {
    __sanitizer_start_switch_fiber(own_fake_stack, bottom, bytes);
  }
}

void after_switch(void* own_fake_stack, const void** other_bottom, std::size_t* other_bytes) {
  if (__sanitizer_finish_switch_fiber != nullptr) {
    __sanitizer_finish_switch_fiber(own_fake_stack, other_bottom, other_bytes);
  }
}

}  // namespace

Fiber::Fiber(void (*body)()) : body_(body) {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kGuardBytes, PROT_NONE);
  stack_ = static_cast<char*>(memory) + kGuardBytes;
}

Fiber::~Fiber() {
  // Functions that were left in the middle have poisoned parts of it.
  if (__asan_unpoison_memory_region != nullptr) __asan_unpoison_memory_region(stack_, kStackBytes);
  munmap(stack_ - kGuardBytes, kGuardBytes + kStackBytes);
}

void Fiber::resume() {
  running = this;
  before_switch(&resumer.fake_stack, stack_, kStackBytes);
  if (started_) {
    switch_between(resumer.context, context_);
  } else {
    start();
  }
  after_switch(resumer.fake_stack, nullptr, nullptr);
  running = nullptr;
}

void Fiber::start() {
  started_ = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stack_;
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, reinterpret_cast<void (*)()>(enter), 0);
  switch_to_new(resumer.context, context);
}

void Fiber::enter() {
  after_switch(nullptr, &resumer.stack_bottom, &resumer.stack_bytes);
  for (;;) {
    running->body_();
    suspend();
  }
}

void Fiber::suspend() {
  Fiber* const self = running;
  before_switch(&self->fake_stack_, resumer.stack_bottom, resumer.stack_bytes);
  switch_between(self->context_, resumer.context);
  after_switch(self->fake_stack_, nullptr, nullptr);
}

}  // namespace proxyless::cuda::emulator
