// Matrix products by a weight that lies in panels since it was loaded.
//
// A library packs the weight anew in every call and waits for memory where the result lies; here
// panels [N / 16][K][16] are read as they are, a block of rows is packed once for all panels, and
// a tile's place in the result is fetched while it is computed. Rows may be taken from and put to
// any places, so that experts need no copies of their rows.
#include "simd.h"

using namespace prefill;

namespace {

// A tile of GR rows and one panel fills the registers of its vector width.
#if defined(PREFILL_WIDE_VECTORS) || defined(__AVX512F__)
constexpr int GR = 12;
#elif defined(__AVX__) || defined(__aarch64__)
constexpr int GR = 6;
#else
constexpr int GR = 2;
#endif
constexpr long KC = 512;       // a panel of so many rows of the weight stays in the first cache
constexpr long MC = 16 * 12;   // so many packed rows in the second
constexpr long FEW = 2 * GR;   // rows a thread; with fewer the threads share out the panels
constexpr long PARALLEL_WORK = 1 << 20;  // some 50 us of one thread: for less, waking another costs more

}  // namespace

struct ProductCall {
  const float* x;           // [.., K], rows x_row apart
  const float* factor;      // panels [N16 / 16][K][16], zero beyond N
  const float* bias;        // [N] or null
  const float* scale;       // [T], one for each row, or null
  const int64_t* from;      // [T], the rows of x to take, or null: the first T
  const int64_t* to;        // [T], the rows of out to put to, or null
  float* out;               // [.., N], rows out_row apart
  int64_t x_row, out_row, rows, inner, columns, add, threads;
};

