// Activation functions number by number, and what is added to a product.
#include "common.cuh"

enum { SILU = 0, GELU = 1, QUICK_GELU = 2 };

template <class A> __device__ __forceinline__ A activated(int kind, A x) {
    if (kind == GELU) return x * normal_below(x);
    return gated(x, kind == SILU ? A(1) : A(1.702));
}
template <class A> __device__ __forceinline__ A activation_slope(int kind, A x) {
    if (kind == GELU) return normal_below(x) + x * normal_density(x);
    return gated_slope(x, kind == SILU ? A(1) : A(1.702));
}

// y = f(x).
template <class T, int V> __device__ void activation_forward(const T *x, T *y, int kind, u32 runs) {
    for (u32 i = thread_place(); i < runs; i += thread_count()) {
        Run<T, V> run = ((const Run<T, V> *)x)[i];
        for (int j = 0; j < V; j++) run.numbers[j] = store<T>(activated(kind, load(run.numbers[j])));
        ((Run<T, V> *)y)[i] = run;
    }
}
// dx = g f'(x).
template <class T, int V> __device__ void activation_backward(const T *x, const T *g, T *dx, int kind, u32 runs) {
    for (u32 i = thread_place(); i < runs; i += thread_count()) {
        Run<T, V> run = ((const Run<T, V> *)x)[i], slope = ((const Run<T, V> *)g)[i];
        for (int j = 0; j < V; j++) run.numbers[j] = store<T>(load(slope.numbers[j]) * activation_slope(kind, load(run.numbers[j])));
        ((Run<T, V> *)dx)[i] = run;
    }
}
// x [rows, 2 width] as (u, g) to u gelu(g) [rows, width]; the width is counted in runs.
template <class T, int V> __device__ void geglu_forward(const T *x, T *y, u32 width, u32 runs) {
    for (u32 i = thread_place(); i < runs; i += thread_count()) {
        const Run<T, V> *from = (const Run<T, V> *)x + (i + u64(i / width) * width);
        Run<T, V> u = from[0], g = from[width];
        for (int j = 0; j < V; j++) {
            Acc<T> gate = load(g.numbers[j]);
            u.numbers[j] = store<T>(load(u.numbers[j]) * gate * normal_below(gate));
        }
        ((Run<T, V> *)y)[i] = u;
    }
}
template <class T, int V> __device__ void geglu_backward(const T *x, const T *dy, T *dx, u32 width, u32 runs) {
    for (u32 i = thread_place(); i < runs; i += thread_count()) {
        u64 at = i + u64(i / width) * width;
        Run<T, V> u = ((const Run<T, V> *)x)[at], g = ((const Run<T, V> *)x)[at + width], d = ((const Run<T, V> *)dy)[i];
        for (int j = 0; j < V; j++) {
            Acc<T> gate = load(g.numbers[j]), slope = load(d.numbers[j]), below = normal_below(gate);
            g.numbers[j] = store<T>(slope * load(u.numbers[j]) * (below + gate * normal_density(gate)));
            u.numbers[j] = store<T>(slope * gate * below);
        }
        ((Run<T, V> *)dx)[at] = u;
        ((Run<T, V> *)dx)[at + width] = g;
    }
}
// y [rows, width] += bias [width], shift [rows / group, width] and skip [rows, width], in place; those that are given. `group`
// counts runs.
template <class T, int V>
__device__ void add_to(T *y, const Acc<T> *bias, const T *shift, const T *skip, u32 width, u32 group, u32 runs) {
    for (u32 i = thread_place(); i < runs; i += thread_count()) {
        Run<T, V> run = ((Run<T, V> *)y)[i], other;
        u32 column = i % width;
        Acc<T> sums[V];
        for (int j = 0; j < V; j++) sums[j] = load(run.numbers[j]);
        if (bias)
            for (int j = 0; j < V; j++) sums[j] += bias[column * V + j];
        if (shift) {
            other = ((const Run<T, V> *)shift)[i / group * width + column];
            for (int j = 0; j < V; j++) sums[j] += load(other.numbers[j]);
        }
        if (skip) {
            other = ((const Run<T, V> *)skip)[i];
            for (int j = 0; j < V; j++) sums[j] += load(other.numbers[j]);
        }
        for (int j = 0; j < V; j++) run.numbers[j] = store<T>(sums[j]);
        ((Run<T, V> *)y)[i] = run;
    }
}

#define ENTRY(T, S)                                                                                                          \
    extern "C" __global__ void activation_forward_##S(const T *x, T *y, int kind, int packed, u32 runs) {                    \
        BY_RUNS(T, packed, activation_forward, x, y, kind, runs);                                                               \
    }                                                                                                                        \
    extern "C" __global__ void activation_backward_##S(const T *x, const T *g, T *dx, int kind, int packed, u32 runs) {      \
        BY_RUNS(T, packed, activation_backward, x, g, dx, kind, runs);                                                          \
    }                                                                                                                        \
    extern "C" __global__ void geglu_forward_##S(const T *x, T *y, int packed, u32 width, u32 runs) {                        \
        BY_RUNS(T, packed, geglu_forward, x, y, width, runs);                                                                   \
    }                                                                                                                        \
    extern "C" __global__ void geglu_backward_##S(const T *x, const T *dy, T *dx, int packed, u32 width, u32 runs) {         \
        BY_RUNS(T, packed, geglu_backward, x, dy, dx, width, runs);                                                             \
    }                                                                                                                        \
    extern "C" __global__ void add_to_##S(T *y, const Acc<T> *bias, const T *shift, const T *skip, int has, int packed, u32 width,           \
                                          u32 group, u32 runs) {                                                             \
        if (!(has & 1)) bias = nullptr;                                                                                      \
        if (!(has & 2)) shift = nullptr;                                                                                     \
        if (!(has & 4)) skip = nullptr;                                                                                      \
        BY_RUNS(T, packed, add_to, y, bias, shift, skip, width, group, runs);                                                \
    }
FOR_TYPES(ENTRY)
