// SPDX-License-Identifier: BSD-3-Clause
// Gradients of the Mobile unit (algebra: eegfast/mobile_unit3d.h), in four launches:
//   1. unit_backward_planes or _tiles: p and q are computed again, da' and the sums of every
//   expanded
//      channel, per block; with batch statistics also the moments of a
//   2. unit_finish_second: a block per expanded channel adds those up, in double; all gradients but
//      those of the first norm
//   3. unit_second_norm: what the second norm adds to da, with its row of M found by each block;
//   the
//      ReLU; sums of b and b (x - mean1)
//   4. unit_first_norm: dx, dgamma1, dbeta1
// da' waits in grad_x (float, double, and no split) or in the workspace. Nothing else of the
// batch's size is stored, and nothing of E channels.
//
// FLOP per voxel and expanded channel: 10 C + 162, less the taps that fall outside. Launch 1 reads
// x and grad (from the caches once per step of the expanded channels) and writes da'; 3 and 4 read
// x and da' and write it, then read grad and write dx.
//
// Expected on an H200 (counted, not measured) for (256, 8, 5, 16, 16), E = 64: launch 1 issues some
// 195 instructions per voxel and expanded channel, 54 % of them FMA: 140 us if no cycle is lost,
// 220 us at two thirds; 2 to 4 some 35 us. With the training forward that is 45 % of the floor of
// 152 us for both.
#include <type_traits>

#include "mobile_unit3d_backward_planes.cuh"
#include "mobile_unit3d_backward_tiles.cuh"

