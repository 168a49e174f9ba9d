// SPDX-License-Identifier: BSD-3-Clause
// Depthwise 3-D convolution (formula: eegfast/depthwise_conv3d.h) for any size, stride, padding and
// layout, in all types.
//
// Forward, a thread gathers the taps of one result after the other; the weights, times the scale
// behind, lie in shared memory. Backward is two gathers: of g for the gradient of x, and of x for
// that of the weights, whose sums stay in registers (27 taps, or 25 with a block for each plane of
// the kernel). Per result and tap some 20 instructions, of which one FMA, and one load that the
// first-level cache serves.
#include "depthwise_conv3d_general.cuh"

namespace eegfast {
namespace {

template <class IO>
__global__ void __launch_bounds__(kThreads, 6) general_forward(const General g) {
  using T = Accumulator<IO>;
  EEGFAST_DYNAMIC_SHARED(T, weights);
  const DepthwiseConv3d& p = g.p;
  const int64_t in_size = volume(p.in), out_size = volume(p.out);
  const Share share(g);
  fold_weights<IO>(g, share, weights);
  if (!share.live) return;
  const ChannelMaps<IO> maps(p, share.chan);
  for (int64_t i = share.begin; i < share.end; i += share.slots) {
    const Position out(g, i);
    const Plane source(p, out.sample, share.chan, in_size);
    const IO* x = static_cast<const IO*>(p.x) + source.first;
    const T* weight = weights + share.lane;
    T sum = maps.bias;
    for (int kd = 0; kd < p.kernel[0]; ++kd) {
      const int64_t d = out.at[0] * p.stride[0] + kd - p.pad[0];
      for (int kh = 0; kh < p.kernel[1]; ++kh, weight += p.kernel[2] * g.lanes) {
        const int64_t h = out.at[1] * p.stride[1] + kh - p.pad[1];
        if (!within(d, p.in[0]) || !within(h, p.in[1])) continue;
        const int64_t row = (d * p.in[1] + h) * p.in[2];
        for (int kw = 0; kw < p.kernel[2]; ++kw) {
          const int64_t w = out.at[2] * p.stride[2] + kw - p.pad[2];
          if (within(w, p.in[2]))
            sum += weight[kw * g.lanes] * maps.activate(load(x + (row + w) * source.step));
        }
      }
    }
    const Plane target(p, out.sample, share.chan, out_size);
    store(static_cast<IO*>(p.y) + target.first + out.offset * target.step, maps.finish(sum));
  }
}

// The results that an input reaches along one axis: the first tap and its result; the next one is
// `stride` taps on and one result back.
struct Reached {
  __device__ Reached(const General& g, int axis, int64_t i)
      : out(g.by_stride[axis](i + g.p.pad[axis])),
        tap(i + g.p.pad[axis] - out * g.p.stride[axis]) {}
  int64_t out, tap;
};

template <class IO>
__global__ void __launch_bounds__(kThreads, 6) general_grad_x(const General g) {
  using T = Accumulator<IO>;
  EEGFAST_DYNAMIC_SHARED(T, weights);
  using Sums = Partial<T, 2>;
  EEGFAST_SHARED(Sums, partial);
  const DepthwiseConv3d& p = g.p;
  const int64_t in_size = volume(p.in), out_size = volume(p.out);
  const Share share(g);
  fold_weights<IO>(g, share, weights);
  const ChannelMaps<IO> maps(p, share.live ? share.chan : 0);
  T sums[2] = {0, 0};
  for (int64_t i = share.begin; i < share.end; i += share.slots) {
    const Position in(g, i);
    const Plane own(p, in.sample, share.chan, in_size), of_grad(p, in.sample, share.chan, out_size);
    T grad = 0;
    Reached d(g, 0, in.at[0]);
    for (; d.tap < p.kernel[0] && d.out >= 0; d.tap += p.stride[0], --d.out) {
      if (d.out >= p.out[0]) continue;
      Reached h(g, 1, in.at[1]);
      for (; h.tap < p.kernel[1] && h.out >= 0; h.tap += p.stride[1], --h.out) {
        if (h.out >= p.out[1]) continue;
        const int64_t row = (d.out * p.out[1] + h.out) * p.out[2];
        const T* weight =
            weights + (d.tap * p.kernel[1] + h.tap) * p.kernel[2] * g.lanes + share.lane;
        Reached w(g, 2, in.at[2]);
        for (; w.tap < p.kernel[2] && w.out >= 0; w.tap += p.stride[2], --w.out)
          if (w.out < p.out[2])
            grad += weight[w.tap * g.lanes] *
                    masked_grad<IO>(p, of_grad.first + (row + w.out) * of_grad.step);
      }
    }
    const int64_t at = own.first + in.offset * own.step;
    const T x = load(static_cast<const IO*>(p.x) + at);
    if (p.in_relu && maps.activate(x) <= 0) grad = 0;
    if (p.grad_x) store(static_cast<IO*>(p.grad_x) + at, maps.in_scale * grad);
    sums[0] += grad * x;
    sums[1] += grad;
  }
  if (!p.grad_in_scale && !p.grad_in_shift) return;
  sum_block(sums, share, partial, [&](int v, T sum) {
    if (share.live) channel_sums<T>(g, share)[g.taps + kScaleSum + v] = sum;
  });
}

// The sums of up to kD x kH x kW taps; blocks along y take kD planes of the kernel each.
template <class IO, int kD, int kH, int kW>
__global__ void __launch_bounds__(kThreads) general_grad_weight(const General g) {
  using T = Accumulator<IO>;
  constexpr int kTaps = kD * kH * kW;
  using Sums = Partial<T, kTaps + 1>;
  EEGFAST_SHARED(Sums, partial);
  const DepthwiseConv3d& p = g.p;
  const int64_t in_size = volume(p.in), out_size = volume(p.out);
  const Share share(g);
  const ChannelMaps<IO> maps(p, share.live ? share.chan : 0);
  const int first_plane = blockIdx.y * kD;
  T sums[kTaps + 1] = {};
  for (int64_t i = share.begin; i < share.end; i += share.slots) {
    const Position out(g, i);
    const Plane source(p, out.sample, share.chan, in_size);
    const Plane of_grad(p, out.sample, share.chan, out_size);
    const IO* x = static_cast<const IO*>(p.x) + source.first;
    const T grad = masked_grad<IO>(p, of_grad.first + out.offset * of_grad.step);
    sums[kTaps] += grad;
#pragma unroll
    for (int kd = 0; kd < kD; ++kd) {
      const int64_t d = out.at[0] * p.stride[0] + first_plane + kd - p.pad[0];
      if (first_plane + kd >= p.kernel[0] || !within(d, p.in[0])) continue;
#pragma unroll
      for (int kh = 0; kh < kH; ++kh) {
        const int64_t h = out.at[1] * p.stride[1] + kh - p.pad[1];
        if (kh >= p.kernel[1] || !within(h, p.in[1])) continue;
        const int64_t row = (d * p.in[1] + h) * p.in[2];
#pragma unroll
        for (int kw = 0; kw < kW; ++kw) {
          const int64_t w = out.at[2] * p.stride[2] + kw - p.pad[2];
          if (kw < p.kernel[2] && within(w, p.in[2]))
            sums[(kd * kH + kh) * kW + kw] +=
                grad * maps.activate(load(x + (row + w) * source.step));
        }
      }
    }
  }
  sum_block(sums, share, partial, [&](int v, T sum) {
    if (!share.live) return;
    T* to = channel_sums<T>(g, share);
    if (v == kTaps) {
      if (blockIdx.y == 0) to[g.taps + kGradSum] = sum;
      return;
    }
    const int kd = first_plane + v / (kH * kW), kh = v / kW % kH, kw = v % kW;
    if (kd < p.kernel[0] && kh < p.kernel[1] && kw < p.kernel[2])
      to[(kd * p.kernel[1] + kh) * p.kernel[2] + kw] = sum;
  });
}

int64_t most(const DepthwiseConv3d& p) {
  const int64_t in = volume_of(p.in), out = volume_of(p.out);
  return in > out ? in : out;
}

template <class IO>
int launch_backward(const DepthwiseConv3d& p, void* stream) {
  if (needs_grad_active(p)) {
    const General g = general(p, p.in, most(p), true);
    const size_t shared = size_t(g.taps * g.lanes * accumulator_bytes(p));
    const int error = launch(general_grad_x<IO>, blocks(g), kThreads, shared, stream, g);
    if (error) return error;
  }
  if (!needs_taps(p)) return cudaSuccess;
  const General g = general(p, p.out, most(p), true);
  if (p.kernel[0] <= 3 && p.kernel[1] <= 3 && p.kernel[2] <= 3)
    return launch(general_grad_weight<IO, 3, 3, 3>, blocks(g), kThreads, 0, stream, g);
  return launch(general_grad_weight<IO, 1, 5, 5>, blocks(g, p.kernel[0]), kThreads, 0, stream, g);
}

}  // namespace

int64_t depthwise_general_parts(const DepthwiseConv3d& p) {
  return general(p, p.in, most(p), true).parts;
}

int depthwise_general_forward(const DepthwiseConv3d& p, void* stream) {
  const General g = general(p, p.out, most(p), false);
  const size_t shared = size_t(g.taps * g.lanes * accumulator_bytes(p));
  return with_dtype(p.dtype, [&](auto element) {
    return launch(general_forward<decltype(element)>, blocks(g), kThreads, shared, stream, g);
  });
}

int depthwise_general_backward(const DepthwiseConv3d& p, void* stream) {
  return with_dtype(p.dtype,
                    [&](auto element) { return launch_backward<decltype(element)>(p, stream); });
}

}  // namespace eegfast
