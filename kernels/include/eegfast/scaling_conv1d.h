// SPDX-License-Identifier: BSD-3-Clause
#pragma once

#include "eegfast/common.h"

namespace eegfast {

// One odd-length kernel per filter, seen at several scales. With w_0 = weight and w_{l+1} =
// pool(w_l),
//   out_l[t] = act(bias_l + sum_j w_l[j] x[t + j - (length_l - 1) / 2]),  x = 0 outside the signal.
// pool averages neighbours, window 2, stride 2. Where the result would have an even length, a zero
// is put in front, so that every length is odd: the first tap is then w[0] / 2, or w[0] if the zero
// is not counted. act is ReLU or nothing.
struct ScalingConv1d {
  DType dtype;
  const void* x;  // (batch, n_chans, n_times), the last axis contiguous
  int64_t stride_batch, stride_chan;
  const void* weight;   // (weight_chans, filters, length), contiguous; weight_chans is 1 or n_chans
  const void* bias;     // (bias_chans, filters, levels) or null; bias_chans is 1 or n_chans
  void* out;            // (batch, n_chans, filters, levels, n_times)
  uint8_t* positive;    // (batch, n_chans, filters, levels, mask_bytes(n_times)) or null: bit t % 8
                        // of byte t / 8 is 0 where ReLU made out[t] zero, and 0 behind the signal
  const void* grad;     // backward: as out
  const uint8_t* kept;  // backward: as positive; null without ReLU
  void* grad_x;         // backward, each null if not wanted: (batch, n_chans, n_times),
  void* grad_weight;    // as weight,
  void* grad_bias;      // as bias
  void* workspace;      // CUDA only: as many bytes as the functions below say
  int64_t batch, n_chans, n_times, filters, length, levels;
  int64_t weight_chans, bias_chans;
  bool relu, count_include_pad;
};

// Rows of the mask are whole 64-bit words.
inline int64_t scaling_mask_bytes(int64_t n_times) { return (n_times + 63) / 64 * 8; }

// The length that follows an odd length > 1.
inline int64_t scaling_next_length(int64_t length) { return length / 2 | 1; }

void scaling_conv1d_cpu(const ScalingConv1d& p, Isa isa, ParallelFor parallel_for);
void scaling_conv1d_backward_cpu(const ScalingConv1d& p, Isa isa, ParallelFor parallel_for);

int64_t scaling_conv1d_workspace(const ScalingConv1d& p);
int64_t scaling_conv1d_backward_workspace(const ScalingConv1d& p);
int scaling_conv1d_cuda(const ScalingConv1d& p, void* stream);
int scaling_conv1d_backward_cuda(const ScalingConv1d& p, void* stream);

}  // namespace eegfast
