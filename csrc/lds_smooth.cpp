// SPDX-License-Identifier: BSD-3-Clause
#include "eegfast/lds_smooth.h"

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
LdsSmooth params(DType dtype, const Tensor& y, bool causal) {
  const int64_t dims = y.dim();
  LdsSmooth p{};
  p.dtype = dtype;
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
  LdsSmooth p = params(kernel_dtype("lds_smooth", flat), flat, causal);
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
  LdsSmooth p = params(kernel_dtype("lds_smooth", flat), flat, causal);
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

#if defined(EEGFAST_HAS_CUDA_KERNELS)
LdsSmooth cuda_params(const Tensor& y, double q, double r, double p0, bool causal) {
  LdsSmooth p = params(cuda_kernel_dtype("lds_smooth", y), y, causal);
  p.q = q;
  p.r = r;
  p.p0 = p0;
  return p;
}

Tensor lds_smooth_on_cuda(const Tensor& y, std::optional<Tensor> prior, double q, double r,
                          double p0, bool causal) {
  const OnDevice device(y);
  const Tensor flat = as_contiguous(y);
  const Tensor flat_prior = prior ? as_contiguous(*prior) : flat;
  LdsSmooth p = cuda_params(flat, q, r, p0, causal);
  Tensor out = empty_contiguous(flat);
  if (out.numel() == 0) return out;
  const Tensor workspace = workspace_like(flat, causal ? 0 : lds_smooth_workspace(p));
  if (workspace.numel()) p.workspace = workspace.mutable_data_ptr();
  if (prior) p.prior = flat_prior.const_data_ptr();
  p.out = out.mutable_data_ptr();
  check_launch("lds_smooth", lds_smooth_cuda(p, device.stream()));
  return out;
}

std::tuple<Tensor, Tensor> lds_smooth_backward_on_cuda(const Tensor& grad, double q, double r,
                                                       double p0, bool causal, bool own_prior) {
  const OnDevice device(grad);
  const Tensor flat = as_contiguous(grad);
  LdsSmooth p = cuda_params(flat, q, r, p0, causal);
  Tensor out = empty_contiguous(flat), grad_prior = empty_series(flat);
  if (out.numel() == 0) return {out, torch::stable::fill_(grad_prior, 0)};
  const Tensor workspace = workspace_like(flat, lds_smooth_workspace(p));
  if (workspace.numel()) p.workspace = workspace.mutable_data_ptr();
  p.own_prior = own_prior;
  p.out = out.mutable_data_ptr();
  p.grad_prior = grad_prior.mutable_data_ptr();
  check_launch("lds_smooth", lds_smooth_backward_cuda(p, device.stream()));
  return {out, grad_prior};
}
#endif

}  // namespace

#if !defined(EEGFAST_EMULATED)
STABLE_TORCH_LIBRARY_IMPL(eegfast, CPU, m) {
  m.impl("lds_smooth", TORCH_BOX(&lds_smooth));
  m.impl("lds_smooth_backward", TORCH_BOX(&lds_smooth_backward));
}
#endif

#if defined(EEGFAST_HAS_CUDA_KERNELS)
EEGFAST_CUDA_KERNELS(m) {
  m.impl("lds_smooth", TORCH_BOX(&lds_smooth_on_cuda));
  m.impl("lds_smooth_backward", TORCH_BOX(&lds_smooth_backward_on_cuda));
}
#endif

}  // namespace eegfast
