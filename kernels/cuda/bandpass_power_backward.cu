// SPDX-License-Identifier: BSD-3-Clause
#include "bandpass_power_backward.cuh"

namespace eegfast {

int bandpass_power_backward_double(const BandpassPower& p, void* stream);

int64_t bandpass_power_backward_workspace(const BandpassPower& p) {
  BandpassPower from_zero = p;
  from_zero.workspace = nullptr;
  int64_t bytes = 0;
  for_launches(from_zero, bytes, [](Launch&, bool) { return int(cudaSuccess); });
  return bytes;
}

int bandpass_power_backward_cuda(const BandpassPower& p, void* stream) {
  if (p.n_sections > kMaxSections) return cudaErrorInvalidValue;
  return p.dtype == DType::kFloat64 ? bandpass_power_backward_double(p, stream)
                                    : run<float>(p, stream);
}

}  // namespace eegfast
