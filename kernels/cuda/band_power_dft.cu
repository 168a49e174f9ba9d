// SPDX-License-Identifier: BSD-3-Clause
// Band power by the definition, for any n_fft and in float or double (formula:
// eegfast/band_power.h).
//
// Energies do not depend on where time begins, so it begins at the window's middle: with h and l
// the samples j steps after and before it, u = h + l and v = h - l,
//   X[k] = sum_j u_j cos(2 pi k t_j / n_fft) - i sum_j v_j sin(2 pi k t_j / n_fft),
// two real matrix products of half the length. A block of 64 threads has 32 rows (windows of one
// channel) and takes 32 bins at a time; a thread sums 4 x 4 of them. Cosines and sines come from a
// table of the 2 n_fft angles pi i / n_fft in the workspace, which a first kernel fills.
//
// Backward: the weighted spectrum of the block's rows goes to a slice of the workspace of its own,
// small enough to stay in the L2 cache, and the same product runs over the bins.
//
// Per row of n samples and k bins: 4 n bytes read; 2 n k FLOP forward, 4 n k backward.
#include "band_power.cuh"

namespace eegfast {
namespace {

constexpr int kSide = 8, kTile = 4;
constexpr int kBlock = kSide * kSide;
constexpr int kRows = kSide * kTile;  // and columns
constexpr int kDepth = 16;
constexpr int kMaxBlocks = 1024;

template <class T>
struct alignas(2 * sizeof(T)) Two {
  T x, y;
};

__device__ void cos_sin(double turns, Two<float>* to) {
  *to = {float(cospi(turns)), float(sinpi(turns))};
}
__device__ void cos_sin(double turns, Two<double>* to) { *to = {cospi(turns), sinpi(turns)}; }

template <class T>
__global__ void __launch_bounds__(kBlock) fill_table(Two<T>* table, int n_fft) {
  const int first = int(blockIdx.x) * kBlock + int(threadIdx.x);
  for (int i = first; i < 2 * n_fft; i += int(gridDim.x) * kBlock)
    cos_sin(double(i) / n_fft, table + i);
}

template <class T>
struct Shared {
  Two<T> a[kDepth][kRows + 1], b[kDepth][kRows + 1];
  T energy[kRows][kRows + 1];
  T band[kRows][kMaxBands];  // energies, then their weights
};

template <class T>
class Kernel {
 public:
  __device__ Kernel(const BandPowerLaunch& p, Shared<T>& shared)
      : p_(p),
        s_(shared),
        table_(static_cast<const Two<T>*>(p.workspace)),
        slice_(static_cast<Two<T>*>(p.workspace) + 2 * int64_t(p.n_fft)),
        half_((p.used + 1) / 2),
        bins_(p.highest - p.lowest) {
    slice_ += int64_t(blockIdx.x) * kRows * bins_;
  }

  __device__ void forward(int64_t first) {
    sum_bands(first, false);
    for (int i = threadIdx.x; i < kRows * p_.bands; i += kBlock) {
      const int r = i / p_.bands, band = i % p_.bands;
      if (first + r >= p_.rows) continue;
      const BandPowerRow row(p_, first + r);
      store_as(p_.dtype, p_.out, row.power + band, band_value(p_, band, s_.band[r][band]));
    }
    __syncthreads();
  }

  __device__ void backward(int64_t first) {
    sum_bands(first, true);
    for (int i = threadIdx.x; i < kRows * p_.bands; i += kBlock) {
      const int r = i / p_.bands, band = i % p_.bands;
      if (first + r >= p_.rows) continue;
      const BandPowerRow row(p_, first + r);
      const T grad = load_as<T>(p_.dtype, p_.grad, row.power + band);
      s_.band[r][band] = energy_weight(p_, band, grad, s_.band[r][band]);
    }
    __syncthreads();
    for (int first_sample = 0; first_sample < half_; first_sample += kRows) {
      Two<T> sums[kTile][kTile] = {};
      for (int depth = 0; depth < bins_; depth += kDepth) {
        stage_spectrum(first, depth);
        stage_table(depth, first_sample, true);
        multiply(sums);
      }
      for_tile([&](int i, int j, int r, int c) {
        write_gradient(first + r, first_sample + c, sums[i][j]);
      });
    }
    for (int r = threadIdx.x; r < kRows * kBlock; r += kBlock) zero_gap(first + r / kBlock);
    __syncthreads();
  }

