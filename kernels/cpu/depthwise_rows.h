// SPDX-License-Identifier: BSD-3-Clause
// Depthwise 3x3 convolution of contiguous planes, stride 1 and padding 1 along height and width,
// where vectors hold whole rows or rows whole vectors. What the taps of a row take is then a vector
// and its two neighbours by one lane, which a permutation makes in registers: it costs less than
// the stores and loads of copies (depthwise_copies.h).
//
// A vector of results lies at a position of the plane, position i being i rows down: one row if
// rows are whole vectors, two rows if they are half vectors, so that the results of a plane are
// every kNext-th position. A source vector at position i serves the results at i - 1, i and i + 1.
//
// The source is copied to first- or second-level cache once, through the activation or the ReLU's
// mask, with rows of zeros above and below; rows of several vectors also have zeros before them.
// Per vector of results and plane of the kernel: 9 FMAs forward, 18 backward, 2 permutations, 1
// load.
#pragma once

#include "depthwise_copies.h"

namespace eegfast::EEGFAST_ISA {

// How a row fits: half a vector, a vector, several, or not at all.
enum class Row { kHalf, kWhole, kLong, kOther };

template <class T>
inline Row row_kind(const DepthwiseConv3d& p) {
  constexpr int64_t L = kLanes<T>, kRoom = 96 * 1024 / sizeof(T);  // of the second-level cache
  for (int axis = 1; axis < 3; ++axis)
    if (p.kernel[axis] != 3 || p.stride[axis] != 1 || p.pad[axis] != 1 || p.in[axis] != p.out[axis])
      return Row::kOther;
  if (p.stride[0] != 1 || volume(p.in) > kRoom || volume(p.out) > kRoom) return Row::kOther;
  if (p.in[2] == L / 2 && p.in[1] % 2 == 0) return Row::kHalf;
  return p.in[2] == L ? Row::kWhole : p.in[2] % L == 0 ? Row::kLong : Row::kOther;
}

// A volume with zeros around its planes.
template <class T, Row kind>
class PaddedVolume {
 public:
  static constexpr int L = kLanes<T>;
  static constexpr int kNext = kind == Row::kHalf ? 2 : 1;  // positions from result to result

  explicit PaddedVolume(const int64_t* size)
      : depth(size[0]),
        height(size[1]),
        width(size[2]),
        row(kind == Row::kLong ? width + L : width),
        lead_(L - row % L),
        plane_((height + 2) * row + L),
        scratch_(depth * plane_) {
    std::memset(scratch_.get(), 0, size_t(depth * plane_) * sizeof(T));
  }

  template <class Read>
  void fill(const Read& read) {
    int64_t from = 0;
    for (int64_t d = 0; d < depth; ++d) {
      T* to = scratch_.get() + d * plane_ + lead_ + row;
      if constexpr (kind == Row::kLong) {
        for (int64_t h = 0; h < height; ++h, to += row)
          for (int64_t w = 0; w < width; w += L, from += L) store(to + w, read(from));
      } else {
        for (int64_t i = 0; i < height * width; i += L, from += L) store(to + i, read(from));
      }
    }
  }
  // The vector one position above the plane.
  const T* above(int64_t d) const { return scratch_.get() + d * plane_ + lead_; }

  const int64_t depth, height, width;
  const int64_t row;  // from row to row
  int64_t columns() const { return kind == Row::kLong ? width / L : 1; }
  int64_t vectors() const { return height / kNext; }  // of a column

 private:
  const int64_t lead_;  // makes the plane's own rows aligned
  const int64_t plane_;
  Scratch<T> scratch_;
};

// What the three taps of a row take of the vector at `from`.
template <class T, Row kind>
inline void three_taps(const T* from, Vec<T>* taken) {
  taken[1] = load(from);
  if constexpr (kind == Row::kLong) {
    taken[0] = join_lanes<-1, T>(taken[1], load(from - kLanes<T>));
    taken[2] = join_lanes<1, T>(taken[1], load(from + kLanes<T>));
  } else {
    constexpr int width = kind == Row::kHalf ? kLanes<T> / 2 : kLanes<T>;
    LaneChoice<T> first{}, last{};
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      if (lane % width != 0) choose_lane<T>(first, lane);
      if (lane % width != width - 1) choose_lane<T>(last, lane);
    }
    taken[0] = shift_chosen<-1, T>(taken[1], first);
    taken[2] = shift_chosen<1, T>(taken[1], last);
  }
}

template <class T, Row kind>
class RowsForward {
 public:
  static constexpr int L = kLanes<T>, kNext = PaddedVolume<T, kind>::kNext;

