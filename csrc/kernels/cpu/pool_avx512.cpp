#include "kernels/cpu/vector/avx512.h"
#include "kernels/cpu/vector/pool.h"

namespace proxyless::cpu {

const PoolKernels kAvx512Pool = kVectorPool<Avx512>;

}  // namespace proxyless::cpu
