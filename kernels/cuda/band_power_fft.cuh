// SPDX-License-Identifier: BSD-3-Clause
// Band power by fast transforms of n_fft = 64 .. 2048, a power of two (formula:
// eegfast/band_power.h).
//
// A row is one window of one channel; 4 to 64 threads share one (fft.cuh), and a block of 128
// takes several at a time, channels next to each other. Samples are read straight into registers,
// as pairs where their addresses allow it, tapered, and transformed; the energies of the bins that
// bands use go to shared memory, where each band is summed by a thread or a few. Only the band
// sums leave the chip.
//
// Backward: the transform is computed again, not stored. The packed spectrum is replaced by its
// gradient (V_k + conj V_{M-k}) + i exp(2 pi i k / N) (V_k - conj V_{M-k}), with V_k = dE_k X_k,
// and transformed back: a forward transform with real and imaginary parts swapped.
//
// Per row of n samples: 4 n bytes read, 4 bands bytes written (backward: 8 n read and written);
// about 2.5 N log2 N + 14 FLOP per bin of the bands; 16 N bytes through shared memory per pass.
// Rows never mix: a NaN stays in its row.
#pragma once

#include "band_power.cuh"
#include "fft.cuh"

namespace eegfast {
namespace {

constexpr int kBlock = 128;
constexpr int kMaxBlocks = 2048;

template <class T>
struct alignas(2 * sizeof(T)) Pair {
  T even, odd;
};

template <int N>
class Kernel {
 public:
  using F = Fft<N>;
  static constexpr int kRows = kBlock / F::kThreads;
  static constexpr int kEnergies = F::kPoints + 1;

  static size_t shared_bytes(const BandPowerLaunch& p) {
    return kRows *
           (F::kShared * sizeof(Complex) + (kEnergies + F::kThreads + p.bands) * sizeof(float));
  }

  __device__ Kernel(const BandPowerLaunch& p, Complex* shared)
      : p_(p),
        local_(threadIdx.x / F::kThreads),
        lane_(threadIdx.x % F::kThreads),
        z_(shared + local_ * F::kShared),
        fft_(lane_, z_) {
    float* floats = reinterpret_cast<float*>(shared + kRows * F::kShared);
    energy_ = floats + local_ * (kEnergies + F::kThreads + p.bands);
    partial_ = energy_ + kEnergies;
    weight_ = partial_ + F::kThreads;
  }

  // Rows first + 0 .. kRows - 1; all threads of the block come here together.
  __device__ void forward(int64_t first) {
    const bool live = first + local_ < p_.rows;
    const BandPowerRow row(p_, live ? first + local_ : 0);
    spectrum(row);
    energies();
    sum_bands([&](int band, float energy) {
      if (live) store_as(p_.dtype, p_.out, row.power + band, band_value(p_, band, energy));
    });
  }

  __device__ void backward(int64_t first) {
    const bool live = first + local_ < p_.rows;
    const BandPowerRow row(p_, live ? first + local_ : 0);
    spectrum(row);
    const auto grad = [&](int band) { return load_as<float>(p_.dtype, p_.grad, row.power + band); };
    if (p_.log2) {
      energies();
      sum_bands([&](int band, float energy) {
        weight_[band] = energy_weight(p_, band, grad(band), energy);
      });
    } else {
      for (int band = lane_; band < p_.bands; band += F::kThreads)
        weight_[band] = energy_weight(p_, band, grad(band), 0.0f);
    }
    F::sync();
    energy_weights();
    F::sync();
    Complex held[F::kHeld];
#pragma unroll
    for (int m = 0; m < F::kHeld; ++m) held[m] = packed_gradient(fft_.point(m));
    F::sync();
    fft_.run(held);
    if (live) {
      switch (p_.out_dtype) {
        case DType::kFloat16:
          write_gradient(row, static_cast<__half*>(p_.out));
          break;
        case DType::kBFloat16:
          write_gradient(row, static_cast<__nv_bfloat16*>(p_.out));
          break;
        default:
          write_gradient(row, static_cast<float*>(p_.out));
      }
    }
    F::sync();
  }

 private:
  __device__ void spectrum(const BandPowerRow& row) {
    Complex held[F::kHeld];
    switch (p_.dtype) {
      case DType::kFloat16:
        read(static_cast<const __half*>(p_.x) + row.x, held);
        break;
      case DType::kBFloat16:
        read(static_cast<const __nv_bfloat16*>(p_.x) + row.x, held);
        break;
      default:
        read(static_cast<const float*>(p_.x) + row.x, held);
    }
    fft_.run(held);
  }

  // Tapered samples; two at a time where p.pairs allows it.
  template <class IO>
  __device__ void read(const IO* x, Complex (&held)[F::kHeld]) const {
    const float* taper = static_cast<const float*>(p_.taper);
    const int in_pairs = p_.pairs ? p_.used - 1 : 0;
#pragma unroll
    for (int m = 0; m < F::kHeld; ++m) {
      const int i = 2 * fft_.point(m);
      held[m] = {0, 0};
      if (i < in_pairs) {
        const Pair<IO> pair = *reinterpret_cast<const Pair<IO>*>(x + i);
        const Pair<float> factor = *reinterpret_cast<const Pair<float>*>(taper + i);
        held[m] = {load(&pair.even) * factor.even, load(&pair.odd) * factor.odd};
      } else if (i < p_.used) {
        held[m].re = load(x + i) * __ldg(taper + i);
        if (i + 1 < p_.used) held[m].im = load(x + i + 1) * __ldg(taper + i + 1);
      }
    }
  }

