// Checks of tensors that the operators have in common: of types and devices.
//
// None looks at the values in a tensor, which on a GPU would have to be waited for.
#pragma once

#include "host/checks.h"
#include "kernels/mbconv.h"
#include "ops/tensors.h"

namespace proxyless::ops {

// How pictures like `x` and their weights are stored.
DType dtype_of(const Checks& check, const Tensor& x);

// How per-channel vectors that go with `x` are stored.
ScalarType vector_type(const Tensor& x);

// That a tensor goes with x.
void check_kind(const Checks& check, const char* name, const Tensor& tensor, ScalarType type,
                const Tensor& x);
void check_vector(const Checks& check, const char* name, const Tensor& vector, const Tensor& x);

// That every value is finite; on the CPU, where looking at them costs nothing.
void check_finite(const Checks& check, const char* name, const void* vector, DType dtype,
                  int64_t count);

}  // namespace proxyless::ops
