// SPDX-License-Identifier: BSD-3-Clause
// What the forward and the backward pass of mobile_unit3d share.
#pragma once

#include "eegfast/mobile_unit3d.h"
#include "mobile_unit3d_tiles.h"

namespace eegfast::EEGFAST_ISA {

constexpr int64_t kMaxParts = 32;  // of the batch, each with sums of its own

// Scratch of `count` channels; a vector may be read from one line before or behind.
template <class T>
class Buffer {
 public:
  Buffer(int64_t count, int64_t stride)
      : data_(count * stride + 2 * kLine), first_(data_.get() + kLine), stride_(stride) {}
  operator Channels<T>() const { return {first_, stride_}; }
  operator Channels<const T>() const { return {first_, stride_}; }
  T* operator[](int64_t c) const { return first_ + c * stride_; }
  void clear(int64_t channels) const {
    std::memset(first_, 0, size_t(channels * stride_) * sizeof(T));
  }

 private:
  static constexpr int64_t kLine = 64 / sizeof(T);
  Scratch<T> data_;
  T* const first_;
  const int64_t stride_;
};

// to[j, i] = from[i, j] for j < columns, a line of `from` at a time.
template <class From, class To>
void turn(const From* from, int64_t rows, int64_t columns, int64_t from_row, To* to) {
  constexpr int64_t kLine = 64 / sizeof(From);
  const auto strip = [&](int64_t j, auto width) {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t k = 0; k < width; ++k) to[(j + k) * rows + i] = To(from[i * from_row + j + k]);
  };
  int64_t j = 0;
  for (; j + kLine <= columns; j += kLine) strip(j, std::integral_constant<int64_t, kLine>());
  strip(j, columns - j);
}

// What both directions share: sizes, and the weights as the kernels want them.
template <class T>
class Unit {
 public:
  static constexpr int L = kLanes<T>;

  Unit(const MobileUnit3d& p, ParallelFor parallel_for)
      : p(p),
        parallel_for(parallel_for),
        C(p.channels),
        E(p.expanded),
        volume(p.depth * p.height * p.width),
        count(double(p.batch) * double(volume)),
        grid(p.depth, p.height, p.width),
        groups(ceil_div(p.batch, grid.samples)),
        step(larger(1, ceil_div(kStepVectors * L, grid.plane))),
        scale1(C),
        shift1(C),
        scale2(E),
        shift2(E),
        expand(E * C),
        project(E * C) {}

  const T* sample(const void* tensor, int64_t b, int64_t channels) const {
    return static_cast<const T*>(tensor) + b * channels * volume;
  }
  T* sample(void* tensor, int64_t b, int64_t channels) const {
    return static_cast<T*>(tensor) + b * channels * volume;
  }
  int64_t out_channels() const { return p.concat ? 2 * C : C; }
  int64_t first_projected() const { return p.concat ? C : 0; }

  void fold_first() {
    for (int64_t c = 0; c < C; ++c) {
      const double s = at(p.gamma1, c) / std::sqrt(at(p.var1, c) + p.eps1);
      scale1[c] = T(s);
      shift1[c] = T(at(p.beta1, c) - at(p.mean1, c) * s);
    }
  }
  // Scales the expanding weights, and turns the projecting ones.
  void fold_second() {
    parallel(parallel_for, E, 1 + 8192 / C, [&](int64_t begin, int64_t end) {
      for (int64_t e = begin; e < end; ++e) {
        const double s = at(p.gamma2, e) / std::sqrt(at(p.var2, e) + p.eps2);
        scale2[e] = s;
        shift2[e] = T(at(p.beta2, e) - at(p.mean2, e) * s);
        for (int64_t c = 0; c < C; ++c) expand[e * C + c] = T(at(p.expand, e * C + c) * s);
      }
      const T* from = static_cast<const T*>(p.project) + begin;
      turn(from, C, end - begin, E, project.get() + begin * C);
    });
  }

