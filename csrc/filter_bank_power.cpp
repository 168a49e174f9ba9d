// SPDX-License-Identifier: BSD-3-Clause
#include "eegfast/filter_bank_power.h"

#include <optional>
#include <tuple>

#include "stable_compat.h"

namespace eegfast {
namespace {

FilterBankPower params(DType dtype, const Signal& x, const Tensor& taps, int64_t head,
                       int64_t tail) {
  STD_TORCH_CHECK(taps.dim() == 2 && taps.device() == x.tensor.device() &&
                      taps.scalar_type() == ScalarType::Double && 0 <= head &&
                      head < taps.size(1) && 0 <= tail && tail < taps.size(1) &&
                      head + tail <= x.n_times + taps.size(1) - 1,
                  "eegfast::filter_bank_power: bad taps, head or tail");
  FilterBankPower p{};
  p.dtype = dtype;
  p.x = x.tensor.const_data_ptr();
  p.stride_batch = x.stride_batch;
  p.stride_row = x.stride_chan;
  p.taps = static_cast<const double*>(taps.const_data_ptr());
  p.batch = x.batch;
  p.rows = x.n_chans;
  p.n_times = x.n_times;
  p.filters = taps.size(0);
  p.length = taps.size(1);
  p.head = head;
  p.tail = tail;
  return p;
}

using Forward = std::tuple<Tensor, Tensor, Tensor>;
using Backward = std::tuple<Tensor, Tensor>;

template <class Run>
Forward forward(DType dtype, const Tensor& x, const Tensor& taps, int64_t head, int64_t tail,
                const Run& run) {
  const Signal signal = as_signal(x);
  const Tensor flat_taps = as_contiguous(taps);
  FilterBankPower p = params(dtype, signal, flat_taps, head, tail);
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end() - 1);
  shape.insert(shape.end() - 1, p.filters);
  Tensor total = empty_like_shape(x, shape, ScalarType::Double);
  Tensor squares = empty_like_shape(x, shape, ScalarType::Double);
  Tensor sums = empty_like_shape(x, {p.length + 1, p.batch * p.rows}, ScalarType::Double);
  p.total = static_cast<double*>(total.mutable_data_ptr());
  p.squares = static_cast<double*>(squares.mutable_data_ptr());
  p.sums = static_cast<double*>(sums.mutable_data_ptr());
  if (sums.numel()) run(p);
  return {total, squares, sums};
}

template <class Run>
Backward backward(DType dtype, const std::optional<Tensor>& grad_total,
                  const std::optional<Tensor>& grad_squares, const Tensor& x, const Tensor& taps,
                  const std::optional<Tensor>& sums, int64_t head, int64_t tail, bool need_x,
                  const Run& run) {
  const Signal signal = as_signal(x);
  const Tensor flat_taps = as_contiguous(taps);
  const Tensor flat_total = grad_total ? as_contiguous(*grad_total) : flat_taps;
  const Tensor flat_squares = grad_squares ? as_contiguous(*grad_squares) : flat_taps;
  const Tensor flat_sums = sums ? as_contiguous(*sums) : flat_taps;
  FilterBankPower p = params(dtype, signal, flat_taps, head, tail);
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  Tensor grad_x = empty_like_shape(x, need_x ? shape : std::vector<int64_t>{0});
  shape = sums ? std::vector<int64_t>{p.filters, p.length} : std::vector<int64_t>{0};
  Tensor grad_taps = empty_like_shape(x, shape, ScalarType::Double);
  const auto doubles = [](const Tensor& t) {
    return static_cast<const double*>(t.const_data_ptr());
  };
  if (grad_total) p.grad_total = doubles(flat_total);
  if (grad_squares) p.grad_squares = doubles(flat_squares);
  if (need_x) p.grad_x = grad_x.mutable_data_ptr();
  if (sums) {
    p.sums = static_cast<double*>(flat_sums.mutable_data_ptr());
    p.grad_taps = static_cast<double*>(grad_taps.mutable_data_ptr());
  }
  if (p.batch * p.rows == 0)
    torch::stable::fill_(grad_taps, 0);
  else if (need_x || sums)
    run(p);
  return {grad_x, grad_taps};
}

Forward filter_bank_power(const Tensor& x, const Tensor& taps, int64_t head, int64_t tail) {
  return forward(
      kernel_dtype("filter_bank_power", x), x, taps, head, tail,
      [](const FilterBankPower& p) { filter_bank_power_cpu(p, cpu_isa(), torch_threads); });
}

Backward filter_bank_power_backward(std::optional<Tensor> grad_total,
                                    std::optional<Tensor> grad_squares, const Tensor& x,
                                    const Tensor& taps, std::optional<Tensor> sums, int64_t head,
                                    int64_t tail, bool need_x) {
  return backward(kernel_dtype("filter_bank_power", x), grad_total, grad_squares, x, taps, sums,
                  head, tail, need_x, [](const FilterBankPower& p) {
                    filter_bank_power_backward_cpu(p, cpu_isa(), torch_threads);
                  });
}

#if defined(EEGFAST_HAS_CUDA_KERNELS)
void run_on_cuda(FilterBankPower p, const Tensor& x, void* stream,
                 int64_t (*workspace_of)(const FilterBankPower&),
                 int (*launch)(const FilterBankPower&, void*)) {
  const Tensor workspace = empty_like_shape(x, {(workspace_of(p) + 7) / 8}, ScalarType::Double);
  if (workspace.numel()) p.workspace = workspace.mutable_data_ptr();
  check_launch("filter_bank_power", launch(p, stream));
}

Forward filter_bank_power_on_cuda(const Tensor& x, const Tensor& taps, int64_t head, int64_t tail) {
  const OnDevice device(x);
  return forward(cuda_kernel_dtype("filter_bank_power", x), x, taps, head, tail,
                 [&](const FilterBankPower& p) {
                   run_on_cuda(p, x, device.stream(), filter_bank_power_workspace,
                               filter_bank_power_cuda);
                 });
}

Backward filter_bank_power_backward_on_cuda(std::optional<Tensor> grad_total,
                                            std::optional<Tensor> grad_squares, const Tensor& x,
                                            const Tensor& taps, std::optional<Tensor> sums,
                                            int64_t head, int64_t tail, bool need_x) {
  const OnDevice device(x);
  return backward(cuda_kernel_dtype("filter_bank_power", x), grad_total, grad_squares, x, taps,
                  sums, head, tail, need_x, [&](const FilterBankPower& p) {
                    run_on_cuda(p, x, device.stream(), filter_bank_power_backward_workspace,
                                filter_bank_power_backward_cuda);
                  });
}
#endif

}  // namespace

#if !defined(EEGFAST_EMULATED)
STABLE_TORCH_LIBRARY_IMPL(eegfast, CPU, m) {
  m.impl("filter_bank_power", TORCH_BOX(&filter_bank_power));
  m.impl("filter_bank_power_backward", TORCH_BOX(&filter_bank_power_backward));
}
#endif

#if defined(EEGFAST_HAS_CUDA_KERNELS)
EEGFAST_CUDA_KERNELS(m) {
  m.impl("filter_bank_power", TORCH_BOX(&filter_bank_power_on_cuda));
  m.impl("filter_bank_power_backward", TORCH_BOX(&filter_bank_power_backward_on_cuda));
}
#endif

}  // namespace eegfast
