// SPDX-License-Identifier: BSD-3-Clause
#include "eegfast/mobile_unit3d.h"

#include <cstring>
#include <optional>
#include <tuple>

#include "stable_compat.h"

namespace eegfast {
namespace {

// The tensors of the unit that both directions read, contiguous, and what follows from their sizes.
class Inputs {
 public:
  Inputs(const Tensor& x, const Tensor& gamma1, const Tensor& beta1, const Tensor& expand,
         const Tensor& gamma2, const Tensor& beta2, const Tensor& depthwise, const Tensor& project)
      : x_(as_contiguous(x)),
        gamma1_(as_contiguous(gamma1)),
        beta1_(as_contiguous(beta1)),
        expand_(as_contiguous(expand)),
        gamma2_(as_contiguous(gamma2)),
        beta2_(as_contiguous(beta2)),
        depthwise_(as_contiguous(depthwise)),
        project_(as_contiguous(project)) {
    const int64_t C = x.dim() == 5 ? x.size(1) : 0, E = gamma2.numel();
    check(x.dim() == 5 && gamma1.numel() == C && beta1.numel() == C && expand.numel() == E * C &&
          beta2.numel() == E && depthwise.numel() == E * 27 && project.numel() == E * C);
    for (const Tensor* t : {&gamma1, &beta1, &expand, &gamma2, &beta2, &depthwise, &project})
      check(t->scalar_type() == x.scalar_type());
  }
  static void check(bool fine) {
    STD_TORCH_CHECK(fine, "eegfast::mobile_unit3d: sizes or dtypes do not fit together");
  }

  MobileUnit3d params(DType dtype) const {
    MobileUnit3d p{};
    p.dtype = dtype;
    p.x = x_.const_data_ptr();
    p.gamma1 = gamma1_.const_data_ptr();
    p.beta1 = beta1_.const_data_ptr();
    p.expand = expand_.const_data_ptr();
    p.gamma2 = gamma2_.const_data_ptr();
    p.beta2 = beta2_.const_data_ptr();
    p.depthwise = depthwise_.const_data_ptr();
    p.project = project_.const_data_ptr();
    p.batch = x_.size(0);
    p.channels = x_.size(1);
    p.expanded = gamma2_.numel();
    p.depth = x_.size(2);
    p.height = x_.size(3);
    p.width = x_.size(4);
    return p;
  }
  int64_t channels() const { return x_.size(1); }
  int64_t expanded() const { return gamma2_.numel(); }
  std::vector<int64_t> out_shape(bool concat) const {
    return {x_.size(0), (concat ? 2 : 1) * x_.size(1), x_.size(2), x_.size(3), x_.size(4)};
  }

 private:
  Tensor x_, gamma1_, beta1_, expand_, gamma2_, beta2_, depthwise_, project_;
};

// Statistics are of the type that is computed in: float where x is of 16 bits.
ScalarType statistics_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using Backward = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// The four statistics: mean1, var1, mean2, var2, contiguous.
class Statistics {
 public:
  Statistics(const Inputs& inputs, const std::optional<Tensor> (&given)[4], const Tensor& x) {
    for (int i = 0; i < 4; ++i) {
      const int64_t size = i < 2 ? inputs.channels() : inputs.expanded();
      const bool wanted = given[i - i % 2] && given[i - i % 2 + 1];
      if (wanted) {
        Inputs::check(given[i]->numel() == size && given[i]->scalar_type() == statistics_type(x));
        given_[i] = as_contiguous(*given[i]);
      }
      values_.push_back(empty_like_shape(x, {size}, statistics_type(x)));
    }
  }
  bool of_batch(int norm) const { return !given_[2 * norm]; }
  const std::optional<Tensor>& given(int i) const { return given_[i]; }
  const Tensor& operator[](int i) const { return values_[i]; }