  static double at(const void* tensor, int64_t i) {
    return double(static_cast<const T*>(tensor)[i]);
  }
  static void put(void* tensor, int64_t i, double value) { static_cast<T*>(tensor)[i] = T(value); }

  // a = relu(x s1 + t1) of n voxels.
  void activate(const T* x, int64_t c, int64_t n, T* a) const {
    const T s = scale1[c], t = shift1[c];
    int64_t i = 0;
    for (; i + L <= n; i += L) store(a + i, relu<T>(load(x + i) * s + t));
    if (i < n) {
      T part[L] = {};
      std::memcpy(part, x + i, size_t(n - i) * sizeof(T));
      store(part, relu<T>(load(part) * s + t));
      std::memcpy(a + i, part, size_t(n - i) * sizeof(T));
    }
  }

  // Runs body(part, first, last) over parts of the samples (or groups); how many depends on the
  // sizes alone.
  static int64_t parts(int64_t items) { return smaller(items, kMaxParts); }
  template <class Body>
  void each_part(int64_t items, const Body& body) const {
    each_part(items, parts(items), body);
  }
  template <class Body>
  void each_part(int64_t items, int64_t n, const Body& body) const {
    parallel(parallel_for, n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(i, items * i / n, items * (i + 1) / n);
    });
  }

  // Reads the channels of a group's samples into lanes, raw.
  void read(const void* tensor, int64_t channels, int64_t first, int64_t c, int64_t group,
            T* to) const {
    const int64_t b = group * grid.samples, n = smaller(grid.samples, p.batch - b);
    if (n < grid.samples) std::memset(to, 0, size_t(grid.volume) * sizeof(T));
    for (int64_t s = 0; s < n; ++s)
      grid.spread(sample(tensor, b + s, channels) + (first + c) * volume, to, s);
  }
  void write(const T* from, void* tensor, int64_t channels, int64_t first, int64_t c,
             int64_t group) const {
    const int64_t b = group * grid.samples, n = smaller(grid.samples, p.batch - b);
    for (int64_t s = 0; s < n; ++s)
      grid.gather(from, sample(tensor, b + s, channels) + (first + c) * volume, s);
  }
  void read_activated(int64_t group, T* stage, Channels<T> a) const {
    for (int64_t c = 0; c < C; ++c) {
      if (grid.dense()) {
        activate(sample(p.x, group, C) + c * volume, c, volume, a[c]);
      } else {
        read(p.x, C, 0, c, group, stage);
        activate(stage, c, grid.volume, a[c]);
      }
    }
  }

  const MobileUnit3d& p;
  const ParallelFor parallel_for;
  const int64_t C, E, volume;
  const double count;
  const Grid<T> grid;
  const int64_t groups;
  const int64_t step;  // planes that are expanded, then filtered, at a time
  Scratch<T> scale1, shift1;
  Scratch<double> scale2;
  Scratch<T> shift2, expand, project;

 private:
  static constexpr int64_t kStepVectors = 16;
};

// Adds up the parts' sums into the first part's.
inline void add_parts(ParallelFor parallel_for, double* sums, int64_t parts, int64_t n) {
  parallel(parallel_for, n, 8192, [&](int64_t begin, int64_t end) {
    for (int64_t i = 1; i < parts; ++i)
      for (int64_t j = begin; j < end; ++j) sums[j] += sums[i * n + j];
  });
}

inline double sum_of_lanes(Vec<double> v) {
  double sum = 0;
  for (int lane = 0; lane < kLanes<double>; ++lane) sum += v[lane];
  return sum;
}