 private:
  // Sums the energies of the bands into s_.band; with `keep`, leaves the spectrum in slice_.
  __device__ void sum_bands(int64_t first, bool keep) {
    for (int i = threadIdx.x; i < kRows * p_.bands; i += kBlock)
      s_.band[i / p_.bands][i % p_.bands] = 0;
    for (int first_bin = 0; first_bin < bins_; first_bin += kRows) {
      Two<T> sums[kTile][kTile] = {};
      for (int depth = 0; depth < half_; depth += kDepth) {
        stage_samples(first, depth);
        stage_table(first_bin, depth, false);
        multiply(sums);
      }
      for_tile([&](int i, int j, int r, int c) {
        const Two<T> sum = sums[i][j];
        s_.energy[r][c] = sum.x * sum.x + sum.y * sum.y;
        if (keep && first_bin + c < bins_) slice_[r * bins_ + first_bin + c] = sum;
      });
      __syncthreads();
      for (int i = threadIdx.x; i < kRows * p_.bands; i += kBlock) {
        const int r = i / p_.bands, band = i % p_.bands, tile = p_.lowest + first_bin;
        const int start = p_.start[band] > tile ? p_.start[band] - tile : 0;
        const int stop = p_.stop[band] - tile < kRows ? p_.stop[band] - tile : kRows;
        for (int c = start; c < stop; ++c) s_.band[r][band] += s_.energy[r][c];
      }
    }
    __syncthreads();
  }

  // Calls each(i, j, row, column) for the elements of this thread's tile.
  template <class Each>
  __device__ __forceinline__ void for_tile(const Each& each) const {
#pragma unroll
    for (int i = 0; i < kTile; ++i)
#pragma unroll
      for (int j = 0; j < kTile; ++j)
        each(i, j, int(threadIdx.x) / kSide + kSide * i, int(threadIdx.x) % kSide + kSide * j);
  }

  // The sample `steps` after the middle, and its mirror image.
  __device__ int later(int steps) const { return p_.used / 2 + steps; }
  __device__ int earlier(int steps) const { return p_.used - 1 - later(steps); }

  __device__ void stage_samples(int64_t first, int depth) {
    const T* taper = static_cast<const T*>(p_.taper);
    for (int i = threadIdx.x; i < kDepth * kRows; i += kBlock) {
      const int d = i % kDepth, r = i / kDepth, h = later(depth + d), l = earlier(depth + d);
      Two<T> folded{0, 0};
      if (first + r < p_.rows && depth + d < half_) {
        const BandPowerRow row(p_, first + r);
        const T after = load_as<T>(p_.dtype, p_.x, row.x + h) * taper[h];
        const T before = l < h ? load_as<T>(p_.dtype, p_.x, row.x + l) * taper[l] : T(0);
        folded = {after + before, l < h ? after - before : T(0)};
      }
      s_.a[d][r] = folded;
    }
  }

  // 2 dE[k] (sum u cos, sum v sin).
  __device__ void stage_spectrum(int64_t first, int depth) {
    for (int i = threadIdx.x; i < kDepth * kRows; i += kBlock) {
      const int d = i % kDepth, r = i / kDepth, k = depth + d;
      Two<T> weighted{0, 0};
      if (first + r < p_.rows && k < bins_) {
        T weight = 0;
        for (int band = 0; band < p_.bands; ++band)
          if (p_.start[band] <= p_.lowest + k && p_.lowest + k < p_.stop[band])
            weight += 2 * s_.band[r][band];
        const Two<T> sum = slice_[r * bins_ + k];
        weighted = {weight * sum.x, weight * sum.y};
      }
      s_.a[d][r] = weighted;
    }
  }

  // Cosine and sine for bins first_bin + .. and samples first_sample + ..; one of them runs down.
  __device__ void stage_table(int first_bin, int first_sample, bool bins_run_down) {
    const uint32_t circle = 2 * uint32_t(p_.n_fft), odd = p_.used % 2 ? 0 : 1;
    for (int i = threadIdx.x; i < kDepth * kRows; i += kBlock) {
      const int d = i / kRows, c = i % kRows;
      const uint32_t k = uint32_t(p_.lowest + first_bin + (bins_run_down ? d : c));
      const uint32_t half_steps = 2 * uint32_t(first_sample + (bins_run_down ? c : d)) + odd;
      const uint32_t angle =
          p_.n_fft <= 65536 ? k * half_steps % circle : uint32_t(uint64_t(k) * half_steps % circle);
      s_.b[d][c] = table_[angle];
    }
  }

