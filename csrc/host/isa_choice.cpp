#include "host/isa_choice.h"

#include <cstdlib>
#include <stdexcept>

namespace proxyless {

cpu::Isa isa_called(const std::string& name, const std::string& source) {
  if (const auto isa = cpu::choose_isa(name)) return *isa;

  std::string choices;
  for (const cpu::Isa isa : cpu::supported_isas()) {
    choices += (choices.empty() ? "" : ", ") + std::string(cpu::isa_name(isa));
  }
  throw std::invalid_argument(source + " is \"" + name + "\", but this CPU can use only " +
                              choices + ".");
}

cpu::Isa isa_of_environment() {
  constexpr char kVariable[] = "PROXYLESS_CPU_ISA";
  const char* value = std::getenv(kVariable);
  return isa_called(value == nullptr ? "" : value, kVariable);
}

}  // namespace proxyless
