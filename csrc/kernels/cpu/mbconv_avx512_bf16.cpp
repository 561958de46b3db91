#include "kernels/cpu/vector/avx512_bf16.h"
#include "kernels/cpu/vector/kernels.h"

namespace proxyless::cpu {

const MBConvKernels kAvx512Bf16Kernels = kVectorKernels<Avx512Bf16>;

}  // namespace proxyless::cpu
