// SPDX-License-Identifier: BSD-3-Clause
// Backward on whole small planes (mobile_unit3d_planes.cuh); four expanded channels at a time, two
// warps to one, whose lanes are tiles of four columns of a row. p and dq lie in shared memory; q
// takes the place of p, g that of dq, plane by plane, with a barrier before each as both warps read
// all planes. The moments of a, which the finish of the second norm needs, are summed on the way.
#pragma once

#include "mobile_unit3d_backward.cuh"
#include "mobile_unit3d_planes.cuh"

namespace eegfast {
namespace {

constexpr int kBackwardStep = kWarps / 2;

// Floats of a block's partial sums: 32 of each warp, then C (C + 1) or 2 C of 4 of each warp.
constexpr int kFilterSums = kWarps * kWarp;
constexpr int kPlaneSums = kFilterSums + kWarps * 72;

// A lane's tile: where the rows above, at and below lie in a plane, and whether it ends the row.
struct Tile {
  int rows[3];
  bool first, last;
};

// q and the sums of the taps' gradients. All threads come here; `active`: they have a channel.
template <int V, int plane>
__device__ void filter_forward(bool active, float* p, const float* dq,
                               const Four* taps, const Tile& tile, float (&grad_taps)[32]) {
  float sum[3][4] = {}, own[3][4] = {};  // q and dq of the planes before, at and behind
  const auto read_own = [&](int d) {
    const Four value = *reinterpret_cast<const Four*>(dq + d * plane + tile.rows[1]);
#pragma unroll
    for (int x = 0; x < 4; ++x) own[2][x] = value.v[x];
  };
  const auto shift = [](float (&planes)[3][4]) {
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      planes[0][x] = planes[1][x];
      planes[1][x] = planes[2][x];
      planes[2][x] = 0;
    }
  };
  const auto write = [&](int d) {
    const Four out{sum[0][0], sum[0][1], sum[0][2], sum[0][3]};
    if (active) *reinterpret_cast<Four*>(p + d * plane + tile.rows[1]) = out;
  };
  if (active) read_own(0);
#pragma unroll
  for (int d = 0; d < V; ++d) {
    shift(own);
    if (active) {
      if (d + 1 < V) read_own(d + 1);
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        float row[6];
        read_row(p + d * plane + tile.rows[i], tile.first, tile.last, row);
        Four w[kTapRow];
#pragma unroll
        for (int j = 0; j < kTapRow; ++j) w[j] = taps[i * kTapRow + j];
#pragma unroll
        for (int m = 0; m < 3; ++m) {
          if ((m == 0 && d == 0) || (m == 2 && d + 1 == V)) continue;
#pragma unroll
          for (int k = 0; k < 3; ++k) {
            const int tap = (2 - m) * 3 + k;
#pragma unroll
            for (int x = 0; x < 4; ++x) {
              sum[m][x] += w[tap / 4].v[tap % 4] * row[x + k];
              grad_taps[(2 - m) * 9 + i * 3 + k] += own[m][x] * row[x + k];
            }
          }
        }
      }
    }
    __syncthreads();
    if (d > 0) write(d - 1);
    shift(sum);
  }
  write(V - 1);
}

// g = dp where p > 0, which bit 4 d + x of `positive` tells; returns its sum.
template <int V, int plane>
__device__ float filter_backward(bool active, float* dq, const Four* taps,
                                 const Tile& tile, unsigned positive) {
  float sum[3][4] = {}, total = 0;
  const auto write = [&](int d) {
    Four out;
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      out.v[x] = positive >> (4 * d + x) & 1 ? sum[0][x] : 0.0f;
      total += out.v[x];
    }
    if (active) *reinterpret_cast<Four*>(dq + d * plane + tile.rows[1]) = out;
  };
#pragma unroll
  for (int d = 0; d < V; ++d) {
    if (active) {
#pragma unroll
      for (int i = 0; i < 3; ++i) {
        float row[6];
        read_row(dq + d * plane + tile.rows[i], tile.first, tile.last, row);
        Four w[kTapRow];
#pragma unroll
        for (int j = 0; j < kTapRow; ++j) w[j] = taps[(2 - i) * kTapRow + j];
#pragma unroll
        for (int m = 0; m < 3; ++m) {
          if ((m == 0 && d == 0) || (m == 2 && d + 1 == V)) continue;
#pragma unroll
          for (int k = 0; k < 3; ++k) {
            const int tap = m * 3 + 2 - k;
#pragma unroll
            for (int x = 0; x < 4; ++x) sum[m][x] += w[tap / 4].v[tap % 4] * row[x + k];
          }
        }
      }
    }
    __syncthreads();
    if (d > 0) write(d - 1);
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      sum[0][x] = sum[1][x];
      sum[1][x] = sum[2][x];
      sum[2][x] = 0;
    }
  }
  write(V - 1);
  return total;
}