  // X[k] = (even + odd) / 2 and X[points - k] = conj(even - odd) / 2.
  struct Unpacked {
    Complex even, odd;
  };
  __device__ Unpacked unpacked(int k) const {
    const Complex a = z_[F::padded(k % F::kPoints)];
    const Complex b = z_[F::padded((F::kPoints - k) % F::kPoints)];
    const Complex root = kRoots.root[k * (kCircle / N)];
    const Complex sum{a.re + b.re, a.im - b.im}, difference{a.re - b.re, a.im + b.im};
    const Complex turned = root * difference;
    return {sum, {turned.im, -turned.re}};
  }

  __device__ void energies() const {
    for (int k = p_.lowest + lane_; k < p_.highest; k += F::kThreads) {
      const Unpacked u = unpacked(k);
      const Complex x = u.even + u.odd;
      energy_[k] = 0.25f * (x.re * x.re + x.im * x.im);
    }
    F::sync();
  }

  // Calls use(band, energy) in one thread per band.
  template <class Use>
  __device__ void sum_bands(const Use& use) const {
    const int parts = F::kThreads > p_.bands ? F::kThreads / p_.bands : 1;
    const int part = lane_ % parts;
    for (int first = 0; first < p_.bands; first += F::kThreads) {
      const int band = first + lane_ / parts;
      float sum = 0;
      if (band < p_.bands)
        for (int k = p_.start[band] + part; k < p_.stop[band]; k += parts) sum += energy_[k];
      if (parts > 1) {
        partial_[lane_] = sum;
        F::sync();
        if (part == 0 && band < p_.bands)
          for (int other = 1; other < parts; ++other) sum += partial_[lane_ + other];
      }
      if (part == 0 && band < p_.bands) use(band, sum);
    }
  }

  // energy_[k]: the gradient of |X[k]|^2, in the bands. A thread keeps to its own bins.
  __device__ void energy_weights() const {
    for (int k = p_.lowest + lane_; k < p_.highest; k += F::kThreads) energy_[k] = 0;
    for (int band = 0; band < p_.bands; ++band) {
      const int start = p_.start[band];
      const int own = (lane_ - (start - p_.lowest)) & (F::kThreads - 1);
      for (int k = start + own; k < p_.stop[band]; k += F::kThreads) energy_[k] += weight_[band];
    }
  }
  __device__ float energy_weight_of(int k) const {
    return p_.lowest <= k && k < p_.highest ? energy_[k] : 0.0f;
  }

  // With its parts swapped.
  __device__ Complex packed_gradient(int k) const {
    const Unpacked u = unpacked(k);
    const float scale = k == 0 ? 1.0f : 0.5f;
    const float own = scale * energy_weight_of(k);
    const float mirrored = scale * energy_weight_of(F::kPoints - k);
    const float p = own + mirrored, q = own - mirrored;
    const Complex sum{p * u.even.re + q * u.odd.re, p * u.even.im + q * u.odd.im};
    const Complex difference{q * u.even.re + p * u.odd.re, q * u.even.im + p * u.odd.im};
    const Complex root = kRoots.root[k * (kCircle / N)];
    const Complex turned = Complex{root.re, -root.im} * difference;
    return {sum.im + turned.re, sum.re - turned.im};
  }

  template <class IO>
  __device__ void write_gradient(const BandPowerRow& row, IO* out) const {
    const float* taper = static_cast<const float*>(p_.taper);
    out += row.gradient;
#pragma unroll
    for (int m = 0; m < F::kHeld; ++m) {
      const int i = 2 * fft_.point(m);
      const Complex swapped = z_[F::padded(fft_.point(m))];
      if (i < p_.used) put(out + i, swapped.im * __ldg(taper + i));
      if (i + 1 < p_.used) put(out + i + 1, swapped.re * __ldg(taper + i + 1));
    }
    if (p_.accumulate) return;
    const int64_t reach = row.reach(p_);
    for (int64_t i = p_.used + lane_; i < reach; i += F::kThreads) store(out + i, 0.0f);
  }
  template <class IO>
  __device__ void put(IO* to, float value) const {
    store(to, p_.accumulate ? value + load(to) : value);
  }

  const BandPowerLaunch& p_;
  const int local_, lane_;
  Complex* const z_;
  const F fft_;
  float *energy_, *partial_, *weight_;
};

// As many blocks to a processor as the registers allow without spilling.
constexpr int blocks_per_processor(int n_fft, bool backward) {
  return n_fft > 512 ? 2 : backward ? 3 : 4;
}

template <int N, bool backward>
__global__ void __launch_bounds__(kBlock, blocks_per_processor(N, backward))
    band_power_rows(const BandPowerLaunch p) {
  EEGFAST_DYNAMIC_SHARED(Complex, shared);
  Kernel<N> kernel(p, shared);
  constexpr int64_t rows = Kernel<N>::kRows;
  for (int64_t row = blockIdx.x * rows; row < p.rows; row += gridDim.x * rows) {
    if constexpr (backward)
      kernel.backward(row);
    else
      kernel.forward(row);
  }
}

template <int N, bool backward>
int launch_for(const BandPowerLaunch& p, void* stream) {
  if (p.n_fft != N) {
    if constexpr (N < 2048) return launch_for<2 * N, backward>(p, stream);
    return cudaErrorInvalidValue;
  }
  const int64_t needed = (p.rows + Kernel<N>::kRows - 1) / Kernel<N>::kRows;
  const dim3 blocks(unsigned(needed < kMaxBlocks ? needed : kMaxBlocks));
  return launch(band_power_rows<N, backward>, blocks, kBlock, Kernel<N>::shared_bytes(p), stream,
                p);
}

}  // namespace
}  // namespace eegfast
