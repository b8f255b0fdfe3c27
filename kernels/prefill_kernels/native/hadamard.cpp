// Codecs behind a Hadamard transform, from and to float32 or bfloat16; to the bit what numpy gives:
// butterflies from the widest to the narrowest, and no product joined with a sum.
#include <utility>

#include "pack.h"
#include "simd.h"

using namespace prefill;

namespace {

constexpr int GROUP = 32;

template <int H, int... I>
inline vf exchanged(vf x, std::integer_sequence<int, I...>) {
#if defined(__clang__)
  return __builtin_shufflevector(x, x, (I ^ H)...);
#else
  return __builtin_shuffle(x, vi{(I ^ H)...});
#endif
}

template <int H, int... I>
inline vf signs(std::integer_sequence<int, I...>) {
  return vf{((I & H) ? -1.0f : 1.0f)...};
}

template <int H>
inline vf within(vf x) {  // lanes H apart; times +-1 is exact, joined with the sum or not
  if constexpr (H == 0) {
    return x;
  } else {
    constexpr auto lanes = std::make_integer_sequence<int, VL>{};
    return within<H / 2>(exchanged<H>(x, lanes) + signs<H>(lanes) * x);
  }
}

template <int R>
inline void walsh(vf* r) {  // R registers of VL lanes
  if constexpr (R == 1) {
    r[0] = within<VL / 2>(r[0]);
  } else {
    for (int i = 0; i < R / 2; ++i) {
      const vf a = r[i], b = r[i + R / 2];
      r[i] = a + b;
      r[i + R / 2] = a - b;
    }
    walsh<R / 2>(r);
    walsh<R / 2>(r + R / 2);
  }
}

template <int N>
void each_row(float* at, long rows) {
  for (long row = 0; row < rows; ++row, at += N) {
    vf r[N / VL];
    for (int i = 0; i < N / VL; ++i) r[i] = load(at + i * VL);
    walsh<N / VL>(r);
    for (int i = 0; i < N / VL; ++i) store(at + i * VL, r[i]);
  }
}

void transform_rows(float* at, long rows, long size) {
  switch (size) {
    case 16: return each_row<16>(at, rows);
    case 32: return each_row<32>(at, rows);
    case 64: return each_row<64>(at, rows);
    case 128: return each_row<128>(at, rows);
    case 256: return each_row<256>(at, rows);
  }
}

// Down the columns of [k, v], VL of them at a time.
void transform_columns(float* at, long k, long v) {
  vf column[256];
  for (long first = 0; first < v; first += VL) {
    for (long i = 0; i < k; ++i) column[i] = load(at + i * v + first);
    for (long h = k / 2; h; h /= 2)
      for (long i = 0; i < k; i += 2 * h)
        for (long j = i; j < i + h; ++j) {
          const vf a = column[j], b = column[j + h];
          column[j] = a + b;
          column[j + h] = a - b;
        }
    for (long i = 0; i < k; ++i) store(at + i * v + first, column[i]);
  }
}

float norm_of(long size) { return float(1.0 / std::sqrt(double(size))); }

struct Told {
  float error = 0, decoded_peak = 0;
};

template <class T>
void compare(const T* from, const float* back, long count, Told* told) {
  int32_t error = 0;  // sizes compared as whole numbers: loops over floats would not be vectors
  for (long i = 0; i < count; ++i)
    error = std::max(error, int32_t(bits_of(back[i] - wide(from[i])) & 0x7FFFFFFF));
  told->error = std::max(told->error, float_of(uint32_t(error)));
  told->decoded_peak = std::max(told->decoded_peak, peak_of(back, count));
}

struct Matrix {
  long k, v;
  long size() const { return k * v; }
};

void int8_back(const int8_t* codes, const float* scales, Matrix of, float* to) {
  for (long i = 0; i < of.size(); ++i) to[i] = codes[i];
  transform_rows(to, of.k, of.v);
  const float norm = norm_of(of.size());
  for (long row = 0; row < of.k; ++row) {
    const float scale = scales[row] * norm;
    for (long i = 0; i < of.v; ++i) to[row * of.v + i] *= scale;
  }
  transform_columns(to, of.k, of.v);
}

template <class T>
bool int8_encode(const T* from, uint16_t* scales, int8_t* codes, long items, Matrix of,
                 Told* told) {
  if (!(peak_of(from, items) <= LARGEST)) return false;
  float *m = scratch(of.size() + of.k), *back = m;  // the mixed values are spent when back comes
  float* wider = m + of.size();
  const float norm = norm_of(of.size());
  for (long first = 0; first < items; first += of.size(), scales += of.k, codes += of.size()) {
    const long count = std::min(of.size(), items - first);
    for (long i = 0; i < count; ++i) m[i] = wide(from[first + i]);
    std::fill(m + count, m + of.size(), 0.0f);
    transform_rows(m, of.k, of.v);
    transform_columns(m, of.k, of.v);
    for (long row = 0; row < of.k; ++row) {
      float* __restrict x = m + row * of.v;
      int8_t* __restrict code = codes + row * of.v;
      for (long i = 0; i < of.v; ++i) x[i] *= norm;
      const float top = peak_of(x, of.v);
      scales[row] = scale_bits(top / 127.0f, top);
      wider[row] = wide(scales[row]);
      const float inverse = inverse_of(wider[row]);
      for (long i = 0; i < of.v; ++i) code[i] = int8_t(int32_t(__builtin_rintf(x[i] * inverse)));
    }
    int8_back(codes, wider, of, back);
    compare(from + first, back, count, told);
  }
  return true;
}

template <class T>
void int8_decode(const int8_t* codes, const float* scales, T* to, long items, Matrix of) {
  float* m = scratch(of.size());
  for (long first = 0; first < items; first += of.size(), scales += of.k, codes += of.size()) {
    const long count = std::min(of.size(), items - first);
    int8_back(codes, scales, of, m);
    for (long i = 0; i < count; ++i) put(to + first + i, m[i]);
  }
}

// 32 values of codes from -8 to 7: the first half of the group in the low nibbles.
inline void int4_back(const uint8_t* packed, float scale, float* to) {
  for (int i = 0; i < GROUP / 2; ++i) {
    to[i] = float(int(packed[i] & 15) - 8);
    to[i + GROUP / 2] = float(int(packed[i] >> 4) - 8);
  }
  each_row<GROUP>(to, 1);
  for (int i = 0; i < GROUP; ++i) to[i] *= scale;
}

// The codes of `groups` groups, their scales' bits, and what they decode to in place of `x`; step
// by step over all of them, so that one's division does not wait for the other's.
constexpr int BATCH = 32;
void int4_groups(float* __restrict x, uint16_t* __restrict scales, uint8_t* __restrict packed,
                 long groups) {
  const float norm = norm_of(GROUP);
  float top[BATCH], inverse[BATCH], scale[BATCH];
  each_row<GROUP>(x, groups);
  for (long i = 0; i < groups * GROUP; ++i) x[i] *= norm;
  for (long g = 0; g < groups; ++g) top[g] = peak_of(x + g * GROUP, GROUP);
  for (long g = 0; g < groups; ++g) {
    scales[g] = scale_bits(top[g] / 7.0f, top[g]);
    scale[g] = wide(scales[g]) * norm;
    inverse[g] = inverse_of(wide(scales[g]));
  }
  for (long g = 0; g < groups; ++g, x += GROUP, packed += GROUP / 2) {
    int32_t code[GROUP];
    for (int i = 0; i < GROUP; ++i) code[i] = int32_t(__builtin_rintf(x[i] * inverse[g]));
    for (int i = 0; i < GROUP / 2; ++i)
      packed[i] = uint8_t((code[i] + 8) | ((code[i + GROUP / 2] + 8) << 4));
    for (int i = 0; i < GROUP; ++i) x[i] = float(code[i]);
    each_row<GROUP>(x, 1);
    for (int i = 0; i < GROUP; ++i) x[i] *= scale[g];
  }
}

template <class T>
bool int4_encode(const T* from, uint16_t* scales, uint8_t* packed, long items, Told* told) {
  if (!(peak_of(from, items) <= LARGEST)) return false;
  for (long first = 0; first < items; first += BATCH * GROUP) {
    const long count = std::min<long>(BATCH * GROUP, items - first);
    const long groups = (count + GROUP - 1) / GROUP;
    float x[BATCH * GROUP];
    for (long i = 0; i < count; ++i) x[i] = wide(from[first + i]);
    std::fill(x + count, x + groups * GROUP, 0.0f);
    int4_groups(x, scales + first / GROUP, packed + first / 2, groups);
    compare(from + first, x, count, told);
  }
  return true;
}

template <class T>
void int4_decode(const uint8_t* packed, const float* scales, T* to, long items) {
  const float norm = norm_of(GROUP);
  for (long first = 0; first < items; first += GROUP, ++scales, packed += GROUP / 2) {
    float x[GROUP];
    int4_back(packed, *scales * norm, x);
    if (items - first >= GROUP)
      for (int i = 0; i < GROUP; ++i) put(to + first + i, x[i]);
    else
      for (int i = 0; i < items - first; ++i) put(to + first + i, x[i]);
  }
}

void tell(const Told& told, float* to) {
  to[0] = told.error;
  to[1] = told.decoded_peak;
}

}  // namespace

