// SPDX-License-Identifier: BSD-3-Clause
// The Mobile unit on tiles of any size, for any number of channels: what the general forward and
// backward kernels share.
//
// A block holds a tile of a sample, or all of it, and goes through the expanded channels e_step at
// a time: a tile of a, padded planes of p with a rim of zeros, filtered planes of q, and the sums r
// lie in shared memory. Expanding and projecting, a thread takes a voxel and four channels at a
// time; filtering, a warp takes an expanded channel, so that sums over voxels stay within it.
#pragma once

#include "mobile_unit3d.cuh"

namespace eegfast {
namespace {

struct TilePlan {
  TilePlan(const MobileUnit3d& p, bool backward) {
    const int element = p.dtype == DType::kFloat64 ? 8 : 4;
    const int64_t D = p.depth, H = p.height, W = p.width, C = ceil_div(p.channels, 4) * 4;
    int64_t td = smaller(D, kBudget), th = smaller(H, kBudget), tw = smaller(W, kBudget);
    int64_t group = C;
    for (;;) {
      depth = int(td);
      height = int(th);
      width = int(tw);
      inner = int(smaller(td * th * tw, kBudget));
      box = int(smaller(smaller(td + 2, D) * smaller(th + 2, H) * smaller(tw + 2, W), kBudget));
      padded = int(smaller((td + 2) * (th + 2) * (tw + 2), kBudget));
      e_step = int(8 * larger(1, smaller(smaller(8, ceil_div(p.expanded, 8)), 256 / inner)));
      c_step = int(smaller(C, larger(16, 2048 / box / 4 * 4)));
      c_group = int(ceil_div(group, c_step) * c_step);
      shared_bytes = bytes(element, backward);
      for (; shared_bytes > kBudget && e_step > 8; shared_bytes = bytes(element, backward))
        e_step -= 8;
      if (shared_bytes <= kBudget) break;
      int64_t& largest = th >= td && th >= tw ? th : tw >= td ? tw : td;
      if (largest > (group > 64 ? 2 : 1))
        largest = (largest + 1) / 2;
      else if (group > 4)
        group = (group + 1) / 2;
      else
        break;
    }
    tiles_d = ceil_div(D, td);
    tiles_h = ceil_div(H, th);
    tiles_w = ceil_div(W, tw);
    tiles = p.batch * tiles_d * tiles_h * tiles_w;
    groups = int(ceil_div(p.channels, c_group));
    chunks = int(ceil_div(p.expanded, e_step));
    splits = int(larger(1, smaller(chunks, kFilled / larger(1, smaller(kFilled, tiles * groups)))));
    parts = smaller(tiles, 2 * kFilled);
    if (backward) {
      const int64_t slab = p.expanded * (28 + 2 * p.channels) * element;
      parts = smaller(parts, larger(64, (int64_t(64) << 20) / larger(1, slab)));
    }
  }

  size_t bytes(int element, bool backward) const {
    const int64_t per_pass = int64_t(c_step) * box + int64_t(e_step) * (padded + inner);
    const int64_t elements = int64_t(c_step) * e_step + 2 * (c_step + e_step) +
                             (backward ? 2 : 1) * per_pass + int64_t(c_group) * inner;
    return size_t(elements * element + int64_t(box) * 12 + int64_t(inner) * 8);
  }

  static constexpr int64_t kBudget = 96 * 1024;
  int depth, height, width;     // of a tile, at most
  int inner, box, padded;       // its voxels; with the neighbours that exist; with a rim all around
  int e_step, c_step, c_group;  // channels: expanded at a time, staged at a time, of r in a block
  int chunks, splits, groups;
  int64_t tiles_d, tiles_h, tiles_w, tiles;
  int64_t parts;  // blocks that share the tiles
  size_t shared_bytes;
};

template <class IO>
class TileBlock {
 public:
  using T = Accumulator<IO>;
  struct alignas(16) Quad {
    T v[4];
  };

  __device__ TileBlock(const MobileUnit3d& p, const TilePlan& plan, T* shared, bool backward)
      : p(p), plan(plan), row(plan.width + 2), plane((plan.height + 2) * row) {
    const auto take = [&](int64_t count) {
      T* first = shared;
      shared += count;
      return first;
    };
    const int64_t steps = int64_t(plan.e_step);
    panel_ = take(steps * plan.c_step);
    first_ = reinterpret_cast<Affine<T>*>(take(2 * plan.c_step));
    second_ = reinterpret_cast<Affine<T>*>(take(2 * plan.e_step));
    a = take(int64_t(plan.c_step) * plan.box);
    expanded = take(steps * plan.padded);
    filtered = take(steps * plan.inner);
    sums = take(int64_t(plan.c_group) * plan.inner);
    if (backward) {
      gradient = take(int64_t(plan.c_step) * plan.box);
      expanded_gradient = take(steps * plan.padded);
      hidden_gradient = take(steps * plan.inner);
    }
    source_ = reinterpret_cast<int64_t*>(shared);
    place_ = reinterpret_cast<int*>(source_ + plan.box);
    inner_place = place_ + plan.box;
    inner_box = inner_place + plan.inner;
    group_first = blockIdx.z * int64_t(plan.c_group);
    group_last = smaller(group_first + plan.c_group, p.channels);
  }

