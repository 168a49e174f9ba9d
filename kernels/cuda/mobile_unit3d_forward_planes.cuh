// SPDX-License-Identifier: BSD-3-Clause
// Forward on whole small planes (mobile_unit3d_planes.cuh); eight expanded channels at a time, one
// to a warp, whose lanes are tiles of two rows by four columns.
#pragma once

#include "mobile_unit3d_planes.cuh"

namespace eegfast {
namespace {

constexpr int kForwardStep = kWarps;

// q in place of p; all lanes of a warp take the same expanded channel.
template <int V, int plane>
__device__ void filter_planes(float* channel, const Four* taps, const int (&rows)[4], bool first,
                              bool last) {
  float sum[3][2][4];  // of the planes before, at and behind the one that is read
#pragma unroll
  for (int m = 0; m < 3; ++m)
#pragma unroll
    for (int i = 0; i < 8; ++i) sum[m][i / 4][i % 4] = 0;
  const auto write = [&](int d) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const Four out{sum[0][j][0], sum[0][j][1], sum[0][j][2], sum[0][j][3]};
      *reinterpret_cast<Four*>(channel + d * plane + rows[j + 1]) = out;
    }
  };
#pragma unroll
  for (int d = 0; d < V; ++d) {
    Four w[2][kTapRow];  // taps of the row of the kernel at hand, and of the one before
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float row[6];
      read_row(channel + d * plane + rows[i], first, last, row);
      if (i < 3) {
#pragma unroll
        for (int t = 0; t < kTapRow; ++t) w[i % 2][t] = taps[i * kTapRow + t];
      }
#pragma unroll
      for (int m = 0; m < 3; ++m) {
        if ((m == 0 && d == 0) || (m == 2 && d + 1 == V)) continue;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          if (i - j < 0 || i - j > 2) continue;
#pragma unroll
          for (int k = 0; k < 3; ++k) {
            const int tap = (2 - m) * 3 + k;
#pragma unroll
            for (int x = 0; x < 4; ++x)
              sum[m][j][x] += w[(i - j) % 2][tap / 4].v[tap % 4] * row[x + k];
          }
        }
      }
    }
    __syncwarp();
    if (d > 0) write(d - 1);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      sum[0][i / 4][i % 4] = sum[1][i / 4][i % 4];
      sum[1][i / 4][i % 4] = sum[2][i / 4][i % 4];
      sum[2][i / 4][i % 4] = 0;
    }
  }
  write(V - 1);
}

// Grid (parts, splits of the expanded channels).
template <int C, int V, int W>
__global__ void __launch_bounds__(kThreads, C* V > 40 ? 1 : 2)
    unit_forward_planes(const MobileUnit3d p, const PlanePlan plan, float* partial) {
  using Block = PlaneBlock<C, V, W, kForwardStep, 0, true>;
  EEGFAST_DYNAMIC_SHARED(float, shared);
  Block block(p, plan, shared);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  constexpr int plane = Block::kPlane, channel = Block::kChannel;
  constexpr int64_t volume = V * Block::kSize;
  // The lane's tile: its first column, and where the four rows lie that it reads.
  constexpr int strips = W / 4;
  const int strip = lane % strips;
  const int corner = lane / strips * 2 * W + strip * 4;
  const int rows[4] = {block.place(corner, -1), block.place(corner, 0), block.place(corner, 1),
                       block.place(corner, 2)};
  copy_given<float>(p);

  for (int unit = blockIdx.x; unit < plan.units; unit += plan.parts) {
    block.begin(unit);
    float r[C][V] = {};
    for (int e = 0; e < block.e_count; e += kForwardStep) {
      const int count = block.e_count - e < kForwardStep ? block.e_count - e : kForwardStep;
      float* own = block.planes + block.column;
      {
        float a[C][V];
        block.read_activated(a);
#pragma unroll 1
        for (int k = 0; k < count; ++k) {
          float values[V];
          block.mix(block.expand + (e + k) * (C / 4), a, block.shift[e + k], values);
#pragma unroll
          for (int d = 0; d < V; ++d) own[k * channel + d * plane] = relu(values[d]);
        }
      }
      __syncthreads();
      // Warps without a channel filter what nobody reads.
      filter_planes<V, plane>(block.planes + warp * channel, block.taps + (e + warp) * (kTaps / 4),
                              rows, strip == 0, strip + 1 == strips);
      __syncthreads();
#pragma unroll 2
      for (int k = 0; k < count; ++k) {
        float values[V];
#pragma unroll
        for (int d = 0; d < V; ++d) values[d] = own[k * channel + d * plane];
        block.spread(block.project + (e + k) * (C / 4), values, r);
      }
    }
    if (!block.live) continue;
    const int64_t count = p.batch * C * volume;
    const int64_t x = block.index(C, 0);
    const int64_t out = block.index(p.concat ? 2 * C : C, 0);
    const int64_t behind = p.concat ? C * volume : 0;
#pragma unroll
    for (int c = 0; c < C; ++c)
#pragma unroll
      for (int d = 0; d < V; ++d) {
        const int64_t step = (c * V + d) * Block::kSize;
        if (plan.splits > 1) {
          partial[blockIdx.y * count + x + step] = r[c][d];
          continue;
        }
        const float value = load_as<float>(p.dtype, p.x, x + step);
        if (p.concat) store_as(p.dtype, p.out, out + step, value);
        store_as(p.dtype, p.out, out + behind + step, p.concat ? r[c][d] : value + r[c][d]);
      }
  }
}

inline int forward_planes(const MobileUnit3d& p, const PlanePlan& plan, float* partial,
                          void* stream) {
  const dim3 grid{unsigned(plan.parts), unsigned(plan.splits)};
  const auto run = [&](auto kernel) {
    return launch(kernel, grid, kThreads, plan.shared_bytes, stream, p, plan, partial);
  };
  return with_planes(p, [&](auto c, auto v, auto w) {
    return run(unit_forward_planes<c.value, v.value, w.value>);
  });
}

}  // namespace
}  // namespace eegfast
