// Row by row work between the matrix products: one pass over memory instead of several.
#include "simd.h"

using namespace prefill;

namespace {

constexpr long PARALLEL_FLOATS = 1 << 14;  // below this waking a second thread costs more

int threads_for(long rows, long width, long threads) {
  return int(rows * width < PARALLEL_FLOATS ? 1 : std::min(rows, threads));
}

}  // namespace

// out[t] = x[t] / rms(x[t]) * weight; rows of `x` are `x_row` apart, those of `out` `out_row`.
extern "C" void prefill_rms_norm(const float* x, int64_t x_row, const float* weight, float* out,
                                 int64_t out_row, int64_t rows, int64_t width, double eps,
                                 int64_t threads) {
#pragma omp parallel for num_threads(threads_for(rows, width, threads))
  for (long t = 0; t < rows; ++t) {
    const float* from = x + t * x_row;
    float* to = out + t * out_row;
    const long whole = width / VL * VL;
    vf squares{};
    for (long d = 0; d < whole; d += VL) squares += load(from + d) * load(from + d);
    float total = sum(squares);
    for (long d = whole; d < width; ++d) total += from[d] * from[d];
    const float norm = 1 / std::sqrt(total / float(width) + float(eps));
    for (long d = 0; d < whole; d += VL) store(to + d, load(from + d) * norm * load(weight + d));
    for (long d = whole; d < width; ++d) to[d] = from[d] * norm * weight[d];
  }
}

// out[t] = silu(x[t, :width]) * x[t, width:]
extern "C" void prefill_swiglu(const float* x, float* out, int64_t rows, int64_t width,
                               int64_t threads) {
#pragma omp parallel for num_threads(threads_for(rows, width, threads))
  for (long t = 0; t < rows; ++t) {
    const float *gate = x + t * 2 * width, *up = gate + width;
    float* to = out + t * width;
    long d = 0;
    for (; d + VL <= width; d += VL) store(to + d, vsilu(load(gate + d)) * load(up + d));
    for (; d < width; ++d) to[d] = gate[d] / (1 + std::exp(-gate[d])) * up[d];
  }
}