  // Tables of the tile's voxels; clears the rims and the sums.
  __device__ void begin(int64_t tile) {
    const int64_t w = tile % plan.tiles_w * plan.width, rest_w = tile / plan.tiles_w;
    const int64_t h = rest_w % plan.tiles_h * plan.height, rest_h = rest_w / plan.tiles_h;
    const int64_t d = rest_h % plan.tiles_d * plan.depth;
    sample = rest_h / plan.tiles_d;
    const Extent along_d(d, plan.depth, p.depth), along_h(h, plan.height, p.height),
        along_w(w, plan.width, p.width);
    box_count = along_d.box * along_h.box * along_w.box;
    inner_count = along_d.inner * along_h.inner * along_w.inner;
    __syncthreads();
    for (int i = threadIdx.x; i < box_count; i += kThreads) {
      const int bw = i % along_w.box, bh = i / along_w.box % along_h.box,
                bd = i / along_w.box / along_h.box;
      const int id = bd - along_d.before, ih = bh - along_h.before, iw = bw - along_w.before;
      source_[i] = ((d + id) * p.height + h + ih) * p.width + w + iw;
      place_[i] = (id + 1) * plane + (ih + 1) * row + iw + 1;
      if (id < 0 || ih < 0 || iw < 0) continue;
      if (id >= along_d.inner || ih >= along_h.inner || iw >= along_w.inner) continue;
      const int inner = (id * along_h.inner + ih) * along_w.inner + iw;
      inner_place[inner] = place_[i];
      inner_box[inner] = i;
    }
    const int rims = plan.e_step * plan.padded;
    for (int i = threadIdx.x; i < rims; i += kThreads) {
      expanded[i] = 0;
      if (gradient) expanded_gradient[i] = 0;
    }
    for (int i = threadIdx.x; i < plan.c_group * plan.inner; i += kThreads) sums[i] = 0;
    activated_held_ = gradient_held_ = -1;
    __syncthreads();
  }

  // The expanded channels e_first .. e_first + e_count - 1.
  __device__ void begin_chunk(int64_t chunk) {
    e_first = chunk * plan.e_step;
    e_count = int(smaller(plan.e_step, p.expanded - e_first));
    __syncthreads();
    for (int e = threadIdx.x; e < e_count; e += kThreads)
      second_[e] = second_norm<IO>(p, e_first + e);
  }

  // expanded = relu(scale W1 a + shift).
  __device__ void expand() {
    for (int64_t c = 0; c < p.channels; c += plan.c_step) {
      hold_activated(c);
      panel_by_channel(c, [&](int64_t e, int64_t k) { return scaled_expand(e, k); });
      mix(
          a, expanded, c, [&](int e) { return second_[e].shift; },
          [last = c + plan.c_step >= p.channels](T sum) { return last ? relu(sum) : sum; });
    }
  }
  // expanded_gradient = W3^T dr.
  __device__ void expand_gradient() {
    for (int64_t c = 0; c < p.channels; c += plan.c_step) {
      hold_gradient(c);
      panel_by_channel(c, [&](int64_t e, int64_t k) { return project_weight(e, k); });
      mix(gradient, expanded_gradient, c, [](int) { return T(0); }, [](T sum) { return sum; });
    }
  }

