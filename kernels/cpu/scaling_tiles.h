// SPDX-License-Identifier: BSD-3-Clause
// What both directions of scaling_conv1d do with a stretch of a row.
#pragma once

#include "simd.h"

namespace eegfast::EEGFAST_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kTile = 4, kTaps = 5, kRowTile = 16;  // of 32 registers
#else
constexpr int kTile = 2, kTaps = 2, kRowTile = 8;  // of 16
#endif
constexpr int kRowTaps = 8;  // for a single filter
constexpr int64_t kChunk = 1024;

// The samples [begin, begin + count) of a row, zero outside of the signal.
template <class T>
void copy_stretch(const T* row, int64_t n_times, int64_t begin, int64_t count, T* to) {
  const int64_t before = begin < 0 ? smaller(-begin, count) : 0;
  const int64_t inside = smaller(count, n_times - begin) - before;
  std::memset(to, 0, size_t(before) * sizeof(T));
  if (inside > 0) {
    std::memcpy(to + before, row + begin + before, size_t(inside) * sizeof(T));
    std::memset(to + before + inside, 0, size_t(count - before - inside) * sizeof(T));
  } else {
    std::memset(to + before, 0, size_t(count - before) * sizeof(T));
  }
}

// acc[n] += the sum over i < R of taps[i step] x[(n + i) kLanes ..]
template <int N, int R, class T>
inline void add_taps(Vec<T>* acc, const T* x, const T* taps, int64_t step) {
  constexpr int L = kLanes<T>;
  Vec<T> tap[R];
#pragma GCC unroll 4
  for (int i = 0; i < R; ++i) tap[i] = broadcast(taps[i * step]);
#pragma GCC unroll 32
  for (int u = 0; u < N + R - 1; ++u) {
    const Vec<T> v = load(x + u * L);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i)
      if (0 <= u - i && u - i < N) acc[u - i] += v * tap[i];
  }
}

// The same for any number of taps.
template <int N, class T>
inline void add_all_taps(Vec<T>* acc, const T* x, const T* taps, int64_t step, int64_t count) {
  constexpr int L = kLanes<T>;
  for (; count >= 4; count -= 4, x += 4 * L, taps += 4 * step) add_taps<N, 4>(acc, x, taps, step);
  if (count == 3) add_taps<N, 3>(acc, x, taps, step);
  if (count == 2) add_taps<N, 2>(acc, x, taps, step);
  if (count == 1) add_taps<N, 1>(acc, x, taps, step);
}

}  // namespace
}  // namespace eegfast::EEGFAST_ISA
