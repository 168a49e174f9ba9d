// SPDX-License-Identifier: BSD-3-Clause
// One kernel at all its scales (formula: eegfast/scaling_conv1d.h).
//
// One SIMD lane is one sample. A task is a stretch of kChunk samples of one row, copied with its
// halo into the first-level cache; all filters and levels are run over it there. Registers hold
// kFilters filters x kTile vectors of time, so that each unaligned load of the signal, which costs
// two accesses, is used kFilters times. A filter that is left over has no partner; there the load
// at t + kLanes serves tap j of vector t + kLanes and tap j + kLanes of vector t.
//
// Backward: the gradient of the rows of a group, masked where ReLU was zero, is copied with its
// halo into the first-level cache once per level and serves both gradients: the signal's is its
// correlation with the mirrored kernels, summed over filters and levels; the kernel's is its
// correlation with the signal, summed over time per lane, then over lanes in double. The gradients
// of all levels' kernels go back to the weight through the transposed pooling.
//
// Per output, with length samples in the first kernel and about 2 length taps in all: 2 taps /
// levels FMA... forward, twice that backward; 4 bytes and a bit written forward, read backward.
#include "eegfast/scaling_conv1d.h"

#include "scaling_kernels.h"
#include "simd.h"

namespace eegfast::EEGFAST_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kTile = 4, kTaps = 5, kRowTile = 16;  // of 32 registers
#else
constexpr int kTile = 2, kTaps = 2, kRowTile = 8;  // of 16
#endif
constexpr int kRowTaps = 8;  // for a single filter
constexpr int64_t kChunk = 1024;
constexpr int64_t kGrainTaps = 1 << 20;  // worth waking another thread

// The samples [begin, begin + count) of a row, zero outside of the signal.
template <class T>
void copy_stretch(const T* row, int64_t n_times, int64_t begin, int64_t count, T* to) {
  const int64_t before = begin < 0 ? smaller(-begin, count) : 0;
  const int64_t inside = smaller(count, n_times - begin) - before;
  std::memset(to, 0, size_t(before) * sizeof(T));
  if (inside > 0) {
    std::memcpy(to + before, row + begin + before, size_t(inside) * sizeof(T));
    std::memset(to + before + inside, 0, size_t(count - before - inside) * sizeof(T));
  } else {
    std::memset(to + before, 0, size_t(count - before) * sizeof(T));
  }
}

// Brings a stretch of each of some rows into the cache, a line per call, while arithmetic goes on:
// the rows are too short and too far apart for the hardware to foresee them.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const void* first, int64_t row_bytes, int64_t bytes, int64_t rows)
      : at_(static_cast<const char*>(first)), end_(at_ + bytes), row_bytes_(row_bytes),
        bytes_(bytes), rows_(rows) {}
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

// acc[n] at time n kLanes += the taps 0, kLanes, .. of a kernel, R of them.
template <int N, int R, class T>
inline void add_taps(Vec<T>* acc, const T* x, const T* taps, int64_t step) {
  constexpr int L = kLanes<T>;
  Vec<T> tap[R];
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) tap[i] = broadcast(taps[i * L * step]);
#pragma GCC unroll 32
  for (int u = 0; u < N + R - 1; ++u) {
    const Vec<T> v = load(x + u * L);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i)
      if (0 <= u - i && u - i < N) acc[u - i] += v * tap[i];
  }
}

// acc[n] += sum_j taps[j step] x[n kLanes + j]
template <int N, class T>
inline void correlate_row(Vec<T>* acc, const T* x, const T* taps, int64_t step, int64_t length) {
  constexpr int L = kLanes<T>;
  for (int64_t r = 0; r < smaller(L, length); ++r) {
    int64_t j = r;
    for (; j + 3 * L < length; j += 4 * L) add_taps<N, 4>(acc, x + j, taps + j * step, step);
    if (j + 2 * L < length)
      add_taps<N, 3>(acc, x + j, taps + j * step, step);
    else if (j + L < length)
      add_taps<N, 2>(acc, x + j, taps + j * step, step);
    else if (j < length)
      add_taps<N, 1>(acc, x + j, taps + j * step, step);
  }
}

