// Codecs of rows and of bytes, from and to float32 or bfloat16; to the bit what numpy gives.
// Plain loops: compilers turn most narrowing conversions into better code than we would. Not those
// of int8 rows on AVX2, where lanes are taken apart and packed again in the order they come.
#include "pack.h"
#if defined(__AVX2__)
#include <immintrin.h>
#endif

using namespace prefill;

namespace {

// Codes of whole vectors of a row, and elements of whole vectors of codes; how many were done.
#if defined(__AVX2__)
inline __m256i rounded(__m256 x, __m256 inverse) {
  return _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse));
}

inline long int8_codes(const uint16_t* x, int8_t* code, long count, float inverse) {
  const __m256 times = _mm256_set1_ps(inverse);
  const __m256i zero = _mm256_setzero_si256();
  long i = 0;
  for (; i + 32 <= count; i += 32) {
    __m256i half[2];
    for (int h = 0; h < 2; ++h) {
      const __m256i in = _mm256_loadu_si256((const __m256i*)(x + i + 16 * h));
      const __m256i low = _mm256_unpacklo_epi16(zero, in), high = _mm256_unpackhi_epi16(zero, in);
      half[h] = _mm256_packs_epi32(rounded(_mm256_castsi256_ps(low), times),
                                   rounded(_mm256_castsi256_ps(high), times));
    }
    const __m256i bytes = _mm256_packs_epi16(half[0], half[1]);
    _mm256_storeu_si256((__m256i*)(code + i), _mm256_permute4x64_epi64(bytes, 0xD8));
  }
  return i;
}

inline long int8_codes(const float* x, int8_t* code, long count, float inverse) {
  const __m256 times = _mm256_set1_ps(inverse);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  long i = 0;
  for (; i + 32 <= count; i += 32) {
    __m256i part[4];
    for (int q = 0; q < 4; ++q) part[q] = rounded(_mm256_loadu_ps(x + i + 8 * q), times);
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(part[0], part[1]),
                                             _mm256_packs_epi32(part[2], part[3]));
    _mm256_storeu_si256((__m256i*)(code + i), _mm256_permutevar8x32_epi32(bytes, order));
  }
  return i;
}

// The upper half of code * scale, rounded to nearest even.
inline __m256i halves(__m256i code, __m256 scale) {
  const __m256i bits = _mm256_castps_si256(_mm256_mul_ps(_mm256_cvtepi32_ps(code), scale));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
  return _mm256_srli_epi32(up, 16);
}

inline long int8_elements(const int8_t* code, uint16_t* x, long count, float scale) {
  const __m256 times = _mm256_set1_ps(scale);
  const __m256i zero = _mm256_setzero_si256();
  long i = 0;
  for (; i + 16 <= count; i += 16) {
    const __m256i in = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(code + i)));
    const __m256i low = _mm256_srai_epi32(_mm256_unpacklo_epi16(zero, in), 16);
    const __m256i high = _mm256_srai_epi32(_mm256_unpackhi_epi16(zero, in), 16);
    const __m256i out = _mm256_packus_epi32(halves(low, times), halves(high, times));
    _mm256_storeu_si256((__m256i*)(x + i), out);
  }
  return i;
}

inline long int8_elements(const int8_t*, float*, long, float) { return 0; }
#else
template <class T>
inline long int8_codes(const T*, int8_t*, long, float) {
  return 0;
}
template <class T>
inline long int8_elements(const int8_t*, T*, long, float) {
  return 0;
}
#endif

template <class T>
bool int8_encode(const T* from, uint16_t* scales, int8_t* codes, long items, long width,
                 float* top) {
  *top = 0;
  for (long row = 0, first = 0; first < items; ++row, first += width) {
    const long count = std::min(width, items - first);
    const T* __restrict x = from + first;
    int8_t* __restrict code = codes + first;
    const float peak = peak_of(x, count);
    if (!(peak < INFINITY)) return false;
    *top = std::max(*top, peak);
    scales[row] = scale_bits(peak / 127.0f, peak);
    const float inverse = inverse_of(wide(scales[row]));
    for (long i = int8_codes(x, code, count, inverse); i < count; ++i)
      code[i] = int8_t(int32_t(__builtin_rintf(wide(x[i]) * inverse)));
  }
  return true;
}

template <class T>
void int8_decode(const int8_t* codes, const float* scales, T* to, long items, long width) {
  for (long row = 0, first = 0; first < items; ++row, first += width) {
    const long count = std::min(width, items - first);
    const int8_t* __restrict code = codes + first;
    T* __restrict x = to + first;
    const float scale = scales[row];
    for (long i = int8_elements(code, x, count, scale); i < count; ++i)
      put(x + i, float(code[i]) * scale);
  }
}

