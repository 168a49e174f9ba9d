// SPDX-License-Identifier: BSD-3-Clause
// The arithmetic of a depthwise convolution once its operands lie well: sums over taps, where each
// tap of a vector of results is one vector at a fixed distance. How the operands come to lie so is
// depthwise_planes.h (lanes along a plane) and depthwise_channels.h (lanes across channels).
#pragma once

#include "eegfast/depthwise_conv3d.h"
#include "simd.h"

namespace eegfast::EEGFAST_ISA {

constexpr int kMaxKernel = 5;
constexpr int kMaxTaps = kMaxKernel * kMaxKernel * kMaxKernel;

// What is summed over a channel beside the weights' gradients, and lies behind them.
enum { kScaleSum, kShiftSum, kGradSum, kChannelSums };

// One axis of a correlation: target i takes, by tap j, the source element step * i + shift[j].
struct Axis {
  int64_t targets, sources, step;
  int taps = 0;
  int64_t shift[kMaxKernel];
  int index[kMaxKernel];  // of the tap in the kernel

  int64_t lowest() const { return taps ? smaller(shift[0], shift[taps - 1]) : 0; }
  int64_t highest() const { return taps ? larger(shift[0], shift[taps - 1]) : 0; }

  // The taps of target i whose source exists are a run [first, stop).
  bool exists(int64_t i, int tap) const {
    const int64_t source = step * i + shift[tap];
    return 0 <= source && source < sources;
  }
  int first_tap(int64_t i) const {
    int tap = 0;
    while (tap < taps && !exists(i, tap)) ++tap;
    return tap;
  }
  int stop_tap(int64_t i) const {
    int tap = taps;
    while (tap > 0 && !exists(i, tap - 1)) --tap;
    return tap;
  }
  // The first target behind i, or stop, that other taps reach than i.
  int64_t end_of_run(int64_t i, int64_t stop) const {
    int64_t next = i + 1;
    while (next < stop && first_tap(next) == first_tap(i) && stop_tap(next) == stop_tap(i)) ++next;
    return next;
  }
};

inline Axis forward_axis(const DepthwiseConv3d& p, int axis) {
  Axis a{p.out[axis], p.in[axis], p.stride[axis], int(p.kernel[axis]), {}, {}};
  for (int k = 0; k < a.taps; ++k) {
    a.shift[k] = k - p.pad[axis];
    a.index[k] = k;
  }
  return a;
}

// From the outputs back to the inputs of one phase, those at stride * i + phase. Only every
// stride-th tap reaches them, each at a whole distance. The last tap comes first, so that the
// distances rise as they do forward.
inline Axis backward_axis(const DepthwiseConv3d& p, int axis, int64_t phase) {
  const int64_t stride = p.stride[axis];
  Axis a{(p.in[axis] - phase + stride - 1) / stride, p.out[axis], 1, 0, {}, {}};
  for (int k = int(p.kernel[axis]) - 1; k >= 0; --k) {
    const int64_t distance = phase + p.pad[axis] - k;
    if (distance % stride != 0) continue;
    a.shift[a.taps] = distance / stride;
    a.index[a.taps++] = k;
  }
  return a;
}

// Lists the taps of three axes in their order: offset(d, h, w) of each, and its place among the
// sums, where those of kChannelSums follow the kernel's.
template <class Offset>
inline void list_backward_taps(const DepthwiseConv3d& p, const Axis& d_axis, const Axis& h_axis,
                               const Axis& w_axis, const Offset& offset, int64_t* offsets,
                               int64_t* index) {
  for (int d = 0; d < d_axis.taps; ++d)
    for (int h = 0; h < h_axis.taps; ++h)
      for (int w = 0; w < w_axis.taps; ++w) {
        *offsets++ = offset(d, h, w);
        *index++ =
            (d_axis.index[d] * p.kernel[1] + h_axis.index[h]) * p.kernel[2] + w_axis.index[w];
      }
  for (int i = 0; i < kChannelSums; ++i) *index++ = p.kernel[0] * p.kernel[1] * p.kernel[2] + i;
}

// A part of the targets whose sources are copied together.
struct Tile {
  int64_t d, h;
};

// The tile that copies fewest rows twice, of those whose copies (`row` elements for a row of a
// plane) fit into `room`. Planes outside the source need none.
inline Tile choose_tile(const Axis& d, const Axis& h, int64_t more_rows, int64_t row,
                        int64_t room) {
  const int64_t more_planes = d.highest() - d.lowest();
  Tile best{1, 1};
  double least = HUGE_VAL;
  for (int64_t tiles = 1; tiles <= h.targets; ++tiles) {
    const int64_t rows = (h.targets + tiles - 1) / tiles;
    const int64_t planes = room / (larger(1, row) * (rows + more_rows));
    int64_t depth = planes >= d.sources ? d.targets : (planes - more_planes) / d.step;
    depth = smaller(depth, d.targets);
    if (depth < 1) continue;
    const double again = depth == d.targets ? 0 : double(more_planes) / double(d.step * depth);
    const double cost = (1 + again) * double(rows + (tiles > 1 ? more_rows : 0)) * double(tiles);
    if (cost < least) {
      least = cost;
      best = {depth, rows};
    }
  }
  return best;
}

inline int64_t round_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// Which sums and gradients the backward pass is asked for.
struct Wanted {
  explicit Wanted(const DepthwiseConv3d& p)
      : dx(p.grad_x || p.grad_in_scale || p.grad_in_shift),
        dw(p.grad_weight || p.grad_out_scale),
        sum(p.grad_bias || p.grad_out_scale || p.grad_out_shift) {}
  const bool dx, dw, sum;
};

template <class T>
inline T value_or(const void* values, int64_t i, T otherwise) {
  return values ? static_cast<const T*>(values)[i] : otherwise;
}

inline int64_t volume(const int64_t* size) { return size[0] * size[1] * size[2]; }

// relu?(scale x + shift), and what its backward needs.
template <class T>
struct Activation {
  Vec<T> scale, shift;
  Vec<T> floor;  // of the result
  Vec<T> dead;   // no gradient passes where the result is at most this (NaN: passes everywhere)
  bool identity;

