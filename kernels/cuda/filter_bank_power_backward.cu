// SPDX-License-Identifier: BSD-3-Clause
// Gradient of filter_bank_power (formula: eegfast/filter_bank_power.h; the algebra:
// kernels/cpu/filter_bank_power.cpp). With g and g' the gradients of total and squares, r and c the
// sums per lag of a row and of a filter, z = g + 2 g' y at the outputs y that do not count:
//   dx[t] = sum_f g_f sum h_f + sum_d v[|d|] x[t + d] - ends,   v[d] = 2 sum_f g'_f c_f[d]
//   dh[k] = sum_rows g sum x + 2 sum_d R[d] (h[k - d] + h[k + d]) - ends,   R[d] = sum_rows g' r[d]
//
// Four launches, those for a gradient that is not wanted left out:
//   lag_sums          the filters' c, and the samples at the ends, a row a lane
//   ends_and_sums     a block takes 32 rows and some filters: z, a filter at a time, and what it
//                     passes to samples and taps; R. A lane is a row, a warp eight outputs, samples
//                     or taps; for R a lane is a lag. What belongs to the taps goes to a slot of
//                     each block.
//   grad_of_samples   a block takes a stretch of a row, a thread kOwn samples of it
//   grad_of_taps      a block per filter adds up the slots
// All sums run in a fixed order.
//
// Per row, with ends of e outputs: 2 length n_times + 3 filters (length + e^2) FMA in double.
// HAMNet's batch: 64 M, 4.5 us at half the float32 rate.
#include "filter_bank_power.cuh"

