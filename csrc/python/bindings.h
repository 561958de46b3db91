// What the files of the Python module share.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

#include "kernels/cpu/isa.h"

namespace proxyless {

// The instruction set called `name`; without a name the one that PROXYLESS_CPU_ISA names, or else
// the best one.
cpu::Isa select_isa(const std::optional<std::string>& name);

void bind_mbconv(pybind11::module_& m);
void bind_separable(pybind11::module_& m);

}  // namespace proxyless
