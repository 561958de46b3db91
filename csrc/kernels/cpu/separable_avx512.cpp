#include "kernels/cpu/vector/avx512.h"
#include "kernels/cpu/vector/separable.h"

namespace proxyless::cpu {

const SeparableKernels kAvx512Separable = kVectorSeparable<Avx512>;

}  // namespace proxyless::cpu
