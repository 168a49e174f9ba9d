// SPDX-License-Identifier: BSD-3-Clause
// Depthwise convolution of channels-last volumes: a lane is a channel, a call of run() a block of
// kLanes channels of one sample (forward) or of several (backward).
//
// The block's source is copied to a padded volume of vectors, row by row as the targets need
// them, so that the taps find what is in the first-level cache and no edge needs a test.
#pragma once

#include "depthwise_sliding.h"

namespace eegfast::EEGFAST_ISA {

template <class T>
class PaddedVectors {
 public:
  static constexpr int L = kLanes<T>;
  static constexpr int64_t kRoom = 160 * 1024 / sizeof(T);  // a part of the second-level cache

  PaddedVectors(const Axis& d, const Axis& h, const Axis& w)
      : d_(d),
        h_(h),
        w_(w),
        row_((w.step * (w.targets - 1) + w.highest() - w.lowest() + 1) * L),
        tile_(choose_tile(d, h, h.highest() - h.lowest(), row_ * h.step, kRoom)),
        rows_(h.step * (tile_.h - 1) + h.highest() - h.lowest() + 1),
        plane_(rows_ * row_ + L),
        size_(plane_ * (d.step * (tile_.d - 1) + d.highest() - d.lowest() + 1)),
        scratch_(larger(0, size_)) {
    if (size_ > 0) std::memset(scratch_.get(), 0, size_t(size_) * sizeof(T));
  }

  Tile tile() const { return tile_; }
  // Whether the three taps along the width are one position apart.
  bool slides() const { return h_.taps == 3 && w_.taps == 3 && w_.step == 1; }
  int64_t offset(int d, int h, int w) const {
    return (d_.shift[d] - d_.lowest()) * plane_ + (h_.shift[h] - h_.lowest()) * row_ +
           (w_.shift[w] - w_.lowest()) * L;
  }
  // The first target of row h of plane d of the tile.
  const T* row(int64_t d, int64_t h) {
    return scratch_.get() + d * d_.step * plane_ + h * h_.step * row_;
  }
  int64_t plane_distance() const { return d_.step * plane_; }
  int64_t step() const { return w_.step * L; }

  void start_tile(int64_t d0, int64_t h0) {
    d0_ = d0;
    h0_ = h0;
    filled_ = 0;
  }
  // Copies what row h of the tile takes beyond the rows before it. read(d, h, w) gives a vector.
  template <class Read>
  void fill_for_row(int64_t h, const Read& read) {
    const int64_t first = d_.step * d0_ + d_.lowest();
    const int64_t last = d_.step * (smaller(d0_ + tile_.d, d_.targets) - 1) + d_.highest();
    const int64_t stop = smaller(rows_, h * h_.step + h_.highest() - h_.lowest() + 1);
    for (; filled_ < stop; ++filled_)
      for (int64_t d = larger(first, 0); d <= smaller(last, d_.sources - 1); ++d)
        fill_row(scratch_.get() + (d - first) * plane_ + filled_ * row_, d,
                 h0_ * h_.step + h_.lowest() + filled_, read);
  }

 private:
  template <class Read>
  void fill_row(T* to, int64_t d, int64_t h, const Read& read) {
    if (h < 0 || h >= h_.sources) {
      std::memset(to, 0, size_t(row_) * sizeof(T));
      return;
    }
    const int64_t first = larger(0, w_.lowest());
    const int64_t stop = smaller(w_.sources, row_ / L + w_.lowest());
    for (int64_t w = first; w < stop; ++w) store(to + (w - w_.lowest()) * L, read(d, h, w));
  }

  const Axis d_, h_, w_;
  const int64_t row_;
  const Tile tile_;
  const int64_t rows_, plane_, size_;
  Scratch<T> scratch_;
  int64_t d0_ = 0, h0_ = 0, filled_ = 0;
};

// Up to kLanes neighbouring channels of a sample.
template <class T>
struct ChannelBlock {
  static constexpr int L = kLanes<T>;

  ChannelBlock(const DepthwiseConv3d& p, int64_t block)
      : first(block * L), lanes(smaller(L, p.chans - first)) {}

