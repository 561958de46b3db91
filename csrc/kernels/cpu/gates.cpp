#include "kernels/cpu/gates.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/storage.h"

namespace proxyless::cpu {

void alpha_gradient(const AlphaGradient& args) {
  for (int64_t edge = 0; edge < args.edges; ++edge) {
    const int64_t begin = edge * args.candidates, end = begin + args.candidates;
    double highest = -std::numeric_limits<double>::infinity();
    for (int64_t i = begin; i < end; ++i) {
      highest = std::max(highest, read(args.alpha, args.dtype, i));
    }
    const auto power = [&](int64_t i) {
      return std::exp(read(args.alpha, args.dtype, i) - highest);
    };
    double total = 0, mean = 0;
    for (int64_t i = begin; i < end; ++i) {
      total += power(i);
      mean += power(i) * read(args.gate_gradient, args.dtype, i);
    }
    mean /= total;
    for (int64_t i = begin; i < end; ++i) {
      const double difference = read(args.gate_gradient, args.dtype, i) - mean;
      write(args.gradient, args.dtype, i, power(i) / total * difference);
    }
  }
}

}  // namespace proxyless::cpu
