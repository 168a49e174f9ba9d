// SPDX-License-Identifier: BSD-3-Clause
// Vectors of the instruction set that this translation unit is compiled for.
//
// Each kernel source is compiled once per instruction set; everything in it lives in the namespace
// EEGFAST_ISA, so that no inline function of one set can be linked into another. For the same
// reason kernel sources use no std containers or algorithms.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if !defined(EEGFAST_ISA)
#error "EEGFAST_ISA must name the namespace of the instruction set"
#endif

namespace eegfast::EEGFAST_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct VectorOf {
  typedef T type __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using Vec = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <class T>
struct BitsOf;
template <>
struct BitsOf<float> {
  using type = int32_t;
};
template <>
struct BitsOf<double> {
  using type = int64_t;
};
template <class T>
using Bits = Vec<typename BitsOf<T>::type>;

template <class T>
inline Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class T>
inline void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof v);
}

template <class T>
inline Vec<T> broadcast(T value) {
  return value - Vec<T>{};
}

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// The first `count` <= kLanes lanes, at the end of a row; the others are zero, or not stored.
template <class T, int... E>
inline Bits<T> lane_numbers(std::integer_sequence<int, E...>) {
  return Bits<T>{E...};
}
template <class T>
inline Vec<T> keep_first(Vec<T> v, int64_t count) {
  using I = typename BitsOf<T>::type;
  const Bits<T> lane = lane_numbers<T>(std::make_integer_sequence<int, kLanes<T>>());
  return lane < I(count) ? v : Vec<T>{};
}
template <class T>
inline Vec<T> load_first(const T* from, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return Vec<T>(_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), from));
  else
    return Vec<T>(_mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), from));
#else
  T part[kLanes<T>] = {};
  std::memcpy(part, from, size_t(count) * sizeof(T));
  return load(part);
#endif
}
template <class T>
inline void store_first(T* to, Vec<T> v, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    _mm512_mask_storeu_ps(to, __mmask16((1u << count) - 1), __m512(v));
  else
    _mm512_mask_storeu_pd(to, __mmask8((1u << count) - 1), __m512d(v));
#else
  std::memcpy(to, &v, size_t(count) * sizeof(T));
#endif
}

// Lane i takes lane i + S, or zero where there is none.
template <int S, class T, int... E>
inline Vec<T> move_lanes(Vec<T> v, std::integer_sequence<int, E...>) {
  constexpr int n = kLanes<T>;
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(v, Vec<T>{}, (E + S >= 0 && E + S < n ? E + S : n)...);
#else
  return __builtin_shuffle(v, Vec<T>{}, Bits<T>{(E + S >= 0 && E + S < n ? E + S : n)...});
#endif
}
template <int S, class T>
inline Vec<T> move_lanes(Vec<T> v) {
  return move_lanes<S, T>(v, std::make_integer_sequence<int, kLanes<T>>());
}

// v where the bits are set, else zero.
template <class T>
inline Vec<T> keep_marked(Vec<T> v, Bits<T> marks) {
  return Vec<T>(Bits<T>(v) & marks);
}

// The larger of the two; NaN where v is. (GCC 12 warns of the unmasked form.)
template <class T>
inline Vec<T> at_least(Vec<T> v, Vec<T> floor) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_maskz_max_ps(__mmask16(-1), (__m512)floor, (__m512)v);
  else
    return (Vec<T>)_mm512_maskz_max_pd(__mmask8(-1), (__m512d)floor, (__m512d)v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm256_max_ps((__m256)floor, (__m256)v);
  else
    return (Vec<T>)_mm256_max_pd((__m256d)floor, (__m256d)v);
#else
  return v <= floor ? floor : v;
#endif
}