// The encoders give 1, or 0 when an element is above 1e30; `told` takes the largest error and the
// largest |decoded element|. Matrices [k, v], their sides of 16 to 256, or
// [1, 32]; what is missing of the last one is zeros.
extern "C" int prefill_hadamard_int8_encode(const void* from, uint16_t* scales, int8_t* codes,
                                            int64_t items, int64_t k, int64_t v, int bf16,
                                            float* told) {
  Told found;
  const Matrix of{k, v};
  const bool fine = bf16 ? int8_encode((const uint16_t*)from, scales, codes, items, of, &found)
                         : int8_encode((const float*)from, scales, codes, items, of, &found);
  tell(found, told);
  return fine;
}

extern "C" void prefill_hadamard_int8_decode(const int8_t* codes, const float* scales, void* to,
                                             int64_t items, int64_t k, int64_t v, int bf16) {
  if (bf16)
    int8_decode(codes, scales, (uint16_t*)to, items, Matrix{k, v});
  else
    int8_decode(codes, scales, (float*)to, items, Matrix{k, v});
}

extern "C" int prefill_hadamard_int4_encode(const void* from, uint16_t* scales, uint8_t* packed,
                                            int64_t items, int bf16, float* told) {
  Told found;
  const bool fine = bf16 ? int4_encode((const uint16_t*)from, scales, packed, items, &found)
                         : int4_encode((const float*)from, scales, packed, items, &found);
  tell(found, told);
  return fine;
}

extern "C" void prefill_hadamard_int4_decode(const uint8_t* packed, const float* scales, void* to,
                                             int64_t items, int bf16) {
  if (bf16)
    int4_decode(packed, scales, (uint16_t*)to, items);
  else
    int4_decode(packed, scales, (float*)to, items);
}
