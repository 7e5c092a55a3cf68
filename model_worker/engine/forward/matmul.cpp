// Products of bfloat16 rows with a bfloat16 matrix on a CPU, accumulated in float32.
//
// The matrix is read from memory once for all rows of a step: a weight is widened in a register and meets the rows that
// stand beside it there. The order of a row's sum is a function of its length alone: eight lanes over a chunk of it,
// the lanes in a tree, then the chunks in turn. Neither other rows nor threads change it, so nothing here may be
// compiled with leave to reorder sums. Built by native.py; the fields of `Product` are those of matmul_native.py, too.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#endif

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "pairs of weights are told apart by their place in a word");

extern "C" {

// y[rows, outputs] = x[rows, inputs] weight[outputs, inputs]^T + bias; strides in elements, last dimensions contiguous.
struct Product {
    const uint16_t* x;
    const uint16_t* weight;
    const uint16_t* bias;  // [outputs], or null
    uint16_t* y;           // contiguous
    int64_t rows, inputs, outputs;
    int64_t x_stride, weight_stride;
    int64_t num_threads;
};

}  // extern "C"

namespace {

typedef float Lanes __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));

constexpr int kStep = 16;       // weights that are read at once
constexpr int kRows = 4;        // rows beside one another in registers
constexpr int kPanel = 32;      // outputs of a thread's share, whose weights lie in the second cache where rows are many
constexpr int kChunk = 2048;    // most inputs that are summed in lanes
constexpr int64_t kBatch = 512; // rows that are widened at once
constexpr int64_t kShared = 1 << 17;  // multiplications from which on threads pay

