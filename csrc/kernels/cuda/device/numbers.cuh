// Stored numbers and floats, and units: the 16 bytes of adjacent channels that a thread moves.
#pragma once

#include "kernels/cuda/device/platform.cuh"

namespace proxyless::cuda {

constexpr int kThreads = 128;  // of most blocks
constexpr int kWarps = kThreads / 32;
// Of the larger kernels, a multiprocessor can hold at least this many blocks: the registers of each
// thread are limited to 128, which is more than the compiler would choose by itself.
constexpr int kBlocks = 4;

// Values in a unit.
template <class T>
constexpr int kUnit = 16 / static_cast<int>(sizeof(T));

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

template <bool kCondition, class A, class B>
struct Choose {
  using Type = A;
};
template <class A, class B>
struct Choose<false, A, B> {
  using Type = B;
};

// A type as large as kValues stored numbers, which one instruction moves.
template <int kBytes>
struct Word;
template <>
struct Word<4> {
  using Type = unsigned;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};

// Reads adjacent numbers, aligned to their size, with one instruction.
template <class T, int kValues>
__device__ __forceinline__ void load(float (&values)[kValues], const void* from) {
  using Bits = typename Word<kValues* static_cast<int>(sizeof(T))>::Type;
  const Bits bits = *static_cast<const Bits*>(from);
  T stored[kValues];
  memcpy(static_cast<void*>(stored), &bits, sizeof(bits));
#pragma unroll
  for (int i = 0; i < kValues; ++i) values[i] = to_float(stored[i]);
}

// Writes them.
template <class T, int kValues>
__device__ __forceinline__ void store(void* to, const float (&values)[kValues]) {
  using Bits = typename Word<kValues* static_cast<int>(sizeof(T))>::Type;
  T stored[kValues];
#pragma unroll
  for (int i = 0; i < kValues; ++i) stored[i] = from_float<T>(values[i]);
  Bits bits;
  memcpy(&bits, stored, sizeof(bits));
  *static_cast<Bits*>(to) = bits;
}

// kCount floats, a multiple of 4, aligned to 16 bytes.
template <int kCount>
__device__ __forceinline__ void load_floats(float (&values)[kCount], const float* from) {
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + i);
    values[i] = four.x;
    values[i + 1] = four.y;
    values[i + 2] = four.z;
    values[i + 3] = four.w;
  }
}

template <int kCount>
__device__ __forceinline__ void store_floats(float* to, const float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    *reinterpret_cast<float4*>(to + i) =
        make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]);
  }
}

// A matrix of pixels, [M, channels]: rows are 16-byte aligned and `pitch` elements apart, and what
// lies between the last channel and the next multiple of a unit is 0.
template <class T>
struct Rows {
  const T* data;
  int64_t pitch;

  __device__ const T* row(int64_t pixel) const { return data + pixel * pitch; }
};

// A dense tensor that a kernel gives, [M, channels], of any number of channels.
template <class T>
struct DenseRows {
  T* data;
  int channels;

  // Writes the unit that starts at `channel` as far as there are channels.
  __device__ void store_unit(int64_t pixel, int channel, const float (&values)[kUnit<T>]) const {
    T* to = data + pixel * channels + channel;
    if (channels % kUnit<T> == 0) {
      if (channel < channels) store<T>(to, values);
      return;
    }
#pragma unroll
    for (int i = 0; i < kUnit<T>; ++i) {
      if (channel + i < channels) to[i] = from_float<T>(values[i]);
    }
  }
};

}  // namespace proxyless::cuda