namespace eegfast {
namespace {

// The gradients of the second norm and the weights, and what that norm adds to da; a block takes an
// expanded channel.
template <class IO>
__global__ void __launch_bounds__(kThreads)
    unit_finish_second(const MobileUnit3d p, const StatisticsPlan statistics,
                       const Buffers<Accumulator<IO>> buffers) {
  EEGFAST_SHARED(Scratch, scratch);
  using Totals = double[2];
  EEGFAST_SHARED(Totals, total);
  const int64_t e = blockIdx.x, C = p.channels, width = sums_width(p);
  const double count = unit_count(p);
  double* sums = buffers.totals + e * (width + 2 * C);
  double *weighted = sums + width, *plain = weighted + C;
  const auto weight = [&](int64_t c) { return at<IO>(p.expand, e * C + c); };

  sum_columns(
      scratch, width,
      [&](int64_t j, int share, int shares) {
        double sum = 0;
        if (!p.grad_depthwise && (j < kBeta || j >= kS + C)) return sum;
#pragma unroll 8
        for (int64_t part = share; part < buffers.parts; part += shares)
          sum += double(buffers.slabs[(part * p.expanded + e) * width + j]);
        return sum;
      },
      [&](int64_t j, double sum) { sums[j] = sum; });
  if (p.batch2) {
    sum_columns(
        scratch, C,
        [&](int64_t k, int share, int shares) {
          double sum = 0;
          for (int64_t i = share; i < statistics.moment_parts * C; i += shares)
            sum += weight(i % C) * buffers.moments[i / C * C * (1 + C) + moment_pair(C, i % C, k)];
          return sum;
        },
        [&](int64_t k, double sum) { weighted[k] = sum / count; });
    sum_columns(
        scratch, C,
        [&](int64_t k, int share, int shares) {
          double sum = 0;
          for (int64_t part = share; part < statistics.moment_parts; part += shares)
            sum += buffers.moments[part * C * (1 + C) + k];
          return sum;
        },
        [&](int64_t k, double sum) {
          plain[k] = sum / count;
          if (e == 0) buffers.mean[k] = moment_origin<IO>(p, k) + sum / count;
        });
  }
  // W1[e] . S[e] and W1[e] . (m - o).
  sum_columns(
      scratch, 2,
      [&](int64_t column, int share, int shares) {
        double sum = 0;
        if (column == 0 || p.batch2)
          for (int64_t c = share; c < C; c += shares)
            sum += weight(c) * (column == 0 ? sums[kS + c] : plain[c]);
        return sum;
      },
      [&](int64_t column, double sum) { total[column] = sum; });

  const double mean2 = statistic<IO>(nullptr, p.mean2, e);
  const double inverse = 1 / sqrt(statistic<IO>(nullptr, p.var2, e) + p.eps2);
  const double scale = at<IO>(p.gamma2, e) * inverse, dbeta = sums[kBeta];
  const double dgamma = inverse * (total[0] - mean2 * dbeta);
  if (threadIdx.x == 0) {
    put<IO>(p.grad_gamma2, e, dgamma);
    put<IO>(p.grad_beta2, e, dbeta);
    buffers.corrections[2 * e] = -scale * dbeta / count;
    buffers.corrections[2 * e + 1] = -scale * inverse * dgamma / count;
  }
  for (int64_t c = threadIdx.x; c < C; c += kThreads) {
    double grad = sums[kS + c];
    if (p.batch2)
      grad -= dbeta * (moment_origin<IO>(p, c) + plain[c]) +
              inverse * dgamma * (weighted[c] - total[1] * plain[c]);
    put<IO>(p.grad_expand, e * C + c, scale * grad);
    if (p.grad_project) put<IO>(p.grad_project, c * p.expanded + e, sums[kS + C + c]);
  }
  if (p.grad_depthwise && threadIdx.x < 27)
    put<IO>(p.grad_depthwise, e * 27 + threadIdx.x, sums[threadIdx.x]);
}

// da of a part of a channel from da', b = da where a > 0, and its sums; grid (parts, channels).
template <class IO>
__global__ void __launch_bounds__(kThreads, 2)
    unit_second_norm(const MobileUnit3d p, const StatisticsPlan plan,
                     const Buffers<Accumulator<IO>> buffers) {
  using T = Accumulator<IO>;
  constexpr int kRow = 256;
  struct Term {
    Affine<T> norm;
    T factor, mean;
  };
  EEGFAST_SHARED(Scratch, scratch);
  using Terms = Term[kRow];
  EEGFAST_SHARED(Terms, terms);
  EEGFAST_SHARED(double, constant);
  const int64_t C = p.channels, volume = unit_volume(p), count = p.batch * C * volume;
  const Runs runs(p, blockIdx.x, plan.channel_parts, threadIdx.x, kThreads);
  const IO* x = static_cast<const IO*>(p.x);
  for (int64_t c = blockIdx.y; c < C; c += gridDim.y) {
    const auto own = first_norm<IO>(p, c);
    const T mean = T(statistic<IO>(nullptr, p.mean1, c));
    double sum = 0, product = 0;
    // The row c of M, kRow channels at a time.
    const int64_t columns = p.batch2 ? C : 1;
    for (int64_t first = 0; first < columns; first += kRow) {
      const int64_t row = p.batch2 ? smaller(kRow, C - first) : 0;
      const bool last = first + kRow >= columns;
      if (p.batch2)
        sum_columns(
            scratch, row + (first == 0),
            [&](int64_t k, int share, int shares) {
              double total = 0;
              for (int64_t e = share; e < p.expanded; e += shares) {
                const IO* weight = static_cast<const IO*>(p.expand) + e * C;
                total += double(load(weight + c)) *
                         (k < row ? buffers.corrections[2 * e + 1] * load(weight + first + k)
                                  : buffers.corrections[2 * e]);
              }
              return total;
            },
            [&](int64_t k, double total) {
              if (k == row)
                constant = total;
              else
                terms[k] = {first_norm<IO>(p, first + k), T(total), T(buffers.mean[first + k])};
            });
      T run_sum = 0, run_product = 0;
      runs.each<1>(
          [&](int64_t sample, int64_t voxel) {
            const int64_t i = (sample * C + c) * volume + voxel;
            T da = buffers.da[i];
            if (first == 0) {
              for (int split = 1; split < buffers.splits; ++split)
                da += buffers.da[split * count + i];
              if (p.batch2) da += T(constant);
            }
            const IO* values = x + (sample * C + first) * volume + voxel;
            for (int64_t k = 0; k < row; ++k) {
              const Term& term = terms[k];
              const T a = relu(load(values + k * volume) * term.norm.scale + term.norm.shift);
              da += term.factor * (a - term.mean);
            }
            if (last) {
              const T value = load(x + i);
              if (value * own.scale + own.shift <= 0) da = 0;
              run_sum += da;
              run_product += da * (value - mean);
            }
            buffers.da[i] = da;
          },
          [&] {
            sum += run_sum;
            product += run_product;
            run_sum = run_product = 0;
          });
      __syncthreads();
    }
    put_sums(scratch, sum, product, buffers.first_sums + (blockIdx.x * C + c) * 2);
  }
}

// dx and the gradients of the first norm; grid (parts, channels).
template <class IO>
__global__ void __launch_bounds__(kThreads)
    unit_first_norm(const MobileUnit3d p, const StatisticsPlan plan,
                    const Buffers<Accumulator<IO>> buffers) {
  using T = Accumulator<IO>;
  EEGFAST_SHARED(Scratch, scratch);
  using Totals = double[2];
  EEGFAST_SHARED(Totals, total);
  const int64_t C = p.channels, volume = unit_volume(p);
  const Runs runs(p, blockIdx.x, plan.channel_parts, threadIdx.x, kThreads);
  for (int64_t c = blockIdx.y; c < C; c += gridDim.y) {
    sum_columns(
        scratch, 2,
        [&](int64_t column, int share, int shares) {
          double sum = 0;
          for (int64_t part = share; part < plan.channel_parts; part += shares)
            sum += buffers.first_sums[(part * C + c) * 2 + column];
          return sum;
        },
        [&](int64_t column, double sum) { total[column] = sum; });
    const double inverse = 1 / sqrt(statistic<IO>(nullptr, p.var1, c) + p.eps1);
    const double by_b = inverse * at<IO>(p.gamma1, c), dgamma = inverse * total[1];
    if (blockIdx.x == 0 && threadIdx.x == 0) {
      put<IO>(p.grad_beta1, c, total[0]);
      put<IO>(p.grad_gamma1, c, dgamma);
    }
    const T scale = T(by_b), mean = T(statistic<IO>(nullptr, p.mean1, c));
    const T slope = p.batch1 ? T(-by_b * inverse * dgamma / unit_count(p)) : T(0);
    const T constant = p.batch1 ? T(-by_b * total[0] / unit_count(p)) : T(0);
    runs.each<4>(
        [&](int64_t sample, int64_t voxel) {
          const int64_t i = (sample * C + c) * volume + voxel;
          const T centred = load(static_cast<const IO*>(p.x) + i) - mean;
          const IO* grad =
              static_cast<const IO*>(p.grad) + i + (p.concat ? sample * C * volume : 0);
          const T dx = buffers.da[i] * scale + (p.batch1 ? centred * slope + constant : T(0));
          store(static_cast<IO*>(p.grad_x) + i, dx + load(grad));
        },
        [] {});
    __syncthreads();
  }
}

// Where everything lies in the workspace.
struct Workspace {
  explicit Workspace(const MobileUnit3d& p)
      : statistics(p),
        tiles(p, true),
        planes(p, kBackwardStep, 2, kPlaneSums),
        splits(planes.fits ? planes.splits : tiles.splits),
        parts(planes.fits ? planes.parts : tiles.parts),
        in_place(splits == 1 && !half_type(p.dtype)) {
    const int64_t element = p.dtype == DType::kFloat64 ? 8 : 4, E = p.expanded, C = p.channels;
    const auto take = [&](int64_t size) {
      const int64_t first = bytes;
      bytes += ceil_div(size, 16) * 16;
      return first;
    };
    if (planes.fits) statistics.moment_parts = parts;
    if (p.batch2) moments = take(statistics.moments(p) * 8);
    slabs = take(parts * E * sums_width(p) * element);
    if (!in_place) da = take(splits * p.batch * C * unit_volume(p) * element);
    totals = take(E * (sums_width(p) + 2 * C) * 8);
    corrections = take(E * 2 * 8);
    mean = take(C * 8);
    first_sums = take(statistics.channel_sums(p) * 8);
  }

