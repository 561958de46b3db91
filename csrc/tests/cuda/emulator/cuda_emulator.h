// The CUDA language, as far as our kernels speak it, for a C++ compiler.
#pragma once

// The types, and conversions that CUDA's own headers have for the host.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <cmath>
#include <cstring>

#include "emulator.h"
#include "ptx_models.h"
#include "runtime.h"

// --- Keywords ---

#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __constant__
#undef __forceinline__
#undef __noinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
// See memory.h. Without __constinit, GCC would keep flags among the variables.
#define __shared__ static __constinit thread_local
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

#define threadIdx (::proxyless::cuda::emulator::thread_index())
#define blockIdx (::proxyless::cuda::emulator::block_index())
#define blockDim (::proxyless::cuda::emulator::block_size())
#define gridDim (::proxyless::cuda::emulator::grid_size())

// --- Functions ---

namespace proxyless::cuda::emulator {

inline void __syncthreads(Place place = Place::here()) { wait_for_block(place); }

inline void __syncwarp(unsigned mask = 0xffffffffu, Place place = Place::here()) {
  wait_for_warp(mask, place);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, Place place = Place::here()) {
  return ballot(mask, predicate != 0, place);
}

template <class T>
T shuffle_value(unsigned mask, const char* operation, Place place, T value, int from, int first,
                int last) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  unsigned long long bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(mask, operation, place, bits, from, first, last);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// Of the caller's group of `width` lanes, a power of 2.
inline int first_lane(int width) { return lane() & ~(width - 1); }
inline int last_lane(int width) { return first_lane(width) + width - 1; }

template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = kWarpThreads,
              Place place = Place::here()) {
  return shuffle_value(mask, "__shfl_sync", place, value, first_lane(width) + (from & (width - 1)),
                       0, kWarpThreads - 1);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, int distance, int width = kWarpThreads,
                 Place place = Place::here()) {
  return shuffle_value(mask, "__shfl_up_sync", place, value, lane() - distance, first_lane(width),
                       kWarpThreads - 1);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, int distance, int width = kWarpThreads,
                   Place place = Place::here()) {
  return shuffle_value(mask, "__shfl_down_sync", place, value, lane() + distance, 0,
                       last_lane(width));
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = kWarpThreads,
                  Place place = Place::here()) {
  return shuffle_value(mask, "__shfl_xor_sync", place, value, lane() ^ lane_mask, 0,
                       last_lane(width));
}

template <class T>
T __ldg(const T* from) {
  return *from;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline int __float_as_int(float value) { return static_cast<int>(__float_as_uint(value)); }

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(bits));
  return value;
}

inline float rsqrtf(float value) { return 1 / std::sqrt(value); }

// Overloads rather than templates, so that what is ambiguous to nvcc is so here.
#define PROXYLESS_DEFINE_MIN_MAX(T)                   \
  constexpr T min(T a, T b) { return b < a ? b : a; } \
  constexpr T max(T a, T b) { return a < b ? b : a; }
PROXYLESS_DEFINE_MIN_MAX(int)
PROXYLESS_DEFINE_MIN_MAX(unsigned)
PROXYLESS_DEFINE_MIN_MAX(long)
PROXYLESS_DEFINE_MIN_MAX(unsigned long)
PROXYLESS_DEFINE_MIN_MAX(long long)
PROXYLESS_DEFINE_MIN_MAX(unsigned long long)
#undef PROXYLESS_DEFINE_MIN_MAX
// Of NaN and a number, the number.
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }
inline double min(double a, double b) { return std::fmin(a, b); }
inline double max(double a, double b) { return std::fmax(a, b); }

}  // namespace proxyless::cuda::emulator

using proxyless::cuda::emulator::__ballot_sync;
using proxyless::cuda::emulator::__float_as_int;
using proxyless::cuda::emulator::__float_as_uint;
using proxyless::cuda::emulator::__ldg;
using proxyless::cuda::emulator::__shfl_down_sync;
using proxyless::cuda::emulator::__shfl_sync;
using proxyless::cuda::emulator::__shfl_up_sync;
using proxyless::cuda::emulator::__shfl_xor_sync;
using proxyless::cuda::emulator::__syncthreads;
using proxyless::cuda::emulator::__syncwarp;
using proxyless::cuda::emulator::__uint_as_float;
using proxyless::cuda::emulator::max;
using proxyless::cuda::emulator::min;
using proxyless::cuda::emulator::rsqrtf;

// --- Launches ---

namespace proxyless::cuda {

// As in kernels/cuda/device/launch.cuh; returns when the kernel has run.
template <class... Parameters, class... Args>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, void*, const Args&... args) {
  // On a GPU the arguments are no memory that a race could be in.
  const auto run = [&]() __attribute__((no_sanitize("thread"))) { kernel(args...); };
  using Run = decltype(run);
  emulator::run_grid(
      grid, block,
      [](const void* self)
          __attribute__((no_sanitize("thread"))) { (*static_cast<const Run*>(self))(); },
      &run);
}

}  // namespace proxyless::cuda
