// SPDX-License-Identifier: BSD-3-Clause
// Picks the kernels of the instruction set at run time. This file is compiled for the oldest
// machine.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

#include "eegfast/band_power.h"
#include "eegfast/bandpass_power.h"
#include "eegfast/depthwise_conv3d.h"
#include "eegfast/filter_bank_power.h"
#include "eegfast/lds_smooth.h"
#include "eegfast/mobile_unit3d.h"
#include "eegfast/scaling_conv1d.h"

#if defined(EEGFAST_X86)
#define EEGFAST_EACH_ISA(X) X(portable) X(avx2) X(avx512)
#else
#define EEGFAST_EACH_ISA(X) X(portable)
#endif

namespace eegfast {

#define EEGFAST_DECLARE(ns)                                             \
  namespace ns {                                                        \
  void band_power(const BandPower&, ParallelFor);                       \
  void band_power_backward(const BandPower&, ParallelFor);              \
  void bandpass_power(const BandpassPower&, ParallelFor);               \
  void bandpass_power_backward(const BandpassPower&, ParallelFor);      \
  void depthwise_conv3d(const DepthwiseConv3d&, ParallelFor);           \
  void depthwise_conv3d_backward(const DepthwiseConv3d&, ParallelFor);  \
  void filter_bank_power(const FilterBankPower&, ParallelFor);          \
  void filter_bank_power_backward(const FilterBankPower&, ParallelFor); \
  void lds_smooth(const LdsSmooth&, ParallelFor);                       \
  void lds_smooth_backward(const LdsSmooth&, ParallelFor);              \
  void mobile_unit3d(const MobileUnit3d&, ParallelFor);                 \
  void mobile_unit3d_backward(const MobileUnit3d&, ParallelFor);        \
  void scaling_conv1d(const ScalingConv1d&, ParallelFor);               \
  void scaling_conv1d_backward(const ScalingConv1d&, ParallelFor);      \
  }
EEGFAST_EACH_ISA(EEGFAST_DECLARE)
#undef EEGFAST_DECLARE

bool cpu_supports(Isa isa) {
#if defined(EEGFAST_X86)
  __builtin_cpu_init();
  if (isa == Isa::kAvx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (isa == Isa::kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return isa == Isa::kPortable;
}

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    default:
      return "portable";
  }
}

namespace {
std::atomic<Isa>& chosen_isa() {
  static std::atomic<Isa> chosen = [] {
    const char* asked = std::getenv("EEGFAST_ISA");
    for (Isa isa : {Isa::kAvx512, Isa::kAvx2, Isa::kPortable})
      if (cpu_supports(isa) && (!asked || !*asked || std::strcmp(asked, isa_name(isa)) == 0))
        return isa;
    return Isa::kPortable;
  }();
  return chosen;
}
}  // namespace

Isa cpu_isa() { return chosen_isa(); }
void set_cpu_isa(Isa isa) { chosen_isa() = isa; }

#if defined(EEGFAST_X86)
#define EEGFAST_DISPATCH(op, Params)                                  \
  void op##_cpu(const Params& p, Isa isa, ParallelFor parallel_for) { \
    switch (isa) {                                                    \
      case Isa::kAvx512:                                              \
        return avx512::op(p, parallel_for);                           \
      case Isa::kAvx2:                                                \
        return avx2::op(p, parallel_for);                             \
      default:                                                        \
        return portable::op(p, parallel_for);                         \
    }                                                                 \
  }
#else
#define EEGFAST_DISPATCH(op, Params) \
  void op##_cpu(const Params& p, Isa, ParallelFor parallel_for) { portable::op(p, parallel_for); }
#endif

EEGFAST_DISPATCH(band_power, BandPower)
EEGFAST_DISPATCH(band_power_backward, BandPower)
EEGFAST_DISPATCH(bandpass_power, BandpassPower)
EEGFAST_DISPATCH(bandpass_power_backward, BandpassPower)
EEGFAST_DISPATCH(depthwise_conv3d, DepthwiseConv3d)
EEGFAST_DISPATCH(depthwise_conv3d_backward, DepthwiseConv3d)
EEGFAST_DISPATCH(filter_bank_power, FilterBankPower)
EEGFAST_DISPATCH(filter_bank_power_backward, FilterBankPower)
EEGFAST_DISPATCH(lds_smooth, LdsSmooth)
EEGFAST_DISPATCH(lds_smooth_backward, LdsSmooth)
EEGFAST_DISPATCH(mobile_unit3d, MobileUnit3d)
EEGFAST_DISPATCH(mobile_unit3d_backward, MobileUnit3d)
EEGFAST_DISPATCH(scaling_conv1d, ScalingConv1d)
EEGFAST_DISPATCH(scaling_conv1d_backward, ScalingConv1d)

void lds_gains(int64_t windows, double q, double r, double p0, double* kalman, double* rts) {
  double predicted = p0;
  for (int64_t t = 0; t < windows; ++t) {
    kalman[t] = predicted / (predicted + r);
    const double filtered = predicted - kalman[t] * predicted;
    predicted = filtered + q;
    rts[t] = predicted > 0 ? filtered / predicted : 0;
  }
}

}  // namespace eegfast
