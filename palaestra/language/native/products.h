// Vectors, and products of small matrices, of which one lies in panels: some of its columns, contiguous in memory.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16, ROWS = 12;
#else
constexpr int LANES = 8, ROWS = 6;
#endif
constexpr int LINE = 16;  // floats that memory hands over at a time
constexpr int PANEL = 2 * LANES;  // columns; ROWS x PANEL sums and what is added to them fill the registers

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Int __attribute__((vector_size(4 * LANES)));

const Vec& at(const float* p) { return *reinterpret_cast<const Vec*>(p); }
Vec& at(float* p) { return *reinterpret_cast<Vec*>(p); }

float total(Vec v) {
    float sum = 0;
    for (int i = 0; i < LANES; ++i) sum += v[i];
    return sum;
}

float dot(const float* a, const float* b, int64_t n) {
    Vec sum = {};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) sum += at(a + i) * at(b + i);
    float rest = total(sum);
    for (; i < n; ++i) rest += a[i] * b[i];
    return rest;
}

// e^x to one unit in the last place, for x <= 88: 2^n times a polynomial of what is left, |r| <= log(2) / 2. NaN stays NaN.
Vec exponential(Vec x) {
    const Vec least = Vec{} - 87.0f;
    x = x < least ? least : x;
    const float shift = 12582912.0f;  // 1.5 * 2^23, next to which a float is rounded to an integer
    const Vec n = (x * 1.44269504f + shift) - shift;
    const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec p = Vec{} + 1.9875691500e-4f;
    for (float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) p = p * r + c;
    p = p * r * r + r + 1.0f;
    const Int power = (__builtin_convertvector(n, Int) + 127) << 23;
    return p * reinterpret_cast<const Vec&>(power);
}

// 1 + e^-x, by which x is divided for silu(x).
Vec opposed(Vec x) {
    const Vec least = Vec{} - 87.0f;
    return 1.0f + exponential(x < least ? -least : -x);
}

// Some rows of `in` `(R, depth)`, whose numbers are `row` and `next` apart, by one panel of weights `(depth, PANEL)`; what is in
// `sums` is added to.
template <int R>
void multiply(const float* in, int64_t row, int64_t next, const float* panel, int64_t depth, Vec (&sums)[ROWS][2]) {
    Vec left[R], right[R];
    for (int r = 0; r < R; ++r) left[r] = sums[r][0], right[r] = sums[r][1];
    for (int64_t k = 0; k < depth; ++k, panel += PANEL, in += next) {
        const Vec a = at(panel), b = at(panel + LANES);
        for (int r = 0; r < R; ++r) {
            const float x = in[r * row];
            left[r] += x * a, right[r] += x * b;
        }
    }
    for (int r = 0; r < R; ++r) sums[r][0] = left[r], sums[r][1] = right[r];
}

template <int R>
void multiply_up_to(int rows, const float* in, int64_t row, int64_t next, const float* panel, int64_t depth,
                    Vec (&sums)[ROWS][2]) {
    if (rows == R) return multiply<R>(in, row, next, panel, depth, sums);
    if constexpr (R > 1) multiply_up_to<R - 1>(rows, in, row, next, panel, depth, sums);
}

struct Rows {  // a matrix whose rows are `row` apart, and numbers in a row `next`
    const float* at;
    int64_t count, row, next;
};

struct Panels {  // a matrix `(tall, columns)` as `(panels, tall, PANEL)`, the last one filled up with zeros
    const float* at;
    int64_t tall, columns;
};

// One panel's width of numbers, or as many of them as there are.
void copy(const float* from, int64_t wide, float* to) {
    if (wide < PANEL) {
        for (int64_t i = 0; i < wide; ++i) to[i] = from[i];
        return;
    }
    at(to) = at(from), at(to + LANES) = at(from + LANES);
}

// out = in @ weight + bias, or that added to `out`, whose rows are `stride` apart; of `weight` the first `depth` rows. A bias is
// filled up as panels are.
void product(Rows in, Panels weight, int64_t depth, float* out, int64_t stride, const float* bias = nullptr, bool added = false) {
    for (int64_t c = 0; c < weight.columns; c += PANEL, weight.at += weight.tall * PANEL) {
        const int64_t wide = std::min<int64_t>(PANEL, weight.columns - c);
        for (int64_t r = 0; r < in.count; r += ROWS) {
            const int some = std::min<int64_t>(ROWS, in.count - r);
            Vec sums[ROWS][2] = {};
            for (int i = 0; i < some; ++i) {
                if (added) copy(out + (r + i) * stride + c, wide, reinterpret_cast<float*>(sums[i]));
                if (bias) sums[i][0] += at(bias + c), sums[i][1] += at(bias + c + LANES);
            }
            multiply_up_to<ROWS>(some, in.at + r * in.row, in.row, in.next, weight.at, depth, sums);
            for (int i = 0; i < some; ++i) copy(reinterpret_cast<float*>(sums[i]), wide, out + (r + i) * stride + c);
        }
    }
}

}  // namespace