// Nearest e4m3 code, ties to even, of a value within +-448.
inline uint8_t fp8_of(float x) {
  const uint32_t bits = bits_of(x), size = bits & 0x7FFFFFFF;
  const uint32_t normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3);
  const uint32_t small = uint32_t(int32_t(__builtin_rintf(float_of(size) * 512)));
  const uint32_t code = size < (121u << 23) ? small : normal;  // below 2^-6: no leading one
  return uint8_t(std::min(code, 0x7Eu) | ((bits >> 24) & 0x80));
}

inline float from_fp8(uint8_t code) {
  const uint32_t size = code & 0x7F;
  const float normal = float_of((size << 20) + (120u << 23)), small = float(int32_t(size)) / 512;
  const float value = size == 0x7F ? 0 : size < 8 ? small : normal;  // the one NaN: never written
  return float_of(bits_of(value) | (uint32_t(code & 0x80) << 24));
}

template <class T>
bool fp8_encode(const T* from, uint16_t* scales, uint8_t* codes, long items, long width,
                float* top) {
  *top = 0;
  for (long row = 0, first = 0; first < items; ++row, first += width) {
    const long count = std::min(width, items - first);
    const T* __restrict x = from + first;
    uint8_t* __restrict code = codes + first;
    const float peak = peak_of(x, count);
    if (!(peak < INFINITY)) return false;
    *top = std::max(*top, peak);
    scales[row] = scale_bits(peak / 448.0f, peak);
    const float inverse = inverse_of(wide(scales[row]));
    for (long i = 0; i < count; ++i) code[i] = fp8_of(wide(x[i]) * inverse);
  }
  return true;
}

template <class T>
void fp8_decode(const uint8_t* codes, const float* scales, T* to, long items, long width) {
  for (long row = 0, first = 0; first < items; ++row, first += width) {
    const long count = std::min(width, items - first);
    const uint8_t* __restrict code = codes + first;
    T* __restrict x = to + first;
    const float scale = scales[row];
    for (long i = 0; i < count; ++i) put(x + i, from_fp8(code[i]) * scale);
  }
}

// The sum of squares in 16 lanes, as numpy's reference adds them; a product is exact in doubles.
template <class T>
double squares(const T* x, long count) {
  double lane[16] = {};
  long i = 0;
  for (; i + 16 <= count; i += 16)
    for (int l = 0; l < 16; ++l) {
      const double wider = wide(x[i + l]);
      lane[l] += wider * wider;
    }
  for (int l = 0; i < count; ++i, ++l) {
    const double wider = wide(x[i]);
    lane[l] += wider * wider;
  }
  for (int h = 8; h; h /= 2)
    for (int l = 0; l < h; ++l) lane[l] += lane[l + h];
  return lane[0];
}

template <class T>
bool int12_encode(const T* from, uint16_t* scales, int8_t* high, uint8_t* low, long items,
                  long width, float* top) {
  *top = 0;
  for (long row = 0, first = 0; first < items; ++row, first += width) {
    const long count = std::min(width, items - first);
    const T* __restrict x = from + first;
    int8_t* __restrict h = high + first;
    uint8_t* __restrict l = low + first;
    const float peak = peak_of(x, count);
    if (!(peak < INFINITY)) return false;
    *top = std::max(*top, peak);
    const float fine = float(std::sqrt(squares(x, count) / double(width)) / 64);
    scales[row] = scale_bits(std::max(fine, peak / 2047.0f), peak);
    const float inverse = inverse_of(wide(scales[row]));
    for (long i = 0; i < count; ++i) {
      const int16_t code = int16_t(int32_t(__builtin_rintf(wide(x[i]) * inverse)));
      h[i] = int8_t(code >> 4);
      l[i] = uint8_t(code & 15);
    }
  }
  const long half = (items + 1) / 2;
  for (long i = 0; i < items - half; ++i) low[i] = uint8_t(low[i] | (low[half + i] << 4));
  return true;
}

template <class T>
void int12_part(const int8_t* __restrict high, const uint8_t* __restrict low, int shift,
                float scale, T* __restrict to, long count) {
  for (long i = 0; i < count; ++i)
    put(to + i, float(high[i] * 16 + ((low[i] >> shift) & 15)) * scale);
}

template <class T>
void int12_decode(const int8_t* high, const uint8_t* low, const float* scales, T* to, long items,
                  long width) {
  const long half = (items + 1) / 2;
  for (long row = 0, first = 0; first < items; ++row, first += width) {
    const long end = std::min(first + width, items), middle = std::clamp(half, first, end);
    int12_part(high + first, low + first, 0, scales[row], to + first, middle - first);
    int12_part(high + middle, low + (middle - half), 4, scales[row], to + middle, end - middle);
  }
}

template <class T>
bool bf16_encode(const T* from, uint16_t* to, long items, float* told) {
  told[0] = peak_of(from, items);
  if (!(told[0] <= LARGEST)) return false;
  int32_t worst = 0;
  for (long i = 0; i < items; ++i) {
    const float x = wide(from[i]);
    to[i] = half_of(x);
    worst = std::max(worst, int32_t(bits_of(wide(to[i]) - x) & 0x7FFFFFFF));
  }
  told[1] = float_of(uint32_t(worst));
  return true;
}

}  // namespace