template <class T>
class Forward {
 public:
  Forward(const ScalingConv1d& p, const Levels& levels, const PooledKernels<T>& kernels)
      : p_(p),
        levels_(levels),
        kernels_(kernels),
        reach_((p.length - 1) / 2),
        floor_(p.relu ? T(0) : T(-HUGE_VAL)),
        x_(kChunk + 2 * reach_ + L) {}

  void run(int64_t row, int64_t begin) {
    const int64_t batch = row / p_.n_chans, chan = row % p_.n_chans;
    const int64_t count = smaller(kChunk, p_.n_times - begin);
    const T* x = static_cast<const T*>(p_.x) + batch * p_.stride_batch + chan * p_.stride_chan;
    copy_stretch(x, p_.n_times, begin - reach_, count + 2 * reach_ + L, x_.get());
    const T* bias = static_cast<const T*>(p_.bias);
    if (bias && p_.bias_chans > 1) bias += chan * p_.filters * p_.levels;
    for (int64_t f = 0; f < p_.filters;) {
      const int width = FilterGroup(p_.filters, f).width;
      fetch_outputs(row, begin, count, f + width);
      for (int64_t l = 0; l < p_.levels; ++l) {
        T first[kFilters] = {};
        for (int i = 0; i < width && bias; ++i) first[i] = bias[(f + i) * p_.levels + l];
        const int64_t out_row = (row * p_.filters + f) * p_.levels + l;
        const T* taps = kernels_.of(chan, f) + levels_.offset[l] * width;
        T* out = static_cast<T*>(p_.out) + out_row * p_.n_times + begin;
        width == 1 ? run_level<1, kRowTile>(l, taps, first, out, count)
                   : run_level<kFilters, kTile>(l, taps, first, out, count);
        for (int i = 0; i < width && p_.positive; ++i)
          write_mask(
              out + i * p_.levels * p_.n_times, count,
              p_.positive + (out_row + i * p_.levels) * scaling_mask_bytes(p_.n_times) + begin / 8);
      }
      f += width;
    }
  }

 private:
  static constexpr int L = kLanes<T>;

  // The outputs of the group of filters that comes next.
  void fetch_outputs(int64_t row, int64_t begin, int64_t count, int64_t filter) {
    if (filter == p_.filters) filter = 0, row += 1;
    if (row == p_.batch * p_.n_chans) return;
    const int width = FilterGroup(p_.filters, filter).width;
    const T* out = static_cast<const T*>(p_.out) +
                   (row * p_.filters + filter) * p_.levels * p_.n_times + begin;
    ahead_ = Ahead(out, p_.n_times * int64_t(sizeof(T)), count * int64_t(sizeof(T)),
                   width * p_.levels);
  }

  template <int F, int N>
  void run_level(int64_t level, const T* taps, const T* first, T* out, int64_t count) {
    const int64_t length = levels_.length[level];
    const T* x = x_.get() + reach_ - (length - 1) / 2;
    int64_t t = 0;
    for (; t + N * L <= count; t += N * L) tile<F, N>(x + t, taps, length, first, out + t, N * L);
    if constexpr (N > 4)
      for (; t + 4 * L <= count; t += 4 * L) tile<F, 4>(x + t, taps, length, first, out + t, 4 * L);
    for (; t < count; t += L) tile<F, 1>(x + t, taps, length, first, out + t, count - t);
  }

