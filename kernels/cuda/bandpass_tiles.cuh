// SPDX-License-Identifier: BSD-3-Clause
// How the samples of bandpass_power reach shared memory: tiles of 32 rows and 64 samples, one on
// its way while the other is used.
#pragma once

#include "bandpass_power.cuh"

namespace eegfast {
namespace {

// T is the type of a tile: double for float64, else float.
template <class T>
using Tile = T[kLanes][kTile + 1];

__device__ inline void stage_one(float* to, const float* from) { copy_to_shared(to, from); }
__device__ inline void stage_one(double* to, const double* from) { copy_to_shared(to, from); }
template <class T, class IO>
__device__ void stage_one(T* to, const IO* from) {
  *to = T(load(from));
}
template <class IO, class T>
__device__ void stage_as(const IO* x, const int64_t (&rows)[kLanes], int64_t time, int count,
                         Tile<T>& tile) {
#pragma unroll 4
  for (int r = threadIdx.y; r < kLanes; r += blockDim.y) {
    const IO* from = x + rows[r] + time;
#pragma unroll
    for (int i = 0; i < kTile; i += kLanes) {
      const int t = i + threadIdx.x;
      if (t < count) stage_one(&tile[r][t], from + t);
    }
  }
}
// Samples time .. time + count - 1 of the rows at `rows`, read along them; the whole block.
template <class T>
__device__ void stage(const Launch& p, const int64_t (&rows)[kLanes], int64_t time, int count,
                      Tile<T>& tile) {
  if constexpr (sizeof(T) == sizeof(double)) {
    stage_as<double, T>(static_cast<const double*>(p.x), rows, time, count, tile);
  } else {
    switch (p.dtype) {
      case DType::kFloat16:
        return stage_as<__half, T>(static_cast<const __half*>(p.x), rows, time, count, tile);
      case DType::kBFloat16:
        return stage_as<__nv_bfloat16, T>(static_cast<const __nv_bfloat16*>(p.x), rows, time, count,
                                          tile);
      default:
        return stage_as<float, T>(static_cast<const float*>(p.x), rows, time, count, tile);
    }
  }
}

// Calls use(tile, i, time, count) for tiles first, first + by .. of a span that ends at `end`, up
// to but without `stop`; the next tile is on its way meanwhile. The whole block comes here.
template <class T, class Use>
__device__ void for_tiles(const Launch& p, Tile<T>* tiles, int64_t begin, int64_t end,
                          int64_t first, int64_t stop, int by, const Use& use) {
  using Rows = int64_t[kLanes];
  EEGFAST_SHARED(Rows, rows);
  if (threadIdx.y == 0) {
    const int64_t own = int64_t(blockIdx.x) * kLanes + threadIdx.x;
    const int64_t row = own < p.rows ? own : p.rows - 1;
    rows[threadIdx.x] = row / p.n_chans * p.stride_batch + row % p.n_chans * p.stride_chan;
  }
  const auto count_of = [&](int64_t i) {
    const int64_t left = end - begin - i * kTile;
    return left < kTile ? int(left) : kTile;
  };
  __syncthreads();
  if (first != stop) stage<T>(p, rows, begin + first * kTile, count_of(first), tiles[first & 1]);
  close_copies();
  for (int64_t i = first; i != stop; i += by) {
    const int64_t next = i + by;
    if (next != stop) stage<T>(p, rows, begin + next * kTile, count_of(next), tiles[next & 1]);
    close_copies();
    wait_for_copies<1>();
    __syncthreads();
    use(tiles[i & 1], i, begin + i * kTile, count_of(i));
    __syncthreads();
  }
}

}  // namespace
}  // namespace eegfast
