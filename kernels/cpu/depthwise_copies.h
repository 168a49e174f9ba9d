// SPDX-License-Identifier: BSD-3-Clause
// What a depthwise convolution of contiguous volumes reads: a tile of the source, copied to
// first-level cache once for each tap along the width.
//
// Copy j holds, for each target column, the column that tap j takes, or zero where there is none;
// its rows are as long as the target's. So all taps of kLanes neighbouring targets of the
// flattened plane are whole vectors at fixed distances, whatever the width: rows of 4 or 8 share a
// vector, no lane is empty and nothing is tested at the edges. Rows above and below are zeros;
// planes before and after are left to the caller to skip. With a stride along the height a copy
// keeps the rows of one remainder.
#pragma once

#include "depthwise_sliding.h"

namespace eegfast::EEGFAST_ISA {

template <class T>
Activation<T> activation_of_channel(const DepthwiseConv3d& p, int64_t chan) {
  return {broadcast<T>(value_or<T>(p.in_scale, chan, 1)),
          broadcast<T>(value_or<T>(p.in_shift, chan, 0)),
          broadcast<T>(p.in_relu ? T(0) : T(-HUGE_VAL)), broadcast<T>(p.in_relu ? T(0) : T(NAN)),
          !p.in_scale && !p.in_shift && !p.in_relu};
}

// Into the second-level cache, ahead of its use.
template <class T>
inline void fetch(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(from + i, 0, 2);
}

// Reads a volume through the activation before the convolution.
template <class T>
struct ActivatedInput {
  const T* x;
  const Activation<T>& activation;
  Vec<T> operator()(int64_t at) const {
    return activation.identity ? load(x + at) : activation(load(x + at));
  }
  Vec<T> first(int64_t at, int64_t count) const {
    return keep_first<T>(activation(load_first(x + at, count)), count);
  }
};

// Reads the gradient of a result y, where the ReLU behind it let it through, and adds it up.
template <class T>
struct MaskedGradient {
  const T* grad;
  const T* y;  // null without a ReLU
  mutable Vec<T> sum{};
  Vec<T> operator()(int64_t at) const {
    const Vec<T> g = load(grad + at);
    return counted(y ? masked(g, load(y + at)) : g);
  }
  Vec<T> first(int64_t at, int64_t count) const {
    const Vec<T> g = load_first(grad + at, count);
    return counted(y ? masked(g, load_first(y + at, count)) : g);
  }

 private:
  static Vec<T> masked(Vec<T> g, Vec<T> y) { return y <= Vec<T>{} ? Vec<T>{} : g; }
  Vec<T> counted(Vec<T> g) const {
    sum += g;
    return g;
  }
};

// The vectors that a backward pass adds up for a channel: of each tap, then of kChannelSums.
template <class T>
class TapSums {
 public:
  explicit TapSums(int64_t taps) : sums_(taps + kChannelSums), vectors_(round_up(sums_, L) * L) {
    clear();
  }
  T* of(int64_t sum) { return vectors_.get() + sum * L; }
  void add(int64_t sum, Vec<T> value) { store(of(sum), load(of(sum)) + value); }

  // Vectors that were added to each sum.
  void count(int64_t added) { added_ += added; }
  void flush_if_due(double* to) {
    if (added_ > kFlush) flush(to);
  }
  // Adds the sums over the lanes to the caller's, at `index`.
  void flush(double* to) {
    for (int64_t first = 0; first < sums_; first += L) {
      Vec<T> rows[L];
      T lanes[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) rows[i] = load(of(first + i));
      store(lanes, lane_sums<T>(rows));
      for (int64_t i = 0; i < smaller(L, sums_ - first); ++i)
        to[index[first + i]] += double(lanes[i]);
    }
    clear();
  }

  int64_t index[kMaxTaps + kChannelSums];

 private:
  static constexpr int L = kLanes<T>;
  void clear() {
    std::memset(vectors_.get(), 0, size_t(round_up(sums_, L) * L) * sizeof(T));
    added_ = 0;
  }
  const int64_t sums_;
  Scratch<T> vectors_;
  int64_t added_ = 0;
};

template <class T>
class Copies {
 public:
  static constexpr int L = kLanes<T>;
  static constexpr int64_t kRoom = 26 * 1024 / sizeof(T);  // of 32 KB

