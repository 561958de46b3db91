// The instruction set that somebody asked for, or an error that lists what can be asked for.
//
// This is for the layers above the kernels, which neither read the environment nor throw.
#pragma once

#include <string>

#include "kernels/cpu/isa.h"

namespace proxyless {

// The instruction set called `name`, or the best one if it is empty. The std::invalid_argument says
// that `source` asks for what this CPU cannot do.
cpu::Isa isa_called(const std::string& name, const std::string& source);

// The one that the environment variable PROXYLESS_CPU_ISA names, or else the best one.
cpu::Isa isa_of_environment();

}  // namespace proxyless
