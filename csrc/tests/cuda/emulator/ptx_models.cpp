#include "ptx_models.h"

#include <cmath>
#include <cstdint>
#include <cstring>

#include "access_checker.h"
#include "grid.h"

namespace proxyless::cuda {
namespace {

using namespace emulator;

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr std::uintptr_t kRowBytes = 16;
constexpr unsigned kTf32LowBits = 0x1fff;

void require_shared_row(const char* instruction, const void* address) {
  if (!shared_memory().contains(address, kRowBytes)) {
    fail("%s at %p, which is not in shared memory", instruction, address);
  }
  if (reinterpret_cast<std::uintptr_t>(address) % kRowBytes != 0) {
    fail("%s at %p, which is not a multiple of 16", instruction, address);
  }
}

void require_global_row(const void* address) {
  const Region* const region = region_at(address);
  if (region == nullptr || region->shared || !region->contains(address, kRowBytes)) {
    fail("cp.async from %p, which is not in global memory", address);
  }
  if (reinterpret_cast<std::uintptr_t>(address) % kRowBytes != 0) {
    fail("cp.async from %p, which is not a multiple of 16", address);
  }
}

// Where the i-th elements of a [16, depth] and b [depth, 8] that lane 4 g + t holds are in them; in
// both layouts, b's are in column g.
struct Layout16Bits {
  static constexpr int kDepth = 16;
  static int a_row(int g, int i) { return g + i / 2 % 2 * 8; }
  static int a_depth(int t, int i) { return t * 2 + i % 2 + i / 4 * 8; }
  static int b_depth(int t, int i) { return t * 2 + i % 2 + i / 2 * 8; }
};

struct LayoutTf32 {
  static constexpr int kDepth = 8;
  static int a_row(int g, int i) { return g + i % 2 * 8; }
  static int a_depth(int t, int i) { return t + i / 2 * 4; }
  static int b_depth(int t, int i) { return t + i * 4; }
};

// What a lane brings to a product.
template <class Layout>
struct Operands {
  float c[4];
  float a[Layout::kDepth / 2], b[Layout::kDepth / 4];
};

// Turns the lanes' c, of rows g and g + 8 and columns 2 t and 2 t + 1, into c + a b.
template <class Layout>
void multiply(Lanes& lanes) {
  double a[Layout::kDepth][16], b[Layout::kDepth][8], c[16][8];
  for (int lane = 0; lane < kWarpThreads; ++lane) {
    const int g = lane / 4, t = lane % 4;
    Operands<Layout> own;
    std::memcpy(&own, lanes.values[lane], sizeof(own));
    for (int i = 0; i < Layout::kDepth / 2; ++i) {
      a[Layout::a_depth(t, i)][Layout::a_row(g, i)] = static_cast<double>(own.a[i]);
    }
    for (int i = 0; i < Layout::kDepth / 4; ++i) {
      b[Layout::b_depth(t, i)][g] = static_cast<double>(own.b[i]);
    }
    for (int i = 0; i < 4; ++i) {
      c[g + i / 2 * 8][t * 2 + i % 2] = static_cast<double>(own.c[i]);
    }
  }
  for (int k = 0; k < Layout::kDepth; ++k) {
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) c[row][column] += a[k][row] * b[k][column];
    }
  }
  for (int lane = 0; lane < kWarpThreads; ++lane) {
    const int g = lane / 4, t = lane % 4;
    float own[4];
    for (int i = 0; i < 4; ++i) own[i] = static_cast<float>(c[g + i / 2 * 8][t * 2 + i % 2]);
    std::memcpy(lanes.values[lane], own, sizeof(own));
  }
}

template <class Layout>
void multiply(float (&c)[4], Operands<Layout>& operands, const char* instruction, Place place) {
  static_assert(sizeof(operands) <= kLaneBytes);
  std::memcpy(operands.c, c, sizeof(c));
  const Lanes& results =
      meet(kAllLanes, instruction, place, &operands, sizeof(operands), multiply<Layout>);
  std::memcpy(c, results.values[lane()], sizeof(c));
}

