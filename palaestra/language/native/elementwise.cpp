// Norms and gates of training passes, and their gradients: each goes through memory once, where torch's operations go several times.
// What a row or a number is given does not depend on the others, nor on how many threads there are.

#include "products.h"

namespace {

constexpr int64_t PIECE = 4096;  // numbers that a thread takes at a time; so few are not worth a second thread

template <class Work>
void each_row(int64_t rows, int64_t wide, int threads, Work work) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * wide > PIECE)
    for (int64_t r = 0; r < rows; ++r) work(r);
}

// Calls `work(i, some)` for `some` numbers from the i-th on, a vector's or the few that are left.
template <class Work>
void each_vector(int64_t count, int threads, Work work) {
#pragma omp parallel for schedule(static) num_threads(threads) if (count > PIECE)
    for (int64_t piece = 0; piece < count; piece += PIECE) {
        const int64_t end = std::min(count, piece + PIECE);
        for (int64_t i = piece; i < end; i += LANES) work(i, std::min<int64_t>(LANES, end - i));
    }
}

Vec read(const float* from, int64_t some) {
    if (some == LANES) return at(from);
    Vec v = {};
    for (int64_t j = 0; j < some; ++j) v[j] = from[j];
    return v;
}

void write(const Vec& v, int64_t some, float* to) {
    if (some == LANES) at(to) = v;
    else for (int64_t j = 0; j < some; ++j) to[j] = v[j];
}

}  // namespace

extern "C" {

// y = x / l and l = hypot(|x|, floor), for each of `rows` of `wide` numbers.
void normalise_rows(const float* x, const float* floor, float* y, float* length, int64_t rows, int64_t wide, int threads) {
    each_row(rows, wide, threads, [=](int64_t r) {
        const float *from = x + r * wide, l = std::sqrt(dot(from, from, wide) + *floor * *floor);
        length[r] = l;
        for (int64_t i = 0; i < wide; ++i) y[r * wide + i] = from[i] / l;
    });
}

// The gradient of x, given y, l and that of y, `g`, which it is written over: (g - y <g, y>) / l, and `more`, if there is any.
void normalise_rows_backward(float* g, const float* y, const float* length, const float* more, int64_t rows, int64_t wide,
                             int threads) {
    each_row(rows, wide, threads, [=](int64_t r) {
        float* slope = g + r * wide;
        const float *of = y + r * wide, *rest = more ? more + r * wide : nullptr, l = length[r], common = dot(slope, of, wide);
        for (int64_t i = 0; i < wide; ++i) slope[i] = (slope[i] - of[i] * common) / l + (rest ? rest[i] : 0.0f);
    });
}

// out = silu(gate) * up, of `count` numbers each.
void gated(const float* gate, const float* up, float* out, int64_t count, int threads) {
    each_vector(count, threads, [=](int64_t i, int64_t some) {
        const Vec x = read(gate + i, some);
        write(x / opposed(x) * read(up + i, some), some, out + i);
    });
}

// The same `out`, and the gradients of `gate`, `up`, given its own, `slope`, which that of `up` is written over.
void gated_backward(const float* gate, const float* up, float* slope, float* of_gate, float* out, int64_t count, int threads) {
    each_vector(count, threads, [=](int64_t i, int64_t some) {
        const Vec x = read(gate + i, some), u = read(up + i, some), g = read(slope + i, some);
        const Vec below = opposed(x), opened = x / below, sigmoid = 1.0f / below;
        write(opened * u, some, out + i);
        write(g * u * sigmoid * (1.0f + x * (1.0f - sigmoid)), some, of_gate + i);
        write(g * opened, some, slope + i);
    });
}

}  // extern "C"