inline float widened(uint16_t bits) {
    const uint32_t word = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

// To nearest, ties to even; what is NaN stays NaN.
inline uint16_t rounded(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
#if defined(__AVX2__) && defined(__FMA__)
    return Lanes(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
#elif defined(__FP_FAST_FMAF)
    Lanes d;
    for (int lane = 0; lane < 8; ++lane) d[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
    return d;
#else
    return a * b + c;
#endif
}

inline float sum_of(Lanes v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

// Writes a row as floats, of each 16 first those at even places, as a word holds a pair of weights; zeros at the end.
void widen(const uint16_t* from, int64_t count, float* to) {
    int64_t k = 0;
    for (; k + kStep <= count; k += kStep)
        for (int j = 0; j < 8; ++j) {
            to[k + j] = widened(from[k + 2 * j]);
            to[k + 8 + j] = widened(from[k + 2 * j + 1]);
        }
    if (k < count)
        for (int j = 0; j < kStep; ++j) to[k + j % 2 * 8 + j / 2] = k + j < count ? widened(from[k + j]) : 0.0f;
}

template <int R, int O>
inline void advance(const uint16_t* const* weights, const float* x, int64_t x_stride, int64_t k, Lanes (&sums)[R][O]) {
    Lanes even[O], odd[O];
    for (int o = 0; o < O; ++o) {
        Words pairs;
        std::memcpy(&pairs, weights[o] + k, sizeof pairs);
        even[o] = Lanes(pairs << 16);
        odd[o] = Lanes(pairs & 0xffff0000u);
    }
    for (int r = 0; r < R; ++r) {
        Lanes first, second;
        std::memcpy(&first, x + r * x_stride, sizeof first);
        std::memcpy(&second, x + r * x_stride + 8, sizeof second);
        for (int o = 0; o < O; ++o) {
            sums[r][o] = multiply_add(even[o], first, sums[r][o]);
            sums[r][o] = multiply_add(odd[o], second, sums[r][o]);
        }
    }
}

// Adds a chunk's part of R rows times O outputs to `totals` [R, kPanel].
template <int R, int O>
void add_tile(const uint16_t* weight, int64_t weight_stride, const float* x, int64_t x_stride, int64_t count,
              float* totals) {
    const uint16_t* weights[O];
    for (int o = 0; o < O; ++o) weights[o] = weight + o * weight_stride;
    Lanes sums[R][O] = {};
    int64_t k = 0;
    for (; k + kStep <= count; k += kStep) advance<R, O>(weights, x + k, x_stride, k, sums);
    if (k < count) {
        uint16_t rest[O][kStep] = {};
        const uint16_t* rests[O];
        for (int o = 0; o < O; ++o) {
            std::memcpy(rest[o], weights[o] + k, size_t(count - k) * sizeof(uint16_t));
            rests[o] = rest[o];
        }
        advance<R, O>(rests, x + k, x_stride, 0, sums);
    }
    for (int r = 0; r < R; ++r)
        for (int o = 0; o < O; ++o) totals[r * kPanel + o] += sum_of(sums[r][o]);
}

template <int R>
void add_outputs(const Product& p, const float* x, int64_t x_stride, int64_t begin, int64_t end, int64_t first,
                 int64_t count, float* totals) {
    constexpr int O = R == 1 ? 8 : R == 2 ? 4 : 2;
    int64_t o = begin;
    for (; o + O <= end; o += O)
        add_tile<R, O>(p.weight + o * p.weight_stride + first, p.weight_stride, x, x_stride, count, totals + o - begin);
    for (; o < end; ++o)
        add_tile<R, 1>(p.weight + o * p.weight_stride + first, p.weight_stride, x, x_stride, count, totals + o - begin);
}

// Outputs [begin, end), at most kPanel, of all rows; x as `widen` leaves it, `totals` has room for [rows, kPanel].
void multiply_panel(const Product& p, const float* x, int64_t x_stride, int64_t begin, int64_t end, float* totals) {
    std::fill(totals, totals + p.rows * kPanel, 0.0f);
    const int64_t chunks = (p.inputs + kChunk - 1) / kChunk;
    const int64_t size = (p.inputs + chunks * kStep - 1) / (chunks * kStep) * kStep;
    for (int64_t first = 0; first < p.inputs; first += size) {
        const int64_t count = std::min(size, p.inputs - first);
        for (int64_t row = 0; row < p.rows; row += kRows) {
            const float* rows = x + row * x_stride + first;
            float* to = totals + row * kPanel;
            switch (std::min<int64_t>(kRows, p.rows - row)) {
                case 1: add_outputs<1>(p, rows, x_stride, begin, end, first, count, to); break;
                case 2: add_outputs<2>(p, rows, x_stride, begin, end, first, count, to); break;
                case 3: add_outputs<3>(p, rows, x_stride, begin, end, first, count, to); break;
                default: add_outputs<4>(p, rows, x_stride, begin, end, first, count, to);
            }
        }
    }
    for (int64_t row = 0; row < p.rows; ++row)
        for (int64_t o = begin; o < end; ++o) {
            const float total = totals[row * kPanel + o - begin];
            p.y[row * p.outputs + o] = rounded(p.bias ? total + widened(p.bias[o]) : total);
        }
}

void multiply_batch(const Product& p) {
    const int64_t x_stride = (p.inputs + kStep - 1) / kStep * kStep;
    thread_local std::vector<float> widened_rows;
    if (widened_rows.size() < size_t(p.rows * x_stride)) widened_rows.resize(size_t(p.rows * x_stride));
    float* x = widened_rows.data();
    const bool share = p.num_threads > 1 && p.rows * p.inputs * p.outputs >= kShared;
#pragma omp parallel num_threads(int(p.num_threads)) if (share)
    {
        thread_local std::vector<float> totals;
        if (totals.size() < size_t(p.rows * kPanel)) totals.resize(size_t(p.rows * kPanel));
#pragma omp for schedule(static)
        for (int64_t row = 0; row < p.rows; ++row) widen(p.x + row * p.x_stride, p.inputs, x + row * x_stride);
#pragma omp for schedule(dynamic)
        for (int64_t begin = 0; begin < p.outputs; begin += kPanel)
            multiply_panel(p, x, x_stride, begin, std::min<int64_t>(begin + kPanel, p.outputs), totals.data());
    }
}

}  // namespace

extern "C" void multiply_bfloat16(const Product* product) {
    Product p = *product;
    for (int64_t left = p.rows; left > 0; left -= kBatch) {
        p.rows = std::min(left, kBatch);
        multiply_batch(p);
        p.x += p.rows * p.x_stride;
        p.y += p.rows * p.outputs;
    }
}
