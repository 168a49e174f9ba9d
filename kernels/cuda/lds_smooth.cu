// SPDX-License-Identifier: BSD-3-Clause
// Kalman filter and RTS smoother along the windows (formula: eegfast/lds_smooth.h).
//
// One thread owns one feature of one batch entry, so neighbouring threads read neighbouring
// features and every pass over the windows is coalesced. The passes follow each other in time; the
// gains come from the host. Per element: 8 FLOP; read once (twice for the mean of the windows), the
// filtered value written and read again, the result written. Windows are sequential: with fewer
// than some 20 000 series the latency of a step, not the memory, sets the time.
#include <cuda_runtime.h>

#include "eegfast/lds_smooth.h"

namespace eegfast {
namespace {

constexpr int kThreads = 128;

template <class T>
__global__ void __launch_bounds__(kThreads) lds_forward(LdsSmooth p) {
  const int64_t series = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (series >= p.batch * p.features) return;
  const int64_t first = series / p.features * p.windows * p.features + series % p.features;
  const T* y = static_cast<const T*>(p.y) + first;
  T* out = static_cast<T*>(p.out) + first;

  T mean = 0;
  if (p.prior) {
    mean = static_cast<const T*>(p.prior)[series];
  } else {
    for (int64_t t = 0; t < p.windows; ++t) mean += y[t * p.features];
    mean /= T(p.windows);
  }
  for (int64_t t = 0; t < p.windows; ++t) {
    mean += T(p.kalman[t]) * (y[t * p.features] - mean);
    out[t * p.features] = mean;
  }
  if (p.causal) return;
  for (int64_t t = p.windows - 1; t-- > 0;) {
    const T filtered = out[t * p.features];
    mean = filtered + T(p.rts[t]) * (mean - filtered);
    out[t * p.features] = mean;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) lds_backward(LdsSmooth p) {
  const int64_t series = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (series >= p.batch * p.features) return;
  const int64_t first = series / p.features * p.windows * p.features + series % p.features;
  const T* grad = static_cast<const T*>(p.y) + first;
  T* out = static_cast<T*>(p.out) + first;

  T carried = 0;
  for (int64_t t = 0; t < p.windows; ++t) {
    T total = grad[t * p.features];
    if (!p.causal) {
      total += carried;
      carried = t + 1 == p.windows ? T(0) : T(p.rts[t]) * total;
      total -= carried;
    }
    out[t * p.features] = total;
  }
  carried = 0;
  for (int64_t t = p.windows; t-- > 0;) {
    const T total = out[t * p.features] + carried;
    const T gradient = T(p.kalman[t]) * total;
    out[t * p.features] = gradient;
    carried = total - gradient;
  }
  static_cast<T*>(p.grad_prior)[series] = carried;
  if (!p.own_prior) return;
  for (int64_t t = 0; t < p.windows; ++t) out[t * p.features] += carried / T(p.windows);
}

unsigned blocks(const LdsSmooth& p) {
  return unsigned((p.batch * p.features + kThreads - 1) / kThreads);
}

}  // namespace

int lds_smooth_cuda(const LdsSmooth& p, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  if (p.dtype == DType::kFloat32)
    lds_forward<float><<<blocks(p), kThreads, 0, s>>>(p);
  else
    lds_forward<double><<<blocks(p), kThreads, 0, s>>>(p);
  return cudaGetLastError();
}

int lds_smooth_backward_cuda(const LdsSmooth& p, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  if (p.dtype == DType::kFloat32)
    lds_backward<float><<<blocks(p), kThreads, 0, s>>>(p);
  else
    lds_backward<double><<<blocks(p), kThreads, 0, s>>>(p);
  return cudaGetLastError();
}

const char* cuda_error_string(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}

}  // namespace eegfast
