// SPDX-License-Identifier: BSD-3-Clause
// The passes of bandpass_power forward in time. A thread owns one band of one channel in one span,
// a warp is one band of 32 channels, a block the bands of these channels and one span. Tiles of 64
// samples go through shared memory, read along the rows and used by all bands.
//
// Time is cut at every start and end of a window into segments. A segment's sums go to a ring in
// the workspace, where overlapping windows find them; a window that is one segment needs none. A
// span is filtered on to the end of the last window that starts in it. Sums over a tile are kept in
// the filter's type, over segments in double. At a segment's end a state that is not finite
// restarts as zero.
#pragma once

#include "bandpass_power.cuh"
#include "bandpass_scan.cuh"
#include "bandpass_tiles.cuh"

namespace eegfast {
namespace {

enum class Pass {
  kEnds,       // where a span ends from a zero state, `lead_tiles` before
  kVariances,  // of each window
  kMeans       // of each window, and the states at the starts of tiles
};

// One cascade over one channel, in the type A.
template <class A, int S, bool Plain, Pass kPass>
class Chain {
 public:
  __device__ Chain(const Launch& p, const Span& span, int group, int slot, int64_t row)
      : p_(p),
        span_(span),
        group_(group),
        band_(p.group[group].band[slot]),
        row_(row),
        place_(slot * p.rows + row),
        stride_(p.group[group].count * p.rows),
        cascade_(p, band_),
        first_tile_(kPass == Pass::kEnds ? first_tile(p, span, band_) : 0),
        segment_(p, span.begin + first_tile_ * kTile),
        edge_(segment_.end()) {
    const int64_t batch = row / p.n_chans, chan = row % p.n_chans;
    out_ = (batch * p.windows * p.n_chans + chan) * p.all_bands + p.output_band[band_];
    if (kPass != Pass::kEnds)
      load_start(p, p.forward, span.index, chain_of(p, band_, row), cascade_, 2 * S);
  }

  __device__ static int64_t first_tile(const Launch& p, const Span& span, int band) {
    const int64_t tiles = (span.end - span.begin + kTile - 1) / kTile;
    return tiles > p.lead_tiles[band] ? tiles - p.lead_tiles[band] : 0;
  }

  template <class T>
  __device__ void filter(const T* tile, int64_t index, int64_t time, int count) {
    if (kPass == Pass::kEnds && index < first_tile_) return;
    if (kPass == Pass::kMeans && time < span_.end) {
      const int64_t at = span_.index * p_.tiles + index;
      cascade_.save(static_cast<A*>(p_.tile_states[group_]) + at * 2 * S * stride_ + place_,
                    stride_);
    }
    for (int begin = 0; begin < count;) {
      const int end = edge_ - time < count ? int(edge_ - time) : count;
      A sum = 0, square = 0;
#pragma unroll 8
      for (int t = begin; t < end; ++t) {
        const A y = cascade_.step(A(tile[t]));
        if (kPass == Pass::kEnds) continue;
        sum += y;
        if (kPass == Pass::kVariances) square += y * y;
      }
      sum_ += double(sum);
      square_ += double(square);
      if (time + end == edge_) close_segment();
      begin = end;
    }
  }

  __device__ void finish() const {
    if (kPass == Pass::kEnds)
      save_end(p_, p_.forward, span_.index, chain_of(p_, band_, row_), cascade_, 2 * S, restarted_);
  }

 private:
  __device__ double* slot(int64_t segment) const {
    const int64_t chain = (row_ * p_.bands + band_) * p_.spans + span_.index;
    return p_.ring + 3 * (chain * p_.ring_size + segment % p_.ring_size);
  }

