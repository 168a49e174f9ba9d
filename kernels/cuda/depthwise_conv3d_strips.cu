// SPDX-License-Identifier: BSD-3-Clause
// Depthwise 3x3x3, stride 1, padding 1, of any size, layout and type (formula:
// eegfast/depthwise_conv3d.h).
//
// A thread owns four elements next to each other along the width and walks along the depth, as in
// depthwise_conv3d_planes.cuh; but it loads all 18 elements around by itself, one at a time, from
// the first-level cache. Nothing is asked of addresses, and of sizes only that a row is shorter
// than 2^31 elements. Per 4 results 108 FMA of about 360 instructions, 18 loads and 4 stores, and
// 290 instructions once a strip; backward 216 FMA of about 810, 18 loads (36 with a ReLU behind)
// and 8 more. What costs is addresses and the edges, not memory: (256, 32, 5, 16, 16) with channels
// last should take some 45 us forward and 95 us backward on an H200.
#include "depthwise_conv3d_general.cuh"

namespace eegfast {
namespace {

constexpr int kStrip = 4;
constexpr int kTaps = 27;

// A thread's strip: what of its surroundings lies inside the plane, and how far the next is.
struct Strip {
  __device__ Strip(const General& g, int64_t index, int64_t chan) : at(g, index) {
    const DepthwiseConv3d& p = g.p;
    const Plane source(p, at.sample, chan, volume(p.in));
    const int64_t width = at.at[2] * kStrip;
    step = int(source.step);
    row = int(source.step * p.in[2]);
    plane = source.step * p.in[2] * p.in[1];
    first = source.first + at.at[1] * row + width * step;
    rows = (at.at[1] > 0 ? 1 : 0) | 2 | (at.at[1] + 1 < p.in[1] ? 4 : 0);
    columns = width > 0 ? 1 : 0;
#pragma unroll
    for (int c = 1; c < kStrip + 2; ++c) columns |= width + c - 1 < p.in[2] ? 1 << c : 0;
  }
  // One of the 3 x 6 around; the strip's own have r = 1, c = 1 .. 4.
  __device__ bool has(int r, int c) const { return (rows >> r & 1) && (columns >> c & 1); }
  __device__ int offset(int r, int c) const { return (r - 1) * row + (c - 1) * step; }

