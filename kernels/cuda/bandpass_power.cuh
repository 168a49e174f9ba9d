// SPDX-License-Identifier: BSD-3-Clause
// What both directions of bandpass_power share: cascades, edges of segments, spans, tiles.
//
// Where there are too few chains (bands of a channel) to fill a large card, time is cut into spans
// of whole steps, each with threads of its own. A filter is linear: from state s a span of n
// samples ends in A^n s + z, z being where it ends from zero. So the spans run once from zero for
// their z, a scan over the spans gives the states that they start in, and they run again from
// there: twice the arithmetic, no digit lost. A filter that restarted in a span (after a NaN) ends
// it in z.
#pragma once

#include "eegfast/bandpass_power.h"
#include "portable.cuh"

namespace eegfast {
namespace {

constexpr int kLanes = 32;  // channels of a block
constexpr int kTile = 64;   // samples
constexpr int kMaxBands = 5, kMaxSections = 10;
constexpr double kNarrow = 0.03;

template <class A>
struct Section {
  A b0, b1, b2, a1, a2;
};

// Of one direction in time. Arrays with all rows last; rows are numbered (batch, channel).
struct States {
  double* end;    // (spans, 2 sections + 1, bands, rows): from zero; last, whether it restarted
  double* start;  // (spans, 2 sections, bands, rows)
};

struct Launch {
  const void* x;
  const void* grad;
  void* out;
  double* ring;  // (rows, bands, spans, ring_size, 3): sum, sum of squares, where the segment
                 // starts; null: a window is one segment
  float* sum;    // backward: of the bands of the turns before, where `out` is of a half type
  States forward, backward;
  void *tile_states[2], *means[2];  // backward, of each group in its type: (spans, tiles,
                                    // 2 sections, count, rows) and (windows, count, rows)
  int64_t stride_batch, stride_chan, n_chans, n_times, rows, windows, window, step, ddof;
  int64_t span_windows, spans, tiles;  // of a span, the longest
  int bands, all_bands, ring_size;     // of this launch, of all; segments
  int lead_tiles[kMaxBands];           // what a state depends on, in tiles
  int turn, turns;                     // backward: groups of all launches follow each other
  DType dtype;
  // blockIdx.z = 0: bands in the signal's type; 1: in double.
  struct Group {
    int count, band[kMaxBands];
  } group[2];
  int output_band[kMaxBands];
  double gain[kMaxBands];
  Section<double> sections[kMaxBands][kMaxSections];
  Section<float> rounded[kMaxBands][kMaxSections];
};
static_assert(sizeof(Launch) <= 4096, "the parameters of a kernel");

// A segment: no window starts or ends inside. Windows first .. last cover it; none if first > last.
class Segment {
 public:
  // That which holds time t.
  __device__ Segment(const Launch& p, int64_t t)
      : first(t < p.window ? 0 : (t - p.window) / p.step + 1),
        last(t / p.step < p.windows ? t / p.step : p.windows - 1),
        p_(p) {}
  __device__ int64_t begin() const {
    const int64_t start = last * p_.step, stop = first > 0 ? stop_of(first - 1) : 0;
    return start > stop ? start : stop;
  }
  __device__ int64_t end() const {
    const int64_t start = (last + 1) * p_.step, stop = stop_of(first);
    return last + 1 < p_.windows && start < stop ? start : stop;
  }
  __device__ void next() {
    const int64_t edge = end();
    if (last + 1 < p_.windows && (last + 1) * p_.step == edge) ++last;
    if (stop_of(first) == edge) ++first;
  }
  __device__ void previous() {
    const int64_t edge = begin();
    if (last * p_.step == edge) --last;
    if (first > 0 && stop_of(first - 1) == edge) --first;
  }
  __device__ int64_t stop_of(int64_t window) const { return window * p_.step + p_.window; }

  int64_t first, last;

