// SPDX-License-Identifier: BSD-3-Clause
// Variance per window behind a bank of recursive filters (formula: eegfast/bandpass_power.h).
//
// One SIMD lane is one channel; a task is (batch, one vector of channels). Tiles of kTile samples
// are read along the rows and transposed, then pass through every band's cascade of biquads in
// transposed direct form II; several bands are interleaved to hide the latency of the recurrence.
//
// Time is cut at every start and end of a window into segments, so that a window is a run of whole
// segments and overlapping windows share their sums. Sums over a tile are kept in the filter's
// type, over segments in double. At a segment's end a state that is not finite restarts as zero.
//
// A filter with poles near +-1 loses digits in float32: with |1 -+ p| < kNarrow its band is
// computed in double, the others in the signal's type.
//
// Backward: dy = 2 g (y - mean) / (window - ddof), summed over the windows; the adjoint of the
// filter is the filter run backwards in time. A first pass keeps the states at the tiles' starts
// and the windows' means; the second takes the tiles in reverse and filters each again.
//
// Per sample, channel and band: 6 (or 10) FLOP a section and 3 for the sums.
#include "eegfast/bandpass_power.h"

#include "biquad_bank.h"
#include "simd.h"

namespace eegfast::EEGFAST_ISA {
namespace {

constexpr int64_t kTile = 64;
constexpr double kNarrow = 0.03;

// kLanes<A> elements of another type, converted.
template <class A, class T>
inline Vec<A> load_as(const T* from) {
  typedef T Narrow __attribute__((vector_size(kLanes<A> * sizeof(T))));
  Narrow v;
  std::memcpy(&v, from, sizeof v);
  return __builtin_convertvector(v, Vec<A>);
}

template <class A>
inline void add_in_double(double* to, Vec<A> v) {
  A lanes[kLanes<A>];
  store(lanes, v);
  for (int i = 0; i < kLanes<A>; i += kLanes<double>)
    store(to + i, load(to + i) + load_as<double>(lanes + i));
}

template <class A>
inline void restart_unless_finite(Vec<A>* states, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    states[i] = (states[i] - states[i] == 0) ? states[i] : Vec<A>{};
}

// Samples t .. t + count - 1 of `lanes` <= kLanes<T> channels from `chan` on, transposed.
template <class T>
void read_tile(const BandpassPower& p, int64_t batch, int64_t chan, int64_t lanes, int64_t t,
               int64_t count, T* tile) {
  constexpr int L = kLanes<T>;
  const T* row[L];
  for (int64_t lane = 0; lane < L; ++lane)
    row[lane] = static_cast<const T*>(p.x) + batch * p.stride_batch +
                (chan + smaller(lane, lanes - 1)) * p.stride_chan + t;
  int64_t i = 0;
  for (; i + L <= count; i += L) {
    Vec<T> block[L];
#pragma GCC unroll 16
    for (int lane = 0; lane < L; ++lane) block[lane] = load(row[lane] + i);
    transpose<T>(block);
#pragma GCC unroll 16
    for (int j = 0; j < L; ++j) store(tile + (i + j) * L, block[j]);
  }
  for (; i < count; ++i)
    for (int lane = 0; lane < L; ++lane) tile[i * L + lane] = row[lane][i];
}

// kLanes<A> channels in the filter type A, part of the kLanes<T> that a task reads together.
template <class T, class A>
class Channels {
 public:
  static constexpr int L = kLanes<A>;

  Channels(const BandpassPower& p, Bank<A>& bank)
      : p_(p),
        bank_(bank),
        end_((p.windows - 1) * p.step + p.window),
        ring_(2 * ((p.window + p.step - 1) / p.step) + 2),
        tile_(kTile * L),
        filtered_(bank.size * kTile * L),
        states_(bank.states()),
        tile_sums_(2 * bank.size),
        sums_(ring_ * 2 * bank.size * L),
        starts_(ring_),
        in_(bank.size),
        out_(bank.size) {}

  // Starts over with channels chan .. chan + lanes - 1; lanes may be none.
  void start(int64_t batch, int64_t chan, int64_t lanes) {
    batch_ = batch;
    chan_ = chan;
    lanes_ = lanes;
    clear_states(states_.get());
    begin_sums();
  }