// The unit's share of the moments of a, added to the part's.
template <int C, int V, class Block>
__device__ void add_moments(const Block& block, float* partial, double* moments,
                            bool fresh) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  float a[C][V];
  block.read_activated(a);
#pragma unroll
  for (int c = 0; c < C; ++c) {
    const float origin = relu(load_as<float>(block.p.dtype, block.p.beta1, c));
#pragma unroll
    for (int d = 0; d < V; ++d)
      a[c][d] = block.live ? a[c][d] - origin : 0.0f;
  }
  __syncthreads();  // the sums of the unit before are read
#pragma unroll
  for (int c = 0; c <= C; ++c) {  // the last: the sums themselves
    float sums[C];
#pragma unroll
    for (int k = 0; k < C; ++k) {
      sums[k] = 0;
      if (k < c && c < C) continue;
#pragma unroll
      for (int d = 0; d < V; ++d) sums[k] += c < C ? a[c % C][d] * a[k][d] : a[k][d];
    }
    const float sum = fold_warp(sums);
    if (lane < C) partial[(warp * (C + 1) + c) * C + lane] = sum;
  }
  __syncthreads();
  if (threadIdx.x < C * (C + 1)) {
    const int c = threadIdx.x / C, k = threadIdx.x % C;
    double sum = 0;
    for (int i = 0; i < kWarps; ++i) sum += double(partial[i * C * (C + 1) + threadIdx.x]);
    double* to = moments + (c < C ? C + c * C + k : k);
    *to = fresh ? sum : *to + sum;
  }
}

// Sums over the depths of values[d] a[c][d], over the warp; lane c gets that of channel c.
template <int C, int V>
__device__ float outer_sum(const float (&values)[V], const float (&a)[C][V]) {
  float sums[C];
#pragma unroll
  for (int c = 0; c < C; ++c) {
    sums[c] = 0;
#pragma unroll
    for (int d = 0; d < V; ++d) sums[c] += values[d] * a[c][d];
  }
  return fold_warp(sums);
}