  Vec<T> load_block(const T* at) const { return lanes == L ? load(at) : load_first(at, lanes); }
  Vec<T> per_channel(const void* values, T otherwise) const {
    return values ? load_block(static_cast<const T*>(values) + first) : broadcast<T>(otherwise);
  }
  Activation<T> activation(const DepthwiseConv3d& p) const {
    return {per_channel(p.in_scale, 1), per_channel(p.in_shift, 0),
            broadcast<T>(p.in_relu ? T(0) : T(-HUGE_VAL)), broadcast<T>(p.in_relu ? T(0) : T(NAN)),
            !p.in_scale && !p.in_shift && !p.in_relu};
  }
  // weights: (taps, lanes), those of index[0 .. taps - 1] in the kernel.
  void fold_weights(const DepthwiseConv3d& p, const int64_t* index, int64_t taps,
                    T* weights) const {
    const T* from = static_cast<const T*>(p.weight) + first * volume(p.kernel);
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t lane = 0; lane < L; ++lane)
        weights[tap * L + lane] = lane < lanes ? from[lane * volume(p.kernel) + index[tap]] *
                                                     value_or<T>(p.out_scale, first + lane, 1)
                                               : T(0);
  }

  const int64_t first, lanes;
};

// Where a volume of (batch, d, h, w, chans) holds a block of channels.
template <class T>
struct BlockVolume {
  BlockVolume(const void* data, const DepthwiseConv3d& p, const int64_t* size, int64_t sample,
              const ChannelBlock<T>& block)
      : base(static_cast<T*>(const_cast<void*>(data)) + sample * volume(size) * p.chans +
             block.first),
        step(p.chans),
        row(size[2] * step),
        plane(size[1] * row) {}
  T* at(int64_t d, int64_t h, int64_t w) const { return base + d * plane + h * row + w * step; }

  T* const base;
  const int64_t step, row, plane;
};

template <class T>
class ChannelsForward {
 public:
  explicit ChannelsForward(const DepthwiseConv3d& p)
      : p_(p),
        d_(forward_axis(p, 0)),
        source_(d_, forward_axis(p, 1), forward_axis(p, 2)),
        weights_(volume(p.kernel) * L) {
    int tap = 0;
    for (int d = 0; d < p.kernel[0]; ++d)
      for (int h = 0; h < p.kernel[1]; ++h)
        for (int w = 0; w < p.kernel[2]; ++w) {
          offsets_[tap] = source_.offset(d, h, w);
          index_[tap] = tap;
          ++tap;
        }
  }

  void run(int64_t sample, int64_t number) {
    const ChannelBlock<T> block(p_, number);
    block.fold_weights(p_, index_, volume(p_.kernel), weights_.get());
    const Vec<T> start = block.per_channel(p_.bias, 0) * block.per_channel(p_.out_scale, 1) +
                         block.per_channel(p_.out_shift, 0);
    const Activation<T> activation = block.activation(p_);
    const BlockVolume<T> x(p_.x, p_, p_.in, sample, block), y(p_.y, p_, p_.out, sample, block);
    const auto read = [&](int64_t d, int64_t h, int64_t w) {
      const Vec<T> v = block.load_block(x.at(d, h, w));
      return activation.identity ? v : activation(v);
    };
    const Tile tile = source_.tile();
    for (int64_t d0 = 0; d0 < p_.out[0]; d0 += tile.d)
      for (int64_t h0 = 0; h0 < p_.out[1]; h0 += tile.h) {
        source_.start_tile(d0, h0);
        for (int64_t h = 0; h < smaller(tile.h, p_.out[1] - h0); ++h) {
          source_.fill_for_row(h, read);
          for (int64_t d = 0; d < smaller(tile.d, p_.out[0] - d0); ++d)
            row(d0 + d, source_.row(d, h), start, y.at(d0 + d, h0 + h, 0), block.lanes);
        }
      }
  }

 private:
  static constexpr int L = kLanes<T>;

  void row(int64_t d, const T* source, Vec<T> start, T* out, int64_t lanes) {
    const int64_t taps = p_.kernel[1] * p_.kernel[2];
    const int64_t first = d_.first_tap(d) * taps, stop = d_.stop_tap(d) * taps;
    for (int64_t left = p_.out[2]; left > 0;) {
      const int64_t size = next_block(left);
      positions<kBlock>(size, source, first, stop, start, out, lanes);
      left -= size;
      source += size * source_.step();
      out += size * p_.chans;
    }
  }

