// What is expected, said when it is not so, and the exit code of a test program.
#pragma once

#include <cstdio>
#include <string>

namespace proxyless::testing {

// CTest shows a test program that ends with this code as skipped.
constexpr int kSkipped = 77;

class Expectations {
 public:
  void expect(bool holds, const std::string& what) {
    ++checks_;
    if (holds) return;
    ++failures_;
    std::printf("FAILED: %s\n", what.c_str());
  }

  int exit_code() const {
    std::printf("%d checks, %d failed\n", checks_, failures_);
    return failures_ == 0 ? 0 : 1;
  }

 private:
  int checks_ = 0, failures_ = 0;
};

}  // namespace proxyless::testing
