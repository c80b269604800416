// Numbers that move and stay what they are: axes that change places, and what a convolution reads as rows of a matrix.
#include "image.cuh"

// x [batch, outer, inner, width] to y [batch, inner, outer, width]; `width` counts runs.
template <class T, int V> __device__ void swap_axes(const T *x, T *y, u32 outer, u32 inner, u32 width, u32 runs) {
    for (u32 i = thread_place(); i < runs; i += thread_count()) {
        u32 row = i / width, column = i - row * width;
        u32 line = row / outer, o = row - line * outer, b = line / inner, j = line - b * inner;
        ((Run<T, V> *)y)[i] = ((const Run<T, V> *)x)[((u64(b) * outer + o) * inner + j) * width + column];
    }
}

// x [grid z, rows, columns] to y [grid z, columns, rows], both even, by pairs; grid (tiles of columns, of rows); shared: [SIDE, PITCH].
enum { SIDE = 64, PITCH = SIDE + 2 };
template <class T> __device__ void transpose(const T *x, T *y, u32 rows, u32 columns) {
    DYNAMIC_SHARED(memory);
    T *tile = (T *)memory;
    u32 row = blockIdx.y * SIDE, column = blockIdx.x * SIDE;
    u64 start = u64(blockIdx.z) * rows * columns;
    for (u32 i = threadIdx.x; i < SIDE * SIDE / 2; i += blockDim.x) {
        u32 r = i / (SIDE / 2), c = i % (SIDE / 2) * 2;
        if (row + r < rows && column + c < columns)
            *(Run<T, 2> *)(tile + r * PITCH + c) = *(const Run<T, 2> *)(x + start + u64(row + r) * columns + column + c);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < SIDE * SIDE / 2; i += blockDim.x) {
        u32 c = i / (SIDE / 2), r = i % (SIDE / 2) * 2;
        if (row + r >= rows || column + c >= columns) continue;
        Run<T, 2> pair = {{tile[r * PITCH + c], tile[(r + 1) * PITCH + c]}};
        *(Run<T, 2> *)(y + start + u64(column + c) * rows + row + r) = pair;
    }
}

// matrix [count, taps, depth]: what the places `first..` of the output read, zeros where nothing lies. A warp a place.
template <class T, int V, bool GRADIENT> __device__ void unfold(const Geometry &g, const T *x, T *matrix, u64 first, u32 count) {
    u32 at = thread_place() / 32;
    if (at >= count) return; // whole warps, which meet no barrier
    u64 line = (first + at) / g.out_w, image = line / g.out_h;
    int column = int(first + at - line * g.out_w), row = int(line - image * g.out_h);
    u32 width = g.depth / V, all = g.kernel_h * g.kernel_w * width;
    Run<T, V> *to = (Run<T, V> *)matrix + u64(at) * all;
    for (u32 i = threadIdx.x % 32; i < all; i += 32) {
        u32 tap = i / width;
        int y_in = source<GRADIENT>(row, tap / g.kernel_w, g.top, g.stride, g.in_h);
        int x_in = source<GRADIENT>(column, tap % g.kernel_w, g.left, g.stride, g.in_w);
        Run<T, V> run = {};
        if (y_in >= 0 && x_in >= 0) run = ((const Run<T, V> *)x)[((image * g.in_h + y_in) * g.in_w + x_in) * width + i - tap * width];
        to[i] = run;
    }
}

#define UNFOLD(T, S, NAME, GRADIENT)                                                                                         \
    extern "C" __global__ void NAME##_##S(const T *x, T *matrix, int images, int in_h, int in_w, int out_h, int out_w, int kernel_h,         \
                                          int kernel_w, int stride, int top, int left, int depth, int columns, int packed, u64 first,        \
                                          u32 count) {                                                                       \
        Geometry g = {images, in_h, in_w, out_h, out_w, kernel_h, kernel_w, stride, top, left, depth, columns};              \
        if (packed) unfold<T, Packed<T>::SIZE, GRADIENT>(g, x, matrix, first, count);                                        \
        else unfold<T, 1, GRADIENT>(g, x, matrix, first, count);                                                             \
    }
#define ENTRY(T, S)                                                                                                          \
    extern "C" __global__ void swap_axes_##S(const T *x, T *y, u32 outer, u32 inner, int packed, u32 width, u32 runs) {      \
        BY_RUNS(T, packed, swap_axes, x, y, outer, inner, width, runs);                                                      \
    }                                                                                                                        \
    extern "C" __global__ void transpose_##S(const T *x, T *y, u32 rows, u32 columns) { transpose(x, y, rows, columns); }   \
    UNFOLD(T, S, unfold, false)                                                                                              \
    UNFOLD(T, S, unfold_gradient, true)
FOR_TYPES(ENTRY)
