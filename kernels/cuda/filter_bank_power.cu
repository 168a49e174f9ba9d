// SPDX-License-Identifier: BSD-3-Clause
// Sum and sum of squares behind a bank of FIR filters (formula: eegfast/filter_bank_power.h; the
// algebra, and why in double: kernels/cpu/filter_bank_power.cpp).
//
// Two launches: the rows' and the filters' sums per lag (filter_bank_power.cuh), then power_sums,
// where a lane is a row, and two warps share a filter, one end and half of the lags each; the
// block stages the lags' sums of its rows. Parts of a row are added in order.
//
// Per row, with ends of e outputs: length n_times + filters (length + e^2) FMA in double; 4 n_times
// bytes read, 16 filters written. HAMNet's batch (1600 rows of 200, 18 filters of 41 taps): 26 M
// FMA, 2 us at half the float32 rate; the launches weigh as much. Where float64 runs at 1/64 of
// float32 (consumer cards) the arithmetic sets the time, some 30 times that.
#include "filter_bank_power.cuh"

namespace eegfast {
namespace {

constexpr int kFilters = 4;  // of a block
constexpr int kStage = 64;   // lags staged together

struct Staged {
  double lags[kStage][kWarp], energy[kFilters][kStage];
  double total[kFilters][kWarp], squares[kFilters][kWarp];
};

__global__ void __launch_bounds__(2 * kFilters * kWarp) power_sums(const Bank b) {
  EEGFAST_SHARED(Staged, staged);
  const FilterBankPower& p = b.p;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int own = warp / 2, half = warp % 2;
  const int64_t row_groups = ceil_div(b.all_rows, kWarp);
  const int64_t row = blockIdx.x % row_groups * kWarp + lane;
  const int64_t first_filter = blockIdx.x / row_groups * kFilters, filter = first_filter + own;
  const bool is_row = row < b.all_rows, live = is_row && filter < p.filters;

  double total = 0, squares = 0;
  for (int64_t first = 0; first <= p.length; first += kStage) {
    const int count = p.length + 1 - first < kStage ? int(p.length + 1 - first) : kStage;
    __syncthreads();
    for (int d = warp; d < count; d += 2 * kFilters) {
      double sum = 0;
      if (is_row)
        for (int64_t part = 0; part < b.parts; ++part)
          sum += b.lags[(part * (p.length + 1) + first + d) * b.all_rows + row];
      staged.lags[d][lane] = sum;
      if (is_row && first_filter == 0 && b.parts > 1) p.sums[(first + d) * b.all_rows + row] = sum;
    }
    for (int i = threadIdx.x; i < kFilters * count; i += 2 * kFilters * kWarp) {
      const int64_t f = first_filter + i / count, d = first + i % count;
      const double factor = 0 < d && d < p.length ? 2 : 1;
      staged.energy[i / count][i % count] =
          f < p.filters ? factor * b.energy[f * (p.length + 1) + d] : 0.0;
    }
    __syncthreads();
    const int lags = first + count > p.length ? count - 1 : count, middle = lags / 2;
    const int stop = half ? lags : middle;
    for (int d = half ? middle : 0; d < stop; ++d)
      squares += staged.energy[own][d] * staged.lags[d][lane];
    if (lags < count && half == 0) total = staged.energy[own][lags] * staged.lags[lags][lane];
  }

  if (live) {
    const End end(b, half, row, filter);
    for (int64_t first = 0; first < end.count; first += kOuts) {
      double y[kOuts];
      end.outputs(first, y);
#pragma unroll
      for (int j = 0; j < kOuts; ++j) {
        const double value = first + j < end.count ? y[j] : 0.0;
        total -= value;
        squares -= value * value;
      }
    }
  }
  if (half) {
    staged.total[own][lane] = total;
    staged.squares[own][lane] = squares;
  }
  __syncthreads();
  if (half || !live) return;
  squares += staged.squares[own][lane];
  const int64_t to = b.result(row, filter);
  p.total[to] = total + staged.total[own][lane];
  p.squares[to] = squares < 0 ? 0.0 : squares;
}

Bank forward_bank(const FilterBankPower& p, Workspace& workspace) {
  Bank b = bank(p);
  b.energy = workspace.take(p.filters * (p.length + 1));
  b.ends = workspace.take(b.end_samples() * b.all_rows);
  b.lags = b.parts > 1 ? workspace.take(b.parts * (p.length + 1) * b.all_rows) : p.sums;
  return b;
}

}  // namespace

int64_t filter_bank_power_workspace(const FilterBankPower& p) {
  Workspace count{nullptr};
  forward_bank(p, count);
  return count.bytes();
}

int filter_bank_power_cuda(const FilterBankPower& p, void* stream) {
  Workspace workspace{static_cast<double*>(p.workspace)};
  const Bank b = forward_bank(p, workspace);
  const int error = launch_lag_sums(b, stream);
  // Parts are added up there too, so it is launched without filters as well.
  const int64_t filter_groups = p.filters > 0 ? ceil_div(p.filters, kFilters) : 1;
  if (error) return error;
  const int64_t blocks = ceil_div(b.all_rows, kWarp) * filter_groups;
  return launch(power_sums, dim3(unsigned(blocks)), dim3(2 * kFilters * kWarp), 0, stream, b);
}

}  // namespace eegfast
