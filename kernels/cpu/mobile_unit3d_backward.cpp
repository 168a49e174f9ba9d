// SPDX-License-Identifier: BSD-3-Clause
// Gradients of the Mobile unit (algebra: eegfast/mobile_unit3d.h; layout: mobile_unit3d.cpp).
//
// One pass over the expanded channels, which leaves da' in grad_x and, per part of the batch, the
// sums of every expanded channel; the corrections of both norms follow on C channels, in place.
#include "eegfast/mobile_unit3d.h"
#include "mobile_unit3d_unit.h"

namespace eegfast::EEGFAST_ISA {
namespace {

// Expanded channels that are worked on at a time: fewer than forward, as three tensors of them have
// to stay in the first-level cache.
constexpr int64_t kBlock = 4;

// The sums of an expanded channel: 27 taps (last first), dbeta2, S (C values), dW3 (C values).
constexpr int64_t kBeta = 27, kS = 28;

// Lane-wise sums of T over short runs, moved to double before they grow long.
template <class T>
class LaneSums {
 public:
  explicit LaneSums(int64_t n) : padded_(ceil_div(n, L) * L), lanes_(padded_) { clear(); }
  Vec<T>* operator[](int64_t i) { return lanes_.get() + i; }
  void add_to(double* total, int64_t n) {
    for (int64_t i = 0; i < n; i += L) {
      const Vec<T> sums = lane_sums<T>(lanes_.get() + i);
      for (int64_t lane = 0; lane < smaller(L, n - i); ++lane) total[i + lane] += sums[lane];
    }
    clear();
  }

 private:
  static constexpr int64_t L = kLanes<T>;
  void clear() { std::memset(lanes_.get(), 0, size_t(padded_) * sizeof(Vec<T>)); }
  int64_t padded_;
  Scratch<Vec<T>> lanes_;
};

// The pass over the expanded channels of one part of the batch.
template <class T>
class ExpandedPass {
 public:
  ExpandedPass(const Unit<T>& u, const T* flipped, double* totals)
      : u_(u),
        grid_(u.grid),
        C_(u.C),
        width_(kS + 2 * u.C),
        taps_(static_cast<const T*>(u.p.depthwise)),
        flipped_(flipped),
        totals_(totals),
        stage_(1, grid_.channel),
        a_(C_, grid_.channel),
        da_(C_, grid_.channel),
        dr_(C_, grid_.channel),
        p_(kBlock, grid_.channel),
        dq_(kBlock, grid_.channel),
        work_(kBlock, grid_.channel),
        sums_(kBlock * width_) {
    for (int64_t i = 0; i < u.E * width_; ++i) totals_[i] = 0;
    stage_.clear(1);
    dr_.clear(C_);
  }

  void run(int64_t group) {
    u_.read_activated(group, stage_[0], a_);
    for (int64_t c = 0; c < C_; ++c)
      u_.read(u_.p.grad, u_.out_channels(), u_.first_projected(), c, group, dr_[c]);
    da_.clear(C_);
    for (int64_t e = 0; e < u_.E; e += kBlock) {
      const int64_t n = smaller(kBlock, u_.E - e);
      int64_t summed = 0;
      one_behind(
          grid_.depth, u_.step, [&](int64_t d0, int64_t d1) { expand(e, n, d0, d1); },
          [&](int64_t d0, int64_t d1) {
            const bool filters = u_.p.grad_depthwise != nullptr;
            if (filters) filtered(e, n, d0, d1);
            hidden_gradients(e, n, d0, d1, filters);
            summed += (d1 - d0) * grid_.plane;
            if (summed < kLongest * kLanes<T> && d1 < grid_.depth) return;
            sums_.add_to(totals_ + e * width_, n * width_);
            summed = 0;
          });
    }
    for (int64_t c = 0; c < C_; ++c) u_.write(da_[c], u_.p.grad_x, C_, 0, c, group);
  }

