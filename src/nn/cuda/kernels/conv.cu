// Convolution of channels-last images as one product whose left rows are gathered while it runs, and its input gradient.
//
// The weight is kept once, as [tap, in, out]: forward reads it by rows, the gradient by columns. A block makes 128 pixels by
// TILE channels; three stages of copies run ahead of the tensor cores. Taps that no pixel of a block reads (frames beyond the
// ends, places between the strides of a gradient) cost nothing.
#include "image.cuh"
#include "mma.cuh"

enum { PIXELS = 128, THREADS = 256, STAGES = 3 };

template <class T> struct Step { static constexpr int DEPTH = sizeof(T) == 2 ? 32 : 16; };

// The index-th place of an axis in the order in which places that read the same taps stand together.
__device__ __forceinline__ int ordered(int index, int size, int stride) {
    for (int first = 0; first < stride; first++) {
        int count = (size - first + stride - 1) / stride;
        if (index < count) return first + index * stride;
        index -= count;
    }
    return 0;
}

struct Pixel { int image, y, x; }; // image -1 beyond the end

template <bool GRADIENT> __device__ __forceinline__ Pixel pixel_of(const Geometry &g, i64 row) {
    int line = int(row / g.out_w), classes = GRADIENT ? g.stride : 1;
    Pixel p = {line / g.out_h, ordered(line % g.out_h, g.out_h, classes), ordered(int(row % g.out_w), g.out_w, classes)};
    if (row >= i64(g.images) * g.out_h * g.out_w) p.image = -1;
    return p;
}

