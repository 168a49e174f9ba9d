// SPDX-License-Identifier: BSD-3-Clause
// The kernels for signals in float64, apart so that no file takes long to compile.
#include "bandpass_power_backward.cuh"

namespace eegfast {

int bandpass_power_backward_double(const BandpassPower& p, void* stream) {
  return run<double>(p, stream);
}

}  // namespace eegfast
