// SPDX-License-Identifier: BSD-3-Clause
// Backward on tiles of any size (mobile_unit3d_tiles.cuh). Sums over the voxels stay within the
// warp that has the expanded channel; those of a block's tiles add up in its slab of the workspace.
#pragma once

#include "mobile_unit3d_backward.cuh"
#include "mobile_unit3d_tiles.cuh"

namespace eegfast {
namespace {

// q, g and the sums over the tile of the taps' gradients and of g; a warp takes a channel.
template <class IO, class T>
__device__ void filter_gradients(TileBlock<IO>& block, T* slab, bool fresh, bool write) {
  const int lane = threadIdx.x % kWarp;
  const TilePlan& plan = block.plan;
  const int64_t width = sums_width(block.p);
  const bool filters = block.p.grad_depthwise != nullptr;
  for (int e = threadIdx.x / kWarp; e < block.e_count; e += kWarps) {
    T taps[27], sums[32] = {};  // the taps' gradients and dbeta2
    block.read_taps(e, taps);
    for (int i = lane; i < block.inner_count; i += kWarp) {
      const int place = e * plan.padded + block.inner_place[i];
      T dp = 0;
#pragma unroll
      for (int k = 0; k < 27; ++k)
        dp += taps[k] * block.expanded_gradient[place - block.step_to(k)];
      const T g = block.expanded[place] <= 0 ? T(0) : dp;
      sums[kBeta] += g;
      block.hidden_gradient[e * plan.inner + i] = g;
    }
    for (int i = lane; filters && i < block.inner_count; i += kWarp) {
      const int place = e * plan.padded + block.inner_place[i];
      const T dq = block.expanded_gradient[place];
      T q = 0;
#pragma unroll
      for (int k = 0; k < 27; ++k) {
        const T value = block.expanded[place + block.step_to(k)];
        q += taps[k] * value;
        sums[k] += dq * value;
      }
      block.filtered[e * plan.inner + i] = q;
    }
    if (!write) continue;
    const T sum = fold_warp(sums);
    if (lane <= kBeta) add_sum(sum, slab + (block.e_first + e) * width + lane, fresh);
  }
}

// Sums over the tile of left[e] right[c], for the channels from c_first on that are staged.
template <class IO, class T>
__device__ void outer_sums(TileBlock<IO>& block, const T* left, const T* right, int64_t c_first,
                           T* slab, int64_t offset, bool fresh) {
  constexpr int kAtOnce = 8;
  const int lane = threadIdx.x % kWarp, count = block.staged(c_first);
  const TilePlan& plan = block.plan;
  for (int e = threadIdx.x / kWarp; e < block.e_count; e += kWarps) {
    T* to = slab + (block.e_first + e) * sums_width(block.p) + offset + c_first;
    for (int c = 0; c < count; c += kAtOnce) {
      T sum[kAtOnce] = {};
      for (int i = lane; i < block.inner_count; i += kWarp) {
        const T value = left[e * plan.inner + i];
        const T* from = right + c * plan.box + block.inner_box[i];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j)
          if (c + j < count) sum[j] += value * from[j * plan.box];
      }
      const T total = fold_warp(sum);
      if (lane < kAtOnce && c + lane < count) add_sum(total, to + c + lane, fresh);
    }
  }
}

// da' and the sums of every expanded channel; blocks behind plan.parts sum the moments of a.
template <class IO>
__global__ void __launch_bounds__(kThreads, 1)
    unit_backward_tiles(const MobileUnit3d p, const TilePlan plan, const StatisticsPlan statistics,
                        const Buffers<Accumulator<IO>> buffers) {
  using T = Accumulator<IO>;
  EEGFAST_DYNAMIC_SHARED(T, shared);
  if (blockIdx.x >= plan.parts) {
    if (blockIdx.y || blockIdx.z) return;
    moment_task(p, statistics, blockIdx.x - plan.parts,
                [&](int64_t part, int64_t c, int64_t first) {
                  const auto norm = [&](int64_t k) { return first_norm<IO>(p, k); };
                  sum_moments<IO>(p, statistics, part, c, first, norm, buffers.moments);
                });
    return;
  }
  TileBlock<IO> block(p, plan, shared, true);
  T* slab = buffers.slabs + blockIdx.x * p.expanded * sums_width(p);
  const bool filters = p.grad_depthwise != nullptr;
  for (int64_t tile = blockIdx.x; tile < plan.tiles; tile += plan.parts) {
    const bool fresh = tile == blockIdx.x;
    block.begin(tile);
    for (int64_t chunk = int64_t(plan.chunks) * blockIdx.y / plan.splits;
         chunk < int64_t(plan.chunks) * (blockIdx.y + 1) / plan.splits; ++chunk) {
      block.begin_chunk(chunk);
      block.expand();
      block.expand_gradient();
      __syncthreads();
      filter_gradients(block, slab, fresh, block.group_first == 0);
      for (int64_t c = block.group_first; c < block.group_last; c += plan.c_step) {
        block.hold_activated(c);
        if (filters) block.hold_gradient(c);
        block.project(block.hidden_gradient, c,
                      [&](int64_t e, int64_t k) { return block.scaled_expand(e, k); });
        outer_sums(block, block.hidden_gradient, block.a, c, slab, kS, fresh);
        if (filters)
          outer_sums(block, block.filtered, block.gradient, c, slab, kS + p.channels, fresh);
      }
    }
    T* da = buffers.da + blockIdx.y * p.batch * p.channels * unit_volume(p);
    block.each_sum([&](int64_t c, int64_t voxel, T value) {
      da[(block.sample * p.channels + c) * unit_volume(p) + voxel] = value;
    });
  }
}

}  // namespace
}  // namespace eegfast