// A choice of lanes; the others become zero, whatever they held.
#if defined(__AVX512F__)
template <class T>
using LaneChoice = std::conditional_t<sizeof(T) == 4, uint16_t, uint8_t>;
template <class T>
inline void choose_lane(LaneChoice<T>& choice, int lane) {
  choice = LaneChoice<T>(choice | 1 << lane);
}
inline Vec<float> load_chosen(const float* from, uint16_t choice) {
  return (Vec<float>)_mm512_maskz_loadu_ps(choice, from);
}
inline Vec<double> load_chosen(const double* from, uint8_t choice) {
  return (Vec<double>)_mm512_maskz_loadu_pd(choice, from);
}
// Lane i of the result is lane i + By of x. One instruction, and none of the two accesses to the
// cache that a load across its lines takes.
template <int By, int... E>
inline Vec<float> shift_chosen(Vec<float> x, uint16_t choice, std::integer_sequence<int, E...>) {
  const Bits<float> from{((E + By) & 15)...};
  return (Vec<float>)_mm512_maskz_permutexvar_ps(choice, (__m512i)from, (__m512)x);
}
template <int By, int... E>
inline Vec<double> shift_chosen(Vec<double> x, uint8_t choice, std::integer_sequence<int, E...>) {
  const Bits<double> from{((E + By) & 7)...};
  return (Vec<double>)_mm512_maskz_permutexvar_pd(choice, (__m512i)from, (__m512d)x);
}
template <int By, class T>
inline Vec<T> shift_chosen(Vec<T> x, LaneChoice<T> choice) {
  return shift_chosen<By>(x, choice, std::make_integer_sequence<int, kLanes<T>>());
}
// The lane before each lane of x (By = -1), the first one's being the last of `beside`; or the lane
// behind each (By = 1), the last one's being the first of `beside`.
template <int By, class T>
inline Vec<T> join_lanes(Vec<T> x, Vec<T> beside) {
  constexpr int n = kLanes<T>;
  const __m512i low = By < 0 ? (__m512i)beside : (__m512i)x;
  const __m512i high = By < 0 ? (__m512i)x : (__m512i)beside;
  if constexpr (n == 16)
    return (Vec<T>)_mm512_maskz_alignr_epi32(__mmask16(-1), high, low, By < 0 ? n - 1 : 1);
  else
    return (Vec<T>)_mm512_maskz_alignr_epi64(__mmask8(-1), high, low, By < 0 ? n - 1 : 1);
}
constexpr bool kShiftsLanes = true;
#else
template <class T>
using LaneChoice = Bits<T>;
template <class T>
inline void choose_lane(LaneChoice<T>& choice, int lane) {
  choice[lane] = -1;
}
template <class T>
inline Vec<T> load_chosen(const T* from, Bits<T> choice) {
  Bits<T> bits;
  std::memcpy(&bits, from, sizeof bits);
  bits &= choice;
  Vec<T> v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
template <int By, class T>
Vec<T> shift_chosen(Vec<T> x, LaneChoice<T> choice);
template <int By, class T>
Vec<T> join_lanes(Vec<T> x, Vec<T> beside);
constexpr bool kShiftsLanes = false;
#endif

template <class T>
inline Vec<T> relu(Vec<T> x) {
  return at_least<T>(x, Vec<T>{});
}

// One step of a transposition: the (row & S) halves of two rows trade places.
template <int S, class T, int... E>
inline void trade(Vec<T>& a, Vec<T>& b, std::integer_sequence<int, E...>) {
  constexpr int n = kLanes<T>;
#if defined(__clang__) || __GNUC__ >= 12
  const Vec<T> low = __builtin_shufflevector(a, b, ((E & S) ? n + E - S : E)...);
  const Vec<T> high = __builtin_shufflevector(a, b, ((E & S) ? n + E : E + S)...);
#else
  const Vec<T> low = __builtin_shuffle(a, b, Bits<T>{((E & S) ? n + E - S : E)...});
  const Vec<T> high = __builtin_shuffle(a, b, Bits<T>{((E & S) ? n + E : E + S)...});
#endif
  a = low;
  b = high;
}

// Transposes the square matrix of kLanes rows in place.
template <class T, int S = kLanes<T> / 2>
inline void transpose(Vec<T>* rows) {
  if constexpr (S > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i)
      if (!(i & S)) trade<S, T>(rows[i], rows[i + S], std::make_integer_sequence<int, kLanes<T>>());
    transpose<T, S / 2>(rows);
  }
}

// Lane i holds the sum of the lanes of rows[i]; the kLanes rows are used up.
template <class T, int S = kLanes<T> / 2>
inline Vec<T> lane_sums(Vec<T>* rows) {
  if constexpr (S > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < S; ++i) {
      trade<S, T>(rows[i], rows[i + S], std::make_integer_sequence<int, kLanes<T>>());
      rows[i] += rows[i + S];
    }
    return lane_sums<T, S / 2>(rows);
  } else {
    return rows[0];
  }
}

// Lane masks: one bit per lane, the lowest for lane 0.

// Which lanes are positive or NaN, which torch's ReLU lets pass.
template <class T>
inline uint32_t lanes_positive(Vec<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_NLE_UQ);
  else
    return _mm512_cmp_pd_mask((__m512d)v, _mm512_setzero_pd(), _CMP_NLE_UQ);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return uint32_t(_mm256_movemask_ps((__m256)(v <= T(0)))) ^ 0xff;
  else
    return uint32_t(_mm256_movemask_pd((__m256d)(v <= T(0)))) ^ 0xf;
