// The operators of the `proxyless` namespace. Every device's library implements them.
//
// What the arguments are is said in proxyless_ext/reference.py, which has the same functions.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(proxyless, m) {
  m.def("mbconv_moments(Tensor x, int kernel, int stride) -> Tensor");
  m.def(
      "mbconv_forward(Tensor x, Tensor? expand, Tensor depthwise, Tensor project, Tensor scale, "
      "Tensor shift, Tensor? mean, Tensor? var, float eps, int stride, int expand_stride, "
      "bool residual, bool save, bool tf32=False) "
      "-> (Tensor y, Tensor p, Tensor mean, Tensor var, Tensor moments)");
  m.def(
      "mbconv_backward(Tensor grad, Tensor x, Tensor? expand, Tensor depthwise, Tensor project, "
      "Tensor scale, Tensor shift, Tensor p, Tensor mean, Tensor var, Tensor moments, float eps, "
      "int stride, int expand_stride, bool residual, bool batch_statistics, bool input_grad, "
      "bool weight_grads, bool tf32=False) "
      "-> (Tensor dx, Tensor dexpand, Tensor ddepthwise, Tensor dproject, Tensor dscale, "
      "Tensor dshift)");
  m.def(
      "mbconv_gate_probe(Tensor grad, Tensor x, Tensor? expand, Tensor depthwise, Tensor project, "
      "Tensor scale, Tensor shift, Tensor? mean, Tensor? var, Tensor? moments, float eps, "
      "int stride, int expand_stride, bool tf32=False) -> Tensor");
  m.def("separable_statistics(Tensor x) -> (Tensor mean, Tensor var)");
  m.def(
      "separable_forward(Tensor x, Tensor depthwise, Tensor pointwise, Tensor scale, Tensor shift, "
      "Tensor mean, Tensor var, float eps, int stride, int dilation, bool batch_statistics) "
      "-> Tensor");
  m.def(
      "separable_backward(Tensor grad, Tensor x, Tensor depthwise, Tensor pointwise, Tensor scale, "
      "Tensor shift, Tensor mean, Tensor var, float eps, int stride, int dilation, "
      "bool batch_statistics, bool input_grad, bool weight_grads) "
      "-> (Tensor dx, Tensor ddepthwise, Tensor dpointwise, Tensor dscale, Tensor dshift)");
  m.def(
      "separable_gate_probe(Tensor grad, Tensor x, Tensor depthwise, Tensor pointwise, "
      "Tensor scale, Tensor shift, Tensor mean, Tensor var, float eps, int stride, int dilation) "
      "-> Tensor");
  m.def("pool_forward(Tensor x, int kernel, int stride, bool maximum) -> (Tensor y, Tensor taps)");
  m.def(
      "pool_backward(Tensor grad, Tensor taps, int height, int width, int kernel, int stride, "
      "bool maximum) -> Tensor");
  m.def("pool_gate_probe(Tensor grad, Tensor x, int kernel, int stride, bool maximum) -> Tensor");
  m.def("alpha_gradient(Tensor alpha, Tensor gate_gradient) -> Tensor");
}