  // The next tile; `shared` holds kLanes<T> channels, ours from lane `part` * L on.
  void forward(int64_t t, int64_t count, const T* shared, int part) {
    if (lanes_ <= 0) return;
    take_tile(count, shared, part);
    filter_tile<true>(t, count, [this](int64_t edge) {
      close_segment(edge,
                    [this](int64_t window, const double* sums) { write_variance(window, sums); });
    });
  }

  // The gradient for the channels given to start(), which are ours from lane `part` * L on of those
  // that read(t, count) transposes.
  template <class Read>
  void backward(const Read& read, int part) {
    if (lanes_ <= 0) return;
    const int64_t tiles = (end_ + kTile - 1) / kTile;
    Scratch<Vec<A>> kept(tiles * bank_.states());
    Scratch<A> means(p_.windows * bank_.size * L);
    for (int64_t i = 0; i < tiles; ++i) {
      const int64_t t = i * kTile, count = smaller(kTile, end_ - t);
      copy_states(&kept[i * bank_.states()], states_.get());
      take_tile(count, read(t, count), part);
      filter_tile<true>(t, count, [&](int64_t edge) {
        close_segment(edge, [&](int64_t window, const double* sums) {
          for (int64_t i = 0; i < bank_.size * L; ++i)
            means[window * bank_.size * L + i] = A(sums[i] / double(p_.window));
        });
      });
    }

    Scratch<Vec<A>> adjoint(bank_.states());
    clear_states(adjoint.get());
    for (int64_t i = tiles; i-- > 0;) {
      const int64_t t = i * kTile, count = smaller(kTile, end_ - t);
      copy_states(states_.get(), &kept[i * bank_.states()]);
      take_tile(count, read(t, count), part);
      filter_tile<false>(t, count, [](int64_t) {});
      // From the tile's last segment to its first.
      for (int64_t b = t + count; b > t;) {
        if (is_edge(b)) restart_unless_finite<A>(adjoint.get(), bank_.states());
        int64_t a = previous_edge(b);
        if (a < t) a = t;
        output_gradient(a - t, b - t, a, means.get());
        for (int64_t band = 0; band < bank_.size; ++band) {
          out_[band] = &filtered_[(band * kTile + b - t - 1) * L];
          in_[band] = out_[band];
        }
        bank_.filter(in_.get(), out_.get(), nullptr, b - a, -L, adjoint.get());
        b = a;
      }
      add_to_gradient(t, count);
    }
  }

 private:
  void take_tile(int64_t count, const T* shared, int part) {
    for (int64_t i = 0; i < count; ++i)
      store(&tile_[i * L], load_as<A>(shared + i * kLanes<T> + part * L));
  }

  void clear_states(Vec<A>* states) {
    for (int64_t i = 0; i < bank_.states(); ++i) states[i] = Vec<A>{};
  }
  void copy_states(Vec<A>* to, const Vec<A>* from) {
    for (int64_t i = 0; i < bank_.states(); ++i) to[i] = from[i];
  }

  bool is_edge(int64_t t) const {
    return (t % p_.step == 0 && t / p_.step < p_.windows) ||
           (t >= p_.window && (t - p_.window) % p_.step == 0);
  }
  // The first segment edge after t, and the last before t; 0 < t <= end_ holds all of them.
  int64_t next_edge(int64_t t) const {
    int64_t edge =
        t < p_.window ? p_.window : p_.window + ((t - p_.window) / p_.step + 1) * p_.step;
    const int64_t start = t / p_.step + 1;
    if (start < p_.windows && start * p_.step < edge) edge = start * p_.step;
    return edge;
  }
  int64_t previous_edge(int64_t t) const {
    int64_t edge = smaller((t - 1) / p_.step, p_.windows - 1) * p_.step;
    if (t > p_.window) {
      const int64_t stop = p_.window + (t - 1 - p_.window) / p_.step * p_.step;
      if (stop > edge) edge = stop;
    }
    return edge;
  }

  // Filters the tile at time t, into the open segment's sums or into filtered_; calls edge with the
  // time of each segment edge in it, after the state restarted there.
  template <bool Sum, class Edge>
  void filter_tile(int64_t t, int64_t count, const Edge& edge) {
    for (int64_t a = 0; a < count;) {
      const int64_t next = next_edge(t + a), b = smaller(next - t, count);
      for (int64_t band = 0; band < bank_.size; ++band) {
        in_[band] = &tile_[a * L];
        out_[band] = &filtered_[(band * kTile + a) * L];
        tile_sums_[2 * band] = tile_sums_[2 * band + 1] = Vec<A>{};
      }
      bank_.filter(in_.get(), out_.get(), Sum ? tile_sums_.get() : nullptr, b - a, L,
                   states_.get());
      if (Sum) add_sums();
      if (t + b == next) {
        restart_unless_finite<A>(states_.get(), bank_.states());
        edge(next);
      }
      a = b;
    }
  }

