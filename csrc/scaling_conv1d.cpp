// SPDX-License-Identifier: BSD-3-Clause
#include "eegfast/scaling_conv1d.h"

#include <optional>
#include <tuple>

#include "stable_compat.h"

namespace eegfast {
namespace {

// (..., n_chans, filters, levels, last)
std::vector<int64_t> output_shape(const Tensor& x, int64_t filters, int64_t levels, int64_t last) {
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape.back() = filters;
  shape.insert(shape.end(), {levels, last});
  return shape;
}

bool fits(const Tensor& values, const Signal& x, int64_t filters, int64_t last) {
  return values.dim() == 3 && (values.size(0) == 1 || values.size(0) == x.n_chans) &&
         values.size(1) == filters && values.size(2) == last &&
         values.scalar_type() == x.tensor.scalar_type();
}

int64_t levels_down_to_one(int64_t length) {
  int64_t levels = 1;
  for (; length > 1; length = scaling_next_length(length)) ++levels;
  return levels;
}

ScalingConv1d params(DType dtype, const Signal& x, const Tensor& weight, int64_t levels,
                     bool count_include_pad) {
  STD_TORCH_CHECK(weight.dim() == 3 && fits(weight, x, weight.size(1), weight.size(2)) &&
                      weight.size(2) % 2 == 1 && levels >= 1 &&
                      levels <= levels_down_to_one(weight.size(2)),
                  "eegfast::scaling_conv1d: bad weight or levels");
  ScalingConv1d p{};
  p.dtype = dtype;
  p.x = x.tensor.const_data_ptr();
  p.stride_batch = x.stride_batch;
  p.stride_chan = x.stride_chan;
  p.weight = weight.const_data_ptr();
  p.batch = x.batch;
  p.n_chans = x.n_chans;
  p.n_times = x.n_times;
  p.weight_chans = weight.size(0);
  p.filters = weight.size(1);
  p.length = weight.size(2);
  p.levels = levels;
  p.count_include_pad = count_include_pad;
  return p;
}

// Calls run(p) unless there is nothing to compute.
template <class Run>
std::tuple<Tensor, Tensor> forward(DType dtype, const Tensor& x, const Tensor& weight,
                                   const std::optional<Tensor>& bias, int64_t levels, bool relu,
                                   bool count_include_pad, bool save_mask, const Run& run) {
  const Signal signal = as_signal(x);
  const Tensor flat_weight = as_contiguous(weight);
  ScalingConv1d p = params(dtype, signal, flat_weight, levels, count_include_pad);
  const Tensor flat_bias = bias ? as_contiguous(*bias) : flat_weight;
  if (bias) {
    STD_TORCH_CHECK(fits(flat_bias, signal, p.filters, levels),
                    "eegfast::scaling_conv1d: bad bias");
    p.bias = flat_bias.const_data_ptr();
    p.bias_chans = flat_bias.size(0);
  }
  p.relu = relu;
  Tensor out = empty_like_shape(x, output_shape(x, p.filters, levels, p.n_times));
  const bool masked = relu && save_mask;
  Tensor mask =
      empty_like_shape(x,
                       masked ? output_shape(x, p.filters, levels, scaling_mask_bytes(p.n_times))
                              : std::vector<int64_t>{0},
                       ScalarType::Byte);
  p.out = out.mutable_data_ptr();
  if (masked) p.positive = static_cast<uint8_t*>(mask.mutable_data_ptr());
  if (out.numel()) run(p);
  return {out, mask};
}

// Gradients that are not wanted come back empty.
template <class Run>
std::tuple<Tensor, Tensor, Tensor> backward(DType dtype, const Tensor& grad, const Tensor& x,
                                            const Tensor& weight, const std::optional<Tensor>& mask,
                                            int64_t bias_chans, int64_t levels,
                                            bool count_include_pad, bool need_x, bool need_weight,
                                            bool need_bias, const Run& run) {
  const Signal signal = as_signal(x);
  const Tensor flat_weight = as_contiguous(weight), flat_grad = as_contiguous(grad);
  const Tensor flat_mask = mask ? as_contiguous(*mask) : flat_grad;
  ScalingConv1d p = params(dtype, signal, flat_weight, levels, count_include_pad);
  p.bias_chans = bias_chans;
  STD_TORCH_CHECK(grad.numel() == p.batch * p.n_chans * p.filters * levels * p.n_times &&
                      grad.scalar_type() == x.scalar_type() && (!need_bias || bias_chans > 0) &&
                      (!mask || (flat_mask.scalar_type() == ScalarType::Byte &&
                                 flat_mask.numel() == p.batch * p.n_chans * p.filters * levels *
                                                          scaling_mask_bytes(p.n_times))),
                  "eegfast::scaling_conv1d_backward: bad grad, mask or bias_chans");
  const auto wanted = [&](bool need, std::vector<int64_t> shape) {
    return empty_like_shape(x, need ? shape : std::vector<int64_t>{0});
  };
  Tensor grad_x = wanted(need_x, {x.sizes().begin(), x.sizes().end()});
  Tensor grad_weight = wanted(need_weight, {p.weight_chans, p.filters, p.length});
  Tensor grad_bias = wanted(need_bias, {bias_chans, p.filters, levels});
  if (grad.numel() == 0) {
    torch::stable::fill_(grad_x, 0);
    torch::stable::fill_(grad_weight, 0);
    torch::stable::fill_(grad_bias, 0);
    return {grad_x, grad_weight, grad_bias};
  }
  p.grad = flat_grad.const_data_ptr();
  if (mask) p.kept = static_cast<const uint8_t*>(flat_mask.const_data_ptr());
  if (need_x) p.grad_x = grad_x.mutable_data_ptr();
  if (need_weight) p.grad_weight = grad_weight.mutable_data_ptr();
  if (need_bias) p.grad_bias = grad_bias.mutable_data_ptr();
  run(p);
  return {grad_x, grad_weight, grad_bias};
}

std::tuple<Tensor, Tensor> scaling_conv1d(const Tensor& x, const Tensor& weight,
                                          std::optional<Tensor> bias, int64_t levels, bool relu,
                                          bool count_include_pad, bool save_mask) {
  return forward(kernel_dtype("scaling_conv1d", x), x, weight, bias, levels, relu,
                 count_include_pad, save_mask,
                 [](const ScalingConv1d& p) { scaling_conv1d_cpu(p, cpu_isa(), torch_threads); });
}

std::tuple<Tensor, Tensor, Tensor> scaling_conv1d_backward(const Tensor& grad, const Tensor& x,
                                                           const Tensor& weight,
                                                           std::optional<Tensor> mask,
                                                           int64_t bias_chans, int64_t levels,
                                                           bool count_include_pad, bool need_x,
                                                           bool need_weight, bool need_bias) {
  return backward(kernel_dtype("scaling_conv1d", x), grad, x, weight, mask, bias_chans, levels,
                  count_include_pad, need_x, need_weight, need_bias, [](const ScalingConv1d& p) {
                    scaling_conv1d_backward_cpu(p, cpu_isa(), torch_threads);
                  });
}

#if defined(EEGFAST_HAS_CUDA_KERNELS)
std::tuple<Tensor, Tensor> scaling_conv1d_on_cuda(const Tensor& x, const Tensor& weight,
                                                  std::optional<Tensor> bias, int64_t levels,
                                                  bool relu, bool count_include_pad,
                                                  bool save_mask) {
  const OnDevice device(x);
  return forward(cuda_kernel_dtype("scaling_conv1d", x), x, weight, bias, levels, relu,
                 count_include_pad, save_mask, [&](ScalingConv1d& p) {
                   const Tensor workspace = workspace_like(x, scaling_conv1d_workspace(p));
                   if (workspace.numel()) p.workspace = workspace.mutable_data_ptr();
                   check_launch("scaling_conv1d", scaling_conv1d_cuda(p, device.stream()));
                 });
}

std::tuple<Tensor, Tensor, Tensor> scaling_conv1d_backward_on_cuda(
    const Tensor& grad, const Tensor& x, const Tensor& weight, std::optional<Tensor> mask,
    int64_t bias_chans, int64_t levels, bool count_include_pad, bool need_x, bool need_weight,
    bool need_bias) {
  const OnDevice device(x);
  return backward(
      cuda_kernel_dtype("scaling_conv1d", x), grad, x, weight, mask, bias_chans, levels,
      count_include_pad, need_x, need_weight, need_bias, [&](ScalingConv1d& p) {
        const Tensor workspace = workspace_like(x, scaling_conv1d_backward_workspace(p));
        if (workspace.numel()) p.workspace = workspace.mutable_data_ptr();
        check_launch("scaling_conv1d", scaling_conv1d_backward_cuda(p, device.stream()));
      });
}
#endif

}  // namespace

#if !defined(EEGFAST_EMULATED)
STABLE_TORCH_LIBRARY_IMPL(eegfast, CPU, m) {
  m.impl("scaling_conv1d", TORCH_BOX(&scaling_conv1d));
  m.impl("scaling_conv1d_backward", TORCH_BOX(&scaling_conv1d_backward));
}
#endif

#if defined(EEGFAST_HAS_CUDA_KERNELS)
EEGFAST_CUDA_KERNELS(m) {
  m.impl("scaling_conv1d", TORCH_BOX(&scaling_conv1d_on_cuda));
  m.impl("scaling_conv1d_backward", TORCH_BOX(&scaling_conv1d_backward_on_cuda));
}
#endif

}  // namespace eegfast
