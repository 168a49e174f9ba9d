// SPDX-License-Identifier: BSD-3-Clause
// One kernel at all its scales, forward (formula: eegfast/scaling_conv1d.h).
//
// A block computes all levels of four filters (or of one that is left over) over a tile of one row:
// 256 samples to a warp. It pools the kernels in shared memory, where the samples lie too, with a
// halo. A thread holds 4 filters x 2 runs of 4 samples, 128 samples apart, and slides along the
// taps: 4 taps take 2 vector loads of samples, each lane its own, and 4 of taps, the same for the
// whole warp, for 128 FMA. That is 12 of the 32 cycles that shared memory has in that time. Kernels
// too long for shared memory are pooled by a launch of their own and staged in chunks.
//
// About 2 length taps per filter and sample for all levels together, as many FMA; 4 bytes (2 in
// half precision) and, for a gradient, one bit written per output; 4 (1 + 2 reach / tile) bytes of
// the signal read per four filters. Outputs leave as 16-byte vectors; where rows are not multiples
// of 4 samples, by way of shared memory, one by one but side by side. Mask words are put together
// by a transposition of 4-bit pieces among 8 lanes.
//
// With 65 taps and 6 levels (22 FMA per output) seven of ten instructions are FMA. For (16, 32,
// 8064) and 8 filters that is 0.20 ms on the H200 if every cycle at 1.755 GHz issued one (0.22 with
// a mask), about what writing takes, 0.19 ms. Rows shorter than 256 samples leave lanes idle.
#include "scaling_conv1d.cuh"

namespace eegfast {
namespace {

constexpr int kRuns = 2;
constexpr int kPerThread = 4 * kRuns;

struct Forward {
  ScalingConv1d p;
  int64_t tiles, groups, tasks;  // tiles of a row; a task is a tile and a group of filters
  int tile, halo;
  int taps, stride;  // of a filter: taps of all levels; slots in shared memory
  int staged;        // samples in shared memory
  bool whole;        // all slots lie in shared memory at a time
  bool vectors;      // outputs may leave as vectors
};

// acc += the taps in the slots lo .. hi times the samples.
template <int W, class T>
__device__ __forceinline__ void correlate(T (&acc)[W][kPerThread], const T* x, const T* slots,
                                          int stride, int lo, int hi) {
  Four<T> near[kRuns], far[kRuns];
#pragma unroll
  for (int run = 0; run < kRuns; ++run) near[run] = four(x + 128 * run);
  const auto step = [&](int slot, bool edge) {
    Four<T> tap[W];
#pragma unroll
    for (int f = 0; f < W; ++f) tap[f] = four(slots + f * stride + slot);
#pragma unroll
    for (int run = 0; run < kRuns; ++run) far[run] = four(x + 128 * run + slot + 4);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (edge && (slot + k < lo || slot + k >= hi)) continue;
#pragma unroll
      for (int f = 0; f < W; ++f)
#pragma unroll
        for (int run = 0; run < kRuns; ++run)
#pragma unroll
          for (int n = 0; n < 4; ++n)
            acc[f][4 * run + n] +=
                tap[f].at[k] * (k + n < 4 ? near[run].at[(k + n) % 4] : far[run].at[(k + n) % 4]);
    }
#pragma unroll
    for (int run = 0; run < kRuns; ++run) near[run] = far[run];
  };
  int slot = 0;
  if (lo > 0) {
    step(slot, true);
    slot = 4;
  }
#pragma unroll 2
  for (; slot + 4 <= hi; slot += 4) step(slot, false);
  if (slot < hi) step(slot, true);
}

// The larger one, or NaN.
template <class T>
__device__ inline T at_least(T value, T floor) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == 4) {
    asm("max.NaN.f32 %0, %0, %1;" : "+f"(value) : "f"(floor));
    return value;
  }
#endif
  return value <= floor ? floor : value;
}

// Pieces of 4 bits: lane i of eight gets piece i of each of them.
__device__ inline uint32_t transposed(uint32_t pieces, int lane) {
  constexpr uint32_t low[] = {0x0f0f0f0f, 0x00ff00ff, 0x0000ffff};
#pragma unroll
  for (int b = 0; b < 3; ++b) {
    const uint32_t other = __shfl_xor_sync(0xffffffffu, pieces, 1 << b);
    pieces = lane >> b & 1 ? (pieces & ~low[b]) | (other & ~low[b]) >> (4 << b)
                           : (pieces & low[b]) | (other & low[b]) << (4 << b);
  }
  return pieces;
}

