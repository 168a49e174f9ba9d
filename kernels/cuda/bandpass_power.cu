// SPDX-License-Identifier: BSD-3-Clause
// Variance per window behind a bank of recursive filters (formula: eegfast/bandpass_power.h).
//
// A thread owns one band of one channel and runs through all of time; a warp is one band of 32
// channels, a block up to kMaxBands bands of these channels. Tiles of 64 samples go through shared
// memory, read along the rows and used by all its bands. Sections are unrolled, cascades padded
// with sections that change nothing.
//
// Time is cut at every start and end of a window into segments. A segment's sums go to a ring in
// the workspace, where overlapping windows find them; a window that is one segment needs none. Sums
// over a tile are kept in the filter's type, over segments in double. At a segment's end a state
// that is not finite restarts as zero.
//
// A filter with poles within kNarrow of +-1 loses digits in float32: such bands are computed in
// double, by blocks of their own, the others in the signal's type.
//
// Per sample, channel and band: 10 FLOP a section and 3 for the sums; 4 bytes read per sample and
// channel. With few channels the latency of a step, not the arithmetic, sets the time.
#include "eegfast/bandpass_power.h"
#include "portable.cuh"

namespace eegfast {
namespace {

constexpr int kLanes = 32;  // channels of a block
constexpr int kTile = 64;
constexpr int kMaxBands = 4, kMaxSections = 10;
constexpr double kNarrow = 0.03;

struct Section {
  double b0, b1, b2, a1, a2;
};

struct Launch {
  const void* x;
  void* out;
  double* ring;
  int64_t stride_batch, stride_chan, n_chans, rows, windows, window, step, ddof;
  int bands, ring_size;  // of all launches together; segments
  DType dtype;
  // blockIdx.y = 0: in the signal's type; 1: in double. Each group has `count` bands.
  struct Group {
    int count, band[kMaxBands];
    Section sections[kMaxBands][kMaxSections];
  } group[2];
};
static_assert(sizeof(Launch) <= 4096, "the parameters of a kernel");

// Edges of segments: the first after t, and the last before t.
__device__ int64_t next_edge(const Launch& p, int64_t t) {
  const int64_t after = t < p.window ? 0 : (t - p.window) / p.step + 1;
  const int64_t stop = p.window + after * p.step, start = t / p.step + 1;
  return start < p.windows && start * p.step < stop ? start * p.step : stop;
}
__device__ int64_t previous_edge(const Launch& p, int64_t t) {
  const int64_t before = (t - 1) / p.step < p.windows - 1 ? (t - 1) / p.step : p.windows - 1;
  const int64_t start = before * p.step;
  if (t <= p.window) return start;
  const int64_t stop = p.window + (t - 1 - p.window) / p.step * p.step;
  return stop > start ? stop : start;
}

// One cascade over one channel, in the type A.
template <class A, int S>
class Chain {
 public:
  __device__ Chain(const Launch& p, const Section* sections, int band, int64_t row, bool live)
      : p_(p), band_(band), row_(row), live_(live), edge_(next_edge(p, 0)) {
#pragma unroll
    for (int i = 0; i < S; ++i) {
      const Section& s = sections[i];
      c_[i][0] = A(s.b0);
      c_[i][1] = A(s.b1);
      c_[i][2] = A(s.b2);
      c_[i][3] = A(s.a1);
      c_[i][4] = A(s.a2);
      s1_[i] = s2_[i] = 0;
    }
  }

  template <class T>
  __device__ void filter(const T* tile, int64_t time, int count) {
    for (int begin = 0; begin < count;) {
      const int end = edge_ - time < count ? int(edge_ - time) : count;
      A sum = 0, square = 0;
      for (int t = begin; t < end; ++t) {
        A v = A(tile[t]);
#pragma unroll
        for (int i = 0; i < S; ++i) {
          const A y = c_[i][0] * v + s1_[i];
          s1_[i] = s2_[i] + c_[i][1] * v - c_[i][3] * y;
          s2_[i] = c_[i][2] * v - c_[i][4] * y;
          v = y;
        }
        sum += v;
        square += v * v;
      }
      sum_ += double(sum);
      square_ += double(square);
      if (time + end == edge_) close_segment();
      begin = end;
    }
  }

 private:
  __device__ double* slot(int64_t segment) const {
    const int64_t chain = row_ * p_.bands + band_;
    return p_.ring + 2 * (chain * p_.ring_size + segment % p_.ring_size);
  }

  __device__ void close_segment() {
#pragma unroll
    for (int i = 0; i < S; ++i) {
      if (!(s1_[i] - s1_[i] == 0)) s1_[i] = 0;
      if (!(s2_[i] - s2_[i] == 0)) s2_[i] = 0;
    }
    const int64_t start = edge_ - p_.window;
    int64_t from = previous_edge(p_, edge_);
    if (live_ && p_.ring) {
      slot(segment_)[0] = sum_;
      slot(segment_)[1] = square_;
    }
    if (live_ && start >= 0 && start % p_.step == 0) {
      for (int64_t s = segment_ - 1; from != start; --s, from = previous_edge(p_, from)) {
        sum_ += slot(s)[0];
        square_ += slot(s)[1];
      }
      write(start / p_.step);
    }
    sum_ = square_ = 0;
    ++segment_;
    edge_ = next_edge(p_, edge_);
  }

  __device__ void write(int64_t window) const {
    const double variance =
        (square_ - sum_ * sum_ / double(p_.window)) / double(p_.window - p_.ddof);
    const int64_t batch = row_ / p_.n_chans, chan = row_ % p_.n_chans;
    const int64_t at = ((batch * p_.windows + window) * p_.n_chans + chan) * p_.bands;
    store_as(p_.dtype, p_.out, at + band_, variance < 0 ? 0.0 : variance);
  }

