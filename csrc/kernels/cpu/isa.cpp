#include "kernels/cpu/isa.h"

namespace proxyless::cpu {
namespace {

std::vector<Isa> detect_isas() {
  std::vector<Isa> isas;
#if defined(__x86_64__) && defined(__GNUC__)
  // Besides the CPUID bits, the built-in reads XCR0, so a feature counts only where the operating
  // system saves its registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) isas.push_back(Isa::kAvx512Bf16);
  if (avx512) isas.push_back(Isa::kAvx512);
  if (avx2) isas.push_back(Isa::kAvx2);
  isas.push_back(Isa::kSse2);
#elif defined(__aarch64__)
  isas.push_back(Isa::kNeon);  // AArch64 makes Advanced SIMD mandatory: there is nothing to ask.
#endif
  isas.push_back(Isa::kScalar);
  return isas;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kNeon:
      return "neon";
    case Isa::kSse2:
      return "sse2";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "unknown";  // Only a value outside the enumeration comes here.
}

const std::vector<Isa>& supported_isas() {
  static const std::vector<Isa> isas = detect_isas();
  return isas;
}

std::optional<Isa> choose_isa(std::string_view name) {
  if (name.empty()) return supported_isas().front();
  for (const Isa isa : supported_isas()) {
    if (name == isa_name(isa)) return isa;
  }
  return std::nullopt;
}

}  // namespace proxyless::cpu
