#include "kernels/cpu/vector/avx2.h"
#include "kernels/cpu/vector/separable.h"

namespace proxyless::cpu {

const SeparableKernels kAvx2Separable = kVectorSeparable<Avx2>;

}  // namespace proxyless::cpu
