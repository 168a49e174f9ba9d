// SPDX-License-Identifier: BSD-3-Clause
#include "fft_plan.h"

#include <cmath>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace eegfast {
namespace {

constexpr double kTwoPi = 6.283185307179586476925286766559;

// Odd factors first, then fours, then eights: the last stage has no twiddles, so the widest
// butterfly goes there.
std::vector<int64_t> radices(int64_t n) {
  std::vector<int64_t> odd;
  for (int64_t factor = 3; factor * factor <= n; factor += 2)
    for (; n % factor == 0; n /= factor) odd.push_back(factor);
  int twos = 0;
  for (; n % 2 == 0; n /= 2) ++twos;
  if (n > 1) odd.push_back(n);
  std::vector<int64_t> result(odd.rbegin(), odd.rend());
  if (twos == 1) {
    result.push_back(2);
    twos = 0;
  }
  for (; twos % 3; twos -= 2) result.push_back(4);
  for (; twos; twos -= 3) result.push_back(8);
  return result;
}

template <class T>
void append_root(std::vector<T>& table, int64_t numerator, int64_t denominator) {
  const double angle = kTwoPi * double(numerator % denominator) / double(denominator);
  table.push_back(T(std::cos(angle)));
  table.push_back(T(std::sin(angle)));
}

template <class T>
struct OwningPlan : FftPlan<T> {
  std::vector<FftStage<T>> stage_table;
  std::vector<int64_t> position_table;
  std::vector<T> unpack_table;
  std::deque<std::vector<T>> constants;
};

template <class T>
std::unique_ptr<OwningPlan<T>> make_plan(int64_t n_fft) {
  auto plan = std::make_unique<OwningPlan<T>>();
  plan->n_fft = n_fft;
  plan->packed = n_fft % 2 == 0;
  plan->points = plan->packed ? n_fft / 2 : n_fft;
  plan->position_table.assign(plan->points, 0);

  // Output k = r + radix k' is output k' of block r of the first stage: so the digits of k, lowest
  // first, pick the block at each stage.
  int64_t size = plan->points, weight = 1;
  for (int64_t radix : radices(plan->points)) {
    const int64_t span = size / radix;
    std::vector<T>& twiddles = plan->constants.emplace_back();
    std::vector<T>& roots = plan->constants.emplace_back();
    for (int64_t j = 0; j < span; ++j)
      for (int64_t r = 1; r < radix; ++r) append_root(twiddles, size - j * r, size);
    if (radix % 2)
      for (int64_t k = 0; k < radix; ++k) append_root(roots, k, radix);
    for (int64_t k = 0; k < plan->points; ++k) plan->position_table[k] += k / weight % radix * span;
    plan->stage_table.push_back({radix, span, plan->points / size, twiddles.data(), roots.data()});
    plan->butterflies += plan->points / radix;
    size = span;
    weight *= radix;
  }
  if (plan->packed)
    for (int64_t k = 0; k <= plan->points; ++k) append_root(plan->unpack_table, n_fft - k, n_fft);
  plan->n_stages = int64_t(plan->stage_table.size());
  plan->stages = plan->stage_table.data();
  plan->position = plan->position_table.data();
  plan->unpack = plan->unpack_table.data();
  return plan;
}

}  // namespace

template <class T>
const FftPlan<T>& fft_plan(int64_t n_fft) {
  static std::mutex mutex;
  static std::map<int64_t, std::unique_ptr<OwningPlan<T>>> plans;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<OwningPlan<T>>& plan = plans[n_fft];
  if (!plan) plan = make_plan<T>(n_fft);
  return *plan;
}

template const FftPlan<float>& fft_plan<float>(int64_t);
template const FftPlan<double>& fft_plan<double>(int64_t);

}  // namespace eegfast
