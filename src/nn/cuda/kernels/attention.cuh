// What both attention kernels share: tiles of a head in shared memory, products of them by a warp.
#ifndef ATTENTION_CUH
#define ATTENTION_CUH
#include "mma.cuh"

// X(type, suffix, head width) for each width to compile: a multiple of 16 that holds the head's.
#ifndef FOR_HEADS
#define FOR_HEADS(X, T, S) X(T, S, 16) X(T, S, 48) X(T, S, 64) X(T, S, 160)
#endif

struct Sizes {
    int heads, queries, keys;
    int width; // of a head
    int causal;
    double scale;
};

// Rows of a tile, of WIDTH numbers and a pitch against bank conflicts.
template <class T, int WIDTH> struct Tile { static constexpr int PITCH = WIDTH + 16 / int(sizeof(T)); };

// Rows `first..` of a head to a tile of `rows` by WIDTH, zeros where there are none; by `threads` threads of which this is
// `thread`. What is read lies there after copies_arrived and a barrier.
template <class T, int WIDTH>
__device__ void fetch_rows(T *tile, const T *head, int first, int rows, int count, int width, i64 row_stride, int thread, int threads) {
    constexpr int PACK = 16 / sizeof(T), PARTS = WIDTH / PACK;
    bool packed = width % PACK == 0; // rows then begin at multiples of 16 bytes
    for (int i = thread; i < rows * PARTS; i += threads) {
        int row = i / PARTS, part = i % PARTS * PACK, present = first + row < count ? width - part : 0;
        T *to = tile + row * Tile<T, WIDTH>::PITCH + part;
        const T *from = head + (first + row) * row_stride + part;
        if (packed) copy_16_bytes(to, present > 0 ? from : head, present > 0);
        else
            for (int j = 0; j < PACK; j++) to[j] = j < present ? from[j] : store<T>(Acc<T>(0));
    }
}

// A pair of right tiles side by side, of b kept by columns or by rows.
template <class T> __device__ __forceinline__ void load_pair_by_columns(Right<T> (&b)[2], const T *tile, int pitch) {
    if constexpr (sizeof(T) == 2) {
        int lane = lane_of_warp();
        u32 words[4];
        load_matrices_x4(words, tile + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8);
        for (int i = 0; i < 4; i++) b[i / 2].words[i % 2] = words[i];
    } else
        for (int n = 0; n < 2; n++) load_right_by_columns(b[n], tile + n * 8 * pitch, pitch);
}
template <class T> __device__ __forceinline__ void load_pair_by_rows(Right<T> (&b)[2], const T *tile, int pitch) {
    if constexpr (sizeof(T) == 2) {
        int lane = lane_of_warp();
        u32 words[4];
        load_matrices_x4_transposed(words, tile + lane % 16 * pitch + lane / 16 * 8);
        for (int i = 0; i < 4; i++) b[i / 2].words[i % 2] = words[i];
    } else
        for (int n = 0; n < 2; n++) load_right_by_rows(b[n], tile + n * 8, pitch);
}
// sums [16, 8 N] = a [16, DEPTH] b [8 N, DEPTH] transposed, both row-major.
template <class T, int DEPTH, int N>
__device__ __forceinline__ void rows_by_rows(Acc<T> (&sums)[N][4], const T *a, int a_pitch, const T *b, int b_pitch) {
    for (int n = 0; n < N; n++)
        for (int i = 0; i < 4; i++) sums[n][i] = 0;
    for (int k = 0; k < DEPTH; k += 16) {
        Left<T> left;
        load_left(left, a + k, a_pitch);
        for (int n = 0; n < N; n += 2) {
            Right<T> right[2];
            load_pair_by_columns(right, b + n * 8 * b_pitch + k, b_pitch);
            multiply_add(sums[n], left, right[0]);
            multiply_add(sums[n + 1], left, right[1]);
        }
    }
}
// sums [16, 8 N] += left [16, 16] b [16, 8 N], b row-major.
template <class T, int N> __device__ __forceinline__ void one_step(Acc<T> (&sums)[N][4], const Left<T> &left, const T *b, int b_pitch) {
    for (int n = 0; n < N; n += 2) {
        Right<T> right[2];
        load_pair_by_rows(right, b + n * 8, b_pitch);
        multiply_add(sums[n], left, right[0]);
        multiply_add(sums[n + 1], left, right[1]);
    }
}
// sums [16, 8 N] += a [16, DEPTH] b [DEPTH, 8 N], both row-major.
template <class T, int DEPTH, int N>
__device__ __forceinline__ void rows_by_columns(Acc<T> (&sums)[N][4], const T *a, int a_pitch, const T *b, int b_pitch) {
    for (int k = 0; k < DEPTH; k += 16) {
        Left<T> left;
        load_left(left, a + k, a_pitch);
        one_step(sums, left, b + k * b_pitch, b_pitch);
    }
}
template <class A, int N> __device__ __forceinline__ void clear(A (&sums)[N][4]) {
    for (int n = 0; n < N; n++)
        for (int i = 0; i < 4; i++) sums[n][i] = 0;
}

