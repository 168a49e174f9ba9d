// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "eegfast/common.h"

namespace eegfast {

// Depthwise 3-D convolution of c channels, each with one kernel, between two optional affine maps
// and ReLUs (axes: depth, height, width):
//   a[n,c,i] = relu?(in_scale[c] x[n,c,i] + in_shift[c])
//   z[n,c,o] = bias[c] + sum_k weight[c,k] a[n,c, stride o + k - pad]     (a = 0 outside the input)
//   y[n,c,o] = relu?(out_scale[c] z[n,c,o] + out_shift[c])
// The second map is folded into weight and bias, so it costs nothing; its gradients follow from
// that of the folded weight.
struct DepthwiseConv3d {
  DType dtype;
  bool channels_last;  // x, out, grad, y: (batch, depth, height, width, chans), else chans 2nd
  const void* x;       // dense
  const void* weight;  // (chans, kernel[0], kernel[1], kernel[2])
  const void* bias;    // (chans), like the four below; each may be null: 0, 1, 0, 1, 0
  const void* in_scale;
  const void* in_shift;
  const void* out_scale;
  const void* out_shift;
  bool in_relu, out_relu;
  int64_t batch, chans;
  int64_t in[3], out[3];
  int64_t kernel[3];  // each at most 5
  int64_t stride[3];
  int64_t pad[3];  // zeros before the first element
  void* y;         // forward: the result; backward with out_relu: that result, to read
  // Backward. Each gradient may be null: not asked for.
  const void* grad;  // of y
  void* grad_x;
  void* grad_weight;
  void* grad_bias;
  void* grad_in_scale;
  void* grad_in_shift;
  void* grad_out_scale;
  void* grad_out_shift;
  void* workspace;  // CUDA: depthwise_conv3d_workspace bytes
};

void depthwise_conv3d_cpu(const DepthwiseConv3d& p, Isa isa, ParallelFor parallel_for);
void depthwise_conv3d_backward_cpu(const DepthwiseConv3d& p, Isa isa, ParallelFor parallel_for);
// Bytes that the backward needs on CUDA, once all pointers but that to them are set.
int64_t depthwise_conv3d_workspace(const DepthwiseConv3d& p);
// CUDA; they return a cudaError_t.
int depthwise_conv3d_cuda(const DepthwiseConv3d& p, void* stream);
int depthwise_conv3d_backward_cuda(const DepthwiseConv3d& p, void* stream);

}  // namespace eegfast
