// Products of small tiles by one warp: c [16, 8] += a [16, 16] b [16, 8] from shared memory.
//
// Of c each lane holds rows lane / 4 and lane / 4 + 8, columns 2 (lane % 4) and the next. 16-bit numbers go to tensor cores
// as they are; f32 is cut into two parts of eleven bits each and their three larger products are summed, which keeps f32's
// accuracy to a few units in the last place; f64, for tests, is multiplied plainly. Sums are f32, or f64 for f64.
#ifndef MMA_CUH
#define MMA_CUH
#include "common.cuh"

// Numbers between rows of a tile beyond its width: rows of 16-byte multiples that spread over the banks.
template <class T> struct Padding { static constexpr int SIZE = 16 / sizeof(T); };

__device__ __forceinline__ int lane_of_warp() { return threadIdx.x % 32; }

template <class T> struct Left { u32 words[4]; };   // a [16, 16]
template <class T> struct Right { u32 words[2]; };  // b [16, 8]

// From row-major a with `pitch` numbers between rows.
template <class T> __device__ __forceinline__ void load_left(Left<T> &a, const T *tile, int pitch) {
    int lane = lane_of_warp();
    load_matrices_x4(a.words, tile + (lane % 16) * pitch + lane / 16 * 8);
}
// From b kept by columns: `tile[column * pitch + row]`.
template <class T> __device__ __forceinline__ void load_right_by_columns(Right<T> &b, const T *tile, int pitch) {
    int lane = lane_of_warp();
    load_matrices_x2(b.words, tile + (lane % 8) * pitch + lane / 8 % 2 * 8);
}
// From b kept by rows: `tile[row * pitch + column]`.
template <class T> __device__ __forceinline__ void load_right_by_rows(Right<T> &b, const T *tile, int pitch) {
    load_matrices_x2_transposed(b.words, tile + (lane_of_warp() % 16) * pitch);
}
template <class T> __device__ __forceinline__ void multiply_add(float (&c)[4], const Left<T> &a, const Right<T> &b) {
    tensor_core(c, a.words, b.words, T());
}

// A number as the sum of two that tensor cores take.
struct Halves { float high, low; };
__device__ __forceinline__ Halves split(float x) {
    Halves y;
    y.high = round_tf32(x);
    y.low = round_tf32(x - y.high);
    return y;
}
template <> struct Left<float> { Halves parts[8]; };
template <> struct Right<float> { Halves parts[4]; };

__device__ __forceinline__ void load_left(Left<float> &a, const float *tile, int pitch) {
    int row = lane_of_warp() / 4, column = lane_of_warp() % 4;
    for (int i = 0; i < 8; i++) a.parts[i] = split(tile[(row + i % 2 * 8) * pitch + column + i / 2 * 4]);
}
__device__ __forceinline__ void load_right_by_columns(Right<float> &b, const float *tile, int pitch) {
    int column = lane_of_warp() / 4, row = lane_of_warp() % 4;
    for (int i = 0; i < 4; i++) b.parts[i] = split(tile[column * pitch + row + i * 4]);
}
__device__ __forceinline__ void load_right_by_rows(Right<float> &b, const float *tile, int pitch) {
    int column = lane_of_warp() / 4, row = lane_of_warp() % 4;
    for (int i = 0; i < 4; i++) b.parts[i] = split(tile[(row + i * 4) * pitch + column]);
}
__device__ __forceinline__ void multiply_add(float (&c)[4], const Left<float> &a, const Right<float> &b) {
    for (int k = 0; k < 2; k++) {
        float a_high[4], a_low[4], b_high[2], b_low[2];
        for (int i = 0; i < 4; i++) {
            a_high[i] = a.parts[4 * k + i].high;
            a_low[i] = a.parts[4 * k + i].low;
        }
        for (int i = 0; i < 2; i++) {
            b_high[i] = b.parts[2 * k + i].high;
            b_low[i] = b.parts[2 * k + i].low;
        }
        tensor_core_tf32(c, a_low, b_high);
        tensor_core_tf32(c, a_high, b_low);
        tensor_core_tf32(c, a_high, b_high);
    }
}

template <> struct Left<double> { double numbers[2][16]; };
template <> struct Right<double> { double numbers[2][16]; };

__device__ __forceinline__ void load_left(Left<double> &a, const double *tile, int pitch) {
    for (int i = 0; i < 32; i++) a.numbers[i / 16][i % 16] = tile[(lane_of_warp() / 4 + i / 16 * 8) * pitch + i % 16];
}
__device__ __forceinline__ void load_right_by_columns(Right<double> &b, const double *tile, int pitch) {
    for (int i = 0; i < 32; i++) b.numbers[i / 16][i % 16] = tile[(lane_of_warp() % 4 * 2 + i / 16) * pitch + i % 16];
}
__device__ __forceinline__ void load_right_by_rows(Right<double> &b, const double *tile, int pitch) {
    for (int i = 0; i < 32; i++) b.numbers[i / 16][i % 16] = tile[i % 16 * pitch + lane_of_warp() % 4 * 2 + i / 16];
}
__device__ __forceinline__ void multiply_add(double (&c)[4], const Left<double> &a, const Right<double> &b) {
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 16; k++) c[i] += a.numbers[i / 2][k] * b.numbers[i % 2][k];
}

// Row and column of the i-th number of c that this lane holds.
__device__ __forceinline__ int row_of(int i) { return lane_of_warp() / 4 + i / 2 * 8; }
__device__ __forceinline__ int column_of(int i) { return lane_of_warp() % 4 * 2 + i % 2; }

#endif
