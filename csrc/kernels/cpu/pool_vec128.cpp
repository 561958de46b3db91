#include "kernels/cpu/vector/pool.h"
#include "kernels/cpu/vector/vec128.h"

namespace proxyless::cpu {

const PoolKernels kVec128Pool = kVectorPool<Vec128>;

}  // namespace proxyless::cpu
