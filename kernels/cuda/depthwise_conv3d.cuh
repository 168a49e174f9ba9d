// SPDX-License-Identifier: BSD-3-Clause
// What the kernels of depthwise_conv3d share (formula: eegfast/depthwise_conv3d.h).
#pragma once

#include "eegfast/depthwise_conv3d.h"
#include "portable.cuh"

namespace eegfast {

// The kernels to choose from: whether they take these sizes and addresses, the parts of the batch
// that sum by themselves (p.workspace is (parts, chans, values)), and the launchers.
bool depthwise_planes_fit(const DepthwiseConv3d& p);
int64_t depthwise_planes_parts(const DepthwiseConv3d& p);
int depthwise_planes_forward(const DepthwiseConv3d& p, void* stream);
int depthwise_planes_backward(const DepthwiseConv3d& p, void* stream);
bool depthwise_strips_fit(const DepthwiseConv3d& p);
int64_t depthwise_strips_parts(const DepthwiseConv3d& p);
int depthwise_strips_forward(const DepthwiseConv3d& p, void* stream);
int depthwise_strips_backward(const DepthwiseConv3d& p, void* stream);
int64_t depthwise_general_parts(const DepthwiseConv3d& p);
int depthwise_general_forward(const DepthwiseConv3d& p, void* stream);
int depthwise_general_backward(const DepthwiseConv3d& p, void* stream);

namespace {

// The values that a channel sums: the gradient of each tap before the second scale, then these.
enum ChannelSum { kGradSum, kScaleSum, kShiftSum, kChannelSums };

inline bool needs_grad_active(const DepthwiseConv3d& p) {
  return p.grad_x || p.grad_in_scale || p.grad_in_shift;
}
inline bool needs_taps(const DepthwiseConv3d& p) {
  return p.grad_weight || p.grad_bias || p.grad_out_scale || p.grad_out_shift;
}

// A kernel 3 long on each axis, whose result is as large as its input.
inline bool is_same_of_three(const DepthwiseConv3d& p) {
  for (int axis = 0; axis < 3; ++axis)
    if (p.kernel[axis] != 3 || p.stride[axis] != 1 || p.pad[axis] != 1 || p.out[axis] != p.in[axis])
      return false;
  return true;
}

// The larger of two; a NaN stays.
__device__ inline double at_least(double value, double lowest) {
  return value < lowest ? lowest : value;
}
__device__ inline float at_least(float value, float lowest) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(value), "f"(lowest));
  return larger;
#else
  return value < lowest ? lowest : value;
#endif
}

template <class IO>
__device__ Accumulator<IO> value_or(const void* values, int64_t chan, Accumulator<IO> otherwise) {
  return values ? load(static_cast<const IO*>(values) + chan) : otherwise;
}

// The two affine maps of a channel. The second is folded into the weights and into `bias`; a ReLU
// is a lower bound.
template <class IO>
struct ChannelMaps {
  using T = Accumulator<IO>;
  __device__ ChannelMaps(const DepthwiseConv3d& p, int64_t chan)
      : in_scale(value_or<IO>(p.in_scale, chan, 1)),
        in_shift(value_or<IO>(p.in_shift, chan, 0)),
        out_scale(value_or<IO>(p.out_scale, chan, 1)),
        bias(out_scale * value_or<IO>(p.bias, chan, 0) + value_or<IO>(p.out_shift, chan, 0)),
        lowest_in(p.in_relu ? T(0) : -T(INFINITY)),
        lowest_out(p.out_relu ? T(0) : -T(INFINITY)) {}
  __device__ T activate(T x) const { return at_least(in_scale * x + in_shift, lowest_in); }
  __device__ T finish(T z) const { return at_least(z, lowest_out); }

  T in_scale, in_shift, out_scale, bias, lowest_in, lowest_out;
};

}  // namespace
}  // namespace eegfast
