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

// A lane's tile: where it lies in a plane, and whether it is the first or the last of its row.
struct Tile {
  int place;
  bool first, last;
};

// The sums of the taps' gradients: of dq at a voxel times p around it.
template <int V, int W>
__device__ void sum_taps(const float* p, const float* dq, const Tile& tile, float (&sums)[32]) {
  constexpr int plane = plane_floats(W);
  Four own[3] = {};  // dq of the planes before, at and behind the one of p that is read
  own[2] = *reinterpret_cast<const Four*>(dq + tile.place);
#pragma unroll
  for (int d = 0; d < V; ++d) {
    own[0] = own[1];
    own[1] = own[2];
    if (d + 1 < V) own[2] = *reinterpret_cast<const Four*>(dq + (d + 1) * plane + tile.place);
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      float row[6];
      read_row(p + d * plane + tile.place + (i - 1) * W, tile.first, tile.last, row);
#pragma unroll
      for (int m = 0; m < 3; ++m) {
        if ((m == 0 && d == 0) || (m == 2 && d + 1 == V)) continue;
#pragma unroll
        for (int k = 0; k < 3; ++k)
#pragma unroll
          for (int x = 0; x < 4; ++x) sums[(2 - m) * 9 + i * 3 + k] += own[m].v[x] * row[x + k];
      }
    }
    __syncwarp();  // or the compiler reads planes ahead, into registers that there are not
  }
}

// The channel's planes filtered, in place, plane by plane with a barrier before each: two warps
// read them. `forward`: q from p, else dp from dq; finish(d, x, value) is what is written.
template <int V, int W, bool forward, class Finish>
__device__ void filter(float* planes, const Four* taps, const Tile& tile, const Finish& finish) {
  constexpr int plane = plane_floats(W);
  float sum[3][4] = {};  // of the planes before, at and behind the one that is read
  const auto write = [&](int d) {
    Four out;
#pragma unroll
    for (int x = 0; x < 4; ++x) out.v[x] = finish(d, x, sum[0][x]);
    *reinterpret_cast<Four*>(planes + d * plane + tile.place) = out;
  };
#pragma unroll
  for (int d = 0; d < V; ++d) {
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      float row[6];
      read_row(planes + d * plane + tile.place + (i - 1) * W, tile.first, tile.last, row);
      Four w[kTapRow];
#pragma unroll
      for (int j = 0; j < kTapRow; ++j) w[j] = taps[(forward ? i : 2 - i) * kTapRow + j];
#pragma unroll
      for (int m = 0; m < 3; ++m) {
        if ((m == 0 && d == 0) || (m == 2 && d + 1 == V)) continue;
#pragma unroll
        for (int k = 0; k < 3; ++k) {
          const int tap = forward ? (2 - m) * 3 + k : m * 3 + 2 - k;
#pragma unroll
          for (int x = 0; x < 4; ++x) sum[m][x] += w[tap / 4].v[tap % 4] * row[x + k];
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
}

// The unit's share of the moments of a, added to the part's.
template <int C, int V, class Block>
__device__ void add_moments(const Block& block, float* partial, double* moments, bool fresh) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  float a[C][V];
  block.read_activated(a);
#pragma unroll
  for (int c = 0; c < C; ++c) {
    const float origin = relu(load_as<float>(block.p.dtype, block.p.beta1, c));
#pragma unroll
    for (int d = 0; d < V; ++d) a[c][d] = block.live ? a[c][d] - origin : 0.0f;
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
  const int thread = thread_anew();
  if (thread < C * (C + 1)) {
    const int c = thread / C, k = thread % C;
    double sum = 0;
    for (int i = 0; i < kWarps; ++i) sum += double(partial[i * C * (C + 1) + thread]);
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
__global__ void __launch_bounds__(kThreads, C* V > 40 ? 1 : 2)
    unit_backward_planes(const MobileUnit3d p, const PlanePlan plan, const Buffers<float> buffers) {
  using Block = PlaneBlock<C, V, W, 2 * kBackwardStep, kPlaneSums, false>;
  EEGFAST_DYNAMIC_SHARED(float, shared);
  Block block(p, plan, shared);
  constexpr int width = kS + 2 * C;
  constexpr int plane = Block::kPlane, channel = Block::kChannel;
  float *const p_planes = block.planes, *const dq_planes = p_planes + kBackwardStep * channel;
  float *const filter_sums = block.rest, *const outer_sums = filter_sums + kFilterSums;
  const bool filters = p.grad_depthwise != nullptr;
  const int grad_channels = p.concat ? 2 * C : C, skip = p.concat ? C : 0;

  for (int unit = blockIdx.x; unit < plan.units; unit += plan.parts) {
    const bool fresh = unit == int(blockIdx.x);
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
        const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
        const int column = (warp % 2 * kWarp + lane) * 4;
        const Tile tile{block.place(column, 0), column % W == 0, (column + 4) % W == 0};
        const int k = warp / 2;  // without a channel: what nobody reads
        float *own_p = p_planes + k * channel, *own_dq = dq_planes + k * channel;
        const Four* taps = block.taps + (e + k) * (kTaps / 4);
        unsigned positive = 0;
#pragma unroll
        for (int d = 0; d < V; ++d) {
          const Four value = *reinterpret_cast<const Four*>(own_p + d * plane + tile.place);
#pragma unroll
          for (int x = 0; x < 4; ++x) positive |= unsigned(!(value.v[x] <= 0)) << (4 * d + x);
        }
        __syncwarp();
        float* to = filter_sums + warp * kWarp;
        if (filters) {
          float sums[32] = {};
          sum_taps<V, W>(own_p, own_dq, tile, sums);
          const float sum = fold_warp(sums);
          if (lane < kBeta) to[lane] = sum;
          filter<V, W, true>(own_p, taps, tile, [](int, int, float q) { return q; });
        }
        float beta = 0;
        filter<V, W, false>(own_dq, taps, tile, [&](int d, int x, float dp) {
          const float g = positive >> (4 * d + x) & 1 ? dp : 0.0f;
          beta += g;
          return g;
        });
        beta = warp_sum(beta);
        if (lane == kBeta) to[lane] = beta;
      }
      __syncthreads();
      {
        const int thread = thread_anew(), warp = thread / kWarp, lane = thread % kWarp;
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
      const int thread = thread_anew();
      if (thread < count * width) {
        const int k = thread / width, j = thread % width;
        float sum = 0;
        if (j < kS) {
          if (filters || j == kBeta)
            sum = filter_sums[2 * k * kWarp + j] + filter_sums[(2 * k + 1) * kWarp + j];
        } else if (filters || j < kS + C) {
          for (int i = 0; i < kWarps; ++i)
            sum += outer_sums[(i * kBackwardStep + k) * 2 * C + j - kS];
        }
        const int64_t row = blockIdx.x * p.expanded + block.e_first + e + k;
        add_sum(sum, buffers.slabs + row * width + j, fresh);
      }
    }
    if (!block.live) continue;
    float* to = buffers.da + blockIdx.y * p.batch * C * V * Block::kSize + block.index(C, 0);
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
