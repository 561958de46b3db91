// The emulator: its models against the definitions, and its checks by kernels that are wrong.
//
// Usage: emulator_test BUILD, how it was compiled.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "expect.h"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/ptx.cuh"

namespace proxyless::cuda {
namespace {

using emulator::Buffer;
using emulator::Order;
using testing::Expectations;

#if defined(__SANITIZE_ADDRESS__)
constexpr const char* kBuild = "asan";
constexpr bool kAsan = true, kRace = false;
#elif defined(__SANITIZE_THREAD__)
constexpr const char* kBuild = "race";
constexpr bool kAsan = false, kRace = true;
#else
constexpr const char* kBuild = "plain";
constexpr bool kAsan = false, kRace = false;
#endif

constexpr unsigned kAllLanes = 0xffffffffu;

struct Schedule {
  Order order;
  unsigned seed;
};
constexpr Schedule kSchedules[] = {{Order::kForward, 1},
                                   {Order::kReverse, 2},
                                   {Order::kRandom, 3},
                                   {Order::kRandom, 4},
                                   {Order::kRandom, 5}};

template <class T>
Buffer buffer_of(const std::vector<T>& values) {
  Buffer buffer(values.size() * sizeof(T));
  buffer.write(values.data());
  return buffer;
}

template <class T>
std::vector<T> values_in(const Buffer& buffer) {
  std::vector<T> values(buffer.size() / sizeof(T));
  std::memcpy(static_cast<void*>(values.data()), buffer.data(), buffer.size());
  return values;
}

template <class T>
T* pointer(const Buffer& buffer) {
  return reinterpret_cast<T*>(buffer.data());
}

// --- Models ---

__global__ void write_indices(int* out) {
  const dim3 block = blockDim, grid = gridDim;
  const unsigned thread = threadIdx.x + block.x * (threadIdx.y + block.y * threadIdx.z);
  const unsigned index = blockIdx.x + grid.x * (blockIdx.y + grid.y * blockIdx.z);
  out[index * block.x * block.y * block.z + thread] = static_cast<int>(index * 1000 + thread);
}

void test_indices(Expectations& expectations) {
  const dim3 grid(2, 3, 2), block(3, 4, 5);
  Buffer out(12 * 60 * sizeof(int));
  launch(write_indices, grid, block, nullptr, pointer<int>(out));
  const std::vector<int> values = values_in<int>(out);
  bool right = true;
  for (int i = 0; i < 12 * 60; ++i)
    right &= values[static_cast<std::size_t>(i)] == i / 60 * 1000 + i % 60;
  expectations.expect(right, "every thread of every block runs once");

  out.clear();
  launch(write_indices, dim3(2, 0, 2), block, nullptr, pointer<int>(out));
  expectations.expect(values_in<int>(out)[0] == -1, "nothing runs in an empty grid");
}

// Adds up a block's values by halves.
__global__ void sum_of_block(const float* in, float* out) {
  __shared__ float sums[64];
  const unsigned thread = threadIdx.x;
  sums[thread] = in[blockIdx.x * 64 + thread];
  for (unsigned half = 32; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  if (thread == 0) out[blockIdx.x] = sums[0];
}

void test_barriers(Expectations& expectations) {
  std::vector<float> values(5 * 64);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const Buffer in = buffer_of(values);
  const Buffer out(5 * sizeof(float));
  launch(sum_of_block, dim3(5), dim3(64), nullptr, pointer<const float>(in), pointer<float>(out));
  bool right = true;
  for (std::size_t i = 0; i < 5; ++i) {
    right &= values_in<float>(out)[i] == static_cast<float>(64 * 64 * i + 63 * 32);
  }
  expectations.expect(right, "threads wait for each other");
}

// Reads what it has not written, on purpose, and leaves something behind.
__global__ void read_shared_memory(unsigned* out) {
  __shared__ unsigned shared[32];
  out[blockIdx.x * 32 + threadIdx.x] = shared[threadIdx.x];
  shared[threadIdx.x] = 1;
}

void test_shared_memory(Expectations& expectations) {
  const Buffer out(3 * 32 * sizeof(unsigned));
  launch(read_shared_memory, dim3(3), dim3(32), nullptr, pointer<unsigned>(out));
  expectations.expect(values_in<unsigned>(out) == std::vector<unsigned>(3 * 32, 0xffffffffu),
                      "every block finds shared memory full of NaN");
}

enum class Shuffle { kIndex, kUp, kDown, kXor };

template <class T>
__global__ void shuffle(Shuffle kind, int argument, int width, T* out) {
  const T value = static_cast<T>(threadIdx.x * 3 + 1);
  T result = 0;
  if (kind == Shuffle::kIndex) result = __shfl_sync(kAllLanes, value, argument, width);
  if (kind == Shuffle::kUp) result = __shfl_up_sync(kAllLanes, value, argument, width);
  if (kind == Shuffle::kDown) result = __shfl_down_sync(kAllLanes, value, argument, width);
  if (kind == Shuffle::kXor) result = __shfl_xor_sync(kAllLanes, value, argument, width);
  out[threadIdx.x] = result;
}

// The lane that `lane` reads, from the programming guide's words about groups of `width` lanes.
int source_lane(Shuffle kind, int lane, int argument, int width) {
  const int group = lane / width, place = lane % width;
  if (kind == Shuffle::kIndex) return group * width + argument % width;
  if (kind == Shuffle::kUp) return place >= argument ? lane - argument : lane;
  if (kind == Shuffle::kDown) return place + argument < width ? lane + argument : lane;
  return (lane ^ argument) / width <= group ? lane ^ argument : lane;
}

template <class T>
void test_shuffles(Expectations& expectations) {
  for (const Shuffle kind : {Shuffle::kIndex, Shuffle::kUp, Shuffle::kDown, Shuffle::kXor}) {
    for (const int width : {32, 16, 8, 1}) {
      for (const int argument : {0, 1, 3, 8, 16, 31}) {
        const Buffer out(32 * sizeof(T));
        launch(shuffle<T>, dim3(1), dim3(32), nullptr, kind, argument, width, pointer<T>(out));
        bool right = true;
        for (int lane = 0; lane < 32; ++lane) {
          right &= values_in<T>(out)[static_cast<std::size_t>(lane)] ==
                   static_cast<T>(source_lane(kind, lane, argument, width) * 3 + 1);
        }
        expectations.expect(right, "shuffle " + std::to_string(static_cast<int>(kind)) + " by " +
                                       std::to_string(argument) + " of " + std::to_string(width));
      }
    }
  }
}

__global__ void vote(unsigned mask, unsigned* out) {
  if ((mask >> threadIdx.x & 1) != 0) {
    out[threadIdx.x] = __ballot_sync(mask, threadIdx.x % 3 == 0);
  }
}

void test_ballot(Expectations& expectations) {
  const Buffer out(32 * sizeof(unsigned));
  launch(vote, dim3(1), dim3(32), nullptr, 0x0ffffff0u, pointer<unsigned>(out));
  // Every third lane from 6 to 27.
  expectations.expect(values_in<unsigned>(out)[4] == 0x09249240u, "ballot");
  expectations.expect(values_in<unsigned>(out)[3] == 0xffffffffu, "ballot of some lanes only");
}

__global__ void load_matrices(const std::uint16_t* in, bool transposed, unsigned* out) {
  __shared__ __align__(16) std::uint16_t rows[32][8];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = 0; i < 8; ++i) rows[lane][i] = in[lane * 8 + i];
  __syncthreads();
  unsigned values[4];
  // Matrix i's row r is row 31 - (8 i + r).
  if (transposed) {
    ldmatrix_x4_trans(values, rows[31 - lane]);
  } else {
    ldmatrix_x4(values, rows[31 - lane]);
  }
  for (int i = 0; i < 4; ++i) out[lane * 4 + i] = values[i];
}

void test_ldmatrix(Expectations& expectations) {
  std::vector<std::uint16_t> matrix(32 * 8);
  for (std::size_t i = 0; i < matrix.size(); ++i) matrix[i] = static_cast<std::uint16_t>(i * 257);
  const Buffer in = buffer_of(matrix);
  for (const bool transposed : {false, true}) {
    const Buffer out(32 * 4 * sizeof(unsigned));
    launch(load_matrices, dim3(1), dim3(32), nullptr, pointer<const std::uint16_t>(in), transposed,
           pointer<unsigned>(out));
    const std::vector<std::uint16_t> halves = values_in<std::uint16_t>(out);
    bool right = true;
    for (std::size_t lane = 0; lane < 32; ++lane) {
      for (std::size_t i = 0; i < 4; ++i) {
        for (std::size_t half = 0; half < 2; ++half) {
          const std::size_t g = lane / 4, j = lane % 4 * 2 + half;
          const std::size_t row = transposed ? j : g, column = transposed ? g : j;
          right &= halves[(lane * 4 + i) * 2 + half] == matrix[(31 - (8 * i + row)) * 8 + column];
        }
      }
    }
    expectations.expect(right, transposed ? "ldmatrix.trans" : "ldmatrix");
  }
}

struct Matrices {
  const float *a, *b;  // [16, depth], [depth, 8]
  float* c;            // [16, 8], in and out
};

template <class T>
__device__ unsigned pack(float low, float high) {
  const T pair[2] = {T(low), T(high)};
  unsigned bits;
  std::memcpy(&bits, pair, sizeof(bits));
  return bits;
}

__device__ void load_c(float (&c)[4], const float* from) {
  const unsigned row = threadIdx.x / 4, column = threadIdx.x % 4 * 2;
  for (unsigned i = 0; i < 4; ++i) c[i] = from[(row + i / 2 * 8) * 8 + column + i % 2];
}

__device__ void store_c(float* to, const float (&c)[4]) {
  const unsigned row = threadIdx.x / 4, column = threadIdx.x % 4 * 2;
  for (unsigned i = 0; i < 4; ++i) to[(row + i / 2 * 8) * 8 + column + i % 2] = c[i];
}

template <class T>
__global__ void multiply_16_bits(Matrices matrices) {
  const unsigned g = threadIdx.x / 4, k = threadIdx.x % 4 * 2;
  const auto a_pair = [&](unsigned row, unsigned depth) {
    const float* from = matrices.a + row * 16 + depth;
    return pack<T>(from[0], from[1]);
  };
  const auto b_pair = [&](unsigned depth) {
    return pack<T>(matrices.b[depth * 8 + g], matrices.b[(depth + 1) * 8 + g]);
  };
  const unsigned a[4] = {a_pair(g, k), a_pair(g + 8, k), a_pair(g, k + 8), a_pair(g + 8, k + 8)};
  float c[4];
  load_c(c, matrices.c);
  mma_m16n8k16<T>(c, a, b_pair(k), b_pair(k + 8));
  store_c(matrices.c, c);
}

// With the operands' low bits set, which must not matter.
__global__ void multiply_tf32(Matrices matrices) {
  const unsigned g = threadIdx.x / 4, k = threadIdx.x % 4;
  const auto a_bits = [&](unsigned row, unsigned depth) {
    return __float_as_uint(matrices.a[row * 8 + depth]) | 0x1fff;
  };
  const auto b_bits = [&](unsigned depth) {
    return __float_as_uint(matrices.b[depth * 8 + g]) | 0x1fff;
  };
  const unsigned a[4] = {a_bits(g, k), a_bits(g + 8, k), a_bits(g, k + 4), a_bits(g + 8, k + 4)};
  float c[4];
  load_c(c, matrices.c);
  mma_m16n8k8_tf32(c, a, b_bits(k), b_bits(k + 4));
  store_c(matrices.c, c);
}

bool is_same(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// Of small integers, whose products and sums every format holds exactly, with `special` at one
// place of a.
void test_product(Expectations& expectations, const std::string& name, void (*kernel)(Matrices),
                  std::size_t depth, float special) {
  std::vector<float> a(16 * depth), b(depth * 8), c(16 * 8);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<float>(i * 7 % 23) - 11;
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<float>(i * 5 % 19) - 9;
  for (std::size_t i = 0; i < c.size(); ++i) c[i] = static_cast<float>(i);
  a[3 * depth + 5] = special;
  b[5 * 8 + 2] = 0;
  const Buffer a_buffer = buffer_of(a), b_buffer = buffer_of(b), c_buffer = buffer_of(c);
  launch(kernel, dim3(1), dim3(32), nullptr,
         Matrices{pointer<float>(a_buffer), pointer<float>(b_buffer), pointer<float>(c_buffer)});
  const std::vector<float> results = values_in<float>(c_buffer);
  bool right = true;
  for (std::size_t row = 0; row < 16; ++row) {
    for (std::size_t column = 0; column < 8; ++column) {
      float sum = c[row * 8 + column];
      for (std::size_t k = 0; k < depth; ++k) sum += a[row * depth + k] * b[k * 8 + column];
      right &= is_same(results[row * 8 + column], sum);
    }
  }
  expectations.expect(right, name + " with " + std::to_string(special));
}

void test_products(Expectations& expectations) {
  for (const float special : {2.0f, INFINITY, -INFINITY, NAN}) {
    test_product(expectations, "mma of float16", multiply_16_bits<__half>, 16, special);
    test_product(expectations, "mma of bfloat16", multiply_16_bits<__nv_bfloat16>, 16, special);
    // Its low bits set, infinity would no longer be that, on a GPU neither.
    if (!std::isinf(special)) test_product(expectations, "mma of TF32", multiply_tf32, 8, special);
  }
}

void test_tf32(Expectations& expectations) {
  bool right = true;
  for (const float sign : {1.0f, -1.0f}) {
    for (int i = 0; i < 4096; ++i) {
      // In steps of a quarter of TF32's at 1, of which it has 2^10.
      const float value = sign * (1 + static_cast<float>(i) / 4096);
      const float nearest = sign * std::floor(std::fabs(value) * 1024 + 0.5f) / 1024;
      right &= __uint_as_float(cvt_rna_tf32(value)) == nearest;
    }
    right &= __uint_as_float(cvt_rna_tf32(sign * INFINITY)) == sign * INFINITY;
    right &= __uint_as_float(cvt_rna_tf32(sign * 3.4028235e38f)) == sign * INFINITY;
  }
  right &= std::isnan(__uint_as_float(cvt_rna_tf32(NAN) & ~0x1fffu));
  expectations.expect(right, "cvt.rna.tf32");
}

__global__ void copy_in_stages(const float* in, int valid, float* out) {
  __shared__ __align__(16) float stages[2][32 * 4];
  float* const first = stages[0] + threadIdx.x * 4;
  float* const second = stages[1] + threadIdx.x * 4;
  const int from = static_cast<int>(threadIdx.x) * 4;
  cp_async_16(first, in + from, from < valid);
  cp_async_commit();
  cp_async_16(second, in + 128 + from, true);
  cp_async_commit();
  cp_async_wait<1>();
  for (int i = 0; i < 4; ++i) out[from + i] = first[i];
  cp_async_wait<0>();
  __syncthreads();
  for (int i = 0; i < 4; ++i) out[128 + from + i] = stages[1][127 - from - i];
}

void test_copies(Expectations& expectations) {
  std::vector<float> values(256);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i + 1);
  const Buffer in = buffer_of(values);
  const Buffer out(256 * sizeof(float));
  launch(copy_in_stages, dim3(1), dim3(32), nullptr, pointer<const float>(in), 100,
         pointer<float>(out));
  bool right = true;
  for (std::size_t i = 0; i < 128; ++i) {
    right &= values_in<float>(out)[i] == (i < 100 ? values[i] : 0);
    right &= values_in<float>(out)[128 + i] == values[255 - i];
  }
  expectations.expect(right, "cp.async");
}

__global__ void exchange_in_warps(const float* in, float* out) {
  __shared__ float values[64];
  values[threadIdx.x] = in[threadIdx.x];
  __syncwarp();
  const float other = values[threadIdx.x ^ 1];
  __syncwarp();
  values[threadIdx.x] = other + 1;
  __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 2];
}

void test_warp_barriers(Expectations& expectations) {
  std::vector<float> values(64);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const Buffer in = buffer_of(values);
  const Buffer out(64 * sizeof(float));
  launch(exchange_in_warps, dim3(1), dim3(64), nullptr, pointer<const float>(in),
         pointer<float>(out));
  bool right = true;
  for (std::size_t i = 0; i < 64; ++i) {
    right &= values_in<float>(out)[i] == static_cast<float>(i ^ 3) + 1;
  }
  expectations.expect(right, "__syncwarp");
}

void test_models(Expectations& expectations) {
  test_indices(expectations);
  if (!kRace) test_shared_memory(expectations);
  test_barriers(expectations);
  test_shuffles<int>(expectations);
  test_shuffles<double>(expectations);
  test_ballot(expectations);
  test_ldmatrix(expectations);
  test_products(expectations);
  test_tf32(expectations);
  test_copies(expectations);
  test_warp_barriers(expectations);
}

// --- Checks ---

enum class Bug {
  kNone,
  kNoBarrier,
  kNoSecondBarrier,
  kNoWarpBarrier,
  kSumWithoutBarrier,
  kSumOfBlocks,
  kReadsOtherBlock,
  kBarrierForSome,
  kTwoBarriers,
  kReadsOutside,
  kWritesOutside,
  kReadsHost,
  kMisaligned,
  kUnwrittenShared,
  kLeftBehind,
  kUnwrittenGlobal,
  kNoWait,
  kWaitsForTooFew,
  kNoBarrierAfterWait,
  kCopiesTooEarly,
  kCopiesFromOutside,
  kCopiesMisaligned,
  kCopiesToGlobal,
  kNotInMask,
  kMaskOfTooMany,
  kReadsLaneOutsideMask,
  kTwoCollectives,
};

constexpr unsigned kBlock = 64;

struct Memory {
  float *in, *out, *host;  // [kBlock]; [blocks, kBlock], not written; [1], not on the device
};

template <Bug kBug>
__global__ void buggy(Memory memory) {
  __shared__ __align__(16) float shared[kBlock * 4];
  const unsigned thread = threadIdx.x, other = kBlock - 1 - thread;
  const float value = memory.in[thread];
  float* const out = memory.out + blockIdx.x * kBlock + thread;
  float* const own = shared + thread * 4;
  const auto start_copy = [&] {
    cp_async_16(own, memory.in, true);
    cp_async_commit();
  };

  if constexpr (kBug == Bug::kNoBarrier) {
    shared[thread] = value;
    *out = shared[other];
  }
  if constexpr (kBug == Bug::kNoSecondBarrier) {
    for (int i = 0; i < 2; ++i) {
      shared[thread] = value;
      __syncthreads();
      *out = shared[other];
    }
  }
  if constexpr (kBug == Bug::kNoWarpBarrier) {
    shared[thread] = value;
    *out = __shfl_xor_sync(kAllLanes, value, 1) + shared[thread ^ 1];
  }
  if constexpr (kBug == Bug::kSumWithoutBarrier) {
    if (thread == 0) shared[0] = 0;
    __syncthreads();
    shared[0] += value;
  }
  if constexpr (kBug == Bug::kSumOfBlocks) memory.in[thread] += 1;
  if constexpr (kBug == Bug::kReadsOtherBlock) {
    *out = value;
    if (blockIdx.x == 1) *out += memory.out[thread];
  }
  if constexpr (kBug == Bug::kBarrierForSome) {
    if (thread < 32) __syncthreads();
  }
  if constexpr (kBug == Bug::kTwoBarriers) {
    if (thread < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  }
  if constexpr (kBug == Bug::kReadsOutside) *out = memory.in[thread + 1];
  if constexpr (kBug == Bug::kWritesOutside) out[1] = value;
  if constexpr (kBug == Bug::kReadsHost) *out = *memory.host;
  if constexpr (kBug == Bug::kMisaligned) {
    const unsigned char* const bytes = reinterpret_cast<const unsigned char*>(memory.in);
    *out = *reinterpret_cast<const float*>(bytes + thread * 3);
  }
  if constexpr (kBug == Bug::kUnwrittenShared) {
    if (thread > 0) shared[thread] = value;
    *out = shared[thread];
  }
  if constexpr (kBug == Bug::kLeftBehind) {
    if (blockIdx.x == 0) {
      shared[thread] = value;
    } else {
      *out = shared[thread];
    }
  }
  if constexpr (kBug == Bug::kUnwrittenGlobal) *out += value;
  if constexpr (kBug == Bug::kNoWait) {
    start_copy();
    *out = own[0];
    cp_async_wait<0>();
  }
  if constexpr (kBug == Bug::kWaitsForTooFew) {
    start_copy();
    cp_async_wait<1>();
  }
  if constexpr (kBug == Bug::kNoBarrierAfterWait) {
    start_copy();
    cp_async_wait<0>();
    *out = shared[other * 4];
  }
  if constexpr (kBug == Bug::kCopiesTooEarly) {
    own[0] = value;
    __syncthreads();
    *out = shared[other * 4];
    start_copy();
    cp_async_wait<0>();
  }
  if constexpr (kBug == Bug::kCopiesFromOutside) cp_async_16(own, memory.in + kBlock, true);
  if constexpr (kBug == Bug::kCopiesMisaligned) cp_async_16(own + 1, memory.in, true);
  if constexpr (kBug == Bug::kCopiesToGlobal) cp_async_16(memory.out, memory.in, true);
  if constexpr (kBug == Bug::kNotInMask) *out = __shfl_xor_sync(0xffffu, value, 1);
  if constexpr (kBug == Bug::kMaskOfTooMany) {
    if (thread != 5) *out = __shfl_xor_sync(kAllLanes, value, 1);
  }
  if constexpr (kBug == Bug::kReadsLaneOutsideMask) {
    if (thread % 32 < 16) *out = __shfl_xor_sync(0xffffu, value, 16);
  }
  if constexpr (kBug == Bug::kTwoCollectives) {
    if (thread % 2 == 0) {
      *out = __shfl_xor_sync(kAllLanes, value, 1);
    } else {
      *out = __shfl_down_sync(kAllLanes, value, 1);
    }
  }
}

// In `asan`: the program ends.
constexpr const char* kStops = "";

// What an Error says in the builds that find the bug, and null for those that need not.
struct Check {
  const char* name;
  void (*kernel)(Memory);
  const char *plain, *asan, *race;
  unsigned blocks = 1;
};

constexpr const char* kDiverges = "divergent barrier";
constexpr const char* kArrives = "returned before its asynchronous copies had arrived";
constexpr const char* kNoMultiple = "not a multiple of 16";
constexpr const char* kNotGlobal = "not in global memory";
constexpr const char* kNotShared = "not in shared memory";
constexpr const char* kLacksCaller = "which lacks it";
constexpr const char* kLacksSource = "lacks";
constexpr const char* kMixed = "others of its warp wait in";

// Where a message depends on the order of threads, what its variants have in common.
const Check kChecks[] = {
    {"no barrier", buggy<Bug::kNoBarrier>, nullptr, nullptr, "of shared memory"},
    {"no second barrier", buggy<Bug::kNoSecondBarrier>, nullptr, nullptr, "a race with a "},
    {"no warp barrier", buggy<Bug::kNoWarpBarrier>, nullptr, nullptr, "a race with a write"},
    {"no barriers in a sum", buggy<Bug::kSumWithoutBarrier>, nullptr, nullptr, "a race with a "},
    {"sum of blocks", buggy<Bug::kSumOfBlocks>, nullptr, nullptr, "of another block", 2},
    {"other block's result", buggy<Bug::kReadsOtherBlock>, nullptr, nullptr, "of out", 2},
    {"barrier for some", buggy<Bug::kBarrierForSome>, kDiverges, kDiverges, kDiverges},
    {"two barriers", buggy<Bug::kTwoBarriers>, kDiverges, kDiverges, kDiverges},
    {"reads outside", buggy<Bug::kReadsOutside>, nullptr, kStops, "not all inside"},
    {"writes outside", buggy<Bug::kWritesOutside>, "next to out", kStops, "not all inside"},
    {"reads of the host", buggy<Bug::kReadsHost>, nullptr, nullptr, "no device memory"},
    {"misaligned", buggy<Bug::kMisaligned>, nullptr, kStops, "misaligned"},
    {"unwritten shared memory", buggy<Bug::kUnwrittenShared>, nullptr, nullptr, "not been written"},
    {"shared memory of another block", buggy<Bug::kLeftBehind>, nullptr, nullptr,
     "not been written", 2},
    {"unwritten global memory", buggy<Bug::kUnwrittenGlobal>, nullptr, nullptr, "not been written"},
    {"no wait for a copy", buggy<Bug::kNoWait>, nullptr, nullptr, "may still arrive"},
    {"waits for too few copies", buggy<Bug::kWaitsForTooFew>, kArrives, kArrives, kArrives},
    {"no barrier after a copy", buggy<Bug::kNoBarrierAfterWait>, nullptr, nullptr,
     "of shared memory"},
    {"copies over what is read", buggy<Bug::kCopiesTooEarly>, nullptr, nullptr, "of shared memory"},
    {"copy from outside", buggy<Bug::kCopiesFromOutside>, kNotGlobal, kNotGlobal, kNotGlobal},
    {"misaligned copy", buggy<Bug::kCopiesMisaligned>, kNoMultiple, kNoMultiple, kNoMultiple},
    {"copy to global memory", buggy<Bug::kCopiesToGlobal>, kNotShared, kNotShared, kNotShared},
    {"not in the mask", buggy<Bug::kNotInMask>, kLacksCaller, kLacksCaller, kLacksCaller},
    {"mask of too many", buggy<Bug::kMaskOfTooMany>, "deadlock", "deadlock", "deadlock"},
    {"reads outside the mask", buggy<Bug::kReadsLaneOutsideMask>, kLacksSource, kLacksSource,
     kLacksSource},
    {"two collectives", buggy<Bug::kTwoCollectives>, kMixed, kMixed, kMixed},
};

// What launch() says against the kernel, or nothing.
std::string error_of(void (*kernel)(Memory), unsigned blocks, unsigned threads = kBlock) {
  const Buffer in = buffer_of(std::vector<float>(kBlock, 1));
  const Buffer out(blocks * kBlock * sizeof(float), "out");
  float host = 1;
  try {
    launch(kernel, dim3(blocks), dim3(threads), nullptr,
           Memory{pointer<float>(in), pointer<float>(out), &host});
  } catch (const emulator::Error& error) {
    return error.what();
  }
  return "";
}

// Whether a sanitizer ends the program.
bool is_stopped(void (*kernel)(Memory), unsigned blocks) {
  const pid_t child = fork();
  if (child == 0) {
    close(STDERR_FILENO);
    error_of(kernel, blocks);
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status != 0;
}

void test_checks(Expectations& expectations) {
  const std::string error = error_of(buggy<Bug::kNone>, 2);
  expectations.expect(error.empty(), "no bug: " + error);
  for (const unsigned threads : {0u, 1025u}) {
    expectations.expect(!error_of(buggy<Bug::kNone>, 1, threads).empty(),
                        "a block of " + std::to_string(threads) + " threads");
  }
  for (const Check& check : kChecks) {
    const char* const expected = kAsan ? check.asan : kRace ? check.race : check.plain;
    if (expected == nullptr) continue;
    if (expected == kStops) {
      expectations.expect(is_stopped(check.kernel, check.blocks), check.name);
    } else {
      const std::string message = error_of(check.kernel, check.blocks);
      expectations.expect(message.find(expected) != std::string::npos,
                          check.name + (": " + message));
    }
  }
}

}  // namespace
}  // namespace proxyless::cuda

int main(int argc, char** argv) {
  using namespace proxyless;
  testing::Expectations expectations;
  expectations.expect(argc == 2 && std::strcmp(argv[1], cuda::kBuild) == 0,
                      "the build is as CMake says");
  for (const cuda::Schedule& schedule : cuda::kSchedules) {
    cuda::emulator::set_order(schedule.order, schedule.seed);
    cuda::test_models(expectations);
    cuda::test_checks(expectations);
  }
  return expectations.exit_code();
}