 private:
  const Launch& p_;
};

struct Span {
  __device__ Span(const Launch& p, int64_t index)
      : index(index),
        first_window(index * p.span_windows),
        stop_window(index + 1 < p.spans ? first_window + p.span_windows : p.windows),
        begin(first_window * p.step),
        end_of_windows((stop_window - 1) * p.step + p.window),
        end(index + 1 < p.spans ? stop_window * p.step : end_of_windows) {}
  int64_t index, first_window, stop_window;
  int64_t begin, end_of_windows, end;
};

// Biquads in transposed direct form II. Plain: b = (1, 0, -1), the gain taken out.
template <class A, int S, bool Plain>
struct Cascade {
  __device__ Cascade(const Launch& p, int band) {
#pragma unroll
    for (int i = 0; i < S; ++i) {
      const Section<A>& s = section(p, band, i, A());
      a1[i] = s.a1;
      a2[i] = s.a2;
      if constexpr (!Plain) {
        b0[i] = s.b0;
        b1[i] = s.b1;
        b2[i] = s.b2;
      }
      s1[i] = s2[i] = 0;
    }
  }
  __device__ static const Section<double>& section(const Launch& p, int band, int i, double) {
    return p.sections[band][i];
  }
  __device__ static const Section<float>& section(const Launch& p, int band, int i, float) {
    return p.rounded[band][i];
  }
  __device__ A step(A v) {
#pragma unroll
    for (int i = 0; i < S; ++i) {
      if constexpr (Plain) {
        const A y = v + s1[i];
        s1[i] = s2[i] - a1[i] * y;
        s2[i] = -v - a2[i] * y;
        v = y;
      } else {
        const A y = b0[i] * v + s1[i];
        s1[i] = s2[i] + b1[i] * v - a1[i] * y;
        s2[i] = b2[i] * v - a2[i] * y;
        v = y;
      }
    }
    return v;
  }
  // A state that is not finite restarts as zero; whether one did.
  __device__ bool restart() {
    bool any = false;
#pragma unroll
    for (int i = 0; i < S; ++i) {
      if (!(s1[i] - s1[i] == 0)) s1[i] = 0, any = true;
      if (!(s2[i] - s2[i] == 0)) s2[i] = 0, any = true;
    }
    return any;
  }
  template <class T>
  __device__ void save(T* to, int64_t stride) const {
#pragma unroll
    for (int i = 0; i < S; ++i) {
      to[2 * i * stride] = T(s1[i]);
      to[(2 * i + 1) * stride] = T(s2[i]);
    }
  }
  template <class T>
  __device__ void load(const T* from, int64_t stride) {
#pragma unroll
    for (int i = 0; i < S; ++i) {
      s1[i] = A(from[2 * i * stride]);
      s2[i] = A(from[(2 * i + 1) * stride]);
    }
  }
  A a1[S], a2[S], s1[S], s2[S];
  A b0[Plain ? 1 : S], b1[Plain ? 1 : S], b2[Plain ? 1 : S];
};

// Place of a chain in arrays (..., bands, rows); stride of what comes before: bands * rows.
__device__ inline int64_t chain_of(const Launch& p, int band, int64_t row) {
  return int64_t(band) * p.rows + row;
}

// Saves where a span ended from a zero state, or starts it where the scan says.
template <class C>
__device__ void save_end(const Launch& p, const States& states, int64_t span, int64_t chain,
                         const C& cascade, int n, bool restarted) {
  const int64_t stride = p.bands * p.rows;
  double* to = states.end + span * (n + 1) * stride + chain;
  cascade.save(to, stride);
  to[n * stride] = restarted ? 1.0 : 0.0;
}
template <class C>
__device__ void load_start(const Launch& p, const States& states, int64_t span, int64_t chain,
                           C& cascade, int n) {
  const int64_t stride = p.bands * p.rows;
  if (p.spans > 1) cascade.load(states.start + span * n * stride + chain, stride);
}

inline bool is_narrow(const double* sos, int64_t n_sections) {
  for (int64_t i = 0; i < n_sections; ++i, sos += 6) {
    const double at_dc = 1 + sos[4] + sos[5], at_nyquist = 1 - sos[4] + sos[5];
    if (at_dc < kNarrow * kNarrow || at_nyquist < kNarrow * kNarrow) return true;
  }
  return false;
}

inline int padded_sections(int64_t n_sections) {
  return n_sections <= 2 ? 2 : n_sections <= 3 ? 3 : n_sections <= 5 ? 5 : kMaxSections;
}

// Tiles of samples after which a state is forgotten. For |A^n| the largest pole's radius r counts,
// as r^n, and its neighbours: a factor (1 / ln r)^n_sections is more than any Butterworth filter
// takes.
inline int lead_of(const double* sos, int64_t n_sections) {
  constexpr int kForever = 1 << 30;
  double radius = 1e-6;
  for (int64_t i = 0; i < n_sections; ++i, sos += 6) {
    const double half = sos[4] / 2, square = half * half - sos[5];
    const double r = square < 0 ? sqrt(sos[5]) : fabs(half) + sqrt(square);
    if (r > radius) radius = r;
  }
  const double decay = -log(radius);
  if (!(decay > 1e-7)) return kForever;
  const double growth = decay < 1 ? -double(n_sections) * log(decay) : 0.0;
  return int((60 * log(2.0) + growth) / decay / kTile) + 1;
}

// In double a tile of a band takes twice the memory; the backward has room for so many.
inline int64_t max_bands(DType dtype) {
  return dtype == DType::kFloat64 ? kMaxBands - 1 : kMaxBands;
}

// The bands from `first` on, as many as share a launch. Whether all their sections are plain.
inline bool set_bands(Launch& l, const BandpassPower& p, int64_t first) {
  const int64_t most = max_bands(p.dtype);
  l.all_bands = int(p.bands);
  l.bands = int(p.bands - first < most ? p.bands - first : most);
  bool plain = p.n_sections == 3 || p.n_sections == 5;
  for (int64_t i = 0; i < l.bands * p.n_sections; ++i) {
    const double* sos = p.sos + (first * p.n_sections + i) * 6;
    plain = plain && sos[1] == 0 && sos[2] == -sos[0] && sos[0] != 0;
  }
  l.group[0].count = l.group[1].count = 0;
  for (int band = 0; band < l.bands; ++band) {
    const double* sos = p.sos + (first + band) * p.n_sections * 6;
    Launch::Group& group =
        l.group[p.dtype != DType::kFloat64 && is_narrow(sos, p.n_sections) ? 1 : 0];
    group.band[group.count++] = band;
    l.output_band[band] = int(first) + band;
    l.gain[band] = 1;
    l.lead_tiles[band] = lead_of(sos, p.n_sections);
    for (int i = 0; i < kMaxSections; ++i, sos += 6) {
      Section<double>& s = l.sections[band][i];
      s = {1, 0, 0, 0, 0};
      if (i < p.n_sections) {
        s = {sos[0], sos[1], sos[2], sos[4], sos[5]};
        if (plain) l.gain[band] *= sos[0];
      }
      l.rounded[band][i] = {float(s.b0), float(s.b1), float(s.b2), float(s.a1), float(s.a2)};
    }
  }
  return plain;
}

// Chooses the spans by the cycles that they should take: a sample's latency, or its instructions
// where warps share a scheduler; the leads again; the scan and its launches. Counted for a card of
// 528 schedulers, so that the same shape gives the same bits on any card.
inline void set_spans(Launch& l) {
  constexpr int64_t kSchedulers = 528, kLatency = 18, kIssue = 14, kScan = 140, kLaunches = 6000;
  const int64_t warps = (l.rows + kLanes - 1) / kLanes * l.bands, times = l.windows * l.step;
  const auto larger = [](int64_t a, int64_t b) { return a > b ? a : b; };
  int64_t best = -1;
  for (int64_t spans = 1; spans <= 128 && spans <= l.windows; spans *= 2) {
    const int64_t share = (warps * spans + kSchedulers - 1) / kSchedulers * kIssue;
    const int64_t samples = times / spans;
    int64_t cycles = samples * larger(share, kLatency);
    if (spans > 1) {
      int64_t longest = 0, all = 0;
      for (int band = 0; band < l.bands; ++band) {
        const int64_t lead = int64_t(l.lead_tiles[band]) * kTile;
        const int64_t run = lead < samples ? lead : samples;
        longest = larger(longest, run);
        all += run;
      }
      cycles += larger(longest * kLatency, all * share / l.bands) + spans * kScan + kLaunches;
    }
    if (best >= 0 && cycles >= best) continue;
    best = cycles;
    l.span_windows = (l.windows + spans - 1) / spans;
  }
  l.spans = (l.windows + l.span_windows - 1) / l.span_windows;
  const int64_t of_steps = l.span_windows * l.step, of_last = of_steps - l.step + l.window;
  l.tiles = ((of_steps > of_last ? of_steps : of_last) + kTile - 1) / kTile;
}

inline Launch describe(const BandpassPower& p) {
  Launch l{};
  l.x = p.x;
  l.grad = p.grad;
  l.out = p.out;
  l.stride_batch = p.stride_batch;
  l.stride_chan = p.stride_chan;
  l.n_chans = p.n_chans;
  l.n_times = p.n_times;
  l.rows = p.batch * p.n_chans;
  l.windows = p.windows;
  l.window = p.window;
  l.step = p.step;
  l.ddof = p.ddof;
  l.dtype = p.dtype;
  l.ring_size = p.step >= p.window ? 0 : int(2 * ((p.window + p.step - 1) / p.step) + 2);
  set_bands(l, p, 0);
  set_spans(l);
  return l;
}

// Cuts a workspace into arrays, or only counts where there is none.
struct Workspace {
  template <class T>
  void take(T*& to, int64_t count) {
    if (base) to = reinterpret_cast<T*>(base + bytes);
    bytes += (count * int64_t(sizeof(T)) + 15) / 16 * 16;
  }
  unsigned char* base;
  int64_t bytes = 0;
};

inline void take_ring(Launch& l, Workspace& workspace) {
  if (l.ring_size) workspace.take(l.ring, l.rows * l.bands * l.spans * l.ring_size * 3);
}
inline void take_states(const Launch& l, States& states, int n, Workspace& workspace) {
  if (l.spans == 1) return;
  workspace.take(states.end, l.spans * (n + 1) * l.bands * l.rows);
  workspace.take(states.start, l.spans * n * l.bands * l.rows);
}

// Calls run(std::integral_constant S, bool constant Plain).
template <int V>
struct Constant {
  static constexpr int value = V;
};
template <class Run>
int with_sections(int64_t n_sections, bool plain, const Run& run) {
  switch (padded_sections(n_sections)) {
    case 2:
      return run(Constant<2>(), Constant<0>());
    case 3:
      return plain ? run(Constant<3>(), Constant<1>()) : run(Constant<3>(), Constant<0>());
    case 5:
      return plain ? run(Constant<5>(), Constant<1>()) : run(Constant<5>(), Constant<0>());
    default:
      return run(Constant<kMaxSections>(), Constant<0>());
  }
}

inline dim3 chain_grid(const Launch& l) {
  return dim3(unsigned((l.rows + kLanes - 1) / kLanes), unsigned(l.spans),
              l.group[1].count ? 2 : 1);
}
inline dim3 chain_block(const Launch& l) {
  return dim3(kLanes,
              unsigned(l.group[0].count > l.group[1].count ? l.group[0].count : l.group[1].count));
}

}  // namespace
}  // namespace eegfast
