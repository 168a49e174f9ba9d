// SPDX-License-Identifier: BSD-3-Clause
#include "eegfast/depthwise_conv3d.h"

#include <optional>
#include <tuple>

#include "stable_compat.h"

namespace eegfast {
namespace {

using torch::headeronly::MemoryFormat;
using MaybeTensor = std::optional<Tensor>;

bool is_channels_last(const Tensor& x) {
  if (x.is_contiguous()) return false;
  int64_t expected = 1;
  for (int64_t d : {1, 4, 3, 2, 0}) {
    if (x.size(d) == 1) continue;
    if (x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return true;
}

MemoryFormat format_of(bool channels_last) {
  return channels_last ? MemoryFormat::ChannelsLast3d : MemoryFormat::Contiguous;
}

Tensor dense(const Tensor& x, bool channels_last) {
  const bool already = channels_last ? is_channels_last(x) : x.is_contiguous();
  return already ? x : torch::stable::contiguous(x, format_of(channels_last));
}

Tensor empty_dense(const Tensor& like, const int64_t* size, bool channels_last) {
  const std::vector<int64_t> shape{like.size(0), like.size(1), size[0], size[1], size[2]};
  if (!channels_last) return empty_like_shape(like, shape);
#if defined(EEGFAST_EMULATED)  // guarded
  Tensor last = empty_like_shape(like, {shape[0], shape[2], shape[3], shape[4], shape[1]});
  for (int64_t d : {3, 2, 1}) last = torch::stable::transpose(last, d, d + 1);
  return last;
#endif
  return torch::stable::empty(torch::headeronly::IntHeaderOnlyArrayRef(shape.data(), shape.size()),
                              like.scalar_type(), std::nullopt, like.device(), std::nullopt,
                              MemoryFormat::ChannelsLast3d);
}

// What both directions read, dense, and the parameters that point to it.
struct Call {
  Call(DType dtype, const Tensor& x_, const Tensor& weight_, const MaybeTensor& bias,
       const MaybeTensor& in_scale, const MaybeTensor& in_shift, const MaybeTensor& out_scale,
       const std::vector<int64_t>& stride, const std::vector<int64_t>& padding, bool in_relu,
       bool out_relu) {
    STD_TORCH_CHECK(x_.dim() == 5 && weight_.dim() == 5 && weight_.size(0) == x_.size(1) &&
                        weight_.size(1) == 1 && weight_.scalar_type() == x_.scalar_type() &&
                        stride.size() == 3 && padding.size() == 6,
                    "eegfast::depthwise_conv3d: bad x, weight, stride or padding");
    p.dtype = dtype;
    p.channels_last = is_channels_last(x_);
    x = dense(x_, p.channels_last);
    p.x = x.const_data_ptr();
    p.batch = x.size(0);
    p.chans = x.size(1);
    weight = as_contiguous(weight_);
    p.weight = weight.const_data_ptr();
    p.bias = keep(bias);
    p.in_scale = keep(in_scale);
    p.in_shift = keep(in_shift);
    p.out_scale = keep(out_scale);
    p.in_relu = in_relu;
    p.out_relu = out_relu;
    for (int d = 0; d < 3; ++d) {
      p.in[d] = x.size(2 + d);
      p.kernel[d] = weight.size(2 + d);
      p.stride[d] = stride[d];
      p.pad[d] = padding[2 * d];
      const int64_t room = p.in[d] + padding[2 * d] + padding[2 * d + 1] - p.kernel[d];
      STD_TORCH_CHECK(p.kernel[d] >= 1 && p.kernel[d] <= 5 && stride[d] >= 1 && room >= 0 &&
                          padding[2 * d] >= 0 && padding[2 * d + 1] >= 0,
                      "eegfast::depthwise_conv3d: bad kernel size, stride or padding");
      p.out[d] = room / stride[d] + 1;
    }
  }

  const void* keep(const MaybeTensor& values) {
    if (!values) return nullptr;
    STD_TORCH_CHECK(values->dim() == 1 && values->size(0) == p.chans &&
                        values->scalar_type() == x.scalar_type(),
                    "eegfast::depthwise_conv3d: bad bias, scale or shift");
    kept.push_back(as_contiguous(*values));
    return kept.back().const_data_ptr();
  }

  DepthwiseConv3d p{};
  Tensor x, weight;
  std::vector<Tensor> kept;
};

// How a device runs the kernels.
struct Cpu {
  explicit Cpu(const Tensor&) {}
  static DType dtype(const Tensor& x) { return kernel_dtype("depthwise_conv3d", x); }
  void forward(const DepthwiseConv3d& p) const {
    depthwise_conv3d_cpu(p, cpu_isa(), torch_threads);
  }
  void backward(const DepthwiseConv3d& p, const Tensor&) const {
    depthwise_conv3d_backward_cpu(p, cpu_isa(), torch_threads);
  }
};

#if defined(EEGFAST_HAS_CUDA_KERNELS)
struct Cuda {
  explicit Cuda(const Tensor& x) : device(x) {}
  static DType dtype(const Tensor& x) { return cuda_kernel_dtype("depthwise_conv3d", x); }
  void forward(const DepthwiseConv3d& p) const {
    check_launch("depthwise_conv3d", depthwise_conv3d_cuda(p, device.stream()));
  }
  void backward(DepthwiseConv3d p, const Tensor& like) const {
    const Tensor workspace = workspace_like(like, depthwise_conv3d_workspace(p));
    if (workspace.numel()) p.workspace = workspace.mutable_data_ptr();
    check_launch("depthwise_conv3d", depthwise_conv3d_backward_cuda(p, device.stream()));
  }
  OnDevice device;
};
#endif

template <class Device>
Tensor depthwise_conv3d(const Tensor& x, const Tensor& weight, MaybeTensor bias,
                        MaybeTensor in_scale, MaybeTensor in_shift, MaybeTensor out_scale,
                        MaybeTensor out_shift, std::vector<int64_t> stride,
                        std::vector<int64_t> padding, bool in_relu, bool out_relu) {
  const Device device(x);
  Call call(Device::dtype(x), x, weight, bias, in_scale, in_shift, out_scale, stride, padding,
            in_relu, out_relu);
  DepthwiseConv3d& p = call.p;
  p.out_shift = call.keep(out_shift);
  Tensor y = empty_dense(x, p.out, p.channels_last);
  p.y = y.mutable_data_ptr();
  if (y.numel()) device.forward(p);
  return y;
}

using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// `wanted` says of each gradient (x, weight, bias, in_scale, in_shift, out_scale, out_shift)
// whether it is asked for; the others come back empty.
template <class Device>
Gradients depthwise_conv3d_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                    MaybeTensor bias, MaybeTensor in_scale, MaybeTensor in_shift,
                                    MaybeTensor out_scale, MaybeTensor y,
                                    std::vector<int64_t> stride, std::vector<int64_t> padding,
                                    bool in_relu, bool out_relu, std::vector<int64_t> wanted) {
  const Device device(x);
  Call call(Device::dtype(x), x, weight, bias, in_scale, in_shift, out_scale, stride, padding,
            in_relu, out_relu);
  DepthwiseConv3d& p = call.p;
  STD_TORCH_CHECK(wanted.size() == 7 && bool(y) == out_relu,
                  "eegfast::depthwise_conv3d_backward: bad wanted or y");
  const Tensor dense_grad = dense(grad, p.channels_last);
  p.grad = dense_grad.const_data_ptr();
  const Tensor dense_y = y ? dense(*y, p.channels_last) : dense_grad;
  if (y) p.y = const_cast<void*>(dense_y.const_data_ptr());
  const auto ask = [&](int i, void** pointer, const std::vector<int64_t>& shape) {
    Tensor out = empty_like_shape(weight, wanted[i] ? shape : std::vector<int64_t>{0});
    if (wanted[i]) *pointer = out.mutable_data_ptr();
    return out;
  };
  const std::vector<int64_t> per_channel{p.chans};
  Tensor grad_x = wanted[0] ? empty_dense(x, p.in, p.channels_last) : empty_like_shape(x, {0});
  if (wanted[0]) p.grad_x = grad_x.mutable_data_ptr();
  Gradients all{grad_x,
                ask(1, &p.grad_weight, {weight.sizes().begin(), weight.sizes().end()}),
                ask(2, &p.grad_bias, per_channel),
                ask(3, &p.grad_in_scale, per_channel),
                ask(4, &p.grad_in_shift, per_channel),
                ask(5, &p.grad_out_scale, per_channel),
                ask(6, &p.grad_out_shift, per_channel)};
  if (grad.numel()) {
    device.backward(p, weight);
  } else {
    std::apply([](auto&... one) { (torch::stable::zero_(one), ...); }, all);
  }
  return all;
}

}  // namespace

#if !defined(EEGFAST_EMULATED)
STABLE_TORCH_LIBRARY_IMPL(eegfast, CPU, m) {
  m.impl("depthwise_conv3d", TORCH_BOX(&depthwise_conv3d<Cpu>));
  m.impl("depthwise_conv3d_backward", TORCH_BOX(&depthwise_conv3d_backward<Cpu>));
}
#endif

#if defined(EEGFAST_HAS_CUDA_KERNELS)
EEGFAST_CUDA_KERNELS(m) {
  m.impl("depthwise_conv3d", TORCH_BOX(&depthwise_conv3d<Cuda>));
  m.impl("depthwise_conv3d_backward", TORCH_BOX(&depthwise_conv3d_backward<Cuda>));
}
#endif

}  // namespace eegfast
