#include "kernels/cpu/vector/avx512_bf16.h"
#include "kernels/cpu/vector/separable.h"

namespace proxyless::cpu {

const SeparableKernels kAvx512Bf16Separable = kVectorSeparable<Avx512Bf16>;

}  // namespace proxyless::cpu
