// SPDX-License-Identifier: BSD-3-Clause
// Band power of short Fourier transforms (formula: eegfast/band_power.h).
//
// A row is one window of one channel; rows are numbered (batch, window, channel), as the output
// lies. One SIMD lane transforms one row: tiles of kLanes rows x kLanes samples are read along the
// rows, transposed in registers, tapered, and transformed in place (fft.h). A NaN stays in its
// lane. The power of the bins of each band is summed; the spectrum never leaves the first-level
// cache.
//
// Backward: with E the energies, dE the weights of the bins and X the spectrum, the gradient of the
// tapered row is the adjoint transform of 2 dE X. The spectrum is computed again, not stored.
//
// Per row of n samples, transform length N: 4 n bytes read, 4 bands bytes written; about
// 2.5 N log2 N + 10 FLOP per bin forward, twice that backward. On two cores memory is the limit.
#include "eegfast/band_power.h"

#include "fft.h"

namespace eegfast::EEGFAST_ISA {
namespace {

template <class T>
class BandPowerKernel {
 public:
  explicit BandPowerKernel(const BandPower& p)
      : p_(p),
        plan_(fft_plan<T>(p.n_fft)),
        x_(static_cast<const T*>(p.x)),
        taper_(static_cast<const T*>(p.taper)),
        used_(smaller(p.window, p.n_fft)),
        spread_(plan_.packed ? 1 : 2),
        lowest_(p.n_fft),
        work_(2 * plan_.points * L),
        sums_(p.bands * L),
        weights_((p.n_fft / 2 + 1) * (p.grad ? L : 0)) {
    for (int64_t b = 0; b < p.bands; ++b) {
      lowest_ = smaller(lowest_, p.bins[2 * b]);
      if (p.bins[2 * b + 1] > highest_) highest_ = p.bins[2 * b + 1];
    }
  }

  // Rows first_row .. first_row + count - 1, count <= kLanes. Meanwhile the rows from next_row on
  // are fetched: sixteen short stretches of memory are more than the hardware follows by itself.
  void forward(int64_t first_row, int64_t count, int64_t next_row) {
    rows_ = locate(first_row, count);
    next_ = locate(next_row, count);
    transform(Fetch(next_.x, used_, plan_.butterflies));
    for (int64_t b = 0; b < p_.bands; ++b) {
      const int64_t width = p_.bins[2 * b + 1] - p_.bins[2 * b];
      Vec<T> power = energy(b) * T(p_.gain * kHalfSquared / double(width));
      if (p_.log2) power = log2<T>(power);
      store(&sums_[b * L], power);
    }
    T* out = static_cast<T*>(p_.out) + first_row * p_.bands;
    for (int64_t lane = 0; lane < count; ++lane)
      for (int64_t b = 0; b < p_.bands; ++b) *out++ = sums_[b * L + lane];
  }

  // The same rows; accumulate where windows overlap, else write and zero up to the next window.
  void backward(int64_t first_row, int64_t count, int64_t next_row, bool accumulate) {
    rows_ = locate(first_row, count);
    next_ = locate(next_row, count);
    transform(Fetch(rows_.grad, used_, plan_.butterflies));
    weigh(first_row, count);
    spectrum_gradient();
    fft_adjoint(work_.get(), plan_, Fetch(next_.x, used_, plan_.butterflies));
    write_gradient(count, accumulate);
    if (!accumulate) zero_gap(count);
  }

 private:
  static constexpr int L = kLanes<T>;
  // unpacked() leaves out a factor of 1/2.
  static constexpr double kHalfSquared = 0.25;

  struct Rows {
    const T* x[L];
    T* grad[L];
    int64_t window[L];
  };

