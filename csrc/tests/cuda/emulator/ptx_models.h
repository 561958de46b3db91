// Models of the functions in kernels/cuda/device/ptx.cuh, from the PTX manual. Unlike a GPU, they
// notice wrong addresses.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "runtime.h"

namespace proxyless::cuda {

void cp_async_16(void* to, const void* from, bool valid);
void cp_async_commit();

namespace emulator {
void wait_for_copies(int pending);
void load_matrices(unsigned (&values)[4], const void* row, bool transposed, const void* caller,
                   Place place);
}  // namespace emulator

template <int kPending>
void cp_async_wait() {
  emulator::wait_for_copies(kPending);
}

void ldmatrix_x4(unsigned (&values)[4], const void* row,
                 emulator::Place place = emulator::Place::here());
void ldmatrix_x4_trans(unsigned (&values)[4], const void* row,
                       emulator::Place place = emulator::Place::here());

// Sums are of exact products, in float64, and are rounded once.
template <class T>
void mma_m16n8k16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                  emulator::Place place = emulator::Place::here());
void mma_m16n8k8_tf32(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1,
                      emulator::Place place = emulator::Place::here());

unsigned cvt_rna_tf32(float value);

inline int opaque(int value) { return value; }

}  // namespace proxyless::cuda
