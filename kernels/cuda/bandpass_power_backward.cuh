// SPDX-License-Identifier: BSD-3-Clause
// Gradient of bandpass_power. With g the gradients of the windows,
//   dy = sum over windows of 2 g (y - mean) / (window - ddof),
// and the adjoint of a filter is the filter run backwards in time. One pass forward keeps the means
// of the windows and the states at the starts of tiles (bandpass_chains.cuh). The next takes the
// tiles in reverse: each thread filters its tile again from the state kept, into shared memory,
// turns y into dy, and dy into what the adjoint filter makes of it; then the block adds up its
// bands. Threads are as in the forward pass. Spans run twice here too, for the adjoint states.
//
// Bands in the signal's type and in double take turns, and so do more than kMaxBands bands: each
// adds to the gradient that the one before wrote (half types: to a float32 copy of it).
//
// Per sample, channel and band: 18 FLOP a section (30 if not plain) and 6 more, once and a half of
// that with spans. Per sample and channel: 12 bytes, or 20 with spans, and 2 sections / 16 values
// for the states of tiles.
#pragma once

#include "bandpass_chains.cuh"

namespace eegfast {
namespace {

template <class A, int S, bool Plain>
class Adjoint {
 public:
  __device__ Adjoint(const Launch& p, const Span& span, int group, int slot, int64_t row,
                     bool from_zero)
      : p_(p),
        span_(span),
        band_(p.group[group].band[slot]),
        row_(row),
        stride_(p.group[group].count * p.rows),
        tile_states_(static_cast<const A*>(p.tile_states[group]) +
                     span.index * p.tiles * 2 * S * stride_ + slot * p.rows + row),
        means_(static_cast<const A*>(p.means[group]) + slot * p.rows + row),
        scale_(2 * p.gain[band_] * p.gain[band_] / double(p.window - p.ddof)),
        cascade_(p, band_),
        stop_tile_(from_zero ? lead(p, span, band_) : tiles(span)),
        segment_(p, last_of(span)) {
    const int64_t batch = row / p.n_chans, chan = row % p.n_chans;
    grad_ = (batch * p.windows * p.n_chans + chan) * p.all_bands + p.output_band[band_];
    if (!from_zero) load_start(p, p.backward, span.index, chain_of(p, band_, row), cascade_, 2 * S);
  }

  __device__ static int64_t tiles(const Span& span) {
    return (span.end - span.begin + kTile - 1) / kTile;
  }
  // Tiles at the span's start that tell where the adjoint filter ends.
  __device__ static int64_t lead(const Launch& p, const Span& span, int band) {
    const int64_t all = tiles(span);
    return all < p.lead_tiles[band] ? all : p.lead_tiles[band];
  }

  // Tiles come in reverse; the result to y.
  template <class T>
  __device__ void filter(const T* x, A* y, int64_t index, int64_t time, int count) {
    if (index >= stop_tile_) return;
    A adjoint[2 * S];
    cascade_.save(adjoint, 1);
    filter_again(x, y, index, time, count);
    cascade_.load(adjoint, 1);

    for (int64_t end = time + count; end > time;) {
      if (end == segment_.end() && cascade_.restart()) restarted_ = true;
      const int64_t begin = segment_.begin() > time ? segment_.begin() : time;
      A slope = 0, offset = 0;
      for (int64_t w = segment_.first; w <= segment_.last; ++w) {
        const int64_t at = grad_ + w * p_.n_chans * p_.all_bands;
        const A weight = A(load_as<double>(p_.dtype, p_.grad, at) * scale_);
        slope += weight;
        offset += weight * means_[w * stride_];
      }
      // In a gap between windows y may be NaN, but no gradient comes from there.
      const bool covered = segment_.first <= segment_.last;
      const int stop = int(begin - time);
#pragma unroll 8
      for (int t = int(end - time) - 1; t >= stop; --t)
        y[t] = cascade_.step(covered ? y[t] * slope - offset : A(0));
      if (begin == segment_.begin()) segment_.previous();
      end = begin;
    }
  }

  __device__ void finish() {
    if (cascade_.restart()) restarted_ = true;
    save_end(p_, p_.backward, span_.index, chain_of(p_, band_, row_), cascade_, 2 * S, restarted_);
  }

