// SPDX-License-Identifier: BSD-3-Clause
// The kernels of all levels of scaling_conv1d, and their gradients.
#pragma once

#include "eegfast/scaling_conv1d.h"
#include "simd.h"

namespace eegfast::EEGFAST_ISA {
namespace {

// Filters that share a register tile; what is left over runs one by one.
constexpr int kFilters = 4;

// Lengths of the levels, and where each begins among the taps of a filter.
class Levels {
 public:
  explicit Levels(const ScalingConv1d& p) {
    for (int64_t l = 0; l < p.levels; ++l) {
      length[l] = l == 0 ? p.length : scaling_next_length(length[l - 1]);
      offset[l] = taps;
      taps += length[l];
    }
  }
  int64_t taps = 0;
  int64_t length[64], offset[64];
};

// Where the taps of a filter lie: those of a full group of filters alternate, tap by tap.
struct FilterGroup {
  FilterGroup(int64_t filters, int64_t filter)
      : first(filter < filters / kFilters * kFilters ? filter / kFilters * kFilters : filter),
        width(first + kFilters <= filters ? kFilters : 1) {}
  int64_t first;
  int width;
};

// w[0 .. length) to w[length ..), and on to the last level.
template <class T>
void pool_levels(const ScalingConv1d& p, const Levels& levels, T* w, int64_t step) {
  for (int64_t l = 1; l < p.levels; ++l) {
    const T* from = w + levels.offset[l - 1] * step;
    T* to = w + levels.offset[l] * step;
    const int64_t half = levels.length[l - 1] / 2;
    const bool padded = levels.length[l] > half;
    if (padded) to[0] = p.count_include_pad ? from[0] * T(0.5) : from[0];
    for (int64_t j = padded; j < levels.length[l]; ++j)
      to[j * step] = (from[(2 * j - padded) * step] + from[(2 * j - padded + 1) * step]) * T(0.5);
  }
}

// The transpose: each level's gradient is added to the one above it.
inline void pool_levels_backward(const ScalingConv1d& p, const Levels& levels, double* g,
                                 int64_t step) {
  for (int64_t l = p.levels - 1; l > 0; --l) {
    double* to = g + levels.offset[l - 1] * step;
    const double* from = g + levels.offset[l] * step;
    const bool padded = levels.length[l] > levels.length[l - 1] / 2;
    if (padded) to[0] += p.count_include_pad ? from[0] * 0.5 : from[0];
    for (int64_t j = padded; j < levels.length[l]; ++j) {
      to[(2 * j - padded) * step] += from[j * step] * 0.5;
      to[(2 * j - padded + 1) * step] += from[j * step] * 0.5;
    }
  }
}

// Taps (weight_chans, filters, all levels' taps), the filters of a group interleaved.
template <class T>
class PooledKernels {
 public:
  PooledKernels(const ScalingConv1d& p, const Levels& levels)
      : per_chan_(p.weight_chans == 1 ? 0 : p.filters * levels.taps),
        taps_(levels.taps),
        data_(p.weight_chans * p.filters * levels.taps) {
    const T* weight = static_cast<const T*>(p.weight);
    for (int64_t c = 0; c < p.weight_chans; ++c)
      for (int64_t f = 0; f < p.filters; ++f) {
        const FilterGroup group(p.filters, f);
        T* w = data_.get() + c * p.filters * taps_ + group.first * taps_ + (f - group.first);
        for (int64_t j = 0; j < p.length; ++j) w[j * group.width] = *weight++;
        pool_levels(p, levels, w, group.width);
      }
  }
  // The taps of the group that begins at `filter`.
  const T* of(int64_t chan, int64_t filter) const {
    return data_.get() + chan * per_chan_ + filter * taps_;
  }

 private:
  int64_t per_chan_, taps_;
  Scratch<T> data_;
};

}  // namespace
}  // namespace eegfast::EEGFAST_ISA
