// SPDX-License-Identifier: BSD-3-Clause
// Kalman filter and RTS smoother along the windows (formula: eegfast/lds_smooth.h).
//
// One SIMD lane is one feature (a channel's band); kGroup vectors side by side hide the latency of
// the recurrence. Two passes over (windows, features): forward into the output, then backward in
// place. 8 FLOP and, while a series' block stays in cache, one read and one write per element.
//
// Backward: the operator is linear, so the gradient is its transpose: the RTS pass reversed (forward
// in time), then the filter reversed.
#include "eegfast/lds_smooth.h"

#include "simd.h"

namespace eegfast::EEGFAST_ISA {
namespace {

constexpr int kGroup = 4;

// G vectors of features, or `lanes` < kLanes features (then G is 1).
template <int G, class T>
class Series {
 public:
  static constexpr int L = kLanes<T>;
  Series(const LdsSmooth& p, const T* kalman, const T* rts, int64_t batch, int64_t feature,
         int64_t lanes)
      : p_(p),
        kalman_(kalman),
        rts_(rts),
        y_(static_cast<const T*>(p.y) + batch * p.windows * p.features + feature),
        out_(static_cast<T*>(p.out) + batch * p.windows * p.features + feature),
        series_(batch * p.features + feature),
        lanes_(lanes) {}

  void forward() {
    Vec<T> mean[G];
    if (p_.prior) {
      read(static_cast<const T*>(p_.prior) + series_, mean);
    } else {
      mean_of_windows(mean);
    }
    Vec<T> y[G];
    for (int64_t t = 0; t < p_.windows; ++t) {
      read(y_ + t * p_.features, y);
      for (int g = 0; g < G; ++g) mean[g] += kalman_[t] * (y[g] - mean[g]);
      write(out_ + t * p_.features, mean);
    }
    if (p_.causal) return;
    for (int64_t t = p_.windows - 1; t-- > 0;) {
      read(out_ + t * p_.features, y);
      for (int g = 0; g < G; ++g) mean[g] = y[g] + rts_[t] * (mean[g] - y[g]);
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
      read(y_ + t * p_.features, y);
      for (int g = 0; g < G; ++g) sum[g] += y[g];
    }
    for (int g = 0; g < G; ++g) mean[g] = sum[g] / T(p_.windows);
  }

  void read(const T* from, Vec<T>* to) const {
    if (lanes_ == L) {
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) to[g] = load(from + g * L);
    } else {
      T part[L] = {};
      for (int64_t lane = 0; lane < lanes_; ++lane) part[lane] = from[lane];
      to[0] = load(part);
    }
  }
  void write(T* to, const Vec<T>* from) const {
    if (lanes_ == L) {
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g) store(to + g * L, from[g]);
    } else {
      for (int64_t lane = 0; lane < lanes_; ++lane) to[lane] = from[0][lane];
    }
  }

  const LdsSmooth& p_;
  const T* kalman_;
  const T* rts_;
  const T* y_;
  T* out_;
  const int64_t series_, lanes_;
};

template <bool Backward, class T>
void run(const LdsSmooth& p, ParallelFor parallel_for) {
  constexpr int64_t L = kLanes<T>, block = kGroup * L;
  Scratch<T> kalman(p.windows), rts(p.windows);
  for (int64_t t = 0; t < p.windows; ++t) {
    kalman[t] = T(p.kalman[t]);
    rts[t] = T(p.rts[t]);
  }
  const auto one = [](auto series) { Backward ? series.backward() : series.forward(); };
  const int64_t blocks = (p.features + block - 1) / block;
  const int64_t grain = 65536 / (p.windows * block) + 1;
  parallel(parallel_for, p.batch * blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t batch = task / blocks;
      int64_t feature = task % blocks * block;
      const int64_t stop = smaller(feature + block, p.features);
      if (stop - feature == block) {
        one(Series<kGroup, T>(p, kalman.get(), rts.get(), batch, feature, L));
        continue;
      }
      for (; feature < stop; feature += L)
        one(Series<1, T>(p, kalman.get(), rts.get(), batch, feature, smaller(L, stop - feature)));
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
