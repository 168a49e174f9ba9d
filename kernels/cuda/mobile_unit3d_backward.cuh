// SPDX-License-Identifier: BSD-3-Clause
// What both backward kernels of the Mobile unit leave for the ones that finish.
#pragma once

#include "mobile_unit3d.cuh"

namespace eegfast {
namespace {

// The sums of an expanded channel: 27 taps, dbeta2, S (C values), dW3 (C values).
constexpr int kBeta = 27, kS = 28;
__host__ __device__ inline int64_t sums_width(const MobileUnit3d& p) { return kS + 2 * p.channels; }

// Partial results of one launch, which the next adds up.
template <class T>
struct Buffers {
  double* moments;      // (parts, C + C C)
  T* slabs;             // (parts, E, width)
  T* da;                // (splits, batch, C, volume): da', then b in the first split
  double* totals;       // (E, width + 2 C): the slabs' sums, W1[e] and 1 times the moments
  double* corrections;  // (E, 2): factors of W1[e] in -u and of W1[e]^T W1[e] in -M
  double* mean;         // (C): of a
  double* first_sums;   // (parts, C, 2): of b and b (x - mean1)
  int splits;
  int64_t parts;
};

// Adds to the sum of the tiles before.
template <class T>
__device__ void add_sum(T sum, T* to, bool fresh) {
  *to = fresh ? sum : *to + sum;
}

}  // namespace
}  // namespace eegfast
