// The main function of tests of the kernels of one instruction set.
#pragma once

#include <cstdio>
#include <optional>

#include "expect.h"
#include "kernels/cpu/isa.h"

namespace proxyless::testing {

// Runs test(expectations, isa) with the instruction set that the only argument names, if this CPU
// has it; gives the exit code.
template <class Test>
int run_for_isa(int argc, char** argv, const Test& test) {
  if (argc != 2) {
    std::printf("Usage: %s ISA\n", argv[0]);
    return 2;
  }
  const std::optional<cpu::Isa> isa = cpu::choose_isa(argv[1]);
  if (!isa) {
    std::printf("This CPU cannot run %s.\n", argv[1]);
    return kSkipped;
  }
  Expectations expectations;
  test(expectations, *isa);
  return expectations.exit_code();
}

}  // namespace proxyless::testing
