// SPDX-License-Identifier: BSD-3-Clause
// The Mobile unit on whole planes of LDM-EEG, 16 x 16 or 8 x 8, of 5 bands or 8 time steps, with 4
// or 8 channels: what the fast forward and backward kernels share.
//
// A block holds as many samples as have 256 columns (height x width) together, and goes through the
// expanded channels a few at a time. Two mappings alternate, with a barrier between:
//   - a thread is a column, with its V voxels. It expands (p goes to shared memory, with
//     a row of zeros above and below each sample) and projects (r stays in registers, C x V).
//   - a warp is an expanded channel, a lane a tile of neighbouring columns. It filters plane by
//     plane, each read once; what lies left and right comes from the neighbouring lanes. The result
//     takes the place of the planes that are done with.
#pragma once

#include <type_traits>

#include "mobile_unit3d.cuh"

namespace eegfast {
namespace {

constexpr int kTapRow = 3;  // fours that hold the 9 taps of one row of the kernel
constexpr int kTaps = 3 * 4 * kTapRow;
constexpr int kRange = 64;  // expanded channels of a block, at most: their weights are held

// Samples of a block, and the floats of a plane of theirs in shared memory.
__host__ __device__ constexpr int plane_samples(int width) { return kThreads / (width * width); }
__host__ __device__ constexpr int plane_floats(int width) {
  return (plane_samples(width) * (width + 1) + 3) / 2 * 2 * width;
}

// Planes of `held` channels, what is the kernel's own, the weights and the first norm.
__host__ __device__ constexpr int plane_shared_floats(int C, int V, int W, int held, int extra) {
  return held * V * plane_floats(W) + extra + kRange * (2 * C + kTaps + 1) + 2 * C;
}

struct PlanePlan {
  // `step` expanded channels at a time, in `buffers` sets of planes.
  // `extra` floats of shared memory are the kernel's own.
  PlanePlan(const MobileUnit3d& p, int step, int buffers, int extra) : e_step(step) {
    fits = p.dtype != DType::kFloat64 && (p.channels == 4 || p.channels == 8) &&
           (p.depth == 5 || p.depth == 8) && (p.width == 8 || p.width == 16) &&
           p.height == p.width && p.expanded > 0;
    if (!fits) return;
    const int samples = plane_samples(int(p.width));
    units = int(ceil_div(p.batch, samples));
    chunks = int(ceil_div(p.expanded, e_step));
    splits = int(larger(1, smaller(chunks, kFilled / larger(1, smaller(units, kFilled)))));
    splits = int(larger(splits, ceil_div(chunks, kRange / e_step)));
    parts = int(smaller(units, 2 * kFilled));
    shared_bytes =
        plane_shared_floats(int(p.channels), int(p.depth), int(p.width), buffers * e_step, extra) *
        sizeof(float);
  }

  bool fits;
  int e_step;
  int chunks, splits;
  int units, parts;  // sets of samples; blocks that share them
  size_t shared_bytes;
};

struct alignas(16) Four {
  float v[4];
};

// With `swizzle`, rows are so swapped that tiles of two rows are read without bank conflicts;
// without it, tiles of one.
template <int C, int V, int W, int held, int extra, bool swizzle>
class PlaneBlock {
 public:
  static constexpr int kSize = W * W, kSamples = plane_samples(W), kPlane = plane_floats(W);
  static constexpr int kChannel = V * kPlane;

  __device__ PlaneBlock(const MobileUnit3d& p, const PlanePlan& plan, float* shared)
      : p(p),
        planes(shared),
        rest(planes + held * kChannel),
        expand(reinterpret_cast<Four*>(rest + extra)),
        project(expand + kRange * (C / 4)),
        taps(project + kRange * (C / 4)),
        shift(reinterpret_cast<float*>(taps + kRange * (kTaps / 4))),
        norm(reinterpret_cast<Affine<float>*>(shift + kRange)),
        plan_(plan) {
    const int first = plan.chunks * int(blockIdx.y) / plan.splits;
    const int last = plan.chunks * int(blockIdx.y + 1) / plan.splits;
    e_first = first * plan.e_step;
    e_count = int(smaller(last * plan.e_step, p.expanded)) - e_first;
    column = place(int(threadIdx.x), 0);
    for (int i = threadIdx.x; i < held * kChannel; i += kThreads) planes[i] = 0;
    hold_weights();
    __syncthreads();
  }

