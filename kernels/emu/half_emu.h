// SPDX-License-Identifier: BSD-3-Clause
// CUDA's two 16-bit types on the host: storage, and conversion rounded to nearest even.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __half2float(__half h) {
  const int exponent = h.bits >> 10 & 31, fraction = h.bits & 1023;
  float value;
  if (exponent == 31)
    value = fraction ? NAN : HUGE_VALF;
  else
    value = exponent ? std::ldexp(float(1024 + fraction), exponent - 25)
                     : std::ldexp(float(fraction), -24);
  return h.bits >> 15 ? -value : value;
}

inline __half __float2half_rn(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (std::isnan(value)) return {uint16_t(sign | 0x7e00)};
  if (size >= 65520.0f) return {uint16_t(sign | 0x7c00)};
  if (size < std::ldexp(1.0f, -14))
    return {uint16_t(sign | int(std::nearbyint(std::ldexp(size, 24))))};
  int exponent;
  const float mantissa = std::frexp(size, &exponent);  // in [1/2, 1)
  return {uint16_t(sign | (((exponent + 13) << 10) + int(std::nearbyint(mantissa * 2048.0f))))};
}

inline float __bfloat162float(__nv_bfloat16 b) {
  const uint32_t bits = uint32_t(b.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (std::isnan(value)) return {uint16_t(bits >> 16 | 0x40)};
  return {uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
