// SPDX-License-Identifier: BSD-3-Clause
// One kernel at all its scales, backward (formula: eegfast/scaling_conv1d.h).
//
// A block takes tiles of one electrode, one after the other. For four filters at a time (one, of
// those left over) and level by level it brings the gradient, zero where ReLU was zero, to shared
// memory, with a halo, and uses it there for all three results:
// - grad_x is its correlation with the mirrored kernels, summed over filters and levels in
//   registers: a thread holds 8 neighbouring samples; 4 taps take a vector load of gradients and
//   one of taps, the same for the whole warp, for 32 FMA.
// - A kernel's gradient is its correlation with the signal. A warp takes 8 neighbouring taps of 4
//   filters, a lane 8 of each 256 samples; they take 12 vector loads for 256 FMA. The sums of the
//   lanes meet by shuffles, those of the tiles in this block's part of the workspace; a second
//   launch adds the parts in a fixed order and carries the levels' gradients back to the weight.
// - A warp more adds the gradients up, for the bias.
// Lanes read 8 samples apart, so even and odd runs of 4 samples lie apart: no banks collide.
//
// About 4 length FMA per filter and sample for all levels together; 4 bytes (2 in half precision)
// and a bit read per output, with (tile + 2 reach) / tile times as much from the second-level
// cache. Shared memory is busy for 22 of 32 cycles of FMA. With 65 taps and 6 levels 11 of 20
// instructions are FMA, so the H200 is bound by issue: 0.54 ms for (16, 32, 8064) and 8 filters if
// every cycle at 1.755 GHz issued one, of which reading the gradient would take 0.19.
// Rows of fewer than 256 samples, or batches of fewer than some 500 warps, leave much of it idle.
#pragma once

#include "scaling_conv1d.cuh"

namespace eegfast {
namespace {

constexpr int kPerThread = 8;  // samples of grad_x
constexpr int kTaps = 8;       // of a kernel's gradient at a time

struct Backward {
  ScalingConv1d p;
  int64_t tiles, items, parts;  // items of an electrode: tiles of all rows; and who shares them
  int tile, halo;
  int taps, stride;  // of a filter: taps of all levels; slots in shared memory
  int base;          // the first staged sample that is used
  int row, own_row;  // elements of a staged row, and of one without halo
  bool whole;        // all slots lie in shared memory at a time
  bool vectors;      // gradients may be read as vectors
  void* partials;    // (n_chans, parts, filters, taps and levels)
  void* pooled;
};

// Where four samples lie in a row of `row` elements, by their index / 4: lanes 8 samples apart read
// side by side.
__device__ inline int place(int fours, int row) {
  return 4 * (fours >> 1) + (fours & 1 ? row / 2 : 0);
}

// acc[n] += the taps in the slots lo .. hi times the samples from `fours` of a staged row on.
template <class T>
__device__ __forceinline__ void slide(T (&acc)[kPerThread], const T* staged, int row, int fours,
                                      const T* slots, int lo, int hi) {
  const T *one = staged + place(fours, row), *other = staged + place(fours + 1, row);
  Four<T> a = four(one), b = four(other);
  const auto step = [&](int slot, bool edge) {
    const Four<T> c = four(one + 4), tap = four(slots + slot);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (edge && (slot + k < lo || slot + k >= hi)) continue;
#pragma unroll
      for (int n = 0; n < kPerThread; ++n) {
        const int i = k + n;
        acc[n] += tap.at[k] * (i < 4 ? a : i < 8 ? b : c).at[i % 4];
      }
    }
    a = b;
    b = c;
    const T* next = one + 4;
    one = other;
    other = next;
  };
  int slot = 0;
  if (lo > 0) {
    step(slot, true);
    slot = 4;
  }
#pragma unroll 4
  for (; slot + 4 <= hi; slot += 4) step(slot, false);
  if (slot < hi) step(slot, true);
}

// Sums over groups of V neighbouring lanes, V a power of two: lane i gets that of value i % V.
template <int V, class T>
__device__ inline T sum_lanes(const T (&values)[V]) {
  if constexpr (V > 1) {
    constexpr int half = V / 2;
    const bool upper = threadIdx.x & half;
    T rest[half];
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const T sent = upper ? values[i] : values[i + half];
      rest[i] = (upper ? values[i + half] : values[i]) + __shfl_xor_sync(0xffffffffu, sent, half);
    }
    return sum_lanes<half>(rest);
  } else {
    return values[0];
  }
}

// The same over the whole warp.
template <int V, class T>
__device__ inline T sum_warp(const T (&values)[V]) {
  T sum = sum_lanes<V>(values);
#pragma unroll
  for (int half = V; half < 32; half *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, half);
  return sum;
}

template <class IO>
class BackwardBlock {
 public:
  using T = Accumulator<IO>;

  __device__ BackwardBlock(const Backward& call, T* shared)
      : c_(call),
        p_(call.p),
        grad_(shared),
        x_(grad_ + kFilters * call.row),
        slots_(x_ + call.row),
        own_(call.whole ? grad_ : slots_ + kFilters * call.stride),
        lane_(threadIdx.x % 32) {}

