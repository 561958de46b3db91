#include "kernels/cpu/vector/kernels.h"
#include "kernels/cpu/vector/vec128.h"

namespace proxyless::cpu {

const MBConvKernels kVec128Kernels = kVectorKernels<Vec128>;

}  // namespace proxyless::cpu