  template <int F, int N>
  void tile(const T* x, const T* taps, int64_t length, const T* first, T* out, int64_t count) {
    Vec<T> acc[F][N];
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f)
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) acc[f][n] = broadcast(first[f]);
    if constexpr (F == 1) {
      correlate_row<N>(acc[0], x, taps, 1, length);
    } else {
      for (int64_t j = 0; j < length; ++j) {
        ahead_();
        Vec<T> v[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) v[n] = load(x + j + n * L);
#pragma GCC unroll 4
        for (int f = 0; f < F; ++f) {
          const T tap = taps[j * F + f];
#pragma GCC unroll 8
          for (int n = 0; n < N; ++n) acc[f][n] += v[n] * tap;
        }
      }
    }
    const Vec<T> floor = broadcast(floor_);
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f) {
      T* to = out + f * p_.levels * p_.n_times;
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        const Vec<T> v = at_least<T>(acc[f][n], floor);
        if (N > 1 || count >= L)
          store(to + n * L, v);
        else
          std::memcpy(to, &v, size_t(count) * sizeof(T));
      }
    }
  }

  static void write_mask(const T* out, int64_t count, uint8_t* mask) {
    T last[64] = {};
    for (int64_t t = 0; t < count; t += 64) {
      const T* from = out + t;
      if (t + 64 > count) {
        std::memcpy(last, from, size_t(count - t) * sizeof(T));
        from = last;
      }
      uint64_t word = 0;
#pragma GCC unroll 8
      for (int i = 0; i < 64; i += L) word |= uint64_t(lanes_positive<T>(load(from + i))) << i;
      std::memcpy(mask + t / 8, &word, sizeof word);
    }
  }

  const ScalingConv1d& p_;
  const Levels& levels_;
  const PooledKernels<T>& kernels_;
  const int64_t reach_;
  const T floor_;
  Scratch<T> x_;
  Ahead ahead_;
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
        stride_(kChunk + 2 * halo_ + kRowTile * L),
        x_(kChunk + 2 * reach_ + L),
        grad_(kFilters * stride_),
        grad_x_(kChunk + kRowTile * L),
        bias_(p.levels * kFilters * L) {}

  // Samples begin .. begin + kChunk of a row. Adds the gradients of the kernels and, behind them,
  // of the biases to `sums`: (groups of filters, taps and levels, filters of the group).
  void run(int64_t row, int64_t begin, double* sums) {
    const int64_t batch = row / p_.n_chans, chan = row % p_.n_chans;
    begin_ = begin;
    count_ = smaller(kChunk, p_.n_times - begin);
    if (p_.grad_weight) {
      const T* x = static_cast<const T*>(p_.x) + batch * p_.stride_batch + chan * p_.stride_chan;
      copy_stretch(x, p_.n_times, begin - reach_, count_ + 2 * reach_ + L, x_.get());
    }
    std::memset(grad_x_.get(), 0, size_t(kChunk + kRowTile * L) * sizeof(T));
    for (int64_t f = 0; f < p_.filters;) {
      const int width = FilterGroup(p_.filters, f).width;
      double* to = sums + f * (levels_.taps + p_.levels);
      fetch_gradients(row, f + width);
      width == 1 ? run_group<1, kRowTaps>(row, chan, f, to)
                 : run_group<kFilters, kTaps>(row, chan, f, to);
      f += width;
    }
    if (p_.grad_x)
      std::memcpy(static_cast<T*>(p_.grad_x) + row * p_.n_times + begin, grad_x_.get(),
                  size_t(count_) * sizeof(T));
  }

 private:
  static constexpr int L = kLanes<T>;

  template <int F, int M>
  void run_group(int64_t row, int64_t chan, int64_t filter, double* sums) {
    const T* taps = kernels_.of(chan, filter);
    LaneSums<T> lane_sums(sums);
    for (int64_t l = 0; l < p_.levels; ++l) {
      for (int f = 0; f < F; ++f)
        read_gradient(((row * p_.filters + filter + f) * p_.levels + l), levels_.length[l] / 2,
                      grad_.get() + f * stride_);
      if (p_.grad_x) add_grad_x<F>(taps + levels_.offset[l] * F, levels_.length[l]);
      if (p_.grad_weight) add_grad_weight<F, M>(levels_.length[l], lane_sums);
      if (p_.grad_bias)
        for (int f = 0; f < F; ++f) store(&bias_[(l * F + f) * L], sum_over_time(f));
    }
    if (!p_.grad_bias) return lane_sums.flush();
    LaneSums<T> bias_sums(sums + levels_.taps * F);
    lane_sums.flush();
    for (int64_t i = 0; i < p_.levels * F; ++i) bias_sums.push(load(&bias_[i * L]));
    bias_sums.flush();
  }

  // Those of the group of filters that comes next.
  void fetch_gradients(int64_t row, int64_t filter) {
    if (filter == p_.filters) filter = 0, row += 1;
    if (row == p_.batch * p_.n_chans) return;
    const int width = FilterGroup(p_.filters, filter).width;
    const T* grad = static_cast<const T*>(p_.grad) +
                    (row * p_.filters + filter) * p_.levels * p_.n_times + begin_;
    ahead_ = Ahead(grad, p_.n_times * int64_t(sizeof(T)), count_ * int64_t(sizeof(T)),
                   width * p_.levels);
  }

  // The gradient of an output row behind ReLU, from begin_ - reach on; to[halo_] is sample begin_.
  void read_gradient(int64_t row, int64_t reach, T* to) const {
    const T* grad = static_cast<const T*>(p_.grad) + row * p_.n_times;
    const uint8_t* kept = p_.kept ? p_.kept + row * scaling_mask_bytes(p_.n_times) : nullptr;
    const int64_t halo = (reach + 63) / 64 * 64;
    T last[64];
    for (int64_t i = -halo; i < count_ + reach; i += 64) {
      const int64_t t = begin_ + i;
      const T* from = grad + t;
      uint64_t word = t >= 0 && t < p_.n_times ? ~uint64_t(0) : 0;
      if (!word) {
        std::memset(last, 0, sizeof last);
        from = last;
      } else {
        if (t + 64 > p_.n_times) {
          std::memset(last, 0, sizeof last);
          std::memcpy(last, from, size_t(p_.n_times - t) * sizeof(T));
          from = last;
        }
        if (kept) std::memcpy(&word, kept + t / 8, sizeof word);
      }
#pragma GCC unroll 8
      for (int k = 0; k < 64; k += L)
        store(to + halo_ + i + k, keep_lanes<T>(load(from + k), uint32_t(word >> k)));
    }
  }

  // grad_x += the gradient correlated with the mirrored kernels.
  template <int F>
  void add_grad_x(const T* taps, int64_t length) {
    int64_t t = 0;
    for (; t + kRowTile * L <= count_; t += kRowTile * L) grad_x_tile<F, kRowTile>(taps, length, t);
    for (; t + 4 * L <= count_; t += 4 * L) grad_x_tile<F, 4>(taps, length, t);
    for (; t < count_; t += L) grad_x_tile<F, 1>(taps, length, t);
  }

  template <int F, int N>
  void grad_x_tile(const T* taps, int64_t length, int64_t t) {
    Vec<T> acc[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) acc[n] = load(&grad_x_[t + n * L]);
    for (int f = 0; f < F; ++f)
      correlate_row<N>(acc, &grad_[f * stride_ + halo_ + t - length / 2],
                       taps + (length - 1) * F + f, -F, length);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) store(&grad_x_[t + n * L], acc[n]);
  }

  template <int F, int M>
  void add_grad_weight(int64_t length, LaneSums<T>& sums) {
    const T* x = &x_[reach_ - length / 2];
    int64_t j = 0;
    for (; j + M <= length; j += M) grad_weight_tile<F, M>(x + j, sums);
    for (; j < length; ++j) grad_weight_tile<F, 1>(x + j, sums);
  }

  template <int F, int M>
  void grad_weight_tile(const T* x, LaneSums<T>& sums) {
    Vec<T> acc[M][F] = {};
    const T* grad = &grad_[halo_];
    const auto step = [&](int64_t t, uint32_t lanes) {
      ahead_();
      Vec<T> g[F];
#pragma GCC unroll 4
      for (int f = 0; f < F; ++f) g[f] = load(grad + f * stride_ + t);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        Vec<T> v = load(x + t + m);
        if (lanes) v = keep_lanes<T>(v, lanes);
#pragma GCC unroll 4
        for (int f = 0; f < F; ++f) acc[m][f] += g[f] * v;
      }
    };
    int64_t t = 0;
    for (; t + L <= count_; t += L) step(t, 0);
    // Behind the last sample the gradient is 0, but x may be NaN for taps that do not meet it.
    if (t < count_) step(t, (1u << (count_ - t)) - 1);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int f = 0; f < F; ++f) sums.push(acc[m][f]);
  }

  Vec<T> sum_over_time(int f) {
    Vec<T> sum{};
    for (int64_t t = 0; t < count_; t += L) sum += load(&grad_[f * stride_ + halo_ + t]);
    return sum;
  }

  const ScalingConv1d& p_;
  const Levels& levels_;
  const PooledKernels<T>& kernels_;
  const int64_t reach_, halo_, stride_;
  int64_t begin_ = 0, count_ = 0;
  Scratch<T> x_, grad_, grad_x_, bias_;
  Ahead ahead_;
};