  // Lanes without a row repeat the last one.
  Rows locate(int64_t first_row, int64_t count) const {
    Rows rows;
    int64_t chan = first_row % p_.n_chans, rest = first_row / p_.n_chans;
    int64_t window = rest % p_.windows, batch = rest / p_.windows;
    for (int lane = 0; lane < L; ++lane) {
      rows.x[lane] = x_ + batch * p_.stride_batch + chan * p_.stride_chan + window * p_.step;
      rows.grad[lane] =
          static_cast<T*>(p_.out) + (batch * p_.n_chans + chan) * p_.n_times + window * p_.step;
      rows.window[lane] = window;
      if (lane + 1 >= count || ++chan < p_.n_chans) continue;
      chan = 0;
      if (++window < p_.windows) continue;
      window = 0;
      ++batch;
    }
    return rows;
  }

  // Brings the first `count` elements of each lane's row into the cache, a few lines per call.
  class Fetch {
   public:
    template <class Pointer>
    Fetch(const Pointer (&rows)[L], int64_t count, int64_t calls)
        : lines_(L * (uint64_t(count) / kLine + 1)), per_call_(lines_ / uint64_t(calls + 1) + 1) {
      for (int lane = 0; lane < L; ++lane) row_[lane] = rows[lane];
    }
    void operator()() {
      const uint64_t stop = next_ + per_call_ < lines_ ? next_ + per_call_ : lines_;
      for (; next_ < stop; ++next_) __builtin_prefetch(row_[next_ % L] + next_ / L * kLine);
    }

   private:
    static constexpr uint64_t kLine = 64 / sizeof(T);
    const T* row_[L];
    uint64_t lines_, per_call_, next_ = 0;
  };

  // Reads, tapers and transforms the rows.
  void transform(const Fetch& fetch) {
    T* z = work_.get();
    int64_t t = 0;
    for (; t + L <= used_; t += L) read_tile(z, t, 0);
    if (t < used_ && used_ >= L) {
      read_tile(z, used_ - L, L - (used_ - t));
    } else if (t < used_) {
      for (int64_t i = 0; i < used_; ++i)
        for (int lane = 0; lane < L; ++lane)
          z[i * spread_ * L + lane] = rows_.x[lane][i] * taper_[i];
    }
    std::memset(z + used_ * spread_ * L, 0,
                size_t(2 * plan_.points - used_ * spread_) * L * sizeof(T));
    if (spread_ == 2)
      for (int64_t i = 0; i < used_; ++i) store(z + (2 * i + 1) * L, Vec<T>{});
    fft(z, plan_, fetch);
  }

  // Samples t .. t + L - 1 of every row, of which the first `skip` are there already.
  void read_tile(T* z, int64_t t, int64_t skip) {
    Vec<T> tile[L];
#pragma GCC unroll 16
    for (int lane = 0; lane < L; ++lane) tile[lane] = load(rows_.x[lane] + t);
    transpose<T>(tile);
    if (skip == 0) {
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store(z + (t + i) * spread_ * L, tile[i] * taper_[t + i]);
    } else {
      for (int64_t i = skip; i < L; ++i) store(z + (t + i) * spread_ * L, tile[i] * taper_[t + i]);
    }
  }

  Complex<T> point(int64_t k) const {
    const T* z = work_data() + 2 * L * plan_.position[k];
    return {load(z), load(z + L)};
  }
  const T* work_data() const { return const_cast<BandPowerKernel*>(this)->work_.get(); }

  // 2 X[k]. With packed samples X[k] = (s - i w d) / 2, s, d = Z[k] +- conj Z[points - k].
  Complex<T> unpacked(const Complex<T>& a, const Complex<T>& b, int64_t k) const {
    const T c = plan_.unpack[2 * k], s = plan_.unpack[2 * k + 1];
    const Vec<T> sum = a.im + b.im, difference = a.re - b.re;
    return {(a.re + b.re) + (sum * c + difference * s), (a.im - b.im) + (sum * s - difference * c)};
  }
  Complex<T> twice_spectrum(int64_t k) const {
    if (!plan_.packed) {
      const Complex<T> x = point(k);
      return {x.re + x.re, x.im + x.im};
    }
    const int64_t mirrored = plan_.points - k;
    return unpacked(point(k == plan_.points ? 0 : k), point(k == 0 ? 0 : mirrored), k);
  }

