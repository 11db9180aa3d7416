// Causal attention within sequences that are laid end to end, and its gradients.
//
// Sequences that have a beginning in common form a family: each sees rows that another one laid down. A head of keys in a family is
// a task of one thread, so that nobody else adds to the same gradients, and sums do not depend on how many threads there are.
// Scores are products of a block of queries with the keys before them, computed again in the backward pass.

#include "products.h"

extern "C" {

struct Layout {
    const int64_t *start, *shared;  // (S + 1,) of each sequence among all tokens; (S,) of its tokens, how many another laid down
    const int64_t* place;           // (N,) the row of each token, or null where it is the token's number
    const int64_t* family;          // (families + 1,) the first sequence of each
    int64_t families;
};

struct Heads {
    int64_t queries, kv, size;
};

}  // extern "C"

namespace {

constexpr int64_t BLOCK = 48;  // queries that are looked at together

constexpr int64_t AHEAD = 8;   // rows, of which a task reads pieces that lie far apart, are asked for before they are read

int64_t filled(int64_t n) { return (n + PANEL - 1) / PANEL * PANEL; }

struct Room {  // memory of a thread, handed out piece by piece
    std::vector<float> memory;
    size_t used = 0;

    void begin(int64_t floats) {
        if (memory.size() < size_t(floats)) memory.resize(floats);
        used = 0;
    }
    float* take(int64_t floats) {
        float* piece = memory.data() + used;
        used += floats;
        return piece;
    }
};

// A matrix of which `row_of(i)` gives each row of `wide` numbers, in panels.
template <class RowOf>
Panels in_panels(RowOf row_of, int64_t rows, int64_t wide, float* room) {
    for (int64_t c = 0; c < wide; c += PANEL)
        for (int64_t i = 0; i < rows; ++i) {
            if (i + AHEAD < rows) __builtin_prefetch(row_of(i + AHEAD) + c);
            float* to = room + c * rows + i * PANEL;
            const int64_t some = std::min<int64_t>(PANEL, wide - c);
            copy(row_of(i) + c, some, to);
            for (int64_t j = some; j < PANEL; ++j) to[j] = 0;
        }
    return {room, rows, wide};
}

// Its transpose, `(wide, rows)`, in panels.
template <class RowOf>
Panels turned_in_panels(RowOf row_of, int64_t rows, int64_t wide, float* room) {
    for (int64_t c = 0; c < filled(rows); ++c) {
        if (c + AHEAD < rows)
            for (int64_t d = 0; d < wide; d += LINE) __builtin_prefetch(row_of(c + AHEAD) + d);
        float* to = room + c / PANEL * PANEL * wide + c % PANEL;
        const float* from = c < rows ? row_of(c) : nullptr;
        for (int64_t d = 0; d < wide; ++d) to[d * PANEL] = from ? from[d] : 0.0f;
    }
    return {room, wide, rows};
}

// Over scores `(n, stride)`: the weights with which query i reads the first `from + i + 1` of `seen` keys.
void weigh(float* scores, int64_t n, int64_t from, int64_t seen, int64_t stride) {
    for (int64_t i = 0; i < n; ++i) {
        float* row = scores + i * stride;
        const int64_t length = from + i + 1;
        Vec sums = {}, top = Vec{} + row[0];
        int64_t t = 0;
        for (; t + LANES <= length; t += LANES) top = at(row + t) > top ? at(row + t) : top;
        float largest = row[0];
        for (int j = 0; j < LANES; ++j) largest = std::max(largest, top[j]);
        for (; t < length; ++t) largest = std::max(largest, row[t]);
        t = 0;
        for (; t + LANES <= length; t += LANES) sums += at(row + t) = exponential(at(row + t) - largest);
        if (t < length) {
            Vec last = exponential(at(row + t) - largest);
            for (int64_t j = length - t; j < LANES; ++j) last[j] = 0;
            sums += at(row + t) = last;
            t += LANES;
        }
        const float scale = 1.0f / total(sums);
        for (int64_t j = 0; j < t; j += LANES) at(row + j) *= scale;
        for (; t < seen; ++t) row[t] = 0;
    }
}

// What a task looks at: sequences of a family through one head of keys.
struct Sequence {
    const Layout& layout;
    const Heads& heads;
    int64_t number, head, length, first;

    Sequence(const Layout& l, const Heads& h, int64_t s, int64_t g)
        : layout(l), heads(h), number(s), head(g), length(l.start[s + 1] - l.start[s]), first(l.shared[s]) {}

    int64_t row(int64_t t) const {
        const int64_t token = layout.start[number] + t;
        return layout.place ? layout.place[token] : token;
    }
    int64_t group() const { return heads.queries / heads.kv; }
    int64_t first_query() const { return head * group(); }
    int64_t wide() const { return (heads.queries + 2 * heads.kv) * heads.size; }
    int64_t key() const { return (heads.queries + head) * heads.size; }
    int64_t value() const { return (heads.queries + heads.kv + head) * heads.size; }
};

template <class Work>
void each_task(const Layout& layout, const Heads& heads, int threads, Work work) {
    const int64_t tasks = layout.families * heads.kv;
    const int team = std::max<int64_t>(1, std::min<int64_t>(threads, tasks));
#pragma omp parallel for schedule(dynamic) num_threads(team)
    for (int64_t task = 0; task < tasks; ++task) {
        thread_local Room room;
        for (int64_t s = layout.family[task / heads.kv]; s < layout.family[task / heads.kv + 1]; ++s)
            work(Sequence(layout, heads, s, task % heads.kv), room);
    }
}

}  // namespace

