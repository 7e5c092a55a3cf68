// Attention of single tokens over a paged KV cache on a CPU, with the cache write before it.
//
// Each token is a query of its own: it sees the keys of its session up to its own position, page by page, with the
// online softmax of arXiv 1805.02867 over blocks of keys. The order of all sums depends on the token's own session
// alone, never on its neighbours in the batch. Built by native.py; the fields of `Step` and `Layer` are its fields, too.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kBlock = 64;  // keys whose scores are known before any value is read

struct bfloat16 {
    uint16_t bits;
};

inline float load(float x) { return x; }
inline double load(double x) { return x; }
inline float load(bfloat16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline void store(float& to, float x) { to = x; }
inline void store(double& to, double x) { to = x; }
inline void store(bfloat16& to, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    // To nearest, ties to even; what is NaN stays NaN.
    to.bits = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <class T> struct Sum { using type = float; };
template <> struct Sum<double> { using type = double; };

// e^x for x <= 0 within 2 ulp, in a form that vectorizes: 2^n e^r with |r| <= log(2) / 2, e^r by Cephes' polynomial.
inline float exponential(float x) {
    float y = x < -87.0f ? -87.0f : x;  // NaN stays NaN
    float n = std::floor(y * 1.44269504088896341f + 0.5f);
    float r = y - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = (int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return x < -87.0f ? 0.0f : p * power;
}
inline double exponential(double x) { return std::exp(x); }

}  // namespace

extern "C" {

// What is the same for all layers of a step. All arrays are contiguous.
struct Step {
    int64_t num_tokens;         // in the batch; all are written to the cache
    const int64_t* slots;       // [num_tokens], where their keys and values go
    int64_t num_queries;        // tokens that attend here; the others attend elsewhere
    const int64_t* tokens;      // [num_queries], their places in the batch
    const int64_t* page_table;  // [num_queries], the row of `pages` of each one's session
    const int64_t* firsts;      // [num_queries], the first key that each sees in this layer
    const int64_t* lengths;     // [num_queries], the end of the keys that each sees
    const int64_t* pages;       // [sessions, width]
    int64_t width;
    int64_t page_size;
    int64_t num_threads;
};

// What is the same for all steps of a layer.
struct Layer {
    void* keys;    // [slots, num_kv_heads, key_dim]
    void* values;  // [slots, num_kv_heads, value_dim]
    int64_t num_heads, num_kv_heads, key_dim, value_dim;
    double scale;
    double softcap;     // 0: scores are not capped
    const void* sinks;  // [num_heads], scores of keys without a value; null: there are none
};

// A tensor [heads, tokens, dim] whose last dimension is in one piece; strides in elements.
struct View {
    const void* data;
    int64_t head_stride, token_stride;
};

}  // extern "C"

namespace {

template <class T>
void write(const Step& step, void* cache, const View& view, int64_t num_heads, int64_t dim) {
    for (int64_t token = 0; token < step.num_tokens; ++token) {
        T* to = static_cast<T*>(cache) + step.slots[token] * num_heads * dim;
        const T* from = static_cast<const T*>(view.data) + token * view.token_stride;
        for (int64_t head = 0; head < num_heads; ++head)
            std::memcpy(to + head * dim, from + head * view.head_stride, dim * sizeof(T));
    }
}

template <class T, class A, int kDim>
void scores_of(const A* query, const T* const* keys, int count, int64_t any_dim, A scale, A* scores) {
    const int64_t dim = kDim ? kDim : any_dim;
    int j = 0;
    for (; j + 4 <= count; j += 4) {
        const T *k0 = keys[j], *k1 = keys[j + 1], *k2 = keys[j + 2], *k3 = keys[j + 3];
        A s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (int64_t d = 0; d < dim; ++d) {
            s0 += query[d] * load(k0[d]);
            s1 += query[d] * load(k1[d]);
            s2 += query[d] * load(k2[d]);
            s3 += query[d] * load(k3[d]);
        }
        scores[j] = s0 * scale, scores[j + 1] = s1 * scale, scores[j + 2] = s2 * scale, scores[j + 3] = s3 * scale;
    }
    for (; j < count; ++j) {
        const T* k = keys[j];
        A s = 0;
        for (int64_t d = 0; d < dim; ++d) s += query[d] * load(k[d]);
        scores[j] = s * scale;
    }
}

template <class T, class A, int kDim>
void add_values(const A* weights, const T* const* values, int count, int64_t any_dim, A* sum) {
    const int64_t dim = kDim ? kDim : any_dim;
    int j = 0;
    for (; j + 4 <= count; j += 4) {
        const T *v0 = values[j], *v1 = values[j + 1], *v2 = values[j + 2], *v3 = values[j + 3];
        const A w0 = weights[j], w1 = weights[j + 1], w2 = weights[j + 2], w3 = weights[j + 3];
#pragma GCC ivdep
        for (int64_t d = 0; d < dim; ++d)
            sum[d] += (w0 * load(v0[d]) + w1 * load(v1[d])) + (w2 * load(v2[d]) + w3 * load(v3[d]));
    }
    for (; j < count; ++j) {
        const T* v = values[j];
        const A w = weights[j];
#pragma GCC ivdep
        for (int64_t d = 0; d < dim; ++d) sum[d] += w * load(v[d]);
    }
}

// One query and its key heads [first, last), each with the query heads that share it.
template <class T, class A, int kDim>
void attend(const Step& step, const Layer& layer, const View& query, T* out, int64_t index, int64_t first, int64_t last,
            A* room) {
    const int64_t group = layer.num_heads / layer.num_kv_heads, kd = layer.key_dim, vd = layer.value_dim;
    const int64_t token = step.tokens[index], heads = (last - first) * group;
    const int64_t start = step.firsts[index], length = step.lengths[index];
    const T* sinks = static_cast<const T*>(layer.sinks);
    const int64_t* pages = step.pages + step.page_table[index] * step.width;
    A *queries = room, *sums = queries + heads * kd, *largest = sums + heads * vd, *total = largest + heads;
    for (int64_t h = 0; h < heads; ++h) {
        const T* from = static_cast<const T*>(query.data) + (first * group + h) * query.head_stride +
                        token * query.token_stride;
        for (int64_t d = 0; d < kd; ++d) queries[h * kd + d] = load(from[d]);
        std::fill(sums + h * vd, sums + (h + 1) * vd, A(0));
        largest[h] = sinks ? A(load(sinks[first * group + h])) : -INFINITY, total[h] = sinks ? 1 : 0;
    }
    const T *keys[kBlock], *values[kBlock], *head_keys[kBlock], *head_values[kBlock];
    A scores[kBlock];
    int64_t page = start / step.page_size, in_page = start % step.page_size;
    for (int64_t begin = start; begin < length; begin += kBlock) {
        const bool goes_on = begin > start || sinks;
        const int count = int(std::min<int64_t>(kBlock, length - begin));
        for (int j = 0; j < count; ++j) {
            const int64_t slot = pages[page] * step.page_size + in_page;
            keys[j] = static_cast<const T*>(layer.keys) + slot * layer.num_kv_heads * kd;
            values[j] = static_cast<const T*>(layer.values) + slot * layer.num_kv_heads * vd;
            if (++in_page == step.page_size) ++page, in_page = 0;
        }
        for (int64_t h = 0; h < heads; ++h) {
            if (h % group == 0)
                for (int j = 0; j < count; ++j) {
                    head_keys[j] = keys[j] + (first + h / group) * kd;
                    head_values[j] = values[j] + (first + h / group) * vd;
                }
            scores_of<T, A, kDim>(queries + h * kd, head_keys, count, kd, A(layer.scale), scores);
            if (layer.softcap != 0)
                for (int j = 0; j < count; ++j)
                    scores[j] = A(layer.softcap) * std::tanh(scores[j] / A(layer.softcap));
            A grown = largest[h];
            for (int j = 0; j < count; ++j) grown = scores[j] > grown ? scores[j] : grown;
            const A keep = goes_on ? exponential(largest[h] - grown) : A(0);
            A added = 0;
            for (int j = 0; j < count; ++j) {
                scores[j] = exponential(scores[j] - grown);
                added += scores[j];
            }
            A* sum = sums + h * vd;
            if (goes_on && keep != 1)
                for (int64_t d = 0; d < vd; ++d) sum[d] *= keep;
            total[h] = total[h] * keep + added;
            largest[h] = grown;
            add_values<T, A, kDim>(scores, head_values, count, vd, sum);
        }
    }
    for (int64_t h = 0; h < heads; ++h) {
        T* to = out + (token * layer.num_heads + first * group + h) * vd;
        const A scale = 1 / total[h];
        for (int64_t d = 0; d < vd; ++d) store(to[d], sums[h * vd + d] * scale);
    }
}

template <class T, int kDim>
void attend_all(const Step& step, const Layer& layer, const View& query, T* out) {
    using A = typename Sum<T>::type;
    // With few queries the threads share a query's heads; else each reads keys of all heads as they lie in memory.
    const bool split = step.num_queries < 4 * step.num_threads && step.num_threads > 1;
    const int64_t parts = split ? layer.num_kv_heads : 1, heads = layer.num_kv_heads / parts;
    const int64_t tasks = step.num_queries * parts;
    const size_t size = size_t(layer.num_heads / parts * (layer.key_dim + layer.value_dim + 2));
#pragma omp parallel num_threads(int(step.num_threads)) if (step.num_threads > 1 && tasks > 1)
    {
        std::vector<A> room(size);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < tasks; ++task) {
            const int64_t first = task % parts * heads;
            attend<T, A, kDim>(step, layer, query, out, task / parts, first, first + heads, room.data());
        }
    }
}

template <class T>
void run(const Step& step, const Layer& layer, const View& query, const View& key, const View& value, void* out) {
    write<T>(step, layer.keys, key, layer.num_kv_heads, layer.key_dim);
    write<T>(step, layer.values, value, layer.num_kv_heads, layer.value_dim);
    if (!step.num_queries) return;
    T* to = static_cast<T*>(out);
    const bool same = layer.key_dim == layer.value_dim;
    if (same && layer.key_dim == 64) attend_all<T, 64>(step, layer, query, to);
    else if (same && layer.key_dim == 128) attend_all<T, 128>(step, layer, query, to);
    else attend_all<T, 0>(step, layer, query, to);
}

}  // namespace

extern "C" {

// out: [num_tokens, num_heads, value_dim]; only the rows of `step.tokens` are written.
void attend_float32(const Step* s, const Layer* l, const View* q, const View* k, const View* v, void* out) {
    run<float>(*s, *l, *q, *k, *v, out);
}
void attend_float64(const Step* s, const Layer* l, const View* q, const View* k, const View* v, void* out) {
    run<double>(*s, *l, *q, *k, *v, out);
}
void attend_bfloat16(const Step* s, const Layer* l, const View* q, const View* k, const View* v, void* out) {
    run<bfloat16>(*s, *l, *q, *k, *v, out);
}

}  // extern "C"
