#include "kernels/cpu/vector/avx2.h"
#include "kernels/cpu/vector/kernels.h"

namespace proxyless::cpu {

const MBConvKernels kAvx2Kernels = kVectorKernels<Avx2>;

}  // namespace proxyless::cpu
