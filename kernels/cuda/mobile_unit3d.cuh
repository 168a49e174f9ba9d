// SPDX-License-Identifier: BSD-3-Clause
// What the kernels of the Mobile unit share (formula and algebra: eegfast/mobile_unit3d.h): how the
// work is cut, sums in an order that depends on sizes alone, the statistics of the batch.
#pragma once

#include <math.h>

#include "eegfast/mobile_unit3d.h"
#include "portable.cuh"

namespace eegfast {
namespace {

constexpr int kThreads = 256;
constexpr int kWarp = 32;
constexpr int kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kRun = 1024;  // voxels that are summed in float before they are added in double
// Blocks that fill a large card. The emulator is a small one: tests see blocks that take several
// tiles, and several steps of the expanded channels.
#if defined(__CUDACC__)
constexpr int kFilled = 264;
#else
constexpr int kFilled = 3;
#endif

__host__ __device__ inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
__host__ __device__ inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
__host__ __device__ inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

__host__ __device__ inline int64_t unit_volume(const MobileUnit3d& p) {
  return p.depth * p.height * p.width;
}
__host__ __device__ inline double unit_count(const MobileUnit3d& p) {
  return double(p.batch) * double(unit_volume(p));
}
inline bool half_type(DType dtype) { return dtype == DType::kFloat16 || dtype == DType::kBFloat16; }

// A NaN stays a NaN.
template <class T>
__device__ T relu(T value) {
  return value <= 0 ? T(0) : value;
}
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
template <>
__device__ inline float relu(float value) {
  float result;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(result) : "f"(value));
  return result;
}
#endif

template <class T>
__device__ T warp_sum(T value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Sums of N values over the warp, N a power of two up to 32; a lane gets that of lane % N.
template <int N, class T>
__device__ T fold_lanes(const T (&values)[N]) {
  if constexpr (N > 1) {
    const bool upper = threadIdx.x & (N / 2);
    T folded[N / 2];
#pragma unroll
    for (int i = 0; i < N / 2; ++i) {
      const T kept = upper ? values[i + N / 2] : values[i];
      const T sent = upper ? values[i] : values[i + N / 2];
      folded[i] = kept + __shfl_xor_sync(kAllLanes, sent, N / 2);
    }
    return fold_lanes(folded);
  }
  return values[0];
}
// The same with lanes that are more than the values.
template <int N, class T>
__device__ T fold_warp(const T (&values)[N]) {
  T sum = fold_lanes(values);
#pragma unroll
  for (int step = N; step < kWarp; step *= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  return sum;
}

using Scratch = double[kThreads];

// Calls use(column, total) in one thread for each of n columns; a column is the sum of
// value(column, share, shares) over shares threads. The whole block comes here.
template <class Value, class Use>
__device__ void sum_columns(Scratch& scratch, int64_t n, const Value& value, const Use& use) {
  int width = 1;
  while (width < kThreads && width < n) width *= 2;
  const int share = int(threadIdx.x) / width, shares = kThreads / width;
  for (int64_t first = 0; first < n; first += width) {
    const int64_t column = first + int(threadIdx.x) % width;
    double total = column < n ? value(column, share, shares) : 0;
    scratch[threadIdx.x] = total;
    __syncthreads();
    if (share == 0 && column < n) {
      for (int other = 1; other < shares; ++other) total += scratch[other * width + threadIdx.x];
      use(column, total);
    }
    __syncthreads();
  }
}

// Two sums over the block.
__device__ inline void put_sums(Scratch& scratch, double first, double second, double* to) {
  const int warp = threadIdx.x / kWarp;
  first = warp_sum(first);
  second = warp_sum(second);
  if (threadIdx.x % kWarp == 0) {
    scratch[warp] = first;
    scratch[kWarps + warp] = second;
  }
  __syncthreads();
  if (threadIdx.x < 2) {
    double total = 0;
    for (int i = 0; i < kWarps; ++i) total += scratch[threadIdx.x * kWarps + i];
    to[threadIdx.x] = total;
  }
  __syncthreads();
}

// The voxels of a channel in one part of the batch, in runs of up to kRun; as many threads share a
// run as it has use for.
class Runs {
 public:
  static __host__ __device__ int64_t of(const MobileUnit3d& p) {
    return p.batch * ceil_div(unit_volume(p), kRun);
  }
  __device__ Runs(const MobileUnit3d& p, int64_t part, int64_t parts, int thread, int threads)
      : volume_(unit_volume(p)),
        per_sample_(ceil_div(volume_, kRun)),
        first_(of(p) * part / parts),
        last_(of(p) * (part + 1) / parts) {
    int lanes = 1;
    while (lanes < threads && lanes < volume_) lanes *= 2;
    lanes_ = lanes;
    lane_ = thread % lanes;
    row_ = thread / lanes;
    rows_ = threads / lanes;
  }
  // use(sample, voxel), `ahead` at a time, and flush() behind each run.
  template <int ahead, class Use, class Flush>
  __device__ void each(const Use& use, const Flush& flush) const {
    for (int64_t run = first_ + row_; run < last_; run += rows_) {
      const int64_t sample = run / per_sample_, begin = run % per_sample_ * kRun;
      const int64_t end = smaller(begin + kRun, volume_);
#pragma unroll ahead
      for (int64_t voxel = begin + lane_; voxel < end; voxel += lanes_) use(sample, voxel);
      flush();
    }
  }

 private:
  int64_t volume_, per_sample_, first_, last_;
  int lanes_, lane_, row_, rows_;
};

// How the sums over the batch are cut.
struct StatisticsPlan {
  explicit StatisticsPlan(const MobileUnit3d& p) {
    const int64_t runs = Runs::of(p), count = p.batch * unit_volume(p), C = p.channels;
    channel_parts = smaller(runs, larger(1, smaller(ceil_div(count, 4096), 4 * kFilled / C)));
    moment_parts = smaller(runs, smaller(ceil_div(count, kRun), smaller(kFilled, 65536 / (C * C))));
    moment_parts = larger(1, moment_parts);
    moment_blocks = moment_parts * ceil_div(C * ceil_div(C, 8), kWarps);
  }
  dim3 channel_grid(const MobileUnit3d& p) const {
    return dim3(unsigned(channel_parts), unsigned(smaller(p.channels, 65535)));
  }
  int64_t channel_sums(const MobileUnit3d& p) const { return channel_parts * p.channels * 2; }
  int64_t moments(const MobileUnit3d& p) const {
    return moment_parts * p.channels * (1 + p.channels);
  }

  int64_t channel_parts;  // blocks per channel
  int64_t moment_parts, moment_blocks;
};

// Statistics and affine maps of the two norms. Statistics are of the type that is computed in.
template <class T>
struct Affine {
  T scale, shift;
};

template <class IO>
__device__ double at(const void* values, int64_t i) {
  return double(load(static_cast<const IO*>(values) + i));
}
template <class IO>
__device__ void put(void* values, int64_t i, double value) {
  store(static_cast<IO*>(values) + i, Accumulator<IO>(value));
}
template <class IO>
__device__ double statistic(const void* given, const void* of_batch, int64_t i) {
  return double(static_cast<const Accumulator<IO>*>(given ? given : of_batch)[i]);
}

template <class IO>
__device__ Affine<Accumulator<IO>> affine(const void* gamma, const void* beta, int64_t i,
                                          double mean, double var, double eps) {
  using T = Accumulator<IO>;
  const double scale = at<IO>(gamma, i) / sqrt(var + eps);
  return {T(scale), T(at<IO>(beta, i) - mean * scale)};
}
template <class IO>
__device__ Affine<Accumulator<IO>> first_norm(const MobileUnit3d& p, int64_t c) {
  return affine<IO>(p.gamma1, p.beta1, c, statistic<IO>(p.given_mean1, p.mean1, c),
                    statistic<IO>(p.given_var1, p.var1, c), p.eps1);
}
template <class IO>
__device__ Affine<Accumulator<IO>> second_norm(const MobileUnit3d& p, int64_t e) {
  return affine<IO>(p.gamma2, p.beta2, e, statistic<IO>(p.given_mean2, p.mean2, e),
                    statistic<IO>(p.given_var2, p.var2, e), p.eps2);
}

// An operator's output may not be its input: statistics that were given are copied.
template <class IO>
__device__ void copy_given(const MobileUnit3d& p) {
  using T = Accumulator<IO>;
  const auto copy = [](const void* from, void* to, int64_t count) {
    if (!from) return;
    for (int64_t i = threadIdx.x; i < count; i += kThreads)
      static_cast<T*>(to)[i] = static_cast<const T*>(from)[i];
  };
  if (blockIdx.x || blockIdx.y || blockIdx.z) return;
  copy(p.given_mean1, p.mean1, p.channels);
  copy(p.given_var1, p.var1, p.channels);
  copy(p.given_mean2, p.mean2, p.expanded);
  copy(p.given_var2, p.var2, p.expanded);
}

// Moments of a are taken about relu(beta1), the mean before the ReLU: no large numbers cancel.
template <class IO>
__device__ double moment_origin(const MobileUnit3d& p, int64_t c) {
  return relu(at<IO>(p.beta1, c));
}
__device__ inline int64_t moment_pair(int64_t C, int64_t c, int64_t k) {
  return c <= k ? C + c * C + k : C + k * C + c;
}

// A warp's share of the sums of a - o and of (a - o) (a - o)^T over a part of the batch: channel c
// with eight others, of which only pairs in order are used. norm(channel) is the first norm's map.
template <class IO, class Norm>
__device__ void sum_moments(const MobileUnit3d& p, const StatisticsPlan& plan, int64_t part,
                            int64_t c, int64_t first, const Norm& norm, double* moments) {
  using T = Accumulator<IO>;
  const int lane = threadIdx.x % kWarp;
  const int64_t C = p.channels, volume = unit_volume(p);
  const Affine<T> own = norm(c);
  const T own_origin = T(moment_origin<IO>(p, c));
  Affine<T> other[8];
  T origin[8], sum[8], own_sum = 0;
  double total[8], own_total = 0;
  for (int k = 0; k < 8; ++k) {
    other[k] = norm(smaller(first + k, C - 1));
    origin[k] = T(moment_origin<IO>(p, smaller(first + k, C - 1)));
    sum[k] = 0;
    total[k] = 0;
  }
  Runs(p, part, plan.moment_parts, lane, kWarp)
      .each<1>(
          [&](int64_t sample, int64_t voxel) {
            const IO* x = static_cast<const IO*>(p.x) + sample * C * volume + voxel;
            const T a = relu(load(x + c * volume) * own.scale + own.shift) - own_origin;
            own_sum += a;
#pragma unroll
            for (int k = 0; k < 8; ++k) {
              if (first + k >= C) continue;
              const T value = load(x + (first + k) * volume) * other[k].scale + other[k].shift;
              sum[k] += a * (relu(value) - origin[k]);
            }
          },
          [&] {
            own_total += own_sum;
            own_sum = 0;
#pragma unroll
            for (int k = 0; k < 8; ++k) {
              total[k] += sum[k];
              sum[k] = 0;
            }
          });
  double* to = moments + part * C * (1 + C);
  own_total = warp_sum(own_total);
  if (lane == 0 && first <= c && c < first + 8) to[c] = own_total;
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    const double pair = warp_sum(total[k]);
    if (lane == 0 && c <= first + k && first + k < C) to[moment_pair(C, c, first + k)] = pair;
  }
}

// Calls use(part, c, first channel of eight) for this warp of moment block `block`, if there is
// anything to do for it.
template <class Use>
__device__ void moment_task(const MobileUnit3d& p, const StatisticsPlan& plan, int64_t block,
                            const Use& use) {
  const int64_t eights = ceil_div(p.channels, 8), part = block % plan.moment_parts;
  const int64_t pair = block / plan.moment_parts * kWarps + threadIdx.x / kWarp;
  const int64_t c = pair / eights, first = pair % eights * 8;
  if (c < p.channels && first + 7 >= c) use(part, c, first);
}

}  // namespace
}  // namespace eegfast
