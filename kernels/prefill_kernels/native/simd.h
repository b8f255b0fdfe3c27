// Vectors by GCC's and clang's vector extension, and the matrix product by tiles that all kernels use.
//
// Panels: a matrix [R, N] is kept as [N / 16][R][16], so that a tile reads its right factor and
// writes its result without a stride. A left factor is addressed by (row, outer): element (m, o, i)
// lies at a[m * row + o * outer + i], which covers row-major and panel matrices alike.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <algorithm>
#include <type_traits>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif
#if defined(_OPENMP)
#include <omp.h>
#endif

namespace prefill {

// A tile is MR or REST rows of TP panels; its accumulators fill, and do not spill, the registers.
// 16 rows are a sum of both.
#if defined(PREFILL_WIDE_VECTORS) || defined(__AVX512F__)
constexpr int VL = 16, MR = 8, REST = 8, TP = 2;
#elif defined(__AVX__)
constexpr int VL = 8, MR = 6, REST = 4, TP = 1;
#else
constexpr int VL = 4, MR = 4, REST = 4, TP = 1;
#endif
constexpr int NR = 16, NV = NR / VL;

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef float vf_any __attribute__((vector_size(VL * 4), aligned(4), may_alias));

static inline vf load(const float* p) { return *reinterpret_cast<const vf_any*>(p); }
static inline void store(float* p, vf x) { *reinterpret_cast<vf_any*>(p) = x; }
static inline vf splat(float x) { return x - vf{}; }
// Keeps a value in a register: GCC would otherwise read it from memory again for every use. Of an
// element of an array GCC would keep a copy in memory besides: hand over a variable of its own.
static inline void keep(vf& x) {
#if defined(PREFILL_WIDE_VECTORS)
  (void)x;  // lanes of a processor that has none so wide: no single register holds them
#elif defined(__x86_64__)
  asm("" : "+v"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#endif
}
static inline vf vmax(vf a, vf b) { return a > b ? a : b; }
static inline vf vmin(vf a, vf b) { return a < b ? a : b; }
static inline float sum(vf x) {
  float s = 0;
  for (int i = 0; i < VL; ++i) s += x[i];
  return s;
}
static inline float largest(vf x) {
  float s = x[0];
  for (int i = 1; i < VL; ++i) s = std::max(s, x[i]);
  return s;
}

// e^x to 1-2 ulp (Cephes' polynomial); x is held to [-87, 88]: neither Inf nor a denormal number.
static inline vf vexp(vf x) {
  x = vmin(vmax(x, splat(-87.0f)), splat(88.0f));
  const vf magic = splat(12582912.0f);  // its low bits take the rounded integer
  const vf shifted = x * 1.44269504f + magic;
  const vf r = shifted - magic;
  vf f = x - r * 0.693359375f;
  f = f + r * 2.12194440e-4f;
  vf p = splat(1.9875691500e-4f);
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  const vf y = p * (f * f) + f + 1.0f;
  return (vf)((vi)y + ((vi)shifted << 23));
}

static inline vf vsigmoid(vf x) { return 1.0f / (1.0f + vexp(-x)); }
static inline vf vsilu(vf x) { return x / (1.0f + vexp(-x)); }

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|), and log1p(u) = 2 artanh(u / (2 + u)).
static inline vf vsoftplus(vf x) {
  vf away = x > 0.0f ? -x : x;
  vf u = vexp(away);
  vf s = u / (2.0f + u), t = s * s;
  vf p = splat(1.0f / 15);
  p = p * t + 1.0f / 13;
  p = p * t + 1.0f / 11;
  p = p * t + 1.0f / 9;
  p = p * t + 1.0f / 7;
  p = p * t + 1.0f / 5;
  p = p * t + 1.0f / 3;
  p = p * t + 1.0f;
  return vmax(x, vf{}) + 2.0f * s * p;
}

static inline float vdot(const float* a, const float* b, int n) {
  vf s{};
  for (int i = 0; i < n; i += VL) s += load(a + i) * load(b + i);
  return sum(s);
}

enum Mode { ADD, SUBTRACT, SET };

// c[R, P * 16] (+, - or =) a[R, blocks * inner] b[blocks * inner, P * 16]; panels of b and c are
// `b_panel` and `c_panel` apart.
template <Mode MODE, int P, int R>
static inline __attribute__((always_inline)) void tile(const float* a, long row, long outer,
                                                       int blocks, int inner, const float* b,
                                                       long b_panel, float* c, long c_panel) {
  vf acc[R][P * NV] = {};
  if (MODE != SET)
    for (int m = 0; m < R; ++m)
      for (int v = 0; v < P * NV; ++v)
        acc[m][v] = load(c + v / NV * c_panel + m * NR + v % NV * VL);
  const float* rows[R];
  for (int o = 0; o < blocks; ++o, a += outer) {
    for (int m = 0; m < R; ++m) rows[m] = a + m * row;
    for (long i = 0; i < inner; ++i, b += NR) {
      vf right[P * NV];
      for (int v = 0; v < P * NV; ++v) {
        vf x = load(b + v / NV * b_panel + v % NV * VL);
        keep(x);
        right[v] = x;
      }
      for (int m = 0; m < R; ++m) {
        vf left = splat(rows[m][i]);
        for (int v = 0; v < P * NV; ++v)
          acc[m][v] = MODE == SUBTRACT ? acc[m][v] - left * right[v] : acc[m][v] + left * right[v];
      }
    }
  }
  for (int m = 0; m < R; ++m)
    for (int v = 0; v < P * NV; ++v)
      store(c + v / NV * c_panel + m * NR + v % NV * VL, acc[m][v]);
}

struct Left {  // the left factor [M, blocks * inner]
  const float* at;
  long row, outer;
  int blocks, inner;
};

// C panels [panels][crows][16] (+, - or =) left * B panels [panels][brows][16]; `rows` of C are
// written, a multiple of 16.
template <Mode MODE>
static void product(const Left& left, int rows, int panels, const float* b, long brows, float* c,
                    long crows) {
  const long b_panel = brows * NR, c_panel = crows * NR;
  auto walk = [&](auto width, int p) {
    constexpr int P = decltype(width)::value;
    auto at = [&](auto height, int m) {
      tile<MODE, P, decltype(height)::value>(left.at + m * left.row, left.row, left.outer,
                                             left.blocks, left.inner, b + p * b_panel, b_panel,
                                             c + p * c_panel + m * NR, c_panel);
    };
    int m = 0;
    for (; (rows - m) % MR; m += REST) at(std::integral_constant<int, REST>{}, m);
    for (; m < rows; m += MR) at(std::integral_constant<int, MR>{}, m);
  };
  int p = 0;
  for (; p + TP <= panels; p += TP) walk(std::integral_constant<int, TP>{}, p);
  for (; p < panels; ++p) walk(std::integral_constant<int, 1>{}, p);
}

// Flush-to-zero for a scope: products of decays may fall among the denormal numbers.
struct FlushDenormals {
#if defined(__SSE2__)
  unsigned kept = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(kept | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(kept); }
#endif
};

// Memory of one thread, kept between calls: fresh pages cost more than the work on them.
static inline float* scratch(size_t floats) {
  struct Kept {
    float* at = nullptr;
    size_t floats = 0;
    ~Kept() { std::free(at); }
  };
  thread_local Kept kept;
  if (kept.floats < floats) {
    std::free(kept.at);
    kept.floats = (floats + 1023) / 1024 * 1024;
    kept.at = static_cast<float*>(std::aligned_alloc(4096, kept.floats * sizeof(float)));
  }
  return kept.at;
}

static inline int pad16(int n) { return (n + 15) / 16 * 16; }

}  // namespace prefill
