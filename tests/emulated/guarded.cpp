// SPDX-License-Identifier: BSD-3-Clause
// torch.ops.eegfast_emulated.guarded: a copy of a tensor that no kernel may read or write beyond.
#include "stable_compat.h"

namespace eegfast {
namespace {

Tensor guarded(const Tensor& x) {
  const Tensor flat = as_contiguous(x);
  Tensor copy = empty_like_shape(flat, {flat.sizes().begin(), flat.sizes().end()});
  return torch::stable::copy_(copy, flat);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(eegfast_emulated, CPU, m) { m.impl("guarded", TORCH_BOX(&guarded)); }

}  // namespace eegfast

extern "C" __attribute__((visibility("default"))) void eegfast_set_seed(uint64_t seed) {
  emu::set_seed(seed);
}