  explicit RowsForward(const DepthwiseConv3d& p) : p_(p), d_(forward_axis(p, 0)), source_(p.in) {}

  void run(int64_t sample, int64_t chan) {
    const int64_t taps = volume(p_.kernel), index = sample * p_.chans + chan;
    const T scale = value_or<T>(p_.out_scale, chan, 1);
    for (int64_t k = 0; k < taps; ++k)
      weights_[k] = static_cast<const T*>(p_.weight)[chan * taps + k] * scale;
    start_ = value_or<T>(p_.bias, chan, 0) * scale + value_or<T>(p_.out_shift, chan, 0);
    const Activation<T> activation = activation_of_channel<T>(p_, chan);
    const T* x = static_cast<const T*>(p_.x) + index * volume(p_.in);
    source_.fill(ActivatedInput<T>{x, activation});
    T* y = static_cast<T*>(p_.y) + index * volume(p_.out);
    for (int64_t d = 0; d < p_.out[0]; ++d, y += p_.out[1] * p_.out[2]) {
      fetch(x + volume(p_.in) + d * p_.in[1] * p_.in[2], p_.in[1] * p_.in[2]);
      for (int64_t column = 0; column < source_.columns(); ++column)
        for (int64_t v = 0, size; v < source_.vectors(); v += size)
          size = blocks<16>(source_.vectors() - v, d, column * L, v, y);
    }
  }

 private:
  template <int V>
  int64_t blocks(int64_t left, int64_t d, int64_t column, int64_t v, T* y) {
    if constexpr (V > 1) {
      if (left < V) return blocks<(V > 4 ? V / 2 : 1)>(left, d, column, v, y);
    }
    block<V>(d, v * kNext * source_.row + column, y + v * kNext * p_.out[2] + column);
    return V;
  }

  template <int V>
  void block(int64_t d, int64_t from, T* y) {
    Vec<T> sums[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sums[v] = broadcast<T>(start_);
    const int stop = d_.stop_tap(d);
    for (int k = d_.first_tap(d); k < stop; ++k) {
      Vec<T> weight[9];
#pragma GCC unroll 9
      for (int t = 0; t < 9; ++t) weight[t] = broadcast<T>(weights_[9 * k + t]);
      const T* source = source_.above(d + d_.shift[k]) + from;
#pragma GCC unroll 34
      for (int i = 0; i < (V - 1) * kNext + 3; ++i) {
        Vec<T> taken[3];
        three_taps<T, kind>(source + i * source_.row, taken);
#pragma GCC unroll 3
        for (int w = 0; w < 3; ++w)
#pragma GCC unroll 16
          for (int v = 0; v < V; ++v)
            if (const int h = i - v * kNext; h >= 0 && h < 3)
              sums[v] += weight[3 * h + w] * taken[w];
      }
    }
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v)
      store(y + v * kNext * p_.out[2], p_.out_relu ? relu<T>(sums[v]) : sums[v]);
  }

  const DepthwiseConv3d& p_;
  const Axis d_;
  PaddedVolume<T, kind> source_;
  T weights_[kMaxTaps];
  T start_;
};

// dx and all sums of a channel.
template <class T, Row kind>
class RowsBackward {
 public:
  static constexpr int L = kLanes<T>, kNext = PaddedVolume<T, kind>::kNext;

  explicit RowsBackward(const DepthwiseConv3d& p, int64_t)
      : p_(p),
        d_(backward_axis(p, 0, 0)),
        gradient_(p.out),
        sums_(9 * d_.taps),
        active_(p.in_scale || p.in_shift || p.in_relu ? volume(p.in) : 0) {
    int64_t unused[kMaxTaps];
    list_backward_taps(
        p, d_, backward_axis(p, 1, 0), backward_axis(p, 2, 0), [](int, int, int) { return 0; },
        unused, sums_.index);
  }

