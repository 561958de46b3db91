// The gates on the CPU.
#pragma once

#include "kernels/gates.h"

namespace proxyless::cpu {

// Any number of edges and of candidates will do, 0 too.
void alpha_gradient(const AlphaGradient& args);

}  // namespace proxyless::cpu