namespace eegfast {
namespace {

constexpr int kMaxSlots = 264;
constexpr int kWarps = 6;  // HAMNet: twice 20 samples, eight to a warp

struct Backward {
  Bank b;
  double* z;          // (blocks, ends, kWarp) of one filter and 32 rows; null: in shared memory
  double* grad_ends;  // (filter groups, ends, all rows)
  double* slots;      // (slots, filters, values)
  double* tap_sums;   // (filters, values)
  int64_t slot_count, filter_groups;
  __host__ __device__ int64_t values() const { return b.p.length + 1 + b.end_samples(); }
};

constexpr size_t kMaxSharedZ = 32 * 1024;
inline size_t shared_z(const Bank& b) {
  const size_t bytes = size_t(b.end_samples()) * kWarp * sizeof(double);
  return bytes <= kMaxSharedZ ? bytes : 0;
}

// to[i] += sum_{u >= first + i} z(u) other(u - first - i), u < count.
template <class Z, class Other>
__device__ void add_triangle(int64_t first, int64_t count, const Z& z, const Other& other,
                             double (&to)[kOuts]) {
  double window[2 * kOuts - 1];
#pragma unroll
  for (int j = 0; j < kOuts - 1; ++j) window[j] = 0;
  for (int64_t u = 0; u < count - first; u += kOuts) {
#pragma unroll
    for (int j = 0; j < kOuts; ++j) window[kOuts - 1 + j] = other(u + j);
#pragma unroll
    for (int k = 0; k < kOuts; ++k) {
      const double grad = z(first + u + k);
#pragma unroll
      for (int i = 0; i < kOuts; ++i) to[i] += grad * window[kOuts - 1 + k - i];
    }
#pragma unroll
    for (int j = 0; j < kOuts - 1; ++j) window[j] = window[kOuts + j];
  }
}

struct Sums {
  double lags[kWarp][kWarp + 1], grad[kWarps][2][kWarp];
};

class EndsAndSums {
 public:
  __device__ EndsAndSums(const Backward& k, Sums& sums, double* shared_z)
      : k_(k),
        p_(k.b.p),
        sums_(sums),
        warp_(threadIdx.x / kWarp),
        lane_(threadIdx.x % kWarp),
        first_filter_(p_.filters * blockIdx.y / gridDim.y),
        stop_filter_(p_.filters * (blockIdx.y + 1) / gridDim.y),
        z_(k.z ? k.z + (int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * k.b.end_samples() * kWarp
               : shared_z),
        slot_(k.slots + blockIdx.x * p_.filters * k.values()) {}

  // 32 rows from `first` on; all threads of the block come here together.
  __device__ void rows(int64_t first, bool is_first) {
    is_first_ = is_first;
    live_ = first + lane_ < k_.b.all_rows;
    row_ = live_ ? first + lane_ : k_.b.all_rows - 1;
    double kept[kOuts] = {};
    for (int64_t f = first_filter_; f < stop_filter_; ++f) {
      const double g = grad(p_.grad_total, f), factor = 2 * grad(p_.grad_squares, f);
      __syncthreads();
      units(
          [&](const End& end, double* z, int64_t, int64_t, int64_t from) {
            double y[kOuts];
            end.outputs(from, y);
#pragma unroll
            for (int j = 0; j < kOuts; ++j)
              if (from + j < end.count) z[(from + j) * kWarp] = live_ ? g + factor * y[j] : 0.0;
          },
          f);
      __syncthreads();
      units(
          [&](const End& end, double* z, int64_t offset, int64_t unit, int64_t from) {
            const auto of_output = [&](int64_t u) { return u < end.count ? z[u * kWarp] : 0.0; };
            if (p_.grad_x) {
              double sum[kOuts] = {};
              add_triangle(from, end.count, of_output, [&](int64_t m) { return end.tap(m); }, sum);
              keep(sum, kept, unit, offset + from, offset + end.count, f);
            }
            if (p_.grad_taps) {
              double sum[kOuts] = {};
              add_triangle(
                  from, end.count, of_output, [&](int64_t m) { return end.sample(m); }, sum);
              const double total = sum_over_lanes(sum);
              const int64_t tap = from + lane_ / (kWarp / kOuts);
              if (lane_ % (kWarp / kOuts) == 0 && tap < end.count)
                add(f, p_.length + 1 + offset + tap, total);
            }
          },
          f);
    }
    if (p_.grad_taps) add_lags();
  }

 private:
  __device__ double grad(const double* from, int64_t f) const {
    return from && live_ ? from[k_.b.result(row_, f)] : 0.0;
  }
  __device__ void add(int64_t f, int64_t value, double sum) const {
    double& to = slot_[f * k_.values() + value];
    to = is_first_ ? sum : to + sum;
  }

  // Calls use(end, its z, its place among the ends, unit, first output) for this warp's units.
  template <class Use>
  __device__ void units(const Use& use, int64_t f) const {
    const int64_t of_head = ceil_div(p_.head, kOuts), all = of_head + ceil_div(p_.tail, kOuts);
    for (int64_t unit = warp_; unit < all; unit += kWarps) {
      const bool tail = unit >= of_head;
      const int64_t offset = tail ? p_.head : 0;
      use(End(k_.b, tail, row_, f), z_ + offset * kWarp + lane_, offset, unit,
          (tail ? unit - of_head : unit) * kOuts);
    }
  }

  // What filters pass to the samples at the ends: a warp's first unit is summed in registers.
  __device__ void keep(const double (&sum)[kOuts], double (&kept)[kOuts], int64_t unit, int64_t at,
                       int64_t stop, int64_t f) const {
    const bool in_registers = unit < kWarps;
#pragma unroll
    for (int i = 0; i < kOuts; ++i) {
      double value = sum[i];
      double* to = k_.grad_ends + (blockIdx.y * k_.b.end_samples() + at + i) * k_.b.all_rows + row_;
      const bool written = live_ && at + i < stop;
      if (in_registers)
        value = kept[i] += value;
      else if (written && f > first_filter_)
        value += *to;
      if (written && (!in_registers || f + 1 == stop_filter_)) *to = value;
    }
  }

  __device__ void add_lags() const {
    for (int64_t first = 0; first <= p_.length; first += kWarp) {
      __syncthreads();
      for (int d = warp_; d < kWarp; d += kWarps)
        sums_.lags[d][lane_] =
            live_ && first + d <= p_.length ? p_.sums[(first + d) * k_.b.all_rows + row_] : 0.0;
      __syncthreads();
      const int64_t lag = first + lane_;
      for (int64_t f = first_filter_ + warp_; f < stop_filter_; f += kWarps) {
        __syncwarp();
        sums_.grad[warp_][0][lane_] = grad(p_.grad_squares, f);
        sums_.grad[warp_][1][lane_] = grad(p_.grad_total, f);
        __syncwarp();
        const double* grads = sums_.grad[warp_][lag == p_.length];
        double sum = 0;
#pragma unroll 8
        for (int i = 0; i < kWarp; ++i) sum += grads[i] * sums_.lags[lane_][i];
        if (lag <= p_.length) add(f, lag, sum);
      }
    }
  }

  const Backward& k_;
  const FilterBankPower& p_;
  Sums& sums_;
  const int warp_, lane_;
  const int64_t first_filter_, stop_filter_;
  double *const z_, *const slot_;
  bool is_first_ = true, live_ = false;
  int64_t row_ = 0;
};

__global__ void __launch_bounds__(kWarps* kWarp, 2) ends_and_sums(const Backward k) {
  EEGFAST_SHARED(Sums, sums);
  EEGFAST_DYNAMIC_SHARED(double, shared_z);
  EndsAndSums work(k, sums, shared_z);
  for (int64_t group = blockIdx.x; group * kWarp < k.b.all_rows; group += gridDim.x)
    work.rows(group * kWarp, group == blockIdx.x);
}

constexpr int kOwn = 7, kTaps = 8, kStage = 256;  // samples of a thread, taps of a step, of a tile
constexpr int kSampleWarps = 4;

struct Tile {
  double taps[kStage], x[kSampleWarps * kWarp * kOwn + kStage];
};

__global__ void __launch_bounds__(kSampleWarps* kWarp) grad_of_samples(const Backward k) {
  EEGFAST_SHARED(Tile, tile);
  const Bank& b = k.b;
  const FilterBankPower& p = b.p;
  const int size = blockDim.x * kOwn, own = threadIdx.x * kOwn;
  const int64_t tiles = ceil_div(p.n_times, size);
  const int64_t row = blockIdx.x / tiles, start = blockIdx.x % tiles * size;
  const auto grad = [&](const double* from, int64_t f) {
    return from ? from[b.result(row, f)] : 0.0;
  };

  double constant = 0;
  for (int64_t f = 0; f < p.filters; ++f)
    constant += grad(p.grad_total, f) * b.energy[f * (p.length + 1) + p.length];
  double sum[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) sum[i] = constant;
  for (int64_t first = 1 - p.length; first < p.length; first += kStage) {
    const int64_t left = p.length - first;
    const int count = left < kStage ? int(ceil_div(left, kTaps)) * kTaps : kStage;
    __syncthreads();
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      const int64_t lag = first + i < 0 ? -first - i : first + i;
      double tap = 0;
      if (lag < p.length)
        for (int64_t f = 0; f < p.filters; ++f)
          tap += 2 * grad(p.grad_squares, f) * b.energy[f * (p.length + 1) + lag];
      tile.taps[i] = tap;
    }
    fill_as(p.dtype, p.x, b.sample(row), p.n_times, start + first, size + count, tile.x);
    __syncthreads();
    double window[kTaps + kOwn - 1];
#pragma unroll
    for (int j = 0; j < kOwn - 1; ++j) window[j] = tile.x[own + j];
    for (int i = 0; i < count; i += kTaps) {
#pragma unroll
      for (int j = 0; j < kTaps; ++j) window[kOwn - 1 + j] = tile.x[own + i + kOwn - 1 + j];
#pragma unroll
      for (int a = 0; a < kTaps; ++a) {
        const double tap = tile.taps[i + a];
#pragma unroll
        for (int o = 0; o < kOwn; ++o) sum[o] += tap * window[a + o];
      }
#pragma unroll
      for (int j = 0; j < kOwn - 1; ++j) window[j] = window[kTaps + j];
    }
  }
  __syncthreads();
#pragma unroll
  for (int o = 0; o < kOwn; ++o) tile.x[own + o] = sum[o];
  __syncthreads();
  for (int i = threadIdx.x; i < size && start + i < p.n_times; i += blockDim.x) {
    const int64_t t = start + i, back = p.n_times - 1 - t;
    double value = tile.x[i];
    for (int64_t group = 0; group < k.filter_groups; ++group) {
      const double* ends = k.grad_ends + group * b.end_samples() * b.all_rows + row;
      if (t < p.head) value -= ends[t * b.all_rows];
      if (back < p.tail) value -= ends[(p.head + back) * b.all_rows];
    }
    if (p.dtype == DType::kFloat64)
      static_cast<double*>(p.grad_x)[row * p.n_times + t] = value;
    else
      store_as(p.dtype, p.grad_x, row * p.n_times + t, float(value));
  }
}

__global__ void __launch_bounds__(kWarps* kWarp) grad_of_taps(const Backward k) {
  using Partial = double[kWarps][kWarp];
  EEGFAST_SHARED(Partial, partial);
  const FilterBankPower& p = k.b.p;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t filter = blockIdx.x, values = k.values();
  double* sums = k.tap_sums + filter * values;
  for (int64_t first = 0; first < values; first += kWarp) {
    const int64_t value = first + lane;
    double sum = 0;
    if (value < values) {
#pragma unroll 4
      for (int64_t slot = warp; slot < k.slot_count; slot += kWarps)
        sum += k.slots[(slot * p.filters + filter) * values + value];
    }
    __syncthreads();
    partial[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || value >= values) continue;
    for (int other = 1; other < kWarps; ++other) sum += partial[other][lane];
    sums[value] = sum;
  }
  __syncthreads();

  const double* h = p.taps + filter * p.length;
  for (int64_t i = threadIdx.x; i < p.length; i += blockDim.x) {
    double grad = sums[p.length] + 2 * sums[0] * h[i];
    for (int64_t d = 1; d < p.length; ++d) {
      const double near = (i >= d ? h[i - d] : 0.0) + (i + d < p.length ? h[i + d] : 0.0);
      grad += 2 * sums[d] * near;
    }
    const double* ends = sums + p.length + 1;
    if (p.length - 1 - i < p.head) grad -= ends[p.length - 1 - i];
    if (i < p.tail) grad -= ends[p.head + i];
    p.grad_taps[filter * p.length + i] = grad;
  }
}

Backward backward(const FilterBankPower& p, Workspace& workspace) {
  Backward k{};
  k.b = bank(p);
  k.b.parts = 1;
  const int64_t row_groups = ceil_div(k.b.all_rows, kWarp), ends = k.b.end_samples();
  k.slot_count = row_groups < kMaxSlots ? row_groups : kMaxSlots;
  k.filter_groups = ceil_div(kMaxSlots, k.slot_count);
  if (k.filter_groups > p.filters) k.filter_groups = p.filters;
  k.b.energy = workspace.take(p.filters * (p.length + 1));
  k.b.ends = workspace.take(ends * k.b.all_rows);
  if (shared_z(k.b) == 0) k.z = workspace.take(k.filter_groups * k.slot_count * ends * kWarp);
  if (p.grad_x) k.grad_ends = workspace.take(k.filter_groups * ends * k.b.all_rows);
  if (p.grad_taps) {
    k.slots = workspace.take(k.slot_count * p.filters * k.values());
    k.tap_sums = workspace.take(p.filters * k.values());
  }
  return k;
}

int launch_grad_of_samples(const Backward& k, void* stream) {
  const int64_t of_warp = kWarp * kOwn, wanted = ceil_div(k.b.p.n_times, of_warp);
  const int64_t warps = wanted < kSampleWarps ? wanted : kSampleWarps;
  const int64_t blocks = k.b.all_rows * ceil_div(k.b.p.n_times, warps * of_warp);
  return launch(grad_of_samples, dim3(unsigned(blocks)), dim3(unsigned(warps * kWarp)), 0, stream,
                k);
}

}  // namespace

int64_t filter_bank_power_backward_workspace(const FilterBankPower& p) {
  Workspace count{nullptr};
  backward(p, count);
  return count.bytes();
}

int filter_bank_power_backward_cuda(const FilterBankPower& p, void* stream) {
  Workspace workspace{static_cast<double*>(p.workspace)};
  const Backward k = backward(p, workspace);
  if (p.filters > 0) {
    if (const int error = launch_lag_sums(k.b, stream)) return error;
    const dim3 grid(unsigned(k.slot_count), unsigned(k.filter_groups));
    const size_t bytes = shared_z(k.b);
    if (const int error = launch(ends_and_sums, grid, dim3(kWarps * kWarp), bytes, stream, k))
      return error;
  }
  if (p.grad_x && p.n_times > 0)
    if (const int error = launch_grad_of_samples(k, stream)) return error;
  if (p.grad_taps && p.filters > 0)
    return launch(grad_of_taps, dim3(unsigned(p.filters)), dim3(kWarps * kWarp), 0, stream, k);
  return cudaSuccess;
}

}  // namespace eegfast
