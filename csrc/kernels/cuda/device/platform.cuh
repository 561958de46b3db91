// What compiles device code: nvcc, NVRTC, or a C++ compiler for the emulator of the tests.
#pragma once

#if defined(PROXYLESS_CUDA_EMULATOR)
#include "cuda_emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#if defined(__CUDACC_RTC__)
using int64_t = long long;
using uint32_t = unsigned int;
#else
#include <cstdint>
#endif