 private:
  static constexpr int64_t kLongest = 256;  // vectors that are summed in T

  void expand(int64_t e, int64_t n, int64_t d0, int64_t d1) {
    const int64_t begin = d0 * grid_.plane, end = d1 * grid_.plane;
    mix<Mix::kBiasRelu, T>(p_, n, a_, C_, {u_.expand.get() + e * C_, C_, 1}, u_.shift2.get() + e,
                           begin, end);
    mix<Mix::kSet, T>(dq_, n, dr_, C_, {u_.project.get() + e * C_, C_, 1}, nullptr, begin, end);
  }

  // q, for the projecting weights.
  void filtered(int64_t e, int64_t n, int64_t d0, int64_t d1) {
    for (int64_t k = 0; k < n; ++k)
      depthwise<T>(grid_, p_[k], taps_ + (e + k) * 27, d0, d1,
                   [to = work_[k]](int64_t i, Vec<T> q) { store(to + i, q); });
    outer<T>(work_, n, dr_, C_, d0 * grid_.plane, d1 * grid_.plane, sums_[kS + C_], width_);
  }

  // dp, and what follows from it; with_taps: the taps' gradients too.
  void hidden_gradients(int64_t e, int64_t n, int64_t d0, int64_t d1, bool with_taps) {
    const int64_t begin = d0 * grid_.plane, end = d1 * grid_.plane;
    for (int64_t k = 0; k < n; ++k) {
      Vec<T> total = *sums_[k * width_ + kBeta];
      const auto put = [&total, p = p_[k], to = work_[k]](int64_t i, Vec<T> dp) {
        const Vec<T> g = (load(p + i) <= T(0)) ? Vec<T>{} : dp;
        total += g;
        store(to + i, g);
      };
      const T* flipped = flipped_ + (e + k) * 27;
      if (with_taps)
        depthwise<T>(grid_, dq_[k], flipped, d0, d1, put, p_[k], sums_[k * width_]);
      else
        depthwise<T>(grid_, dq_[k], flipped, d0, d1, put);
      *sums_[k * width_ + kBeta] = total;
    }
    outer<T>(work_, n, a_, C_, begin, end, sums_[kS], width_);
    mix<Mix::kAdd, T>(da_, C_, work_, n, {u_.expand.get() + e * C_, 1, C_}, nullptr, begin, end);
  }