float to_float(__half value) { return __half2float(value); }
float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

// The two numbers in a register, the first in its low half.
template <class T>
void unpack(float* values, unsigned bits) {
  T pair[2];
  std::memcpy(static_cast<void*>(pair), &bits, sizeof(bits));
  values[0] = to_float(pair[0]);
  values[1] = to_float(pair[1]);
}

float truncate_to_tf32(unsigned bits) {
  bits &= ~kTf32LowBits;
  float value;
  std::memcpy(&value, &bits, sizeof(bits));
  return value;
}

}  // namespace

void cp_async_16(void* to, const void* from, bool valid) {
  require_shared_row("cp.async", to);
  if (valid) require_global_row(from);
  current_thread()->copies.start(to, valid ? from : nullptr, __builtin_return_address(0));
}

void cp_async_commit() { current_thread()->copies.commit(); }

void emulator::wait_for_copies(int pending) {
  current_thread()->copies.wait(pending, __builtin_return_address(0));
}

// A lane's row is read when the lane comes; the race checker sees to it that this does not matter.
void emulator::load_matrices(unsigned (&values)[4], const void* row, bool transposed,
                             const void* caller, Place place) {
  require_shared_row("ldmatrix", row);
  note_access(Access::kRead, row, kRowBytes, caller);
  const Lanes& rows = meet(kAllLanes, "ldmatrix", place, row, kRowBytes);
  const auto element = [&](int matrix, int i, int j) {
    std::uint16_t bits;
    std::memcpy(&bits, rows.values[matrix * 8 + i] + j * 2, sizeof(bits));
    return static_cast<unsigned>(bits);
  };
  const int g = lane() / 4, t = lane() % 4;
  for (int matrix = 0; matrix < 4; ++matrix) {
    const unsigned low = transposed ? element(matrix, t * 2, g) : element(matrix, g, t * 2);
    const unsigned high =
        transposed ? element(matrix, t * 2 + 1, g) : element(matrix, g, t * 2 + 1);
    values[matrix] = low | high << 16;
  }
}

void ldmatrix_x4(unsigned (&values)[4], const void* row, Place place) {
  load_matrices(values, row, false, __builtin_return_address(0), place);
}

void ldmatrix_x4_trans(unsigned (&values)[4], const void* row, Place place) {
  load_matrices(values, row, true, __builtin_return_address(0), place);
}

template <class T>
void mma_m16n8k16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, Place place) {
  Operands<Layout16Bits> operands;
  for (int i = 0; i < 4; ++i) unpack<T>(operands.a + i * 2, a[i]);
  unpack<T>(operands.b, b0);
  unpack<T>(operands.b + 2, b1);
  multiply(c, operands, "mma.m16n8k16", place);
}

template void mma_m16n8k16<__half>(float (&)[4], const unsigned (&)[4], unsigned, unsigned, Place);
template void mma_m16n8k16<__nv_bfloat16>(float (&)[4], const unsigned (&)[4], unsigned, unsigned,
                                          Place);

void mma_m16n8k8_tf32(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                      Place place) {
  Operands<LayoutTf32> operands;
  for (int i = 0; i < 4; ++i) operands.a[i] = truncate_to_tf32(a[i]);
  operands.b[0] = truncate_to_tf32(b0);
  operands.b[1] = truncate_to_tf32(b1);
  multiply(c, operands, "mma.m16n8k8.tf32", place);
}

// Ties go away from zero.
unsigned cvt_rna_tf32(float value) {
  constexpr unsigned kNan = 0x7fffffff;
  if (std::isnan(value)) return kNan;
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return std::isinf(value) ? bits : (bits + (kTf32LowBits + 1) / 2) & ~kTf32LowBits;
}

}  // namespace proxyless::cuda