// Mean (C values) and covariance (C x C) of a, in double about relu(beta1): the mean before the
// ReLU, so no large numbers cancel.
template <class T>
void moments(const Unit<T>& u, double* mean, double* covariance) {
  constexpr int64_t kTile = 64;
  constexpr int D = kLanes<double>;
  const int64_t C = u.C, n = C + C * C;
  // Adding up a part's lanes costs as much as some hundred voxels do.
  const int64_t parts = smaller(u.parts(u.p.batch), ceil_div(u.p.batch * u.volume, 256));
  Scratch<double> sums(parts * n);
  const auto origin = [&](int64_t c) { return u.at(u.p.beta1, c) > 0 ? u.at(u.p.beta1, c) : 0; };
  u.each_part(u.p.batch, parts, [&](int64_t part, int64_t first, int64_t last) {
    Scratch<T> activated(kTile);
    Buffer<double> tile(C, kTile + 8);
    Scratch<Vec<double>> sum(n);
    for (int64_t i = 0; i < n; ++i) sum[i] = Vec<double>{};
    for (int64_t b = first; b < last; ++b)
      for (int64_t v = 0; v < u.volume; v += kTile) {
        const int64_t length = smaller(kTile, u.volume - v), whole = ceil_div(length, D) * D;
        for (int64_t c = 0; c < C; ++c) {
          u.activate(u.sample(u.p.x, b, C) + c * u.volume + v, c, length, activated.get());
          const double o = origin(c);
          Vec<double> total = sum[c];
          for (int64_t i = length; i < whole; ++i) tile[c][i] = 0;
          for (int64_t i = 0; i < length; ++i) tile[c][i] = activated[i] - o;
          for (int64_t i = 0; i < whole; i += D) total += load(tile[c] + i);
          sum[c] = total;
        }
        // The half above the diagonal, in strips of four.
        for (int64_t c = 0; c < C; c += 4)
          outer<double>({tile[c], kTile + 8}, smaller(4, C - c), {tile[c], kTile + 8}, C - c, 0,
                        whole, sum.get() + C + c * C + c, C);
      }
    for (int64_t i = 0; i < n; ++i) sums[part * n + i] = sum_of_lanes(sum[i]);
  });
  add_parts(u.parallel_for, sums.get(), parts, n);
  for (int64_t c = 0; c < C; ++c) {
    mean[c] = origin(c) + sums[c] / u.count;
    for (int64_t k = c; k < C; ++k)
      covariance[c * C + k] = covariance[k * C + c] =
          sums[C + c * C + k] / u.count - sums[c] / u.count * (sums[k] / u.count);
  }
}

// out[c] = sum_k row[k] matrix[k, c] for c < C.
inline void row_times(const double* row, const double* matrix, int64_t rows, int64_t C,
                      double* out) {
  constexpr int L = kLanes<double>;
  int64_t c = 0;
  const auto columns = [&](auto count) {
    constexpr int n = decltype(count)::value;
    for (; c + n * L <= C; c += n * L) {
      Vec<double> sum[n] = {};
      for (int64_t k = 0; k < rows; ++k) {
        const Vec<double> factor = broadcast(row[k]);
#pragma GCC unroll 8
        for (int v = 0; v < n; ++v) sum[v] += factor * load(matrix + k * C + c + v * L);
      }
#pragma GCC unroll 8
      for (int v = 0; v < n; ++v) store(out + c + v * L, sum[v]);
    }
  };
  columns(std::integral_constant<int, 8>());
  columns(std::integral_constant<int, 4>());
  columns(std::integral_constant<int, 1>());
  for (; c < C; ++c) {
    double sum = 0;
    for (int64_t k = 0; k < rows; ++k) sum += row[k] * matrix[k * C + c];
    out[c] = sum;
  }
}

// Runs produce(d0, d1) over the planes, and consume(d0, d1) where the next planes are there too.
template <class Produce, class Consume>
void one_behind(int64_t depth, int64_t step, const Produce& produce, const Consume& consume) {
  for (int64_t d = 0; d < depth + step; d += step) {
    if (d < depth) produce(d, smaller(d + step, depth));
    if (d > 0) consume(d - step, smaller(d, depth));
  }
}

}  // namespace eegfast::EEGFAST_ISA
