// SPDX-License-Identifier: BSD-3-Clause
// What the two algorithms of band_power.cu share.
#pragma once

#include "eegfast/band_power.h"
#include "portable.cuh"

namespace eegfast {

constexpr int kMaxBands = 64;  // of one launch

// BandPower as kernels take it, by value. A launch has up to kMaxBands bands, and of every
// `windows_apart` windows the one that is `first_window` in: those do not overlap.
struct BandPowerLaunch {
  const void* x;
  const void* taper;  // float, or double with double
  const void* grad;
  void* out;
  void* workspace;
  int64_t stride_batch, stride_chan, n_times, step, window_count;
  int64_t rows, first_batch;  // rows: (batch, window of this launch, channel), first_batch on
  int n_chans, windows, first_window, windows_apart;
  int used, n_fft;
  int bands, bands_before, bands_in_all;
  int lowest, highest;  // the bins of these bands lie in [lowest, highest)
  int start[kMaxBands], stop[kMaxBands];
  double gain;
  bool log2;
  bool accumulate;  // backward: add to out
  bool pairs;       // samples 2 i and 2 i + 1 of every window, and of the taper, lie as a pair
  DType dtype, out_dtype;
};

struct BandPowerRow {
  __device__ BandPowerRow(const BandPowerLaunch& p, int64_t number) {
    const uint32_t row = uint32_t(number), rest = row / uint32_t(p.n_chans);
    const int64_t chan = row % uint32_t(p.n_chans);
    const int64_t batch = p.first_batch + rest / uint32_t(p.windows);
    window = p.first_window + int64_t(rest % uint32_t(p.windows)) * p.windows_apart;
    x = batch * p.stride_batch + chan * p.stride_chan + window * p.step;
    gradient = (batch * p.n_chans + chan) * p.n_times + window * p.step;
    power = ((batch * p.window_count + window) * p.n_chans + chan) * p.bands_in_all;
    power += p.bands_before;
  }
  // How far the next window of this launch begins, or the signal ends.
  __device__ int64_t reach(const BandPowerLaunch& p) const {
    const bool is_last = window + p.windows_apart >= p.window_count;
    return is_last ? p.n_times - window * p.step : p.windows_apart * p.step;
  }
  int64_t window;
  int64_t x, gradient, power;  // offsets of its first element in x, in the gradient, in the power
};

// The gradient of a band's summed energy. Its mean's logarithm is free of gain and width.
template <class T>
__device__ T energy_weight(const BandPowerLaunch& p, int band, T grad, T energy) {
  if (p.log2) return grad * T(1.4426950408889634074) / energy;
  return grad * T(p.gain / double(p.stop[band] - p.start[band]));
}

template <class T>
__device__ T band_value(const BandPowerLaunch& p, int band, T energy) {
  const T power = energy * T(p.gain / double(p.stop[band] - p.start[band]));
  return p.log2 ? log2(power) : power;
}

// The two algorithms: band_power_fft.cuh, and band_power_dft.cu, whose workspace begins with a
// table that is filled once per call.
bool band_power_has_fft(const BandPower& p);
int band_power_fft(const BandPowerLaunch& p, void* stream);
int band_power_fft_backward(const BandPowerLaunch& p, void* stream);
int64_t band_power_dft_workspace(const BandPower& p, bool backward);
int band_power_dft_table(const BandPower& p, void* stream);
int band_power_dft(const BandPowerLaunch& p, bool backward, void* stream);

}  // namespace eegfast
