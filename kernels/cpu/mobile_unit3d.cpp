// SPDX-License-Identifier: BSD-3-Clause
// The Mobile unit of LDM-EEG (formula and algebra: eegfast/mobile_unit3d.h).
//
// A task holds a few samples (a grid, mobile_unit3d_tiles.h: a lane is a voxel) and goes through
// the expanded channels kBlock at a time and through their planes one step behind itself: it
// expands the planes that come next, then filters, and projects, those that have their neighbours.
// Nothing of E channels outlives a block. FLOP per voxel and expanded channel: forward 4 C + 54,
// backward 10 C + 162, less the taps that fall outside; memory traffic is that of x, grad and out.
//
// Statistics and everything that is summed over the batch: float in short runs, then double, in an
// order that depends on the sizes alone.
#include "eegfast/mobile_unit3d.h"

#include "mobile_unit3d_unit.h"

namespace eegfast::EEGFAST_ISA {
namespace {

constexpr int64_t kBlock = 8;  // expanded channels that are worked on at a time

// Mean and variance of x, about the first value of each channel.
template <class T>
void first_statistics(Unit<T>& u) {
  const int64_t C = u.C, parts = u.parts(u.p.batch);
  const T* x = static_cast<const T*>(u.p.x);
  Scratch<double> sums(parts * 2 * C);
  u.each_part(u.p.batch, [&](int64_t part, int64_t first, int64_t last) {
    constexpr int D = kLanes<double>;
    for (int64_t c = 0; c < C; ++c) {
      const double origin = x[c * u.volume];
      Vec<double> sum{}, squares{};
      double tail = 0, tail_squares = 0;
      for (int64_t b = first; b < last; ++b) {
        const T* v = u.sample(u.p.x, b, C) + c * u.volume;
        int64_t i = 0;
        for (; i + D <= u.volume; i += D) {
          Vec<double> d;
          for (int lane = 0; lane < D; ++lane) d[lane] = v[i + lane];
          d -= origin;
          sum += d;
          squares += d * d;
        }
        for (; i < u.volume; ++i) {
          const double d = v[i] - origin;
          tail += d;
          tail_squares += d * d;
        }
      }
      sums[part * 2 * C + 2 * c] = sum_of_lanes(sum) + tail;
      sums[part * 2 * C + 2 * c + 1] = sum_of_lanes(squares) + tail_squares;
    }
  });
  add_parts(u.parallel_for, sums.get(), parts, 2 * C);
  for (int64_t c = 0; c < C; ++c) {
    const double mean = sums[2 * c] / u.count;
    u.put(u.p.mean1, c, x[c * u.volume] + mean);
    u.put(u.p.var1, c, sums[2 * c + 1] / u.count - mean * mean);
  }
}

template <class T>
void second_statistics(Unit<T>& u) {
  const int64_t C = u.C;
  Scratch<double> mean(C), covariance(C * C);
  moments(u, mean.get(), covariance.get());
  parallel(u.parallel_for, u.E, 1 + 8192 / (C * C), [&](int64_t begin, int64_t end) {
    Scratch<double> w(C), wg(C);
    for (int64_t e = begin; e < end; ++e) {
      double m = 0, v = 0;
      for (int64_t c = 0; c < C; ++c) w[c] = u.at(u.p.expand, e * C + c);
      row_times(w.get(), covariance.get(), C, C, wg.get());
      for (int64_t c = 0; c < C; ++c) {
        m += w[c] * mean[c];
        v += w[c] * wg[c];
      }
      u.put(u.p.mean2, e, m);
      u.put(u.p.var2, e, v < 0 ? 0 : v);
    }
  });
}

// out = (x, r) or x + r.
template <class T>
void write_out(const Unit<T>& u, int64_t group, Channels<const T> r, T* stage) {
  const int64_t C = u.C, samples = u.grid.samples;
  for (int64_t c = 0; c < C; ++c) {
    const T* sum = r[c];
    if (!u.p.concat) {
      u.read(u.p.x, C, 0, c, group, stage);
      for (int64_t i = 0; i < u.grid.volume; i += kLanes<T>)
        store(stage + i, load(stage + i) + load(r[c] + i));
      sum = stage;
    }
    u.write(sum, u.p.out, u.out_channels(), u.first_projected(), c, group);
  }
  if (!u.p.concat) return;
  for (int64_t b = group * samples; b < smaller((group + 1) * samples, u.p.batch); ++b)
    std::memcpy(u.sample(u.p.out, b, 2 * C), u.sample(u.p.x, b, C),
                size_t(C * u.volume) * sizeof(T));
}

template <class T>
void forward(const MobileUnit3d& p, ParallelFor parallel_for) {
  Unit<T> u(p, parallel_for);
  if (p.batch1) first_statistics(u);
  u.fold_first();
  if (p.batch2) second_statistics(u);
  u.fold_second();
  const Grid<T>& grid = u.grid;
  const int64_t C = u.C, E = u.E;
  const T* depthwise_weight = static_cast<const T*>(p.depthwise);

  parallel(parallel_for, u.groups, 1, [&](int64_t begin, int64_t end) {
    Buffer<T> stage(1, grid.channel), a(C, grid.channel), r(C, grid.channel);
    Buffer<T> expanded(kBlock, grid.channel), filtered(kBlock, grid.channel);
    stage.clear(1);
    for (int64_t group = begin; group < end; ++group) {
      u.read_activated(group, stage[0], a);
      r.clear(C);
      for (int64_t e = 0; e < E; e += kBlock) {
        const int64_t n = smaller(kBlock, E - e);
        one_behind(
            grid.depth, u.step,
            [&](int64_t d0, int64_t d1) {
              mix<Mix::kBiasRelu, T>(expanded, n, a, C, {u.expand.get() + e * C, C, 1},
                                     u.shift2.get() + e, d0 * grid.plane, d1 * grid.plane);
            },
            [&](int64_t d0, int64_t d1) {
              for (int64_t k = 0; k < n; ++k)
                depthwise<T>(grid, expanded[k], depthwise_weight + (e + k) * 27, d0, d1,
                             [to = filtered[k]](int64_t i, Vec<T> q) { store(to + i, q); });
              mix<Mix::kAdd, T>(r, C, filtered, n, {u.project.get() + e * C, 1, C}, nullptr,
                                d0 * grid.plane, d1 * grid.plane);
            });
      }
      write_out<T>(u, group, r, stage[0]);
    }
  });
}

}  // namespace

void mobile_unit3d(const MobileUnit3d& p, ParallelFor parallel_for) {
  p.dtype == DType::kFloat32 ? forward<float>(p, parallel_for) : forward<double>(p, parallel_for);
}

}  // namespace eegfast::EEGFAST_ISA