 private:
  std::optional<Tensor> given_[4];
  std::vector<Tensor> values_;
};

// run(p) computes out, and the statistics that are not given.
template <class Run>
Forward forward(const Inputs& inputs, const Tensor& x, DType dtype, const Statistics& statistics,
                double eps1, double eps2, bool concat, const Run& run) {
  MobileUnit3d p = inputs.params(dtype);
  p.batch1 = statistics.of_batch(0);
  p.batch2 = statistics.of_batch(1) && p.expanded;
  Tensor out = empty_like_shape(x, inputs.out_shape(concat));
  p.mean1 = statistics[0].mutable_data_ptr();
  p.var1 = statistics[1].mutable_data_ptr();
  p.mean2 = statistics[2].mutable_data_ptr();
  p.var2 = statistics[3].mutable_data_ptr();
  p.out = out.mutable_data_ptr();
  p.eps1 = eps1;
  p.eps2 = eps2;
  p.concat = concat;
  run(p);
  return {out, statistics[0], statistics[1], statistics[2], statistics[3]};
}

Forward mobile_unit3d(const Tensor& x, const Tensor& gamma1, const Tensor& beta1,
                      const Tensor& expand, const Tensor& gamma2, const Tensor& beta2,
                      const Tensor& depthwise, const Tensor& project, std::optional<Tensor> mean1,
                      std::optional<Tensor> var1, std::optional<Tensor> mean2,
                      std::optional<Tensor> var2, double eps1, double eps2, bool concat) {
  const DType dtype = kernel_dtype("mobile_unit3d", x);
  const Inputs inputs(x, gamma1, beta1, expand, gamma2, beta2, depthwise, project);
  const Statistics statistics(inputs, {mean1, var1, mean2, var2}, x);
  for (int i = 0; i < 4; ++i)
    if (statistics.given(i))
      std::memcpy(statistics[i].mutable_data_ptr(), statistics.given(i)->const_data_ptr(),
                  size_t(statistics[i].numel()) * (dtype == DType::kFloat32 ? 4 : 8));
  return forward(inputs, x, dtype, statistics, eps1, eps2, concat, [&](const MobileUnit3d& p) {
    if (x.numel()) mobile_unit3d_cpu(p, cpu_isa(), torch_threads);
  });
}

// run(p) computes the gradients.
template <class Run>
Backward backward(const Inputs& inputs, DType dtype, const Tensor& grad, const Tensor& x,
                  const Tensor (&parameters)[7], const Tensor (&statistics)[4], bool batch1,
                  bool batch2, double eps1, double eps2, bool concat, bool filters,
                  const Run& run) {
  MobileUnit3d p = inputs.params(dtype);
  const Tensor flat_grad = as_contiguous(grad);
  const std::vector<int64_t> out_shape = inputs.out_shape(concat);
  Inputs::check(std::vector<int64_t>(grad.sizes().begin(), grad.sizes().end()) == out_shape &&
                grad.scalar_type() == x.scalar_type());
  std::vector<Tensor> flat;
  for (int i = 0; i < 4; ++i) {
    Inputs::check(statistics[i].numel() == (i < 2 ? p.channels : p.expanded) &&
                  statistics[i].scalar_type() == statistics_type(x));
    flat.push_back(as_contiguous(statistics[i]));
  }
  const auto gradient = [](const Tensor& like, bool wanted = true) {
    if (!wanted) return empty_like_shape(like, {0});
    return empty_like_shape(like, {like.sizes().begin(), like.sizes().end()});
  };
  Tensor grad_x = gradient(x);
  std::vector<Tensor> grads;
  for (int i = 0; i < 7; ++i) grads.push_back(gradient(parameters[i], i < 5 || filters));
  p.mean1 = const_cast<void*>(flat[0].const_data_ptr());
  p.var1 = const_cast<void*>(flat[1].const_data_ptr());
  p.mean2 = const_cast<void*>(flat[2].const_data_ptr());
  p.var2 = const_cast<void*>(flat[3].const_data_ptr());
  p.eps1 = eps1;
  p.eps2 = eps2;
  p.batch1 = batch1;
  p.batch2 = batch2 && p.expanded;
  p.concat = concat;
  p.grad = flat_grad.const_data_ptr();
  p.grad_x = grad_x.mutable_data_ptr();
  p.grad_gamma1 = grads[0].mutable_data_ptr();
  p.grad_beta1 = grads[1].mutable_data_ptr();
  p.grad_expand = grads[2].mutable_data_ptr();
  p.grad_gamma2 = grads[3].mutable_data_ptr();
  p.grad_beta2 = grads[4].mutable_data_ptr();
  if (filters) {
    p.grad_depthwise = grads[5].mutable_data_ptr();
    p.grad_project = grads[6].mutable_data_ptr();
  }
  if (x.numel())
    run(p);
  else
    for (Tensor& g : grads) g = torch::stable::fill_(g, 0);
  return {grad_x, grads[0], grads[1], grads[2], grads[3], grads[4], grads[5], grads[6]};
}

Backward mobile_unit3d_backward(const Tensor& grad, const Tensor& x, const Tensor& gamma1,
                                const Tensor& beta1, const Tensor& expand, const Tensor& gamma2,
                                const Tensor& beta2, const Tensor& depthwise, const Tensor& project,
                                const Tensor& mean1, const Tensor& var1, const Tensor& mean2,
                                const Tensor& var2, bool batch1, bool batch2, double eps1,
                                double eps2, bool concat, bool filters) {
  const DType dtype = kernel_dtype("mobile_unit3d", x);
  const Inputs inputs(x, gamma1, beta1, expand, gamma2, beta2, depthwise, project);
  return backward(
      inputs, dtype, grad, x, {gamma1, beta1, expand, gamma2, beta2, depthwise, project},
      {mean1, var1, mean2, var2}, batch1, batch2, eps1, eps2, concat, filters,
      [](const MobileUnit3d& p) { mobile_unit3d_backward_cpu(p, cpu_isa(), torch_threads); });
}

#if defined(EEGFAST_HAS_CUDA_KERNELS)
Forward mobile_unit3d_on_cuda(const Tensor& x, const Tensor& gamma1, const Tensor& beta1,
                              const Tensor& expand, const Tensor& gamma2, const Tensor& beta2,
                              const Tensor& depthwise, const Tensor& project,
                              std::optional<Tensor> mean1, std::optional<Tensor> var1,
                              std::optional<Tensor> mean2, std::optional<Tensor> var2, double eps1,
                              double eps2, bool concat) {
  const OnDevice device(x);
  const DType dtype = cuda_kernel_dtype("mobile_unit3d", x);
  const Inputs inputs(x, gamma1, beta1, expand, gamma2, beta2, depthwise, project);
  const Statistics statistics(inputs, {mean1, var1, mean2, var2}, x);
  const auto given = [&](int i) {
    return statistics.given(i) ? statistics.given(i)->const_data_ptr() : nullptr;
  };
  return forward(inputs, x, dtype, statistics, eps1, eps2, concat, [&](MobileUnit3d p) {
    if (!x.numel()) {
      for (int i = 0; i < 4; ++i) {
        Tensor to = statistics[i];
        if (statistics.given(i)) torch::stable::copy_(to, *statistics.given(i));
      }
      return;
    }
    p.given_mean1 = given(0);
    p.given_var1 = given(1);
    p.given_mean2 = given(2);
    p.given_var2 = given(3);
    const Tensor workspace = workspace_like(x, mobile_unit3d_workspace(p));
    p.workspace = workspace.mutable_data_ptr();
    check_launch("mobile_unit3d", mobile_unit3d_cuda(p, device.stream()));
  });
}

Backward mobile_unit3d_backward_on_cuda(const Tensor& grad, const Tensor& x, const Tensor& gamma1,
                                        const Tensor& beta1, const Tensor& expand,
                                        const Tensor& gamma2, const Tensor& beta2,
                                        const Tensor& depthwise, const Tensor& project,
                                        const Tensor& mean1, const Tensor& var1,
                                        const Tensor& mean2, const Tensor& var2, bool batch1,
                                        bool batch2, double eps1, double eps2, bool concat,
                                        bool filters) {
  const OnDevice device(x);
  const DType dtype = cuda_kernel_dtype("mobile_unit3d", x);
  const Inputs inputs(x, gamma1, beta1, expand, gamma2, beta2, depthwise, project);
  return backward(
      inputs, dtype, grad, x, {gamma1, beta1, expand, gamma2, beta2, depthwise, project},
      {mean1, var1, mean2, var2}, batch1, batch2, eps1, eps2, concat, filters, [&](MobileUnit3d p) {
        const Tensor workspace = workspace_like(x, mobile_unit3d_backward_workspace(p));
        p.workspace = workspace.mutable_data_ptr();
        check_launch("mobile_unit3d", mobile_unit3d_backward_cuda(p, device.stream()));
      });
}
#endif

}  // namespace

#if !defined(EEGFAST_EMULATED)
STABLE_TORCH_LIBRARY_IMPL(eegfast, CPU, m) {
  m.impl("mobile_unit3d", TORCH_BOX(&mobile_unit3d));
  m.impl("mobile_unit3d_backward", TORCH_BOX(&mobile_unit3d_backward));
}
#endif

#if defined(EEGFAST_HAS_CUDA_KERNELS)
EEGFAST_CUDA_KERNELS(m) {
  m.impl("mobile_unit3d", TORCH_BOX(&mobile_unit3d_on_cuda));
  m.impl("mobile_unit3d_backward", TORCH_BOX(&mobile_unit3d_backward_on_cuda));
}
#endif

}  // namespace eegfast
