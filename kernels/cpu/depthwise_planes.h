// SPDX-License-Identifier: BSD-3-Clause
// Depthwise convolution of contiguous volumes: a lane is a position of the flattened plane, a call
// of run() one channel of one sample (forward) or of several (backward).
#pragma once

#include "depthwise_copies.h"

namespace eegfast::EEGFAST_ISA {

template <class T>
class PlanesForward {
 public:
  explicit PlanesForward(const DepthwiseConv3d& p)
      : p_(p),
        d_(forward_axis(p, 0)),
        copies_(d_, forward_axis(p, 1), forward_axis(p, 2)),
        taps_(p.kernel[1] * p.kernel[2]) {
    for (int d = 0, tap = 0; d < p.kernel[0]; ++d)
      for (int h = 0; h < p.kernel[1]; ++h)
        for (int w = 0; w < p.kernel[2]; ++w) offsets_[tap++] = copies_.offset(d, h, w);
  }

  void run(int64_t sample, int64_t chan) {
    const int64_t taps = volume(p_.kernel), index = sample * p_.chans + chan;
    const T scale = value_or<T>(p_.out_scale, chan, 1);
    for (int64_t k = 0; k < taps; ++k)
      weights_[k] = static_cast<const T*>(p_.weight)[chan * taps + k] * scale;
    start_ = value_or<T>(p_.bias, chan, 0) * scale + value_or<T>(p_.out_shift, chan, 0);
    const Activation<T> activation = activation_of_channel<T>(p_, chan);
    const ActivatedInput<T> input{static_cast<const T*>(p_.x) + index * volume(p_.in), activation};
    T* y = static_cast<T*>(p_.y) + index * volume(p_.out);
    next_ = input.x + volume(p_.in);
    for (int64_t d0 = 0; d0 < p_.out[0]; d0 += copies_.tile_d())
      for (int64_t h0 = 0; h0 < p_.out[1]; h0 += copies_.tile_h()) {
        copies_.fill(d0, h0, input);
        const int64_t rows = smaller(copies_.tile_h(), p_.out[1] - h0);
        for (int64_t d = d0; d < smaller(d0 + copies_.tile_d(), p_.out[0]); ++d)
          plane(d, copies_.plane(d - d0), y + (d * p_.out[1] + h0) * p_.out[2], rows);
      }
  }

 private:
  static constexpr int L = kLanes<T>;
  static constexpr int kLongBlock = kVectorBytes == 64 ? 16 : kBlock;  // what registers hold

  void plane(int64_t d, const T* source, T* out, int64_t rows) {
    const int64_t width = p_.out[2];
    first_ = d_.first_tap(d) * taps_;
    stop_ = d_.stop_tap(d) * taps_;
    if (copies_.slides()) {
      fetch(next_, rows * width);
      next_ += rows * width;
      for (int64_t column = 0; column < width; column += L)
        for (int64_t row = 0, size; row < rows; row += size) {
          size = rows - row >= kLongBlock ? kLongBlock : next_block(rows - row);
          const int64_t at = row * width + column;
          block<kLongBlock, true>(size, source + at, out + at, width, L);
        }
      return;
    }
    int64_t lanes = rows * width;
    for (int64_t left = (lanes + L - 1) / L, size; left > 0; left -= size) {
      size = next_block(left);
      block<kBlock, false>(size, source, out, L, smaller(L, lanes - (size - 1) * L));
      source += size * L;
      out += size * L;
      lanes -= size * L;
    }
  }

  // `size` <= V vectors at distances of `step`, the last one of `lanes`.
  template <int V, bool Sliding>
  void block(int64_t size, const T* source, T* out, int64_t step, int64_t lanes) {
    if constexpr (V > 1) {
      if (size < V)
        return block<(V > kBlock ? kBlock : V - 1), Sliding>(size, source, out, step, lanes);
    }
    Vec<T> sums[V];
    if constexpr (Sliding)
      correlate_sliding<V, false, T>(source, step, weights_, offsets_, first_, stop_, 3, 1,
                                     broadcast<T>(start_), sums);
    else
      correlate<V, false, T>(source, L, weights_, offsets_, first_, stop_, broadcast<T>(start_),
                             sums);
    if (p_.out_relu)
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sums[v] = at_least<T>(sums[v], Vec<T>{});
#pragma GCC unroll 16
    for (int v = 0; v + 1 < V; ++v) store(out + v * step, sums[v]);
    lanes == L ? store(out + (V - 1) * step, sums[V - 1])
               : store_first(out + (V - 1) * step, sums[V - 1], lanes);
  }