namespace {

struct Tile {
  float* at[GR];
  float scale[GR];
  const float* bias;
  int rows, columns;
  bool set;  // the first part of the sum, and nothing to add to
};

void put(const Tile& tile, const float* sums) {
  for (int m = 0; m < tile.rows; ++m, sums += NR) {
    float* to = tile.at[m];
    if (tile.columns == NR) {
      for (int v = 0; v < NR; v += VL) {
        vf sum = load(sums + v) * tile.scale[m];
        if (tile.bias) sum += load(tile.bias + v);
        store(to + v, tile.set ? sum : load(to + v) + sum);
      }
      continue;
    }
    for (int j = 0; j < tile.columns; ++j) {
      const float sum = sums[j] * tile.scale[m] + (tile.bias ? tile.bias[j] : 0);
      to[j] = tile.set ? sum : to[j] + sum;
    }
  }
}

// a [k][GR], b [k][16]. The sums go by way of memory only at the end: an accumulator whose address
// is taken would live there.
void multiply_tile(const float* a, const float* b, long k, const Tile& tile) {
  vf acc[GR][NV] = {};
  for (int m = 0; m < tile.rows; ++m) __builtin_prefetch(tile.at[m], 1);
#pragma GCC unroll 4
  for (long i = 0; i < k; ++i, a += GR, b += NR) {
    vf right[NV];
    for (int v = 0; v < NV; ++v) {
      vf x = load(b + v * VL);
      keep(x);
      right[v] = x;
    }
    for (int m = 0; m < GR; ++m) {
      const vf left = splat(a[m]);
      for (int v = 0; v < NV; ++v) acc[m][v] += left * right[v];
    }
  }
  float sums[GR * NR];
  for (int m = 0; m < GR; ++m)
    for (int v = 0; v < NV; ++v) store(sums + m * NR + v * VL, acc[m][v]);
  put(tile, sums);
}

// One row against one panel: four sums at a time hide the latency of each.
void multiply_row(const float* x, const float* b, long k, const Tile& tile) {
  vf part[4][NV] = {};
  long i = 0;
  for (; i + 4 <= k; i += 4)
    for (int u = 0; u < 4; ++u)
      for (int v = 0; v < NV; ++v) part[u][v] += x[i + u] * load(b + (i + u) * NR + v * VL);
  for (; i < k; ++i)
    for (int v = 0; v < NV; ++v) part[0][v] += x[i] * load(b + i * NR + v * VL);
  float sums[NR];
  for (int v = 0; v < NV; ++v)
    store(sums + v * VL, part[0][v] + part[1][v] + (part[2][v] + part[3][v]));
  put(tile, sums);
}

struct Block {  // rows and panels of one thread's piece of work
  long row, rows, panel, panels;
};

const float* row_of(const ProductCall& c, long row) {
  return c.x + (c.from ? c.from[row] : row) * c.x_row;
}

void pack_rows(const ProductCall& c, const Block& block, long k, long kc, float* to) {
  for (long r = 0; r < block.rows; r += GR, to += GR * kc)
    for (int m = 0; m < GR; ++m) {
      const float* from = r + m < block.rows ? row_of(c, block.row + r + m) + k : nullptr;
      for (long i = 0; i < kc; ++i) to[i * GR + m] = from ? from[i] : 0;
    }
}

Tile tile_of(const ProductCall& c, const Block& block, long r, long panel, long k) {
  Tile tile;
  tile.rows = int(std::min<long>(GR, block.rows - r));
  tile.columns = int(std::min<long>(NR, c.columns - panel * NR));
  for (int m = 0; m < tile.rows; ++m) {
    const long row = block.row + r + m;
    tile.at[m] = c.out + (c.to ? c.to[row] : row) * c.out_row + panel * NR;
    tile.scale[m] = c.scale ? c.scale[row] : 1;
  }
  tile.bias = c.bias && k == 0 ? c.bias + panel * NR : nullptr;
  tile.set = k == 0 && !c.add;
  return tile;
}

void multiply_block(const ProductCall& c, const Block& block) {
  const long parts = (c.inner + KC - 1) / KC, each = (c.inner + parts - 1) / parts;
  float* packed = scratch(size_t((block.rows + GR - 1) / GR * GR) * each);
  for (long k = 0; k < c.inner; k += each) {
    const long kc = std::min(each, c.inner - k);
    pack_rows(c, block, k, kc, packed);
    for (long p = block.panel; p < block.panel + block.panels; ++p) {
      const float* b = c.factor + (p * c.inner + k) * NR;
      for (long r = 0; r < block.rows; r += GR)
        multiply_tile(packed + r * kc, b, kc, tile_of(c, block, r, p, k));
    }
  }
}

void multiply_one(const ProductCall& c, const Block& block) {
  for (long p = block.panel; p < block.panel + block.panels; ++p)
    multiply_row(row_of(c, 0), c.factor + p * c.inner * NR, c.inner, tile_of(c, block, 0, p, 0));
}

}  // namespace

extern "C" void prefill_product(const ProductCall* c) {
  if (c->rows < 1 || c->columns < 1) return;
  const long panels = (c->columns + NR - 1) / NR;
  const long threads = std::max<long>(1, c->threads);
  const bool few = c->rows < FEW * threads;
  // equal pieces of whole tiles: threads end together
  const long turns = few ? 1 : (c->rows + threads * MC - 1) / (threads * MC) * threads;
  const long rows = ((c->rows + turns - 1) / turns + GR - 1) / GR * GR;
  const long row_blocks = (c->rows + rows - 1) / rows;
  const bool little = c->rows * c->columns * c->inner < PARALLEL_WORK;
  const long columns = few && !little ? std::min(threads, panels) : 1;
  const long width = (panels + columns - 1) / columns;
#pragma omp parallel for schedule(static) num_threads(int(little ? 1 : threads))
  for (long unit = 0; unit < row_blocks * columns; ++unit) {
    FlushDenormals flush;
    const long row = unit / columns * rows, panel = unit % columns * width;
    const Block block{row, std::min(rows, c->rows - row), panel, std::min(width, panels - panel)};
    if (c->rows == 1)
      multiply_one(*c, block);
    else
      multiply_block(*c, block);
  }
}
