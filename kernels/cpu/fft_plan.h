// SPDX-License-Identifier: BSD-3-Clause
// Tables of a mixed-radix, in-place, decimation-in-frequency Fourier transform.
#pragma once

#include <cstdint>

namespace eegfast {

template <class T>
struct FftStage {
  int64_t radix;
  int64_t span;       // distance between the radix inputs of a butterfly
  int64_t blocks;     // points / (radix * span)
  const T* twiddles;  // for j < span, r = 1..radix-1: (cos, sin) of -2 pi j r / (radix span)
  const T* roots;     // odd radices: (cos, sin) of 2 pi k / radix, k < radix
};

// An even number of real samples is transformed as half as many complex ones (real and imaginary
// parts: even and odd samples); an odd number as itself, with imaginary parts of zero.
template <class T>
struct FftPlan {
  int64_t n_fft;
  bool packed;
  int64_t points;  // n_fft / 2 if packed, else n_fft
  int64_t n_stages;
  int64_t butterflies;  // of all stages together
  const FftStage<T>* stages;
  const int64_t* position;  // where output k lies after the last stage
  const T* unpack;          // packed: (cos, sin) of -2 pi k / n_fft, k <= points
};

// Plans are made once per length and kept.
template <class T>
const FftPlan<T>& fft_plan(int64_t n_fft);

}  // namespace eegfast
