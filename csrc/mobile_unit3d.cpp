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

  MobileUnit3d params() const {
    MobileUnit3d p{};
    p.dtype = kernel_dtype("mobile_unit3d", x_);
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
  std::vector<int64_t> out_shape(bool concat) const {
    return {x_.size(0), (concat ? 2 : 1) * x_.size(1), x_.size(2), x_.size(3), x_.size(4)};
  }

 private:
  Tensor x_, gamma1_, beta1_, expand_, gamma2_, beta2_, depthwise_, project_;
};

// The given statistics, copied (an operator's output may not be its input), or room for the
// batch's.
Tensor statistics(const std::optional<Tensor>& given, const Tensor& like) {
  Tensor copy = empty_like_shape(like, {like.numel()});
  if (given) {
    Inputs::check(given->numel() == like.numel() && given->scalar_type() == like.scalar_type());
    const Tensor values = as_contiguous(*given);
    const size_t bytes = size_t(like.numel()) * (like.scalar_type() == ScalarType::Float ? 4 : 8);
    std::memcpy(copy.mutable_data_ptr(), values.const_data_ptr(), bytes);
  }
  return copy;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> mobile_unit3d(
    const Tensor& x, const Tensor& gamma1, const Tensor& beta1, const Tensor& expand,
    const Tensor& gamma2, const Tensor& beta2, const Tensor& depthwise, const Tensor& project,
    std::optional<Tensor> given_mean1, std::optional<Tensor> given_var1,
    std::optional<Tensor> given_mean2, std::optional<Tensor> given_var2, double eps1, double eps2,
    bool concat) {
  const Inputs inputs(x, gamma1, beta1, expand, gamma2, beta2, depthwise, project);
  MobileUnit3d p = inputs.params();
  p.batch1 = !(given_mean1 && given_var1);
  p.batch2 = !(given_mean2 && given_var2);
  Tensor mean1 = statistics(given_mean1, gamma1), var1 = statistics(given_var1, gamma1);
  Tensor mean2 = statistics(given_mean2, gamma2), var2 = statistics(given_var2, gamma2);
  Tensor out = empty_like_shape(x, inputs.out_shape(concat));
  p.mean1 = mean1.mutable_data_ptr();
  p.var1 = var1.mutable_data_ptr();
  p.mean2 = mean2.mutable_data_ptr();
  p.var2 = var2.mutable_data_ptr();
  p.out = out.mutable_data_ptr();
  p.eps1 = eps1;
  p.eps2 = eps2;
  p.concat = concat;
  if (x.numel()) mobile_unit3d_cpu(p, cpu_isa(), torch_threads);
  return {out, mean1, var1, mean2, var2};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> mobile_unit3d_backward(
    const Tensor& grad, const Tensor& x, const Tensor& gamma1, const Tensor& beta1,
    const Tensor& expand, const Tensor& gamma2, const Tensor& beta2, const Tensor& depthwise,
    const Tensor& project, const Tensor& mean1, const Tensor& var1, const Tensor& mean2,
    const Tensor& var2, bool batch1, bool batch2, double eps1, double eps2, bool concat,
    bool filters) {
  const Inputs inputs(x, gamma1, beta1, expand, gamma2, beta2, depthwise, project);
  MobileUnit3d p = inputs.params();
  const Tensor flat_grad = as_contiguous(grad);
  const std::vector<int64_t> out_shape = inputs.out_shape(concat);
  Inputs::check(std::vector<int64_t>(grad.sizes().begin(), grad.sizes().end()) == out_shape);
  const Tensor flat_mean1 = as_contiguous(mean1), flat_var1 = as_contiguous(var1);
  const Tensor flat_mean2 = as_contiguous(mean2), flat_var2 = as_contiguous(var2);
  const auto gradient = [](const Tensor& like, bool wanted = true) {
    if (!wanted) return empty_like_shape(like, {0});
    Tensor g = empty_like_shape(like, {like.sizes().begin(), like.sizes().end()});
    return g;
  };
  Tensor grad_x = gradient(x), grad_gamma1 = gradient(gamma1), grad_beta1 = gradient(beta1);
  Tensor grad_expand = gradient(expand), grad_gamma2 = gradient(gamma2);
  Tensor grad_beta2 = gradient(beta2), grad_depthwise = gradient(depthwise, filters);
  Tensor grad_project = gradient(project, filters);
  p.mean1 = const_cast<void*>(flat_mean1.const_data_ptr());
  p.var1 = const_cast<void*>(flat_var1.const_data_ptr());
  p.mean2 = const_cast<void*>(flat_mean2.const_data_ptr());
  p.var2 = const_cast<void*>(flat_var2.const_data_ptr());
  p.eps1 = eps1;
  p.eps2 = eps2;
  p.batch1 = batch1;
  p.batch2 = batch2;
  p.concat = concat;
  p.grad = flat_grad.const_data_ptr();
  p.grad_x = grad_x.mutable_data_ptr();
  p.grad_gamma1 = grad_gamma1.mutable_data_ptr();
  p.grad_beta1 = grad_beta1.mutable_data_ptr();
  p.grad_expand = grad_expand.mutable_data_ptr();
  p.grad_gamma2 = grad_gamma2.mutable_data_ptr();
  p.grad_beta2 = grad_beta2.mutable_data_ptr();
  if (filters) {
    p.grad_depthwise = grad_depthwise.mutable_data_ptr();
    p.grad_project = grad_project.mutable_data_ptr();
  }
  if (x.numel()) {
    mobile_unit3d_backward_cpu(p, cpu_isa(), torch_threads);
  } else {
    for (Tensor* g : {&grad_gamma1, &grad_beta1, &grad_expand, &grad_gamma2, &grad_beta2,
                      &grad_depthwise, &grad_project})
      *g = torch::stable::fill_(*g, 0);
  }
  return {grad_x,      grad_gamma1, grad_beta1,     grad_expand,
          grad_gamma2, grad_beta2,  grad_depthwise, grad_project};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(eegfast, CPU, m) {
  m.impl("mobile_unit3d", TORCH_BOX(&mobile_unit3d));
  m.impl("mobile_unit3d_backward", TORCH_BOX(&mobile_unit3d_backward));
}

}  // namespace eegfast