 private:
  __device__ int64_t last_of(const Span& span) const {
    const int64_t end = span.begin + stop_tile_ * kTile;
    return (end < span.end ? end : span.end) - 1;
  }

  template <class T>
  __device__ void filter_again(const T* x, A* y, int64_t index, int64_t time, int count) {
    Segment segment = segment_;
    while (segment.begin() > time) segment.previous();
    cascade_.load(tile_states_ + index * 2 * S * stride_, stride_);
    for (int begin = 0; begin < count;) {
      const int64_t edge = segment.end();
      const int end = edge - time < count ? int(edge - time) : count;
#pragma unroll 8
      for (int t = begin; t < end; ++t) y[t] = cascade_.step(A(x[t]));
      if (time + end == edge) {
        cascade_.restart();
        segment.next();
      }
      begin = end;
    }
  }

  const Launch& p_;
  const Span& span_;
  const int band_;
  const int64_t row_, stride_;
  const A *const tile_states_, *const means_;
  const double scale_;
  Cascade<A, S, Plain> cascade_;
  const int64_t stop_tile_;
  Segment segment_;
  int64_t grad_;
  bool restarted_ = false;
};

// Adds up the bands of a tile, with the turns before.
template <class A>
__device__ void add_bands(const Launch& p, const Tile<A>* y, int bands, int64_t first, int64_t time,
                          int count) {
  const bool half = p.dtype == DType::kFloat16 || p.dtype == DType::kBFloat16;
  for (int r = threadIdx.y; r < kLanes && first + r < p.rows; r += blockDim.y) {
    for (int t = threadIdx.x; t < count; t += kLanes) {
      A sum = y[0][r][t];
      for (int band = 1; band < bands; ++band) sum += y[band][r][t];
      const int64_t at = (first + r) * p.n_times + time + t;
      if (p.turn > 0) sum += half ? A(p.sum[at]) : load_as<A>(p.dtype, p.out, at);
      if (half && p.turn + 1 < p.turns)
        p.sum[at] = float(sum);
      else
        store_as(p.dtype, p.out, at, sum);
    }
  }
}

template <class A, class T, int S, bool Plain, bool from_zero>
__device__ void run_adjoints(const Launch& p, const Span& span, int group, unsigned char* shared) {
  using Own = Adjoint<A, S, Plain>;
  Tile<T>* x = reinterpret_cast<Tile<T>*>(shared);
  Tile<A>* y = reinterpret_cast<Tile<A>*>(shared + 2 * sizeof(Tile<T>));
  const int64_t first = int64_t(blockIdx.x) * kLanes, row = first + threadIdx.x;
  const Launch::Group& bands = p.group[group];
  const int slot = threadIdx.y;
  const bool live = slot < bands.count && row < p.rows;
  Own adjoint(p, span, group, live ? slot : 0, live ? row : 0, from_zero);
  int64_t tiles = from_zero ? 0 : Own::tiles(span);
  if (from_zero) {
    for (int i = 0; i < bands.count; ++i) {
      const int64_t lead = Own::lead(p, span, bands.band[i]);
      if (lead > tiles) tiles = lead;
    }
  }
  for_tiles<T>(p, x, span.begin, span.end, tiles - 1, -1, -1,
               [&](Tile<T>& tile, int64_t index, int64_t time, int count) {
                 if (live)
                   adjoint.filter(tile[threadIdx.x], y[slot][threadIdx.x], index, time, count);
                 if (from_zero) return;
                 __syncthreads();
                 add_bands(p, y, bands.count, first, time, count);
               });
  if (from_zero && live) adjoint.finish();
}

// Behind the last window.
__device__ void clear_rest(const Launch& p, int64_t begin) {
  for (int r = threadIdx.y; r < kLanes; r += blockDim.y) {
    const int64_t row = int64_t(blockIdx.x) * kLanes + r;
    if (row >= p.rows) return;
    for (int64_t t = begin + threadIdx.x; t < p.n_times; t += kLanes)
      store_as(p.dtype, p.out, row * p.n_times + t, 0.0f);
  }
}

template <class T, int S, bool Plain, bool from_zero>
__global__ void __launch_bounds__(kLanes* kMaxBands, S > 5   ? 1
                                                     : S > 3 ? 2
                                                             : 3)
    bandpass_adjoint(const Launch p, const int group) {
  EEGFAST_DYNAMIC_SHARED(unsigned char, shared);
  const Span span(p, int64_t(blockIdx.y) + (from_zero ? 1 : 0));
  if (group == 0)
    run_adjoints<T, T, S, Plain, from_zero>(p, span, 0, shared);
  else
    run_adjoints<double, T, S, Plain, from_zero>(p, span, 1, shared);
  if (!from_zero && p.turn == 0 && span.index + 1 == p.spans) clear_rest(p, span.end);
}

template <class T, int S, bool Plain, bool from_zero>
int launch_adjoint(const Launch& l, int group, void* stream) {
  const int bands = l.group[group].count;
  const size_t bytes =
      2 * sizeof(Tile<T>) + bands * (group ? sizeof(Tile<double>) : sizeof(Tile<T>));
  const dim3 grid(chain_grid(l).x, unsigned(from_zero ? l.spans - 1 : l.spans));
  return launch(bandpass_adjoint<T, S, Plain, from_zero>, grid, dim3(kLanes, unsigned(bands)),
                bytes, stream, l, group);
}

// The bands of one launch; l.turn counts on.
template <class T, int S, bool Plain>
int run_bands(Launch& l, void* stream) {
  if (const int error = find_starts<T, S, Plain>(l, stream)) return error;
  if (const int error = launch(bandpass_chains<T, S, Plain, Pass::kMeans>, chain_grid(l),
                               chain_block(l), 0, stream, l))
    return error;
  if (l.spans > 1) {
    for (int group = 0; group < 2; ++group)
      if (l.group[group].count)
        if (const int error = launch_adjoint<T, S, Plain, true>(l, group, stream)) return error;
    const dim3 grid(chain_grid(l).x, unsigned(l.bands));
    if (const int error =
            launch(scan_spans<S, Plain>, grid, dim3(kLanes), 0, stream, l, l.backward, true))
      return error;
  }
  for (int group = 0; group < 2; ++group) {
    if (!l.group[group].count) continue;
    if (const int error = launch_adjoint<T, S, Plain, false>(l, group, stream)) return error;
    ++l.turn;
  }
  return cudaSuccess;
}

// Calls run(launch, plain) for each launch, its workspace cut; `bytes` becomes what all need.
template <class Run>
int for_launches(const BandpassPower& p, int64_t& bytes, const Run& run) {
  Launch l = describe(p);
  bool plain = false;
  for (int64_t first = 0; first < p.bands; first += max_bands(p.dtype)) {
    set_bands(l, p, first);
    l.turns += (l.group[0].count > 0) + (l.group[1].count > 0);
  }
  Workspace common{static_cast<unsigned char*>(p.workspace)};
  const bool half = p.dtype == DType::kFloat16 || p.dtype == DType::kBFloat16;
  if (half && l.turns > 1) common.take(l.sum, l.rows * l.n_times);
  bytes = common.bytes;
  const int n = 2 * padded_sections(p.n_sections);
  for (int64_t first = 0; first < p.bands; first += max_bands(p.dtype)) {
    plain = set_bands(l, p, first);
    Workspace workspace = common;
    take_ring(l, workspace);
    take_states(l, l.forward, n, workspace);
    take_states(l, l.backward, n, workspace);
    for (int group = 0; group < 2; ++group) {
      const int64_t chains = l.group[group].count * l.rows;
      const int64_t size = group || p.dtype == DType::kFloat64 ? sizeof(double) : sizeof(float);
      const auto take = [&](void*& to, int64_t count) {
        unsigned char* taken = nullptr;
        workspace.take(taken, count * size);
        to = taken;
      };
      take(l.tile_states[group], l.spans * l.tiles * n * chains);
      take(l.means[group], l.windows * chains);
    }
    if (workspace.bytes > bytes) bytes = workspace.bytes;
    if (const int error = run(l, plain)) return error;
  }
  return cudaSuccess;
}

template <class T>
int run(const BandpassPower& p, void* stream) {
  int64_t bytes = 0;
  return for_launches(p, bytes, [&](Launch& l, bool plain) {
    return with_sections(p.n_sections, plain, [&](auto sections, auto is_plain) {
      return run_bands<T, decltype(sections)::value, decltype(is_plain)::value>(l, stream);
    });
  });
}

}  // namespace
}  // namespace eegfast
