// SPDX-License-Identifier: BSD-3-Clause
// Backward of scaling_conv1d: one SIMD lane is one stretch of neighbouring samples, so that
// neighbours in time are vectors beside each other: every load is aligned, and a tap is a step of
// one vector. Each row of the gradient, zeroed where ReLU was zero, is brought into this form once
// and serves both results: the signal's gradient is its correlation with the mirrored kernels,
// summed over filters and levels; a kernel's is its correlation with the signal, summed per lane
// over at most kChunk / kLanes samples, then in double. The gradients of all levels' kernels go
// back to the weight through the transposed pooling.
#pragma once

#include <type_traits>

#include "scaling_kernels.h"
#include "scaling_tiles.h"

namespace eegfast::EEGFAST_ISA {
namespace {

// Brings part of each of some rows into the cache, a line per call, while arithmetic goes on: the
// parts are too short for the hardware to foresee the next.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const void* first, int64_t row_bytes, int64_t bytes, int64_t rows)
      : at_(static_cast<const char*>(first)),
        end_(at_ + bytes),
        row_bytes_(row_bytes),
        bytes_(bytes),
        rows_(rows) {}
  void operator()() {
    if (at_ >= end_) {
      if (--rows_ <= 0) return;
      end_ += row_bytes_;
      at_ = end_ - bytes_;
    }
    __builtin_prefetch(at_);
    at_ += 64;
  }

 private:
  const char* at_ = nullptr;
  const char* end_ = nullptr;
  int64_t row_bytes_ = 0, bytes_ = 0, rows_ = 0;
};

// Adds the lanes of vectors, as they come, to neighbouring sums.
template <class T>
class LaneSums {
 public:
  explicit LaneSums(double* to) : to_(to) {}
  void push(Vec<T> v) {
    rows_[count_++] = v;
    if (count_ == kLanes<T>) flush();
  }
  void flush() {
    for (int i = count_; i < kLanes<T>; ++i) rows_[i] = Vec<T>{};
    const Vec<T> sums = lane_sums<T>(rows_);
    for (int i = 0; i < count_; ++i) to_[i] += double(sums[i]);
    to_ += count_;
    count_ = 0;
  }

 private:
  double* to_;
  int count_ = 0;
  Vec<T> rows_[kLanes<T>];
};

template <class T>
class Backward {
 public:
  Backward(const ScalingConv1d& p, const Levels& levels, const PooledKernels<T>& kernels)
      : p_(p),
        levels_(levels),
        kernels_(kernels),
        reach_((p.length - 1) / 2),
        halo_((reach_ + 63) / 64 * 64),
        stride_(kChunk + (2 * reach_ + 5) * L),
        line_(kChunk + 2 * halo_),
        x_(stride_),
        grad_(kFilters * stride_),
        grad_x_(kChunk),
        bias_(p.levels * kFilters * L) {}

  // Samples begin .. begin + kChunk of a row. Adds the gradients of the kernels and, behind them,
  // of the biases to `sums`: (groups of filters, taps and levels, filters of the group).
  void run(int64_t row, int64_t begin, double* sums) {
    const int64_t batch = row / p_.n_chans, chan = row % p_.n_chans;
    begin_ = begin;
    count_ = smaller(kChunk, p_.n_times - begin);
    stretch_ = (count_ + L * kStretch - 1) / (L * kStretch) * kStretch;
    if (p_.grad_weight) {
      const T* x = static_cast<const T*>(p_.x) + batch * p_.stride_batch + chan * p_.stride_chan;
      copy_stretch(x, p_.n_times, begin - reach_, stretch_ * L + 2 * reach_,
                   &line_[halo_ - reach_]);
      spread(reach_, center(x_.get()));
    }
    std::memset(grad_x_.get(), 0, kChunk * sizeof(T));
    for (int64_t f = 0; f < p_.filters;) {
      const int width = FilterGroup(p_.filters, f).width;
      double* to = sums + f * (levels_.taps + p_.levels);
      fetch_gradients(row, f + width);
      width == 1 ? run_group<1, kRowTaps>(row, chan, f, to)
                 : run_group<kFilters, kTaps>(row, chan, f, to);
      f += width;
    }
    if (p_.grad_x) write_grad_x(static_cast<T*>(p_.grad_x) + row * p_.n_times + begin);
  }