template <class T, int TILE, bool GRADIENT> struct Convolution {
    typedef Acc<T> A;
    static constexpr int DEPTH = Step<T>::DEPTH, PACK = 16 / sizeof(T), PITCH = DEPTH + PACK;
    static constexpr int RIGHT_PITCH = GRADIENT ? PITCH : TILE + PACK, RIGHT_ROWS = GRADIENT ? TILE : DEPTH;
    static constexpr int LEFT_SIZE = PIXELS * PITCH, STAGE = LEFT_SIZE + RIGHT_ROWS * RIGHT_PITCH;
    static constexpr int PARTS = DEPTH / PACK, OWN_ROWS = PIXELS * PARTS / THREADS;
    static constexpr int WARPS_ACROSS = TILE / 32, WARP_ROWS = PIXELS * WARPS_ACROSS / 8, M = WARP_ROWS / 16, N = 4;

    const Geometry &g;
    const T *x, *weight;
    T *stages;
    i64 first_row;
    int first_column;
    Pixel own[OWN_ROWS]; // of the rows this thread gathers
    u32 taps;            // bit t: some pixel of the block reads tap t

    __device__ __forceinline__ int row_gathered(int j) const { return (threadIdx.x + j * THREADS) / PARTS; }

    __device__ __forceinline__ const T *place(const Pixel &p, int tap) const {
        int y = source<GRADIENT>(p.y, tap / g.kernel_w, g.top, g.stride, g.in_h);
        int x_at = source<GRADIENT>(p.x, tap % g.kernel_w, g.left, g.stride, g.in_w);
        if (p.image < 0 || y < 0 || x_at < 0) return nullptr;
        return x + ((i64(p.image) * g.in_h + y) * g.in_w + x_at) * g.depth;
    }

    __device__ void find_taps() {
        for (int j = 0; j < OWN_ROWS; j++) own[j] = pixel_of<GRADIENT>(g, first_row + row_gathered(j));
        taps = 0;
        for (int tap = 0; tap < g.kernel_h * g.kernel_w; tap++) {
            bool read = false;
            for (int j = 0; j < OWN_ROWS; j++) read = read || place(own[j], tap);
            if (__syncthreads_or(read)) taps |= 1u << tap;
        }
    }

    // `count` numbers of a row from `from`, of which `present` exist; whole packs at once where rows are aligned.
    __device__ __forceinline__ void copy(T *to, const T *from, int present, bool packed) {
        if (packed) {
            copy_16_bytes(to, present > 0 ? from : x, present > 0);
        } else {
            for (int i = 0; i < PACK; i++) to[i] = i < present ? from[i] : store<T>(A(0));
        }
    }

    __device__ void fetch(int stage, int tap, int depth) {
        T *left = stages + stage * STAGE, *right = left + LEFT_SIZE;
        for (int j = 0; j < OWN_ROWS; j++) {
            int part = (threadIdx.x + j * THREADS) % PARTS * PACK;
            const T *from = place(own[j], tap);
            copy(left + row_gathered(j) * PITCH + part, from + depth + part, from ? g.depth - depth - part : 0, g.depth % PACK == 0);
        }
        if (GRADIENT) {
            for (int i = threadIdx.x; i < TILE * PARTS; i += THREADS) {
                int row = i / PARTS, part = i % PARTS * PACK, column = first_column + row;
                const T *from = weight + (i64(tap) * g.columns + column) * g.depth + depth + part;
                copy(right + row * RIGHT_PITCH + part, from, column < g.columns ? g.depth - depth - part : 0, g.depth % PACK == 0);
            }
        } else {
            for (int i = threadIdx.x; i < DEPTH * (TILE / PACK); i += THREADS) {
                int row = i / (TILE / PACK), part = i % (TILE / PACK) * PACK, column = first_column + part;
                const T *from = weight + (i64(tap) * g.depth + depth + row) * g.columns + column;
                copy(right + row * RIGHT_PITCH + part, from, depth + row < g.depth ? g.columns - column : 0, g.columns % PACK == 0);
            }
        }
    }

    __device__ void multiply(int stage, A (&sums)[M][N][4]) {
        int warp = threadIdx.x / 32, row = warp / WARPS_ACROSS * WARP_ROWS, column = warp % WARPS_ACROSS * 32;
        const T *left = stages + stage * STAGE + row * PITCH, *right = stages + stage * STAGE + LEFT_SIZE;
#pragma unroll
        for (int k = 0; k < DEPTH; k += 16) {
            Right<T> b[N];
#pragma unroll
            for (int n = 0; n < N; n++) {
                if (GRADIENT) load_right_by_columns(b[n], right + (column + n * 8) * RIGHT_PITCH + k, RIGHT_PITCH);
                else load_right_by_rows(b[n], right + k * RIGHT_PITCH + column + n * 8, RIGHT_PITCH);
            }
#pragma unroll
            for (int m = 0; m < M; m++) {
                Left<T> a;
                load_left(a, left + m * 16 * PITCH + k, PITCH);
#pragma unroll
                for (int n = 0; n < N; n++) multiply_add(sums[m][n], a, b[n]);
            }
        }
    }

    __device__ void run(const A *bias, T *y) {
        find_taps();
        A sums[M][N][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) sums[m][n][i] = 0;
        int steps = __popc(taps) * ((g.depth + DEPTH - 1) / DEPTH), tap = __ffs(int(taps)) - 1, depth = 0;
        u32 left = taps;
        for (int step = 1 - STAGES; step < steps; step++) {
            if (step >= 0) {
                copies_arrived<STAGES - 2>();
                __syncthreads(); // this stage is here, and nobody reads the one filled next
            }
            int ahead = step + STAGES - 1;
            if (ahead < steps) {
                fetch(ahead % STAGES, tap, depth);
                depth += DEPTH;
                if (depth >= g.depth) {
                    left &= left - 1;
                    tap = __ffs(int(left)) - 1;
                    depth = 0;
                }
            }
            copies_end_group();
            if (step >= 0) multiply(step % STAGES, sums);
        }
        copies_arrived<0>();
        write(sums, bias, y);
    }

    __device__ void write(const A (&sums)[M][N][4], const A *bias, T *y) {
        int warp = threadIdx.x / 32, row = warp / WARPS_ACROSS * WARP_ROWS, column = first_column + warp % WARPS_ACROSS * 32;
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                Pixel p = pixel_of<GRADIENT>(g, first_row + row + m * 16 + row_of(2 * half));
                // Beyond the end nothing is written; no early way out, which would keep the sums from staying in registers.
                int columns = p.image < 0 ? 0 : g.columns;
                T *to = y + ((i64(p.image) * g.out_h + p.y) * g.out_w + p.x) * g.columns;
#pragma unroll
                for (int n = 0; n < N; n++) {
                    int c = column + n * 8 + column_of(0);
                    Run<T, 2> pair;
#pragma unroll
                    for (int i = 0; i < 2; i++)
                        pair.numbers[i] = store<T>(sums[m][n][2 * half + i] + (bias && c + i < columns ? bias[c + i] : A(0)));
                    if (g.columns % 2 == 0) {
                        if (c < columns) *(Run<T, 2> *)(to + c) = pair;
                    } else
#pragma unroll
                        for (int i = 0; i < 2; i++)
                            if (c + i < columns) to[c + i] = pair.numbers[i];
                }
            }
    }
};

template <class T, int TILE, bool GRADIENT>
__device__ void convolution(const Geometry &g, const T *x, const T *weight, const Acc<T> *bias, T *y) {
    DYNAMIC_SHARED(memory);
    int across = (g.columns + TILE - 1) / TILE;
    Convolution<T, TILE, GRADIENT> work = {g, x, weight, (T *)memory, i64(blockIdx.x / across) * PIXELS, int(blockIdx.x % across) * TILE};
    work.run(bias, y);
}

#define KERNEL(T, S, NAME, TILE, GRADIENT)                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                                   \
        NAME##_##TILE##_##S(const T *x, const T *weight, const Acc<T> *bias, T *y, int images, int in_h, int in_w, int out_h, int out_w,     \
                            int kernel_h, int kernel_w, int stride, int top, int left, int depth, int columns, int has_bias) {               \
        Geometry g = {images, in_h, in_w, out_h, out_w, kernel_h, kernel_w, stride, top, left, depth, columns};              \
        convolution<T, TILE, GRADIENT>(g, x, weight, has_bias ? bias : nullptr, y);                                          \
    }
#define ENTRY(T, S)                                                                                                          \
    KERNEL(T, S, convolution, 64, false)                                                                                     \
    KERNEL(T, S, convolution, 128, false)                                                                                    \
    KERNEL(T, S, convolution_gradient, 64, true)                                                                             \
    KERNEL(T, S, convolution_gradient, 128, true)
FOR_TYPES(ENTRY)
