// SPDX-License-Identifier: BSD-3-Clause
// Register tiles of mobile_unit3d: how samples lie in scratch, small products over channels, and
// the depthwise taps. Everything is compiled for the fused multiply-adds to be the only limit.
#pragma once

#include "simd.h"

namespace eegfast::EEGFAST_ISA {

constexpr bool kManyRegisters = kVectorBytes == 64;  // 32 registers, else 16

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The voxels of one channel of `samples` samples: (depth, height, vectors, lanes). A row of W
// voxels is padded to whole vectors; rows shorter than a vector lie side by side, one sample's
// behind the other's, so that planes 8, 4 or 2 wide leave no lane empty. `left` and `right` mask
// what a tap reads one voxel before or behind each lane: zero outside the row, and in lanes that
// hold no voxel.
template <class T>
class Grid {
 public:
  static constexpr int L = kLanes<T>;
  static constexpr int64_t kLine = 64 / sizeof(T);

  Grid(int64_t depth, int64_t height, int64_t width)
      : depth(depth),
        height(height),
        width(width),
        samples(larger(L / width, 1)),
        vectors(ceil_div(width, L)),
        row(vectors * L),
        plane(height * row),
        volume(depth * plane),
        // An odd number of cache lines: the same voxel of several channels falls into different
        // sets, and no load waits for a store 4 KB away.
        channel((ceil_div(volume, kLine) | 1) * kLine),
        left_(vectors),
        right_(vectors) {
    for (int64_t v = 0; v < vectors; ++v) {
      left_[v] = right_[v] = LaneChoice<T>{};
      for (int lane = 0; lane < L; ++lane) {
        const int64_t column = v * L + lane, w = column % width;
        if (column >= samples * width) break;
        if (w > 0) choose_lane<T>(left_[v], lane);
        if (w + 1 < width) choose_lane<T>(right_[v], lane);
      }
    }
  }

  LaneChoice<T> left(int64_t v) const { return left_[v]; }
  LaneChoice<T> right(int64_t v) const { return right_[v]; }
  bool dense() const { return row == width; }

  // Copies one channel of one sample to its lanes or back.
  void spread(const T* from, T* to, int64_t sample) const {
    to += sample * width;
    each_row([&](int64_t r, auto w) {
      std::memcpy(to + r * row, from + r * int64_t(w), size_t(w) * sizeof(T));
    });
  }
  void gather(const T* from, T* to, int64_t sample) const {
    from += sample * width;
    each_row([&](int64_t r, auto w) {
      std::memcpy(to + r * int64_t(w), from + r * row, size_t(w) * sizeof(T));
    });
  }

  const int64_t depth, height, width, samples, vectors, row, plane, volume, channel;

 private:
  template <int W>
  using Width = std::integral_constant<int, W>;
  template <class Copy>
  void each_row(const Copy& copy) const {
    const auto rows = [&](auto w) {
      for (int64_t r = 0; r < depth * height; ++r) copy(r, w);
    };
    switch (width) {
      case 2:
        return rows(Width<2>());
      case 4:
        return rows(Width<4>());
      case 8:
        return rows(Width<8>());
      case 16:
        return rows(Width<16>());
      default:
        return rows(width);
    }
  }