  const DepthwiseConv3d& p_;
  const Axis d_;
  Copies<T> copies_;
  const int64_t taps_;  // of a plane of the kernel
  int64_t offsets_[kMaxTaps];
  T weights_[kMaxTaps];
  T start_;
  int64_t first_ = 0, stop_ = 0;  // of the taps that see a plane
  const T* next_ = nullptr;       // what the next call will read
};

// The inputs of one phase of the strides (without strides: all).
template <class T>
class PlanesBackward {
 public:
  PlanesBackward(const DepthwiseConv3d& p, int64_t phase)
      : p_(p),
        wanted_(p),
        first_phase_(phase == 0),
        phase_{phase / (p.stride[1] * p.stride[2]), phase / p.stride[2] % p.stride[1],
               phase % p.stride[2]},
        d_(backward_axis(p, 0, phase_[0])),
        h_(backward_axis(p, 1, phase_[1])),
        w_(backward_axis(p, 2, phase_[2])),
        taps_(int64_t(d_.taps) * h_.taps * w_.taps),
        dense_(volume(p.stride) == 1),
        copies_(d_, h_, w_),
        sums_(taps_),
        x_tile_(dense_ ? 0 : copies_.tile_d() * copies_.tile_h() * w_.targets),
        dx_tile_(dense_ && p.grad_x ? 0 : copies_.tile_d() * copies_.tile_h() * w_.targets) {
    list_backward_taps(
        p, d_, h_, w_, [&](int d, int h, int w) { return copies_.offset(d, h, w); }, offsets_,
        sums_.index);
  }

  // Samples begin .. end - 1; adds to sums, (kernel, kChannelSums).
  void run(int64_t begin, int64_t end, int64_t chan, double* sums) {
    const T scale = value_or<T>(p_.out_scale, chan, 1);
    for (int64_t tap = 0; tap < taps_; ++tap)
      weights_[tap] =
          static_cast<const T*>(p_.weight)[chan * volume(p_.kernel) + sums_.index[tap]] * scale;
    const Activation<T> activation = activation_of_channel<T>(p_, chan);
    for (int64_t n = begin; n < end; ++n) {
      const int64_t index = n * p_.chans + chan;
      const int64_t from = index * volume(p_.out), to = index * volume(p_.in);
      const MaskedGradient<T> gradient{static_cast<const T*>(p_.grad) + from,
                                       p_.out_relu ? static_cast<const T*>(p_.y) + from : nullptr};
      if (wanted_.dx || wanted_.dw) {
        for (int64_t d0 = 0; d0 < d_.targets; d0 += copies_.tile_d())
          for (int64_t h0 = 0; h0 < h_.targets; h0 += copies_.tile_h())
            tile(d0, h0, gradient, static_cast<const T*>(p_.x) + to,
                 p_.grad_x ? static_cast<T*>(p_.grad_x) + to : nullptr, activation, sums);
      }
      if (wanted_.sum && first_phase_) add_up(gradient);
    }
    sums_.flush(sums);
  }

 private:
  static constexpr int L = kLanes<T>;

  void tile(int64_t d0, int64_t h0, const MaskedGradient<T>& gradient, const T* x, T* dx,
            const Activation<T>& activation, double* sums) {
    const int64_t planes = smaller(copies_.tile_d(), d_.targets - d0);
    const int64_t rows = smaller(copies_.tile_h(), h_.targets - h0), count = rows * w_.targets;
    if (count == 0) return;
    if (taps_) copies_.fill(d0, h0, gradient);
    if (!dense_) gather(x, d0, h0, planes, rows);
    const int64_t plane = p_.in[1] * p_.in[2], at = d0 * plane + h0 * p_.in[2];
    BackwardRows<T> r{};
    r.source_row = copies_.plane_distance();
    r.source_step = r.x_step = r.dx_step = L;
    r.x_row = dense_ ? plane : count;
    r.dx_row = dx_in_place() ? plane : count;
    r.vectors = (count + L - 1) / L;
    r.last_lanes = count - (r.vectors - 1) * L;
    r.other_lanes = L;
    // Runs of planes that see the same planes of the kernel.
    for (int64_t d = 0, stop; d < planes; d = stop) {
      const int first_tap = d_.first_tap(d0 + d), stop_tap = d_.stop_tap(d0 + d);
      stop = d_.end_of_run(d0 + d, d0 + planes) - d0;
      r.source = copies_.plane(d);
      r.x = (dense_ ? x + at : x_tile_.get()) + d * r.x_row;
      r.dx = (dx_in_place() ? dx + at : dx_tile_.get()) + d * r.dx_row;
      r.rows = stop - d;
      run_of_planes(r, first_tap, stop_tap, count, activation);
      sums_.count(r.rows * r.vectors);
    }
    if (!dense_ && dx) scatter(dx, d0, h0, planes, rows);
    sums_.flush_if_due(sums);
  }

