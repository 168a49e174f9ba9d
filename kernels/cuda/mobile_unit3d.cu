// SPDX-License-Identifier: BSD-3-Clause
// The Mobile unit of LDM-EEG (formula and algebra: eegfast/mobile_unit3d.h), forward.
//
// Given statistics: one launch, unit_forward_planes or, for any other shape, channels and float64,
// unit_forward_tiles. Statistics of the batch take three more in front: sums of x per channel
// (about its first value, in double), moments of a (C channels; float within a run of voxels, then
// double), and mean2 and var2 from these. Where the samples are too few to fill the card, blocks
// share the expanded channels and a last launch adds up their parts of r. All partial sums are
// added in an order that the sizes alone decide.
//
// Half types are computed on in float; statistics are float then, given or returned.
//
// FLOP per voxel and expanded channel: 4 C + 54, less the taps that fall outside. x is read from
// memory once, and again from the caches once per eight expanded channels.
//
// Expected on an H200 (counted, not measured) for (256, 8, 5, 16, 16), E = 64, float: 55
// instructions per voxel and expanded channel, 73 % of them FMA, and 29 cycles of shared memory to
// 55 of issue: 40 us if no cycle is lost, 53 us at three quarters, which is half of what FMA alone
// allows (26.9 us). The three launches for statistics: 20 us. Two blocks of 256 threads and 65 KB a
// processor.
#include <type_traits>

#include "mobile_unit3d_forward_planes.cuh"
#include "mobile_unit3d_tiles.cuh"

