#include "ops/tensor_checks.h"

#include <cmath>

#include "kernels/storage.h"

namespace proxyless::ops {

DType dtype_of(const Checks& check, const Tensor& x) {
  const std::optional<DType> dtype = kernel_dtype(x);
  check(dtype.has_value(), "x must be Float, Double, BFloat16 or Half, not ",
        torch::headeronly::toString(x.scalar_type()));
  return *dtype;
}

ScalarType vector_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_kind(const Checks& check, const char* name, const Tensor& tensor, ScalarType type,
                const Tensor& x) {
  check(tensor.scalar_type() == type, name, " must be ", torch::headeronly::toString(type),
        " to go with x, not ", torch::headeronly::toString(tensor.scalar_type()));
  check(tensor.device() == x.device(), name, " must be on the same device as x");
}

void check_vector(const Checks& check, const char* name, const Tensor& vector, const Tensor& x) {
  check_kind(check, name, vector, vector_type(x), x);
}

void check_finite(const Checks& check, const char* name, const void* vector, DType dtype,
                  int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    check(std::isfinite(read(vector, dtype, i)), name, " has a value that is not finite");
  }
}

}  // namespace proxyless::ops
