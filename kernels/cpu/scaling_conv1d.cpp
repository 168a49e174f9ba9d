// SPDX-License-Identifier: BSD-3-Clause
// One kernel at all its scales (formula: eegfast/scaling_conv1d.h).
//
// A task is a stretch of kChunk samples of one row, copied with its halo into the first-level
// cache; all filters and levels are run over it there.
//
// Forward: one SIMD lane is one sample. Registers hold kFilters filters x kTile vectors of time, so
// that each unaligned load of the signal, which costs two accesses, is used kFilters times. A
// filter that is left over has no partner; there a load serves several vectors at taps kLanes
// apart.
//
// Backward: scaling_backward.h.
//
// About 2 length taps per filter and sample for all levels together: as many FMA forward, twice as
// many backward; 4 bytes and a bit per output, written forward and read backward.
#include "eegfast/scaling_conv1d.h"

#include "scaling_backward.h"
#include "scaling_kernels.h"
#include "scaling_tiles.h"

namespace eegfast::EEGFAST_ISA {
namespace {

constexpr int64_t kGrainTaps = 1 << 20;  // worth waking another thread

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

  template <int F, int N>
  void run_level(int64_t level, const T* taps, const T* first, T* out, int64_t count) const {
    const int64_t length = levels_.length[level];
    const T* x = x_.get() + reach_ - (length - 1) / 2;
    int64_t t = 0;
    for (; t + N * L <= count; t += N * L) tile<F, N>(x + t, taps, length, first, out + t, N * L);
    if constexpr (N > 4)
      for (; t + 4 * L <= count; t += 4 * L) tile<F, 4>(x + t, taps, length, first, out + t, 4 * L);
    for (; t < count; t += L) tile<F, 1>(x + t, taps, length, first, out + t, count - t);
  }

  template <int F, int N>
  void tile(const T* x, const T* taps, int64_t length, const T* first, T* out,
            int64_t count) const {
    Vec<T> acc[F][N];
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f)
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) acc[f][n] = broadcast(first[f]);
    if constexpr (F == 1) {
      // Vector n at tap j + kLanes meets the load of vector n + 1 at tap j.
      for (int64_t j = 0; j < smaller(L, length); ++j)
        add_all_taps<N>(acc[0], x + j, taps + j, L, (length - j + L - 1) / L);
    } else {
      for (int64_t j = 0; j < length; ++j) {
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
