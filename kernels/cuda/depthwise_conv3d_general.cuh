// SPDX-License-Identifier: BSD-3-Clause
// What the kernels of depthwise_conv3d for either layout share. `lanes` neighbouring threads have a
// channel each: one if the tensors are contiguous, up to 32 if channels are last. So a warp reads
// neighbouring addresses in either layout.
#pragma once

#include "depthwise_conv3d.cuh"

namespace eegfast {
namespace {

constexpr int kThreads = 128;

// Division by a number that the host knows: that of the device is a call, and spills registers.
// With l = ceil(log2 divisor), n / divisor = n ceil(2^(63 + l) / divisor) / 2^(63 + l), n < 2^63.
class Divisor {
 public:
  Divisor() = default;
  explicit Divisor(int64_t divisor) : one_(divisor <= 1) {
    int log2 = 0;
    while (log2 < 62 && int64_t(1) << log2 < divisor) ++log2;
    if (one_) return;
    const Wide power = Wide(1) << (63 + log2);
    factor_ = uint64_t((power + Wide(divisor - 1)) / Wide(divisor));
    shift_ = log2 - 1;
  }
  __device__ int64_t operator()(int64_t n) const {
    return one_ ? n : int64_t(uint64_t(Wide(n) * factor_ >> 64) >> shift_);
  }

 private:
  using Wide = unsigned __int128;
  uint64_t factor_ = 0;
  int shift_ = 0;
  bool one_ = true;
};

struct General {
  DepthwiseConv3d p;
  int lanes, taps;
  unsigned chan_blocks;
  // Positions that threads go over: those of the results, or of the inputs. `part`: of all
  // samples'.
  int64_t parts, part, total;
  int64_t size[3];
  Divisor by_volume, by_plane, by_width, by_stride[3];
};

// A thread's channel, and its share of the positions.
struct Share {
  __device__ explicit Share(const General& g)
      : lane(int(threadIdx.x) % g.lanes),
        slot(int(threadIdx.x) / g.lanes),
        slots(kThreads / g.lanes),
        first_chan(int64_t(blockIdx.x % g.chan_blocks) * g.lanes),
        chan(first_chan + lane),
        part(blockIdx.x / g.chan_blocks),
        live(chan < g.p.chans),
        begin(part * g.part + slot),
        end(!live                           ? 0
            : (part + 1) * g.part < g.total ? (part + 1) * g.part
                                            : g.total) {}
  int lane, slot, slots;
  int64_t first_chan, chan, part;
  bool live;
  int64_t begin, end;
};

__device__ inline int64_t volume(const int64_t (&size)[3]) { return size[0] * size[1] * size[2]; }

// Where a channel of a sample begins, and how far apart its elements are.
struct Plane {
  __device__ Plane(const DepthwiseConv3d& p, int64_t sample, int64_t chan, int64_t size)
      : first(p.channels_last ? sample * size * p.chans + chan : (sample * p.chans + chan) * size),
        step(p.channels_last ? p.chans : 1) {}
  int64_t first, step;
};

struct Position {
  __device__ Position(const General& g, int64_t index) {
    sample = g.by_volume(index);
    offset = index - sample * volume(g.size);
    at[0] = g.by_plane(offset);
    const int64_t in_plane = offset - at[0] * g.size[1] * g.size[2];
    at[1] = g.by_width(in_plane);
    at[2] = in_plane - at[1] * g.size[2];
  }
  int64_t sample, offset, at[3];
};

__device__ inline bool within(int64_t i, int64_t size) { return uint64_t(i) < uint64_t(size); }

// (taps, lanes), times the scale behind.
template <class IO, class T>
__device__ void fold_weights(const General& g, const Share& share, T* folded) {
  for (int i = threadIdx.x; i < g.taps * g.lanes; i += kThreads) {
    const int64_t chan = share.first_chan + i % g.lanes;
    if (chan >= g.p.chans) continue;
    folded[i] = value_or<IO>(g.p.out_scale, chan, 1) *
                load(static_cast<const IO*>(g.p.weight) + chan * g.taps + i / g.lanes);
  }
  __syncthreads();
}

// The gradient of the result before its ReLU.
template <class IO>
__device__ Accumulator<IO> masked_grad(const DepthwiseConv3d& p, int64_t i) {
  const Accumulator<IO> grad = load(static_cast<const IO*>(p.grad) + i);
  return p.out_relu && load(static_cast<const IO*>(p.y) + i) <= 0 ? 0 : grad;
}

template <class T, int kValues>
struct Partial {
  T of[kValues][kThreads];
};

// Calls write(value, total), the total over the threads of the caller's channel, in one of them for
// each value; all threads come here.
template <class T, int kValues, class Write>
__device__ void sum_block(const T (&own)[kValues], const Share& share, Partial<T, kValues>& partial,
                          const Write& write) {
  const int lanes = kThreads / share.slots;
#pragma unroll
  for (int v = 0; v < kValues; ++v) partial.of[v][threadIdx.x] = own[v];
  __syncthreads();
  for (int v = share.slot; v < kValues; v += share.slots) {
    T sum = 0;
    for (int s = 0; s < share.slots; ++s)  // each thread begins elsewhere, in another bank
      sum += partial.of[v][((s + v) & (share.slots - 1)) * lanes + share.lane];
    write(v, sum);
  }
}

template <class T>
__device__ T* channel_sums(const General& g, const Share& share) {
  return static_cast<T*>(g.p.workspace) +
         (share.part * g.p.chans + share.chan) * (g.taps + kChannelSums);
}

inline int64_t volume_of(const int64_t* size) { return size[0] * size[1] * size[2]; }

// Blocks enough for a large GPU; a thread sums at most kLongestSum positions.
constexpr int64_t kBlocks = 2048, kSummingBlocks = 1024;
constexpr int64_t kLongestSum = 256;

// `size`: that of the positions that threads go over. Kernels whose sums lie side by side give the
// same number of positions, `most`, to be cut into as many parts.
inline General general(const DepthwiseConv3d& p, const int64_t (&size)[3], int64_t most,
                       bool sums) {
  General g{};
  g.p = p;
  g.taps = int(volume_of(p.kernel));
  g.lanes = 1;
  while (p.channels_last && g.lanes < 32 && g.lanes < p.chans) g.lanes *= 2;
  g.chan_blocks = unsigned((p.chans + g.lanes - 1) / g.lanes);
  g.by_volume = Divisor(volume_of(size));
  g.by_plane = Divisor(size[1] * size[2]);
  g.by_width = Divisor(size[2]);
  for (int axis = 0; axis < 3; ++axis) g.by_stride[axis] = Divisor(p.stride[axis]);
  for (int axis = 0; axis < 3; ++axis) g.size[axis] = size[axis];
  const int64_t rounds = (p.batch * most * g.lanes + kThreads - 1) / kThreads;
  g.parts = ((sums ? kSummingBlocks : kBlocks) + g.chan_blocks - 1) / g.chan_blocks;
  if (g.parts > rounds) g.parts = rounds;
  if (sums && g.parts < rounds / kLongestSum) g.parts = rounds / kLongestSum;
  g.total = p.batch * volume_of(size);
  g.part = (g.total + g.parts - 1) / g.parts;
  return g;
}

inline dim3 blocks(const General& g, int64_t groups = 1) {
  return dim3(unsigned(g.chan_blocks * g.parts), unsigned(groups));
}

inline int64_t accumulator_bytes(const DepthwiseConv3d& p) {
  return p.dtype == DType::kFloat64 ? 8 : 4;
}

}  // namespace
}  // namespace eegfast