  // Sums of the open and the last segments: per segment (sum, sum of squares) x band x lane.
  double* segment_sums(int64_t segment) { return &sums_[segment % ring_ * 2 * bank_.size * L]; }
  void open_segment(int64_t start) {
    starts_[segment_ % ring_] = start;
    std::memset(segment_sums(segment_), 0, size_t(2 * bank_.size * L) * sizeof(double));
  }
  void begin_sums() {
    segment_ = 0;
    open_segment(0);
  }
  void add_sums() {
    double* sums = segment_sums(segment_);
    for (int64_t band = 0; band < bank_.size; ++band) {
      add_in_double<A>(sums + band * L, tile_sums_[2 * band]);
      add_in_double<A>(sums + (bank_.size + band) * L, tile_sums_[2 * band + 1]);
    }
  }
  // Ends the open segment at `edge`; hands the sums of the window that ends there, if one does.
  template <class Window>
  void close_segment(int64_t edge, const Window& on_window) {
    const int64_t start = edge - p_.window;
    if (start >= 0 && start % p_.step == 0) {
      Scratch<double> total(2 * bank_.size * L);
      std::memset(total.get(), 0, size_t(2 * bank_.size * L) * sizeof(double));
      for (int64_t s = segment_;; --s) {
        const double* sums = segment_sums(s);
        for (int64_t i = 0; i < 2 * bank_.size * L; ++i) total[i] += sums[i];
        if (starts_[s % ring_] == start) break;
      }
      on_window(start / p_.step, total.get());
    }
    ++segment_;
    open_segment(edge);
  }

  void write_variance(int64_t window, const double* sums) {
    const double n = double(p_.window), divisor = double(p_.window - p_.ddof);
    for (int64_t band = 0; band < bank_.size; ++band) {
      T* out = static_cast<T*>(p_.out) +
               ((batch_ * p_.windows + window) * p_.n_chans + chan_) * p_.bands +
               bank_.output_band(band);
      const double power_gain = bank_.gain(band) * bank_.gain(band);
      for (int64_t lane = 0; lane < lanes_; ++lane) {
        const double sum = sums[band * L + lane], square = sums[(bank_.size + band) * L + lane];
        const double variance = (square - sum * sum / n) / divisor * power_gain;
        out[lane * p_.bands] = T(variance < 0 ? 0 : variance);
      }
    }
  }

  // Replaces y by its gradient on [a, b) of the tile, which lies in the segment that holds `time`:
  // sum over the windows there of 2 gain^2 g / (window - ddof) (y - mean).
  void output_gradient(int64_t a, int64_t b, int64_t time, A* means) {
    const int64_t last = smaller(time / p_.step, p_.windows - 1);
    const int64_t first = time < p_.window ? 0 : (time - p_.window) / p_.step + 1;
    for (int64_t band = 0; band < bank_.size; ++band) {
      const double scale = 2 * bank_.gain(band) * bank_.gain(band) / double(p_.window - p_.ddof);
      Vec<A> slope{}, offset{};
      for (int64_t w = first; w <= last; ++w) {
        const T* grad = static_cast<const T*>(p_.grad) +
                        ((batch_ * p_.windows + w) * p_.n_chans + chan_) * p_.bands +
                        bank_.output_band(band);
        Vec<A> weight{};
        for (int64_t lane = 0; lane < lanes_; ++lane)
          weight[lane] = A(double(grad[lane * p_.bands]) * scale);
        slope += weight;
        offset += weight * load(means + (w * bank_.size + band) * L);
      }
      A* y = &filtered_[band * kTile * L];
      // In a gap between windows y may be NaN, but no gradient comes from there.
      for (int64_t t = a; t < b; ++t)
        store(y + t * L, first > last ? Vec<A>{} : load(y + t * L) * slope - offset);
    }
  }