 private:
  static constexpr int L = kLanes<T>;
  static constexpr int kStretch = L > 8 ? L : 8;

  template <int F, int M>
  void run_group(int64_t row, int64_t chan, int64_t filter, double* sums) {
    const T* taps = kernels_.of(chan, filter);
    LaneSums<T> lane_sums(sums);
    for (int64_t l = 0; l < p_.levels; ++l) {
      for (int f = 0; f < F; ++f) {
        read_gradient((row * p_.filters + filter + f) * p_.levels + l, levels_.length[l] / 2);
        spread(levels_.length[l] / 2, center(&grad_[f * stride_]));
      }
      if (p_.grad_x) add_grad_x<F>(taps + levels_.offset[l] * F, levels_.length[l]);
      if (p_.grad_weight) add_grad_weight<F, M>(levels_.length[l], lane_sums);
      if (p_.grad_bias)
        for (int f = 0; f < F; ++f) store(&bias_[(l * F + f) * L], sum_over_time(f));
    }
    lane_sums.flush();
    if (!p_.grad_bias) return;
    LaneSums<T> bias_sums(sums + levels_.taps * F);
    for (int64_t i = 0; i < p_.levels * F; ++i) bias_sums.push(load(&bias_[i * L]));
    bias_sums.flush();
  }

  // The group of filters that comes next.
  void fetch_gradients(int64_t row, int64_t filter) {
    if (filter == p_.filters) filter = 0, row += 1;
    if (row == p_.batch * p_.n_chans) return;
    const int width = FilterGroup(p_.filters, filter).width;
    const T* grad = static_cast<const T*>(p_.grad) +
                    (row * p_.filters + filter) * p_.levels * p_.n_times + begin_;
    ahead_ = Ahead(grad, p_.n_times * int64_t(sizeof(T)), count_ * int64_t(sizeof(T)),
                   width * p_.levels);
  }

  // line_ = the gradient of an output row behind ReLU, zero outside of the signal.
  void read_gradient(int64_t row, int64_t reach) {
    const T* grad = static_cast<const T*>(p_.grad) + row * p_.n_times;
    const uint8_t* kept = p_.kept ? p_.kept + row * scaling_mask_bytes(p_.n_times) : nullptr;
    T part[64];
    for (int64_t i = -((reach + 63) / 64 * 64); i < stretch_ * L + reach; i += 64) {
      const int64_t t = begin_ + i;
      T* to = &line_[halo_ + i];
      if (t < 0 || t >= p_.n_times) {
        std::memset(to, 0, sizeof part);
        continue;
      }
      const T* from = grad + t;
      if (t + 64 > p_.n_times) {
        std::memset(part, 0, sizeof part);
        std::memcpy(part, from, size_t(p_.n_times - t) * sizeof(T));
        from = part;
      }
      uint64_t word = ~uint64_t(0);
      if (kept) std::memcpy(&word, kept + t / 8, sizeof word);
#pragma GCC unroll 8
      for (int k = 0; k < 64; k += L)
        store(to + k, keep_lanes<T>(load(from + k), uint32_t(word >> k)));
    }
  }

  // Where sample begin_ lies in a spread row.
  T* center(T* row) const { return row + reach_ * L; }

