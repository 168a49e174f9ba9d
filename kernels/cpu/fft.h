// SPDX-License-Identifier: BSD-3-Clause
// The transform of fft_plan.h over vectors: each lane transforms a row of its own, so rows never
// mix.
//
// Point j of the work area is two vectors, real part at z + 2 j lanes, imaginary part behind it.
// The adjoint runs the same stages backwards on the conjugate. Since conj(w) z, real and imaginary
// parts swapped, is w times swapped z, it is the forward code with the two parts read in turn.
#pragma once

#include "fft_plan.h"
#include "simd.h"

namespace eegfast::EEGFAST_ISA {

template <class T>
struct Complex {
  Vec<T> re, im;
};

template <class T>
inline Complex<T> operator+(const Complex<T>& a, const Complex<T>& b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T>
inline Complex<T> operator-(const Complex<T>& a, const Complex<T>& b) {
  return {a.re - b.re, a.im - b.im};
}
template <class T>
inline Complex<T> times(const Complex<T>& a, T re, T im) {
  return {a.re * re - a.im * im, a.re * im + a.im * re};
}
template <class T>
inline Complex<T> times_minus_i(const Complex<T>& a) {
  return {a.im, -a.re};
}

template <class T>
inline void butterfly2(Complex<T>& a, Complex<T>& b) {
  const Complex<T> sum = a + b;
  b = a - b;
  a = sum;
}

template <class T>
inline void butterfly4(Complex<T>& a, Complex<T>& b, Complex<T>& c, Complex<T>& d) {
  const Complex<T> ac = a + c, bd = b + d;
  const Complex<T> e = a - c, f = times_minus_i(b - d);
  a = ac + bd;
  b = e + f;
  c = ac - bd;
  d = e - f;
}

template <class T>
inline void butterfly8(Complex<T>* a) {
  butterfly4(a[0], a[2], a[4], a[6]);
  butterfly4(a[1], a[3], a[5], a[7]);
  constexpr T h = T(0.70710678118654752440);
  const Complex<T> o1{(a[3].re + a[3].im) * h, (a[3].im - a[3].re) * h};
  const Complex<T> o2 = times_minus_i(a[5]);
  const Complex<T> o3{(a[7].im - a[7].re) * h, -(a[7].re + a[7].im) * h};
  const Complex<T> e0 = a[0], e1 = a[2], e2 = a[4], e3 = a[6], o0 = a[1];
  a[0] = e0 + o0;
  a[1] = e1 + o1;
  a[2] = e2 + o2;
  a[3] = e3 + o3;
  a[4] = e0 - o0;
  a[5] = e1 - o1;
  a[6] = e2 - o2;
  a[7] = e3 - o3;
}

// P = 0: any odd radix, given at run time. Pairs q and radix - q share cosines and sines.
template <int P, class T>
inline void butterfly_odd(Complex<T>* a, Complex<T>* scratch, int64_t runtime_radix,
                          const T* roots) {
  const int64_t radix = P ? P : runtime_radix, half = (radix - 1) / 2;
  const Complex<T> first = a[0];
  Complex<T> total = first;
  for (int64_t q = 1; q <= half; ++q) {
    const Complex<T> sum = a[q] + a[radix - q], difference = a[q] - a[radix - q];
    scratch[q] = sum;
    scratch[radix - q] = difference;
    total = total + sum;
  }
  a[0] = total;
  for (int64_t r = 1; r <= half; ++r) {
    Complex<T> even = first, odd{};
    for (int64_t q = 1, k = r; q <= half; ++q, k = k + r < radix ? k + r : k + r - radix) {
      const T c = roots[2 * k], s = roots[2 * k + 1];
      even.re += scratch[q].re * c;
      even.im += scratch[q].im * c;
      odd.re += scratch[radix - q].re * s;
      odd.im += scratch[radix - q].im * s;
    }
    a[r] = {even.re + odd.im, even.im - odd.re};
    a[radix - r] = {even.re - odd.im, even.im + odd.re};
  }
}

// One butterfly at z: `radix` points `span` apart, with the twiddles of one j (null: all one).
template <int P, bool Adjoint, class T>
[[gnu::always_inline]] inline void butterfly(T* z, const FftStage<T>& stage, const T* twiddle,
                                             Complex<T>* wide) {
  constexpr int L = kLanes<T>, re = Adjoint ? L : 0, im = Adjoint ? 0 : L;
  const int64_t radix = P ? P : stage.radix, distance = 2 * L * stage.span;
  Complex<T> narrow[P ? 2 * P : 1];
  Complex<T>* a = P ? narrow : wide;
#pragma GCC unroll 8
  for (int64_t r = 0; r < radix; ++r) {
    a[r] = {load(z + r * distance + re), load(z + r * distance + im)};
    if (Adjoint && twiddle && r) a[r] = times(a[r], twiddle[2 * r - 2], twiddle[2 * r - 1]);
  }
  if constexpr (P == 2) butterfly2(a[0], a[1]);
  if constexpr (P == 4) butterfly4(a[0], a[1], a[2], a[3]);
  if constexpr (P == 8) butterfly8(a);
  if constexpr (P % 2 || P == 0) butterfly_odd<P>(a, a + radix, radix, stage.roots);
#pragma GCC unroll 8
  for (int64_t r = 0; r < radix; ++r) {
    if (!Adjoint && twiddle && r) a[r] = times(a[r], twiddle[2 * r - 2], twiddle[2 * r - 1]);
    store(z + r * distance + re, a[r].re);
    store(z + r * distance + im, a[r].im);
  }
}

// `between` is called once per butterfly: work for idle load units.
template <int P, bool Adjoint, class T, class Between>
void run_stage(T* z, const FftStage<T>& stage, Between& between) {
  constexpr int L = kLanes<T>;
  Scratch<Complex<T>> wide(P ? 0 : 2 * stage.radix);  // empty for the unrolled radices
  const int64_t radix = P ? P : stage.radix;
  for (int64_t block = 0; block < stage.blocks; ++block) {
    T* base = z + block * radix * stage.span * 2 * L;
    butterfly<P, Adjoint>(base, stage, static_cast<const T*>(nullptr), wide.get());
    between();
    for (int64_t j = 1; j < stage.span; ++j) {
      butterfly<P, Adjoint>(base + j * 2 * L, stage, stage.twiddles + j * 2 * (radix - 1),
                            wide.get());
      between();
    }
  }
}

template <bool Adjoint, class T, class Between>
void run_stage_of_any_radix(T* z, const FftStage<T>& stage, Between& between) {
  switch (stage.radix) {
    case 2:
      return run_stage<2, Adjoint>(z, stage, between);
    case 3:
      return run_stage<3, Adjoint>(z, stage, between);
    case 4:
      return run_stage<4, Adjoint>(z, stage, between);
    case 5:
      return run_stage<5, Adjoint>(z, stage, between);
    case 8:
      return run_stage<8, Adjoint>(z, stage, between);
    default:
      return run_stage<0, Adjoint>(z, stage, between);
  }
}

// In place; output k is left at point plan.position[k].
template <class T, class Between>
void fft(T* z, const FftPlan<T>& plan, Between between) {
  for (int64_t s = 0; s < plan.n_stages; ++s)
    run_stage_of_any_radix<false>(z, plan.stages[s], between);
}

// The conjugate transpose: takes point plan.position[k] for input k, leaves natural order.
template <class T, class Between>
void fft_adjoint(T* z, const FftPlan<T>& plan, Between between) {
  for (int64_t s = plan.n_stages; s-- > 0;)
    run_stage_of_any_radix<true>(z, plan.stages[s], between);
}

}  // namespace eegfast::EEGFAST_ISA
