// SPDX-License-Identifier: BSD-3-Clause
// What both directions of filter_bank_power share (the algebra: kernels/cpu/filter_bank_power.cpp):
// the sums over products of samples a lag apart, of rows and of filters, and the outputs at the
// ends. Everything is double, whatever x is.
//
// lag_sums: a block takes one row (or a part of it) or one filter, a warp kLags lags of it, a lane
// a stretch of samples. Samples and those a lag before go through registers in blocks of kStep:
// seven FMA per value from shared memory, with lanes an odd number of doubles apart, free of
// conflicts. The lanes are added up by exchanging halves. Rows are numbered (batch, row).
#pragma once

#include "eegfast/filter_bank_power.h"
#include "portable.cuh"

namespace eegfast {
namespace {

constexpr int kWarp = 32;
constexpr int kLags = 14, kStep = 7, kMaxSteps = 5;
constexpr int kMaxWarps = 8;
constexpr int kOuts = 8;  // outputs of an end that a thread takes together

struct Bank {
  FilterBankPower p;
  double* energy;    // (filters, length + 1): sum_k h[k] h[k + d] of each lag d, then sum h
  double* ends;      // (head + tail, all rows): samples from the start on, from the end backwards
  double* lags;      // (parts, length + 1, all rows): sums over a part of a row; null: not wanted
  int64_t all_rows;  // of all batches
  int64_t parts, per_part;  // samples
  int stretch;              // samples of a lane

  __host__ __device__ int64_t end_samples() const { return p.head + p.tail; }
  __device__ int64_t sample(int64_t row) const {
    return row / p.rows * p.stride_batch + row % p.rows * p.stride_row;
  }
  // Of one row and filter, in total and squares and their gradients.
  __device__ int64_t result(int64_t row, int64_t filter) const {
    return (row / p.rows * p.filters + filter) * p.rows + row % p.rows;
  }
};

// Cuts a workspace into arrays, or only counts where there is none.
struct Workspace {
  double* take(int64_t count) {
    double* taken = base ? base + doubles : nullptr;
    doubles += count;
    return taken;
  }
  int64_t bytes() const { return doubles * int64_t(sizeof(double)); }
  double* base;
  int64_t doubles = 0;
};

__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Samples first .. first + count - 1 of a row of n, zero where there are none; the whole block.
template <class IO>
__device__ void fill(const IO* x, int64_t n, int64_t first, int count, double* to) {
#pragma unroll 4
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const int64_t t = first + i;
    to[i] = 0 <= t && t < n ? double(load(x + t)) : 0.0;
  }
}
__device__ inline void fill_as(DType dtype, const void* x, int64_t at, int64_t n, int64_t first,
                               int count, double* to) {
  switch (dtype) {
    case DType::kFloat64:
      return fill(static_cast<const double*>(x) + at, n, first, count, to);
    case DType::kFloat16:
      return fill(static_cast<const __half*>(x) + at, n, first, count, to);
    case DType::kBFloat16:
      return fill(static_cast<const __nv_bfloat16*>(x) + at, n, first, count, to);
    default:
      return fill(static_cast<const float*>(x) + at, n, first, count, to);
  }
}

// Sums N values over a warp: lane i gets that of v[i / (32 / N)].
template <int N, int bit = kWarp / 2>
__device__ double sum_over_lanes(double (&v)[N]) {
  constexpr int half = N * bit / kWarp;  // values still held, halved
  if constexpr (half > 0) {
    const bool upper = threadIdx.x & bit;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const double kept = upper ? v[i + half] : v[i], given = upper ? v[i] : v[i + half];
      v[i] = kept + __shfl_xor_sync(0xffffffffu, given, bit);
    }
  } else {
    v[0] += __shfl_xor_sync(0xffffffffu, v[0], bit);
  }
  if constexpr (bit > 1)
    return sum_over_lanes<N, bit / 2>(v);
  else
    return v[0];
}

