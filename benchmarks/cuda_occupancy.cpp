// Reads lines "arch registers shared threads" and says the occupancy of each, as CUDA's calculator
// finds it for a GPU of that compute capability.
#include <cuda_occupancy.h>

#include <cstdio>

namespace {

// Of a multiprocessor, from the CUDA programming guide's table of compute capabilities.
struct Limits {
  int arch, threads, blocks, shared;
};

constexpr Limits kLimits[] = {
    {80, 2048, 32, 164 << 10},  {86, 1536, 16, 100 << 10},  {90, 2048, 32, 228 << 10},
    {100, 2048, 32, 228 << 10}, {110, 1536, 24, 228 << 10}, {120, 1536, 24, 100 << 10},
};
constexpr int kRegisters = 65536, kWarp = 32, kReserved = 1024;

cudaOccDeviceProp properties(const Limits& limits) {
  cudaOccDeviceProp result;
  result.computeMajor = limits.arch / 10;
  result.computeMinor = limits.arch % 10;
  result.maxThreadsPerBlock = 1024;
  result.maxThreadsPerMultiprocessor = limits.threads;
  result.regsPerBlock = kRegisters;
  result.regsPerMultiprocessor = kRegisters;
  result.warpSize = kWarp;
  result.sharedMemPerBlock = 48 << 10;
  result.sharedMemPerMultiprocessor = static_cast<size_t>(limits.shared);
  result.numSms = 1;
  result.sharedMemPerBlockOptin = static_cast<size_t>(limits.shared - kReserved);
  result.reservedSharedMemPerBlock = kReserved;
  return result;
}

}  // namespace

int main() {
  int arch, registers, shared, threads;
  while (std::scanf("%d %d %d %d", &arch, &registers, &shared, &threads) == 4) {
    const Limits* limits = nullptr;
    for (const Limits& known : kLimits) {
      if (known.arch == arch) limits = &known;
    }
    if (limits == nullptr) {
      std::fprintf(stderr, "There are no limits for the compute capability %d.\n", arch);
      return 1;
    }
    const cudaOccDeviceProp device = properties(*limits);
    cudaOccFuncAttributes kernel;
    kernel.maxThreadsPerBlock = threads;
    kernel.numRegs = registers;
    kernel.sharedSizeBytes = static_cast<size_t>(shared);
    kernel.partitionedGCConfig = PARTITIONED_GC_OFF;
    kernel.shmemLimitConfig = FUNC_SHMEM_LIMIT_DEFAULT;
    kernel.maxDynamicSharedSizeBytes = 0;
    const cudaOccDeviceState state;
    cudaOccResult result;
    const cudaOccError error = cudaOccMaxActiveBlocksPerMultiprocessor(&result, &device, &kernel,
                                                                       &state, threads, 0);
    if (error != CUDA_OCC_SUCCESS) {
      std::fprintf(stderr, "The calculator refuses %d %d %d %d.\n", arch, registers, shared,
                   threads);
      return 1;
    }
    std::printf("%f\n", static_cast<double>(result.activeBlocksPerMultiprocessor * threads) /
                            limits->threads);
  }
}
