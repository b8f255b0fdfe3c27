// KDA over chunks of 64 tokens in blocks of 16, one head of one sequence at a time.
//
// The algebra is that of prefill_kernels/kda/chunk.py; two things differ. The state is known when
// a chunk begins, so that V' = T beta (V - (e^G k) S) is solved for V columns alone. And decays are
// sums within a block, joined by products of the blocks' totals: e^(G_i - G_j) of any two rows is
// a product of factors <= 1, except inside a block, where e^(L_i) e^(-L_j) is used while every
// |L| <= LIMIT and exact differences beyond it.
#include "simd.h"

namespace prefill {

constexpr int C = 64, B = 16;
constexpr float LIMIT = 12.0f;

struct KdaCall {
  const float *q, *k, *v, *g, *beta;  // [T, H, K], v [T, H, V], beta [T, H]
  float* out;                         // [T, H, V]
  float* states;                      // [N, H, K, V], read and written
  const int64_t* starts;              // [N + 1]: sequence n is tokens starts[n] to starts[n + 1]
  const int64_t* bounds;              // ascending token positions in (0, T]
  float* bound_states;                // [bounds, H, K, V]
  int64_t sequences, bound_count, heads, key_dim, value_dim, threads;
};

struct KdaLayer {
  const float* raw;       // [T, raw_row]: q|k|v before the convolution, beta from beta_column on
  const float* history;   // [3, 3 H K]: the three raw rows before
  const float* conv;      // [4, 3 H K]
  const float* gate;      // [T, H K], dt_bias included
  const float* out_gate;  // [T, H K]
  const float* decay;     // [H], e^A_log
  const float* norm;      // [K]
  float* out;             // [T, H K]
  float* state;           // [H, K, K], read and written
  const int64_t* bounds;  // as above
  float* bound_states;
  int64_t tokens, raw_row, beta_column, bound_count, heads, dim, threads;
  double eps;
};

struct Span {
  long start, end;
  float* state;
  long bounds;
  const int64_t* bound;
  float* bound_states;
};

struct Work {
  int kp, vp;              // K and V padded to 16
  float *q, *k, *g;        // [C][kp]; g becomes the sum L within its block
  float *q_in, *k_in;      // [C][kp], e^G q and e^G k
  float *pair;             // [2 B][kp], e^L k and e^L q of one block
  float *cols;             // [B][kp], e^-L k of one block
  float *kt;               // panels [C / 16][kp][16], keys decayed to the end of what was seen
  float *a_kk, *a_qk;      // panels [C / 16][C][16]
  float *x, *o;            // panels [vp / 16][C][16]: V', outputs
  float *part;             // panels [vp / 16][B][16]
  float *s;                // panels [vp / 16][kp][16], the state
  float *prefix, *total;   // [kp], e^(sum of the blocks so far), of this block
  float *row;              // [kp + vp], one row
  float beta[C];

  static size_t floats(int kp, int vp) {
    return size_t(kp) * (5 * C + 2 * B + B + C + 3) + size_t(vp) * (2 * C + B + kp + 1) + 2 * C * C;
  }

  Work(int k_dim, int v_dim) : kp(pad16(k_dim)), vp(pad16(v_dim)) {
    float* at = scratch(floats(kp, vp));
    auto take = [&at](size_t n) { float* mine = at; at += n; return mine; };
    for (float** each : {&q, &k, &g, &q_in, &k_in}) *each = take(size_t(C) * kp);
    pair = take(2 * B * kp), cols = take(B * kp), kt = take(size_t(C) * kp);
    a_kk = take(C * C), a_qk = take(C * C);
    x = take(size_t(C) * vp), o = take(size_t(C) * vp), part = take(size_t(B) * vp);
    s = take(size_t(kp) * vp), prefix = take(kp), total = take(kp), row = take(kp + vp);
  }

  float* state_row(int key) { return s + long(key) * NR; }

