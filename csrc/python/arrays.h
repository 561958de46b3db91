// NumPy arrays on the way into a kernel and out of it.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "host/refusal.h"
#include "host/workspace.h"
#include "kernels/mbconv.h"
#include "kernels/storage.h"
#include "threads.h"

namespace proxyless {

namespace py = pybind11;

using OptionalArray = std::optional<py::array>;
using OptionalName = std::optional<std::string>;

inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

// Kernels take no empty batch.
template <class Shape>
Shape with_pictures(const Shape& shape) {
  require(shape.batch > 0, "batch must be positive, not " + std::to_string(shape.batch) + ".");
  return shape;
}

inline DType dtype_of_pictures(const py::array& x) {
  if (py::isinstance<py::array_t<float>>(x)) return DType::kFloat32;
  require(py::isinstance<py::array_t<double>>(x), "x must be float32 or float64.");
  return DType::kFloat64;
}

inline void check_dtype(const char* name, const py::array& array, DType dtype) {
  const bool same = dtype == DType::kFloat64 ? py::isinstance<py::array_t<double>>(array)
                                             : py::isinstance<py::array_t<float>>(array);
  require(same, std::string(name) + " must be " + dtype_name(dtype) + ".");
}

inline Sizes sizes_of(const py::array& array) {
  return Sizes(array.shape(), array.shape() + array.ndim());
}

// [N, C, H, W], as the checks have it.
inline Sizes sizes_of_pictures(const py::array& x) {
  require(x.ndim() == 4, "x must have the shape [N, H, W, C], not " + to_string(sizes_of(x)) + ".");
  return {x.shape(0), x.shape(3), x.shape(1), x.shape(2)};
}

// A dense array that a kernel reads.
inline const void* dense(const char* name, const py::array& array, DType dtype) {
  check_dtype(name, array, dtype);
  require((array.flags() & py::array::c_style) != 0,
          std::string(name) + " must be C-contiguous; pass numpy.ascontiguousarray of it.");
  return array.data();
}

// Pictures that a kernel reads.
inline Pixels pixels(const char* name, const py::array& array, DType dtype) {
  check_dtype(name, array, dtype);
  const py::ssize_t element = array.itemsize();
  bool whole = reinterpret_cast<std::uintptr_t>(array.data()) % static_cast<size_t>(element) == 0;
  for (py::ssize_t i = 0; i < array.ndim(); ++i) whole &= array.strides(i) % element == 0;
  require(whole && (array.shape(3) == 1 || array.strides(3) == element),
          std::string(name) +
              " must have adjacent channels and aligned elements; pass numpy.ascontiguousarray of "
              "it.");
  return {array.data(), array.strides(0) / element, array.strides(1) / element,
          array.strides(2) / element};
}

inline py::array new_array(DType dtype, const Sizes& shape) {
  return py::array(py::dtype(dtype_name(dtype)), shape);
}

// A result like `array`; tells a kernel where it is.
inline py::array result_like(const py::array& array, void*& data) {
  py::array result(array.dtype(), sizes_of(array));
  data = result.mutable_data();
  return result;
}

template <class Args>
void run(Args args, void (*kernel)(const Args&, cpu::Isa), cpu::Isa isa, int64_t workspace_bytes,
         int64_t threads) {
  require(threads >= 1 && threads <= 1024, "threads must be 1 to 1024.");
  const Workspace workspace(static_cast<std::size_t>(workspace_bytes));
  Threads pool(threads);
  args.workspace = workspace.data();
  args.parallel = pool.parallel_for();
  const py::gil_scoped_release release;
  kernel(args, isa);
}

inline py::object array_or_none(const OptionalArray& array) {
  return array ? py::object(*array) : py::object(py::none());
}

}  // namespace proxyless
