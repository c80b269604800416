// Layer norm over the last axis, a warp a row; statistics, scale and shift in f32 (f64 for f64).
#include "common.cuh"

template <class T> struct Row {
    Acc<T> mean, rate;
};

template <class T> __device__ Row<T> statistics(const T *x, int width, Acc<T> eps) {
    int lane = threadIdx.x % 32;
    Acc<T> sum = 0, squares = 0;
    for (int i = lane; i < width; i += 32) sum += load(x[i]);
    Row<T> row;
    row.mean = warp_sum(sum) / width;
    for (int i = lane; i < width; i += 32) {
        Acc<T> d = load(x[i]) - row.mean;
        squares += d * d;
    }
    row.rate = Acc<T>(1) / square_root(warp_sum(squares) / width + eps);
    return row;
}

// y = (x - mean) rate w + b for x [rows, width].
template <class T>
__device__ void layer_norm_forward(const T *x, const Acc<T> *w, const Acc<T> *b, T *y, int rows, int width, Acc<T> eps) {
    i64 at = thread_place() / 32;
    if (at >= rows) return; // whole warps, which meet no barrier
    x += at * width;
    Row<T> row = statistics(x, width, eps);
    for (int i = threadIdx.x % 32; i < width; i += 32) y[at * width + i] = store<T>((load(x[i]) - row.mean) * row.rate * w[i] + b[i]);
}
// With h = g w and n the normed row: dx = (h - mean(h) - n mean(h n)) rate.
template <class T>
__device__ void layer_norm_backward(const T *x, const T *g, const Acc<T> *w, T *dx, int rows, int width, Acc<T> eps) {
    i64 at = thread_place() / 32;
    if (at >= rows) return;
    x += at * width;
    g += at * width;
    Row<T> row = statistics(x, width, eps);
    Acc<T> sum = 0, product = 0;
    for (int i = threadIdx.x % 32; i < width; i += 32) {
        Acc<T> h = load(g[i]) * w[i];
        sum += h;
        product += h * (load(x[i]) - row.mean) * row.rate;
    }
    sum = warp_sum(sum) / width;
    product = warp_sum(product) / width;
    for (int i = threadIdx.x % 32; i < width; i += 32)
        dx[at * width + i] = store<T>((load(g[i]) * w[i] - sum - (load(x[i]) - row.mean) * row.rate * product) * row.rate);
}

#define ENTRY(T, S)                                                                                                          \
    extern "C" __global__ void layer_norm_forward_##S(const T *x, const Acc<T> *w, const Acc<T> *b, T *y, int rows, int width, double eps) { \
        layer_norm_forward(x, w, b, y, rows, width, Acc<T>(eps));                                                            \
    }                                                                                                                        \
    extern "C" __global__ void layer_norm_backward_##S(const T *x, const T *g, const Acc<T> *w, T *dx, int rows, int width, double eps) {    \
        layer_norm_backward(x, g, w, dx, rows, width, Acc<T>(eps));                                                          \
    }
FOR_TYPES(ENTRY)