  void load_state(const float* from, int k_dim, int v_dim) {
    std::memset(s, 0, sizeof(float) * kp * vp);
    for (int p = 0; p * NR < v_dim; ++p)
      for (int d = 0; d < k_dim; ++d)
        std::memcpy(s + (long(p) * kp + d) * NR, from + long(d) * v_dim + p * NR,
                    sizeof(float) * std::min(NR, v_dim - p * NR));
  }
  void store_state(float* to, int k_dim, int v_dim) const {
    for (int p = 0; p * NR < v_dim; ++p)
      for (int d = 0; d < k_dim; ++d)
        std::memcpy(to + long(d) * v_dim + p * NR, s + (long(p) * kp + d) * NR,
                    sizeof(float) * std::min(NR, v_dim - p * NR));
  }
};

// Sums of g within block `b` in place; whether they stay within LIMIT.
static bool sum_block(Work& w, int b) {
  float* g = w.g + long(b) * B * w.kp;
  vf low{};
  for (int d = 0; d < w.kp; d += VL) {
    vf l{};
    for (int r = 0; r < B; ++r) {
      l += load(g + r * w.kp + d);
      store(g + r * w.kp + d, l);
    }
    low = vmin(low, l);
  }
  return -largest(-low) >= -LIMIT;
}

static void transpose_block(const float* rows, int kp, float* panel) {
  for (int d = 0; d < kp; d += VL)
    for (int r = 0; r < B; ++r) {
      vf x = load(rows + r * kp + d);
      for (int i = 0; i < VL; ++i) panel[(d + i) * NR + r] = x[i];
    }
}

// e^L k, e^L q and both times the prefix; cols = e^-L k, or k decayed to the block's end.
static void scale_block(Work& w, int b, bool little) {
  const int kp = w.kp;
  const long first = long(b) * B * kp;
  for (int d = 0; d < kp; d += VL) {
    const vf prefix = load(w.prefix + d);
    const vf last = load(w.g + first + (B - 1) * kp + d);
    for (int r = 0; r < B; ++r) {
      const long at = first + r * kp + d;
      vf l = load(w.g + at), e = vexp(l), k = load(w.k + at);
      vf ke = k * e, qe = load(w.q + at) * e;
      store(w.pair + r * kp + d, ke);
      store(w.pair + (B + r) * kp + d, qe);
      store(w.k_in + at, ke * prefix);
      store(w.q_in + at, qe * prefix);
      store(w.cols + r * kp + d, little ? k / e : k * vexp(last - l));
    }
    store(w.total + d, vexp(last));
  }
}

// The block's own scores from differences taken step by step: any decay, no division.
static void exact_scores(Work& w, int b, const float* raw) {
  const int kp = w.kp;
  const long first = long(b) * B * kp;
  float* kk = w.a_kk + (long(b) * C + b * B) * NR;
  float* qk = w.a_qk + (long(b) * C + b * B) * NR;
  for (int j = 0; j < B; ++j) {
    const float* kj = w.k + first + j * kp;
    std::memset(w.row, 0, sizeof(float) * kp);
    for (int i = j; i < B; ++i) {
      vf sk{}, sq{};
      for (int d = 0; d < kp; d += VL) {
        vf since = load(w.row + d);
        if (i > j) since += load(raw + i * kp + d);
        store(w.row + d, since);
        vf decayed = load(kj + d) * vexp(since);
        sk += decayed * load(w.k + first + i * kp + d);
        sq += decayed * load(w.q + first + i * kp + d);
      }
      kk[i * NR + j] = sum(sk);
      qk[i * NR + j] = sum(sq);
    }
  }
}

static void scale_rows(float* panel, const float* factors, int rows) {
  for (int d = 0; d < rows; ++d)
    for (int v = 0; v < NV; ++v)
      store(panel + d * NR + v * VL, load(panel + d * NR + v * VL) * factors[d]);
}

// Everything of a block that does not read the state: scores, decayed keys and queries.
static void prepare_block(Work& w, int b) {
  const int kp = w.kp;
  const float* g = w.g + long(b) * B * kp;
  std::memcpy(w.cols, g, sizeof(float) * B * kp);  // the exact form needs g itself
  const bool little = sum_block(w, b);
  if (!little) exact_scores(w, b, w.cols);
  scale_block(w, b, little);
  float* own = w.kt + long(b) * kp * NR;
  float* kk = w.a_kk + b * B * NR;
  float* qk = w.a_qk + b * B * NR;
  const int others = little ? b + 1 : b;
  transpose_block(w.cols, kp, own);
  product<SET>(Left{w.pair, kp, 0, 1, kp}, B, others, w.kt, kp, kk, C);
  product<SET>(Left{w.pair + B * kp, kp, 0, 1, kp}, B, others, w.kt, kp, qk, C);
  for (int p = 0; p < others; ++p) scale_rows(w.kt + long(p) * kp * NR, w.total, kp);
  for (int d = 0; d < kp; d += VL) store(w.prefix + d, load(w.prefix + d) * load(w.total + d));
}

// Rows of A_kk times beta, strictly below the diagonal, and A_qk up to it, in the block's own panel.
static void mask_block(Work& w, int b) {
  float* kk = w.a_kk + (long(b) * C + b * B) * NR;
  float* qk = w.a_qk + (long(b) * C + b * B) * NR;
  for (int i = 0; i < B; ++i)
    for (int j = 0; j < B; ++j) {
      if (j >= i) kk[i * NR + j] = 0;
      if (j > i) qk[i * NR + j] = 0;
    }
  for (int p = 0; p <= b; ++p) scale_rows(w.a_kk + (long(p) * C + b * B) * NR, w.beta + b * B, B);
}

// X_b <- (I + A)^-1 (X_b - A_b,<b X_<b), A strictly lower.
static void solve_block(Work& w, int b) {
  const int panels = w.vp / NR;
  product<SUBTRACT>(Left{w.a_kk + b * B * NR, NR, C * NR, b, B}, B, panels, w.x, C, w.x + b * B * NR, C);
  const float* a = w.a_kk + (long(b) * C + b * B) * NR;
  float inverse[B * B] = {};
  for (int i = 0; i < B; ++i) {
    float* mine = inverse + i * B;
    for (int j = 0; j < i; ++j)
      for (int c = 0; c <= j; ++c) mine[c] -= a[i * NR + j] * inverse[j * B + c];
    mine[i] = 1;
  }
  for (int p = 0; p < panels; ++p)
    std::memcpy(w.part + p * B * NR, w.x + (long(p) * C + b * B) * NR, sizeof(float) * B * NR);
  product<SET>(Left{inverse, B, 0, 1, B}, B, panels, w.part, B, w.x + b * B * NR, C);
}

// One chunk of `rows` tokens, already in w.q k g x beta and zero beyond `rows` up to a block's end.
static void chunk(Work& w, int rows) {
  const int blocks = (rows + B - 1) / B, panels = w.vp / NR, kp = w.kp;
  for (int d = 0; d < kp; ++d) w.prefix[d] = 1;
  for (int b = 0; b < blocks; ++b) {
    prepare_block(w, b);
    mask_block(w, b);
  }
  product<SUBTRACT>(Left{w.k_in, kp, 0, 1, kp}, blocks * B, panels, w.s, kp, w.x, C);
  for (int p = 0; p < panels; ++p) scale_rows(w.x + long(p) * C * NR, w.beta, blocks * B);
  for (int b = 0; b < blocks; ++b) solve_block(w, b);
  product<SET>(Left{w.q_in, kp, 0, 1, kp}, blocks * B, panels, w.s, kp, w.o, C);
  for (int b = 0; b < blocks; ++b)
    product<ADD>(Left{w.a_qk + b * B * NR, NR, C * NR, b + 1, B}, B, panels, w.x, C, w.o + b * B * NR, C);
  for (int p = 0; p < panels; ++p) scale_rows(w.s + long(p) * kp * NR, w.prefix, kp);
  product<ADD>(Left{w.kt, NR, long(kp) * NR, blocks, B}, kp, panels, w.x, C, w.s, kp);
}

// A single token: the recurrence itself, two passes over the state.
static void recurrent_row(Work& w) {
  const int kp = w.kp, panels = w.vp / NR;
  for (int d = 0; d < kp; d += VL) store(w.total + d, vexp(load(w.g + d)));
  for (int p = 0; p < panels; ++p) {
    float* s = w.s + long(p) * kp * NR;
    float* x = w.x + long(p) * C * NR;
    vf recalled[NV] = {}, read[NV] = {};
    for (int d = 0; d < kp; ++d)
      for (int v = 0; v < NV; ++v) {
        vf kept = load(s + d * NR + v * VL) * w.total[d];
        store(s + d * NR + v * VL, kept);
        recalled[v] += kept * w.k[d];
      }
    for (int v = 0; v < NV; ++v) recalled[v] = (load(x + v * VL) - recalled[v]) * w.beta[0];
    for (int d = 0; d < kp; ++d)
      for (int v = 0; v < NV; ++v) {
        vf now = load(s + d * NR + v * VL) + recalled[v] * w.k[d];
        store(s + d * NR + v * VL, now);
        read[v] += now * w.q[d];
      }
    for (int v = 0; v < NV; ++v) store(w.o + long(p) * C * NR + v * VL, read[v]);
  }
}

// Copies rows of packed arrays; K and V may be anything.
struct Plain {
  const KdaCall& c;
  void read(Work& w, long at, int rows, int head) const {
    const long h = c.heads, k_dim = c.key_dim, v_dim = c.value_dim;
    for (int r = 0; r < rows; ++r) {
      const long key = ((at + r) * h + head) * k_dim, value = ((at + r) * h + head) * v_dim;
      std::memcpy(w.q + r * w.kp, c.q + key, sizeof(float) * k_dim);
      std::memcpy(w.k + r * w.kp, c.k + key, sizeof(float) * k_dim);
      std::memcpy(w.g + r * w.kp, c.g + key, sizeof(float) * k_dim);
      for (int p = 0; p * NR < v_dim; ++p)
        std::memcpy(w.x + (long(p) * C + r) * NR, c.v + value + p * NR,
                    sizeof(float) * std::min<long>(NR, v_dim - p * NR));
      w.beta[r] = c.beta[(at + r) * h + head];
    }
  }
  void write(const Work& w, long at, int rows, int head) const {
    const long h = c.heads, v_dim = c.value_dim;
    for (int r = 0; r < rows; ++r)
      for (int p = 0; p * NR < v_dim; ++p)
        std::memcpy(c.out + ((at + r) * h + head) * v_dim + p * NR, w.o + (long(p) * C + r) * NR,
                    sizeof(float) * std::min<long>(NR, v_dim - p * NR));
  }
};

// From the raw projections: convolution, norms and gates before, norm and gate after; K % 16 == 0.
struct Layer {
  const KdaLayer& c;