  __device__ void close_segment() {
    if (cascade_.restart()) restarted_ = true;
    if (kPass != Pass::kEnds) {
      if (p_.ring) {
        double* own = slot(closed_);
        own[0] = sum_;
        own[1] = square_;
        own[2] = double(segment_.begin());
      }
      const int64_t window = segment_.first, start = window * p_.step;
      if (edge_ == segment_.stop_of(window) && window >= span_.first_window) {
        if (start != segment_.begin()) {
          for (int64_t s = closed_ - 1;; --s) {
            const double* before = slot(s);
            sum_ += before[0];
            square_ += before[1];
            if (before[2] == double(start)) break;
          }
        }
        write(window);
      }
      sum_ = square_ = 0;
      ++closed_;
    }
    segment_.next();
    edge_ = segment_.end();
  }

  __device__ void write(int64_t window) const {
    const double mean = sum_ / double(p_.window);
    if (kPass == Pass::kMeans) {
      static_cast<A*>(p_.means[group_])[window * stride_ + place_] = A(mean);
      return;
    }
    const double gain = p_.gain[band_];
    const double variance = (square_ - sum_ * mean) / double(p_.window - p_.ddof) * (gain * gain);
    const int64_t at = out_ + window * p_.n_chans * p_.all_bands;
    store_as(p_.dtype, p_.out, at, variance < 0 ? 0.0 : variance);
  }

  const Launch& p_;
  const Span& span_;
  const int group_, band_;
  const int64_t row_, place_, stride_;  // the latter among the chains of the group
  Cascade<A, S, Plain> cascade_;
  double sum_ = 0, square_ = 0;  // of the open segment
  const int64_t first_tile_;
  Segment segment_;
  int64_t out_;
  int64_t edge_, closed_ = 0;
  bool restarted_ = false;
};

template <class A, class T, int S, bool Plain, Pass kPass>
__device__ void run_chains(const Launch& p, const Span& span, int group, Tile<T>* tiles) {
  using Own = Chain<A, S, Plain, kPass>;
  const int64_t row = int64_t(blockIdx.x) * kLanes + threadIdx.x;
  const int64_t end = kPass == Pass::kEnds ? span.end : span.end_of_windows;
  const int64_t stop = (end - span.begin + kTile - 1) / kTile;
  const Launch::Group& bands = p.group[group];
  const bool live = int(threadIdx.y) < bands.count && row < p.rows;
  Own chain(p, span, group, live ? int(threadIdx.y) : 0, live ? row : 0);
  int64_t first = 0;
  if (kPass == Pass::kEnds) {
    first = stop;
    for (int i = 0; i < bands.count; ++i) {
      const int64_t own = Own::first_tile(p, span, bands.band[i]);
      if (own < first) first = own;
    }
  }
  for_tiles<T>(p, tiles, span.begin, end, first, stop, 1,
               [&](Tile<T>& tile, int64_t index, int64_t time, int count) {
                 if (live) chain.filter(tile[threadIdx.x], index, time, count);
               });
  if (live) chain.finish();
}

template <class T, int S, bool Plain, Pass kPass>
__global__ void __launch_bounds__(kLanes* kMaxBands, S > 5   ? 1
                                                     : S > 3 ? 2
                                                             : 3) bandpass_chains(const Launch p) {
  using Tiles = Tile<T>[2];
  EEGFAST_SHARED(Tiles, tiles);
  const Span span(p, blockIdx.y);
  if (p.group[blockIdx.z].count == 0) return;
  if (blockIdx.z == 0)
    run_chains<T, T, S, Plain, kPass>(p, span, 0, tiles);
  else
    run_chains<double, T, S, Plain, kPass>(p, span, 1, tiles);
}

// The states that spans start in, where there are several.
template <class T, int S, bool Plain>
int find_starts(Launch l, void* stream) {
  if (l.spans == 1) return cudaSuccess;
  dim3 grid = chain_grid(l);
  grid.y -= 1;
  if (const int error =
          launch(bandpass_chains<T, S, Plain, Pass::kEnds>, grid, chain_block(l), 0, stream, l))
    return error;
  return launch(scan_spans<S, Plain>, dim3(grid.x, unsigned(l.bands)), dim3(kLanes), 0, stream, l,
                l.forward, false);
}

}  // namespace
}  // namespace eegfast
