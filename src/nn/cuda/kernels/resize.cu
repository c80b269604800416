// Nearest-neighbour resizing of images [n, h, w, c]: place i comes from floor(i from / to).
#include "common.cuh"

// `width` counts the channels in runs.
template <class T, int V> __device__ void nearest_forward(const T *x, T *y, u32 h, u32 w, u32 h2, u32 w2, u32 width, u32 runs) {
    for (u32 i = thread_place(); i < runs; i += thread_count()) {
        u32 pixel = i / width, line = pixel / w2;
        u64 row = u64(line % h2) * h / h2, column = u64(pixel % w2) * w / w2;
        ((Run<T, V> *)y)[i] = ((const Run<T, V> *)x)[((line / h2 * h + row) * w + column) * width + i % width];
    }
}

// The sum over the copies of each place; the first copy of place p is ceil(p to / from).
template <class T, int V> __device__ void nearest_backward(const T *g, T *dx, u32 h, u32 w, u32 h2, u32 w2, u32 width, u32 runs) {
    for (u32 i = thread_place(); i < runs; i += thread_count()) {
        u32 pixel = i / width, line = pixel / w;
        u64 image = line / h, row = line % h, column = pixel % w;
        u64 bottom = ((row + 1) * h2 + h - 1) / h, right = ((column + 1) * w2 + w - 1) / w;
        Acc<T> sums[V] = {};
        for (u64 y = (row * h2 + h - 1) / h; y < bottom; y++)
            for (u64 x = (column * w2 + w - 1) / w; x < right; x++) {
                Run<T, V> run = ((const Run<T, V> *)g)[((image * h2 + y) * w2 + x) * width + i % width];
                for (int j = 0; j < V; j++) sums[j] += load(run.numbers[j]);
            }
        Run<T, V> run;
        for (int j = 0; j < V; j++) run.numbers[j] = store<T>(sums[j]);
        ((Run<T, V> *)dx)[i] = run;
    }
}

#define ENTRY(T, S)                                                                                                          \
    extern "C" __global__ void nearest_forward_##S(const T *x, T *y, u32 h, u32 w, u32 h2, u32 w2, int packed, u32 width, u32 runs) {        \
        BY_RUNS(T, packed, nearest_forward, x, y, h, w, h2, w2, width, runs);                                                \
    }                                                                                                                        \
    extern "C" __global__ void nearest_backward_##S(const T *g, T *dx, u32 h, u32 w, u32 h2, u32 w2, int packed, u32 width, u32 runs) {      \
        BY_RUNS(T, packed, nearest_backward, g, dx, h, w, h2, w2, width, runs);                                              \
    }
FOR_TYPES(ENTRY)
