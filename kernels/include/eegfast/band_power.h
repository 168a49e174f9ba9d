// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "eegfast/common.h"

namespace eegfast {

// For window w of every (batch, channel), with L = min(window, n_fft):
//   X[k] = sum_{i<L} taper[i] x[w step + i] exp(-2 pi j i k / n_fft)
//   out  = gain / (b - a) sum_{a <= k < b} |X[k]|^2 for each band [a, b), or its log2
struct BandPower {
  DType dtype;
  const void* x;  // (batch, n_chans, n_times), the last axis contiguous
  int64_t stride_batch, stride_chan;
  const void* taper;  // (window); float where x is of a half type
  const void* grad;   // backward: (batch, windows, n_chans, bands), contiguous
  void* out;          // forward: as grad; backward: (batch, n_chans, n_times), contiguous
  int64_t batch, n_chans, n_times, windows;
  int64_t window, step, n_fft;
  const int64_t* bins;  // a and b of each band, 0 <= a < b <= n_fft / 2 + 1
  int64_t bands;
  double gain;
  bool log2;
  void* workspace;  // CUDA: band_power_workspace() bytes on the device
};

void band_power_cpu(const BandPower& p, Isa isa, ParallelFor parallel_for);
void band_power_backward_cpu(const BandPower& p, Isa isa, ParallelFor parallel_for);

// Launch on `stream` (a cudaStream_t) of the current device; return cudaError_t.
int64_t band_power_workspace(const BandPower& p, bool backward);
int band_power_cuda(const BandPower& p, void* stream);
int band_power_backward_cuda(const BandPower& p, void* stream);

}  // namespace eegfast