  // Where the row `above` (-1, 0, 1, ...) rows below that of a column lies in a plane.
  __device__ int place(int column, int below) const {
    const int row = column / W, sample = column / kSize;
    const int padded = row + sample + 2 + below;  // a row of zeros in front of each sample
    const int swap = swizzle ? padded / (32 / W) & 1 : 0;
    return (padded ^ swap) * W + column % W;
  }

  __device__ void begin(int unit) {
    const int sample = unit * kSamples + int(threadIdx.x) / kSize, last = int(p.batch) - 1;
    live = sample <= last;
    sample_index = live ? sample : last;
  }

  // This thread's voxels of C channels of a tensor with `channels` of them, from `skip` on.
  __device__ void read(const void* tensor, int channels, int skip, float (&to)[C][V]) const {
    switch (p.dtype) {
      case DType::kFloat16:
        return read_as(static_cast<const __half*>(tensor), channels, skip, to);
      case DType::kBFloat16:
        return read_as(static_cast<const __nv_bfloat16*>(tensor), channels, skip, to);
      default:
        return read_as(static_cast<const float*>(tensor), channels, skip, to);
    }
  }
  __device__ void read_live(const void* tensor, int channels, int skip, float (&to)[C][V]) const {
    read(tensor, channels, skip, to);
    if (live) return;
#pragma unroll
    for (int i = 0; i < C * V; ++i) to[i / V][i % V] = 0;
  }
  __device__ void read_activated(float (&a)[C][V]) const {
    read(p.x, C, 0, a);
#pragma unroll
    for (int c = 0; c < C; ++c) {
      const Affine<float> map = norm[c];
#pragma unroll
      for (int d = 0; d < V; ++d) a[c][d] = relu(a[c][d] * map.scale + map.shift);
    }
  }
  __device__ int64_t index(int channels, int c) const {
    return (int64_t(sample_index) * channels + c) * V * kSize + int(threadIdx.x) % kSize;
  }

  // to(d) = start + sum over c of weights[c] from[c][d].
  __device__ static void mix(const Four* weights, const float (&from)[C][V], float start,
                             float (&to)[V]) {
#pragma unroll
    for (int d = 0; d < V; ++d) to[d] = start;
#pragma unroll
    for (int quad = 0; quad < C / 4; ++quad) {
      const Four w = weights[quad];
#pragma unroll
      for (int c = 0; c < 4; ++c)
#pragma unroll
        for (int d = 0; d < V; ++d) to[d] += w.v[c] * from[4 * quad + c][d];
    }
  }
  // to[c][d] += weights[c] values[d].
  __device__ static void spread(const Four* weights, const float (&values)[V], float (&to)[C][V]) {
#pragma unroll
    for (int quad = 0; quad < C / 4; ++quad) {
      const Four w = weights[quad];
#pragma unroll
      for (int c = 0; c < 4; ++c)
#pragma unroll
        for (int d = 0; d < V; ++d) to[4 * quad + c][d] += w.v[c] * values[d];
    }
  }

  const MobileUnit3d& p;
  float *const planes, *const rest;  // `held` channels; `extra` floats
  // Per expanded channel of the block: C of scaled W1, C of W3, kTaps as [height][depth][width],
  // and the shift of the second norm. Then the first norm.
  Four *const expand, *const project, *const taps;
  float* const shift;
  Affine<float>* const norm;
  int e_first, e_count;  // the block's expanded channels
  int column;            // where this thread's column lies in a plane
  bool live;             // its sample exists
  int sample_index;

