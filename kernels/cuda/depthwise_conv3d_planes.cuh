// SPDX-License-Identifier: BSD-3-Clause
// Depthwise 3x3x3, stride 1, padding 1, contiguous, planes 4, 8, 16 or 32 wide (formula:
// eegfast/depthwise_conv3d.h): planes in registers, without barriers.
//
// A thread owns two rows of four elements of a plane and walks along the depth. The threads of a
// warp lie side by side and hold whole planes: 1 of 16 x 16, 4 of 8 x 8, 16 of 4 x 4 (the same
// channel of different samples), or 8 rows of 32. So what surrounds a thread's elements comes from
// other lanes, 16 shuffles for 8 results; only 32 wide do the first and last row of a warp read a
// neighbouring row again, which the first-level cache has. Each element is loaded once, as part of
// 16 bytes (half types: 8), one (backward) or two planes ahead of its use. The weights, times the
// scale behind, are in shared memory, from where a thread reads nine at a time.
//
// Limits: depth and plane below 2^31 elements, addresses multiples of 16 (8) bytes, float32 or
// half.
#pragma once

#include <cstring>
#include <type_traits>

#include "depthwise_conv3d.cuh"

namespace eegfast {
namespace {

constexpr int kWarps = 4;
constexpr unsigned kAll = 0xffffffffu;
constexpr int kTaps = 27;
constexpr int kValues = kTaps + kChannelSums;

// Four elements as they lie in memory. Words, not elements: the compiler would convert those of 16
// bits where they are loaded, and so wait for them there.
template <class IO>
class alignas(4 * sizeof(IO)) Quad {
 public:
  __device__ float get(int i) const {
    const int in_word = i % kPerWord;
    if constexpr (std::is_same_v<IO, __nv_bfloat16>) {  // the upper half of a float
      const unsigned word = word_[i / kPerWord];
      const unsigned wide = in_word ? word & 0xffff0000u : word << 16;
      float value;
      memcpy(&value, &wide, sizeof value);
      return value;
    }
    const Bits bits = Bits(word_[i / kPerWord] >> 8 * sizeof(IO) * in_word);
    IO value;
    memcpy(&value, &bits, sizeof value);
    return load(&value);
  }
  // In rising order.
  __device__ void set(int i, float to) {
    const int in_word = i % kPerWord;
    IO value;
    Bits bits;
    store(&value, to);
    memcpy(&bits, &value, sizeof value);
    word_[i / kPerWord] = (in_word ? word_[i / kPerWord] : 0) | unsigned(bits)
                                                                    << 8 * sizeof(IO) * in_word;
  }

 private:
  using Bits = std::conditional_t<sizeof(IO) == 4, uint32_t, uint16_t>;
  static constexpr int kPerWord = 4 / sizeof(IO);
  unsigned word_[sizeof(IO)];
};

// Threads of a plane that is 4 kQuads wide.
template <int kQuads>
struct Shape {
  static constexpr int kPairs = kQuads < 4 ? 2 * kQuads : 32 / kQuads;  // of rows
  static constexpr int kLanes = kQuads * kPairs;
  static constexpr int kUnits = 32 / kLanes;  // that a warp takes at a time
  static constexpr int kRows = 2 * kPairs;
  static constexpr bool kTiled = kQuads == 8;  // a unit is a part of a plane, else all of it
};

struct Planes {
  DepthwiseConv3d p;
  int tiles, units, slices, per_slice;  // units of all samples of a channel
  int depth, plane;
  bool for_x, for_taps, for_scale;  // gradients that the backward is asked for
};

// A lane's place in a unit.
template <class IO, int kQuads>
class Place {
 public:
  using S = Shape<kQuads>;
  static constexpr int kWidth = 4 * kQuads;

  __device__ Place(const Planes& g, int chan, int first_unit)
      : lane_(threadIdx.x % 32), quad_(lane_ % kQuads), pair_(lane_ / kQuads % S::kPairs) {
    int unit = first_unit + lane_ / S::kLanes;
    live_ = unit < g.units;
    if (!live()) unit = g.units - 1;
    const int sample = S::kTiled ? unit / g.tiles : unit, tile = unit - sample * g.tiles;
    first_ = (sample * g.p.chans + chan) * g.depth * g.plane +
             (tile * S::kRows + 2 * pair_) * kWidth + 4 * quad_;
    plane_ = g.plane;
    edge_ = 0;
    if constexpr (S::kTiled) {
      if (pair_ == 0 && tile > 0) edge_ = -kWidth;
      if (pair_ == S::kPairs - 1 && tile + 1 < g.tiles) edge_ = 2 * kWidth;
    }
  }

  // A lane's elements; `edge`: the row above those of the first lanes, or below those of the last.
  // Nothing is set by hand, nor read for some lanes alone: where a loaded value meets a constant,
  // the compiler takes what follows to before that, and so waits for the load.
  struct Raw {
    Quad<IO> row[2], edge;
  };
  // The first of them in plane d.
  template <class Any>
  __device__ Any* at(Any* tensor, int d) const {
    return tensor + first_ + int64_t(d) * plane_;
  }
  __device__ void read(const IO* at, Raw& raw) const {
    raw.row[0] = *reinterpret_cast<const Quad<IO>*>(at);
    raw.row[1] = *reinterpret_cast<const Quad<IO>*>(at + kWidth);
  }
  __device__ void read_with_edge(const IO* at, Raw& raw) const {
    read(at, raw);
    if constexpr (S::kTiled) raw.edge = *reinterpret_cast<const Quad<IO>*>(at + edge_);
  }
  __device__ void write(IO* at, const float (&values)[2][4]) const {
    if (!live()) return;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      Quad<IO> quad;
#pragma unroll
      for (int c = 0; c < 4; ++c) quad.set(c, values[j][c]);
      *reinterpret_cast<Quad<IO>*>(at + j * kWidth) = quad;
    }
  }