__global__ void __launch_bounds__(kWarp* kMaxWarps) lag_sums(const Bank b) {
  EEGFAST_DYNAMIC_SHARED(double, shared);
  const FilterBankPower& p = b.p;
  const int warps = blockDim.x / kWarp, warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int tile = kWarp * b.stretch, margin = warps * kLags - 1;
  const int64_t lowest = int64_t(blockIdx.y) * warps * kLags, first_lag = lowest + warp * kLags;

  const bool is_filter = blockIdx.x < p.filters;
  const int64_t filter = blockIdx.x, task = int64_t(blockIdx.x) - p.filters;
  const int64_t row = is_filter ? 0 : task / b.parts, part = is_filter ? 0 : task % b.parts;
  const void* x = is_filter ? p.taps : p.x;
  const DType dtype = is_filter ? DType::kFloat64 : p.dtype;
  const int64_t at = is_filter ? filter * p.length : b.sample(row);
  const int64_t n = is_filter ? p.length : p.n_times;
  const int64_t begin = is_filter ? 0 : part * b.per_part;
  const int64_t stop = is_filter || begin + b.per_part > n ? n : begin + b.per_part;

  if (!is_filter && part == 0 && blockIdx.y == 0) {
    for (int64_t u = threadIdx.x; u < b.end_samples(); u += blockDim.x) {
      const int64_t t = u < p.head ? u : n - 1 - (u - p.head);
      b.ends[u * b.all_rows + row] = 0 <= t && t < n ? load_as<double>(dtype, x, at + t) : 0.0;
    }
  }
  if (!is_filter && !b.lags) return;

  double* const before = shared;  // from `margin` samples before the least lag on
  double* const now = lowest == 0 ? shared + margin : shared + margin + tile;
  double sums[16] = {};  // kLags lags, then the samples themselves
  for (int64_t t = begin; t < stop; t += tile) {
    __syncthreads();
    fill_as(dtype, x, at, n, t - lowest - margin, margin + tile, before);
    if (lowest > 0) fill_as(dtype, x, at, n, t, tile, now);
    __syncthreads();
    if (first_lag >= p.length) continue;
    const double* own = now + lane * b.stretch;
    const double* past = before + margin - warp * kLags + lane * b.stretch - (kLags - 1);
    double window[kLags - 1 + kStep];
#pragma unroll
    for (int j = 0; j < kLags - 1; ++j) window[j] = past[j];
    for (int s = 0; s < b.stretch; s += kStep) {
#pragma unroll
      for (int j = 0; j < kStep; ++j) window[kLags - 1 + j] = past[s + kLags - 1 + j];
#pragma unroll
      for (int u = 0; u < kStep; ++u) {
        const double sample = own[s + u];
#pragma unroll
        for (int i = 0; i < kLags; ++i) sums[i] += sample * window[kLags - 1 + u - i];
        sums[kLags] += sample;
      }
#pragma unroll
      for (int j = 0; j < kLags - 1; ++j) window[j] = window[j + kStep];
    }
  }
  if (first_lag >= p.length) return;
  const double sum = sum_over_lanes(sums);
  const int64_t slot = lane / 2, lag = slot < kLags ? first_lag + slot : p.length;
  const bool is_lag = slot < kLags && lag < p.length, is_sum = slot == kLags && first_lag == 0;
  if (lane % 2 || !(is_lag || is_sum)) return;
  if (is_filter)
    b.energy[filter * (p.length + 1) + lag] = sum;
  else
    b.lags[(part * (p.length + 1) + lag) * b.all_rows + row] = sum;
}

// One end of the full correlation, of one row and filter: y[u] = sum_{m <= u} tap(m) sample(u - m).
struct End {
  __device__ End(const Bank& b, bool tail, int64_t row, int64_t filter)
      : count(tail ? b.p.tail : b.p.head),
        taps(b.p.taps + filter * b.p.length + (tail ? 0 : b.p.length - 1)),
        tap_step(tail ? 1 : -1),
        samples(b.ends + (tail ? b.p.head : 0) * b.all_rows + row),
        sample_step(b.all_rows) {}
  __device__ double tap(int64_t m) const { return m < count ? taps[m * tap_step] : 0.0; }
  __device__ double sample(int64_t u) const {
    return 0 <= u && u < count ? samples[u * sample_step] : 0.0;
  }
  // Outputs first .. first + kOuts - 1, a multiple of kOuts the first; anything beyond `count`.
  __device__ void outputs(int64_t first, double (&y)[kOuts]) const {
    double window[2 * kOuts - 1];
#pragma unroll
    for (int j = 0; j < kOuts; ++j) {
      y[j] = 0;
      window[kOuts - 1 + j] = sample(first + j);
    }
    for (int64_t m = 0; m <= first; m += kOuts) {
#pragma unroll
      for (int j = 0; j < kOuts - 1; ++j) window[j] = sample(first - m - (kOuts - 1) + j);
#pragma unroll
      for (int k = 0; k < kOuts; ++k) {
        const double h = tap(m + k);
#pragma unroll
        for (int j = 0; j < kOuts; ++j) y[j] += h * window[kOuts - 1 + j - k];
      }
#pragma unroll
      for (int j = kOuts - 1; j > 0; --j) window[kOuts - 1 + j] = window[j - 1];
      window[kOuts - 1] = sample(first - m - kOuts);
    }
  }

  int64_t count;
  const double* taps;
  int64_t tap_step;
  const double* samples;
  int64_t sample_step;
};

// The shape of the launch of lag_sums; `lags` needs room for (parts, length + 1, all rows).
inline Bank bank(const FilterBankPower& p) {
  Bank b{};
  b.p = p;
  b.all_rows = p.batch * p.rows;
  int64_t steps = ceil_div(p.n_times > p.length ? p.n_times : p.length, kWarp * kStep) | 1;
  if (steps > kMaxSteps) steps = kMaxSteps;
  b.stretch = int(steps) * kStep;
  // Long rows are cut where there are too few of them to fill a large card.
  constexpr int64_t kBlocks = 1056;
  const int64_t tile = kWarp * b.stretch, tiles = p.n_times ? ceil_div(p.n_times, tile) : 1;
  const int64_t wanted = ceil_div(kBlocks, b.all_rows);
  b.per_part = ceil_div(tiles, wanted < tiles ? wanted : tiles) * tile;
  b.parts = p.n_times ? ceil_div(p.n_times, b.per_part) : 1;
  return b;
}

inline int launch_lag_sums(const Bank& b, void* stream) {
  const int64_t groups = ceil_div(b.p.length, kLags);
  const int64_t warps = groups < kMaxWarps ? groups : kMaxWarps;
  const int64_t blocks = b.p.filters + b.all_rows * b.parts, tile = kWarp * b.stretch;
  const int64_t doubles = warps * kLags - 1 + tile * (groups > warps ? 2 : 1);
  return launch(lag_sums, dim3(unsigned(blocks), unsigned(ceil_div(groups, warps))),
                dim3(unsigned(kWarp * warps)), size_t(doubles) * sizeof(double), stream, b);
}

}  // namespace
}  // namespace eegfast