  // Samples begin .. end - 1; adds to sums, (kernel, kChannelSums).
  void run(int64_t begin, int64_t end, int64_t chan, double* sums) {
    const T scale = value_or<T>(p_.out_scale, chan, 1);
    const int64_t size = volume(p_.in), out_size = volume(p_.out), ahead = p_.chans;
    for (int64_t tap = 0; tap < 9 * d_.taps; ++tap)
      weights_[tap] =
          static_cast<const T*>(p_.weight)[chan * volume(p_.kernel) + sums_.index[tap]] * scale;
    const Activation<T> activation = activation_of_channel<T>(p_, chan);
    for (int64_t n = begin; n < end; ++n) {
      const int64_t index = n * p_.chans + chan;
      const T* x = static_cast<const T*>(p_.x) + index * size;
      const T* grad = static_cast<const T*>(p_.grad) + index * out_size;
      const T* y = p_.out_relu ? static_cast<const T*>(p_.y) + index * out_size : nullptr;
      T* dx = static_cast<T*>(p_.grad_x) + index * size;
      const MaskedGradient<T> gradient{grad, y};
      gradient_.fill(gradient);
      sums_.add(9 * d_.taps + kGradSum, gradient.sum);
      if (!activation.identity)
        for (int64_t i = 0; i < size; i += L) store(&active_[i], activation(load(x + i)));
      if (n + 1 < end) {
        fetch(x + ahead * size, size);
        fetch(grad + ahead * out_size, out_size);
        if (y) fetch(y + ahead * out_size, out_size);
      }
      taps(activation.identity ? x : active_.get(), dx);
      if (!activation.identity) through(activation, x, dx);
      sums_.count(size / L);
      sums_.flush_if_due(sums);
    }
    sums_.flush(sums);
  }

 private:
  // One plane of the kernel at a time, whose weights and sums stay in registers.
  void taps(const T* a, T* dx) {
    const int64_t plane = p_.in[1] * p_.in[2];
    for (int64_t d = 0; d < p_.in[0]; ++d)
      if (d_.first_tap(d) >= d_.stop_tap(d))
        std::memset(dx + d * plane, 0, size_t(plane) * sizeof(T));
    for (int k = 0; k < d_.taps; ++k) {
      Vec<T> weight[9], total[9];
#pragma GCC unroll 9
      for (int t = 0; t < 9; ++t) {
        weight[t] = broadcast<T>(weights_[9 * k + t]);
        total[t] = load(sums_.of(9 * k + t));
      }
      for (int64_t d = 0; d < p_.in[0]; ++d) {
        if (!d_.exists(d, k)) continue;
        const bool first = d_.first_tap(d) == k;
        for (int64_t column = 0; column < gradient_.columns(); ++column) {
          const T* source = gradient_.above(d + d_.shift[k]) + column * L;
          int64_t at = d * plane + column * L, left = gradient_.vectors();
          for (; left >= 4; left -= 4, at += 4 * kNext * width_, source += 4 * kNext * row_)
            block<4>(source, a + at, dx + at, first, weight, total);
          for (; left > 0; --left, at += kNext * width_, source += kNext * row_)
            block<1>(source, a + at, dx + at, first, weight, total);
        }
      }
#pragma GCC unroll 9
      for (int t = 0; t < 9; ++t) store(sums_.of(9 * k + t), total[t]);
    }
  }

  template <int V>
  inline __attribute__((always_inline)) void block(const T* source, const T* a, T* dx, bool first,
                                                   const Vec<T>* weight, Vec<T>* total) const {
    Vec<T> active[V], sum[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      active[v] = load(a + v * kNext * width_);
      sum[v] = first ? Vec<T>{} : load(dx + v * kNext * width_);
    }
#pragma GCC unroll 9
    for (int i = 0; i < (V - 1) * kNext + 3; ++i) {
      Vec<T> taken[3];
      three_taps<T, kind>(source + i * row_, taken);
#pragma GCC unroll 3
      for (int w = 0; w < 3; ++w)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v)
          if (const int h = i - v * kNext; h >= 0 && h < 3) {
            sum[v] += weight[3 * h + w] * taken[w];
            total[3 * h + w] += active[v] * taken[w];
          }
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(dx + v * kNext * width_, sum[v]);
  }

  // dx through the activation.
  void through(const Activation<T>& activation, const T* x, T* dx) {
    Vec<T> to_scale{}, to_shift{};
    for (int64_t i = 0; i < volume(p_.in); i += L) {
      Vec<T> g = load(dx + i);
      g = load(&active_[i]) <= activation.dead ? Vec<T>{} : g;
      to_scale += g * load(x + i);
      to_shift += g;
      store(dx + i, g * activation.scale);
    }
    sums_.add(9 * d_.taps + kScaleSum, to_scale);
    sums_.add(9 * d_.taps + kShiftSum, to_shift);
  }

  const DepthwiseConv3d& p_;
  const Axis d_;
  PaddedVolume<T, kind> gradient_;
  const int64_t row_ = gradient_.row, width_ = gradient_.width;
  T weights_[kMaxTaps];
  TapSums<T> sums_;
  Scratch<T> active_;
};

}  // namespace eegfast::EEGFAST_ISA
