// SPDX-License-Identifier: BSD-3-Clause
// scaling_conv1d backward: the second launch, which adds up what the blocks of the first
// (scaling_conv1d_backward.cuh) left in the workspace, and the launcher of both.
#include "scaling_conv1d_backward.cuh"

namespace eegfast {
namespace {

constexpr int64_t kMostBlocks = 4096;
constexpr int64_t kMostPartials = int64_t(1) << 24;
constexpr int kBaseTaps = 8, kSlices = 16;

// Taps lo .. hi of a level that some neighbouring taps of the first were pooled into.
struct Reach {
  __device__ Reach(int64_t length, int lo, int hi) : level(length, 0), lo(lo), hi(hi) {}
  __device__ void next() {
    const int front = level.padded();
    lo = (lo + front) / 2;
    hi = (hi + front) / 2;
    level.next();
    if (hi >= level.length) hi = level.length - 1;  // the last tap of an odd pair is dropped
  }
  __device__ int count() const { return hi < lo ? 0 : hi - lo + 1; }
  Level level;
  int lo, hi;
};

// grad_weight and grad_bias from the parts: a block has kBaseTaps taps of one weight, or all biases
// of one filter. A lane adds one column of the parts, each of kSlices warps some of them.
template <class IO>
__global__ void __launch_bounds__(32 * kSlices) sum_parts(const Backward call) {
  using T = Accumulator<IO>;
  struct Sums {
    double slice[kSlices][32];
    double column[2 * kBaseTaps + 2 * 64];
  };
  EEGFAST_SHARED(Sums, sums);
  const ScalingConv1d& p = call.p;
  const int lane = threadIdx.x % 32, slice = threadIdx.x / 32;
  const int64_t chunks = (p.length + kBaseTaps - 1) / kBaseTaps;
  const int64_t of_weight = p.grad_weight ? p.weight_chans * p.filters * chunks : 0;
  const int64_t blocks = of_weight + (p.grad_bias ? p.bias_chans * p.filters : 0);
  const int64_t stride = p.filters * (call.taps + p.levels);
  const int64_t block = this_block();
  if (block >= blocks) return;
  const bool bias = block >= of_weight;
  const int64_t kernel = bias ? block - of_weight : block / chunks;
  const int lo = bias ? 0 : int(block % chunks) * kBaseTaps;
  const int hi = lo + kBaseTaps < p.length ? lo + kBaseTaps - 1 : int(p.length) - 1;
  const bool shared = (bias ? p.bias_chans : p.weight_chans) == 1;
  const int64_t parts = shared ? p.n_chans * call.parts : call.parts;
  const T* from = static_cast<const T*>(call.partials) +
                  (shared ? 0 : kernel / p.filters * call.parts * stride) +
                  kernel % p.filters * (call.taps + p.levels);

  int columns = bias ? int(p.levels) : 0;
  if (!bias) {
    Reach reach(p.length, lo, hi);
    for (int64_t l = 0; l < p.levels; ++l, reach.next()) columns += reach.count();
  }
  for (int first = 0; first < columns; first += 32) {
    int at = call.taps + first + lane;
    if (!bias) {
      int left = first + lane;
      Reach reach(p.length, lo, hi);
      for (int64_t l = 1; l < p.levels && left >= reach.count(); ++l) {
        left -= reach.count();
        reach.next();
      }
      at = reach.level.offset + reach.lo + left;
    }
    double sum = 0;
    if (first + lane < columns) {
#pragma unroll 16
      for (int64_t part = slice; part < parts; part += kSlices) sum += from[part * stride + at];
    }
    sums.slice[slice][lane] = sum;
    __syncthreads();
    if (slice == 0) {
      for (int other = 1; other < kSlices; ++other) sum += sums.slice[other][lane];
      sums.column[first + lane] = sum;
    }
    __syncthreads();
  }
  if (bias) {
    IO* to = static_cast<IO*>(p.grad_bias) + kernel * p.levels;
    for (int l = threadIdx.x; l < p.levels; l += blockDim.x) store(to + l, T(sums.column[l]));
  } else if (int(threadIdx.x) <= hi - lo) {
    // Where its tap went, and how much of it.
    Reach all(p.length, lo, hi), own(p.length, lo + threadIdx.x, lo + threadIdx.x);
    const double* column = sums.column;
    double share = 1, sum = 0;
    for (int64_t l = 0; l < p.levels && own.count(); ++l) {
      sum += share * column[own.lo - all.lo];
      column += all.count();
      if (own.lo || !own.level.padded() || p.count_include_pad) share *= 0.5;
      all.next();
      own.next();
    }
    store(static_cast<IO*>(p.grad_weight) + kernel * p.length + lo + threadIdx.x, T(sum));
  }
}

template <class T>
size_t shared_bytes(const Backward& c) {
  const int own = c.whole ? 0 : kFilters * c.own_row;
  return (size_t(kFilters + 1) * c.row + size_t(kFilters) * c.stride + own) * sizeof(T);
}

// Elements of a staged row: taps beyond the last may look at a few more, and the two halves should
// begin 16 banks apart.
int row_of(int samples) { return (samples + 32 + 63) / 64 * 64 + 32; }

template <class T>
Backward backward_of(const ScalingConv1d& p) {
  Backward c{};
  c.p = p;
  c.halo = int(p.length / 2 + 31) / 32 * 32;
  c.vectors = p.n_times % 4 == 0 && reinterpret_cast<uintptr_t>(p.grad) % 16 == 0;
  const Sizes sizes(p, c.halo);
  c.taps = sizes.taps;
  c.base = sizes.base;
  // The tile that costs least: short rows would leave much of a long one idle.
  int64_t least = 0;
  for (int tile = kPerThread * kThreads; tile >= 256; tile -= 256) {
    const int64_t tiles = (p.n_times + tile - 1) / tile, cost = tiles * (tile + sizes.reach);
    Backward whole = c;
    whole.whole = true;
    whole.tile = tile;
    whole.stride = sizes.slots;
    whole.row = row_of(tile + sizes.reach + sizes.base);
    if (shared_bytes<T>(whole) > kSharedBytes || (c.whole && cost >= least)) continue;
    least = cost;
    c = whole;
  }
  if (!c.whole) {
    c.tile = sizeof(T) == 8 ? 256 : 512;
    c.stride = 4 * kChunk;
    c.row = row_of(c.tile + 4 * kChunk);
    c.own_row = row_of(c.tile);
  }
  c.tiles = (p.n_times + c.tile - 1) / c.tile;
  c.items = p.batch * c.tiles;
  c.parts = c.items;
  if (p.grad_weight || p.grad_bias) {
    const int64_t partials = p.n_chans * p.filters * (c.taps + p.levels);
    int64_t most = (kMostBlocks + p.n_chans - 1) / p.n_chans;
    if (most > kMostPartials / partials) most = kMostPartials / partials;
    if (most < 1) most = 1;
    const int64_t each = (c.items + most - 1) / most;
    c.parts = (c.items + each - 1) / each;
  }
  return c;
}

template <class T>
int64_t count_partials(const Backward& c) {
  const ScalingConv1d& p = c.p;
  const bool needed = p.grad_weight || p.grad_bias;
  return needed ? p.n_chans * c.parts * p.filters * (c.taps + p.levels) : 0;
}

}  // namespace

int64_t scaling_conv1d_backward_workspace(const ScalingConv1d& p) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = Accumulator<decltype(element)>;
    const Backward c = backward_of<T>(p);
    const int64_t pooled = c.whole ? 0 : p.weight_chans * p.filters * c.taps;
    return (count_partials<T>(c) + pooled) * int64_t(sizeof(T));
  });
}

