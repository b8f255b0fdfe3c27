// What the codecs share: bfloat16, rows and their 16-bit scales.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace prefill {

constexpr float TINY = 1e-30f, LARGEST = 1e30f;

static inline float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
static inline uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

static inline float wide(float x) { return x; }
static inline float wide(uint16_t half) { return float_of(uint32_t(half) << 16); }
static inline uint16_t half_of(float x) {
  const uint32_t bits = bits_of(x);
  return uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
static inline void put(float* to, float x) { *to = x; }
static inline void put(uint16_t* to, float x) { *to = half_of(x); }

// The largest |x| of a row; Inf and NaN are the largest of all when compared as whole numbers.
static inline float peak_of(const float* x, long count) {
  int32_t top = 0;
  for (long i = 0; i < count; ++i) top = std::max(top, int32_t(bits_of(x[i]) & 0x7FFFFFFF));
  return float_of(uint32_t(top));
}
static inline float peak_of(const uint16_t* x, long count) {
  uint16_t top = 0;
  for (long i = 0; i < count; ++i) top = std::max(top, uint16_t(x[i] & 0x7FFF));
  return wide(top);
}

// A bfloat16 rounded up, 0 for a row of zeros; and the inverse that codes are made with.
static inline uint16_t scale_bits(float step, float peak) {
  return peak < TINY ? 0 : uint16_t((bits_of(step) + 0xFFFF) >> 16);
}
static inline float inverse_of(float scale) { return scale > 0 ? 1 / scale : 0; }

}  // namespace prefill