  Scratch<LaneChoice<T>> left_, right_;
};

// A small matrix in memory: element (i, k) at data[i * row + k * column].
template <class T>
struct Matrix {
  const T* data;
  int64_t row, column;
};

// Channels of voxels: channel c begins at data + c * stride.
template <class P>
struct Channels {
  P* data;
  int64_t stride;
  P* operator[](int64_t c) const { return data + c * stride; }
};

enum class Mix { kSet, kAdd, kBiasRelu };

// out[m] (+)= sum_k w[m, k] in[k] over V vectors.
template <Mix mode, int M, int V, class T>
inline void mix_tile(T* out, int64_t out_stride, const T* in, int64_t in_stride, int64_t K,
                     const T* w, int64_t w_row, int64_t w_column, const T* bias) {
  constexpr int L = kLanes<T>;
  Vec<T> sum[M][V];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if constexpr (mode == Mix::kAdd) sum[m][v] = load(out + m * out_stride + v * L);
      if constexpr (mode == Mix::kSet) sum[m][v] = Vec<T>{};
      if constexpr (mode == Mix::kBiasRelu) sum[m][v] = broadcast(bias[m]);
    }
  for (int64_t k = 0; k < K; ++k) {
    Vec<T> x[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) x[v] = load(in + v * L);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const Vec<T> weight = broadcast(w[m * w_row]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[m][v] += weight * x[v];
    }
    in += in_stride;
    w += w_column;
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
      store(out + m * out_stride + v * L, mode == Mix::kBiasRelu ? relu<T>(sum[m][v]) : sum[m][v]);
}

template <Mix mode, int M, class T>
inline void mix_rows(Channels<T> out, Channels<const T> in, int64_t K, Matrix<T> w, const T* bias,
                     int64_t begin, int64_t end) {
  constexpr int L = kLanes<T>;
  constexpr int V = kManyRegisters ? 4 : 2;
  int64_t i = begin;
  const auto tile = [&](auto count) {
    constexpr int n = decltype(count)::value;
    for (; i + n * L <= end; i += n * L)
      mix_tile<mode, M, n>(out.data + i, out.stride, in.data + i, in.stride, K, w.data, w.row,
                           w.column, bias);
  };
  tile(std::integral_constant<int, V>());
  if constexpr (V > 2) tile(std::integral_constant<int, 2>());
  tile(std::integral_constant<int, 1>());
}

// out[m] (+)= sum_k w[m, k] in[k] for m < M, at the elements begin .. end (whole vectors).
template <Mix mode, class T>
void mix(Channels<T> out, int64_t M, Channels<const T> in, int64_t K, Matrix<T> w, const T* bias,
         int64_t begin, int64_t end) {
  int64_t m = 0;
  const auto rows = [&](auto count) {
    constexpr int n = decltype(count)::value;
    for (; m + n <= M; m += n)
      mix_rows<mode, n>(Channels<T>{out[m], out.stride}, in, K,
                        Matrix<T>{w.data + m * w.row, w.row, w.column}, bias ? bias + m : bias,
                        begin, end);
  };
  rows(std::integral_constant<int, 4>());
  rows(std::integral_constant<int, 2>());
  rows(std::integral_constant<int, 1>());
}

// sums[m * sums_row + k] += a[m] b[k], lane by lane, over n elements (whole vectors).
template <int M, int K, class T>
inline void outer_tile(const T* a, int64_t a_stride, const T* b, int64_t b_stride, int64_t n,
                       Vec<T>* sums, int64_t sums_row) {
  Vec<T> sum[M][K];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) sum[m][k] = sums[m * sums_row + k];
  for (int64_t i = 0; i < n; i += kLanes<T>) {
    Vec<T> y[K];
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) y[k] = load(b + k * b_stride + i);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const Vec<T> x = load(a + m * a_stride + i);
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) sum[m][k] += x * y[k];
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) sums[m * sums_row + k] = sum[m][k];
}

template <class T>
void outer(Channels<const T> a, int64_t M, Channels<const T> b, int64_t K, int64_t begin,
           int64_t end, Vec<T>* sums, int64_t sums_row) {
  constexpr int kWide = kManyRegisters ? 4 : 2;
  const auto tiles = [&](auto rows, int64_t m) {
    constexpr int M1 = decltype(rows)::value;
    int64_t k = 0;
    for (; k + kWide <= K; k += kWide)
      outer_tile<M1, kWide>(a[m] + begin, a.stride, b[k] + begin, b.stride, end - begin,
                            sums + m * sums_row + k, sums_row);
    for (; k < K; ++k)
      outer_tile<M1, 1>(a[m] + begin, a.stride, b[k] + begin, b.stride, end - begin,
                        sums + m * sums_row + k, sums_row);
  };
  int64_t m = 0;
  for (; m + 4 <= M; m += 4) tiles(std::integral_constant<int, 4>(), m);
  for (; m + 2 <= M; m += 2) tiles(std::integral_constant<int, 2>(), m);
  for (; m < M; ++m) tiles(std::integral_constant<int, 1>(), m);
}

// A vector of a row, and those of its lanes' neighbours in the row.
template <class T>
struct Neighbours {
  Vec<T> before, here, behind;
};

// kRow is grid.row where a row is one vector, else 0.
template <int kRow, class T>
inline Neighbours<T> neighbours(const T* x, LaneChoice<T> left, LaneChoice<T> right) {
  const Vec<T> here = load(x);
  if constexpr (kShiftsLanes && kRow > 0)
    return {shift_chosen<-1, T>(here, left), here, shift_chosen<1, T>(here, right)};
  else
    return {load_chosen(x - 1, left), here, load_chosen(x + 1, right)};
}

