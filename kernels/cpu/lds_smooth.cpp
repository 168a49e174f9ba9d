// SPDX-License-Identifier: BSD-3-Clause
// Kalman filter and RTS smoother along the windows (formula: eegfast/lds_smooth.h).
//
// One SIMD lane is one feature (a channel's band); up to kGroup vectors side by side hide the
// latency of the recurrence, written f = (1 - K) f + K y so that a step waits for one FMA alone.
// Two passes over (windows, features): forward into the output, then backward in place. 6 FLOP and,
// while a block of features stays in cache, one read and one write per element.
//
// Backward: the operator is linear, so the gradient is its transpose: the RTS pass reversed
// (forward in time), then the filter reversed.
#include "eegfast/lds_smooth.h"

#include "simd.h"

namespace eegfast::EEGFAST_ISA {
namespace {

constexpr int kGroup = 5;
constexpr int64_t kAhead = 16;

// `count` neighbouring features in G vectors; the last vector overlaps the one before it where
// count is no multiple of kLanes, and holds count < kLanes features if G is 1.
template <int G, class T>
class Series {
 public:
  static constexpr int L = kLanes<T>;
  Series(const LdsSmooth& p, const T* kalman, const T* rts, int64_t batch, int64_t feature,
         int64_t count)
      : p_(p),
        kalman_(kalman),
        rts_(rts),
        y_(static_cast<const T*>(p.y) + batch * p.windows * p.features + feature),
        out_(static_cast<T*>(p.out) + batch * p.windows * p.features + feature),
        series_(batch * p.features + feature),
        count_(count),
        last_(count - L) {}

  void forward() {
    Vec<T> mean[G];
    if (p_.prior) {
      read(static_cast<const T*>(p_.prior) + series_, mean);
    } else {
      mean_of_windows(mean);
    }
    Vec<T> y[G];
    for (int64_t t = 0; t < p_.windows; ++t) {
      fetch(out_, t + kAhead);
      read(y_ + t * p_.features, y);
      const T gain = kalman_[t];
      for (int g = 0; g < G; ++g) mean[g] = mean[g] * (1 - gain) + gain * y[g];
      write(out_ + t * p_.features, mean);
    }
    if (p_.causal) return;
    for (int64_t t = p_.windows - 1; t-- > 0;) {
      read(out_ + t * p_.features, y);
      const T gain = rts_[t];
      for (int g = 0; g < G; ++g) mean[g] = mean[g] * gain + (1 - gain) * y[g];
      write(out_ + t * p_.features, mean);
    }
  }

  void backward() {
    Vec<T> grad[G], carried[G] = {};
    for (int64_t t = 0; t < p_.windows; ++t) {
      read(y_ + t * p_.features, grad);
      if (!p_.causal) {
        const bool last = t + 1 == p_.windows;
        for (int g = 0; g < G; ++g) {
          const Vec<T> total = grad[g] + carried[g];
          carried[g] = last ? Vec<T>{} : rts_[t] * total;
          grad[g] = total - carried[g];
        }
      }
      write(out_ + t * p_.features, grad);
    }
    for (int g = 0; g < G; ++g) carried[g] = Vec<T>{};
    for (int64_t t = p_.windows; t-- > 0;) {
      read(out_ + t * p_.features, grad);
      for (int g = 0; g < G; ++g) {
        const Vec<T> total = grad[g] + carried[g];
        grad[g] = kalman_[t] * total;
        carried[g] = total - grad[g];
      }
      write(out_ + t * p_.features, grad);
    }
    write(static_cast<T*>(p_.grad_prior) + series_, carried);
    if (!p_.own_prior) return;
    for (int64_t t = 0; t < p_.windows; ++t) {
      read(out_ + t * p_.features, grad);
      for (int g = 0; g < G; ++g) grad[g] += carried[g] / T(p_.windows);
      write(out_ + t * p_.features, grad);
    }
  }

 private:
  void mean_of_windows(Vec<T>* mean) {
    Vec<T> sum[G] = {}, y[G];
    for (int64_t t = 0; t < p_.windows; ++t) {
      fetch(y_, t + kAhead);
      read(y_ + t * p_.features, y);
      for (int g = 0; g < G; ++g) sum[g] += y[g];
    }
    for (int g = 0; g < G; ++g) mean[g] = sum[g] / T(p_.windows);
  }

  // The hardware does not foresee jumps from window to window.
  void fetch(const T* base, int64_t t) const {
    if (t >= p_.windows) return;
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) __builtin_prefetch(base + t * p_.features + g * L);
  }

  int64_t offset(int g) const { return g + 1 == G && G > 1 ? last_ : g * L; }
  void read(const T* from, Vec<T>* to) const {
    if (G == 1 && count_ < L) {
      T part[L] = {};
      for (int64_t lane = 0; lane < count_; ++lane) part[lane] = from[lane];
      to[0] = load(part);
      return;
    }
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) to[g] = load(from + offset(g));
  }
  void write(T* to, const Vec<T>* from) const {
    if (G == 1 && count_ < L) {
      for (int64_t lane = 0; lane < count_; ++lane) to[lane] = from[0][lane];
      return;
    }
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) store(to + offset(g), from[g]);
  }

  const LdsSmooth& p_;
  const T* const kalman_;
  const T* const rts_;
  const T* const y_;
  T* const out_;
  const int64_t series_, count_, last_;
};

// Calls run on the Series of the right number of vectors.
template <int G, class T, class Run>
void with_series(const LdsSmooth& p, const T* kalman, const T* rts, int64_t batch, int64_t feature,
                 int64_t count, const Run& run) {
  if constexpr (G > 1) {
    if (count <= (G - 1) * kLanes<T>)
      return with_series<G - 1>(p, kalman, rts, batch, feature, count, run);
  }
  run(Series<G, T>(p, kalman, rts, batch, feature, count));
}

template <bool Backward, class T>
void run(const LdsSmooth& p, ParallelFor parallel_for) {
  constexpr int64_t block = kGroup * kLanes<T>;
  Scratch<T> kalman(p.windows), rts(p.windows);
  for (int64_t t = 0; t < p.windows; ++t) {
    kalman[t] = T(p.kalman[t]);
    rts[t] = T(p.rts[t]);
  }
  const int64_t blocks = (p.features + block - 1) / block;
  const int64_t grain = 131072 / (p.windows * block) + 1;
  parallel(parallel_for, p.batch * blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t batch = task / blocks, feature = task % blocks * block;
      with_series<kGroup>(p, kalman.get(), rts.get(), batch, feature,
                          smaller(block, p.features - feature),
                          [](auto series) { Backward ? series.backward() : series.forward(); });
    }
  });
}

}  // namespace

void lds_smooth(const LdsSmooth& p, ParallelFor parallel_for) {
  p.dtype == DType::kFloat32 ? run<false, float>(p, parallel_for)
                             : run<false, double>(p, parallel_for);
}

void lds_smooth_backward(const LdsSmooth& p, ParallelFor parallel_for) {
  p.dtype == DType::kFloat32 ? run<true, float>(p, parallel_for)
                             : run<true, double>(p, parallel_for);
}

}  // namespace eegfast::EEGFAST_ISA
