// SPDX-License-Identifier: BSD-3-Clause
// The parts of filter_bank_power.cpp that know no row: blocks of registers, what is derived from
// the taps before the first row and for them after the last.
#pragma once

#include <type_traits>

#include "eegfast/filter_bank_power.h"
#include "simd.h"

namespace eegfast::EEGFAST_ISA {
namespace {

using V = Vec<double>;
constexpr int L = kLanes<double>;

inline V load_double(const double* from) { return load(from); }
inline void store_double(double* to, V v) { store(to, v); }
typedef float Floats __attribute__((vector_size(L * sizeof(float))));
inline V load_double(const float* from) {
  Floats v;
  std::memcpy(&v, from, sizeof v);
  return __builtin_convertvector(v, V);
}
inline void store_double(float* to, V v) {
  const Floats narrow = __builtin_convertvector(v, Floats);
  std::memcpy(to, &narrow, sizeof narrow);
}

// Cuts 0 .. count - 1 into runs of about equal length, at most Max, and calls
// body(first, std::integral_constant<int, length>) on each.
template <int Max, class Body>
inline void with_constant(int64_t n, const Body& body) {
  if constexpr (Max > 1) {
    if (n < Max) return with_constant<Max - 1>(n, body);
  }
  body(std::integral_constant<int, Max>());
}
template <int Max, class Body>
inline void in_blocks(int64_t count, const Body& body) {
  const int64_t blocks = (count + Max - 1) / Max;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = count * b / blocks;
    with_constant<Max>(count * (b + 1) / blocks - first, [&](auto size) { body(first, size); });
  }
}

// One end of the full correlation: y[u] = sum_{m <= u} taps[m] x[u - m], u < count.
struct End {
  End(const FilterBankPower& p, bool head)
      : count(head ? p.head : p.tail), by_tap(count * p.filters), by_filter(count * p.filters) {
    for (int64_t f = 0; f < p.filters; ++f)
      for (int64_t m = 0; m < count; ++m)
        by_tap[m * p.filters + f] = by_filter[f * count + m] =
            p.taps[f * p.length + (head ? p.length - 1 - m : m)];
  }
  int64_t count;
  Scratch<double> by_tap, by_filter;
};

// What depends on the taps alone.
struct Bank {
  explicit Bank(const FilterBankPower& p)
      : ends{{p, true}, {p, false}},
        gain(p.filters),
        energy_by_lag(p.length * p.filters),
        energy_by_filter(p.length * p.filters) {
    const int64_t filters = p.filters, length = p.length;
    Scratch<double> by_tap(length * filters);
    for (int64_t f = 0; f < filters; ++f)
      for (int64_t k = 0; k < length; ++k) by_tap[k * filters + f] = p.taps[f * length + k];
    for (int64_t f = 0; f < filters; ++f) gain[f] = 0;
    for (int64_t k = 0; k < length; ++k)
      for (int64_t f = 0; f < filters; ++f) gain[f] += by_tap[k * filters + f];
    for (int64_t d = 0; d < length; ++d) {
      double* c = &energy_by_lag[d * filters];
      for (int64_t f = 0; f < filters; ++f) c[f] = 0;
      for (int64_t k = 0; k + d < length; ++k) {
        const double *a = &by_tap[k * filters], *b = &by_tap[(k + d) * filters];
        for (int64_t f = 0; f < filters; ++f) c[f] += a[f] * b[f];
      }
      for (int64_t f = 0; f < filters; ++f) {
        if (d > 0) c[f] *= 2;
        energy_by_filter[f * length + d] = c[f];
      }
    }
  }
  End ends[2];
  Scratch<double> gain;                             // sum h
  Scratch<double> energy_by_lag, energy_by_filter;  // d sum y^2 / dr
};

// What the gradient of the taps is made of, for each filter: the sums over rows of g' r[d] and of
// g sum x, then the gradients of the taps of each end. Kept per lane while rows are added.
inline int64_t tap_sums_per_filter(const FilterBankPower& p) {
  return p.length + 1 + p.head + p.tail;
}

// to[i] += sum_{u >= first + i} z[u] other(u - first - i), u < count: what output u passes to
// sample or tap first + i, given its tap or sample u - first - i.
template <int J, class Other>
inline void add_triangle(const double* z, int64_t first, int64_t count, const Other& other, V* to) {
  z += first * L;
#pragma GCC unroll 16
  for (int u = 0; u < J; ++u) {
    const V grad = load(z + u * L);
#pragma GCC unroll 16
    for (int i = 0; i <= u; ++i) to[i] += grad * other(u - i);
  }
  for (int64_t u = J; u < count - first; ++u) {
    const V grad = load(z + u * L);
#pragma GCC unroll 16
    for (int i = 0; i < J; ++i) to[i] += grad * other(u - i);
  }
}

// Sums over lanes, in place: value i moves from vector i to place i. `count` is a multiple of L.
inline void sum_lanes(double* values, int64_t count) {
  for (int64_t i = 0; i < count; i += L) {
    V tile[L];
    for (int j = 0; j < L; ++j) tile[j] = load(values + (i + j) * L);
    transpose<double>(tile);
    V sum = tile[0];
    for (int j = 1; j < L; ++j) sum += tile[j];
    store(values + i, sum);
  }
}

inline void write_grad_taps(const FilterBankPower& p, const double* tap_sums) {
  const int64_t length = p.length;
  for (int64_t f = 0; f < p.filters; ++f) {
    const double* h = p.taps + f * length;
    const double* r = tap_sums + f * tap_sums_per_filter(p);
    const double* head = r + length + 1;
    const double* tail = head + p.head;
    double* grad = p.grad_taps + f * length;
    for (int64_t k = 0; k < length; ++k) grad[k] = r[length] + 2 * r[0] * h[k];
    for (int64_t d = 1; d < length; ++d) {
      const double twice = 2 * r[d];
      for (int64_t k = d; k < length; ++k) grad[k] += twice * h[k - d];
      for (int64_t k = d; k < length; ++k) grad[k - d] += twice * h[k];
    }
    for (int64_t m = 0; m < p.head; ++m) grad[length - 1 - m] -= head[m];
    for (int64_t m = 0; m < p.tail; ++m) grad[m] -= tail[m];
  }
}

}  // namespace
}  // namespace eegfast::EEGFAST_ISA
