// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "eegfast/common.h"

namespace eegfast {

// The unit of LDM-EEG. x has C channels, the expanded tensors have E; N = batch depth height width:
//   a = relu(x s1 + t1),        s1 = gamma1 / sqrt(var1 + eps1),  t1 = beta1 - mean1 s1
//   h = W1 a                    W1: (E, C)
//   p = relu(h s2 + t2),        s2 = gamma2 / sqrt(var2 + eps2),  t2 = beta2 - mean2 s2
//   q = depthwise 3x3x3 of p, zero padding 1, taps w: (E, 27)
//   r = W3 q                    W3: (C, E)
//   out = (x, r) along the channels, or x + r.
//
// Statistics of the batch need no expanded tensor, as h is linear in a. With m and G the mean and
// the covariance (divided by N) of the C channels of a:
//   mean2 = W1 m,  var2[e] = W1[e] G W1[e]^T.
//
// Backward, from dr (and d for a gradient throughout). W3^T dr depends on no sum over the batch,
// hence one pass over the expanded channels, one at a time, is enough. Per e:
//   dq = W3[:, e] . dr,  dW3[:, e] = sum q dr,  dw[e, k] = sum p(v + k) dq(v),
//   dp(u) = sum_k w[e, k] dq(u - k),  g = dp where p > 0,
//   dbeta2 = sum g,  S[e] = sum g a  (C values),  da' += W1[e] s2 g.
// What BatchNorm's backward adds is linear in a again. With f2 = 1 / sqrt(var2 + eps2):
//   dgamma2 = f2 (W1[e] . S[e] - mean2 dbeta2)
//   dh      = s2 (g - dbeta2 / N - f2 W1[e] (a - m) dgamma2 / N)
//   da      = W1^T dh = da' - u - M (a - m),
//             u = 1/N sum_e s2 dbeta2 W1[e],  M = 1/N sum_e s2 f2 dgamma2 W1[e]^T W1[e]
//   dW1[e]  = sum dh a = s2 (S[e] - dbeta2 m - f2 dgamma2 W1[e] G).
// With given statistics the terms in 1/N are absent: dh = s2 g, dW1[e] = s2 S[e]. Then, on C
// channels, b = da where a > 0, and the first norm's backward plus the gradient of out's x:
//   dbeta1 = sum b,  dgamma1 = f1 sum b (x - mean1),
//   dx = s1 (b - dbeta1 / N - f1 (x - mean1) dgamma1 / N) + dout_x.
struct MobileUnit3d {
  DType dtype;
  const void* x;          // (batch, channels, depth, height, width), contiguous like all
  const void* gamma1;     // (channels)
  const void* beta1;      // (channels)
  const void* expand;     // (expanded, channels)
  const void* gamma2;     // (expanded)
  const void* beta2;      // (expanded)
  const void* depthwise;  // (expanded, 27)
  const void* project;    // (channels, expanded)
  void* mean1;            // (channels): read, or written in forward if batch1
  void* var1;             // biased, like var2
  void* mean2;            // (expanded): the same with batch2
  void* var2;
  void* out;  // (batch, concat ? 2 channels : channels, depth, height, width)
  int64_t batch, channels, expanded, depth, height, width;
  double eps1, eps2;
  // CUDA: statistics that are given are read from here, and copied to those above by forward; null
  // where they come from the batch, and in backward. All of float where the dtype is a half type.
  const void* given_mean1;
  const void* given_var1;
  const void* given_mean2;
  const void* given_var2;
  void* workspace;      // CUDA: mobile_unit3d(_backward)_workspace() bytes on the device
  bool batch1, batch2;  // statistics come from the batch
  bool concat;

  // Backward.
  const void* grad;  // of out
  void* grad_x;
  void* grad_gamma1;
  void* grad_beta1;
  void* grad_expand;
  void* grad_gamma2;
  void* grad_beta2;
  void* grad_depthwise;  // this and the next may be null
  void* grad_project;
};

void mobile_unit3d_cpu(const MobileUnit3d& p, Isa isa, ParallelFor parallel_for);
void mobile_unit3d_backward_cpu(const MobileUnit3d& p, Isa isa, ParallelFor parallel_for);

// Launch on `stream` (a cudaStream_t) of the current device; return cudaError_t.
int64_t mobile_unit3d_workspace(const MobileUnit3d& p);
int64_t mobile_unit3d_backward_workspace(const MobileUnit3d& p);
int mobile_unit3d_cuda(const MobileUnit3d& p, void* stream);
int mobile_unit3d_backward_cuda(const MobileUnit3d& p, void* stream);

}  // namespace eegfast
