// SPDX-License-Identifier: BSD-3-Clause
// Real transforms of N = 64 .. 2048 (a power of two) by a few threads each.
//
// A row of N samples is N/2 complex points z[m] = x[2m] + i x[2m+1]. Each of its threads holds
// kHeld of them in registers; Stockham passes of radix up to kHeld exchange them through shared
// memory and leave the transform there in natural order, at z[padded(k)].
#pragma once

#include "portable.cuh"

namespace eegfast {

struct alignas(8) Complex {
  float re, im;
};
__device__ inline Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
__device__ inline Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
__device__ inline Complex operator*(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

// exp(-2 pi i k / kCircle), rounded from series in double at compile time.
constexpr int kCircle = 2048;
struct Circle {
  Complex root[kCircle];
};
constexpr Circle make_circle() {
  Circle circle{};
  for (int k = 0; k < kCircle; ++k) {
    const int quarter = kCircle / 4, quadrant = k / quarter, rest = k % quarter;
    const bool mirrored = rest > quarter / 2;
    const double angle = 6.283185307179586476925 * (mirrored ? quarter - rest : rest) / kCircle;
    double cosine = 1, sine = angle, term = angle;
    for (int n = 2; n < 20; ++n) {
      term *= angle / n;
      double& sum = n % 2 ? sine : cosine;
      sum += n & 2 ? -term : term;
    }
    const double c = mirrored ? sine : cosine, s = mirrored ? cosine : sine;
    const double re = quadrant == 0 ? c : quadrant == 1 ? -s : quadrant == 2 ? -c : s;
    const double im = quadrant == 0 ? s : quadrant == 1 ? c : quadrant == 2 ? -s : -c;
    circle.root[k] = {float(re), float(-im)};
  }
  return circle;
}
__device__ constexpr Circle kRoots = make_circle();

// a exp(-2 pi i k / 16); k is known when the loops around are unrolled.
__device__ __forceinline__ Complex turn(Complex a, int k) {
  constexpr float h = 0.70710678118654752440f;
  constexpr float c = 0.92387953251128675613f, s = 0.38268343236508977173f;
  switch (k) {
    case 1:
      return a * Complex{c, -s};
    case 2:
      return {(a.re + a.im) * h, (a.im - a.re) * h};
    case 3:
      return a * Complex{s, -c};
    case 4:
      return {a.im, -a.re};
    case 6:
      return {(a.im - a.re) * h, -(a.re + a.im) * h};
    case 9:
      return a * Complex{-c, s};
    default:
      return a;
  }
}

// The transform of R values in registers, in place and in natural order.
template <int R>
__device__ __forceinline__ void transform(Complex* a) {
  if constexpr (R == 2) {
    const Complex sum = a[0] + a[1];
    a[1] = a[0] - a[1];
    a[0] = sum;
  } else if constexpr (R == 4) {
    const Complex ac = a[0] + a[2], bd = a[1] + a[3], e = a[0] - a[2], f = turn(a[1] - a[3], 4);
    a[0] = ac + bd;
    a[1] = e + f;
    a[2] = ac - bd;
    a[3] = e - f;
  } else if constexpr (R > 4) {
    constexpr int B = R / 4;
    Complex columns[B][4];
#pragma unroll
    for (int b = 0; b < B; ++b) {
#pragma unroll
      for (int q = 0; q < 4; ++q) columns[b][q] = a[b + B * q];
      transform<4>(columns[b]);
    }
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      Complex row[B];
#pragma unroll
      for (int b = 0; b < B; ++b) row[b] = turn(columns[b][q], b * q * (16 / R));
      transform<B>(row);
#pragma unroll
      for (int b = 0; b < B; ++b) a[q + 4 * b] = row[b];
    }
  }
}

// Twiddles that one thread keeps for all passes but the first.
constexpr int count_twiddles(int points, int held) {
  int count = 0;
  for (int done = held; done < points; done *= held) {
    const int radix = points / done < held ? points / done : held;
    count += held / radix * (radix - 1);
  }
  return count;
}

template <int N>
class Fft {
 public:
  static constexpr int kPoints = N / 2;
  static constexpr int kHeld = N <= 128 ? 8 : 16;
  static constexpr int kThreads = kPoints / kHeld;  // of one row

  static constexpr int kShared = kPoints + kPoints / kHeld;

  __device__ explicit Fft(int lane, Complex* z) : lane_(lane), z_(z) { load_twiddles<1, 0>(); }

  // Where point k lies: with rows kShared apart, no two lanes of a pass meet in a bank.
  __device__ static int padded(int k) { return k + k / kHeld; }
  __device__ int point(int m) const { return lane_ + kThreads * m; }

  // Transforms points point(0), point(1), ... of all the row's threads into z.
  __device__ __forceinline__ void run(Complex (&held)[kHeld]) const { pass<1, 0>(held); }

  // All threads of the row (in fact: of the warp, or of the block) have come here.
  __device__ static void sync() {
    if constexpr (kThreads <= 32)
      __syncwarp();
    else
      __syncthreads();
  }

 private:
  // The pass after those whose radices multiply to `done`.
  template <int done>
  struct Pass {
    static constexpr int kRest = kPoints / done;
    static constexpr int kRadix = kRest < kHeld ? kRest : kHeld;
    static constexpr int kButterflies = kHeld / kRadix;  // of one thread
    static constexpr bool kIsLast = done * kRadix == kPoints;
    static constexpr int kTwiddles = done == 1 ? 0 : kButterflies * (kRadix - 1);
  };

  // `before` counts the twiddles of earlier passes.
  template <int done, int before>
  __device__ __forceinline__ void load_twiddles() {
    using P = Pass<done>;
    if constexpr (P::kTwiddles > 0) {
#pragma unroll
      for (int i = 0; i < P::kButterflies; ++i)
#pragma unroll
        for (int q = 1; q < P::kRadix; ++q)
          twiddles_[before + i * (P::kRadix - 1) + q - 1] =
              kRoots.root[point(i) % done * q * (kCircle / (done * P::kRadix))];
    }
    if constexpr (!P::kIsLast) load_twiddles<done * P::kRadix, before + P::kTwiddles>();
  }

  template <int done, int before>
  __device__ __forceinline__ void pass(Complex (&held)[kHeld]) const {
    using P = Pass<done>;
#pragma unroll
    for (int i = 0; i < P::kButterflies; ++i) {
      Complex a[P::kRadix];
#pragma unroll
      for (int q = 0; q < P::kRadix; ++q) {
        a[q] = held[i + q * P::kButterflies];
        if (P::kTwiddles > 0 && q > 0)
          a[q] = a[q] * twiddles_[before + i * (P::kRadix - 1) + q - 1];
      }
      transform<P::kRadix>(a);
      const int j = point(i), base = j / done * done * P::kRadix + j % done;
#pragma unroll
      for (int q = 0; q < P::kRadix; ++q) z_[padded(base + q * done)] = a[q];
    }
    sync();
    if constexpr (!P::kIsLast) {
#pragma unroll
      for (int m = 0; m < kHeld; ++m) held[m] = z_[padded(point(m))];
      sync();
      pass<done * P::kRadix, before + P::kTwiddles>(held);
    }
  }

  const int lane_;
  Complex* const z_;
  Complex twiddles_[count_twiddles(kPoints, kHeld)];
};

}  // namespace eegfast
