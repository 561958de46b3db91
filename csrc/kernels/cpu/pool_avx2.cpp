#include "kernels/cpu/vector/avx2.h"
#include "kernels/cpu/vector/pool.h"

namespace proxyless::cpu {

const PoolKernels kAvx2Pool = kVectorPool<Avx2>;

}  // namespace proxyless::cpu