  // Gives each lane a stretch of line_ of its own: vector s of `to` holds samples s, s + stretch,
  // .. So the neighbours in time of an aligned vector are the vectors beside it.
  void spread(int64_t reach, T* to) const {
    const T* line = const_cast<Backward*>(this)->line_.get() + halo_;
    for (int64_t s = 0; s < stretch_; s += L) {
      Vec<T> tile[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) tile[i] = load(line + i * stretch_ + s);
      transpose<T>(tile);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store(to + (s + i) * L, tile[i]);
    }
    // Beyond its stretch a lane goes on with the next lane's, and the last with the line.
    for (int64_t s = 0; s < reach; ++s) {
      T* beyond = to + (stretch_ + s) * L;
      store(beyond, load(to + s * L + 1));
      beyond[L - 1] = line[stretch_ * L + s];
    }
    for (int64_t s = -1; s >= -reach; --s) {
      T* before = to + s * L;
      store(before, load(to + (stretch_ + s) * L - 1));
      before[0] = line[s];
    }
  }

  // grad_x += the gradient correlated with the mirrored kernels.
  template <int F>
  void add_grad_x(const T* taps, int64_t length) {
    for (int64_t s = 0; s < stretch_; s += kStretch) {
      Vec<T> acc[kStretch];
#pragma GCC unroll 16
      for (int n = 0; n < kStretch; ++n) acc[n] = load(&grad_x_[(s + n) * L]);
      for (int f = 0; f < F; ++f)
        add_all_taps<kStretch>(acc, center(&grad_[f * stride_]) + (s - length / 2) * L,
                               taps + (length - 1) * F + f, -F, length);
#pragma GCC unroll 16
      for (int n = 0; n < kStretch; ++n) store(&grad_x_[(s + n) * L], acc[n]);
    }
  }

  void write_grad_x(T* to) {
    for (int64_t s = 0; s < stretch_; s += L) {
      Vec<T> tile[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) tile[i] = load(&grad_x_[(s + i) * L]);
      transpose<T>(tile);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store(&line_[i * stretch_ + s], tile[i]);
    }
    std::memcpy(to, line_.get(), size_t(count_) * sizeof(T));
  }

  template <int F, int M>
  void add_grad_weight(int64_t length, LaneSums<T>& sums) {
    const T* x = center(x_.get()) - length / 2 * L;
    int64_t j = 0;
    for (; j + M <= length; j += M) grad_weight_tile<F, M>(x + j * L, sums);
    for (; j < length; ++j) grad_weight_tile<F, 1>(x + j * L, sums);
  }

  template <int F, int M>
  void grad_weight_tile(const T* x, LaneSums<T>& sums) {
    Vec<T> acc[M][F] = {};
    const T* grad = center(grad_.get());
    const auto step = [&](int64_t s, auto masked, uint32_t lanes) {
      if (F > 1) ahead_();
      Vec<T> g[F];
#pragma GCC unroll 4
      for (int f = 0; f < F; ++f) g[f] = load(grad + f * stride_ + s * L);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        Vec<T> v = load(x + (s + m) * L);
        if (masked) v = keep_lanes<T>(v, lanes);
#pragma GCC unroll 4
        for (int f = 0; f < F; ++f) acc[m][f] += g[f] * v;
      }
    };
    if (count_ == stretch_ * L) {
      for (int64_t s = 0; s < stretch_; ++s) step(s, std::false_type(), 0);
    } else {
      // Behind the last sample the gradient is 0, but x may be NaN for taps that do not meet it.
      const int64_t whole = count_ / stretch_, rest = count_ % stretch_;
      for (int64_t s = 0; s < stretch_; ++s)
        step(s, std::true_type(), (1u << (whole + (s < rest))) - 1);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int f = 0; f < F; ++f) sums.push(acc[m][f]);
  }

  Vec<T> sum_over_time(int f) {
    const T* grad = center(&grad_[f * stride_]);
    Vec<T> sum{};
    for (int64_t s = 0; s < stretch_; ++s) sum += load(grad + s * L);
    return sum;
  }

  const ScalingConv1d& p_;
  const Levels& levels_;
  const PooledKernels<T>& kernels_;
  const int64_t reach_, halo_, stride_;
  int64_t begin_ = 0, count_ = 0, stretch_ = 0;
  Scratch<T> line_, x_, grad_, grad_x_, bias_;
  Ahead ahead_;
};

}  // namespace
}  // namespace eegfast::EEGFAST_ISA