int scaling_conv1d_backward_cuda(const ScalingConv1d& p, void* stream) {
  if (p.length > kLongest) return cudaErrorInvalidValue;
  return with_dtype(p.dtype, [&](auto element) -> int {
    using IO = decltype(element);
    using T = Accumulator<IO>;
    Backward c = backward_of<T>(p);
    c.partials = p.workspace;
    T* pooled = static_cast<T*>(p.workspace) + count_partials<T>(c);
    c.pooled = pooled;
    int error = 0;
    if (!c.whole)
      error = launch(pool_kernels<IO, T>, grid_of(p.weight_chans * p.filters), kThreads, 0, stream,
                     p, c.taps, pooled);
    if (!error)
      error = launch(scaling_backward<IO>, grid_of(p.n_chans * c.parts),
                     unsigned(c.tile / kPerThread), shared_bytes<T>(c), stream, c);
    if (error || (!p.grad_weight && !p.grad_bias)) return error;
    const int64_t chunks = (p.length + kBaseTaps - 1) / kBaseTaps;
    const int64_t blocks = (p.grad_weight ? p.weight_chans * p.filters * chunks : 0) +
                           (p.grad_bias ? p.bias_chans * p.filters : 0);
    return launch(sum_parts<IO>, grid_of(blocks), 32 * kSlices, 0, stream, c);
  });
}

}  // namespace eegfast