  // Sums the bands of the tile into the gradient of x.
  void add_to_gradient(int64_t t, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      Vec<A> sum{};
      for (int64_t band = 0; band < bank_.size; ++band)
        sum += load(&filtered_[(band * kTile + i) * L]);
      store(&tile_[i * L], sum);
    }
    for (int64_t lane = 0; lane < lanes_; ++lane) {
      T* to = static_cast<T*>(p_.out) + (batch_ * p_.n_chans + chan_ + lane) * p_.n_times + t;
      for (int64_t i = 0; i < count; ++i) to[i] += T(tile_[i * L + lane]);
    }
  }

  const BandpassPower& p_;
  Bank<A>& bank_;
  const int64_t end_, ring_;  // end of the last window; capacity of the segment ring
  Scratch<A> tile_, filtered_;
  Scratch<Vec<A>> states_, tile_sums_;
  Scratch<double> sums_;
  Scratch<int64_t> starts_;
  Scratch<const A*> in_;
  Scratch<A*> out_;
  int64_t batch_ = 0, chan_ = 0, lanes_ = 0, segment_ = 0;
};

bool is_narrow(const double* sos, int64_t n_sections) {
  for (int64_t i = 0; i < n_sections; ++i, sos += 6) {
    const double at_dc = 1 + sos[4] + sos[5], at_nyquist = 1 - sos[4] + sos[5];
    if (at_dc < kNarrow * kNarrow || at_nyquist < kNarrow * kNarrow) return true;
  }
  return false;
}

bool is_any(const double*, int64_t) { return true; }
bool is_wide(const double* sos, int64_t n_sections) { return !is_narrow(sos, n_sections); }
bool is_none(const double*, int64_t) { return false; }

// Per task: the channels of one vector of T, their bands in the signal's type, and those that need
// double in two halves.
template <class T>
void run(const BandpassPower& p, ParallelFor parallel_for, bool backward) {
  if (p.windows == 0 || p.n_sections == 0) return;
  constexpr bool mixed = sizeof(T) < sizeof(double);
  Bank<T> own(p, mixed ? is_wide : is_any);
  Bank<double> precise(p, mixed ? is_narrow : is_none);
  constexpr int64_t L = kLanes<T>;
  const int64_t groups = (p.n_chans + L - 1) / L, end = (p.windows - 1) * p.step + p.window;
  const int64_t grain = 8192 / (p.n_times * p.bands + 1) + 1;
  parallel(parallel_for, p.batch * groups, grain, [&](int64_t first, int64_t last) {
    using Precise = Channels<T, double>;
    Channels<T, T> channels(p, own);
    Precise low(p, precise), high(p, precise);
    Scratch<T> tile(kTile * L);
    for (int64_t task = first; task < last; ++task) {
      const int64_t batch = task / groups, chan = task % groups * L;
      const int64_t lanes = smaller(L, p.n_chans - chan);
      const auto read = [&](int64_t t, int64_t count) {
        read_tile<T>(p, batch, chan, lanes, t, count, tile.get());
        return static_cast<const T*>(tile.get());
      };
      channels.start(batch, chan, own.size ? lanes : 0);
      low.start(batch, chan, precise.size ? smaller(Precise::L, lanes) : 0);
      high.start(batch, chan + Precise::L, precise.size ? lanes - Precise::L : 0);
      if (backward) {
        channels.backward(read, 0);
        low.backward(read, 0);
        high.backward(read, 1);
        continue;
      }
      for (int64_t t = 0; t < end; t += kTile) {
        const int64_t count = smaller(kTile, end - t);
        read(t, count);
        channels.forward(t, count, tile.get(), 0);
        low.forward(t, count, tile.get(), 0);
        high.forward(t, count, tile.get(), 1);
      }
    }
  });
}

void run(const BandpassPower& p, ParallelFor parallel_for, bool backward) {
  p.dtype == DType::kFloat32 ? run<float>(p, parallel_for, backward)
                             : run<double>(p, parallel_for, backward);
}

}  // namespace

void bandpass_power(const BandpassPower& p, ParallelFor parallel_for) {
  run(p, parallel_for, false);
}

void bandpass_power_backward(const BandpassPower& p, ParallelFor parallel_for) {
  const size_t size = p.dtype == DType::kFloat32 ? sizeof(float) : sizeof(double);
  std::memset(p.out, 0, size_t(p.batch * p.n_chans * p.n_times) * size);
  run(p, parallel_for, true);
}

}  // namespace eegfast::EEGFAST_ISA
