// SPDX-License-Identifier: BSD-3-Clause
// Depthwise 3x3x3, stride 1, padding 1, contiguous, planes 4, 8, 16 or 32 wide (formula:
// eegfast/depthwise_conv3d.h), without shared memory and without barriers.
//
// A thread owns two rows of four elements of a plane and walks along the depth. The threads of a
// warp lie side by side and hold whole planes: 1 of 16 x 16, 4 of 8 x 8, 16 of 4 x 4 (the same
// channel of different samples), or 8 rows of 32. So what surrounds a thread's elements comes from
// other lanes, 16 shuffles for 8 results; only 32 wide do the first and last row of a warp read a
// neighbouring row again, which the first-level cache has. Each element is loaded once, as part of
// 16 bytes (half types: 8), one (backward) or two planes ahead of its use.
//
// Forward: plane d adds to the results of d - 1, d and d + 1: two of them stay in registers. Per 8
// results: 216 FMA (187 with a depth of 5, whose outer planes have fewer taps) of about 260
// instructions, 64 bytes.
//
// Backward, in one pass: g, masked by y, is surrounded like x above. Its plane d adds to the
// gradients of x in d - 1, d and d + 1, and its products with those planes of the activated input
// to the 27 sums for the weights, which stay in registers over all samples of a warp. At the end 30
// sums are spread over the lanes by halving (31 shuffles), and a second kernel adds those of all
// warps in their order (depthwise_conv3d.cu). Per 8 inputs: 432 FMA of about 520 instructions, 128
// bytes with a ReLU behind.
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
  __device__ void fill(const DepthwiseConv3d& p, int64_t chan, float scale) {
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

// Adds the taps of plane kd of the kernel.
__device__ void correlate(const float (&near)[4][6], const Weights& weights, int kd,
                          float (&sum)[2][4]) {
  float weight[9];
  weights.get(kd, weight);
#pragma unroll
  for (int k = 0; k < 9; ++k)
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c) sum[j][c] += weight[k] * near[j + k / 3][c + k % 3];
}

__device__ void fill(float (&values)[2][4], float value) {
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i / 4][i % 4] = value;
}
__device__ void copy(const float (&from)[2][4], float (&to)[2][4]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) to[i / 4][i % 4] = from[i / 4][i % 4];
}

template <class IO, int kQuads>
__global__ void __launch_bounds__(32 * kWarps, sizeof(IO) == 4 ? 4 : 5)
    planes_forward(const __grid_constant__ Planes g) {
  using At = Place<IO, kQuads>;
  const DepthwiseConv3d& p = g.p;
  const unsigned task = blockIdx.x * kWarps + threadIdx.x / 32, chans = unsigned(p.chans);
  const int slice = task / chans, chan = task - slice * chans;
  if (slice >= g.slices) return;
  const At place(g, chan, slice * At::S::kUnits);
  const int last = g.depth - 1;
  const IO* x = static_cast<const IO*>(p.x);
  typename At::Raw even, odd;
  place.read_with_edge(place.at(x, 0), even);
  place.read_with_edge(place.at(x, last > 0), odd);
  x = place.at(x, 2);
  IO* y = place.at(static_cast<IO*>(p.y), 0);
  const ChannelMaps<IO> maps(p, chan);
  EEGFAST_SHARED(BlockWeights, block_weights);
  Weights& weights = block_weights.of_warp[threadIdx.x / 32];
  weights.fill<IO>(p, chan, maps.out_scale);

  float before[2][4], at[2][4];
  fill(at, maps.bias);
  const auto finish = [&] {
#pragma unroll
    for (int i = 0; i < 8; ++i) before[i / 4][i % 4] = maps.finish(before[i / 4][i % 4]);
    place.write(y, before);
    y += place.plane();
  };
  const auto step = [&](int d, typename At::Raw& raw) {
    float own[2][4], edge[4], near[4][6];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      own[0][c] = maps.activate(raw.row[0].get(c));
      own[1][c] = maps.activate(raw.row[1].get(c));
      edge[c] = place.has_edge() ? maps.activate(raw.edge.get(c)) : 0.0f;
    }
    if (d + 2 <= last) {
      place.read_with_edge(x, raw);
      x += place.plane();
    }
    place.surround(own, edge, near);
    if (d > 0) {
      correlate(near, weights, 2, before);
      finish();
    }
    copy(at, before);
    correlate(near, weights, 1, before);
    fill(at, maps.bias);
    if (d < last) correlate(near, weights, 0, at);
  };
  for (int d = 0; d <= last; d += 2) {
    step(d, even);
    if (d < last) step(d + 1, odd);
  }
  finish();
}

