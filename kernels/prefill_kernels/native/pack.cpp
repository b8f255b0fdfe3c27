// Rows of int8 with a bfloat16 scale, from and to float32 or bfloat16; to the bit what numpy gives.
// Plain loops: compilers turn these narrowing conversions into better code than we would.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float wide(float x) { return x; }
inline float wide(uint16_t half) { return float_of(uint32_t(half) << 16); }
inline void put(float* to, float x) { *to = x; }
inline void put(uint16_t* to, float x) {
  const uint32_t bits = bits_of(x);
  *to = uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// The largest |x| of a row; Inf and NaN are the largest of all when compared as whole numbers.
float peak_of(const float* x, long count) {
  int32_t top = 0;
  for (long i = 0; i < count; ++i) top = std::max(top, int32_t(bits_of(x[i]) & 0x7FFFFFFF));
  return float_of(uint32_t(top));
}
float peak_of(const uint16_t* x, long count) {
  uint16_t top = 0;
  for (long i = 0; i < count; ++i) top = std::max(top, uint16_t(x[i] & 0x7FFF));
  return wide(top);
}

template <class T>
bool encode(const T* from, uint16_t* scales, int8_t* codes, long items, long width, float* top) {
  *top = 0;
  for (long row = 0, first = 0; first < items; ++row, first += width) {
    const long count = std::min(width, items - first);
    const T* __restrict x = from + first;
    int8_t* __restrict code = codes + first;
    const float peak = peak_of(x, count);
    if (!(peak < INFINITY)) return false;
    *top = std::max(*top, peak);
    scales[row] = peak < 1e-30f ? 0 : uint16_t((bits_of(peak / 127.0f) + 0xFFFF) >> 16);
    const float scale = wide(scales[row]), inverse = scale > 0 ? 1 / scale : 0;
    for (long i = 0; i < count; ++i) code[i] = int8_t(int32_t(__builtin_rintf(wide(x[i]) * inverse)));
  }
  return true;
}

template <class T>
void decode(const int8_t* codes, const float* scales, T* to, long items, long width) {
  for (long row = 0, first = 0; first < items; ++row, first += width) {
    const long count = std::min(width, items - first);
    const int8_t* __restrict code = codes + first;
    T* __restrict x = to + first;
    const float scale = scales[row];
    for (long i = 0; i < count; ++i) put(x + i, float(code[i]) * scale);
  }
}

}  // namespace

// 1, or 0 when an element is infinite or undefined. `items` elements in rows of `width`.
extern "C" int prefill_int8_encode(const void* from, uint16_t* scales, int8_t* codes, int64_t items,
                                   int64_t width, int bf16, float* top) {
  if (bf16) return encode(static_cast<const uint16_t*>(from), scales, codes, items, width, top);
  return encode(static_cast<const float*>(from), scales, codes, items, width, top);
}

extern "C" void prefill_int8_decode(const int8_t* codes, const float* scales, void* to,
                                    int64_t items, int64_t width, int bf16) {
  if (bf16)
    decode(codes, scales, static_cast<uint16_t*>(to), items, width);
  else
    decode(codes, scales, static_cast<float*>(to), items, width);
}