  // near[1 + j][1 + c] = own[j][c] and all that surrounds it, zero outside the plane.
  __device__ void surround(const float (&own)[2][4], const float (&edge)[4],
                           float (&near)[4][6]) const {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const float above = __shfl_up_sync(kAll, own[1][c], kQuads);
      const float below = __shfl_down_sync(kAll, own[0][c], kQuads);
      const float beyond = S::kTiled ? edge[c] : 0.0f;
      near[0][1 + c] = pair_ > 0 ? above : beyond;
      near[1][1 + c] = own[0][c];
      near[2][1 + c] = own[1][c];
      near[3][1 + c] = pair_ < S::kPairs - 1 ? below : beyond;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      near[j][0] = near[j][5] = 0;
      if constexpr (kQuads > 1) {
        const float left = __shfl_up_sync(kAll, near[j][4], 1);
        const float right = __shfl_down_sync(kAll, near[j][1], 1);
        near[j][0] = quad_ > 0 ? left : 0.0f;
        near[j][5] = quad_ < kQuads - 1 ? right : 0.0f;
      }
    }
  }
  __device__ bool has_edge() const { return S::kTiled && edge_ != 0; }
  __device__ int plane() const { return plane_; }

  __device__ bool live() const { return S::kUnits == 1 || live_; }

 private:
  bool live_;
  const int lane_, quad_, pair_;
  int64_t first_;
  int plane_, edge_;
};

// The kernel of a warp's channel, times the scale behind, in shared memory: registers are scarce.
class Weights {
 public:
  template <class IO>
  __device__ inline void fill(const DepthwiseConv3d& p, int64_t chan, float scale) {
    const int k = threadIdx.x % 32;
    if (k < kTaps)
      plane_[k / 9][k % 9] = scale * load(static_cast<const IO*>(p.weight) + chan * kTaps + k);
    __syncwarp();
  }
  __device__ void get(int kd, float (&weight)[9]) const {
    const float4* vectors = reinterpret_cast<const float4*>(plane_[kd]);
    const float4 a = vectors[0], b = vectors[1];
    weight[0] = a.x, weight[1] = a.y, weight[2] = a.z, weight[3] = a.w;
    weight[4] = b.x, weight[5] = b.y, weight[6] = b.z, weight[7] = b.w;
    weight[8] = plane_[kd][8];
  }

 private:
  alignas(16) float plane_[3][12];
};
struct BlockWeights {
  Weights of_warp[kWarps];
};

__device__ inline void fill(float (&values)[2][4], float value) {
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i / 4][i % 4] = value;
}
__device__ inline void copy(const float (&from)[2][4], float (&to)[2][4]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i / 4][i % 4] = from[i / 4][i % 4];
}

// Warps of the backward that are worth having, and units that one may sum in float.
constexpr int64_t kTasks = 8192;
constexpr int64_t kLongestSlice = 32;

template <int kQuads>
Planes planes_of(const DepthwiseConv3d& p, bool backward) {
  using S = Shape<kQuads>;
  Planes g{};
  g.p = p;
  g.tiles = int(p.in[1] / S::kRows);
  g.units = int(p.batch * g.tiles);
  g.depth = int(p.in[0]);
  g.plane = int(p.in[1] * p.in[2]);
  g.for_x = needs_grad_active(p);
  g.for_taps = needs_taps(p);
  g.for_scale = p.grad_in_scale || p.grad_in_shift;
  const int64_t groups = (int64_t(g.units) + S::kUnits - 1) / S::kUnits;
  int64_t per = 1;
  if (backward) {
    per = (groups * p.chans + kTasks - 1) / kTasks;
    if (per > kLongestSlice) per = kLongestSlice;
  }
  g.slices = int((groups + per - 1) / per);
  g.per_slice = int(per * S::kUnits);
  return g;
}

// Calls run with the number of quads in a row, as a type.
template <class Run>
auto with_quads(const DepthwiseConv3d& p, const Run& run) {
  switch (p.in[2]) {
    case 4:
      return run(Shape<1>());
    case 8:
      return run(Shape<2>());
    case 16:
      return run(Shape<4>());
    default:
      return run(Shape<8>());
  }
}

template <int kQuads>
constexpr int quads(Shape<kQuads>) {
  return kQuads;
}

inline dim3 blocks(const Planes& g) {
  return dim3(unsigned((int64_t(g.slices) * g.p.chans + kWarps - 1) / kWarps));
}

template <class Run>
int with_float_or_half(DType dtype, const Run& run) {
  if (dtype == DType::kFloat16) return run(__half());
  if (dtype == DType::kBFloat16) return run(__nv_bfloat16());
  return run(float());
}

}  // namespace
}  // namespace eegfast
