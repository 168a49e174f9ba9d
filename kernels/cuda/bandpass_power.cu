// SPDX-License-Identifier: BSD-3-Clause
// Variance per window behind a bank of recursive filters (formula: eegfast/bandpass_power.h; thread
// mapping: bandpass_chains.cuh; how time is shared among threads: bandpass_power.cuh).
//
// A filter with poles within kNarrow of +-1 loses digits in float32: such bands are computed in
// double, by blocks of their own, the others in the signal's type. Up to kMaxBands bands share a
// launch. Sections with zeros at DC and Nyquist take 3 instructions instead of 5.
//
// Per sample, channel and band: 6 (or 10) FLOP a section and 3 for the sums; 4 bytes read per
// sample and channel; where time is cut into spans the leads come on top of both.
#include "bandpass_chains.cuh"

namespace eegfast {
namespace {

template <class T>
int run(const BandpassPower& p, Launch l, void* stream) {
  for (int64_t first = 0; first < p.bands; first += max_bands(p.dtype)) {
    const bool plain = set_bands(l, p, first);
    const int error = with_sections(p.n_sections, plain, [&](auto sections, auto is_plain) {
      constexpr int S = decltype(sections)::value;
      constexpr bool Plain = decltype(is_plain)::value;
      if (const int failed = find_starts<T, S, Plain>(l, stream)) return failed;
      return launch(bandpass_chains<T, S, Plain, Pass::kVariances>, chain_grid(l), chain_block(l),
                    0, stream, l);
    });
    if (error) return error;
  }
  return cudaSuccess;
}

Launch prepare(const BandpassPower& p, Workspace& workspace) {
  Launch l = describe(p);
  take_ring(l, workspace);
  take_states(l, l.forward, 2 * padded_sections(p.n_sections), workspace);
  return l;
}

}  // namespace

int64_t bandpass_power_workspace(const BandpassPower& p) {
  Workspace count{nullptr};
  prepare(p, count);
  return count.bytes;
}

int bandpass_power_cuda(const BandpassPower& p, void* stream) {
  if (p.n_sections > kMaxSections) return cudaErrorInvalidValue;
  Workspace workspace{static_cast<unsigned char*>(p.workspace)};
  const Launch l = prepare(p, workspace);
  return p.dtype == DType::kFloat64 ? run<double>(p, l, stream) : run<float>(p, l, stream);
}

}  // namespace eegfast