namespace eegfast {
namespace {

// Sums of x and its square about the first value of the channel; grid (parts, channels).
template <class IO>
__global__ void __launch_bounds__(kThreads)
    unit_first_sums(const MobileUnit3d p, const StatisticsPlan plan, double* sums) {
  EEGFAST_SHARED(Scratch, scratch);
  const int64_t C = p.channels, volume = unit_volume(p);
  const Runs runs(p, blockIdx.x, plan.channel_parts, threadIdx.x, kThreads);
  for (int64_t c = blockIdx.y; c < C; c += gridDim.y) {
    const double origin = at<IO>(p.x, c * volume);
    double sum = 0, squares = 0;
    runs.each<4>(
        [&](int64_t sample, int64_t voxel) {
          const double d = at<IO>(p.x, (sample * C + c) * volume + voxel) - origin;
          sum += d;
          squares += d * d;
        },
        [] {});
    put_sums(scratch, sum, squares, sums + (blockIdx.x * C + c) * 2);
  }
}

// The first norm's statistics from those sums, and the moments of a; each warp finds the statistics
// of the channels that it needs.
template <class IO>
__global__ void __launch_bounds__(kThreads)
    unit_moments(const MobileUnit3d p, const StatisticsPlan plan, const double* sums,
                 double* moments) {
  using T = Accumulator<IO>;
  const int64_t C = p.channels;
  const int lane = threadIdx.x % kWarp;
  struct Statistic {
    T mean, var;
  };
  const auto find = [&](int64_t c) {
    double sum = 0, squares = 0;
    for (int64_t part = lane; part < plan.channel_parts; part += kWarp) {
      sum += sums[(part * C + c) * 2];
      squares += sums[(part * C + c) * 2 + 1];
    }
    const double mean = warp_sum(sum) / unit_count(p);
    const double var = warp_sum(squares) / unit_count(p) - mean * mean;
    return Statistic{T(at<IO>(p.x, c * unit_volume(p)) + mean), T(var < 0 ? 0 : var)};
  };
  moment_task(p, plan, blockIdx.x, [&](int64_t part, int64_t c, int64_t first) {
    if (p.batch1 && part == 0 && first <= c) {
      const Statistic own = find(c);
      if (lane == 0) {
        static_cast<T*>(p.mean1)[c] = own.mean;
        static_cast<T*>(p.var1)[c] = own.var;
      }
    }
    if (!p.batch2) return;
    const auto norm = [&](int64_t k) {
      if (!p.batch1) return first_norm<IO>(p, k);
      const Statistic s = find(k);
      return affine<IO>(p.gamma1, p.beta1, k, double(s.mean), double(s.var), p.eps1);
    };
    sum_moments<IO>(p, plan, part, c, first, norm, moments);
  });
}

// mean2 and var2 of h = W1 a from the moments; a block takes an expanded channel.
template <class IO>
__global__ void __launch_bounds__(kThreads)
    unit_second_statistics(const MobileUnit3d p, const StatisticsPlan plan, const double* moments) {
  using T = Accumulator<IO>;
  EEGFAST_SHARED(Scratch, scratch);
  using Totals = double[3];
  EEGFAST_SHARED(Totals, total);
  const int64_t e = blockIdx.x, C = p.channels;
  const auto weight = [&](int64_t c) { return at<IO>(p.expand, e * C + c); };
  sum_columns(
      scratch, 3,
      [&](int64_t column, int share, int shares) {
        double sum = 0;
        if (column == 2) {
          for (int64_t c = share; c < C; c += shares) sum += weight(c) * moment_origin<IO>(p, c);
          return sum;
        }
        for (int64_t i = share; i < plan.moment_parts * C; i += shares) {
          const int64_t c = i % C;
          const double* moment = moments + i / C * C * (1 + C);
          double inner = 0;
          if (column == 0)
            inner = moment[c];
          else
            for (int64_t k = c; k < C; ++k)
              inner += (k > c ? 2 : 1) * weight(k) * moment[moment_pair(C, c, k)];
          sum += weight(c) * inner;
        }
        return sum;
      },
      [&](int64_t column, double sum) { total[column] = sum; });
  if (threadIdx.x > 0) return;
  const double mean = total[0] / unit_count(p);
  const double var = total[1] / unit_count(p) - mean * mean;
  static_cast<T*>(p.mean2)[e] = T(mean + total[2]);
  static_cast<T*>(p.var2)[e] = T(var < 0 ? 0 : var);
}

// One value of r, and its x.
template <class IO>
__device__ void put_result(const MobileUnit3d& p, int64_t sample, int64_t c, int64_t voxel,
                           Accumulator<IO> r) {
  const int64_t C = p.channels, volume = unit_volume(p);
  const IO x = static_cast<const IO*>(p.x)[(sample * C + c) * volume + voxel];
  IO* out = static_cast<IO*>(p.out);
  if (p.concat) {
    out[(sample * 2 * C + c) * volume + voxel] = x;
    store(out + (sample * 2 * C + C + c) * volume + voxel, r);
  } else {
    store(out + (sample * C + c) * volume + voxel, load(&x) + r);
  }
}

// Grid (parts, splits of the expanded channels, groups of channels).
template <class IO>
__global__ void __launch_bounds__(kThreads)
    unit_forward_tiles(const MobileUnit3d p, const TilePlan plan, Accumulator<IO>* partial) {
  using T = Accumulator<IO>;
  EEGFAST_DYNAMIC_SHARED(T, shared);
  TileBlock<IO> block(p, plan, shared, false);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  copy_given<IO>(p);
  for (int64_t tile = blockIdx.x; tile < plan.tiles; tile += gridDim.x) {
    block.begin(tile);
    for (int64_t chunk = int64_t(plan.chunks) * blockIdx.y / plan.splits;
         chunk < int64_t(plan.chunks) * (blockIdx.y + 1) / plan.splits; ++chunk) {
      block.begin_chunk(chunk);
      block.expand();
      __syncthreads();
      for (int e = warp; e < block.e_count; e += kWarps) {
        T taps[27];
        block.read_taps(e, taps);
        const T* from = block.expanded + e * plan.padded;
        for (int i = lane; i < block.inner_count; i += kWarp) {
          T sum = 0;
#pragma unroll
          for (int k = 0; k < 27; ++k)
            sum += taps[k] * from[block.inner_place[i] + block.step_to(k)];
          block.filtered[e * plan.inner + i] = sum;
        }
      }
      for (int64_t c = block.group_first; c < block.group_last; c += plan.c_step)
        block.project(block.filtered, c,
                      [&](int64_t e, int64_t k) { return block.project_weight(e, k); });
    }
    block.each_sum([&](int64_t c, int64_t voxel, T r) {
      if (plan.splits == 1)
        put_result<IO>(p, block.sample, c, voxel, r);
      else
        partial[((blockIdx.y * p.batch + block.sample) * p.channels + c) * unit_volume(p) + voxel] =
            r;
    });
  }
}

// Adds up r of the splits.
template <class IO>
__global__ void __launch_bounds__(kThreads)
    unit_merge(const MobileUnit3d p, const Accumulator<IO>* partial, int splits) {
  const int64_t volume = unit_volume(p), count = p.batch * p.channels * volume;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kThreads) {
    Accumulator<IO> r = 0;
    for (int split = 0; split < splits; ++split) r += partial[split * count + i];
    const int64_t channel = i / volume;
    put_result<IO>(p, channel / p.channels, channel % p.channels, i % volume, r);
  }
}

struct Workspace {
  explicit Workspace(const MobileUnit3d& p)
      : statistics(p), tiles(p, false), planes(p, kForwardStep, 1, 0) {
    splits = planes.fits ? planes.splits : tiles.splits;
    const int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
    if (p.batch1) moments += statistics.channel_sums(p) * 8;
    partial = moments + (p.batch2 ? statistics.moments(p) * 8 : 0);
    partial = ceil_div(partial, 16) * 16;
    bytes = partial;
    if (splits > 1) bytes += splits * p.batch * p.channels * unit_volume(p) * element;
  }
  StatisticsPlan statistics;
  TilePlan tiles;
  PlanePlan planes;
  int splits;
  int64_t moments = 0, partial, bytes;  // where they begin
};

template <class IO, class T>
int expanded_pass(const MobileUnit3d& p, const Workspace& plan, T* partial, void* stream) {
  if constexpr (std::is_same<T, float>::value) {
    if (plan.planes.fits) return forward_planes(p, plan.planes, partial, stream);
  }
  const TilePlan& tiles = plan.tiles;
  const dim3 grid{unsigned(tiles.parts), unsigned(tiles.splits), unsigned(tiles.groups)};
  return launch(unit_forward_tiles<IO>, grid, kThreads, tiles.shared_bytes, stream, p, tiles,
                partial);
}

template <class IO>
int forward(const MobileUnit3d& p, void* stream) {
  using T = Accumulator<IO>;
  const Workspace plan(p);
  unsigned char* workspace = static_cast<unsigned char*>(p.workspace);
  double* sums = reinterpret_cast<double*>(workspace);
  double* moments = reinterpret_cast<double*>(workspace + plan.moments);
  T* partial = reinterpret_cast<T*>(workspace + plan.partial);
  int error = 0;
  if (p.batch1)
    error = launch(unit_first_sums<IO>, plan.statistics.channel_grid(p), kThreads, 0, stream, p,
                   plan.statistics, sums);
  if (!error && (p.batch1 || p.batch2))
    error = launch(unit_moments<IO>, dim3(unsigned(plan.statistics.moment_blocks)), kThreads, 0,
                   stream, p, plan.statistics, sums, moments);
  if (!error && p.batch2 && p.expanded)
    error = launch(unit_second_statistics<IO>, dim3(unsigned(p.expanded)), kThreads, 0, stream, p,
                   plan.statistics, moments);
  if (!error) error = expanded_pass<IO>(p, plan, partial, stream);
  if (!error && plan.splits > 1) {
    const int64_t count = p.batch * p.channels * unit_volume(p);
    error = launch(unit_merge<IO>, dim3(unsigned(smaller(ceil_div(count, kThreads), 2048))),
                   kThreads, 0, stream, p, partial, plan.splits);
  }
  return error;
}

}  // namespace

int64_t mobile_unit3d_workspace(const MobileUnit3d& p) { return Workspace(p).bytes; }

int mobile_unit3d_cuda(const MobileUnit3d& p, void* stream) {
  return with_dtype(p.dtype, [&](auto element) { return forward<decltype(element)>(p, stream); });
}

}  // namespace eegfast
