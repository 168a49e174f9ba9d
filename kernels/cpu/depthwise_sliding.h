// SPDX-License-Identifier: BSD-3-Clause
// Depthwise taps of 3 x 3 planes where the results of one tap are those of the next, moved: a
// vector is loaded once and serves three rows of results.
#pragma once

#include "depthwise_taps.h"

namespace eegfast::EEGFAST_ISA {

// correlate() for 3 x 3 taps of each plane of the kernel, three of which (`slide` apart in the
// lists) follow each other at the distance of neighbouring results: so a vector is loaded once for
// three of them. `other` is the distance of the other three in the lists.
template <int V, bool PerLane, class T>
inline void correlate_sliding(const T* source, int64_t step, const T* weights,
                              const int64_t* offsets, int64_t first_tap, int64_t stop_tap,
                              int64_t slide, int64_t other, Vec<T> start, Vec<T>* sums) {
#pragma GCC unroll 16
  for (int v = 0; v < V; ++v) sums[v] = start;
  for (int64_t plane = first_tap; plane < stop_tap; plane += 9)
    for (int64_t tap = plane; tap < plane + 3 * other; tap += other) {
      Vec<T> weight[3];
#pragma GCC unroll 3
      for (int k = 0; k < 3; ++k) weight[k] = weight_of_tap<PerLane>(weights, tap + k * slide);
      const T* from = source + offsets[tap];
#pragma GCC unroll 18
      for (int i = 0; i < V + 2; ++i) {
        const Vec<T> value = load(from + i * step);
#pragma GCC unroll 3
        for (int k = 0; k < 3; ++k)
          if (i >= k && i - k < V) sums[i - k] += weight[k] * value;
      }
    }
}

// The sliding form of both gradients, 3 x 3 taps of one plane of the kernel at a time: a vector,
// loaded once, serves three rows. Row r of column c and vector v lies at r * source_row + c * L +
// v * source_step; vectors are whole.
template <bool PerLane, class T>
class SlidingPass {
 public:
  static constexpr int L = kLanes<T>;

  // slide and other as above; the taps' first source is rows.source.
  static void run(const BackwardRows<T>& r, int64_t columns, int64_t other_distance, int slide,
                  int other, const T* weights, const Activation<T>& activation, bool first,
                  bool last, T* tap_sums, T* activation_sums) {
    SlidingPass pass(r, other_distance, activation, first, last);
    T* const sums_at[2] = {tap_sums, activation_sums};
#pragma GCC unroll 3
    for (int m = 0; m < 3; ++m)
#pragma GCC unroll 3
      for (int k = 0; k < 3; ++k) {
        const int tap = m * other + k * slide;
        pass.weight_[m][k] = weight_of_tap<PerLane>(weights, tap);
        pass.sums_[m][k] = load(sums_at[0] + tap * L);
      }
    for (int i = 0; i < kActivationSums; ++i) pass.more_[i] = load(sums_at[1] + i * L);
    pass.all(columns);
#pragma GCC unroll 3
    for (int m = 0; m < 3; ++m)
#pragma GCC unroll 3
      for (int k = 0; k < 3; ++k) store(sums_at[0] + (m * other + k * slide) * L, pass.sums_[m][k]);
    for (int i = 0; i < kActivationSums; ++i) store(sums_at[1] + i * L, pass.more_[i]);
  }

 private:
  SlidingPass(const BackwardRows<T>& r, int64_t other_distance, const Activation<T>& activation,
              bool first, bool last)
      : r_(r), other_(other_distance), activation_(activation), first_(first), last_(last) {}

  inline __attribute__((always_inline)) void all(int64_t columns) {
    for (int64_t row = 0; row < r_.rows; ++row)
      for (int64_t column = 0; column < columns; ++column) {
        const T* source = r_.source + row * r_.source_row + column * L;
        const T* x = r_.x + row * r_.x_row + column * L;
        T* dx = r_.dx + row * r_.dx_row + column * L;
        int64_t v = 0;
        for (; v + 4 <= r_.vectors; v += 4)
          block<4>(source + v * r_.source_step, x + v * r_.x_step, dx + v * r_.dx_step);
        for (; v < r_.vectors; ++v)
          block<1>(source + v * r_.source_step, x + v * r_.x_step, dx + v * r_.dx_step);
      }
  }

  template <int V>
  inline __attribute__((always_inline)) void block(const T* source, const T* x, T* dx) {
    Vec<T> active[V], sum[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      active[v] = load(x + v * r_.x_step);
      sum[v] = first_ ? Vec<T>{} : load(dx + v * r_.dx_step);
    }
    if (!activation_.identity) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) active[v] = activation_(active[v]);
    }
#pragma GCC unroll 3
    for (int m = 0; m < 3; ++m)
#pragma GCC unroll 6
      for (int i = 0; i < V + 2; ++i) {
        const Vec<T> grad = load(source + m * other_ + i * r_.source_step);
#pragma GCC unroll 3
        for (int k = 0; k < 3; ++k)
          if (i >= k && i - k < V) {
            sum[i - k] += grad * weight_[m][k];
            sums_[m][k] += grad * active[i - k];
          }
      }
    if (last_ && !activation_.identity) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        sum[v] = active[v] <= activation_.dead ? Vec<T>{} : sum[v];
        more_[kScaleSum] += sum[v] * load(x + v * r_.x_step);
        more_[kShiftSum] += sum[v];
        sum[v] *= activation_.scale;
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) store(dx + v * r_.dx_step, sum[v]);
  }

  const BackwardRows<T> r_;
  const int64_t other_;
  const Activation<T> activation_;
  const bool first_, last_;
  Vec<T> weight_[3][3], sums_[3][3], more_[kActivationSums];
};

// backward_taps() by SlidingPass: slide and other are 1 and 3, or 3 and 1.
template <bool PerLane, class T>
void backward_sliding(const BackwardRows<T>& rows, int64_t columns, int kd, int slide, int other,
                      const int64_t* offsets, const T* weights, const Activation<T>& activation,
                      T* tap_sums, T* activation_sums) {
  constexpr int L = kLanes<T>;
  for (int done = 0; done < 9 * kd; done += 9) {
    BackwardRows<T> moved = rows;
    moved.source += offsets[done];
    SlidingPass<PerLane, T>::run(moved, columns, offsets[done + other] - offsets[done], slide,
                                 other, weights + done * (PerLane ? L : 1), activation, done == 0,
                                 done + 9 == 9 * kd, tap_sums + done * L, activation_sums);
  }
}

}  // namespace eegfast::EEGFAST_ISA
