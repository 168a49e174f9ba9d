// SPDX-License-Identifier: BSD-3-Clause
// Depthwise 3-D convolution (formula: eegfast/depthwise_conv3d.h): the choice of kernel, the sums
// over the batch, and the kernels for any size, stride, padding and layout, in all types.
// depthwise_conv3d_planes.cu has those for contiguous 3x3x3.
//
// `lanes` neighbouring threads have a channel each: one if the tensors are contiguous, up to 32 if
// channels are last. So a warp reads neighbouring addresses in either layout. Forward, a thread
// gathers the taps of one result after the other; the weights, times the scale behind, lie in
// shared memory. Backward is two gathers: of g for the gradient of x, and of x for that of the
// weights, whose sums stay in registers (27 taps, or 25 with a block for each plane of the kernel).
// Per result and tap some 8 instructions, of which one FMA, and one load that the first-level
// cache serves.
//
// Sums: each thread's over its part of the batch in the type of the accumulator, then those of a
// block, then, in double and in a fixed order, those of all parts.
#include "depthwise_conv3d.cuh"

namespace eegfast {
namespace {

constexpr int kThreads = 128;
constexpr int kMostTaps = 125;

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

__device__ int64_t volume(const int64_t (&size)[3]) { return size[0] * size[1] * size[2]; }

// Where a channel of a sample begins, and how far apart its elements are.
struct Plane {
  __device__ Plane(const DepthwiseConv3d& p, int64_t sample, int64_t chan, int64_t size)
      : first(p.channels_last ? sample * size * p.chans + chan : (sample * p.chans + chan) * size),
        step(p.channels_last ? p.chans : 1) {}
  int64_t first, step;
};

struct Position {
  __device__ Position(const General& g, int64_t index, const int64_t (&size)[3]) {
    sample = g.by_volume(index);
    offset = index - sample * volume(size);
    at[0] = g.by_plane(offset);
    const int64_t in_plane = offset - at[0] * size[1] * size[2];
    at[1] = g.by_width(in_plane);
    at[2] = in_plane - at[1] * size[2];
  }
  int64_t sample, offset, at[3];
};

__device__ bool within(int64_t i, int64_t size) { return uint64_t(i) < uint64_t(size); }

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

template <class IO>
__global__ void __launch_bounds__(kThreads) general_forward(const General g) {
  using T = Accumulator<IO>;
  EEGFAST_DYNAMIC_SHARED(T, weights);
  const DepthwiseConv3d& p = g.p;
  const int64_t in_size = volume(p.in), out_size = volume(p.out);
  const Share share(g);
  fold_weights<IO>(g, share, weights);
  if (!share.live) return;
  const ChannelMaps<IO> maps(p, share.chan);
  for (int64_t i = share.begin; i < share.end; i += share.slots) {
    const Position out(g, i, p.out);
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

// The results that an input reaches along one axis: the first tap and its result; the next one is
// `stride` taps on and one result back.
struct Reached {
  __device__ Reached(const General& g, int axis, int64_t i)
      : out(g.by_stride[axis](i + g.p.pad[axis])),
        tap(i + g.p.pad[axis] - out * g.p.stride[axis]) {}
  int64_t out, tap;
};

template <class IO>
__global__ void __launch_bounds__(kThreads) general_grad_x(const General g) {
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
    const Position in(g, i, p.in);
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
    const Position out(g, i, p.out);
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

constexpr int kSumWarps = 16;

// From the parts' sums of a channel to its gradients; a block has one channel.
template <class T>
__global__ void __launch_bounds__(32 * kSumWarps)
    finish_sums(const DepthwiseConv3d p, int64_t parts, int taps, bool has_taps, bool has_in) {
  struct Sums {
    double of_warp[kSumWarps][32], total[kMostTaps + kChannelSums];
  };
  EEGFAST_SHARED(Sums, sums);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, values = taps + kChannelSums;
  const int64_t chan = blockIdx.x;
  for (int first = 0; first < values; first += 32) {
    const int value = first + lane;
    const bool known = value <= taps ? has_taps : value < values && has_in;
    const T* from = static_cast<const T*>(p.workspace) + chan * values + value;
    double sum = 0;
#pragma unroll 4
    for (int64_t part = warp; known && part < parts; part += kSumWarps)
      sum += double(from[part * p.chans * values]);
    sums.of_warp[warp][lane] = sum;
    __syncthreads();
    if (warp == 0 && value < values) {
      sum = 0;
      for (int w = 0; w < kSumWarps; ++w) sum += sums.of_warp[w][lane];
      sums.total[value] = sum;
    }
    __syncthreads();
  }
  const auto given = [&](const void* of, double otherwise) {
    return of ? load_as<double>(p.dtype, of, chan) : otherwise;
  };
  const auto write = [&](void* to, double value) {
    if (to) store_as(p.dtype, to, chan, value);
  };
  const double scale = given(p.out_scale, 1);
  if (p.grad_weight && int(threadIdx.x) < taps)
    store_as(p.dtype, p.grad_weight, chan * taps + threadIdx.x, scale * sums.total[threadIdx.x]);
  if (threadIdx.x) return;
  const double total = sums.total[taps + kGradSum];
  write(p.grad_bias, scale * total);
  write(p.grad_out_shift, total);
  write(p.grad_in_scale, sums.total[taps + kScaleSum]);
  write(p.grad_in_shift, sums.total[taps + kShiftSum]);
  if (!p.grad_out_scale) return;
  double to_scale = given(p.bias, 0) * total;
  for (int k = 0; k < taps; ++k)
    to_scale += load_as<double>(p.dtype, p.weight, chan * taps + k) * sums.total[k];
  write(p.grad_out_scale, to_scale);
}

int64_t volume_of(const int64_t* size) { return size[0] * size[1] * size[2]; }

// Blocks enough for a large GPU; a thread sums at most kLongestSum positions.
constexpr int64_t kBlocks = 2048;
constexpr int64_t kLongestSum = 2048;

// `size`: that of the positions that threads go over.
General general(const DepthwiseConv3d& p, const int64_t (&size)[3], bool sums) {
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
  // As many parts for both gradients: their sums lie side by side.
  const int64_t in = volume_of(p.in), out = volume_of(p.out);
  const int64_t rounds = (p.batch * (in > out ? in : out) * g.lanes + kThreads - 1) / kThreads;
  g.parts = (kBlocks + g.chan_blocks - 1) / g.chan_blocks;
  if (g.parts > rounds) g.parts = rounds;
  if (sums && g.parts < rounds / kLongestSum) g.parts = rounds / kLongestSum;
  g.total = p.batch * volume_of(size);
  g.part = (g.total + g.parts - 1) / g.parts;
  return g;
}

dim3 blocks(const General& g, int64_t groups = 1) {
  return dim3(unsigned(g.chan_blocks * g.parts), unsigned(groups));
}

int64_t accumulator_bytes(const DepthwiseConv3d& p) { return p.dtype == DType::kFloat64 ? 8 : 4; }

int64_t parts_of(const DepthwiseConv3d& p) {
  return depthwise_planes_fit(p) ? depthwise_planes_slices(p) : general(p, p.in, true).parts;
}

bool needs_sums(const DepthwiseConv3d& p) {
  return needs_taps(p) || p.grad_in_scale || p.grad_in_shift;
}

template <class IO>
int launch_general_backward(const DepthwiseConv3d& p, void* stream) {
  if (needs_grad_active(p)) {
    const General g = general(p, p.in, true);
    const size_t shared = size_t(g.taps * g.lanes * accumulator_bytes(p));
    const int error = launch(general_grad_x<IO>, blocks(g), kThreads, shared, stream, g);
    if (error) return error;
  }
  if (!needs_taps(p)) return cudaSuccess;
  const General g = general(p, p.out, true);
  if (p.kernel[0] <= 3 && p.kernel[1] <= 3 && p.kernel[2] <= 3)
    return launch(general_grad_weight<IO, 3, 3, 3>, blocks(g), kThreads, 0, stream, g);
  return launch(general_grad_weight<IO, 1, 5, 5>, blocks(g, p.kernel[0]), kThreads, 0, stream, g);
}

template <class T>
int launch_finish(const DepthwiseConv3d& p, void* stream) {
  return launch(finish_sums<T>, dim3(unsigned(p.chans)), 32 * kSumWarps, 0, stream, p, parts_of(p),
                int(volume_of(p.kernel)), needs_taps(p), p.grad_in_scale || p.grad_in_shift);
}

}  // namespace

int64_t depthwise_conv3d_workspace(const DepthwiseConv3d& p) {
  if (!needs_sums(p)) return 0;
  return parts_of(p) * p.chans * (volume_of(p.kernel) + kChannelSums) * accumulator_bytes(p);
}

int depthwise_conv3d_cuda(const DepthwiseConv3d& p, void* stream) {
  if (depthwise_planes_fit(p)) return depthwise_planes_forward(p, stream);
  const General g = general(p, p.out, false);
  const size_t shared = size_t(g.taps * g.lanes * accumulator_bytes(p));
  return with_dtype(p.dtype, [&](auto element) {
    return launch(general_forward<decltype(element)>, blocks(g), kThreads, shared, stream, g);
  });
}

int depthwise_conv3d_backward_cuda(const DepthwiseConv3d& p, void* stream) {
  const int error = depthwise_planes_fit(p)
                        ? depthwise_planes_backward(p, stream)
                        : with_dtype(p.dtype, [&](auto element) {
                            return launch_general_backward<decltype(element)>(p, stream);
                          });
  if (error || !needs_sums(p)) return error;
  return p.dtype == DType::kFloat64 ? launch_finish<double>(p, stream)
                                    : launch_finish<float>(p, stream);
}

}  // namespace eegfast
