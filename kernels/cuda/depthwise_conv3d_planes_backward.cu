// SPDX-License-Identifier: BSD-3-Clause
// Backward of depthwise_conv3d on planes in registers (depthwise_conv3d_planes.cuh).
//
// One pass: g, masked by y, is surrounded like x in the forward. Its plane d adds to the gradients
// of x in d - 1, d and d + 1, and its products with those planes of the activated input to the 27
// sums for the weights, which stay in registers over all samples of a warp. At the end 30 sums are
// spread over the lanes by halving (31 shuffles), and a second kernel adds those of all warps in
// their order (depthwise_conv3d.cu). Where the affine map in front wants its gradient, x is read
// again from cache. Per 8 inputs, with a depth of 5 and a ReLU behind: 128 bytes, 374 FMA of about
// 660 instructions, 80 of them at the beginning and the end of a warp. With 168 registers an SM
// holds 12 warps, 3 KB of each on its way.
//
// (256, 32, 5, 16, 16) on an H200, counted: memory 39 us, instructions 29 us; expected 46 to 50 us
// with the sums. Half types: 20 and 31 us; expected 38 to 42 us.
#include "depthwise_conv3d_planes.cuh"

namespace eegfast {
namespace {

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

}  // namespace

int64_t depthwise_planes_parts(const DepthwiseConv3d& p) {
  return with_quads(
      p, [&](auto shape) { return planes_of<quads(decltype(shape)())>(p, true).slices; });
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