template <class T>
void forward(const ScalingConv1d& p, ParallelFor parallel_for) {
  const Levels levels(p);
  const PooledKernels<T> kernels(p, levels);
  const int64_t chunks = (p.n_times + kChunk - 1) / kChunk;
  const int64_t grain = kGrainTaps / (p.filters * levels.taps * smaller(kChunk, p.n_times)) + 1;
  parallel(parallel_for, p.batch * p.n_chans * chunks, grain, [&](int64_t begin, int64_t end) {
    Forward<T> kernel(p, levels, kernels);
    for (int64_t task = begin; task < end; ++task)
      kernel.run(task / chunks, task % chunks * kChunk);
  });
}

// Sums of the gradients of one channel's kernels and biases over part of the samples, in a fixed
// order, whatever thread computes them.
constexpr int64_t kPartials = 64;

void add(double* to, const double* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] += from[i];
}

template <class T>
void write_grad_weight(const ScalingConv1d& p, const Levels& levels, double* sums, int64_t chan) {
  T* to = static_cast<T*>(p.grad_weight) + chan * p.filters * p.length;
  for (int64_t f = 0; f < p.filters; ++f) {
    const FilterGroup group(p.filters, f);
    double* taps = sums + group.first * (levels.taps + p.levels) + (f - group.first);
    pool_levels_backward(p, levels, taps, group.width);
    for (int64_t j = 0; j < p.length; ++j) *to++ = T(taps[j * group.width]);
  }
}

