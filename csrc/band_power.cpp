// SPDX-License-Identifier: BSD-3-Clause
#include "eegfast/band_power.h"

#include "stable_compat.h"

namespace eegfast {
namespace {

BandPower params(DType dtype, const Signal& x, const Tensor& taper, int64_t window, int64_t step,
                 int64_t n_fft, const std::vector<int64_t>& bins, double gain, bool log2) {
  const ScalarType taper_type = dtype == DType::kFloat64 ? ScalarType::Double : ScalarType::Float;
  STD_TORCH_CHECK(window > 0 && step > 0 && n_fft > 0 && bins.size() % 2 == 0 &&
                      taper.numel() == window && taper.scalar_type() == taper_type,
                  "eegfast::band_power: bad window, step, n_fft, bins or taper");
  for (size_t b = 0; b < bins.size(); b += 2)
    STD_TORCH_CHECK(0 <= bins[b] && bins[b] < bins[b + 1] && bins[b + 1] <= n_fft / 2 + 1,
                    "eegfast::band_power: bad bins");
  BandPower p{};
  p.dtype = dtype;
  p.x = x.tensor.const_data_ptr();
  p.stride_batch = x.stride_batch;
  p.stride_chan = x.stride_chan;
  p.taper = taper.const_data_ptr();
  p.batch = x.batch;
  p.n_chans = x.n_chans;
  p.n_times = x.n_times;
  p.windows = count_windows(x.n_times, window, step);
  p.window = window;
  p.step = step;
  p.n_fft = n_fft;
  p.bins = bins.data();
  p.bands = int64_t(bins.size() / 2);
  p.gain = gain;
  p.log2 = log2;
  return p;
}

Tensor band_power(const Tensor& x, const Tensor& taper, int64_t window, int64_t step, int64_t n_fft,
                  std::vector<int64_t> bins, double gain, bool log2) {
  const Signal signal = as_signal(x);
  const Tensor flat_taper = as_contiguous(taper);
  BandPower p = params(kernel_dtype("band_power", x), signal, flat_taper, window, step, n_fft, bins,
                       gain, log2);
  Tensor out = empty_like_shape(x, feature_shape(x, p.windows, p.bands));
  p.out = out.mutable_data_ptr();
  if (out.numel()) band_power_cpu(p, cpu_isa(), torch_threads);
  return out;
}

Tensor band_power_backward(const Tensor& grad, const Tensor& x, const Tensor& taper, int64_t window,
                           int64_t step, int64_t n_fft, std::vector<int64_t> bins, double gain,
                           bool log2) {
  const Signal signal = as_signal(x);
  const Tensor flat_taper = as_contiguous(taper);
  const Tensor flat_grad = as_contiguous(grad);
  BandPower p = params(kernel_dtype("band_power", x), signal, flat_taper, window, step, n_fft, bins,
                       gain, log2);
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  Tensor out = empty_like_shape(x, shape);
  if (grad.numel() == 0) return torch::stable::fill_(out, 0);
  p.grad = flat_grad.const_data_ptr();
  p.out = out.mutable_data_ptr();
  band_power_backward_cpu(p, cpu_isa(), torch_threads);
  return out;
}

#if defined(EEGFAST_HAS_CUDA_KERNELS)
Tensor band_power_on_cuda(const Tensor& x, const Tensor& taper, int64_t window, int64_t step,
                          int64_t n_fft, std::vector<int64_t> bins, double gain, bool log2) {
  const OnDevice device(x);
  const Signal signal = as_signal(x);
  const Tensor flat_taper = as_contiguous(taper);
  BandPower p = params(cuda_kernel_dtype("band_power", x), signal, flat_taper, window, step, n_fft,
                       bins, gain, log2);
  Tensor out = empty_like_shape(x, feature_shape(x, p.windows, p.bands));
  if (out.numel() == 0) return out;
  const Tensor workspace = workspace_like(x, band_power_workspace(p, false));
  if (workspace.numel()) p.workspace = workspace.mutable_data_ptr();
  p.out = out.mutable_data_ptr();
  check_launch("band_power", band_power_cuda(p, device.stream()));
  return out;
}

Tensor band_power_backward_on_cuda(const Tensor& grad, const Tensor& x, const Tensor& taper,
                                   int64_t window, int64_t step, int64_t n_fft,
                                   std::vector<int64_t> bins, double gain, bool log2) {
  const OnDevice device(x);
  const Signal signal = as_signal(x);
  const Tensor flat_taper = as_contiguous(taper);
  const Tensor flat_grad = as_contiguous(grad);
  BandPower p = params(cuda_kernel_dtype("band_power", x), signal, flat_taper, window, step, n_fft,
                       bins, gain, log2);
  Tensor out = empty_like_shape(x, {x.sizes().begin(), x.sizes().end()});
  if (grad.numel() == 0) return torch::stable::fill_(out, 0);
  const Tensor workspace = workspace_like(x, band_power_workspace(p, true));
  if (workspace.numel()) p.workspace = workspace.mutable_data_ptr();
  p.grad = flat_grad.const_data_ptr();
  p.out = out.mutable_data_ptr();
  check_launch("band_power", band_power_backward_cuda(p, device.stream()));
  return out;
}
#endif

}  // namespace

#if !defined(EEGFAST_EMULATED)
STABLE_TORCH_LIBRARY_IMPL(eegfast, CPU, m) {
  m.impl("band_power", TORCH_BOX(&band_power));
  m.impl("band_power_backward", TORCH_BOX(&band_power_backward));
}
#endif

#if defined(EEGFAST_HAS_CUDA_KERNELS)
EEGFAST_CUDA_KERNELS(m) {
  m.impl("band_power", TORCH_BOX(&band_power_on_cuda));
  m.impl("band_power_backward", TORCH_BOX(&band_power_backward_on_cuda));
}
#endif

}  // namespace eegfast
