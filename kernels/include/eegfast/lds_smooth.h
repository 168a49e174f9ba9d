// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "eegfast/common.h"

namespace eegfast {

// Kalman filter of a scalar random walk, then the Rauch-Tung-Striebel smoother unless causal:
//   f[t] = f[t-1] + K[t] (y[t] - f[t-1]),  f[-1] = prior
//   s[t] = f[t] + J[t] (s[t+1] - f[t]),    s[T-1] = f[T-1]
// K and J do not depend on the data: lds_gains() computes them for the CPU kernels, the CUDA
// kernels by themselves.
struct LdsSmooth {
  DType dtype;
  const void* y;         // (batch, windows, features), contiguous; backward: the gradient of out
  const void* prior;     // (batch, features) or null: the mean over the windows
  void* out;             // (batch, windows, features)
  void* grad_prior;      // backward: (batch, features)
  const double* kalman;  // CPU: (windows)
  const double* rts;     // CPU: (windows)
  double q, r, p0;       // CUDA
  void* workspace;       // CUDA: lds_smooth_workspace() bytes on the device, null if none
  int64_t batch, windows, features;
  bool causal;
  bool own_prior;  // backward: prior was null
};

// p0 is the prior variance at the first observation; q and r those of the walk and of the
// observation.
void lds_gains(int64_t windows, double q, double r, double p0, double* kalman, double* rts);

void lds_smooth_cpu(const LdsSmooth& p, Isa isa, ParallelFor parallel_for);
void lds_smooth_backward_cpu(const LdsSmooth& p, Isa isa, ParallelFor parallel_for);

// Launch on `stream` (a cudaStream_t) of the current device; return cudaError_t.
int64_t lds_smooth_workspace(const LdsSmooth& p);
int lds_smooth_cuda(const LdsSmooth& p, void* stream);
int lds_smooth_backward_cuda(const LdsSmooth& p, void* stream);

}  // namespace eegfast