template <class T>
void write_grad_bias(const ScalingConv1d& p, const Levels& levels, const double* sums,
                     int64_t chan) {
  T* to = static_cast<T*>(p.grad_bias) + chan * p.filters * p.levels;
  for (int64_t f = 0; f < p.filters; ++f) {
    const FilterGroup group(p.filters, f);
    const double* biases = sums + group.first * (levels.taps + p.levels) +
                           levels.taps * group.width + (f - group.first);
    for (int64_t l = 0; l < p.levels; ++l) *to++ = T(biases[l * group.width]);
  }
}

template <class T>
void backward(const ScalingConv1d& p, ParallelFor parallel_for) {
  const Levels levels(p);
  const PooledKernels<T> kernels(p, levels);
  const int64_t chunks = (p.n_times + kChunk - 1) / kChunk, items = p.batch * chunks;
  const int64_t parts = smaller(items, kPartials / p.n_chans + 1);
  const int64_t values = p.filters * (levels.taps + p.levels);
  Scratch<double> partials(p.n_chans * parts * values);
  const int64_t taps = p.filters * levels.taps * smaller(kChunk, p.n_times) * (items / parts);
  parallel(parallel_for, p.n_chans * parts, kGrainTaps / taps + 1, [&](int64_t begin, int64_t end) {
    Backward<T> kernel(p, levels, kernels);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chan = task / parts, part = task % parts;
      double* sums = &partials[task * values];
      std::memset(sums, 0, size_t(values) * sizeof(double));
      for (int64_t i = items * part / parts; i < items * (part + 1) / parts; ++i)
        kernel.run(i / chunks * p.n_chans + chan, i % chunks * kChunk, sums);
    }
  });
  if (!p.grad_weight && !p.grad_bias) return;

  const auto write = [&](double* sums, bool shared, int64_t chan) {
    if (p.grad_weight && shared == (p.weight_chans == 1))
      write_grad_weight<T>(p, levels, sums, chan);
    if (p.grad_bias && shared == (p.bias_chans == 1)) write_grad_bias<T>(p, levels, sums, chan);
  };
  parallel(parallel_for, p.n_chans, 65536 / (parts * values) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t chan = begin; chan < end; ++chan) {
      double* sums = &partials[chan * parts * values];
      for (int64_t part = 1; part < parts; ++part) add(sums, sums + part * values, values);
      write(sums, false, chan);
    }
  });
  for (int64_t chan = 1; chan < p.n_chans; ++chan)
    add(partials.get(), &partials[chan * parts * values], values);
  write(partials.get(), true, 0);
}

}  // namespace

void scaling_conv1d(const ScalingConv1d& p, ParallelFor parallel_for) {
  p.dtype == DType::kFloat32 ? forward<float>(p, parallel_for) : forward<double>(p, parallel_for);
}

void scaling_conv1d_backward(const ScalingConv1d& p, ParallelFor parallel_for) {
  p.dtype == DType::kFloat32 ? backward<float>(p, parallel_for) : backward<double>(p, parallel_for);
}

}  // namespace eegfast::EEGFAST_ISA