  Copies(const Axis& d, const Axis& h, const Axis& w)
      : d_(d),
        h_(h),
        w_(w),
        first_row_(floor_div(h.lowest(), h.step)),
        more_rows_(floor_div(h.highest(), h.step) - first_row_),
        row_length_(w.step * (w.targets - 1) + w.highest() - w.lowest() + 1),
        flat_(h.step == 1 && w.step == 1 && w.targets == w.sources),
        tile_(choose_tile(d, h, more_rows_, w.targets * w.taps * h.step, kRoom)),
        zeros_stay_(tile_.d >= d.targets && tile_.h >= h.targets),
        copy_(round_up((tile_.h + more_rows_) * w.targets, L) + L),
        plane_(copy_ * w.taps * h.step),
        size_(2 * L + plane_ * (d.step * (tile_.d - 1) + d.highest() - d.lowest() + 1)),
        scratch_(size_),
        row_(flat_ ? 0 : row_length_ + L),
        marks_(flat_ ? w.taps * (w.targets + L) : 0) {
    std::memset(scratch_.get(), 0, size_t(size_) * sizeof(T));
    if (flat_)
      mark_columns();
    else
      std::memset(row_.get(), 0, size_t(row_length_ + L) * sizeof(T));
  }
  Copies(const Copies&) = delete;

  // Whether the rows of a plane are whole vectors, the three taps along the height one row apart.
  bool slides() const {
    return flat_ && h_.taps == 3 && w_.taps == 3 && w_.targets % L == 0 && w_.targets > 0;
  }
  // Whether fill() reads each element of the source once: a tile is all of the targets, and none of
  // the source lies out of their reach.
  bool reads_all_once() const {
    const auto covered = [](const Axis& a) {
      return a.lowest() <= 0 && a.step * (a.targets - 1) + a.highest() >= a.sources - 1;
    };
    return zeros_stay_ && covered(d_) && covered(h_) && covered(w_);
  }
  int64_t tile_d() const { return tile_.d; }
  int64_t tile_h() const { return tile_.h; }

  // From the vector of a target to what its tap takes.
  int64_t offset(int d, int h, int w) const {
    const int64_t row = floor_div(h_.shift[h], h_.step);
    const int64_t copy = (h_.shift[h] - row * h_.step) * w_.taps + w;
    return (d_.shift[d] - d_.lowest()) * plane_ + copy * copy_ + (row - first_row_) * w_.targets;
  }
  // The first target of the tile's plane number d.
  const T* plane(int64_t d) const { return data() + d * d_.step * plane_; }
  int64_t plane_distance() const { return d_.step * plane_; }

  // Copies what the targets of the tile at (d0, h0) take from a volume.
  template <class Read>
  void fill(int64_t d0, int64_t h0, const Read& read) {
    const int64_t first = d_.step * d0 + d_.lowest();
    const int64_t last = d_.step * (smaller(d0 + tile_.d, d_.targets) - 1) + d_.highest();
    for (int64_t d = larger(first, 0); d <= smaller(last, d_.sources - 1); ++d) {
      T* plane = data() + (d - first) * plane_;
      flat_ ? fill_flat(plane, d, h0, read) : fill_rows(plane, d, h0, read);
    }
  }

 private:
  static int64_t floor_div(int64_t a, int64_t b) { return (a >= 0 ? a : a - b + 1) / b; }
  T* data() const { return scratch_.get() + L; }

  // All bits set where a tap has a column, for columns 0 .. targets + L - 1 (they wrap round).
  void mark_columns() {
    using I = typename BitsOf<T>::type;
    for (int tap = 0; tap < w_.taps; ++tap) {
      T* marks = marks_.get() + tap * (w_.targets + L);
      for (int64_t i = 0; i < w_.targets + L; ++i) {
        const I bits = w_.exists(i % w_.targets, tap) ? I(-1) : I(0);
        std::memcpy(marks + i, &bits, sizeof bits);
      }
      if (w_.shift[tap] == 0) middle_ = tap;
    }
  }

