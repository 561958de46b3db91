// Runs CUDA kernels on the CPU, for tests: what a test says to the emulator and hears from it.
//
// One thread of the operating system runs a grid's blocks one after another, and a block's threads
// in turns: each until it waits for others, in an order that the test chooses and that no result
// may depend on.
//
// Kernels are compiled in one of three ways, see CMakeLists.txt. All of them find divergent
// barriers, deadlocks, lanes that a warp's collective lacks, wrong addresses of cp.async and
// ldmatrix, copies that were not waited for, and writes next to a Buffer. Besides,
//   asan finds accesses outside a Buffer, misaligned ones, and undefined behaviour: it ends the
//     program;
//   race finds data races within a block and between blocks, accesses outside device memory,
//     misaligned ones, and reads of what nobody has written. It sees what the compiler tells
//     ThreadSanitizer, so not the insides of memcpy and memset where they are called as functions.
// None of them knows where one __shared__ variable ends and the next begins.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

namespace proxyless::cuda::emulator {

// What a kernel did wrong, thrown by launch().
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// In which order blocks run, and threads between two points where they wait.
enum class Order { kForward, kReverse, kRandom };

// For all launches from now on. The seed also decides when asynchronous copies arrive.
void set_order(Order order, unsigned seed);

// Global memory. It is filled with the byte 0xff, which makes NaN of every type, and kernels that
// read what neither they nor the test has written fail in a race build.
class Buffer {
 public:
  // `name` is for messages.
  explicit Buffer(std::size_t bytes, std::string name = "a buffer");
  Buffer(Buffer&& other) noexcept;
  ~Buffer();

  std::size_t size() const;
  unsigned char* data() const;

  // Copies size() bytes into it.
  void write(const void* from);

  // Makes it as it was first.
  void clear();

 private:
  struct Memory;
  Memory* memory_;
};

}  // namespace proxyless::cuda::emulator