  // The block's channels of sums += weight from, weight(expanded channel, channel).
  template <class Weight>
  __device__ void project(const T* from, int64_t c_first, const Weight& weight) {
    const int count = staged(c_first), quads = (count + 3) / 4;
    __syncthreads();
    for (int i = threadIdx.x; i < e_count * plan.c_step; i += kThreads) {
      const int c = i % plan.c_step;
      panel_[i] = c < count ? weight(e_first + i / plan.c_step, c_first + c) : T(0);
    }
    __syncthreads();
    const Quad* panel = reinterpret_cast<const Quad*>(panel_);
    T* to = sums + (c_first - group_first) * plan.inner;
    for (int item = threadIdx.x; item < quads * inner_count; item += kThreads) {
      const int quad = item / inner_count, i = item % inner_count;
      T sum[4] = {};
      for (int e = 0; e < e_count; ++e) {
        const T value = from[e * plan.inner + i];
        const Quad w = panel[e * (plan.c_step / 4) + quad];
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[j] += w.v[j] * value;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (4 * quad + j < count) to[(4 * quad + j) * plan.inner + i] += sum[j];
    }
  }

  // Calls use(channel, voxel of the volume, sum) for the block's channels.
  template <class Use>
  __device__ void each_sum(const Use& use) {
    __syncthreads();
    const int count = int(group_last - group_first);
    for (int i = threadIdx.x; i < count * inner_count; i += kThreads) {
      const int c = i / inner_count, v = i % inner_count;
      use(group_first + c, source_[inner_box[v]], sums[c * plan.inner + v]);
    }
  }

  __device__ T scaled_expand(int64_t e, int64_t c) const {
    const IO* weight = static_cast<const IO*>(p.expand) + e * p.channels + c;
    return T(second_[e - e_first].scale) * load(weight);
  }
  __device__ T project_weight(int64_t e, int64_t c) const {
    return load(static_cast<const IO*>(p.project) + c * p.expanded + e);
  }
  __device__ void read_taps(int e, T (&taps)[27]) const {
    const IO* from = static_cast<const IO*>(p.depthwise) + (e_first + e) * 27;
#pragma unroll
    for (int k = 0; k < 27; ++k) taps[k] = load(from + k);
  }
  // Of the 27 neighbours, in the order of the taps.
  __device__ int step_to(int k) const {
    return (k / 9 - 1) * plane + (k / 3 % 3 - 1) * row + k % 3 - 1;
  }

  // a = relu(x s1 + t1), and dr, of c_step channels from c_first on, unless they are there already.
  // Visible behind the next barrier.
  __device__ void hold_activated(int64_t c_first) {
    if (activated_held_ == c_first) return;
    activated_held_ = c_first;
    __syncthreads();
    for (int c = threadIdx.x; c < staged(c_first); c += kThreads)
      first_[c] = first_norm<IO>(p, c_first + c);
    __syncthreads();
    stage(a, p.x, p.channels, 0, c_first,
          [&](int c, T x) { return relu(x * first_[c].scale + first_[c].shift); });
  }
  __device__ void hold_gradient(int64_t c_first) {
    if (gradient_held_ == c_first) return;
    gradient_held_ = c_first;
    __syncthreads();
    stage(gradient, p.grad, p.concat ? 2 * p.channels : p.channels, p.concat ? p.channels : 0,
          c_first, [](int, T value) { return value; });
  }
  __device__ int staged(int64_t c_first) const {
    return int(smaller(plan.c_step, p.channels - c_first));
  }

  const MobileUnit3d& p;
  const TilePlan& plan;
  const int row, plane;  // of the padded planes
  T *a, *expanded, *filtered, *sums;
  T *gradient = nullptr, *expanded_gradient = nullptr, *hidden_gradient = nullptr;
  int *inner_place, *inner_box;  // of an inner voxel: in the padded planes, in the box
  int64_t sample, group_first, group_last, e_first;
  int e_count, box_count, inner_count;

 private:
  struct Extent {
    __device__ Extent(int64_t first, int step, int64_t size)
        : inner(int(smaller(step, size - first))),
          before(first > 0),
          box(inner + before + (first + inner < size)) {}
    int inner, before, box;
  };

  template <class Map>
  __device__ void stage(T* to, const void* tensor, int64_t channels, int64_t skip, int64_t c_first,
                        const Map& map) const {
    const int64_t volume = unit_volume(p);
    const IO* from = static_cast<const IO*>(tensor) + (sample * channels + skip + c_first) * volume;
    for (int i = threadIdx.x; i < staged(c_first) * box_count; i += kThreads) {
      const int c = i / box_count, v = i % box_count;
      to[c * plan.box + v] = map(c, load(from + c * volume + source_[v]));
    }
  }

  template <class Weight>
  __device__ void panel_by_channel(int64_t c_first, const Weight& weight) {
    __syncthreads();
    for (int i = threadIdx.x; i < staged(c_first) * plan.e_step; i += kThreads) {
      const int e = i % plan.e_step;
      panel_[i] = e < e_count ? weight(e_first + e, c_first + i / plan.e_step) : T(0);
    }
    __syncthreads();
  }

  // to (+)= panel from, over the box.
  template <class Start, class Finish>
  __device__ void mix(const T* from, T* to, int64_t c_first, const Start& start,
                      const Finish& finish) {
    const Quad* panel = reinterpret_cast<const Quad*>(panel_);
    const int count = staged(c_first), quads = (e_count + 3) / 4;
    for (int item = threadIdx.x; item < quads * box_count; item += kThreads) {
      const int quad = item / box_count, i = item % box_count;
      T* out = to + 4 * quad * plan.padded + place_[i];
      const int live = e_count - 4 * quad;
      T sum[4];
#pragma unroll
      for (int j = 0; j < 4; ++j)
        sum[j] = j >= live ? T(0) : c_first ? out[j * plan.padded] : start(4 * quad + j);
      for (int c = 0; c < count; ++c) {
        const T value = from[c * plan.box + i];
        const Quad w = panel[c * (plan.e_step / 4) + quad];
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[j] += w.v[j] * value;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (j < live) out[j * plan.padded] = finish(sum[j]);
    }
  }

  T* panel_;
  Affine<T>*first_, *second_;
  int64_t* source_;  // of a voxel of the box: where it lies in a channel
  int* place_;       // where it lies in the padded planes
  int64_t activated_held_, gradient_held_;
};

}  // namespace
}  // namespace eegfast
