// SPDX-License-Identifier: BSD-3-Clause
#include "eegfast/bandpass_power.h"

#include "stable_compat.h"

namespace eegfast {
namespace {

BandpassPower params(DType dtype, const Signal& x, const Tensor& sos, int64_t window, int64_t step,
                     int64_t ddof) {
  STD_TORCH_CHECK(window > 0 && step > 0 && ddof >= 0 && ddof < window && sos.dim() == 3 &&
                      sos.size(2) == 6 && sos.is_cpu() && sos.scalar_type() == ScalarType::Double,
                  "eegfast::bandpass_power: bad sos, window, step or ddof");
  BandpassPower p{};
  p.dtype = dtype;
  p.x = x.tensor.const_data_ptr();
  p.stride_batch = x.stride_batch;
  p.stride_chan = x.stride_chan;
  p.sos = static_cast<const double*>(sos.const_data_ptr());
  p.batch = x.batch;
  p.n_chans = x.n_chans;
  p.n_times = x.n_times;
  p.windows = count_windows(x.n_times, window, step);
  p.window = window;
  p.step = step;
  p.bands = sos.size(0);
  p.n_sections = sos.size(1);
  p.ddof = ddof;
  return p;
}

template <class Run>
Tensor forward(DType dtype, const Tensor& x, const Tensor& sos, int64_t window, int64_t step,
               int64_t ddof, const Run& run) {
  const Signal signal = as_signal(x);
  const Tensor flat_sos = as_contiguous(sos);
  BandpassPower p = params(dtype, signal, flat_sos, window, step, ddof);
  Tensor out = empty_like_shape(x, feature_shape(x, p.windows, p.bands));
  p.out = out.mutable_data_ptr();
  if (out.numel()) run(p);
  return out;
}

template <class Run>
Tensor backward(DType dtype, const Tensor& grad, const Tensor& x, const Tensor& sos, int64_t window,
                int64_t step, int64_t ddof, const Run& run) {
  const Signal signal = as_signal(x);
  const Tensor flat_sos = as_contiguous(sos);
  const Tensor flat_grad = as_contiguous(grad);
  BandpassPower p = params(dtype, signal, flat_sos, window, step, ddof);
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  Tensor out = empty_like_shape(x, shape);
  if (grad.numel() == 0) return torch::stable::fill_(out, 0);
  p.grad = flat_grad.const_data_ptr();
  p.out = out.mutable_data_ptr();
  run(p);
  return out;
}

Tensor bandpass_power(const Tensor& x, const Tensor& sos, int64_t window, int64_t step,
                      int64_t ddof) {
  return forward(kernel_dtype("bandpass_power", x), x, sos, window, step, ddof,
                 [](const BandpassPower& p) { bandpass_power_cpu(p, cpu_isa(), torch_threads); });
}

Tensor bandpass_power_backward(const Tensor& grad, const Tensor& x, const Tensor& sos,
                               int64_t window, int64_t step, int64_t ddof) {
  return backward(
      kernel_dtype("bandpass_power", x), grad, x, sos, window, step, ddof,
      [](const BandpassPower& p) { bandpass_power_backward_cpu(p, cpu_isa(), torch_threads); });
}

#if defined(EEGFAST_HAS_CUDA_KERNELS)
void run_on_cuda(BandpassPower p, const Tensor& x, void* stream,
                 int64_t (*workspace_of)(const BandpassPower&),
                 int (*launch)(const BandpassPower&, void*)) {
  const Tensor workspace = workspace_like(x, workspace_of(p));
  if (workspace.numel()) p.workspace = workspace.mutable_data_ptr();
  check_launch("bandpass_power", launch(p, stream));
}

Tensor bandpass_power_on_cuda(const Tensor& x, const Tensor& sos, int64_t window, int64_t step,
                              int64_t ddof) {
  const OnDevice device(x);
  return forward(cuda_kernel_dtype("bandpass_power", x), x, sos, window, step, ddof,
                 [&](const BandpassPower& p) {
                   run_on_cuda(p, x, device.stream(), bandpass_power_workspace,
                               bandpass_power_cuda);
                 });
}

Tensor bandpass_power_backward_on_cuda(const Tensor& grad, const Tensor& x, const Tensor& sos,
                                       int64_t window, int64_t step, int64_t ddof) {
  const OnDevice device(x);
  return backward(cuda_kernel_dtype("bandpass_power", x), grad, x, sos, window, step, ddof,
                  [&](const BandpassPower& p) {
                    run_on_cuda(p, x, device.stream(), bandpass_power_backward_workspace,
                                bandpass_power_backward_cuda);
                  });
}
#endif

}  // namespace

#if !defined(EEGFAST_EMULATED)
STABLE_TORCH_LIBRARY_IMPL(eegfast, CPU, m) {
  m.impl("bandpass_power", TORCH_BOX(&bandpass_power));
  m.impl("bandpass_power_backward", TORCH_BOX(&bandpass_power_backward));
}
#endif

#if defined(EEGFAST_HAS_CUDA_KERNELS)
EEGFAST_CUDA_KERNELS(m) {
  m.impl("bandpass_power", TORCH_BOX(&bandpass_power_on_cuda));
  m.impl("bandpass_power_backward", TORCH_BOX(&bandpass_power_backward_on_cuda));
}
#endif

}  // namespace eegfast