  __device__ void run(int64_t block) {
    chan_ = block / c_.parts;
    const int64_t part = block % c_.parts;
    for (int64_t item = part; item < c_.items; item += c_.parts) {
      begin_ = item % c_.tiles * c_.tile;
      row_ = item / c_.tiles * p_.n_chans + chan_;
      first_ = item == part;
      work_ = 0;
#pragma unroll
      for (int n = 0; n < kPerThread; ++n) grad_x_[n] = 0;
      if (c_.whole) stage_signal(begin_ - c_.halo + c_.base, c_.base / 4, 4 * fours_used());
      const int64_t full = p_.filters / kFilters * kFilters;
      for (int64_t f = 0; f < full; f += kFilters) run_group<kFilters>(f, block);
      for (int64_t f = full; f < p_.filters; ++f) run_group<1>(f, block);
      if (p_.grad_x) write_grad_x();
    }
  }

 private:
  // Of a staged row, from c_.base on.
  __device__ int fours_used() const { return c_.tile / 4 + Level(p_.length, c_.halo).groups; }

  template <int W>
  __device__ void run_group(int64_t filter, int64_t block) {
    const int64_t kernel = (p_.weight_chans > 1 ? chan_ : 0) * p_.filters + filter;
    if (c_.whole && p_.grad_x)
      fill_slots(p_, static_cast<const IO*>(p_.weight) + kernel * p_.length, W, c_.halo, true,
                 slots_, c_.stride);
    T* sums = static_cast<T*>(c_.partials) + (block * p_.filters + filter) * (c_.taps + p_.levels);
    Level level(p_.length, c_.halo);
    for (int64_t l = 0; l < p_.levels; ++l, level.next()) {
      const int64_t out_row = (row_ * p_.filters + filter) * p_.levels + l;
      if (!c_.whole) stage_gradient<W>(out_row, begin_, 0, c_.tile / 4, own_, c_.own_row);
      const int most = c_.whole ? level.groups : kChunk;
      for (int group = 0; group < level.groups; group += most) {
        const int groups = level.groups - group < most ? level.groups - group : most;
        const int64_t from = begin_ - c_.halo + level.base + 4 * int64_t(group);
        const int fours = c_.whole ? level.base / 4 : 0;
        stage_gradient<W>(out_row, from, fours, c_.tile / 4 + groups, grad_, c_.row);
        if (!c_.whole) {
          stage_signal(from, 0, c_.tile + 4 * groups);
          fetch_slots(static_cast<const T*>(c_.pooled) + kernel * c_.taps, c_.taps, W, level, group,
                      groups, true, slots_, c_.stride);
        }
        __syncthreads();
        const int rest = level.front + level.length - 4 * group;
        use<W>(level, 4 * group, fours, slots_ + (c_.whole ? level.slot : 0),
               group ? 0 : level.front, rest < 4 * groups ? rest : 4 * groups, sums);
        if (p_.grad_bias && group == 0) add_bias<W>(sums + c_.taps + l);
        __syncthreads();
      }
    }
  }

