// SPDX-License-Identifier: BSD-3-Clause
// What both directions of scaling_conv1d share: where taps and samples lie in shared memory.
//
// Samples are read from shared memory four at a time, so taps lie in slots: slot 0 of a level meets
// a sample whose index there is a multiple of 4, and a level takes whole groups of 4 slots. Its
// first `front` slots and those behind its last tap are empty, and never multiplied: a NaN beyond a
// kernel's reach stays where it is.
#pragma once

#include "eegfast/scaling_conv1d.h"
#include "portable.cuh"

namespace eegfast {
namespace {

constexpr int kFilters = 4;  // that share a register tile; what is left over runs one by one
constexpr int kThreads = 128;
constexpr int kChunk = 64;  // groups of slots staged at a time where a kernel is too long
constexpr size_t kSharedBytes = 48 * 1024;
constexpr int64_t kLongest = int64_t(1) << 29;  // taps; slots are counted in 32 bits

template <class T>
struct alignas(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) Four {
  T at[4];
};

template <class T>
__device__ inline Four<T> four(const T* from) {
  return *reinterpret_cast<const Four<T>*>(from);
}

template <class IO, class T>
__device__ inline void store_four(IO* to, const T* values) {
  Four<IO> out;
#pragma unroll
  for (int i = 0; i < 4; ++i) store(&out.at[i], values[i]);
  *reinterpret_cast<Four<IO>*>(to) = out;
}

// One level among the slots. `halo` samples, a multiple of 4, lie staged before the tile.
struct Level {
  __host__ __device__ Level(int64_t first_length, int halo)
      : length(int(first_length)), offset(0), slot(0), halo(halo) {
    place();
  }
  __host__ __device__ void next() {
    slot += 4 * groups;
    offset += length;
    length = length / 2 | 1;
    place();
  }
  // Slot of a tap.
  __device__ int of(int tap, bool mirrored) const {
    return slot + front + (mirrored ? length - 1 - tap : tap);
  }
  // Whether pooling of this level puts a zero in front.
  __device__ bool padded() const { return length / 2 % 2 == 0; }

  int length, offset;  // and how many taps the levels before have
  int slot, groups;    // where its slots begin
  int front, base;     // empty slots; the staged sample that slot 0 of the tile's first meets
  int halo;

 private:
  __host__ __device__ void place() {
    const int start = halo - length / 2;
    front = start & 3;
    base = start - front;
    groups = (front + length + 3) / 4;
  }
};

// Sums over the levels.
struct Sizes {
  __host__ Sizes(const ScalingConv1d& p, int halo) {
    Level level(p.length, halo);
    for (int64_t l = 1; l < p.levels; ++l) level.next();
    slots = level.slot + 4 * level.groups;
    taps = level.offset + level.length;
    reach = 4 * Level(p.length, halo).groups;
    base = Level(p.length, halo).base;
  }
  int slots, taps;
  int reach, base;  // samples that a tile needs beside its own; the first that any level needs
};

// The filters of a block.
struct Group {
  __device__ Group(int64_t filters, int64_t group)
      : first(group < filters / kFilters ? group * kFilters : group + filters / kFilters * 3),
        width(group < filters / kFilters ? kFilters : 1) {}
  int64_t first;
  int width;
};

inline int64_t count_groups(int64_t filters) { return filters / kFilters + filters % kFilters; }

// A tap of the next level; finer(j) is tap j of this one.
template <class Finer>
__device__ inline auto pooled_tap(const Level& level, int tap, bool count_include_pad,
                                  const Finer& finer) -> decltype(finer(0)) {
  using T = decltype(finer(0));
  const int from = 2 * tap - level.padded();
  if (from < 0) return count_include_pad ? finer(0) * T(0.5) : finer(0);
  return (finer(from) + finer(from + 1)) * T(0.5);
}

// A warp fills the slots of one filter, level by level.
template <class IO, class T>
__device__ void fill_slots(const ScalingConv1d& p, const IO* weight, int halo, bool mirrored,
                           T* slots) {
  const int lane = threadIdx.x % 32;
  Level level(p.length, halo);
  for (int j = lane; j < level.length; j += 32) slots[level.of(j, mirrored)] = load(weight + j);
  for (int64_t l = 1; l < p.levels; ++l) {
    const Level finer = level;
    level.next();
    __syncwarp();
    for (int j = lane; j < level.length; j += 32) {
      slots[level.of(j, mirrored)] = pooled_tap(
          finer, j, p.count_include_pad, [&](int tap) { return slots[finer.of(tap, mirrored)]; });
    }
  }
}

// The slots of `width` filters; the block waits before it uses them.
template <class IO, class T>
__device__ void fill_slots(const ScalingConv1d& p, const IO* weight, int width, int halo,
                           bool mirrored, T* slots, int stride) {
  for (int f = threadIdx.x / 32; f < width; f += blockDim.x / 32)
    fill_slots(p, weight + f * p.length, halo, mirrored, slots + f * stride);
}

// The same for some groups of one level of kernels that pool_kernels() has made.
template <class T>
__device__ void fetch_slots(const T* pooled, int taps, int width, const Level& level, int group,
                            int groups, bool mirrored, T* slots, int stride) {
  for (int i = threadIdx.x; i < 4 * groups; i += blockDim.x) {
    const int slot = 4 * group + i - level.front;
    const bool inside = slot >= 0 && slot < level.length;
    const int tap = mirrored ? level.length - 1 - slot : slot;
    for (int f = 0; f < width; ++f)
      slots[f * stride + i] = inside ? pooled[int64_t(f) * taps + level.offset + tap] : T(0);
  }
}

// At least as many blocks, and their numbers.
inline dim3 grid_of(int64_t blocks) {
  constexpr int64_t most = 0x7fffffff;
  return blocks <= most ? dim3(unsigned(blocks)) : dim3(most, unsigned((blocks + most - 1) / most));
}
__device__ inline int64_t this_block() { return int64_t(blockIdx.y) * gridDim.x + blockIdx.x; }

// Kernels too long for shared memory: a block pools one of them in `pooled`,
// (weight_chans, filters, taps of all levels).
template <class IO, class T>
__global__ void pool_kernels(ScalingConv1d p, int taps, T* pooled) {
  const int64_t kernel = this_block();
  if (kernel >= p.weight_chans * p.filters) return;
  const IO* weight = static_cast<const IO*>(p.weight) + kernel * p.length;
  T* to = pooled + kernel * taps;
  Level level(p.length, 0);
  for (int j = threadIdx.x; j < level.length; j += blockDim.x) to[j] = load(weight + j);
  for (int64_t l = 1; l < p.levels; ++l) {
    const Level finer = level;
    level.next();
    __syncthreads();
    for (int j = threadIdx.x; j < level.length; j += blockDim.x)
      to[level.offset + j] = pooled_tap(finer, j, p.count_include_pad,
                                        [&](int tap) { return to[finer.offset + tap]; });
  }
}

}  // namespace
}  // namespace eegfast
