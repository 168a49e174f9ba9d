// SPDX-License-Identifier: BSD-3-Clause
// Depthwise 3-D convolution (formula: eegfast/depthwise_conv3d.h).
//
// A task is a channel of one sample (contiguous: depthwise_rows.h for 3x3 kernels over rows that
// fit vectors, else depthwise_planes.h) or a block of kLanes channels of one sample (channels last:
// depthwise_channels.h). Per result of a 3x3x3 kernel: 54 FLOP less
// the planes outside, 4 bytes read and 4 written; the first-level cache serves the taps.
//
// Backward: dx is the correlation of the masked gradient g with the kernel turned round, and the
// weight gradient that of g with the activated input: both need the same shifted g, which is
// loaded once for both. All other gradients follow. With S = sum of g over a channel and R[k] the
// weight gradient before the second scale:
//   d weight[k] = out_scale R[k]            d bias      = out_scale S
//   d out_scale = sum_k weight[k] R[k] + bias S         d out_shift = S
//   d in_scale  = sum of (g through the convolution, where its ReLU lets it) x; in_shift without x
// With a stride the inputs fall into phases, each of which sees a part of the taps; a phase is
// a convolution of its own.
//
// Sums over a channel: float over at most kFlush vectors, then double; samples are cut into chunks
// that do not depend on the threads, and the chunks' sums are added in their order.
#include "eegfast/depthwise_conv3d.h"

#include "depthwise_channels.h"
#include "depthwise_planes.h"
#include "depthwise_rows.h"

namespace eegfast::EEGFAST_ISA {
namespace {

// Tasks that make it worth waking another thread.
int64_t task_grain(int64_t multiply_adds) { return 400000 / (multiply_adds + 1) + 1; }

template <class Kernel>
void forward_by(const DepthwiseConv3d& p, int64_t width, ParallelFor parallel_for) {
  const int64_t blocks = (p.chans + width - 1) / width;
  parallel(parallel_for, p.batch * blocks, task_grain(volume(p.kernel) * volume(p.out) * width),
           [&](int64_t begin, int64_t end) {
             Kernel kernel(p);
             for (int64_t task = begin; task < end; ++task)
               kernel.run(task / blocks, task % blocks);
           });
}

template <class T>
void forward(const DepthwiseConv3d& p, ParallelFor parallel_for) {
  if (p.channels_last) return forward_by<ChannelsForward<T>>(p, kLanes<T>, parallel_for);
  if constexpr (kShiftsLanes) switch (row_kind<T>(p)) {
      case Row::kHalf:
        return forward_by<RowsForward<T, Row::kHalf>>(p, 1, parallel_for);
      case Row::kWhole:
        return forward_by<RowsForward<T, Row::kWhole>>(p, 1, parallel_for);
      case Row::kLong:
        return forward_by<RowsForward<T, Row::kLong>>(p, 1, parallel_for);
      case Row::kOther:
        break;
    }
  forward_by<PlanesForward<T>>(p, 1, parallel_for);
}

// From the sums of a channel to its gradients.
template <class T>
void write_gradients(const DepthwiseConv3d& p, int64_t chan, const double* sums) {
  const int64_t taps = volume(p.kernel);
  const T* weight = static_cast<const T*>(p.weight) + chan * taps;
  const double scale = value_or<T>(p.out_scale, chan, 1), bias = value_or<T>(p.bias, chan, 0);
  const double total = sums[taps + kGradSum];
  double to_scale = bias * total;
  for (int64_t k = 0; k < taps; ++k) {
    to_scale += double(weight[k]) * sums[k];
    if (p.grad_weight) static_cast<T*>(p.grad_weight)[chan * taps + k] = T(scale * sums[k]);
  }
  const auto write = [chan](void* to, double value) {
    if (to) static_cast<T*>(to)[chan] = T(value);
  };
  write(p.grad_bias, scale * total);
  write(p.grad_out_scale, to_scale);
  write(p.grad_out_shift, total);
  write(p.grad_in_scale, sums[taps + kScaleSum]);
  write(p.grad_in_shift, sums[taps + kShiftSum]);
}

constexpr int64_t kMostChunks = 8;

template <class Kernel, class T>
void backward_by(const DepthwiseConv3d& p, int64_t width, ParallelFor parallel_for) {
  const int64_t sums = volume(p.kernel) + kChannelSums;
  const int64_t blocks = (p.chans + width - 1) / width;
  const int64_t chunk = (p.batch + kMostChunks - 1) / kMostChunks;
  const int64_t chunks = (p.batch + chunk - 1) / chunk;
  Scratch<double> parts(chunks * blocks * width * sums);
  std::memset(parts.get(), 0, size_t(chunks * blocks * width * sums) * sizeof(double));
  parallel(parallel_for, chunks * blocks,
           task_grain(2 * volume(p.kernel) * volume(p.out) * width * chunk),
           [&](int64_t begin, int64_t end) {
             for (int64_t phase = 0; phase < volume(p.stride); ++phase) {
               Kernel kernel(p, phase);
               for (int64_t task = begin; task < end; ++task)
                 kernel.run(task / blocks * chunk, smaller(p.batch, (task / blocks + 1) * chunk),
                            task % blocks, &parts[task * width * sums]);
             }
           });
  const int64_t size = blocks * width * sums;
  for (int64_t c = 1; c < chunks; ++c)
    for (int64_t i = 0; i < size; ++i) parts[i] += parts[c * size + i];
  for (int64_t chan = 0; chan < p.chans; ++chan) write_gradients<T>(p, chan, &parts[chan * sums]);
}

template <class T>
void backward(const DepthwiseConv3d& p, ParallelFor parallel_for) {
  if (p.channels_last) return backward_by<ChannelsBackward<T>, T>(p, kLanes<T>, parallel_for);
  const Wanted wanted(p);
  if constexpr (kShiftsLanes) switch (wanted.dw && p.grad_x ? row_kind<T>(p) : Row::kOther) {
      case Row::kHalf:
        return backward_by<RowsBackward<T, Row::kHalf>, T>(p, 1, parallel_for);
      case Row::kWhole:
        return backward_by<RowsBackward<T, Row::kWhole>, T>(p, 1, parallel_for);
      case Row::kLong:
        return backward_by<RowsBackward<T, Row::kLong>, T>(p, 1, parallel_for);
      case Row::kOther:
        break;
    }
  backward_by<PlanesBackward<T>, T>(p, 1, parallel_for);
}

}  // namespace

void depthwise_conv3d(const DepthwiseConv3d& p, ParallelFor parallel_for) {
  p.dtype == DType::kFloat32 ? forward<float>(p, parallel_for) : forward<double>(p, parallel_for);
}

void depthwise_conv3d_backward(const DepthwiseConv3d& p, ParallelFor parallel_for) {
  p.dtype == DType::kFloat32 ? backward<float>(p, parallel_for) : backward<double>(p, parallel_for);
}

}  // namespace eegfast::EEGFAST_ISA
