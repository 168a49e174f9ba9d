// SPDX-License-Identifier: BSD-3-Clause
// Every operator of eegfast. Kernels are registered beside their argument checks in <op>.cpp; fake
// kernels, autograd and the reference in eegfast/ops/<op>.py.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(eegfast, m) {
  m.def(
      "band_power(Tensor x, Tensor taper, int window, int step, int n_fft, int[] bins, float gain, "
      "bool log2) -> Tensor");
  m.def(
      "band_power_backward(Tensor grad, Tensor x, Tensor taper, int window, int step, int n_fft, "
      "int[] bins, float gain, bool log2) -> Tensor");
  m.def("bandpass_power(Tensor x, Tensor sos, int window, int step, int ddof) -> Tensor");
  m.def(
      "bandpass_power_backward(Tensor grad, Tensor x, Tensor sos, int window, int step, int ddof) "
      "-> Tensor");
  m.def("filter_bank_power(Tensor x, Tensor taps, int head, int tail) -> (Tensor, Tensor, Tensor)");
  m.def(
      "filter_bank_power_backward(Tensor? grad_total, Tensor? grad_squares, Tensor x, Tensor taps, "
      "Tensor? sums, int head, int tail, bool need_x) -> (Tensor, Tensor)");
  m.def(
      "depthwise_conv3d(Tensor x, Tensor weight, Tensor? bias, Tensor? in_scale, Tensor? in_shift, "
      "Tensor? out_scale, Tensor? out_shift, int[] stride, int[] padding, bool in_relu, "
      "bool out_relu) -> Tensor");
  m.def(
      "depthwise_conv3d_backward(Tensor grad, Tensor x, Tensor weight, Tensor? bias, "
      "Tensor? in_scale, Tensor? in_shift, Tensor? out_scale, Tensor? y, int[] stride, "
      "int[] padding, bool in_relu, bool out_relu, int[] wanted) -> (Tensor, Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor)");
  m.def("lds_smooth(Tensor y, Tensor? prior, float q, float r, float p0, bool causal) -> Tensor");
  m.def(
      "lds_smooth_backward(Tensor grad, float q, float r, float p0, bool causal, bool own_prior) "
      "-> (Tensor, Tensor)");
  m.def(
      "mobile_unit3d(Tensor x, Tensor norm1_weight, Tensor norm1_bias, Tensor expand_weight, "
      "Tensor norm2_weight, Tensor norm2_bias, Tensor depthwise_weight, Tensor project_weight, "
      "Tensor? mean1, Tensor? var1, Tensor? mean2, Tensor? var2, float eps1, float eps2, "
      "bool concat) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "mobile_unit3d_backward(Tensor grad, Tensor x, Tensor norm1_weight, Tensor norm1_bias, "
      "Tensor expand_weight, Tensor norm2_weight, Tensor norm2_bias, Tensor depthwise_weight, "
      "Tensor project_weight, Tensor mean1, Tensor var1, Tensor mean2, Tensor var2, bool batch1, "
      "bool batch2, float eps1, float eps2, bool concat, bool filters) -> (Tensor, Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "scaling_conv1d(Tensor x, Tensor weight, Tensor? bias, int levels, bool relu, "
      "bool count_include_pad, bool save_mask) -> (Tensor, Tensor)");
  m.def(
      "scaling_conv1d_backward(Tensor grad, Tensor x, Tensor weight, Tensor? mask, int bias_chans, "
      "int levels, bool count_include_pad, bool need_x, bool need_weight, bool need_bias) "
      "-> (Tensor, Tensor, Tensor)");
}
