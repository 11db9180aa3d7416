// One decoding step of a model of Llama's shape on a processor: all layers, for every row by itself.
//
// A step of a small model is a chain of products too small for a general library. Here each thread takes some of the rows from
// their tokens to their logits without waiting for anyone. A product reads its weights panel by panel: some columns of the matrix,
// contiguous in memory, that stay in the nearest cache while all of the thread's rows are multiplied by them.
// What is added up for one row, and in which order, depends on that row alone.

#include "products.h"

namespace {

// x / hypot(|x|, floor), for each of some rows.
void normalise(const float* x, int64_t rows, int64_t width, float floor, float* out) {
    for (int64_t r = 0; r < rows; ++r, x += width, out += width) {
        const float scale = 1.0f / std::sqrt(dot(x, x, width) + floor * floor);
        for (int64_t i = 0; i < width; ++i) out[i] = x[i] * scale;
    }
}

// A head's pairs times complex factors.
void turn(float* head, const float* factor, int64_t size) {
    for (int64_t i = 0; i < size; i += 2) {
        const float a = head[i], b = head[i + 1], c = factor[i], s = factor[i + 1];
        head[i] = a * c - b * s, head[i + 1] = a * s + b * c;
    }
}

// silu(gate) * up, over `gate`.
void gate(float* gate, const float* up, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const Vec x = at(gate + i);
        at(gate + i) = x / opposed(x) * at(up + i);
    }
    for (; i < n; ++i) gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

// What a query `(size,)` reads from keys and values `(length, size)`; `weight` `(length + LANES,)` is room to work in.
void attend(const float* query, const float* keys, const float* values, int64_t length, int64_t size, float* weight, float* out) {
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t t = 0; t < length; ++t) {
        for (int64_t i = 0; i < size; i += LINE) __builtin_prefetch(values + t * size + i);
        weight[t] = dot(query, keys + t * size, size);
        largest = std::max(largest, weight[t]);
    }
    for (int64_t t = length; t % LANES; ++t) weight[t] = -std::numeric_limits<float>::infinity();
    Vec sums = {};  // at least 1, beside which the least power that fills up the last lanes is nothing
    for (int64_t t = 0; t < length; t += LANES) {
        const Vec w = exponential(at(weight + t) - largest);
        at(weight + t) = w;
        sums += w;
    }
    const float scale = 1.0f / total(sums);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        Vec sum = {};
        for (int64_t t = 0; t < length; ++t) sum += weight[t] * at(values + t * size + i);
        at(out + i) = sum * scale;
    }
    for (; i < size; ++i) {
        float sum = 0;
        for (int64_t t = 0; t < length; ++t) sum += weight[t] * values[t * size + i];
        out[i] = sum * scale;
    }
}

}  // namespace

extern "C" {

struct Layer {  // matrices in panels; a bias is padded to them, or null
    const float *qkv, *qkv_bias, *norms, *out, *out_bias, *gate_up, *down;
};

struct Model {
    int64_t layers, width, heads, kv, size, inner, words_known, vocabulary;
    float floor, head_floor;
    const Layer* layer;
    const float *words, *turns, *head;  // (words_known, width), (positions, size), panels
};

int64_t panel() { return PANEL; }

// Append `token` `(rows,)` to rows whose first columns are `start` `(rows,)`, in `column` of the cache `(layers, 2, room, kv,
// columns, size)`; the logits after them go to `logits` `(rows, vocabulary)`. Returns which row has a token that the model does
// not know, or -1.
int64_t step(const Model* model, const int64_t* token, const int64_t* start, int64_t rows, float* cache, int64_t room, int64_t columns,
          int64_t column, float* logits, int threads) {
    const Model m = *model;
    for (int64_t r = 0; r < rows; ++r)
        if (token[r] < 0 || token[r] >= m.words_known) return r;
    const int64_t turning = m.heads + m.kv, by_head = turning + m.kv, asked = m.heads * m.size;
#pragma omp parallel num_threads(int(std::min<int64_t>(threads, rows)))
    {
        int64_t thread = 0, of = 1;
#ifdef _OPENMP
        thread = omp_get_thread_num(), of = omp_get_num_threads();
#endif
        const int64_t first = rows * thread / of, n = rows * (thread + 1) / of - first;
        thread_local std::vector<float> memory;
        const int64_t sizes[] = {n * m.width, n * m.width, n * by_head * m.size, n * asked, n * 2 * m.inner, columns + LANES};
        int64_t needed = 0;
        for (int64_t size : sizes) needed += size;
        if (int64_t(memory.size()) < needed) memory.resize(needed);
        float* parts[6];
        float* next = memory.data();
        for (int i = 0; i < 6; next += sizes[i++]) parts[i] = next;
        float *x = parts[0], *normed = parts[1], *qkv = parts[2], *attended = parts[3], *gate_up = parts[4], *weight = parts[5];
        for (int64_t r = 0; r < n; ++r)
            std::memcpy(x + r * m.width, m.words + token[first + r] * m.width, sizeof(float) * m.width);
        for (int64_t l = 0; l < m.layers; ++l) {
            const Layer layer = m.layer[l];
            normalise(x, n, m.width, m.floor, normed);
            product({normed, n, m.width, 1}, {layer.qkv, m.width, by_head * m.size}, m.width, qkv, by_head * m.size, layer.qkv_bias);
            for (int64_t r = 0; r < n; ++r) {
                float* query = qkv + r * by_head * m.size;
                if (layer.norms) {
                    normalise(query, turning, m.size, m.head_floor, query);
                    for (int64_t i = 0; i < turning * m.size; ++i) query[i] *= layer.norms[i];
                }
                const int64_t from = start[first + r], length = column - from + 1;
                for (int64_t h = 0; h < turning; ++h) turn(query + h * m.size, m.turns + (length - 1) * m.size, m.size);
                for (int64_t h = 0; h < m.kv; ++h) {
                    float* keys = cache + (((2 * l) * room + first + r) * m.kv + h) * columns * m.size;
                    float* values = keys + room * m.kv * columns * m.size;
                    std::memcpy(keys + column * m.size, query + (m.heads + h) * m.size, sizeof(float) * m.size);
                    std::memcpy(values + column * m.size, query + (turning + h) * m.size, sizeof(float) * m.size);
                    for (int64_t q = h * (m.heads / m.kv); q < (h + 1) * (m.heads / m.kv); ++q)
                        attend(query + q * m.size, keys + from * m.size, values + from * m.size, length, m.size, weight,
                               attended + (r * m.heads + q) * m.size);
                }
            }
            product({attended, n, asked, 1}, {layer.out, asked, m.width}, asked, x, m.width, layer.out_bias, true);
            normalise(x, n, m.width, m.floor, normed);
            product({normed, n, m.width, 1}, {layer.gate_up, m.width, 2 * m.inner}, m.width, gate_up, 2 * m.inner);
            float* opened = gate_up;  // rows move together, since the product after them reads gates alone
            for (int64_t r = 0; r < n; ++r, opened += m.inner) {
                float* both = gate_up + r * 2 * m.inner;
                gate(both, both + m.inner, m.inner);
                std::memmove(opened, both, sizeof(float) * m.inner);
            }
            product({gate_up, n, m.inner, 1}, {layer.down, m.inner, m.width}, m.inner, x, m.width, nullptr, true);
        }
        normalise(x, n, m.width, m.floor, normed);
        product({normed, n, m.width, 1}, {m.head, m.width, m.vocabulary}, m.width, logits + first * m.vocabulary, m.vocabulary);
    }
    return -1;
}

}  // extern "C"
