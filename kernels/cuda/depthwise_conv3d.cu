// SPDX-License-Identifier: BSD-3-Clause
// Depthwise 3-D convolution (formula: eegfast/depthwise_conv3d.h): the choice of kernels, and the
// sums over the batch.
//
//   depthwise_conv3d_planes   3x3x3, stride 1, padding 1, contiguous planes of certain sizes
//   depthwise_conv3d_strips   the same for any size and either layout
//   depthwise_conv3d_general  anything
//
// Sums: each thread's over its part of the batch in the type of the accumulator, then those of a
// warp or block, then, in double and in a fixed order, those of all parts.
#include "depthwise_conv3d.cuh"

namespace eegfast {
namespace {

constexpr int kMostTaps = 125;
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
#pragma unroll 8
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

int64_t parts_of(const DepthwiseConv3d& p) {
  return depthwise_planes_fit(p)   ? depthwise_planes_parts(p)
         : depthwise_strips_fit(p) ? depthwise_strips_parts(p)
                                   : depthwise_general_parts(p);
}

bool needs_sums(const DepthwiseConv3d& p) {
  return needs_taps(p) || p.grad_in_scale || p.grad_in_shift;
}

template <class T>
int launch_finish(const DepthwiseConv3d& p, void* stream) {
  return launch(finish_sums<T>, dim3(unsigned(p.chans)), 32 * kSumWarps, 0, stream, p, parts_of(p),
                int(volume_of(p.kernel)), needs_taps(p), p.grad_in_scale || p.grad_in_shift);
}

}  // namespace

int64_t depthwise_conv3d_workspace(const DepthwiseConv3d& p) {
  const int64_t element = p.dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
  if (!needs_sums(p)) return 0;
  return parts_of(p) * p.chans * (volume_of(p.kernel) + kChannelSums) * element;
}

int depthwise_conv3d_cuda(const DepthwiseConv3d& p, void* stream) {
  return depthwise_planes_fit(p)   ? depthwise_planes_forward(p, stream)
         : depthwise_strips_fit(p) ? depthwise_strips_forward(p, stream)
                                   : depthwise_general_forward(p, stream);
}

int depthwise_conv3d_backward_cuda(const DepthwiseConv3d& p, void* stream) {
  const int error = depthwise_planes_fit(p)   ? depthwise_planes_backward(p, stream)
                    : depthwise_strips_fit(p) ? depthwise_strips_backward(p, stream)
                                              : depthwise_general_backward(p, stream);
  if (error || !needs_sums(p)) return error;
  return p.dtype == DType::kFloat64 ? launch_finish<double>(p, stream)
                                    : launch_finish<float>(p, stream);
}

}  // namespace eegfast
