// SPDX-License-Identifier: BSD-3-Clause
// Forward of depthwise_conv3d on planes in registers (depthwise_conv3d_planes.cuh).
//
// Plane d adds to the results of d - 1, d and d + 1; two of them stay in registers. A warp takes
// one unit. Per 8 results 64 bytes (half types: 32) and, with a depth of 5, whose outer planes have
// fewer taps, 187 FMA of about 320 instructions (340), of which 30 are the warp's beginning. With
// 96 registers (83 to 96) an SM holds 20 warps, 2 KB (1 KB) of each on its way.
//
// (256, 32, 5, 16, 16) on an H200, counted: memory 19.5 us, instructions 14 us, shuffles and
// first-level cache 10 us; expected 24 to 26 us. Half types: 9.8, 15 and 8 us; expected 18 to 20
// us.
#include "depthwise_conv3d_planes.cuh"

namespace eegfast {
namespace {

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

}  // namespace

bool depthwise_planes_fit(const DepthwiseConv3d& p) {
  if (p.channels_last || p.dtype == DType::kFloat64) return false;
  if (!is_same_of_three(p)) return false;
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

}  // namespace eegfast
