// SPDX-License-Identifier: BSD-3-Clause
// Kalman filter and RTS smoother along the windows (formula: eegfast/lds_smooth.h).
//
// One thread owns one feature of one batch entry, so neighbouring threads read neighbouring
// features and every pass over the windows is coalesced. The passes follow each other in time.
// Per element: 8 FLOP; read once (twice for the mean of the windows), the filtered value written
// and read again (in `workspace` where the elements are 16 bits), the result written. Windows are
// sequential: with fewer than some 20 000 series the latency of a step, not the memory, sets the
// time.
//
// A block computes the gains of kChunk windows at a time, each thread its own: the predicted
// variance is a fractional linear function of the one before, so that of window t is the t-th power
// of a 2 x 2 matrix of positive numbers. Nothing comes from the host.
#include "eegfast/lds_smooth.h"
#include "portable.cuh"

namespace eegfast {
namespace {

constexpr int kThreads = 128;
constexpr int kChunk = 256;

struct Matrix {
  double a, b, c, d;
};

// The product, scaled: only ratios of its elements are used.
__device__ Matrix times(const Matrix& m, const Matrix& n) {
  const Matrix product{m.a * n.a + m.b * n.c, m.a * n.b + m.b * n.d, m.c * n.a + m.d * n.c,
                       m.c * n.b + m.d * n.d};
  const double scale = 1 / (product.a + product.b + product.c + product.d);
  return {product.a * scale, product.b * scale, product.c * scale, product.d * scale};
}

template <class T>
struct Gains {
  T kalman[kChunk], rts[kChunk];
};

// Gains of the windows from `first` on; the whole block calls it.
template <class T>
__device__ void fill(Gains<T>& gains, const LdsSmooth& p, int64_t first) {
  __syncthreads();
  for (int i = threadIdx.x; i < kChunk && first + i < p.windows; i += kThreads) {
    Matrix power{1, 0, 0, 1}, square{p.r + p.q, p.q * p.r, 1, p.r};
    for (int64_t t = first + i; t > 0; t >>= 1) {
      if (t & 1) power = times(square, power);
      square = times(square, square);
    }
    const double before = (power.a * p.p0 + power.b) / (power.c * p.p0 + power.d);
    const double kalman = before / (before + p.r);
    const double filtered = before - kalman * before, predicted = filtered + p.q;
    gains.kalman[i] = T(kalman);
    gains.rts[i] = predicted > 0 ? T(filtered / predicted) : T(0);
  }
  __syncthreads();
}

// Where a thread's series lies. Threads beyond the last series have no windows.
struct Series {
  __device__ explicit Series(const LdsSmooth& p)
      : index(int64_t(blockIdx.x) * kThreads + threadIdx.x),
        live(index < p.batch * p.features),
        first(index / p.features * p.windows * p.features + index % p.features) {}
  int64_t index;
  bool live;
  int64_t first;
};

template <class IO>
__global__ void __launch_bounds__(kThreads, 4) lds_forward(LdsSmooth p) {
  using T = Accumulator<IO>;
  EEGFAST_SHARED(Gains<T>, gains);
  const Series series(p);
  const int64_t stride = p.features;
  const IO* y = static_cast<const IO*>(p.y) + series.first;
  IO* out = static_cast<IO*>(p.out) + series.first;
  T* filtered = static_cast<T*>(p.workspace ? p.workspace : p.out) + series.first;

  T mean = 0;
  if (series.live && p.prior) {
    mean = load(static_cast<const IO*>(p.prior) + series.index);
  } else if (series.live) {
    for (int64_t t = 0; t < p.windows; ++t) mean += load(y + t * stride);
    mean /= T(p.windows);
  }
  for (int64_t chunk = 0; chunk < p.windows; chunk += kChunk) {
    fill(gains, p, chunk);
    if (!series.live) continue;
    for (int64_t t = chunk; t < p.windows && t < chunk + kChunk; ++t) {
      mean += gains.kalman[t - chunk] * (load(y + t * stride) - mean);
      if (p.causal || t + 1 == p.windows)
        store(out + t * stride, mean);
      else
        filtered[t * stride] = mean;
    }
  }
  if (p.causal) return;
  for (int64_t chunk = (p.windows - 1) / kChunk * kChunk; chunk >= 0; chunk -= kChunk) {
    fill(gains, p, chunk);
    if (!series.live) continue;
    const int64_t last = p.windows - 2 < chunk + kChunk - 1 ? p.windows - 2 : chunk + kChunk - 1;
    for (int64_t t = last; t >= chunk; --t) {
      const T own = filtered[t * stride];
      mean = own + gains.rts[t - chunk] * (mean - own);
      store(out + t * stride, mean);
    }
  }
}

// The transpose: the RTS pass reversed (forward in time), then the filter reversed.
template <class IO>
__global__ void __launch_bounds__(kThreads, 4) lds_backward(LdsSmooth p) {
  using T = Accumulator<IO>;
  EEGFAST_SHARED(Gains<T>, gains);
  const Series series(p);
  const int64_t stride = p.features;
  const IO* grad = static_cast<const IO*>(p.y) + series.first;
  IO* out = static_cast<IO*>(p.out) + series.first;
  T* between = static_cast<T*>(p.workspace ? p.workspace : p.out) + series.first;

  T carried = 0;
  for (int64_t chunk = 0; chunk < p.windows; chunk += kChunk) {
    fill(gains, p, chunk);
    if (!series.live) continue;
    for (int64_t t = chunk; t < p.windows && t < chunk + kChunk; ++t) {
      T total = load(grad + t * stride);
      if (!p.causal) {
        total += carried;
        carried = t + 1 == p.windows ? T(0) : gains.rts[t - chunk] * total;
        total -= carried;
      }
      between[t * stride] = total;
    }
  }
  carried = 0;
  for (int64_t chunk = (p.windows - 1) / kChunk * kChunk; chunk >= 0; chunk -= kChunk) {
    fill(gains, p, chunk);
    if (!series.live) continue;
    const int64_t end = p.windows < chunk + kChunk ? p.windows : chunk + kChunk;
    for (int64_t t = end - 1; t >= chunk; --t) {
      const T total = between[t * stride] + carried;
      const T gradient = gains.kalman[t - chunk] * total;
      between[t * stride] = gradient;
      carried = total - gradient;
    }
  }
  if (!series.live) return;
  store(static_cast<IO*>(p.grad_prior) + series.index, carried);
  if (!p.own_prior && !p.workspace) return;
  const T share = p.own_prior ? carried / T(p.windows) : T(0);
  for (int64_t t = 0; t < p.windows; ++t) store(out + t * stride, between[t * stride] + share);
}

dim3 blocks(const LdsSmooth& p) {
  return dim3(unsigned((p.batch * p.features + kThreads - 1) / kThreads));
}

}  // namespace

int64_t lds_smooth_workspace(const LdsSmooth& p) {
  const bool half = p.dtype == DType::kFloat16 || p.dtype == DType::kBFloat16;
  return half ? p.batch * p.windows * p.features * int64_t(sizeof(float)) : 0;
}

int lds_smooth_cuda(const LdsSmooth& p, void* stream) {
  return with_dtype(p.dtype, [&](auto element) {
    return launch(lds_forward<decltype(element)>, blocks(p), kThreads, 0, stream, p);
  });
}

int lds_smooth_backward_cuda(const LdsSmooth& p, void* stream) {
  return with_dtype(p.dtype, [&](auto element) {
    return launch(lds_backward<decltype(element)>, blocks(p), kThreads, 0, stream, p);
  });
}

}  // namespace eegfast