// Numbers of the warp's [16, 8 N] to its own row-major tile.
template <class T, int N> __device__ __forceinline__ void keep(T *tile, int pitch, const Acc<T> (&x)[N][4]) {
    for (int n = 0; n < N; n++)
        for (int i = 0; i < 4; i++) tile[row_of(i) * pitch + n * 8 + column_of(i)] = store<T>(x[n][i]);
}

// sums [16, 8 N] += x [16, DEPTH] b [DEPTH, 8 N], where x are sums of the warp. In 16 bits they already lie in the lanes where a
// product wants them; else they go through the warp's own `tile`.
template <class T, int DEPTH, int N>
__device__ __forceinline__ void sums_by_columns(Acc<T> (&sums)[N][4], const Acc<T> (&x)[DEPTH / 8][4], T *tile, int pitch, const T *b, int b_pitch) {
    if constexpr (sizeof(T) == 2) {
        for (int k = 0; k < DEPTH / 16; k++) {
            Left<T> left;
            for (int i = 0; i < 4; i++) {
                const Acc<T> *pair = x[2 * k + i / 2] + i % 2 * 2;
                left.words[i] = u32(store<T>(pair[0]).bits) | u32(store<T>(pair[1]).bits) << 16;
            }
            one_step(sums, left, b + k * 16 * b_pitch, b_pitch);
        }
    } else {
        __syncwarp(); // what the tile held has been read
        keep(tile, pitch, x);
        __syncwarp();
        rows_by_columns<T, DEPTH>(sums, tile, pitch, b, b_pitch);
    }
}
// e to the power of x / unit: short numbers have no use for more than the hardware's power of two.
template <class T> __device__ __forceinline__ Acc<T> power(Acc<T> x) {
    if constexpr (sizeof(T) == 2) return power_of_two(x);
    else return exponential(x);
}
template <class T> struct Power { static constexpr double UNIT = sizeof(T) == 2 ? 1.4426950408889634074 : 1.0; };
// Rows `first..` of the warp's [16, 8 N], each times a factor of its row, to a head's rows in memory.
template <class T, int N>
__device__ __forceinline__ void write_rows(T *head, int first, int count, int width, i64 row_stride, const Acc<T> (&x)[N][4], const Acc<T> (&factor)[2]) {
    for (int n = 0; n < N; n++)
        for (int half = 0; half < 2; half++) {
            int row = first + row_of(2 * half), column = n * 8 + column_of(0);
            if (row >= count) continue;
            T *to = head + row * row_stride + column;
            Run<T, 2> pair;
            for (int i = 0; i < 2; i++) pair.numbers[i] = store<T>(x[n][2 * half + i] * factor[half]);
            if (width % 2 == 0 && column < width) *(Run<T, 2> *)to = pair;
            else
                for (int i = 0; i < 2; i++)
                    if (column + i < width) to[i] = pair.numbers[i];
        }
}

// Over the four lanes that share a row.
template <class A> __device__ __forceinline__ A row_sum(A x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
template <class A> __device__ __forceinline__ A row_largest(A x) {
    x = larger(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return larger(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Whether a query sees a key.
__device__ __forceinline__ bool sees(const Sizes &s, int query, int key) { return key < s.keys && (!s.causal || key <= query); }

// Below every score; not infinite, so that differences of two are numbers.
#define HIDDEN (-1e30f)

#endif
