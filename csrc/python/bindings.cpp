// The Python module proxyless_ext._C: how the library was built, which instruction sets it can use
// here, and the kernels on NumPy arrays.
//
// It is the thin outer layer over the kernels. Reading the environment and raising exceptions
// happen here, so that kernels do neither; no tensor type is known here, so that the module needs
// no torch, neither to build nor to load.
#include "bindings.h"

#include <pybind11/stl.h>

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "build_info.h"

namespace py = pybind11;

namespace proxyless {
namespace {

constexpr char kIsaVariable[] = "PROXYLESS_CPU_ISA";

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

cpu::Isa isa_called(const std::string& name, const std::string& source) {
  if (const auto isa = cpu::choose_isa(name)) return *isa;

  std::string choices;
  for (const std::string& choice : supported_isas()) {
    choices += (choices.empty() ? "" : ", ") + choice;
  }
  throw std::invalid_argument(source + " is \"" + name + "\", but this CPU can use only " +
                              choices + ".");
}

}  // namespace

cpu::Isa select_isa(const std::optional<std::string>& name) {
  if (name) return isa_called(*name, "isa");
  const char* value = std::getenv(kIsaVariable);
  return isa_called(value == nullptr ? "" : value, kIsaVariable);
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
}