// The encoders give 1, or 0 when an element is infinite or undefined; `items` elements in rows of
// `width`; `top` takes the largest |element|.
extern "C" int prefill_int8_encode(const void* from, uint16_t* scales, int8_t* codes, int64_t items,
                                   int64_t width, int bf16, float* top) {
  if (bf16) return int8_encode((const uint16_t*)from, scales, codes, items, width, top);
  return int8_encode((const float*)from, scales, codes, items, width, top);
}

extern "C" void prefill_int8_decode(const int8_t* codes, const float* scales, void* to,
                                    int64_t items, int64_t width, int bf16) {
  if (bf16)
    int8_decode(codes, scales, (uint16_t*)to, items, width);
  else
    int8_decode(codes, scales, (float*)to, items, width);
}

extern "C" int prefill_fp8_encode(const void* from, uint16_t* scales, uint8_t* codes, int64_t items,
                                  int64_t width, int bf16, float* top) {
  if (bf16) return fp8_encode((const uint16_t*)from, scales, codes, items, width, top);
  return fp8_encode((const float*)from, scales, codes, items, width, top);
}

extern "C" void prefill_fp8_decode(const uint8_t* codes, const float* scales, void* to,
                                   int64_t items, int64_t width, int bf16) {
  if (bf16)
    fp8_decode(codes, scales, (uint16_t*)to, items, width);
  else
    fp8_decode(codes, scales, (float*)to, items, width);
}

// `low` has `items` bytes while it works, of which the first half (rounded up) are the result.
extern "C" int prefill_int12_encode(const void* from, uint16_t* scales, int8_t* high, uint8_t* low,
                                    int64_t items, int64_t width, int bf16, float* top) {
  if (bf16) return int12_encode((const uint16_t*)from, scales, high, low, items, width, top);
  return int12_encode((const float*)from, scales, high, low, items, width, top);
}

extern "C" void prefill_int12_decode(const int8_t* high, const uint8_t* low, const float* scales,
                                     void* to, int64_t items, int64_t width, int bf16) {
  if (bf16)
    int12_decode(high, low, scales, (uint16_t*)to, items, width);
  else
    int12_decode(high, low, scales, (float*)to, items, width);
}

// `told` takes the largest |element| and the largest error; 0 when an element is above 1e30.
extern "C" int prefill_bf16_encode(const void* from, uint16_t* to, int64_t items, int bf16,
                                   float* told) {
  if (bf16) return bf16_encode((const uint16_t*)from, to, items, told);
  return bf16_encode((const float*)from, to, items, told);
}

// 1, or 0 when an element is above 1e30.
extern "C" int prefill_bf16_decode(const uint16_t* from, void* to, int64_t items, int bf16) {
  if (!(peak_of(from, items) <= LARGEST)) return 0;
  if (bf16)
    std::memcpy(to, from, size_t(items) * 2);
  else
    for (int64_t i = 0; i < items; ++i) static_cast<float*>(to)[i] = wide(from[i]);
  return 1;
}

// Elements rotated left by a bit, so that the whole exponent is the top byte, and their bytes put
// into one plane each.
extern "C" void prefill_split(const void* from, uint8_t* planes, int64_t items, int item_bytes) {
  if (item_bytes == 2) {
    const uint16_t* x = static_cast<const uint16_t*>(from);
    uint8_t *__restrict a = planes, *__restrict b = planes + items;
    for (int64_t i = 0; i < items; ++i) {
      a[i] = uint8_t((x[i] << 1) | (x[i] >> 15));
      b[i] = uint8_t(x[i] >> 7);
    }
    return;
  }
  const uint32_t* x = static_cast<const uint32_t*>(from);
  for (int plane = 0; plane < 4; ++plane) {
    uint8_t* __restrict to = planes + plane * items;
    for (int64_t i = 0; i < items; ++i)
      to[i] = uint8_t(((x[i] << 1) | (x[i] >> 31)) >> (8 * plane));
  }
}

extern "C" void prefill_merge(const uint8_t* const* planes, void* to, int64_t items,
                              int item_bytes) {
  if (item_bytes == 2) {
    uint16_t* __restrict x = static_cast<uint16_t*>(to);
    const uint8_t *a = planes[0], *b = planes[1];
    for (int64_t i = 0; i < items; ++i)
      x[i] = uint16_t((b[i] << 7) | (a[i] >> 1) | ((a[i] & 1) << 15));
    return;
  }
  uint32_t* __restrict x = static_cast<uint32_t*>(to);
  const uint8_t *a = planes[0], *b = planes[1], *c = planes[2], *d = planes[3];
  for (int64_t i = 0; i < items; ++i) {
    const uint32_t r = a[i] | (uint32_t(b[i]) << 8) | (uint32_t(c[i]) << 16) | (uint32_t(d[i]) << 24);
    x[i] = (r >> 1) | (r << 31);
  }
}