  template <int V>
  void positions(int64_t size, const T* source, int64_t first, int64_t stop, Vec<T> start, T* out,
                 int64_t lanes) {
    if constexpr (V > 1) {
      if (size < V) return positions<V - 1>(size, source, first, stop, start, out, lanes);
    }
    Vec<T> sums[V];
    if (source_.slides())
      correlate_sliding<V, true, T>(source, L, weights_.get(), offsets_, first, stop, 1, 3, start,
                                    sums);
    else
      correlate<V, true, T>(source, source_.step(), weights_.get(), offsets_, first, stop, start,
                            sums);
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      if (p_.out_relu) sums[v] = at_least<T>(sums[v], Vec<T>{});
      lanes == L ? store(out + v * p_.chans, sums[v])
                 : store_first(out + v * p_.chans, sums[v], lanes);
    }
  }

  const DepthwiseConv3d& p_;
  const Axis d_;
  PaddedVectors<T> source_;
  int64_t offsets_[kMaxTaps], index_[kMaxTaps];
  Scratch<T> weights_;
};

// The inputs of one phase of the strides (without strides: all).
template <class T>
class ChannelsBackward {
 public:
  ChannelsBackward(const DepthwiseConv3d& p, int64_t phase)
      : p_(p),
        wanted_(p),
        first_phase_(phase == 0),
        phase_{phase / (p.stride[1] * p.stride[2]), phase / p.stride[2] % p.stride[1],
               phase % p.stride[2]},
        d_(backward_axis(p, 0, phase_[0])),
        h_(backward_axis(p, 1, phase_[1])),
        w_(backward_axis(p, 2, phase_[2])),
        taps_(int64_t(d_.taps) * h_.taps * w_.taps),
        source_(d_, h_, w_),
        weights_(taps_ * L),
        sums_((taps_ + kChannelSums) * L),
        totals_((taps_ + kChannelSums) * L),
        dx_row_(p.grad_x ? 0 : source_.tile().d * w_.targets * L) {
    list_backward_taps(
        p, d_, h_, w_, [&](int d, int h, int w) { return source_.offset(d, h, w); }, offsets_,
        index_);
    std::memset(sums_.get(), 0, size_t((taps_ + kChannelSums) * L) * sizeof(T));
    std::memset(totals_.get(), 0, size_t((taps_ + kChannelSums) * L) * sizeof(double));
  }

  // Samples begin .. end - 1; adds to sums, (kLanes, kernel + kChannelSums).
  void run(int64_t begin, int64_t end, int64_t number, double* sums) {
    const ChannelBlock<T> block(p_, number);
    block.fold_weights(p_, index_, taps_, weights_.get());
    const Activation<T> activation = block.activation(p_);
    for (int64_t n = begin; n < end; ++n) {
      const BlockVolume<T> grad(p_.grad, p_, p_.out, n, block), y(p_.y, p_, p_.out, n, block);
      const auto read = [&](int64_t d, int64_t h, int64_t w) {
        const Vec<T> g = block.load_block(grad.at(d, h, w));
        if (!p_.out_relu) return g;
        return block.load_block(y.at(d, h, w)) <= Vec<T>{} ? Vec<T>{} : g;
      };
      if (wanted_.sum && first_phase_) add_up(read);
      if (!wanted_.dx && !wanted_.dw) continue;
      const BlockVolume<T> x(p_.x, p_, p_.in, n, block), dx(p_.grad_x, p_, p_.in, n, block);
      const Tile tile = source_.tile();
      for (int64_t d0 = 0; d0 < d_.targets; d0 += tile.d)
        for (int64_t h0 = 0; h0 < h_.targets; h0 += tile.h) {
          source_.start_tile(d0, h0);
          for (int64_t h = 0; h < smaller(tile.h, h_.targets - h0); ++h) {
            if (taps_) source_.fill_for_row(h, read);
            rows(d0, h0, h, x, dx, activation, block.lanes);
            if (steps_ > kFlush) flush();
          }
        }
    }
    flush();
    const int64_t count = volume(p_.kernel) + kChannelSums;
    for (int64_t lane = 0; lane < L; ++lane)
      for (int64_t i = 0; i < taps_ + kChannelSums; ++i) {
        sums[lane * count + index_[i]] += totals_[i * L + lane];
        totals_[i * L + lane] = 0;
      }
  }

