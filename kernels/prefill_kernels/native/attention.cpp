// Softmax attention over one block of expanded keys and values, merged with what came before.
//
// Called block after block of the cache, the step's own rows last: maxima, sums and unnormalised
// outputs of every query stay in `running`, so that scratch memory does not grow with the prefix.
#include "simd.h"

using namespace prefill;

namespace {

constexpr int QB = 64, KB = 128;
constexpr float MASKED = -1e30f;
constexpr long PARALLEL_WORK = 1 << 21;  // some 100 us of one thread: for less, another costs more

}  // namespace

struct AttentionCall {
  const float* q;         // [T, q_row], head h from h * (nope + rope) on
  const float* expanded;  // [n, H, nope + value]
  const float* rope;      // [n, rope_row], shared by the heads
  float* packed;          // [H, (nope + rope) * n16 + value16 * n16], n16 = n padded to KB
  float* running;         // [H, T64, value16 + 2], T64 = T padded to 64
  float* out;             // [T, H, value], written when `last`
  int64_t tokens, q_row, keys, rope_row, heads, nope, rope_dim, value, threads;
  int64_t first, last;    // whether this block begins, ends the walk
  int64_t causal;         // key j is seen by query i only when j <= i
  double scale;
};

namespace {

struct Packed {
  float *keys, *values;  // panels [n16 / 16][D][16], [value16 / 16][n16][16]
  long n16;
};

Packed packed_of(const AttentionCall& c, long head) {
  const long n16 = (c.keys + KB - 1) / KB * KB, d = c.nope + c.rope_dim;
  const long each = (d + pad16(int(c.value))) * n16;
  float* at = c.packed + head * each;
  return {at, at + d * n16, n16};
}

// 16 keys of one head: transposed keys and values, zero beyond the last one.
void pack(const AttentionCall& c, long head, long block) {
  const Packed to = packed_of(c, head);
  const long d = c.nope + c.rope_dim, first = block * NR, width = c.nope + c.value;
  float* keys = to.keys + block * d * NR;
  for (long j = 0; j < NR; ++j) {
    const bool there = first + j < c.keys;
    const float* own = c.expanded + ((first + j) * c.heads + head) * width;
    const float* shared = c.rope + (first + j) * c.rope_row;
    for (long i = 0; i < c.nope; ++i) keys[i * NR + j] = there ? own[i] : 0;
    for (long i = 0; i < c.rope_dim; ++i) keys[(c.nope + i) * NR + j] = there ? shared[i] : 0;
    for (long i = 0; i < pad16(int(c.value)); ++i)
      to.values[(i / NR * to.n16 + first + j) * NR + i % NR] =
          there && i < c.value ? own[c.nope + i] : 0;
  }
}

// One row of scores [KB] in panels: e^(s - m), the new maximum and the sum.
void soften(float* scores, float* maximum, float* total, float* rescale) {
  vf high = splat(*maximum);
  for (int p = 0; p < KB / NR; ++p)
    for (int v = 0; v < NV; ++v) high = vmax(high, load(scores + p * QB * NR + v * VL));
  const float now = largest(high);
  *rescale = now == *maximum ? 1 : vexp(splat(*maximum - now))[0];
  vf sums{};
  for (int p = 0; p < KB / NR; ++p)
    for (int v = 0; v < NV; ++v) {
      float* at = scores + p * QB * NR + v * VL;
      const vf e = vexp(load(at) - now);
      store(at, e);
      sums += e;
    }
  *total = *total * *rescale + sum(sums);
  *maximum = now;
}

void attend(const AttentionCall& c, long head, long block) {
  const long d = c.nope + c.rope_dim, first = block * QB, v16 = pad16(int(c.value));
  const int rows = int(std::min<long>(QB, c.tokens - first)), rows16 = pad16(rows);
  const int panels = int(v16 / NR);
  const long t64 = (c.tokens + QB - 1) / QB * QB;
  float* running = c.running + (head * t64 + first) * (v16 + 2);
  float *acc = running, *maxima = running + QB * v16, *totals = maxima + QB;
  float* q = scratch(size_t(QB) * d + QB * KB);
  float* scores = q + QB * d;
  std::memset(q, 0, sizeof(float) * QB * d);
  for (int r = 0; r < rows; ++r)
    for (long i = 0; i < d; ++i)
      q[r * d + i] = c.q[(first + r) * c.q_row + head * d + i] * float(c.scale);
  if (c.first) {
    std::memset(acc, 0, sizeof(float) * QB * v16);
    std::fill(maxima, maxima + QB, MASKED);
    std::fill(totals, totals + QB, 0.0f);
  }
  const Packed from = packed_of(c, head);
  const long end = c.causal ? std::min<long>(c.keys, first + rows) : c.keys;
  for (long at = 0; at < end; at += KB) {
    product<SET>(Left{q, d, 0, 1, int(d)}, rows16, KB / NR, from.keys + at * d, d, scores, QB);
    for (int r = 0; r < rows; ++r) {
      const long seen = std::min<long>(c.causal ? first + r + 1 : c.keys, c.keys) - at;
      for (long j = std::max<long>(seen, 0); j < KB; ++j)
        scores[(j / NR * QB + r) * NR + j % NR] = MASKED;
      float rescale;
      soften(scores + r * NR, maxima + r, totals + r, &rescale);
      if (rescale != 1)
        for (int p = 0; p < panels; ++p)
          for (int v = 0; v < NV; ++v) {
            float* o = acc + (long(p) * QB + r) * NR + v * VL;
            store(o, load(o) * rescale);
          }
    }
    product<ADD>(Left{scores, NR, QB * NR, KB / NR, NR}, rows16, panels, from.values + at * NR, from.n16,
            acc, QB);
  }
  if (!c.last) return;
  for (int r = 0; r < rows; ++r)
    for (long i = 0; i < c.value; ++i)
      c.out[((first + r) * c.heads + head) * c.value + i] =
          acc[(i / NR * QB + r) * NR + i % NR] / totals[r];
}

}  // namespace

extern "C" void prefill_attention(const AttentionCall* c) {
  const long key_blocks = (c->keys + KB - 1) / KB * (KB / NR);
  const long query_blocks = (c->tokens + QB - 1) / QB;
  const long pairs = query_blocks * QB * key_blocks * NR * c->heads;
  const bool little = pairs * (c->nope + c->rope_dim + c->value) < PARALLEL_WORK;
#pragma omp parallel num_threads(int(little ? 1 : c->threads))
  {
    FlushDenormals flush;
#pragma omp for
    for (long unit = 0; unit < key_blocks * c->heads; ++unit)
      pack(*c, unit % c->heads, unit / c->heads);
    // the last queries see most: they go first
#pragma omp for schedule(dynamic)
    for (long unit = 0; unit < query_blocks * c->heads; ++unit)
      attend(*c, unit % c->heads, query_blocks - 1 - unit / c->heads);
  }
}
