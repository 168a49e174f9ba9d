// SPDX-License-Identifier: BSD-3-Clause
// Banks of cascaded biquads over vectors, one lane per channel, in transposed direct form II.
#pragma once

#include "eegfast/bandpass_power.h"
#include "simd.h"

namespace eegfast::EEGFAST_ISA {

template <class A>
struct Section {
  A b0, b1, b2, a1, a2;
};

// Filters count samples through S sections of NB bands; `stride` is kLanes, or -kLanes for reversed
// time. Plain sections have zeros at +1 and -1: b = (1, 0, -1), their gain taken out. The result is
// stored to out or, with Sum, only added to sums[band]: its sum and its sum of squares.
template <int S, int NB, bool Plain, bool Sum, class A>
void filter_bands(const A* const* in, A* const* out, Vec<A>* const* sums, int64_t count,
                  int64_t stride, const Section<A>* const* sections, Vec<A>* const* states) {
  Vec<A> s1[NB][S], s2[NB][S], sum[NB] = {}, square[NB] = {};
#pragma GCC unroll 3
  for (int b = 0; b < NB; ++b)
#pragma GCC unroll 3
    for (int i = 0; i < S; ++i) {
      s1[b][i] = states[b][2 * i];
      s2[b][i] = states[b][2 * i + 1];
    }
  for (int64_t t = 0; t < count; ++t) {
#pragma GCC unroll 3
    for (int b = 0; b < NB; ++b) {
      Vec<A> v = load(in[b] + t * stride);
#pragma GCC unroll 3
      for (int i = 0; i < S; ++i) {
        const Section<A>& c = sections[b][i];
        if constexpr (Plain) {
          const Vec<A> y = v + s1[b][i];
          s1[b][i] = s2[b][i] - y * c.a1;
          s2[b][i] = -v - y * c.a2;
          v = y;
        } else {
          const Vec<A> y = v * c.b0 + s1[b][i];
          s1[b][i] = s2[b][i] + v * c.b1 - y * c.a1;
          s2[b][i] = v * c.b2 - y * c.a2;
          v = y;
        }
      }
      if constexpr (Sum) {
        sum[b] += v;
        square[b] += v * v;
      } else {
        store(out[b] + t * stride, v);
      }
    }
  }
#pragma GCC unroll 3
  for (int b = 0; b < NB; ++b) {
#pragma GCC unroll 3
    for (int i = 0; i < S; ++i) {
      states[b][2 * i] = s1[b][i];
      states[b][2 * i + 1] = s2[b][i];
    }
    if constexpr (Sum) {
      sums[b][0] += sum[b];
      sums[b][1] += square[b];
    }
  }
}

template <class A>
using Filter = void (*)(const A* const*, A* const*, Vec<A>* const*, int64_t, int64_t,
                        const Section<A>* const*, Vec<A>* const*);

template <class A, bool Plain, bool Sum>
Filter<A> filter_for(int64_t sections, int64_t bands) {
  static constexpr Filter<A> table[3][3] = {
      {filter_bands<1, 1, Plain, Sum, A>, filter_bands<1, 2, Plain, Sum, A>,
       filter_bands<1, 3, Plain, Sum, A>},
      {filter_bands<2, 1, Plain, Sum, A>, filter_bands<2, 2, Plain, Sum, A>,
       filter_bands<2, 3, Plain, Sum, A>},
      {filter_bands<3, 1, Plain, Sum, A>, filter_bands<3, 2, Plain, Sum, A>,
       filter_bands<3, 3, Plain, Sum, A>}};
  return table[sections - 1][bands - 1];
}

// The bands that are computed in type A, their coefficients, and the output band of each.
template <class A>
class Bank {
 public:
  Bank(const BandpassPower& p, bool (*wanted)(const double* sos, int64_t n_sections))
      : n_sections(p.n_sections),
        sections_(p.bands * p.n_sections),
        gains_(p.bands),
        index_(p.bands) {
    for (int64_t b = 0; b < p.bands; ++b) {
      const double* sos = p.sos + b * n_sections * 6;
      if (!wanted(sos, n_sections)) continue;
      for (int64_t i = 0; i < n_sections; ++i)
        plain = plain && sos[6 * i + 1] == 0 && sos[6 * i + 2] == -sos[6 * i] && sos[6 * i] != 0;
      index_[size++] = b;
    }
    for (int64_t b = 0; b < size; ++b) {
      const double* sos = p.sos + index_[b] * n_sections * 6;
      gains_[b] = 1;
      for (int64_t i = 0; i < n_sections; ++i, sos += 6) {
        sections_[b * n_sections + i] = {A(sos[0]), A(sos[1]), A(sos[2]), A(sos[4]), A(sos[5])};
        if (plain) gains_[b] *= sos[0];
      }
    }
  }

  // All bands of the bank, up to three at a time and as evenly as can be, through all sections, up
  // to three at a time. With sums (two vectors a band) the result goes there and out is scratch.
  void filter(const A* const* in, A* const* out, Vec<A>* sums, int64_t count, int64_t stride,
              Vec<A>* states) {
    const int64_t chunks = (size + 2) / 3, chunk = (size + chunks - 1) / chunks;
    for (int64_t b = 0; b < size; b += chunk) {
      const int64_t bands = smaller(chunk, size - b);
      for (int64_t s = 0; s < n_sections; s += 3) {
        const int64_t sections = smaller(3, n_sections - s);
        const Section<A>* coefficients[3];
        Vec<A>*state[3], *sum[3];
        for (int64_t i = 0; i < bands; ++i) {
          coefficients[i] = &sections_[(b + i) * n_sections + s];
          state[i] = states + 2 * ((b + i) * n_sections + s);
          sum[i] = sums + 2 * (b + i);
        }
        const bool to_sums = sums && s + sections == n_sections;
        const Filter<A> run =
            to_sums
                ? (plain ? filter_for<A, true, true> : filter_for<A, false, true>)(sections, bands)
                : (plain ? filter_for<A, true, false> : filter_for<A, false, false>)(sections,
                                                                                     bands);
        run(s ? out + b : in + b, out + b, sum, count, stride, coefficients, state);
      }
    }
  }

  int64_t states() const { return 2 * size * n_sections; }
  double gain(int64_t band) { return gains_[band]; }
  int64_t output_band(int64_t band) { return index_[band]; }

  const int64_t n_sections;
  int64_t size = 0;
  bool plain = true;

 private:
  Scratch<Section<A>> sections_;
  Scratch<double> gains_;
  Scratch<int64_t> index_;
};

}  // namespace eegfast::EEGFAST_ISA
