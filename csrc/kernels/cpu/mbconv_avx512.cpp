#include "kernels/cpu/vector/avx512.h"
#include "kernels/cpu/vector/kernels.h"

namespace proxyless::cpu {

const MBConvKernels kAvx512Kernels = kVectorKernels<Avx512>;

}  // namespace proxyless::cpu