  void convolve(const float* const taps[4], long channel, const float* weights, vf* out) const {
    const long wide = 3 * c.heads * c.dim;
    vf x{};
    for (int j = 0; j < 4; ++j) x += load(taps[j] + channel) * load(weights + j * wide + channel);
    *out = vsilu(x);
  }

  void read(Work& w, long at, int rows, int head) const {
    const long dim = c.dim, wide = c.heads * dim, first = head * dim;
    const float scale = 1 / std::sqrt(float(dim)), decay = -c.decay[head];
    for (int r = 0; r < rows; ++r) {
      const float* taps[4];
      for (long j = 0; j < 4; ++j) {
        const long t = at + r - 3 + j;
        taps[j] = t >= 0 ? c.raw + t * c.raw_row : c.history + (t + 3) * 3 * wide;
      }
      float *q = w.q + r * w.kp, *k = w.k + r * w.kp, *g = w.g + r * w.kp;
      const float* gate = c.gate + (at + r) * wide + first;
      for (int d = 0; d < dim; d += VL) {
        vf x;
        convolve(taps, first + d, c.conv, &x);
        store(q + d, x);
        convolve(taps, wide + first + d, c.conv, &x);
        store(k + d, x);
        convolve(taps, 2 * wide + first + d, c.conv, &x);
        store(w.x + (long(d / NR) * C + r) * NR + d % NR, x);
        store(g + d, vsoftplus(load(gate + d)) * decay);
      }
      const float of_q = scale / std::sqrt(vdot(q, q, dim) + 1e-6f);
      const float of_k = 1 / std::sqrt(vdot(k, k, dim) + 1e-6f);
      for (int d = 0; d < dim; d += VL) {
        store(q + d, load(q + d) * of_q);
        store(k + d, load(k + d) * of_k);
      }
      w.beta[r] = 1 / (1 + std::exp(-c.raw[(at + r) * c.raw_row + c.beta_column + head]));
    }
  }