  Vec<T> operator()(Vec<T> x) const { return at_least<T>(x * scale + shift, floor); }
};

// PerLane: each lane has weights of its own (weights: (taps, lanes)), else all share (taps).
template <bool PerLane, class T>
inline Vec<T> weight_of_tap(const T* weights, int64_t tap) {
  if constexpr (PerLane) return load(weights + tap * kLanes<T>);
  return broadcast<T>(weights[tap]);
}

// Results are summed in blocks of up to kBlock vectors, the last two of a row of about the same
// size: the more sums side by side, the better is the latency hidden.
constexpr int kBlock = 8;
inline int64_t next_block(int64_t left) {
  return left >= 2 * kBlock ? kBlock : left > kBlock ? (left + 1) / 2 : left;
}

// V results from `start` on, `step` apart in the source.
template <int V, bool PerLane, class T>
inline void correlate(const T* source, int64_t step, const T* weights, const int64_t* offsets,
                      int64_t first_tap, int64_t stop_tap, Vec<T> start, Vec<T>* sums) {
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) sums[v] = start;
  for (int64_t tap = first_tap; tap < stop_tap; ++tap) {
    const Vec<T> weight = weight_of_tap<PerLane>(weights, tap);
    const T* from = source + offsets[tap];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sums[v] += weight * load(from + v * step);
  }
}

// Rows of vectors for the backward pass. Vector v of row r of the gradient lies at
// source + r * source_row + v * source_step before the taps' distances; likewise x and dx.
template <class T>
struct BackwardRows {
  const T* source;
  int64_t source_row, source_step;
  const T* x;
  int64_t x_row;
  T* dx;
  int64_t dx_row;
  int64_t x_step, dx_step;
  int64_t rows, vectors;
  int64_t last_lanes;   // of the last vector of a row
  int64_t other_lanes;  // of the others
};

// A group of A x B x C taps, at distances of tap_a, tap_b, tap_c.
template <int A, int B, int C>
struct Group {
  static constexpr int taps = A * B * C;
};

template <class T>
struct TapDistances {
  int64_t a, b, c;
};

constexpr int kActivationSums = 2;

// Vectors that may be added up in the type of the data.
constexpr int64_t kFlush = 256;

// One pass over the rows: a tap's source vector, loaded once, adds to dx and to the tap's weight
// gradient. `first` and `last` say whether this group of taps begins and ends the sum in dx; the
// last one passes dx through the activation. Accumulators stay in registers throughout.
template <class G, bool Dx, bool Dw, bool PerLane, class T>
class BackwardPass;

template <int A, int B, int C, bool Dx, bool Dw, bool PerLane, class T>
class BackwardPass<Group<A, B, C>, Dx, Dw, PerLane, T> {
 public:
  static constexpr int L = kLanes<T>, taps = A * B * C;