  bool dx_in_place() const { return dense_ && p_.grad_x; }

  void run_of_planes(const BackwardRows<T>& r, int first_tap, int stop_tap, int64_t count,
                     const Activation<T>& activation) {
    if (taps_ == 0 || first_tap >= stop_tap) {
      for (int64_t row = 0; row < r.rows; ++row)
        std::memset(r.dx + row * r.dx_row, 0, size_t(count) * sizeof(T));
      return;
    }
    const int64_t skipped = int64_t(first_tap) * h_.taps * w_.taps;
    const auto go = [&](auto function) {
      function(r, stop_tap - first_tap, h_.taps, w_.taps, offsets_ + skipped, weights_ + skipped,
               activation, sums_.of(skipped), sums_.of(taps_));
    };
    if (wanted_.dx && wanted_.dw && copies_.slides()) {
      BackwardRows<T> by_row = r;
      by_row.source_step = by_row.x_step = by_row.dx_step = w_.targets;
      by_row.vectors = count / w_.targets;
      backward_sliding<false>(by_row, w_.targets / L, stop_tap - first_tap, 3, 1,
                              offsets_ + skipped, weights_ + skipped, activation, sums_.of(skipped),
                              sums_.of(taps_));
    } else if (wanted_.dx && wanted_.dw)
      go(backward_taps<true, true, false, T>);
    else if (wanted_.dx)
      go(backward_taps<true, false, false, T>);
    else
      go(backward_taps<false, true, false, T>);
  }

  void add_up(const MaskedGradient<T>& gradient) {
    const int64_t count = volume(p_.out);
    const bool filled_once =
        copies_.reads_all_once() && dense_ && taps_ && (wanted_.dx || wanted_.dw);
    if (!filled_once) {
      gradient.sum = Vec<T>{};
      for (int64_t at = 0; at < count; at += L)
        at + L <= count ? gradient(at) : gradient.first(at, count - at);
    }
    sums_.add(taps_ + kGradSum, gradient.sum);
  }

  int64_t place(int64_t d, int64_t h) const {
    return ((d * p_.stride[0] + phase_[0]) * p_.in[1] + h * p_.stride[1] + phase_[1]) * p_.in[2] +
           phase_[2];
  }
  void gather(const T* x, int64_t d0, int64_t h0, int64_t planes, int64_t rows) {
    T* to = x_tile_.get();
    for (int64_t d = d0; d < d0 + planes; ++d)
      for (int64_t h = h0; h < h0 + rows; ++h)
        for (int64_t w = 0; w < w_.targets; ++w) *to++ = x[place(d, h) + w * p_.stride[2]];
  }
  void scatter(T* dx, int64_t d0, int64_t h0, int64_t planes, int64_t rows) {
    const T* from = dx_tile_.get();
    for (int64_t d = d0; d < d0 + planes; ++d)
      for (int64_t h = h0; h < h0 + rows; ++h)
        for (int64_t w = 0; w < w_.targets; ++w) dx[place(d, h) + w * p_.stride[2]] = *from++;
  }

  const DepthwiseConv3d& p_;
  const Wanted wanted_;
  const bool first_phase_;
  const int64_t phase_[3];
  const Axis d_, h_, w_;
  const int64_t taps_;
  const bool dense_;
  Copies<T> copies_;
  int64_t offsets_[kMaxTaps];
  T weights_[kMaxTaps];
  TapSums<T> sums_;
  Scratch<T> x_tile_, dx_tile_;
};

}  // namespace eegfast::EEGFAST_ISA