  const Launch& p_;
  const int band_;
  const int64_t row_;
  const bool live_;
  A c_[S][5], s1_[S], s2_[S];
  double sum_ = 0, square_ = 0;  // of the open segment
  int64_t segment_ = 0, edge_;
};

// T is the type of a tile: double for float64, else float.
template <class T, int S>
struct Block {
  T tile[kLanes][kTile + 1];

  template <class A>
  __device__ void run(const Launch& p, const Launch::Group& group) {
    const int64_t first = int64_t(blockIdx.x) * kLanes, row = first + threadIdx.x;
    const int64_t end = (p.windows - 1) * p.step + p.window;
    const int band = int(threadIdx.y) < group.count ? int(threadIdx.y) : 0;
    const bool live = int(threadIdx.y) < group.count && row < p.rows;
    Chain<A, S> chain(p, group.sections[band], group.band[band], live ? row : 0, live);
    for (int64_t time = 0; time < end; time += kTile) {
      const int count = end - time < kTile ? int(end - time) : kTile;
      __syncthreads();
      stage(p, first, time, count);
      __syncthreads();
      if (live) chain.filter(tile[threadIdx.x], time, count);
    }
  }

  __device__ void stage(const Launch& p, int64_t first, int64_t time, int count) {
    for (int r = threadIdx.y; r < kLanes; r += blockDim.y) {
      const int64_t row = first + r < p.rows ? first + r : p.rows - 1;
      const int64_t at = row / p.n_chans * p.stride_batch + row % p.n_chans * p.stride_chan + time;
      for (int t = threadIdx.x; t < count; t += kLanes)
        tile[r][t] = load_as<T>(p.dtype, p.x, at + t);
    }
  }
};

template <class T, int S>
__global__ void __launch_bounds__(kLanes* kMaxBands, S > 5 ? 2 : 4)
    bandpass_chains(const Launch p) {
  using Shared = Block<T, S>;
  EEGFAST_SHARED(Shared, block);
  if (p.group[blockIdx.y].count == 0) return;
  if (blockIdx.y == 0)
    block.template run<T>(p, p.group[0]);
  else
    block.template run<double>(p, p.group[1]);
}

bool is_narrow(const double* sos, int64_t n_sections) {
  for (int64_t i = 0; i < n_sections; ++i, sos += 6) {
    const double at_dc = 1 + sos[4] + sos[5], at_nyquist = 1 - sos[4] + sos[5];
    if (at_dc < kNarrow * kNarrow || at_nyquist < kNarrow * kNarrow) return true;
  }
  return false;
}

void set_sections(Launch::Group& group, const double* sos, int64_t n_sections, int band) {
  Section* sections = group.sections[group.count];
  group.band[group.count++] = band;
  for (int i = 0; i < kMaxSections; ++i, sos += 6)
    sections[i] =
        i < n_sections ? Section{sos[0], sos[1], sos[2], sos[4], sos[5]} : Section{1, 0, 0, 0, 0};
}

template <class T>
int run(const Launch& p, int64_t n_sections, void* stream) {
  const int tall = p.group[0].count > p.group[1].count ? p.group[0].count : p.group[1].count;
  const dim3 grid(unsigned((p.rows + kLanes - 1) / kLanes), p.group[1].count ? 2 : 1);
  const dim3 block(kLanes, unsigned(tall));
  const auto kernel = n_sections <= 1   ? bandpass_chains<T, 1>
                      : n_sections <= 2 ? bandpass_chains<T, 2>
                      : n_sections <= 3 ? bandpass_chains<T, 3>
                      : n_sections <= 5 ? bandpass_chains<T, 5>
                                        : bandpass_chains<T, kMaxSections>;
  return launch(kernel, grid, block, 0, stream, p);
}

int64_t ring_size(const BandpassPower& p) {
  return p.step >= p.window ? 0 : 2 * ((p.window + p.step - 1) / p.step) + 2;
}

}  // namespace

int64_t bandpass_power_workspace(const BandpassPower& p) {
  return p.batch * p.n_chans * p.bands * ring_size(p) * 2 * int64_t(sizeof(double));
}

int bandpass_power_cuda(const BandpassPower& p, void* stream) {
  if (p.n_sections > kMaxSections) return cudaErrorInvalidValue;
  Launch l{};
  l.x = p.x;
  l.out = p.out;
  l.ring = static_cast<double*>(p.workspace);
  l.stride_batch = p.stride_batch;
  l.stride_chan = p.stride_chan;
  l.n_chans = p.n_chans;
  l.rows = p.batch * p.n_chans;
  l.windows = p.windows;
  l.window = p.window;
  l.step = p.step;
  l.ddof = p.ddof;
  l.bands = int(p.bands);
  l.ring_size = int(ring_size(p));
  l.dtype = p.dtype;
  for (int band = 0; band < l.bands; ++band) {
    const double* sos = p.sos + band * p.n_sections * 6;
    const bool in_double = p.dtype != DType::kFloat64 && is_narrow(sos, p.n_sections);
    Launch::Group& group = l.group[in_double ? 1 : 0];
    set_sections(group, sos, p.n_sections, band);
    if (group.count < kMaxBands && band + 1 < l.bands) continue;
    const int error = p.dtype == DType::kFloat64 ? run<double>(l, p.n_sections, stream)
                                                 : run<float>(l, p.n_sections, stream);
    if (error) return error;
    l.group[0].count = l.group[1].count = 0;
  }
  return cudaSuccess;
}

}  // namespace eegfast