  template <class T>
  Buffers<T> buffers(const MobileUnit3d& p) const {
    unsigned char* workspace = static_cast<unsigned char*>(p.workspace);
    const auto doubles = [&](int64_t at) { return reinterpret_cast<double*>(workspace + at); };
    Buffers<T> b;
    b.moments = doubles(moments);
    b.slabs = reinterpret_cast<T*>(workspace + slabs);
    b.da = in_place ? static_cast<T*>(p.grad_x) : reinterpret_cast<T*>(workspace + da);
    b.totals = doubles(totals);
    b.corrections = doubles(corrections);
    b.mean = doubles(mean);
    b.first_sums = doubles(first_sums);
    b.splits = splits;
    b.parts = parts;
    return b;
  }

  StatisticsPlan statistics;
  TilePlan tiles;
  PlanePlan planes;
  int splits;
  int64_t parts;
  bool in_place;  // da' waits in grad_x
  int64_t moments = 0, slabs, da = 0, totals, corrections, mean, first_sums, bytes = 0;
};

// Sums, moments and da'.
template <class IO, class T>
int expanded_pass(const MobileUnit3d& p, const Workspace& plan, const Buffers<T>& buffers,
                  void* stream) {
  if constexpr (std::is_same<T, float>::value) {
    if (plan.planes.fits) return backward_planes(p, plan.planes, buffers, stream);
  }
  const TilePlan& tiles = plan.tiles;
  const int64_t moment_blocks = p.batch2 ? plan.statistics.moment_blocks : 0;
  const dim3 grid{unsigned(tiles.parts + moment_blocks), unsigned(tiles.splits),
                  unsigned(tiles.groups)};
  return launch(unit_backward_tiles<IO>, grid, kThreads, tiles.shared_bytes, stream, p, tiles,
                plan.statistics, buffers);
}

template <class IO>
int backward(const MobileUnit3d& p, void* stream) {
  const Workspace plan(p);
  const auto buffers = plan.buffers<Accumulator<IO>>(p);
  const dim3 channel_grid = plan.statistics.channel_grid(p);
  int error = expanded_pass<IO>(p, plan, buffers, stream);
  if (!error && p.expanded)
    error = launch(unit_finish_second<IO>, dim3(unsigned(p.expanded)), kThreads, 0, stream, p,
                   plan.statistics, buffers);
  if (!error)
    error = launch(unit_second_norm<IO>, channel_grid, kThreads, 0, stream, p, plan.statistics,
                   buffers);
  if (!error)
    error =
        launch(unit_first_norm<IO>, channel_grid, kThreads, 0, stream, p, plan.statistics, buffers);
  return error;
}

}  // namespace

int64_t mobile_unit3d_backward_workspace(const MobileUnit3d& p) { return Workspace(p).bytes; }

int mobile_unit3d_backward_cuda(const MobileUnit3d& p, void* stream) {
  return with_dtype(p.dtype, [&](auto element) { return backward<decltype(element)>(p, stream); });
}

}  // namespace eegfast