extern "C" {

// What rows `(M, queries + 2 kv, size)` of queries, keys and values attend to, `out` `(M, queries, size)`.
void attend(const Heads* heads, const Layout* layout, const float* rows, float* out, int threads) {
    each_task(*layout, *heads, threads, [=](const Sequence& s, Room& room) {
        const int64_t size = heads->size, length = s.length, wide = s.wide(), stride = filled(length), padded = filled(size);
        const auto key = [&](int64_t t) { return rows + s.row(t) * wide + s.key(); };
        const auto value = [&](int64_t t) { return rows + s.row(t) * wide + s.value(); };
        room.begin(stride * size + length * padded + BLOCK * stride);
        const Panels keys = turned_in_panels(key, length, size, room.take(stride * size));
        const Panels values = in_panels(value, length, size, room.take(length * padded));
        float* scores = room.take(BLOCK * stride);
        for (int64_t from = s.first; from < length; from += BLOCK) {
            const int64_t n = std::min(BLOCK, length - from), seen = from + n, row = s.row(from);
            for (int64_t head = s.first_query(); head < s.first_query() + s.group(); ++head) {
                product({rows + row * wide + head * size, n, wide, 1}, {keys.at, size, seen}, size, scores, stride);
                weigh(scores, n, from, seen, stride);
                float* to = out + (row * heads->queries + head) * size;
                product({scores, n, stride, 1}, values, seen, to, heads->queries * size);
            }
        }
    });
}

// The gradients of `rows`, which begin as zeros, given those of `out`, `slope` `(M, queries, size)`.
void attend_backward(const Heads* heads, const Layout* layout, const float* rows, const float* slope, float* gradient,
                     int threads) {
    each_task(*layout, *heads, threads, [=](const Sequence& s, Room& room) {
        const int64_t size = heads->size, length = s.length, wide = s.wide(), stride = filled(length), padded = filled(size);
        const int64_t out_wide = heads->queries * size;
        const auto key = [&](int64_t t) { return rows + s.row(t) * wide + s.key(); };
        const auto value = [&](int64_t t) { return rows + s.row(t) * wide + s.value(); };
        room.begin(2 * stride * size + length * padded + 2 * BLOCK * padded + 2 * BLOCK * stride + 2 * length * size);
        const Panels keys_turned = turned_in_panels(key, length, size, room.take(stride * size));
        const Panels values_turned = turned_in_panels(value, length, size, room.take(stride * size));
        const Panels keys = in_panels(key, length, size, room.take(length * padded));
        float *query_room = room.take(BLOCK * padded), *slope_room = room.take(BLOCK * padded);
        float *weights = room.take(BLOCK * stride), *slopes = room.take(BLOCK * stride);
        float *of_keys = room.take(length * size), *of_values = room.take(length * size);
        std::fill(of_keys, of_keys + length * size, 0.0f), std::fill(of_values, of_values + length * size, 0.0f);
        for (int64_t from = s.first; from < length; from += BLOCK) {
            const int64_t n = std::min(BLOCK, length - from), seen = from + n, row = s.row(from);
            for (int64_t head = s.first_query(); head < s.first_query() + s.group(); ++head) {
                const float *query = rows + row * wide + head * size, *above = slope + row * out_wide + head * size;
                product({query, n, wide, 1}, {keys_turned.at, size, seen}, size, weights, stride);
                weigh(weights, n, from, seen, stride);
                product({above, n, out_wide, 1}, {values_turned.at, size, seen}, size, slopes, stride);
                // The gradient of a softmax's input is p (g - <p, g>).
                for (int64_t i = 0; i < n; ++i) {
                    float *p = weights + i * stride, *g = slopes + i * stride;
                    const int64_t reads = from + i + 1;
                    const float common = dot(p, g, reads);
                    for (int64_t t = 0; t < reads; ++t) g[t] = p[t] * (g[t] - common);
                    for (int64_t t = reads; t < seen; ++t) g[t] = 0;
                }
                product({slopes, n, stride, 1}, keys, seen, gradient + row * wide + head * size, wide);
                const Panels queries = in_panels([&](int64_t i) { return query + i * wide; }, n, size, query_room);
                const Panels aboves = in_panels([&](int64_t i) { return above + i * out_wide; }, n, size, slope_room);
                product({slopes, seen, 1, stride}, queries, n, of_keys, size, nullptr, true);
                product({weights, seen, 1, stride}, aboves, n, of_values, size, nullptr, true);
            }
        }
        for (int64_t t = 0; t < length; ++t) {
            float *to_key = gradient + s.row(t) * wide + s.key(), *to_value = gradient + s.row(t) * wide + s.value();
            for (int64_t d = 0; d < size; ++d) to_key[d] += of_keys[t * size + d], to_value[d] += of_values[t * size + d];
        }
    });
}

}  // extern "C"