  // Target rows are as long as source rows: a copy is the flat plane, moved, its edge columns zero.
  template <class Read>
  void fill_flat(T* plane, int64_t d, int64_t h0, const Read& read) {
    const int64_t width = w_.targets, rows = tile_.h + more_rows_;
    const int64_t first = smaller(rows, larger(0, -(h0 + first_row_)));
    const int64_t stop = larger(first, smaller(rows, h_.sources - (h0 + first_row_)));
    const int64_t count = (stop - first) * width;
    const int64_t from = (d * h_.sources + h0 + first_row_ + first) * width;
    T* const middle = plane + middle_ * copy_;
    T* const to = middle + first * width;
    if (zeros_stay_ && L % width == 0 && w_.taps == 3 && middle_ == 1)
      return fill_whole_rows(plane + first * width, from, count, read);
    int64_t i = 0;
    for (; i + L <= count; i += L) store(to + i, read(from + i));
    if (i < count) store(to + i, read.first(from + i, count - i));
    if (!zeros_stay_) {
      std::memset(middle, 0, size_t(first * width) * sizeof(T));
      std::memset(middle + stop * width, 0, size_t(copy_ - stop * width) * sizeof(T));
    }
    const int64_t begin = zeros_stay_ ? first * width : 0;
    const int64_t end = zeros_stay_ ? stop * width : rows * width;
    for (int tap = 0; tap < w_.taps; ++tap)
      if (tap != middle_) move(middle + w_.shift[tap], tap, begin, end, plane + tap * copy_);
  }

  // Where vectors hold whole rows, the neighbours of each column are in the same vector.
  template <class Read>
  void fill_whole_rows(T* to, int64_t from, int64_t count, const Read& read) const {
    const Bits<T> before = marks(0, 0), after = marks(2, 0);
    const auto put = [&](int64_t i, Vec<T> v) {
      store(to + i, keep_marked<T>(move_lanes<-1, T>(v), before));
      store(to + i + copy_, v);
      store(to + i + 2 * copy_, keep_marked<T>(move_lanes<1, T>(v), after));
    };
    int64_t i = 0;
    for (; i + L <= count; i += L) put(i, read(from + i));
    if (i < count) put(i, read.first(from + i, count - i));
  }

  Bits<T> marks(int tap, int64_t column) const {
    Bits<T> bits;
    std::memcpy(&bits, &marks_[tap * (w_.targets + L) + column], sizeof bits);
    return bits;
  }

  // to[k] = from[k] where k's column has this tap, else zero.
  void move(const T* from, int tap, int64_t begin, int64_t end, T* to) const {
    const int64_t width = w_.targets, advance = L % width;
    int64_t column = 0;
    for (int64_t k = begin; k < end; k += L) {
      store(to + k, keep_marked<T>(load(from + k), marks(tap, column)));
      column += advance;
      if (column >= width) column -= width;
    }
  }

  template <class Read>
  void fill_rows(T* plane, int64_t d, int64_t h0, const Read& read) {
    const int64_t lowest = w_.lowest();
    const int64_t first = larger(0, lowest), stop = smaller(w_.sources, lowest + row_length_);
    for (int64_t row = 0; row < tile_.h + more_rows_; ++row)
      for (int64_t rest = 0; rest < h_.step; ++rest) {
        const int64_t h = h_.step * (h0 + first_row_ + row) + rest;
        T* to = plane + rest * w_.taps * copy_ + row * w_.targets;
        if (h < 0 || h >= h_.sources) {
          for (int tap = 0; tap < w_.taps; ++tap)
            std::memset(to + tap * copy_, 0, size_t(w_.targets) * sizeof(T));
          continue;
        }
        const int64_t from = (d * h_.sources + h) * w_.sources;
        for (int64_t i = first; i < stop; i += L) {
          const int64_t count = smaller(L, stop - i);
          store_first(&row_[i - lowest], read.first(from + i, count), count);
        }
        for (int tap = 0; tap < w_.taps; ++tap) {
          const T* taken = &row_[w_.shift[tap] - lowest];
          for (int64_t i = 0; i < w_.targets; ++i) to[tap * copy_ + i] = taken[i * w_.step];
        }
      }
  }

  const Axis d_, h_, w_;
  const int64_t first_row_, more_rows_, row_length_;
  const bool flat_;
  const Tile tile_;
  const bool zeros_stay_;  // with one tile the zero rows stay zero from volume to volume
  const int64_t copy_, plane_, size_;
  mutable Scratch<T> scratch_, row_, marks_;
  int middle_ = 0;
};

}  // namespace eegfast::EEGFAST_ISA
