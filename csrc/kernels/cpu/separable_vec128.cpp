#include "kernels/cpu/vector/separable.h"
#include "kernels/cpu/vector/vec128.h"

namespace proxyless::cpu {

const SeparableKernels kVec128Separable = kVectorSeparable<Vec128>;

}  // namespace proxyless::cpu