  const Unit<T>& u_;
  const Grid<T>& grid_;
  const int64_t C_, width_;
  const T* const taps_;
  const T* const flipped_;
  double* const totals_;
  const Buffer<T> stage_, a_, da_, dr_, p_, dq_, work_;
  LaneSums<T> sums_;
};

// What the second norm adds to da: -u - M (a - m).
template <class T>
struct Correction {
  explicit Correction(int64_t C) : mean(C), constant(C), matrix(C * C) {}
  Scratch<T> mean, constant, matrix;  // m, -u, -M
};

// The gradients of the second norm and of the expanding weights, from the sums.
template <class T>
void finish_second(const Unit<T>& u, const double* sums, Correction<T>& correction) {
  const int64_t C = u.C, E = u.E, width = kS + 2 * C;
  Scratch<double> mean(C), covariance(C * C), w(E * C), to_constant(E), to_matrix(E);
  if (u.p.batch2) moments(u, mean.get(), covariance.get());
  parallel(u.parallel_for, E, 1 + 8192 / (C * C), [&](int64_t begin, int64_t end) {
    Scratch<double> wg(C);
    for (int64_t e = begin; e < end; ++e) {
      const double* sum = sums + e * width;
      const double f2 = 1 / std::sqrt(u.at(u.p.var2, e) + u.p.eps2), s2 = u.scale2[e];
      const double dbeta = sum[kBeta];
      double dgamma = -u.at(u.p.mean2, e) * dbeta;
      for (int64_t c = 0; c < C; ++c) {
        w[e * C + c] = u.at(u.p.expand, e * C + c);
        dgamma += w[e * C + c] * sum[kS + c];
      }
      dgamma *= f2;
      u.put(u.p.grad_gamma2, e, dgamma);
      u.put(u.p.grad_beta2, e, dbeta);
      to_constant[e] = -s2 * dbeta / u.count;
      to_matrix[e] = -s2 * f2 * dgamma / u.count;
      if (u.p.batch2) row_times(&w[e * C], covariance.get(), C, C, wg.get());
      for (int64_t c = 0; c < C; ++c) {
        double g = sum[kS + c];
        if (u.p.batch2) g -= dbeta * mean[c] + f2 * dgamma * wg[c];
        u.put(u.p.grad_expand, e * C + c, s2 * g);
      }
      if (u.p.grad_depthwise)
        for (int64_t k = 0; k < 27; ++k) u.put(u.p.grad_depthwise, e * 27 + k, sum[26 - k]);
    }
  });
  if (u.p.grad_project && E)
    parallel(u.parallel_for, C, 1 + 8192 / E, [&](int64_t begin, int64_t end) {
      T* to = static_cast<T*>(u.p.grad_project) + begin * E;
      turn(sums + kS + C + begin, E, end - begin, width, to);
    });
  if (!u.p.batch2) return;
  parallel(u.parallel_for, C, 1 + 8192 / (C * E), [&](int64_t begin, int64_t end) {
    Scratch<double> factors(E), row(C);
    for (int64_t c = begin; c < end; ++c) {
      double constant = 0;
      for (int64_t e = 0; e < E; ++e) {
        constant += to_constant[e] * w[e * C + c];
        factors[e] = to_matrix[e] * w[e * C + c];
      }
      row_times(factors.get(), w.get(), E, C, row.get());
      correction.mean[c] = T(mean[c]);
      correction.constant[c] = T(constant);
      for (int64_t k = 0; k < C; ++k) correction.matrix[c * C + k] = T(row[k]);
    }
  });
}

// Turns da' in grad_x into b = da where a > 0, and sums b and b (x - mean1) per channel.
template <class T>
void first_sums(const Unit<T>& u, Correction<T>& correction, double* sums) {
  constexpr int64_t kTile = 64, L = kLanes<T>;
  const int64_t C = u.C, parts = u.parts(u.p.batch);
  u.each_part(u.p.batch, [&](int64_t part, int64_t first, int64_t last) {
    const Buffer<T> x(C, kTile + L), a(C, kTile + L), centred(C, kTile + L), da(C, kTile + L);
    double* total = sums + part * 2 * C;
    for (int64_t i = 0; i < 2 * C; ++i) total[i] = 0;
    for (int64_t b = first; b < last; ++b)
      for (int64_t v = 0; v < u.volume; v += kTile) {
        const int64_t n = smaller(kTile, u.volume - v), whole = ceil_div(n, L) * L;
        for (int64_t c = 0; c < C; ++c) {
          std::memcpy(x[c], u.sample(u.p.x, b, C) + c * u.volume + v, size_t(n) * sizeof(T));
          std::memcpy(da[c], u.sample(u.p.grad_x, b, C) + c * u.volume + v, size_t(n) * sizeof(T));
          for (int64_t i = n; i < whole; ++i) x[c][i] = da[c][i] = 0;
          u.activate(x[c], c, whole, a[c]);
          if (!u.p.batch2) continue;
          for (int64_t i = 0; i < whole; i += L) {
            store(centred[c] + i, load(a[c] + i) - correction.mean[c]);
            store(da[c] + i, load(da[c] + i) + correction.constant[c]);
          }
        }
        if (u.p.batch2)
          mix<Mix::kAdd, T>(da, C, centred, C, {correction.matrix.get(), C, 1}, nullptr, 0, whole);
        for (int64_t c = 0; c < C; ++c) {
          const T mean = T(u.at(u.p.mean1, c));
          for (int64_t i = n; i < whole; ++i) da[c][i] = 0;
          Vec<T> rows[L] = {};
          for (int64_t i = 0; i < whole; i += L) {
            const Vec<T> kept = (load(a[c] + i) <= T(0)) ? Vec<T>{} : load(da[c] + i);
            store(da[c] + i, kept);
            rows[0] += kept;
            rows[1] += kept * (load(x[c] + i) - mean);
          }
          const Vec<T> both = lane_sums<T>(rows);
          total[2 * c] += both[0];
          total[2 * c + 1] += both[1];
          std::memcpy(u.sample(u.p.grad_x, b, C) + c * u.volume + v, da[c], size_t(n) * sizeof(T));
        }
      }
  });
  add_parts(u.parallel_for, sums, parts, 2 * C);
}

// dx from b, and the gradients of the first norm.
template <class T>
void finish_first(const Unit<T>& u, const double* sums) {
  const int64_t C = u.C;
  Scratch<T> scale(C), slope(C), constant(C), mean(C);
  for (int64_t c = 0; c < C; ++c) {
    const double f1 = 1 / std::sqrt(u.at(u.p.var1, c) + u.p.eps1);
    const double s1 = f1 * u.at(u.p.gamma1, c), dgamma = f1 * sums[2 * c + 1];
    u.put(u.p.grad_gamma1, c, dgamma);
    u.put(u.p.grad_beta1, c, sums[2 * c]);
    scale[c] = T(s1);
    slope[c] = u.p.batch1 ? T(-s1 * f1 * dgamma / u.count) : T(0);
    constant[c] = u.p.batch1 ? T(-s1 * sums[2 * c] / u.count) : T(0);
    mean[c] = T(u.at(u.p.mean1, c));
  }
  parallel(u.parallel_for, u.p.batch, 16384 / (C * u.volume) + 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      for (int64_t c = 0; c < C; ++c) {
        const T* x = u.sample(u.p.x, b, C) + c * u.volume;
        const T* grad = u.sample(u.p.grad, b, u.out_channels()) + c * u.volume;
        T* dx = u.sample(u.p.grad_x, b, C) + c * u.volume;
        const T by_b = scale[c], by_x = slope[c], plus = constant[c], origin = mean[c];
        for (int64_t i = 0; i < u.volume; ++i)
          dx[i] = dx[i] * by_b + ((x[i] - origin) * by_x + plus) + grad[i];
      }
  });
}

template <class T>
void backward(const MobileUnit3d& p, ParallelFor parallel_for) {
  Unit<T> u(p, parallel_for);
  u.fold_first();
  u.fold_second();
  const int64_t E = u.E, per_part = E * (kS + 2 * u.C), parts = u.parts(u.groups);
  Scratch<T> flipped(E * 27);
  for (int64_t e = 0; e < E; ++e)
    for (int64_t k = 0; k < 27; ++k)
      flipped[e * 27 + k] = static_cast<const T*>(p.depthwise)[e * 27 + 26 - k];
  Scratch<double> sums(parts * per_part);
  u.each_part(u.groups, [&](int64_t part, int64_t first, int64_t last) {
    ExpandedPass<T> pass(u, flipped.get(), sums.get() + part * per_part);
    for (int64_t group = first; group < last; ++group) pass.run(group);
  });
  add_parts(parallel_for, sums.get(), parts, per_part);
  Correction<T> correction(u.C);
  finish_second(u, sums.get(), correction);
  Scratch<double> first(u.parts(p.batch) * 2 * u.C);
  first_sums(u, correction, first.get());
  finish_first(u, first.get());
}

}  // namespace

void mobile_unit3d_backward(const MobileUnit3d& p, ParallelFor parallel_for) {
  p.dtype == DType::kFloat32 ? backward<float>(p, parallel_for) : backward<double>(p, parallel_for);
}

}  // namespace eegfast::EEGFAST_ISA
