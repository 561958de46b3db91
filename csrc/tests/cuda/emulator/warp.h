// Warps, as far as the grid has to know.
#pragma once

namespace proxyless::cuda::emulator {

// At the start of a block.
void start_warps(int count);

}  // namespace proxyless::cuda::emulator
