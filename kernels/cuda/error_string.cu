// SPDX-License-Identifier: BSD-3-Clause
#include "portable.cuh"

namespace eegfast {

const char* cuda_error_string(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}

}  // namespace eegfast