// The gradients of x: the taps of plane kd of the kernel turned round in height and width.
__device__ void correlate_back(const float (&near)[4][6], const Weights& weights, int kd,
                               float (&sum)[2][4]) {
  float weight[9];
  weights.get(kd, weight);
#pragma unroll
  for (int k = 0; k < 9; ++k)
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c) sum[j][c] += weight[k] * near[j + 2 - k / 3][c + 2 - k % 3];
}

template <int kd>
__device__ void add_taps(const float (&near)[4][6], const float (&active)[2][4],
                         float (&sums)[32]) {
#pragma unroll
  for (int k = 0; k < 9; ++k)
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        sums[9 * kd + k] += active[j][c] * near[j + 2 - k / 3][c + 2 - k % 3];
}

// Lane i gets sums[i] of all lanes. Lanes that are `half` apart share out what is left of the sums.
template <int half = 16>
__device__ float spread(float (&sums)[32]) {
  const bool upper = threadIdx.x & half;
#pragma unroll
  for (int i = 0; i < half; ++i) {
    const float given = upper ? sums[i] : sums[i + half];
    const float kept = upper ? sums[i + half] : sums[i];
    sums[i] = kept + __shfl_xor_sync(kAll, given, half);
  }
  if constexpr (half > 1) return spread<half / 2>(sums);
  return sums[0];
}

template <class IO, int kQuads>
class Backward {
 public:
  using At = Place<IO, kQuads>;
  using Raw = typename At::Raw;

  __device__ Backward(const Planes& g, int chan, Weights& weights)
      : g_(g),
        p_(g.p),
        chan_(chan),
        maps_(g.p, chan),
        no_grad_in_(p_.in_relu ? 0.0f : NAN),
        no_grad_out_(p_.out_relu ? 0.0f : NAN),
        weights_(weights) {
    weights.fill<IO>(p_, chan, maps_.out_scale);
#pragma unroll
    for (int i = 0; i < 32; ++i) sums_[i] = 0;
  }

  // kUnits units from `first_unit` on.
  __device__ void run(int first_unit) {
    const At place(g_, chan_, first_unit);
    const IO* from_x = static_cast<const IO*>(p_.x);
    const int last = g_.depth - 1;
    Raw grad, y, x;
    const auto read = [&](int d) {
      place.read_with_edge(place.at(static_cast<const IO*>(p_.grad), d), grad);
      if (p_.out_relu) place.read_with_edge(place.at(static_cast<const IO*>(p_.y), d), y);
    };
    place.read(place.at(from_x, 0), x);
    // Of the planes before, at and after that of grad.
    float active_before[2][4], active[2][4], active_after[2][4], before[2][4], at[2][4];
    activate(place, x, active_after);
    fill(active, 0);
    fill(at, 0);
    place.read(place.at(from_x, last > 0), x);
    read(0);
    if (!p_.out_relu) y = grad;
    for (int d = 0; d < g_.depth; ++d) {
      copy(active, active_before);
      copy(active_after, active);
      activate(place, x, active_after);
      float own[2][4], edge[4], near[4][6];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        own[0][c] = masked(grad.row[0], y.row[0], c);
        own[1][c] = masked(grad.row[1], y.row[1], c);
        edge[c] = place.has_edge() ? masked(grad.edge, y.edge, c) : 0.0f;
        if (!place.live()) own[0][c] = own[1][c] = 0;
        sums_[kTaps + kGradSum] += own[0][c] + own[1][c];
      }
      if (d < last) read(d + 1);
      if (d + 1 < last) place.read(place.at(from_x, d + 2), x);
      place.surround(own, edge, near);
      if (d > 0) {
        if (g_.for_taps) add_taps<0>(near, active_before, sums_);
        if (g_.for_x) {
          correlate_back(near, weights_, 0, before);
          finish(place, d - 1, active_before, before);
        }
      }
      if (g_.for_taps) add_taps<1>(near, active, sums_);
      if (g_.for_x) {
        copy(at, before);
        correlate_back(near, weights_, 1, before);
      }
      if (d < last) {
        if (g_.for_taps) add_taps<2>(near, active_after, sums_);
        if (g_.for_x) {
          fill(at, 0);
          correlate_back(near, weights_, 2, at);
        }
      }
    }
    if (g_.for_x) finish(place, last, active, before);
  }

  __device__ void write_sums(int64_t slice) {
    const float sum = spread(sums_);
    const int lane = threadIdx.x % 32;
    if (lane < kValues)
      static_cast<float*>(p_.workspace)[(slice * p_.chans + chan_) * kValues + lane] = sum;
  }

 private:
  __device__ void activate(const At& place, const Raw& raw, float (&active)[2][4]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      active[i / 4][i % 4] = place.live() ? maps_.activate(raw.row[i / 4].get(i % 4)) : 0.0f;
  }
  __device__ float masked(const Quad<IO>& grad, const Quad<IO>& y, int i) const {
    return y.get(i) <= no_grad_out_ ? 0.0f : grad.get(i);
  }

  // The gradients of plane d are complete behind the first ReLU.
  __device__ void finish(const At& place, int d, const float (&active)[2][4], float (&grad)[2][4]) {
#pragma unroll
    for (int i = 0; i < 8; ++i)
      if (active[i / 4][i % 4] <= no_grad_in_) grad[i / 4][i % 4] = 0;
    if (g_.for_scale && place.live()) {  // x is still in cache
      Raw x;
      place.read(place.at(static_cast<const IO*>(p_.x), d), x);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sums_[kTaps + kScaleSum] += grad[i / 4][i % 4] * x.row[i / 4].get(i % 4);
        sums_[kTaps + kShiftSum] += grad[i / 4][i % 4];
      }
    }
    if (!p_.grad_x) return;
