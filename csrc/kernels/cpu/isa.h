// The instruction sets that CPU kernels are written for, and the choice among them at run time.
//
// One binary serves every CPU of an architecture: each instruction set has source files of its own,
// compiled with its own flags, and the choice made here decides which of them run.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

namespace proxyless::cpu {

enum class Isa {
  kScalar,
  kNeon,        // AArch64 Advanced SIMD
  kSse2,        // what every x86-64 CPU has
  kAvx2,        // AVX2, FMA and F16C
  kAvx512,      // AVX-512 F, BW, DQ and VL, on top of kAvx2
  kAvx512Bf16,  // products of bfloat16, on top of kAvx512
};

// The name that people see and type: "scalar", "neon", "sse2", "avx2", ....
const char* isa_name(Isa isa);

// What this CPU and its operating system can run, best first; the last is always kScalar.
const std::vector<Isa>& supported_isas();

// The supported instruction set called `name`, the best one if `name` is empty, and nothing if this
// CPU cannot run it or no instruction set is called so.
std::optional<Isa> choose_isa(std::string_view name);

}  // namespace proxyless::cpu