  // `count` samples of the signal from `begin` on, at 4 fours ..
  __device__ void stage_signal(int64_t begin, int fours, int count) {
    if (!p_.grad_weight) return;
    const IO* x = static_cast<const IO*>(p_.x) + row_ / p_.n_chans * p_.stride_batch +
                  row_ % p_.n_chans * p_.stride_chan;
#pragma unroll 4
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      const int64_t t = begin + i;
      x_[place(fours + i / 4, c_.row) + i % 4] = t >= 0 && t < p_.n_times ? load(x + t) : T(0);
    }
  }

  // The gradients of a level of W filters, from sample `begin`, a multiple of 4, on.
  template <int W>
  __device__ void stage_gradient(int64_t out_row, int64_t begin, int fours, int count, T* to,
                                 int row) {
    const int64_t mask_bytes = (p_.n_times + 63) / 64 * 8;
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      const int64_t t = begin + 4 * i;
      const bool inside = t >= 0 && t < p_.n_times;
      Four<IO> raw[W];
      unsigned bits[W];
#pragma unroll
      for (int f = 0; f < W; ++f) {
        bits[f] = 0;
        if (!inside) continue;
        const int64_t at = out_row + f * p_.levels;
        bits[f] = p_.kept ? p_.kept[at * mask_bytes + t / 8] >> (t & 4) : 15u;
        const IO* from = static_cast<const IO*>(p_.grad) + at * p_.n_times + t;
        if (c_.vectors) {
          raw[f] = four(from);
        } else {
#pragma unroll
          for (int n = 0; n < 4; ++n)
            if (t + n < p_.n_times)
              raw[f].at[n] = from[n];
            else
              bits[f] &= ~(1u << n);
        }
      }
#pragma unroll
      for (int f = 0; f < W; ++f) {
        T values[4];
#pragma unroll
        for (int n = 0; n < 4; ++n) values[n] = bits[f] >> n & 1 ? load(&raw[f].at[n]) : T(0);
        store_four(to + f * row + place(fours + i, row), values);
      }
    }
  }

  // Slots lo .. hi of a level, of which the first is slot `slot` there and meets staged sample
  // 4 fours.
  template <int W>
  __device__ void use(const Level& level, int slot, int fours, const T* slots, int lo, int hi,
                      T* sums) {
    if (p_.grad_x && begin_ + kPerThread * threadIdx.x < p_.n_times)
      for (int f = 0; f < W; ++f)
        slide(grad_x_, grad_ + f * c_.row, c_.row, fours + kPerThread / 4 * threadIdx.x,
              slots + f * c_.stride, lo, hi);
    if (!p_.grad_weight) return;
    for (int first = 0; first < hi; first += kTaps) {
      if (!my_turn()) continue;
      const int tap = slot + first - level.front;
      if (hi - first == 1)
        add_taps<1, W>(level, tap, fours + first / 4, sums);
      else
        add_taps<kTaps, W>(level, tap, fours + first / 4, sums);
    }
  }

  // Warps take turns, through all levels, so that each gets as much to do.
  __device__ bool my_turn() { return work_++ % (blockDim.x / 32) == threadIdx.x / 32; }

  // The gradients of M taps from `tap` on; those outside of the level are dropped.
  template <int M, int W>
  __device__ void add_taps(const Level& level, int tap, int fours, T* sums) {
    constexpr int kWindow = (M + 10) / 4;
    T acc[M * W] = {};
    const int own_row = own_stride();
    const auto step = [&](int at, int64_t count) {
      Four<T> window[kWindow];
#pragma unroll
      for (int i = 0; i < kWindow; ++i) window[i] = four(x_ + place(fours + at + i, c_.row));
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        if (n >= count) break;  // behind the signal a tap meets no sample, not even NaN
        Four<T> grad[W];
#pragma unroll
        for (int f = 0; f < W; ++f)
          grad[f] = four(own_ + f * own_row + place(own_fours() + at + n / 4, own_row));
#pragma unroll
        for (int m = 0; m < M; ++m)
#pragma unroll
          for (int f = 0; f < W; ++f)
            acc[m * W + f] += grad[f].at[n % 4] * window[(m + n) / 4].at[(m + n) % 4];
      }
    };
    for (int first = 8 * lane_; first < c_.tile; first += 256) {
      const int64_t count = p_.n_times - begin_ - first;
      if (count >= 8)
        step(first / 4, 8);
      else
        step(first / 4, count);
    }
    const T sum = sum_warp<M * W>(acc);
    const int at = tap + lane_ / W;
    if (lane_ < M * W && at >= 0 && at < level.length)
      add(sums + int64_t(lane_ % W) * (c_.taps + p_.levels) + level.offset + at, sum);
  }

  template <int W>
  __device__ void add_bias(T* sums) {
    if (!my_turn()) return;
    T acc[W] = {};
    for (int fours = own_fours() + lane_; fours < own_fours() + c_.tile / 4; fours += 32)
#pragma unroll
      for (int f = 0; f < W; ++f) {
        const Four<T> grad = four(own_ + f * own_stride() + place(fours, own_stride()));
        acc[f] += (grad.at[0] + grad.at[1]) + (grad.at[2] + grad.at[3]);
      }
    const T sum = sum_warp<W>(acc);
    if (lane_ < W) add(sums + lane_ * (c_.taps + p_.levels), sum);
  }

  __device__ void add(T* to, T sum) const { *to = first_ ? sum : *to + sum; }

  // The gradients without their halo.
  __device__ int own_fours() const { return c_.whole ? c_.halo / 4 : 0; }
  __device__ int own_stride() const { return c_.whole ? c_.row : c_.own_row; }

  __device__ void write_grad_x() const {
    const int64_t t = begin_ + kPerThread * threadIdx.x;
    IO* to = static_cast<IO*>(p_.grad_x) + row_ * p_.n_times + t;
#pragma unroll
    for (int n = 0; n < kPerThread; n += 4) {
      if (c_.vectors) {
        if (t + n < p_.n_times) store_four(to + n, grad_x_ + n);
        continue;
      }
#pragma unroll
      for (int i = n; i < n + 4; ++i)
        if (t + i < p_.n_times) store(to + i, grad_x_[i]);
    }
  }

  const Backward& c_;
  const ScalingConv1d& p_;
  T *const grad_, *const x_, *const slots_, *const own_;
  const int lane_;
  int64_t chan_ = 0, begin_ = 0, row_ = 0;
  bool first_ = true;
  unsigned work_ = 0;
  T grad_x_[kPerThread];
};

template <class IO>
__global__ void __launch_bounds__(kThreads, sizeof(IO) == 8 ? 1 : 3)
    scaling_backward(const Backward call) {
  using T = Accumulator<IO>;
  EEGFAST_DYNAMIC_SHARED(T, shared);
  const int64_t block = this_block();
  if (block < call.p.n_chans * call.parts) BackwardBlock<IO>(call, shared).run(block);
}

}  // namespace
}  // namespace eegfast
