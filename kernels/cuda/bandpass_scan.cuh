// SPDX-License-Identifier: BSD-3-Clause
// The states that the spans of bandpass_power start in (bandpass_power.cuh), from where they end
// after a start from zero. A warp takes one band of 32 rows.
#pragma once

#include "bandpass_power.cuh"

namespace eegfast {
namespace {

// A^n of a band, by a warp; lanes then are rows, and a row's states follow each other over spans.
// Backward in time the spans come in reverse, and the last, which may be longer, starts from zero.
template <int S, bool Plain>
__global__ void __launch_bounds__(kLanes)
    scan_spans(const Launch p, const States states, const bool reverse) {
  constexpr int N = 2 * S;
  using Matrices = double[3][N][N];
  using OfLanes = double[N][kLanes];
  EEGFAST_SHARED(Matrices, m);
  EEGFAST_SHARED(OfLanes, state);
  const int lane = threadIdx.x, band = blockIdx.y;
  for (int j = lane; j < N; j += kLanes) {
    Cascade<double, S, Plain> unit(p, band);
    double column[N];
#pragma unroll
    for (int i = 0; i < N; ++i) column[i] = i == j;
    unit.load(column, 1);
    unit.step(0);
    unit.save(column, 1);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      m[0][i][j] = i == j;
      m[1][i][j] = column[i];
    }
  }
  // m[to] = m[a] m[1]
  const auto multiply = [&](int to, int a) {
    __syncwarp();
    for (int e = lane; e < N * N; e += kLanes) {
      double sum = 0;
      for (int k = 0; k < N; ++k) sum += m[a][e / N][k] * m[1][k][e % N];
      m[2][e / N][e % N] = sum;
    }
    __syncwarp();
    for (int e = lane; e < N * N; e += kLanes) m[to][e / N][e % N] = m[2][e / N][e % N];
    __syncwarp();
  };
  for (int64_t n = p.span_windows * p.step; n > 0; n >>= 1) {
    if (n & 1) multiply(0, 0);
    if (n > 1) multiply(1, 1);
  }

  const int64_t row = int64_t(blockIdx.x) * kLanes + lane, stride = p.bands * p.rows;
  if (row >= p.rows) return;
  const int64_t chain = chain_of(p, band, row);
  const auto at = [&](int64_t i) { return reverse ? p.spans - 1 - i : i; };
#pragma unroll
  for (int i = 0; i < N; ++i) state[i][lane] = 0;
  constexpr int kAhead = N <= 6 ? 4 : 1;
  for (int64_t first = 0; first < p.spans; first += kAhead) {
    // Of the span that comes last nobody asks where it ends.
    double end[kAhead][N + 1];
#pragma unroll
    for (int a = 0; a < kAhead; ++a)
#pragma unroll
      for (int e = 0; e <= N; ++e)
        end[a][e] = first + a + 1 < p.spans
                        ? states.end[(at(first + a) * (N + 1) + e) * stride + chain]
                        : 0.0;
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (first + a >= p.spans) break;
      double moved[N] = {};
#pragma unroll(N <= 6 ? N : 1)
      for (int k = 0; k < N; ++k) {
        const double now = state[k][lane];
        states.start[(at(first + a) * N + k) * stride + chain] = now;
#pragma unroll
        for (int i = 0; i < N; ++i) moved[i] += m[0][i][k] * now;
      }
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const double next = (end[a][N] != 0 ? 0.0 : moved[i]) + end[a][i];
        state[i][lane] = next - next == 0 ? next : 0.0;
      }
    }
  }
}

}  // namespace
}  // namespace eegfast