template <class IO>
class ForwardBlock {
 public:
  using T = Accumulator<IO>;

  __device__ ForwardBlock(const Forward& call, T* shared)
      : c_(call),
        p_(call.p),
        slots_(shared),
        x_(slots_ + kFilters * call.stride),
        line_(x_ + call.staged + threadIdx.x / 32 * 128),
        lane_(threadIdx.x % 32),
        slab_(threadIdx.x / 32 * 256) {}

  __device__ void run(int64_t task) {
    const Group group(p_.filters, task % c_.groups);
    begin_ = task / c_.groups % c_.tiles * c_.tile;
    row_ = task / c_.groups / c_.tiles;
    if (group.width == kFilters)
      run_group<kFilters>(group.first);
    else
      run_group<1>(group.first);
  }

 private:
  template <int W>
  __device__ void run_group(int64_t filter) {
    const int64_t chan = row_ % p_.n_chans;
    const int64_t kernel = (p_.weight_chans > 1 ? chan : 0) * p_.filters + filter;
    const IO* bias = static_cast<const IO*>(p_.bias);
    if (bias) bias += ((p_.bias_chans > 1 ? chan : 0) * p_.filters + filter) * p_.levels;
    if (c_.whole) {
      const IO* weight = static_cast<const IO*>(p_.weight) + kernel * p_.length;
      fill_slots(p_, weight, W, c_.halo, false, slots_, c_.stride);
      stage(begin_ - c_.halo, c_.staged);
      __syncthreads();
    }
    Level level(p_.length, c_.halo);
    for (int64_t l = 0; l < p_.levels; ++l, level.next()) {
      T acc[W][kPerThread];
#pragma unroll
      for (int f = 0; f < W; ++f) {
        const T first = bias ? load(bias + f * p_.levels + l) : T(0);
#pragma unroll
        for (int n = 0; n < kPerThread; ++n) acc[f][n] = first;
      }
      const bool live = begin_ + slab_ < p_.n_times;
      const int most = c_.whole ? level.groups : kChunk;
      for (int group = 0; group < level.groups; group += most) {
        const int groups = level.groups - group < most ? level.groups - group : most;
        if (!c_.whole) {
          __syncthreads();
          stage(begin_ - c_.halo + level.base + 4 * int64_t(group), c_.tile + 4 * groups);
          fetch_slots(static_cast<const T*>(p_.workspace) + kernel * c_.taps, c_.taps, W, level,
                      group, groups, false, slots_, c_.stride);
          __syncthreads();
        }
        const int rest = level.front + level.length - 4 * group;
        if (live)
          correlate<W>(acc, x_ + slab_ + 4 * lane_ + (c_.whole ? level.base : 0),
                       slots_ + (c_.whole ? level.slot : 0), c_.stride, group ? 0 : level.front,
                       rest < 4 * groups ? rest : 4 * groups);
      }
      if (live) finish<W>(acc, (row_ * p_.filters + filter) * p_.levels + l);
    }
  }

  __device__ void stage(int64_t begin, int count) {
    const IO* x = static_cast<const IO*>(p_.x) + row_ / p_.n_chans * p_.stride_batch +
                  row_ % p_.n_chans * p_.stride_chan;
#pragma unroll 4
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
      const int64_t t = begin + i;
      x_[i] = t >= 0 && t < p_.n_times ? load(x + t) : T(0);
    }
  }

  // ReLU, mask and output of one level; the rows of the filters are `levels` apart.
  template <int W>
  __device__ void finish(T (&acc)[W][kPerThread], int64_t out_row) {
    const T floor = p_.relu ? T(0) : T(-HUGE_VAL);
    const int64_t t = begin_ + slab_ + 4 * lane_;
#pragma unroll
    for (int f = 0; f < W; ++f)
#pragma unroll
      for (int n = 0; n < kPerThread; ++n) acc[f][n] = at_least(acc[f][n], floor);
    if (p_.positive) write_mask<W>(acc, t, out_row);
    IO* out = static_cast<IO*>(p_.out) + out_row * p_.n_times;
#pragma unroll
    for (int f = 0; f < W; ++f, out += p_.levels * p_.n_times)
#pragma unroll
      for (int run = 0; run < kRuns; ++run) write(out, t - 4 * lane_ + 128 * run, &acc[f][4 * run]);
  }

  // 128 samples of an output row from `first` on, four of each lane.
  __device__ void write(IO* out, int64_t first, const T* values) {
    if (c_.vectors) {
      const int64_t t = first + 4 * lane_;
      if (t < p_.n_times) store_four(out + t, values);
      return;
    }
    __syncwarp();
    store_four(line_ + 4 * lane_, values);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t t = first + 32 * i + lane_;
      if (t < p_.n_times) store(out + t, line_[32 * i + lane_]);
    }
  }

  template <int W>
  __device__ void write_mask(const T (&out)[W][kPerThread], int64_t t, int64_t out_row) {
    uint32_t bits = 0, inside = 0;  // samples behind the signal leave no bits
#pragma unroll
    for (int f = 0; f < W; ++f)
#pragma unroll
      for (int n = 0; n < kPerThread; ++n)
        if (!(out[f][n] <= T(0))) bits |= 1u << (f * kPerThread + n);
#pragma unroll
    for (int n = 0; n < kPerThread; ++n)
      if (t + n / 4 * 128 + n % 4 < p_.n_times) inside |= 0x01010101u << n;
    const uint32_t word = transposed(bits & inside, lane_);
    const int piece = lane_ % 8, f = piece / kRuns, run = piece % kRuns;
    const int64_t words = (p_.n_times + 63) / 64 * 2;
    const int64_t at = (t - 4 * lane_) / 32 + 4 * run + lane_ / 8;
    if (f < W && at < words)
      reinterpret_cast<uint32_t*>(p_.positive)[(out_row + f * p_.levels) * words + at] = word;
  }

  const Forward& c_;
  const ScalingConv1d& p_;
  T* const slots_;
  T* const x_;
  T* const line_;
  const int lane_, slab_;
  int64_t begin_ = 0, row_ = 0;
};