  // 4 sum |X|^2 over a band.
  Vec<T> energy(int64_t band) const {
    Vec<T> sum{};
    for (int64_t k = p_.bins[2 * band]; k < p_.bins[2 * band + 1]; ++k) {
      const Complex<T> x = twice_spectrum(k);
      sum += x.re * x.re + x.im * x.im;
    }
    return sum;
  }

  // weights_[k]: the gradient of |X[k]|^2.
  void weigh(int64_t first_row, int64_t count) {
    T* weights = weights_.get();
    std::memset(weights + lowest_ * L, 0, size_t(highest_ - lowest_) * L * sizeof(T));
    const T* grad = static_cast<const T*>(p_.grad) + first_row * p_.bands;
    for (int64_t b = 0; b < p_.bands; ++b) {
      T lanes[L] = {};
      for (int64_t lane = 0; lane < count; ++lane) lanes[lane] = grad[lane * p_.bands + b];
      const int64_t start = p_.bins[2 * b], stop = p_.bins[2 * b + 1];
      Vec<T> weight = load(lanes);
      if (p_.log2)
        weight = weight * T(1.4426950408889634074) / (energy(b) * T(kHalfSquared));
      else
        weight = weight * T(p_.gain / double(stop - start));
      for (int64_t k = start; k < stop; ++k) store(weights + k * L, load(weights + k * L) + weight);
    }
  }

  Complex<T> spectrum_gradient_of(const Complex<T>& twice_x, int64_t k) {
    const Vec<T> weight = load(weights_.get() + k * L);
    return {twice_x.re * weight, twice_x.im * weight};
  }
  bool in_bands(int64_t k) const { return lowest_ <= k && k < highest_; }
  void put(int64_t k, const Complex<T>& value) {
    T* z = work_.get() + 2 * L * plan_.position[k];
    store(z, value.re);
    store(z + L, value.im);
  }

  // Replaces Z by its gradient. u = dE 2X is that of X; through X = (s - i w d) / 2 it reaches Z[k]
  // as (1 + i conj w) u / 2 and Z[points - k] as (1 + i w) conj u / 2. Points k and points - k are
  // read and written together.
  void spectrum_gradient() {
    if (!plan_.packed) {
      for (int64_t k = 0; k < plan_.points; ++k)
        put(k, in_bands(k) ? spectrum_gradient_of(twice_spectrum(k), k) : Complex<T>{});
      return;
    }
    const int64_t points = plan_.points;
    for (int64_t k = 0; 2 * k <= points; ++k) {
      const int64_t m = points - k;
      const Complex<T> a = point(k), b = point(k == 0 ? 0 : m);
      const T c = plan_.unpack[2 * k], s = plan_.unpack[2 * k + 1];
      const T half_more = (1 + s) / 2, half_less = (1 - s) / 2, half_c = c / 2;
      Complex<T> to_k{}, to_m{};
      if (in_bands(k)) {
        const Complex<T> u = spectrum_gradient_of(unpacked(a, b, k), k);
        to_k = times(u, half_more, half_c);
        to_m = times(Complex<T>{u.re, -u.im}, half_less, half_c);
      }
      if (m != k && in_bands(m)) {
        const Complex<T> u = spectrum_gradient_of(unpacked(b, a, m), m);
        to_m = to_m + times(u, half_more, -half_c);
        to_k = to_k + times(Complex<T>{u.re, -u.im}, half_less, -half_c);
      }
      if (k == 0 || m == k) {
        put(k, to_k + to_m);
      } else {
        put(k, to_k);
        put(m, to_m);
      }
    }
  }

  void write_gradient(int64_t count, bool accumulate) {
    if (!accumulate && used_ >= L) {
      for (int64_t t = 0; t + L <= used_; t += L) write_tile(t, count);
      if (used_ % L) write_tile(used_ - L, count);
      return;
    }
    const T* z = work_.get();
    for (int64_t t = 0; t < used_; ++t)
      for (int64_t lane = 0; lane < count; ++lane) {
        T& to = rows_.grad[lane][t];
        to = (accumulate ? to : T(0)) + z[t * spread_ * L + lane] * taper_[t];
      }
  }