  static void run(const BackwardRows<T>& r, const TapDistances<T>& distance, const T* weights,
                  const Activation<T>& activation, bool first, bool last, T* tap_sums,
                  T* activation_sums) {
    Vec<T> sums[taps];
    Vec<T> more[kActivationSums];
    if constexpr (Dw) {
#pragma GCC unroll 27
      for (int t = 0; t < taps; ++t) sums[t] = load(tap_sums + t * L);
    }
    for (int i = 0; i < kActivationSums; ++i) more[i] = load(activation_sums + i * L);
    for (int64_t row = 0; row < r.rows; ++row) {
      const T* source = r.source + row * r.source_row;
      const T* x = r.x + row * r.x_row;
      T* dx = r.dx + row * r.dx_row;
      for (int64_t v = 0; v < r.vectors; ++v) {
        const int64_t lanes = v + 1 == r.vectors ? r.last_lanes : r.other_lanes;
        if (lanes == L)
          vector<false>(source, distance, x, dx, weights, activation, first, last, L, sums, more);
        else
          vector<true>(source, distance, x, dx, weights, activation, first, last, lanes, sums,
                       more);
        source += r.source_step;
        x += r.x_step;
        dx += r.dx_step;
      }
    }
    if constexpr (Dw) {
#pragma GCC unroll 27
      for (int t = 0; t < taps; ++t) store(tap_sums + t * L, sums[t]);
    }
    for (int i = 0; i < kActivationSums; ++i) store(activation_sums + i * L, more[i]);
  }

 private:
  // Part: only the first `lanes` hold data; what the others read is kept out of the sums.
  template <bool Part>
  static inline __attribute__((always_inline)) void vector(
      const T* source, const TapDistances<T>& distance, const T* x_at, T* dx_at, const T* weights,
      const Activation<T>& activation, bool first, bool last, int64_t lanes, Vec<T>* sums,
      Vec<T>* more) {
    const Vec<T> x = Part ? load_first(x_at, lanes) : load(x_at);
    Vec<T> active = activation(x);
    if (Part) active = keep_first<T>(active, lanes);
    Vec<T> dx[2] = {};
    if (Dx && !first) dx[0] = Part ? load_first(dx_at, lanes) : load(dx_at);
#pragma GCC unroll 3
    for (int a = 0; a < A; ++a)
#pragma GCC unroll 5
      for (int c = 0; c < C; ++c)
#pragma GCC unroll 3
        for (int b = 0; b < B; ++b) {
          const int t = (a * B + b) * C + c;
          Vec<T> grad = load(source + a * distance.a + c * distance.c + b * distance.b);
          if (Part) grad = keep_first<T>(grad, lanes);
          if (Dx) dx[t % 2] += grad * weight_of_tap<PerLane>(weights, t);
          if (Dw) sums[t] += grad * active;
        }
    if (!Dx) return;
    dx[0] += dx[1];
    if (last) {
      dx[0] = active <= activation.dead ? Vec<T>{} : dx[0];
      more[kScaleSum] += dx[0] * x;
      more[kShiftSum] += dx[0];
      dx[0] *= activation.scale;
    }
    Part ? store_first(dx_at, dx[0], lanes) : store(dx_at, dx[0]);
  }
};

// All taps of a run of kd planes of taps, kh x kw each, in the largest groups that the registers
// hold. offsets and weights and sums are those of the run's first tap.
template <bool Dx, bool Dw, bool PerLane, class T>
void backward_taps(const BackwardRows<T>& rows, int kd, int kh, int kw, const int64_t* offsets,
                   const T* weights, const Activation<T>& activation, T* tap_sums,
                   T* activation_sums) {
  constexpr int L = kLanes<T>;
  const int taps = kd * kh * kw;
  TapDistances<T> distance;
  distance.a = kd > 1 ? offsets[kh * kw] - offsets[0] : 0;
  distance.b = kh > 1 ? offsets[kw] - offsets[0] : 0;
  distance.c = kw > 1 ? offsets[1] - offsets[0] : 0;
  int done = 0;
  const auto pass = [&](auto group) {
    using G = decltype(group);
    BackwardRows<T> moved = rows;
    moved.source += offsets[done];
    BackwardPass<G, Dx, Dw, PerLane, T>::run(moved, distance, weights + done * (PerLane ? L : 1),
                                             activation, done == 0, done + G::taps == taps,
                                             tap_sums + done * L, activation_sums);
    done += G::taps;
  };
  if (kh == 3 && kw == 3) {
#if defined(__AVX512F__)
    if constexpr (Dx && Dw && !PerLane) {
      if (kd == 3) return pass(Group<3, 3, 3>());
      if (kd == 2) return pass(Group<2, 3, 3>());
    }
#endif
    while (done < taps) pass(Group<1, 3, 3>());
    return;
  }
  while (done < taps) {
    switch (kw) {
      case 1:
        pass(Group<1, 1, 1>());
        break;
      case 2:
        pass(Group<1, 1, 2>());
        break;
      case 3:
        pass(Group<1, 1, 3>());
        break;
      case 4:
        pass(Group<1, 1, 4>());
        break;
      default:
        pass(Group<1, 1, 5>());
    }
  }
}

}  // namespace eegfast::EEGFAST_ISA