  void write(const Work& w, long at, int rows, int head) const {
    const long dim = c.dim;
    for (int r = 0; r < rows; ++r) {
      vf squares{};
      for (int d = 0; d < dim; d += VL) {
        vf o = load(w.o + (long(d / NR) * C + r) * NR + d % NR);
        squares += o * o;
      }
      const float norm = 1 / std::sqrt(sum(squares) / float(dim) + c.eps);
      const long row = ((at + r) * c.heads + head) * dim;
      for (int d = 0; d < dim; d += VL) {
        vf o = load(w.o + (long(d / NR) * C + r) * NR + d % NR) * norm;
        store(c.out + row + d, o * load(c.norm + d) * vsigmoid(load(c.out_gate + row + d)));
      }
    }
  }
};

static void clear_from(Work& w, int rows) {
  const int end = (rows + B - 1) / B * B, left = end - rows;
  for (float* each : {w.q, w.k, w.g}) std::memset(each + rows * w.kp, 0, sizeof(float) * left * w.kp);
  for (int p = 0; p < w.vp / NR; ++p)
    std::memset(w.x + (long(p) * C + rows) * NR, 0, sizeof(float) * left * NR);
  std::memset(w.beta + rows, 0, sizeof(float) * left);
}

struct Sizes {
  long heads;
  int key_dim, value_dim;
};

// One head of one sequence, tokens from `at` to `end`; states at the bounds on the way are copied.
template <class Rows>
static void run_head(const Rows& rows, const Sizes& n, const Span& span, long head) {
  Work w(n.key_dim, n.value_dim);
  // padding columns of q, k, g and padding panels of x stay zero
  for (float* each : {w.q, w.k, w.g}) std::memset(each, 0, sizeof(float) * C * w.kp);
  std::memset(w.x, 0, sizeof(float) * C * w.vp);
  const long size = long(n.key_dim) * n.value_dim;
  float* state = span.state + head * size;
  w.load_state(state, n.key_dim, n.value_dim);
  long at = span.start;
  for (long next = 0; at < span.end;) {
    while (next < span.bounds && span.bound[next] <= at) ++next;
    const long stop = next < span.bounds ? std::min<long>(span.end, span.bound[next]) : span.end;
    const int count = int(std::min<long>(C, stop - at));
    rows.read(w, at, count, int(head));
    if (count == 1) {
      recurrent_row(w);
    } else {
      clear_from(w, count);
      chunk(w, count);
    }
    rows.write(w, at, count, int(head));
    at += count;
    if (next < span.bounds && span.bound[next] == at)
      w.store_state(span.bound_states + (next * n.heads + head) * size, n.key_dim, n.value_dim);
  }
  w.store_state(state, n.key_dim, n.value_dim);
}

}  // namespace prefill