  void write_tile(int64_t t, int64_t count) {
    const T* z = work_.get();
    Vec<T> tile[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) tile[i] = load(z + (t + i) * spread_ * L) * taper_[t + i];
    transpose<T>(tile);
#pragma GCC unroll 16
    for (int lane = 0; lane < L; ++lane)
      if (lane < count) store(rows_.grad[lane] + t, tile[lane]);
  }

  void zero_gap(int64_t count) {
    for (int64_t lane = 0; lane < count; ++lane) {
      const bool last = rows_.window[lane] + 1 == p_.windows;
      const int64_t end = last ? p_.n_times - rows_.window[lane] * p_.step : p_.step;
      std::memset(rows_.grad[lane] + used_, 0, size_t(end - used_) * sizeof(T));
    }
  }

  const BandPower& p_;
  const FftPlan<T>& plan_;
  const T* x_;
  const T* taper_;
  int64_t used_, spread_, lowest_, highest_ = 0;
  Scratch<T> work_, sums_, weights_;
  Rows rows_, next_;
};

// Rows that make it worth waking another thread.
constexpr int64_t kGrainSamples = 16384;

template <class T>
void forward(const BandPower& p, ParallelFor parallel_for) {
  constexpr int L = kLanes<T>;
  const int64_t rows = p.batch * p.windows * p.n_chans;
  const int64_t grain = kGrainSamples / (L * p.n_fft) + 1;
  parallel(parallel_for, (rows + L - 1) / L, grain, [&](int64_t begin, int64_t end) {
    BandPowerKernel<T> kernel(p);
    for (int64_t g = begin; g < end; ++g)
      kernel.forward(g * L, smaller(L, rows - g * L), smaller(g + 1, end - 1) * L);
  });
}

template <class T>
void backward(const BandPower& p, ParallelFor parallel_for) {
  constexpr int L = kLanes<T>;
  const int64_t rows = p.batch * p.windows * p.n_chans;
  if (p.step >= smaller(p.window, p.n_fft)) {
    const int64_t grain = kGrainSamples / (L * p.n_fft) + 1;
    parallel(parallel_for, (rows + L - 1) / L, grain, [&](int64_t begin, int64_t end) {
      BandPowerKernel<T> kernel(p);
      for (int64_t g = begin; g < end; ++g)
        kernel.backward(g * L, smaller(L, rows - g * L), smaller(g + 1, end - 1) * L, false);
    });
    return;
  }
  // Windows overlap: a task owns up to kLanes channels and adds their windows one after the other.
  const int64_t groups = (p.n_chans + L - 1) / L;
  parallel(parallel_for, p.batch * groups, 1, [&](int64_t begin, int64_t end) {
    BandPowerKernel<T> kernel(p);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t batch = task / groups, chan = task % groups * L;
      const int64_t count = smaller(L, p.n_chans - chan);
      std::memset(static_cast<T*>(p.out) + (batch * p.n_chans + chan) * p.n_times, 0,
                  size_t(count * p.n_times) * sizeof(T));
      const auto row = [&](int64_t w) { return (batch * p.windows + w) * p.n_chans + chan; };
      for (int64_t w = 0; w < p.windows; ++w)
        kernel.backward(row(w), count, row(smaller(w + 1, p.windows - 1)), true);
    }
  });
}

}  // namespace

void band_power(const BandPower& p, ParallelFor parallel_for) {
  p.dtype == DType::kFloat32 ? forward<float>(p, parallel_for) : forward<double>(p, parallel_for);
}

void band_power_backward(const BandPower& p, ParallelFor parallel_for) {
  p.dtype == DType::kFloat32 ? backward<float>(p, parallel_for) : backward<double>(p, parallel_for);
}

}  // namespace eegfast::EEGFAST_ISA
