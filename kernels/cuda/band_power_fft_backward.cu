// SPDX-License-Identifier: BSD-3-Clause
// In a file of its own: the two directions take half a minute each to compile.
#include "band_power_fft.cuh"

namespace eegfast {

int band_power_fft_backward(const BandPowerLaunch& p, void* stream) {
  return launch_for<64, true>(p, stream);
}

}  // namespace eegfast