  Position at;
  int64_t first, plane;
  int step, row, rows, columns;
};

template <class T>
__device__ void correlate(const T (&near)[3][kStrip + 2], const T* weight, T (&sum)[kStrip]) {
#pragma unroll
  for (int k = 0; k < 9; ++k)
#pragma unroll
    for (int c = 0; c < kStrip; ++c) sum[c] += weight[k] * near[k / 3][c + k % 3];
}

template <class IO>
__global__ void __launch_bounds__(kThreads) strips_forward(const __grid_constant__ General g) {
  using T = Accumulator<IO>;
  EEGFAST_DYNAMIC_SHARED(T, folded);
  const DepthwiseConv3d& p = g.p;
  const Share share(g);
  fold_weights<IO>(g, share, folded);
  if (!share.live) return;
  const ChannelMaps<IO> maps(p, share.chan);
  T weight[kTaps];
#pragma unroll
  for (int k = 0; k < kTaps; ++k) weight[k] = folded[k * g.lanes + share.lane];

  for (int64_t i = share.begin; i < share.end; i += share.slots) {
    const Strip strip(g, i, share.chan);
    const IO* x = static_cast<const IO*>(p.x) + strip.first;
    IO* y = static_cast<IO*>(p.y) + strip.first;
    T before[kStrip], at[kStrip];
#pragma unroll
    for (int c = 0; c < kStrip; ++c) at[c] = before[c] = maps.bias;
    const auto finish = [&] {
#pragma unroll
      for (int c = 0; c < kStrip; ++c)
        if (strip.has(1, 1 + c)) store(y + strip.offset(1, 1 + c), maps.finish(before[c]));
      y += strip.plane;
    };
    for (int64_t d = 0; d < p.in[0]; ++d, x += strip.plane) {
      T near[3][kStrip + 2];
#pragma unroll
      for (int r = 0; r < 3; ++r)
#pragma unroll
        for (int c = 0; c < kStrip + 2; ++c)
          near[r][c] = strip.has(r, c) ? maps.activate(load(x + strip.offset(r, c))) : T(0);
      if (d > 0) {
        correlate(near, weight + 18, before);
        finish();
      }
#pragma unroll
      for (int c = 0; c < kStrip; ++c) {
        before[c] = at[c];
        at[c] = maps.bias;
      }
      correlate(near, weight + 9, before);
      if (d + 1 < p.in[0]) correlate(near, weight, at);
    }
    finish();
  }
}

// What a plane of g gives to the gradient of x and to those of the taps, for one plane of the
// kernel; the gradient of x is the correlation with the kernel turned round.
template <class T>
__device__ void correlate_back(const T (&near)[3][kStrip + 2], const T* folded, int lanes,
                               T (&sum)[kStrip]) {
#pragma unroll
  for (int k = 0; k < 9; ++k)
#pragma unroll
    for (int c = 0; c < kStrip; ++c) sum[c] += folded[k * lanes] * near[2 - k / 3][c + 2 - k % 3];
}
template <int kd, class T>
__device__ void add_taps(const T (&near)[3][kStrip + 2], const T (&active)[kStrip],
                         T (&sums)[kTaps + kChannelSums]) {
#pragma unroll
  for (int k = 0; k < 9; ++k)
#pragma unroll
    for (int c = 0; c < kStrip; ++c) sums[9 * kd + k] += active[c] * near[2 - k / 3][c + 2 - k % 3];
}

template <class IO>
__global__ void __launch_bounds__(kThreads) strips_backward(const __grid_constant__ General g) {
  using T = Accumulator<IO>;
  using Sums = Partial<T, kTaps + kChannelSums>;
  EEGFAST_DYNAMIC_SHARED(T, folded);
  EEGFAST_SHARED(Sums, partial);
  const DepthwiseConv3d& p = g.p;
  const Share share(g);
  fold_weights<IO>(g, share, folded);
  const ChannelMaps<IO> maps(p, share.live ? share.chan : 0);
  const T* weight = folded + share.lane;
  T sums[kTaps + kChannelSums] = {};

  for (int64_t i = share.begin; i < share.end; i += share.slots) {
    const Strip strip(g, i, share.chan);
    const IO* x = static_cast<const IO*>(p.x) + strip.first;
    const IO* grad = static_cast<const IO*>(p.grad) + strip.first;
    const IO* y = static_cast<const IO*>(p.out_relu ? p.y : p.grad) + strip.first;
    // Of the planes before, at and after that of g.
    T active_before[kStrip], active[kStrip], active_after[kStrip], before[kStrip], at[kStrip];
    const auto activate = [&] {
#pragma unroll
      for (int c = 0; c < kStrip; ++c)
        active_after[c] =
            strip.has(1, 1 + c) ? maps.activate(load(x + strip.offset(1, 1 + c))) : T(0);
    };
    // The gradients of x are complete in the plane of `own_x`.
    const auto finish = [&](const IO* own_x, const T(&own_active)[kStrip]) {
      const int64_t first = own_x - static_cast<const IO*>(p.x);
#pragma unroll
      for (int c = 0; c < kStrip; ++c) {
        if (!strip.has(1, 1 + c)) continue;
        const int own = strip.offset(1, 1 + c);
        const T sum = p.in_relu && own_active[c] <= 0 ? T(0) : before[c];
        if (p.grad_in_scale || p.grad_in_shift) {
          sums[kTaps + kScaleSum] += sum * load(own_x + own);
          sums[kTaps + kShiftSum] += sum;
        }
        if (p.grad_x) store(static_cast<IO*>(p.grad_x) + first + own, maps.in_scale * sum);
      }
    };
    activate();
#pragma unroll
    for (int c = 0; c < kStrip; ++c) active[c] = before[c] = at[c] = 0;
    for (int64_t d = 0; d < p.in[0]; ++d, grad += strip.plane, y += strip.plane) {
#pragma unroll
      for (int c = 0; c < kStrip; ++c) {
        active_before[c] = active[c];
        active[c] = active_after[c];
      }
      x += strip.plane;  // of plane d + 1
      if (d + 1 < p.in[0]) activate();
      T near[3][kStrip + 2];
#pragma unroll
      for (int r = 0; r < 3; ++r)
#pragma unroll
        for (int c = 0; c < kStrip + 2; ++c)
          near[r][c] = strip.has(r, c) ? load(grad + strip.offset(r, c)) : T(0);
      if (p.out_relu) {
#pragma unroll
        for (int r = 0; r < 3; ++r)
#pragma unroll
          for (int c = 0; c < kStrip + 2; ++c)
            if (strip.has(r, c) && load(y + strip.offset(r, c)) <= 0) near[r][c] = 0;
      }
#pragma unroll
      for (int c = 0; c < kStrip; ++c) sums[kTaps + kGradSum] += near[1][1 + c];
      if (d > 0) {
        add_taps<0>(near, active_before, sums);
        correlate_back(near, weight, g.lanes, before);
        finish(x - 2 * strip.plane, active_before);
      }
      add_taps<1>(near, active, sums);
#pragma unroll
      for (int c = 0; c < kStrip; ++c) {
        before[c] = at[c];
        at[c] = 0;
      }
      correlate_back(near, weight + 9 * g.lanes, g.lanes, before);
      if (d + 1 < p.in[0]) {
        add_taps<2>(near, active_after, sums);
        correlate_back(near, weight + 18 * g.lanes, g.lanes, at);
      }
    }
    finish(x - strip.plane, active);
  }
  if (!p.workspace) return;
  sum_block(sums, share, partial, [&](int v, T sum) {
    if (share.live) channel_sums<T>(g, share)[v] = sum;
  });
}

General strips(const DepthwiseConv3d& p, bool sums) {
  const int64_t size[3] = {1, p.in[1], (p.in[2] + kStrip - 1) / kStrip};
  return general(p, size, size[1] * size[2], sums);
}

size_t weight_bytes(const General& g) { return size_t(g.taps * g.lanes * accumulator_bytes(g.p)); }

}  // namespace

bool depthwise_strips_fit(const DepthwiseConv3d& p) {
  const int64_t step = p.channels_last ? p.chans : 1;
  return is_same_of_three(p) && step * (p.in[2] + kStrip) < int64_t(1) << 31;
}

int64_t depthwise_strips_parts(const DepthwiseConv3d& p) { return strips(p, true).parts; }

int depthwise_strips_forward(const DepthwiseConv3d& p, void* stream) {
  const General g = strips(p, false);
  return with_dtype(p.dtype, [&](auto element) {
    return launch(strips_forward<decltype(element)>, blocks(g), kThreads, weight_bytes(g), stream,
                  g);
  });
}

int depthwise_strips_backward(const DepthwiseConv3d& p, void* stream) {
  const General g = strips(p, true);
  return with_dtype(p.dtype, [&](auto element) {
    return launch(strips_backward<decltype(element)>, blocks(g), kThreads, weight_bytes(g), stream,
                  g);
  });
}

}  // namespace eegfast
