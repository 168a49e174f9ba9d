// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "eegfast/common.h"

namespace eegfast {

// y = cascade(x) from a zero state, per band; out = variance of y over each window:
//   out = (sum y^2 - (sum y)^2 / window) / (window - ddof)
struct BandpassPower {
  DType dtype;
  const void* x;  // (batch, n_chans, n_times), the last axis contiguous
  int64_t stride_batch, stride_chan;
  const double* sos;  // (bands, n_sections, 6): b0 b1 b2 1 a1 a2
  const void* grad;   // backward: (batch, windows, n_chans, bands), contiguous
  void* out;          // forward: as grad; backward: (batch, n_chans, n_times), contiguous
  int64_t batch, n_chans, n_times, windows;
  int64_t window, step, bands, n_sections;
  int64_t ddof;
  void* workspace;  // CUDA: as many bytes as the functions below say, on the device
};

void bandpass_power_cpu(const BandpassPower& p, Isa isa, ParallelFor parallel_for);
void bandpass_power_backward_cpu(const BandpassPower& p, Isa isa, ParallelFor parallel_for);

// Launch on `stream` (a cudaStream_t) of the current device; return cudaError_t. Up to 10 sections.
int64_t bandpass_power_workspace(const BandpassPower& p);
int64_t bandpass_power_backward_workspace(const BandpassPower& p);
int bandpass_power_cuda(const BandpassPower& p, void* stream);
int bandpass_power_backward_cuda(const BandpassPower& p, void* stream);

}  // namespace eegfast