// Grid (parts, splits of the expanded channels).
template <int C, int V, int W>
__global__ void __launch_bounds__(kThreads, C * V > 40 ? 1 : 2)
    unit_backward_planes(const MobileUnit3d p, const PlanePlan plan, const Buffers<float> buffers) {
  using Block = PlaneBlock<C, V, W, false>;
  EEGFAST_DYNAMIC_SHARED(float, shared);
  Block block(p, plan, shared, 2);
  constexpr int width = kS + 2 * C;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  constexpr int plane = Block::kPlane, channel = Block::kChannel;
  float *const p_planes = block.planes, *const dq_planes = p_planes + kBackwardStep * channel;
  float *const filter_sums = block.rest, *const outer_sums = filter_sums + kFilterSums;
  const int column = (warp % 2 * kWarp + lane) * 4;
  const Tile tile{{block.place(column, -1), block.place(column, 0), block.place(column, 1)},
                  column % W == 0,
                  (column + 4) % W == 0};
  const bool filters = p.grad_depthwise != nullptr;
  const int grad_channels = p.concat ? 2 * C : C, skip = p.concat ? C : 0;
  float* slab = buffers.slabs + blockIdx.x * p.expanded * width;

  for (int64_t unit = blockIdx.x; unit < plan.units; unit += plan.parts) {
    const bool fresh = unit == blockIdx.x;
    block.begin(unit);
    if (p.batch2 && blockIdx.y == 0)
      add_moments<C, V>(block, outer_sums, buffers.moments + blockIdx.x * C * (1 + C), fresh);
    float da[C][V] = {};
    for (int e = 0; e < block.e_count; e += kBackwardStep) {
      const int count = block.e_count - e < kBackwardStep ? block.e_count - e : kBackwardStep;
      float* p_own = p_planes + block.column;
      float* dq_own = dq_planes + block.column;
      {
        float a[C][V], values[V];
        block.read_activated(a);
#pragma unroll 1
        for (int k = 0; k < count; ++k) {
          block.mix(block.expand + (e + k) * (C / 4), a, block.shift[e + k], values);
#pragma unroll
          for (int d = 0; d < V; ++d) p_own[k * channel + d * plane] = relu(values[d]);
        }
        block.read_live(p.grad, grad_channels, skip, a);
#pragma unroll 1
        for (int k = 0; k < count; ++k) {
          block.mix(block.project + (e + k) * (C / 4), a, 0.0f, values);
#pragma unroll
          for (int d = 0; d < V; ++d) dq_own[k * channel + d * plane] = values[d];
        }
      }
      __syncthreads();
      {
        const int k = warp / 2;
        const bool active = k < count;
        float *own_p = p_planes + k * channel, *own_dq = dq_planes + k * channel;
        const Four* taps = block.taps + (e + k) * (kTaps / 4);
        unsigned positive = 0;
#pragma unroll
        for (int d = 0; d < V; ++d) {
          if (!active) break;
          const Four value =
              *reinterpret_cast<const Four*>(own_p + d * plane + tile.rows[1]);
#pragma unroll
          for (int x = 0; x < 4; ++x) positive |= unsigned(!(value.v[x] <= 0)) << (4 * d + x);
        }
        float* to = filter_sums + warp * kWarp;
        if (filters) {
          float grad_taps[32] = {};
          filter_forward<V, plane>(active, own_p, own_dq, taps, tile, grad_taps);
          const float sum = fold_warp(grad_taps);
          if (lane < kBeta) to[lane] = sum;
        }
        const float beta =
            warp_sum(filter_backward<V, plane>(active, own_dq, taps, tile, positive));
        if (lane == kBeta) to[lane] = beta;
      }
      __syncthreads();
      {
        float a[C][V], values[V];
        block.read_activated(a);
#pragma unroll 1
        for (int k = 0; k < count; ++k) {
#pragma unroll
          for (int d = 0; d < V; ++d) values[d] = dq_own[k * channel + d * plane];
          block.spread(block.expand + (e + k) * (C / 4), values, da);
          const float sum = outer_sum<C, V>(values, a);
          if (lane < C) outer_sums[(warp * kBackwardStep + k) * 2 * C + lane] = sum;
        }
        if (filters) block.read_live(p.grad, grad_channels, skip, a);
#pragma unroll 1
        for (int k = 0; filters && k < count; ++k) {
#pragma unroll
          for (int d = 0; d < V; ++d) values[d] = p_own[k * channel + d * plane];
          const float sum = outer_sum<C, V>(values, a);
          if (lane < C) outer_sums[(warp * kBackwardStep + k) * 2 * C + C + lane] = sum;
        }
      }
      __syncthreads();
      if (int(threadIdx.x) < count * width) {
        const int k = threadIdx.x / width, j = threadIdx.x % width;
        float sum = 0;
        if (j < kS) {
          if (filters || j == kBeta)
            sum = filter_sums[2 * k * kWarp + j] + filter_sums[(2 * k + 1) * kWarp + j];
        } else if (filters || j < kS + C) {
          for (int i = 0; i < kWarps; ++i)
            sum += outer_sums[(i * kBackwardStep + k) * 2 * C + j - kS];
        }
        add_sum(sum, slab + int64_t(block.e_first + e + k) * width + j, fresh);
      }
    }
    if (!block.live) continue;
    float* to = buffers.da + blockIdx.y * p.batch * C * V * Block::kSize +
                block.index(C, 0);
#pragma unroll
    for (int c = 0; c < C; ++c)
#pragma unroll
      for (int d = 0; d < V; ++d) to[(c * V + d) * Block::kSize] = da[c][d];
  }
}

inline int backward_planes(const MobileUnit3d& p, const PlanePlan& plan,
                           const Buffers<float>& buffers, void* stream) {
  const dim3 grid{unsigned(plan.parts), unsigned(plan.splits)};
  const auto run = [&](auto kernel) {
    return launch(kernel, grid, kThreads, plan.shared_bytes, stream, p, plan, buffers);
  };
  return with_planes(p, [&](auto c, auto v, auto w) {
    return run(unit_backward_planes<c.value, v.value, w.value>);
  });
}

}  // namespace
}  // namespace eegfast
