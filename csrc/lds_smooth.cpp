// SPDX-License-Identifier: BSD-3-Clause
#include "eegfast/lds_smooth.h"

#include <torch/csrc/stable/accelerator.h>

#include <optional>
#include <tuple>

#include "stable_compat.h"

namespace eegfast {
namespace {

struct Gains {
  Gains(int64_t windows, double q, double r, double p0) : kalman(windows), rts(windows) {
    lds_gains(windows, q, r, p0, kalman.data(), rts.data());
  }
  std::vector<double> kalman, rts;
};

// y: (..., windows, n_chans, bands), contiguous.
LdsSmooth params(const Tensor& y, bool causal) {
  const int64_t dims = y.dim();
  LdsSmooth p{};
  p.dtype = kernel_dtype("lds_smooth", y);
  p.y = y.const_data_ptr();
  p.windows = y.size(dims - 3);
  p.features = y.size(dims - 2) * y.size(dims - 1);
  p.batch = y.numel() ? y.numel() / (p.windows * p.features) : 0;
  p.causal = causal;
  return p;
}

Tensor empty_contiguous(const Tensor& like) {
  return empty_like_shape(like, {like.sizes().begin(), like.sizes().end()});
}

Tensor empty_series(const Tensor& y) {
  std::vector<int64_t> shape(y.sizes().begin(), y.sizes().end());
  shape.erase(shape.end() - 3);
  return empty_like_shape(y, shape);
}

Tensor lds_smooth(const Tensor& y, std::optional<Tensor> prior, double q, double r, double p0,
                  bool causal) {
  const Tensor flat = as_contiguous(y);
  const Tensor flat_prior = prior ? as_contiguous(*prior) : flat;
  LdsSmooth p = params(flat, causal);
  Tensor out = empty_contiguous(flat);
  if (out.numel() == 0) return out;
  const Gains gains(p.windows, q, r, p0);
  p.kalman = gains.kalman.data();
  p.rts = gains.rts.data();
  if (prior) p.prior = flat_prior.const_data_ptr();
  p.out = out.mutable_data_ptr();
  lds_smooth_cpu(p, cpu_isa(), torch_threads);
  return out;
}

std::tuple<Tensor, Tensor> lds_smooth_backward(const Tensor& grad, double q, double r, double p0,
                                               bool causal, bool own_prior) {
  const Tensor flat = as_contiguous(grad);
  LdsSmooth p = params(flat, causal);
  Tensor out = empty_contiguous(flat), grad_prior = empty_series(flat);
  if (out.numel() == 0) return {out, torch::stable::fill_(grad_prior, 0)};
  const Gains gains(p.windows, q, r, p0);
  p.kalman = gains.kalman.data();
  p.rts = gains.rts.data();
  p.own_prior = own_prior;
  p.out = out.mutable_data_ptr();
  p.grad_prior = grad_prior.mutable_data_ptr();
  lds_smooth_backward_cpu(p, cpu_isa(), torch_threads);
  return {out, grad_prior};
}

#if defined(EEGFAST_WITH_CUDA)
// The gains, (2, windows) float64, on the device of `like`.
Tensor gains_on_device(const Tensor& like, int64_t windows, double q, double r, double p0) {
  const Gains gains(windows, q, r, p0);
  const std::vector<int64_t> shape{2, windows};
  const torch::headeronly::IntHeaderOnlyArrayRef sizes(shape.data(), shape.size());
  Tensor host = torch::stable::empty(sizes, ScalarType::Double, std::nullopt,
                                     torch::stable::Device(torch::headeronly::DeviceType::CPU));
  double* values = static_cast<double*>(host.mutable_data_ptr());
  std::copy(gains.kalman.begin(), gains.kalman.end(), values);
  std::copy(gains.rts.begin(), gains.rts.end(), values + windows);
  return torch::stable::to(host, like.device());
}

void check_launch(int error) {
  STD_TORCH_CHECK(error == 0, "eegfast.ops.lds_smooth: CUDA error: ", cuda_error_string(error));
}

Tensor lds_smooth_on_cuda(const Tensor& y, std::optional<Tensor> prior, double q, double r,
                          double p0, bool causal) {
  const torch::stable::accelerator::DeviceGuard guard(y.get_device_index());
  const Tensor flat = as_contiguous(y);
  const Tensor flat_prior = prior ? as_contiguous(*prior) : flat;
  LdsSmooth p = params(flat, causal);
  Tensor out = empty_contiguous(flat);
  if (out.numel() == 0) return out;
  const Tensor gains = gains_on_device(flat, p.windows, q, r, p0);
  p.kalman = static_cast<const double*>(gains.const_data_ptr());
  p.rts = p.kalman + p.windows;
  if (prior) p.prior = flat_prior.const_data_ptr();
  p.out = out.mutable_data_ptr();
  check_launch(lds_smooth_cuda(p, current_cuda_stream(y.get_device_index())));
  return out;
}

std::tuple<Tensor, Tensor> lds_smooth_backward_on_cuda(const Tensor& grad, double q, double r,
                                                       double p0, bool causal, bool own_prior) {
  const torch::stable::accelerator::DeviceGuard guard(grad.get_device_index());
  const Tensor flat = as_contiguous(grad);
  LdsSmooth p = params(flat, causal);
  Tensor out = empty_contiguous(flat), grad_prior = empty_series(flat);
  if (out.numel() == 0) return {out, torch::stable::fill_(grad_prior, 0)};
  const Tensor gains = gains_on_device(flat, p.windows, q, r, p0);
  p.kalman = static_cast<const double*>(gains.const_data_ptr());
  p.rts = p.kalman + p.windows;
  p.own_prior = own_prior;
  p.out = out.mutable_data_ptr();
  p.grad_prior = grad_prior.mutable_data_ptr();
  check_launch(lds_smooth_backward_cuda(p, current_cuda_stream(grad.get_device_index())));
  return {out, grad_prior};
}
#endif

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(eegfast, CPU, m) {
  m.impl("lds_smooth", TORCH_BOX(&lds_smooth));
  m.impl("lds_smooth_backward", TORCH_BOX(&lds_smooth_backward));
}

#if defined(EEGFAST_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(eegfast, CUDA, m) {
  m.impl("lds_smooth", TORCH_BOX(&lds_smooth_on_cuda));
  m.impl("lds_smooth_backward", TORCH_BOX(&lds_smooth_backward_on_cuda));
}
#endif

}  // namespace eegfast
