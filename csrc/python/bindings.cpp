// The Python module proxyless_ext._C: how the library was built, which instruction sets it can use
// here, and the kernels on NumPy arrays.
//
// It is a thin outer layer over the kernels. No tensor type is known here, so that the module needs
// no torch, neither to build nor to load.
#include "bindings.h"

#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "build_info.h"
#include "host/isa_choice.h"

namespace py = pybind11;

namespace proxyless {
namespace {

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const cpu::Isa isa : cpu::supported_isas()) names.emplace_back(cpu::isa_name(isa));
  return names;
}

py::dict build_info() {
  py::dict info;
  info["version"] = built::kVersion;
  info["compiler"] = built::kCompiler;
  info["cxx_standard"] = __cplusplus / 100 % 100;
  info["build_type"] = built::kBuildType;
  info["flags"] = built::kFlags;
  info["system"] = built::kSystem;
  info["architecture"] = built::kArchitecture;
  return info;
}

}  // namespace

cpu::Isa select_isa(const std::optional<std::string>& name) {
  return name ? isa_called(*name, "isa") : isa_of_environment();
}

}  // namespace proxyless

PYBIND11_MODULE(_C, m) {
  m.doc() = "The compiled part of proxyless_ext that works without torch.";
  m.attr("__version__") = proxyless::built::kVersion;

  m.def("build_info", &proxyless::build_info,
        "Say how this module was built: version, compiler, C++ standard, build type, flags, "
        "system and architecture.");
  m.def("supported_isas", &proxyless::supported_isas,
        "List the instruction sets that this CPU can use, best first.");
  m.def(
      "selected_isa", [] { return proxyless::cpu::isa_name(proxyless::select_isa({})); },
      "Name the instruction set that CPU kernels use: the best one, or the one that the "
      "environment variable PROXYLESS_CPU_ISA names.");
  proxyless::bind_mbconv(m);
  proxyless::bind_separable(m);
}