using namespace prefill;

namespace {

// Some 100 us of one thread: for less a second one costs more, woken and waiting, than it saves.
constexpr long PARALLEL_WORK = 1 << 19;

// Of so many heads' tokens; a head's state in and out and its scratch cleared are as much as B more.
int threads_for(long tokens, long heads, long size, long units, long threads) {
  return int((tokens + B) * heads * size < PARALLEL_WORK ? 1 : std::min(units, threads));
}

}  // namespace

extern "C" void prefill_kda_call(const KdaCall* c) {
  const long units = c->sequences * c->heads, size = c->key_dim * c->value_dim;
  const long tokens = c->starts[c->sequences] + B * (c->sequences - 1);
  const int threads = threads_for(tokens, c->heads, size, units, c->threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (long unit = 0; unit < units; ++unit) {
    FlushDenormals flush;
    const long n = unit / c->heads;
    const Span span{c->starts[n],         c->starts[n + 1], c->states + n * c->heads * size,
                    c->bound_count,       c->bounds,        c->bound_states};
    const Sizes sizes{c->heads, int(c->key_dim), int(c->value_dim)};
    run_head(Plain{*c}, sizes, span, unit % c->heads);
  }
}

extern "C" void prefill_kda_layer(const KdaLayer* c) {
  const int threads = threads_for(c->tokens, c->heads, c->dim * c->dim, c->heads, c->threads);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (long head = 0; head < c->heads; ++head) {
    FlushDenormals flush;
    const Span span{0, c->tokens, c->state, c->bound_count, c->bounds, c->bound_states};
    run_head(Layer{*c}, Sizes{c->heads, int(c->dim), int(c->dim)}, span, head);
  }
}