#elif defined(__SSE2__)
  if constexpr (sizeof(T) == 4)
    return uint32_t(_mm_movemask_ps((__m128)(v <= T(0)))) ^ 0xf;
  else
    return uint32_t(_mm_movemask_pd((__m128d)(v <= T(0)))) ^ 0x3;
#else
  uint32_t lanes = 0;
  for (int i = 0; i < kLanes<T>; ++i) lanes |= uint32_t(!(v[i] <= T(0))) << i;
  return lanes;
#endif
}

template <class T, int... E>
inline Bits<T> lane_bits(std::integer_sequence<int, E...>) {
  return Bits<T>{(1 << E)...};
}

// v where the lane's bit is set, else 0, whatever v holds there. Higher bits are ignored.
template <class T>
inline Vec<T> keep_lanes(Vec<T> v, uint32_t lanes) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (Vec<T>)_mm512_maskz_mov_ps(__mmask16(lanes), (__m512)v);
  else
    return (Vec<T>)_mm512_maskz_mov_pd(__mmask8(lanes), (__m512d)v);
#else
  using I = typename BitsOf<T>::type;
  const Bits<T> bit = lane_bits<T>(std::make_integer_sequence<int, kLanes<T>>());
  return ((I(lanes) - Bits<T>{}) & bit) != 0 ? v : Vec<T>{};
#endif
}

// log2 by s = (m - 1) / (m + 1), log2 m = 2 / ln 2 (s + s^3/3 + ...), m in [sqrt 1/2, sqrt 2).
// |s| <= 0.1716, so the first term left out is below 2^-30 (float, to s^11) or 2^-60 (double,
// s^23).
template <class T>
inline Vec<T> log2(Vec<T> x) {
  constexpr bool is_float = sizeof(T) == 4;
  constexpr int mantissa_bits = is_float ? 23 : 52;
  constexpr T tiny = is_float ? T(1.17549435e-38) : T(2.2250738585072014e-308);
  using I = typename BitsOf<T>::type;
  const Bits<T> small = x < tiny;  // subnormal or not positive: scale up, mend below
  const T scale = is_float ? T(16777216.0) : T(18014398509481984.0);  // 2^24, 2^54
  const Vec<T> scaled = small ? x * scale : x;
  Bits<T> bits;
  std::memcpy(&bits, &scaled, sizeof bits);
  // Move the mantissa into [sqrt 1/2, sqrt 2) by rounding the exponent at sqrt 2.
  const I root_half = is_float ? I(0x3f3504f3) : I(0x3fe6a09e667f3bcdLL);
  const Bits<T> exponent = (bits - root_half) >> mantissa_bits;
  const Bits<T> fraction_bits = bits - (exponent << mantissa_bits);
  Vec<T> m;
  std::memcpy(&m, &fraction_bits, sizeof m);
  const Vec<T> s = (m - T(1)) / (m + T(1));
  const Vec<T> s2 = s * s;
  Vec<T> series = broadcast<T>(T(1) / (is_float ? 11 : 23));
  for (int k = is_float ? 9 : 21; k >= 1; k -= 2) series = series * s2 + T(1) / T(k);
  Vec<T> result = s * series * T(2.8853900817779268147) + __builtin_convertvector(exponent, Vec<T>);
  result = small ? result - T(is_float ? 24 : 54) : result;
  const T infinity = T(HUGE_VAL);
  result = (x == T(0)) ? broadcast<T>(-infinity) : result;
  result = (x == infinity) ? broadcast<T>(infinity) : result;
  return (x >= T(0)) ? result : broadcast<T>(T(NAN));
}

// Uninitialised, cache-line aligned scratch of one thread.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    if (count == 0) return;
    data_ = static_cast<T*>(std::aligned_alloc(64, (size_t(count) * sizeof(T) + 63) / 64 * 64));
    if (!data_) throw std::bad_alloc();
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() { return data_; }
  const T* get() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
};

// parallel_for with a callable.
template <class ParallelForFn, class F>
inline void parallel(ParallelForFn parallel_for, int64_t count, int64_t grain, const F& body) {
  if (count <= 0) return;
  parallel_for(
      0, count, grain,
      [](int64_t begin, int64_t end, void* f) { (*static_cast<const F*>(f))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace eegfast::EEGFAST_ISA