struct NoTaps {};

// R rows from row h of plane d, vector v: the 27 taps over `channel`. An input row is read once per
// plane of taps and serves the three output rows that it touches.
//
// With an `image` and its tap sums, also adds image(voxel) times each of the 27 inputs of the
// voxel: with flipped taps over a gradient, that is the taps' own gradient, its first tap last.
template <int R, int kRow, class T, class Put, class Sums>
[[gnu::always_inline]] inline void depthwise_rows(const Grid<T>& grid, const T* channel,
                                                  const T* taps, int64_t d, int64_t h, int64_t v,
                                                  const Put& put, const T* image, Sums tap_sums) {
  constexpr bool kWithSums = !std::is_same_v<Sums, NoTaps>;
  const int64_t row = kRow ? kRow : grid.row, at = d * grid.plane + h * row + v * kLanes<T>;
  const LaneChoice<T> left = grid.left(v), right = grid.right(v);
  Vec<T> sum[R] = {};
  for (int64_t kd = 0; kd < 3; ++kd) {
    if (d + kd < 1 || d + kd > grid.depth) continue;
    const T* rows = channel + at + (kd - 1) * grid.plane;
    Vec<T> tap[9], tap_sum[9];
#pragma GCC unroll 9
    for (int k = 0; k < 9; ++k) {
      tap[k] = broadcast(taps[kd * 9 + k]);
      if constexpr (kWithSums) tap_sum[k] = tap_sums[kd * 9 + k];
    }
#pragma GCC unroll 16
    for (int j = -1; j <= R; ++j) {
      if ((j < 0 && h == 0) || (j == R && h + R == grid.height)) continue;
      const Neighbours<T> x = neighbours<kRow>(rows + j * row, left, right);
#pragma GCC unroll 3
      for (int kh = 0; kh < 3; ++kh)
        if (const int out = j + 1 - kh; out >= 0 && out < R) {
          sum[out] += x.before * tap[kh * 3];
          sum[out] += x.here * tap[kh * 3 + 1];
          sum[out] += x.behind * tap[kh * 3 + 2];
          if constexpr (kWithSums) {
            const Vec<T> y = load(image + at + out * row);
            tap_sum[kh * 3] += x.before * y;
            tap_sum[kh * 3 + 1] += x.here * y;
            tap_sum[kh * 3 + 2] += x.behind * y;
          }
        }
    }
    if constexpr (kWithSums)
#pragma GCC unroll 9
      for (int k = 0; k < 9; ++k) tap_sums[kd * 9 + k] = tap_sum[k];
  }
#pragma GCC unroll 8
  for (int j = 0; j < R; ++j) put(at + j * row, sum[j]);
}

template <int kRow, class T, class Put, class Sums>
[[gnu::always_inline]] inline void depthwise_planes(const Grid<T>& grid, const T* channel,
                                                    const T* taps, int64_t d0, int64_t d1,
                                                    const Put& put, const T* image, Sums sums) {
  constexpr int R = kManyRegisters ? 8 : 4;
  for (int64_t d = d0; d < d1; ++d)
    for (int64_t v = 0; v < grid.vectors; ++v) {
      int64_t h = 0;
      for (; h + R <= grid.height; h += R)
        depthwise_rows<R, kRow>(grid, channel, taps, d, h, v, put, image, sums);
      if (R > 4 && h + 4 <= grid.height) {
        depthwise_rows<4, kRow>(grid, channel, taps, d, h, v, put, image, sums);
        h += 4;
      }
      if (h + 2 <= grid.height) {
        depthwise_rows<2, kRow>(grid, channel, taps, d, h, v, put, image, sums);
        h += 2;
      }
      if (h < grid.height) depthwise_rows<1, kRow>(grid, channel, taps, d, h, v, put, image, sums);
    }
}

// put(offset, sum) for every vector of the planes d0 .. d1 of one channel.
template <class T, class Put, class Sums = NoTaps>
[[gnu::always_inline]] inline void depthwise(const Grid<T>& grid, const T* channel, const T* taps,
                                             int64_t d0, int64_t d1, const Put& put,
                                             const T* image = nullptr, Sums sums = {}) {
  if (grid.vectors == 1)
    depthwise_planes<kLanes<T>>(grid, channel, taps, d0, d1, put, image, sums);
  else
    depthwise_planes<0>(grid, channel, taps, d0, d1, put, image, sums);
}

}  // namespace eegfast::EEGFAST_ISA