#pragma unroll
    for (int i = 0; i < 8; ++i) grad[i / 4][i % 4] *= maps_.in_scale;
    place.write(place.at(static_cast<IO*>(p_.grad_x), d), grad);
  }

  const Planes& g_;
  const DepthwiseConv3d& p_;
  const int chan_;
  const ChannelMaps<IO> maps_;
  const float no_grad_in_, no_grad_out_;  // what is not above has none: zero, or NaN
  const Weights& weights_;
  float sums_[32];
};

template <class IO, int kQuads>
__global__ void __launch_bounds__(32 * kWarps, 3)
    planes_backward(const __grid_constant__ Planes g) {
  const unsigned task = blockIdx.x * kWarps + threadIdx.x / 32, chans = unsigned(g.p.chans);
  const int slice = task / chans, chan = task - slice * chans;
  if (slice >= g.slices) return;
  EEGFAST_SHARED(BlockWeights, weights);
  Backward<IO, kQuads> backward(g, chan, weights.of_warp[threadIdx.x / 32]);
  const int first = slice * g.per_slice;
  const int end = g.units - first < g.per_slice ? g.units : first + g.per_slice;
  for (int unit = first; unit < end; unit += Shape<kQuads>::kUnits) backward.run(unit);
  if (g.p.workspace) backward.write_sums(slice);
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

dim3 blocks(const Planes& g) {
  return dim3(unsigned((int64_t(g.slices) * g.p.chans + kWarps - 1) / kWarps));
}

template <class Run>
int with_float_or_half(DType dtype, const Run& run) {
  if (dtype == DType::kFloat16) return run(__half());
  if (dtype == DType::kBFloat16) return run(__nv_bfloat16());
  return run(float());
}

}  // namespace

bool depthwise_planes_fit(const DepthwiseConv3d& p) {
  if (p.channels_last || p.dtype == DType::kFloat64) return false;
  for (int axis = 0; axis < 3; ++axis)
    if (p.kernel[axis] != 3 || p.stride[axis] != 1 || p.pad[axis] != 1 || p.out[axis] != p.in[axis])
      return false;
  const int64_t width = p.in[2], height = p.in[1];
  const bool whole = (width == 4 || width == 8 || width == 16) && height == width;
  if (!whole && !(width == 32 && height % Shape<8>::kRows == 0)) return false;
  const int64_t most = int64_t(1) << 31;
  if (p.in[0] >= most || height * width >= most || p.batch * p.chans * height >= most) return false;
  const uintptr_t bytes = p.dtype == DType::kFloat32 ? 16 : 8;
  uintptr_t addresses = 0;
  for (const void* pointer :
       {p.x, static_cast<const void*>(p.y), p.grad, static_cast<const void*>(p.grad_x)})
    addresses |= reinterpret_cast<uintptr_t>(pointer);
  return addresses % bytes == 0;
}

int64_t depthwise_planes_slices(const DepthwiseConv3d& p) {
  return with_quads(
      p, [&](auto shape) { return planes_of<quads(decltype(shape)())>(p, true).slices; });
}

int depthwise_planes_forward(const DepthwiseConv3d& p, void* stream) {
  return with_float_or_half(p.dtype, [&](auto element) {
    return with_quads(p, [&](auto shape) {
      constexpr int kQuads = quads(decltype(shape)());
      const Planes g = planes_of<kQuads>(p, false);
      return launch(planes_forward<decltype(element), kQuads>, blocks(g), 32 * kWarps, 0, stream,
                    g);
    });
  });
}

int depthwise_planes_backward(const DepthwiseConv3d& p, void* stream) {
  return with_float_or_half(p.dtype, [&](auto element) {
    return with_quads(p, [&](auto shape) {
      constexpr int kQuads = quads(decltype(shape)());
      const Planes g = planes_of<kQuads>(p, true);
      return launch(planes_backward<decltype(element), kQuads>, blocks(g), 32 * kWarps, 0, stream,
                    g);
    });
  });
}

}  // namespace eegfast
