// SPDX-License-Identifier: BSD-3-Clause
// Splits a call of band_power into launches: fast transforms where there is one, else the matrix
// product, up to kMaxBands bands at a time.
//
// Where windows overlap, the backward kernels never add to one sample from two places at once:
// a launch takes every K-th window, K such that those lie apart, and adds to what the launches
// before it wrote. The order is fixed, so the bits are. 16-bit gradients are summed in a float
// copy in the workspace and rounded once.
#include "band_power.cuh"

namespace eegfast {
namespace {

constexpr int kBlock = 256;
constexpr int64_t kMaxRows = int64_t(1) << 30;  // of one launch: numbered in 32

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t rounded_up(int64_t bytes) { return (bytes + 255) / 256 * 256; }

bool is_half(DType dtype) { return dtype == DType::kFloat16 || dtype == DType::kBFloat16; }

int64_t windows_apart(const BandPower& p) {
  const int64_t used = smaller(p.window, p.n_fft);
  return smaller((used + p.step - 1) / p.step, p.windows);
}

// 16-bit gradients that several launches add to.
bool needs_sums(const BandPower& p) {
  return is_half(p.dtype) && (windows_apart(p) > 1 || p.bands > kMaxBands);
}

int64_t table_bytes(const BandPower& p, bool backward) {
  return band_power_has_fft(p) ? 0 : rounded_up(band_power_dft_workspace(p, backward));
}

__global__ void __launch_bounds__(kBlock)
    round_sums(const float* sums, void* out, DType dtype, int64_t count) {
  for (int64_t i = int64_t(blockIdx.x) * kBlock + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kBlock)
    store_as(dtype, out, i, sums[i]);
}

BandPowerLaunch launch_of(const BandPower& p) {
  BandPowerLaunch l{};
  l.x = p.x;
  l.taper = p.taper;
  l.grad = p.grad;
  l.out = p.out;
  l.workspace = p.workspace;
  l.stride_batch = p.stride_batch;
  l.stride_chan = p.stride_chan;
  l.n_times = p.n_times;
  l.step = p.step;
  l.window_count = p.windows;
  l.n_chans = int(p.n_chans);
  l.used = int(smaller(p.window, p.n_fft));
  l.n_fft = int(p.n_fft);
  l.bands_in_all = int(p.bands);
  l.gain = p.gain;
  l.log2 = p.log2;
  l.dtype = l.out_dtype = p.dtype;
  const size_t element = p.dtype == DType::kFloat64 ? 8 : is_half(p.dtype) ? 2 : 4;
  const bool even = p.stride_batch % 2 == 0 && p.stride_chan % 2 == 0 && p.step % 2 == 0;
  l.pairs = even && reinterpret_cast<uintptr_t>(p.x) % (2 * element) == 0 &&
            reinterpret_cast<uintptr_t>(p.taper) % (2 * sizeof(float)) == 0;
  return l;
}

void set_bands(BandPowerLaunch& l, const BandPower& p, int64_t first) {
  l.bands_before = int(first);
  l.bands = int(smaller(kMaxBands, p.bands - first));
  l.lowest = l.n_fft;
  l.highest = 0;
  for (int b = 0; b < l.bands; ++b) {
    l.start[b] = int(p.bins[2 * (first + b)]);
    l.stop[b] = int(p.bins[2 * (first + b) + 1]);
    l.lowest = int(smaller(l.lowest, l.start[b]));
    l.highest = l.stop[b] > l.highest ? l.stop[b] : l.highest;
  }
}

int run(const BandPower& p, bool backward, void* stream) {
  const bool fast = band_power_has_fft(p);
  if (p.n_fft > (1 << 30) || p.window > (1 << 30) || p.windows * p.n_chans > kMaxRows)
    return cudaErrorInvalidValue;
  if (!fast) {
    const int error = band_power_dft_table(p, stream);
    if (error) return error;
  }
  BandPowerLaunch l = launch_of(p);
  l.windows_apart = backward ? int(windows_apart(p)) : 1;
  if (backward && needs_sums(p)) {
    l.out = static_cast<char*>(p.workspace) + table_bytes(p, true);
    l.out_dtype = DType::kFloat32;
  }
  for (int64_t band = 0; band < p.bands; band += kMaxBands) {
    set_bands(l, p, band);
    for (l.first_window = 0; l.first_window < l.windows_apart; ++l.first_window) {
      l.accumulate = band > 0 || l.first_window > 0;
      l.windows = int((p.windows - l.first_window + l.windows_apart - 1) / l.windows_apart);
      const int64_t in_batch = int64_t(l.windows) * p.n_chans, at_once = kMaxRows / in_batch;
      for (int64_t batch = 0; batch < p.batch; batch += at_once) {
        l.first_batch = batch;
        l.rows = smaller(at_once, p.batch - batch) * in_batch;
        const int error = !fast      ? band_power_dft(l, backward, stream)
                          : backward ? band_power_fft_backward(l, stream)
                                     : band_power_fft(l, stream);
        if (error) return error;
      }
    }
  }
  return cudaSuccess;
}

}  // namespace

int64_t band_power_workspace(const BandPower& p, bool backward) {
  const int64_t sums = backward && needs_sums(p) ? p.batch * p.n_chans * p.n_times : 0;
  return table_bytes(p, backward) + sums * int64_t(sizeof(float));
}

int band_power_cuda(const BandPower& p, void* stream) { return run(p, false, stream); }

int band_power_backward_cuda(const BandPower& p, void* stream) {
  const int error = run(p, true, stream);
  if (error || !needs_sums(p)) return error;
  const int64_t count = p.batch * p.n_chans * p.n_times;
  const void* sums = static_cast<const char*>(p.workspace) + table_bytes(p, true);
  const dim3 blocks(unsigned(smaller((count + kBlock - 1) / kBlock, 4096)));
  return launch(round_sums, blocks, kBlock, 0, stream, static_cast<const float*>(sums), p.out,
                p.dtype, count);
}

}  // namespace eegfast
