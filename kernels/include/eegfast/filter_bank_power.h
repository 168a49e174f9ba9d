// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "eegfast/common.h"

namespace eegfast {

// The full correlation of a row with a filter, the row being zero outside of 0 .. n_times - 1, is
//   y[u] = sum_{k < length} taps[k] x[u + k - (length - 1)],   0 <= u < n_times + length - 1.
// Its first `head` and last `tail` outputs do not count (head, tail < length; F.conv1d's padding p
// leaves out length - 1 - p at each end). Of the others:
//   total = sum y[u],  squares = sum y[u]^2
struct FilterBankPower {
  DType dtype;    // of x and grad_x; all else is double
  const void* x;  // (batch, rows, n_times), the last axis contiguous
  int64_t stride_batch, stride_row;
  const double* taps;  // (filters, length)
  double* total;       // (batch, filters, rows)
  double* squares;     // (batch, filters, rows)
  // What the gradient of the taps needs of x, (length + 1, batch rows): sum_t x[t] x[t - d] of each
  // lag d < length, then sum_t x[t]. Written forward, read backward.
  double* sums;
  const double* grad_total;    // backward: as total, or null for zero
  const double* grad_squares;  // backward: as squares, or null for zero
  void* grad_x;                // backward: (batch, rows, n_times) contiguous, or null: not wanted
  double* grad_taps;           // backward: (filters, length), or null: not wanted
  int64_t batch, rows, n_times, filters, length, head, tail;
  void* workspace;  // CUDA: as many bytes as the function below says, on the device
};

void filter_bank_power_cpu(const FilterBankPower& p, Isa isa, ParallelFor parallel_for);
void filter_bank_power_backward_cpu(const FilterBankPower& p, Isa isa, ParallelFor parallel_for);

// Launch on `stream` (a cudaStream_t) of the current device; return cudaError_t. Everything lies on
// the device, and x may be of a half type.
int64_t filter_bank_power_workspace(const FilterBankPower& p);
int64_t filter_bank_power_backward_workspace(const FilterBankPower& p);
int filter_bank_power_cuda(const FilterBankPower& p, void* stream);
int filter_bank_power_backward_cuda(const FilterBankPower& p, void* stream);

}  // namespace eegfast
