// The two matrix products of the block, on operands as they lie in memory.
//
// `multiply` has pixels times packed weights: one value of a pixel is broadcast against vectors of
// output channels. `multiply_transposed` sums over pixels, for weight gradients: one channel of a
// pixel is broadcast against vectors of the same pixel's other tensor. Both keep M x NV
// accumulators in registers and need M + NV loads for M * NV products.
#pragma once

#include "kernels/cpu/vector/loops.h"
#include "kernels/cpu/vector/storage.h"

namespace proxyless::cpu {

// acc[m][v] += sum_k a[m * lda + k] * b[k][v], k in [0, depth); b [depth, NV vectors].
template <class I, int M, int NV>
PROXYLESS_INLINE void multiply(typename I::Vector (&acc)[M][NV], const float* a, int64_t lda,
                               const float* b, int64_t depth) {
  for (int64_t k = 0; k < depth; ++k, b += NV * I::kLanes) {
    typename I::Vector row[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) row[v] = I::load(b + v * I::kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const typename I::Vector value = I::set1(a[m * lda + k]);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[m][v] = I::fma(value, row[v], acc[m][v]);
    }
  }
}

// The same for pairs of bfloat16; b [ceil(depth / 2), NV vectors of pairs].
template <class I, int M, int NV>
PROXYLESS_INLINE void multiply(typename I::Vector (&acc)[M][NV], const BFloat16* a, int64_t lda,
                               const BFloat16* b, int64_t depth) {
  constexpr int kPairs = 2 * I::kLanes;
  int64_t k = 0;
  for (; k + 1 < depth; k += 2, b += NV * kPairs) {
    typename I::Pairs row[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) row[v] = I::load_pairs(b + v * kPairs);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const typename I::Pairs pair = I::set_pair(a + m * lda + k);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[m][v] = I::fma(pair, row[v], acc[m][v]);
    }
  }
  if (k == depth) return;
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
    const typename I::Pairs pair = I::set_half_pair(a + m * lda + k);
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) {
      acc[m][v] = I::fma(pair, I::load_pairs(b + v * kPairs), acc[m][v]);
    }
  }
}

// acc[m][v] += sum_p a[p * lda + m] * b[p * ldb + v * b_stride], p in [0, count).
template <class I, int M, int NV>
PROXYLESS_INLINE void multiply_transposed(typename I::Vector (&acc)[M][NV], const float* a,
                                          int64_t lda, const float* b, int64_t ldb,
                                          int64_t b_stride, int64_t count) {
  for (int64_t p = 0; p < count; ++p, a += lda, b += ldb) {
    typename I::Vector row[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) row[v] = I::load(b + v * b_stride);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const typename I::Vector value = I::set1(a[m]);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[m][v] = I::fma(value, row[v], acc[m][v]);
    }
  }
}

// out[v][m] = sum_k a[m * lda + k] * panel[k][v]: vectors of columns out_plane apart, rows out_row.
template <class I, int NV, class Operand>
inline void multiply_rows(const Operand* a, int64_t lda, int64_t rows, const Operand* panel,
                          int64_t depth, float* out, int64_t out_plane,
                          int64_t out_row = I::kLanes) {
  for_groups<I::kRows>(rows, [&](auto known, int64_t first) {
    constexpr int M = decltype(known)::value;
    typename I::Vector acc[M][NV];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) acc[m][v] = I::zero();
    }
    multiply<I, M, NV>(acc, a + first * lda, lda, panel, depth);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) I::store(out + v * out_plane + (first + m) * out_row, acc[m][v]);
    }
  });
}

// out[p][col] (+)= sum over planes and lanes of planes[plane][p][lane] * panel[plane, lane][col].
//   planes: [planes, >= pixels, kLanes], planes plane_stride apart
//   panel:  [planes * kLanes, NV vectors]
//   out:    [pixels, cols] with rows ldo apart; cols may end within the last vector
template <class I, int NV, class Operand>
inline void multiply_planes(const Operand* planes, int64_t plane_stride, int64_t plane_count,
                            int64_t pixels, const Operand* panel, bool accumulate, float* out,
                            int64_t ldo, int64_t cols) {
  constexpr int L = I::kLanes;
  const int64_t tail = cols - (NV - 1) * L;
  for_groups<I::kRows>(pixels, [&](auto rows, int64_t first) {
    constexpr int M = decltype(rows)::value;
    typename I::Vector acc[M][NV];
    float* target = out + first * ldo;
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        if (!accumulate) {
          acc[m][v] = I::zero();
        } else if (v + 1 == NV && tail < L) {
          acc[m][v] = I::load(target + m * ldo + v * L, tail);
        } else {
          acc[m][v] = I::load(target + m * ldo + v * L);
        }
      }
    }
    for (int64_t plane = 0; plane < plane_count; ++plane) {
      multiply<I, M, NV>(acc, planes + plane * plane_stride + first * L, L,
                         panel + plane * L * NV * L, L);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        if (v + 1 == NV && tail < L) {
          I::store(target + m * ldo + v * L, acc[m][v], tail);
        } else {
          I::store(target + m * ldo + v * L, acc[m][v]);
        }
      }
    }
  });
}

// out[row][v] (+)= sum_p a[p * lda + row] * planes[v][p], rows in [0, rows).
//   planes: [NV, >= pixels] vectors, planes plane_stride and pixels pixel_stride apart
//   out:    [rows, NV vectors] with rows ldo apart
template <class I, int NV>
inline void multiply_transposed_planes(const float* a, int64_t lda, int64_t rows,
                                       const float* planes, int64_t plane_stride,
                                       int64_t pixel_stride, int64_t pixels, bool accumulate,
                                       float* out, int64_t ldo) {
  constexpr int L = I::kLanes;
  for_groups<I::kRows>(rows, [&](auto known, int64_t first) {
    constexpr int M = decltype(known)::value;
    typename I::Vector acc[M][NV];
    float* target = out + first * ldo;
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) {
        acc[m][v] = accumulate ? I::load(target + m * ldo + v * L) : I::zero();
      }
    }
    multiply_transposed<I, M, NV>(acc, a + first, lda, planes, pixel_stride, plane_stride, pixels);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) I::store(target + m * ldo + v * L, acc[m][v]);
    }
  });
}

}  // namespace proxyless::cpu
