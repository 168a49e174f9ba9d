// SPDX-License-Identifier: BSD-3-Clause
#include "band_power_fft.cuh"

namespace eegfast {

bool band_power_has_fft(const BandPower& p) {
  const bool is_power = (p.n_fft & (p.n_fft - 1)) == 0;
  return p.dtype != DType::kFloat64 && is_power && 64 <= p.n_fft && p.n_fft <= 2048;
}

int band_power_fft(const BandPowerLaunch& p, void* stream) {
  return launch_for<64, false>(p, stream);
}

}  // namespace eegfast