template <class IO>
__global__ void __launch_bounds__(kThreads, sizeof(IO) == 8 ? 1 : 4)
    scaling_forward(const Forward call) {
  using T = Accumulator<IO>;
  EEGFAST_DYNAMIC_SHARED(T, shared);
  const int64_t task = this_block();
  if (task < call.tasks) ForwardBlock<IO>(call, shared).run(task);
}

template <class T>
size_t shared_bytes(const Forward& c) {
  return (size_t(kFilters) * c.stride + c.staged + c.tile / 256 * (c.vectors ? 0 : 128)) *
         sizeof(T);
}

template <class T>
Forward forward_of(const ScalingConv1d& p) {
  Forward c{};
  c.p = p;
  c.halo = int(p.length / 2 + 3) / 4 * 4;
  c.groups = count_groups(p.filters);
  c.vectors = p.n_times % 4 == 0;
  const Sizes sizes(p, c.halo);
  c.taps = sizes.taps;
  // The tile that costs least: short rows would leave much of a long one idle.
  int64_t least = 0;
  for (int tile = 8 * kThreads; tile >= 256; tile -= 256) {
    const int64_t tiles = (p.n_times + tile - 1) / tile, cost = tiles * (tile + sizes.reach);
    Forward whole = c;
    whole.tile = tile;
    whole.stride = sizes.slots;
    whole.staged = tile + sizes.reach + sizes.base;
    if (shared_bytes<T>(whole) > kSharedBytes || (c.whole && cost >= least)) continue;
    least = cost;
    c = whole;
    c.whole = true;
  }
  if (!c.whole) {
    c.tile = 8 * kThreads;
    c.stride = 4 * kChunk;
    c.staged = c.tile + 4 * kChunk;
  }
  c.tiles = (p.n_times + c.tile - 1) / c.tile;
  c.tasks = p.batch * p.n_chans * c.tiles * c.groups;
  return c;
}

}  // namespace

int64_t scaling_conv1d_workspace(const ScalingConv1d& p) {
  return with_dtype(p.dtype, [&](auto element) {
    using T = Accumulator<decltype(element)>;
    const Forward c = forward_of<T>(p);
    return c.whole ? 0 : p.weight_chans * p.filters * c.taps * int64_t(sizeof(T));
  });
}

int scaling_conv1d_cuda(const ScalingConv1d& p, void* stream) {
  if (p.length > kLongest) return cudaErrorInvalidValue;
  return with_dtype(p.dtype, [&](auto element) -> int {
    using IO = decltype(element);
    using T = Accumulator<IO>;
    const Forward c = forward_of<T>(p);
    if (!c.whole) {
      const int error = launch(pool_kernels<IO, T>, grid_of(p.weight_chans * p.filters), kThreads,
                               0, stream, p, c.taps, static_cast<T*>(p.workspace));
      if (error) return error;
    }
    return launch(scaling_forward<IO>, grid_of(c.tasks), unsigned(c.tile / 8), shared_bytes<T>(c),
                  stream, c);
  });
}

}  // namespace eegfast