 private:
  static constexpr int L = kLanes<T>;

  // Row h of the tile in all of its planes.
  void rows(int64_t d0, int64_t h0, int64_t h, const BlockVolume<T>& x, const BlockVolume<T>& dx,
            const Activation<T>& activation, int64_t lanes) {
    const int64_t planes = smaller(source_.tile().d, d_.targets - d0);
    const int64_t in_h = (h0 + h) * p_.stride[1] + phase_[1];
    BackwardRows<T> r{};
    r.source_row = source_.plane_distance();
    r.source_step = source_.step();
    r.x_row = p_.stride[0] * x.plane;
    r.x_step = p_.stride[2] * x.step;
    r.dx_row = p_.grad_x ? r.x_row : w_.targets * L;
    r.dx_step = p_.grad_x ? r.x_step : L;
    r.vectors = w_.targets;
    r.last_lanes = r.other_lanes = lanes;
    for (int64_t d = 0, stop; d < planes; d = stop) {
      const int first_tap = d_.first_tap(d0 + d), stop_tap = d_.stop_tap(d0 + d);
      stop = d_.end_of_run(d0 + d, d0 + planes) - d0;
      const int64_t in_d = (d0 + d) * p_.stride[0] + phase_[0];
      r.source = source_.row(d, h);
      r.x = x.at(in_d, in_h, phase_[2]);
      r.dx = p_.grad_x ? dx.at(in_d, in_h, phase_[2]) : dx_row_.get() + d * r.dx_row;
      r.rows = stop - d;
      run_of_rows(r, first_tap, stop_tap, activation);
      steps_ += r.rows * r.vectors;
    }
  }

  void run_of_rows(const BackwardRows<T>& r, int first_tap, int stop_tap,
                   const Activation<T>& activation) {
    if (taps_ == 0 || first_tap >= stop_tap) {
      for (int64_t row = 0; row < r.rows; ++row)
        for (int64_t v = 0; v < r.vectors; ++v)
          store_first(r.dx + row * r.dx_row + v * r.dx_step, Vec<T>{}, r.last_lanes);
      return;
    }
    const int64_t skipped = int64_t(first_tap) * h_.taps * w_.taps;
    const auto go = [&](auto function) {
      function(r, stop_tap - first_tap, h_.taps, w_.taps, offsets_ + skipped,
               weights_.get() + skipped * L, activation, sums_.get() + skipped * L,
               sums_.get() + taps_ * L);
    };
    if (wanted_.dx && wanted_.dw && source_.slides() && r.last_lanes == L)
      backward_sliding<true>(r, 1, stop_tap - first_tap, 1, 3, offsets_ + skipped,
                             weights_.get() + skipped * L, activation, sums_.get() + skipped * L,
                             sums_.get() + taps_ * L);
    else if (wanted_.dx && wanted_.dw)
      go(backward_taps<true, true, true, T>);
    else if (wanted_.dx)
      go(backward_taps<true, false, true, T>);
    else
      go(backward_taps<false, true, true, T>);
  }

  template <class Read>
  void add_up(const Read& read) {
    T* const to = sums_.get() + (taps_ + kGradSum) * L;
    for (int64_t d = 0; d < p_.out[0]; ++d)
      for (int64_t h = 0; h < p_.out[1]; ++h) {
        Vec<T> sum{};
        for (int64_t w = 0; w < p_.out[2]; ++w) sum += read(d, h, w);
        store(to, load(to) + sum);
        if ((steps_ += p_.out[2]) > kFlush) flush();
      }
  }

  void flush() {
    for (int64_t i = 0; i < (taps_ + kChannelSums) * L; ++i) {
      totals_[i] += double(sums_[i]);
      sums_[i] = 0;
    }
    steps_ = 0;
  }

  const DepthwiseConv3d& p_;
  const Wanted wanted_;
  const bool first_phase_;
  const int64_t phase_[3];
  const Axis d_, h_, w_;
  const int64_t taps_;
  PaddedVectors<T> source_;
  int64_t offsets_[kMaxTaps];
  int64_t index_[kMaxTaps + kChannelSums];  // of each sum in the caller's
  Scratch<T> weights_, sums_;
  Scratch<double> totals_;
  Scratch<T> dx_row_;
  int64_t steps_ = 0;
};

}  // namespace eegfast::EEGFAST_ISA
