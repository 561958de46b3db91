// How arguments are refused.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace proxyless {

using Sizes = std::vector<int64_t>;

inline std::string to_string(const Sizes& sizes) {
  std::ostringstream text;
  for (const int64_t size : sizes) text << (text.tellp() == 0 ? "[" : ", ") << size;
  text << (sizes.empty() ? "[]" : "]");
  return text.str();
}

// Throws a sentence made of the parts, which Python sees as a ValueError.
template <class... Parts>
[[noreturn]] void refuse(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

}  // namespace proxyless