  __device__ void multiply(Two<T> (&sums)[kTile][kTile]) {
    __syncthreads();
    const int y = int(threadIdx.x) / kSide, x = int(threadIdx.x) % kSide;
#pragma unroll 4
    for (int d = 0; d < kDepth; ++d) {
      Two<T> a[kTile], b[kTile];
#pragma unroll
      for (int i = 0; i < kTile; ++i) a[i] = s_.a[d][y + kSide * i];
#pragma unroll
      for (int j = 0; j < kTile; ++j) b[j] = s_.b[d][x + kSide * j];
#pragma unroll
      for (int i = 0; i < kTile; ++i)
#pragma unroll
        for (int j = 0; j < kTile; ++j) {
          sums[i][j].x += a[i].x * b[j].x;
          sums[i][j].y += a[i].y * b[j].y;
        }
    }
    __syncthreads();
  }

  // sum.x is what the two samples share, sum.y what they have with opposite signs.
  __device__ void write_gradient(int64_t number, int steps, Two<T> sum) const {
    if (number >= p_.rows || steps >= half_) return;
    const BandPowerRow row(p_, number);
    const T* taper = static_cast<const T*>(p_.taper);
    const int h = later(steps), l = earlier(steps);
    put(row.gradient + h, (sum.x + sum.y) * taper[h]);
    if (l < h) put(row.gradient + l, (sum.x - sum.y) * taper[l]);
  }
  __device__ void put(int64_t i, T value) const {
    if (p_.accumulate) value += load_as<T>(p_.out_dtype, p_.out, i);
    store_as(p_.out_dtype, p_.out, i, value);
  }
  // The whole block writes one row's gap.
  __device__ void zero_gap(int64_t number) const {
    if (number >= p_.rows || p_.accumulate) return;
    const BandPowerRow row(p_, number);
    const int64_t reach = row.reach(p_);
    for (int64_t i = p_.used + int(threadIdx.x); i < reach; i += kBlock)
      store_as(p_.out_dtype, p_.out, row.gradient + i, T(0));
  }

  const BandPowerLaunch& p_;
  Shared<T>& s_;
  const Two<T>* const table_;
  Two<T>* slice_;
  const int half_, bins_;
};

template <class T, bool backward>
__global__ void __launch_bounds__(kBlock, 4) band_power_product(const BandPowerLaunch p) {
  EEGFAST_SHARED(Shared<T>, shared);
  Kernel<T> kernel(p, shared);
  for (int64_t row = int64_t(blockIdx.x) * kRows; row < p.rows; row += int64_t(gridDim.x) * kRows) {
    if constexpr (backward)
      kernel.backward(row);
    else
      kernel.forward(row);
  }
}

int64_t count_blocks(int64_t rows) {
  const int64_t needed = (rows + kRows - 1) / kRows;
  return needed < kMaxBlocks ? needed : kMaxBlocks;
}

template <class T>
int launch_for(const BandPowerLaunch& p, bool backward, void* stream) {
  const auto kernel = backward ? band_power_product<T, true> : band_power_product<T, false>;
  return launch(kernel, dim3(unsigned(count_blocks(p.rows))), kBlock, 0, stream, p);
}

}  // namespace

int64_t band_power_dft_workspace(const BandPower& p, bool backward) {
  const int64_t rows = p.batch * p.windows * p.n_chans;
  const int64_t slices = backward ? count_blocks(rows) * kRows * (p.n_fft / 2 + 1) : 0;
  const int64_t element = p.dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
  return (2 * p.n_fft + slices) * 2 * element;
}

int band_power_dft_table(const BandPower& p, void* stream) {
  const dim3 blocks(unsigned(p.n_fft / (kBlock / 2) < 128 ? p.n_fft / (kBlock / 2) + 1 : 128));
  if (p.dtype == DType::kFloat64)
    return launch(fill_table<double>, blocks, kBlock, 0, stream,
                  static_cast<Two<double>*>(p.workspace), int(p.n_fft));
  return launch(fill_table<float>, blocks, kBlock, 0, stream, static_cast<Two<float>*>(p.workspace),
                int(p.n_fft));
}

int band_power_dft(const BandPowerLaunch& p, bool backward, void* stream) {
  return p.dtype == DType::kFloat64 ? launch_for<double>(p, backward, stream)
                                    : launch_for<float>(p, backward, stream);
}

}  // namespace eegfast