 private:
  __device__ void hold_weights() {
    const auto weight = [this](const void* from, int64_t i) {
      return load_as<float>(p.dtype, from, i);
    };
    const auto map = [this](const void* gamma, const void* beta, const void* mean, const void* var,
                            int64_t i, double eps) {
      const double scale = load_as<double>(p.dtype, gamma, i) /
                           sqrt(double(static_cast<const float*>(var)[i]) + eps);
      const double centre = double(static_cast<const float*>(mean)[i]) * scale;
      return Affine<float>{float(scale), float(load_as<double>(p.dtype, beta, i) - centre)};
    };
    const auto either = [](const void* given, const void* of_batch) {
      return given ? given : of_batch;
    };
    for (int c = threadIdx.x; c < C; c += kThreads)
      norm[c] = map(p.gamma1, p.beta1, either(p.given_mean1, p.mean1), either(p.given_var1, p.var1),
                    c, p.eps1);
    float* scaled = reinterpret_cast<float*>(expand);
    for (int e = threadIdx.x; e < e_count; e += kThreads) {
      const Affine<float> second = map(p.gamma2, p.beta2, either(p.given_mean2, p.mean2),
                                       either(p.given_var2, p.var2), e_first + e, p.eps2);
      shift[e] = second.shift;
#pragma unroll
      for (int c = 0; c < C; ++c)
        scaled[e * C + c] = second.scale * weight(p.expand, int64_t(e_first + e) * C + c);
    }
    for (int i = threadIdx.x; i < e_count * C; i += kThreads) {
      const int e = i % e_count, c = i / e_count;
      reinterpret_cast<float*>(project)[e * C + c] =
          weight(p.project, c * p.expanded + e_first + e);
    }
    for (int i = threadIdx.x; i < e_count * 27; i += kThreads) {
      const int e = i / 27, d = i % 27 / 9, h = i % 9 / 3, w = i % 3;
      reinterpret_cast<float*>(taps)[e * kTaps + h * 4 * kTapRow + d * 3 + w] =
          weight(p.depthwise, int64_t(e_first) * 27 + i);
    }
  }

  template <class IO>
  __device__ void read_as(const IO* from, int channels, int skip, float (&to)[C][V]) const {
    from += index(channels, skip);
#pragma unroll
    for (int c = 0; c < C; ++c)
#pragma unroll
      for (int d = 0; d < V; ++d) to[c][d] = load(from + (c * V + d) * kSize);
  }

  const PlanePlan& plan_;
};

// Calls run with the channels, the depth and the width as constants.
template <class Run>
int with_planes(const MobileUnit3d& p, const Run& run) {
  const auto width = [&](auto c, auto v) {
    return p.width == 8 ? run(c, v, std::integral_constant<int, 8>())
                        : run(c, v, std::integral_constant<int, 16>());
  };
  const auto depth = [&](auto c) {
    return p.depth == 5 ? width(c, std::integral_constant<int, 5>())
                        : width(c, std::integral_constant<int, 8>());
  };
  return p.channels == 4 ? depth(std::integral_constant<int, 4>())
                         : depth(std::integral_constant<int, 8>());
}

// threadIdx.x, such that the compiler keeps nothing that follows from it in registers across a
// loop.
__device__ inline int thread_anew() {
#if defined(__CUDA_ARCH__)
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#else
  return int(threadIdx.x);
#endif
}

// Six neighbouring values of a row: four of this lane, one on either side, zero beyond the row.
// All lanes of the warp come here.
__device__ inline void read_row(const float* from, bool first, bool last, float (&row)[6]) {
  const Four own = *reinterpret_cast<const Four*>(from);
  const float left = __shfl_sync(kAllLanes, own.v[3], (threadIdx.x + kWarp - 1) % kWarp);
  const float right = __shfl_sync(kAllLanes, own.v[0], (threadIdx.x + 1) % kWarp);
  row[0] = first ? 0.0f : left;
  row[1] = own.v[0];
  row[2] = own.v[1];
  row[3] = own.v[2];
  row[4] = own.v[3];
  row[5] = last ? 0.0f : right;
}

}  // namespace
}  // namespace eegfast
