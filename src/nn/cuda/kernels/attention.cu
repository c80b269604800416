// Attention of any length that holds the scores of a few rows only, and its gradients (Dao 2023, FlashAttention-2).
//
// q and y [n, queries, heads width], k and v [n, keys, heads width]; a block takes 64 rows of a head, 16 a warp. The backward
// pass computes the scores again, once for the queries' gradient and once for that of keys and values: no atomics, so that a
// run repeats bit for bit.
#include "attention.cuh"

enum { ROWS = 64, WARPS = 4 };

// Rows of the other side that are held at once.
template <class T, int WIDTH> struct Other { static constexpr int ROWS_HELD = WIDTH * sizeof(T) <= 128 ? 64 : 32; };

struct Place {
    i64 queries, keys; // where the head's first row lies
    i64 row_stride;
    i64 statistics;    // of the head's first query in [n, heads, queries]
};

// grid (tiles of rows, heads, n).
__device__ __forceinline__ Place place_of(const Sizes &s) {
    i64 stride = i64(s.heads) * s.width, head = i64(blockIdx.y) * s.width;
    return {blockIdx.z * stride * s.queries + head, blockIdx.z * stride * s.keys + head, stride, (i64(blockIdx.z) * s.heads + blockIdx.y) * s.queries};
}

// shared: queries [64], keys and values [ROWS_HELD], and for each warp probabilities [16, ROWS_HELD].
template <class T, int WIDTH>
__device__ void attention_forward(const Sizes &s, const T *q, const T *k, const T *v, T *y, Acc<T> *log_sums) {
    typedef Acc<T> A;
    constexpr int HELD = Other<T, WIDTH>::ROWS_HELD, PITCH = Tile<T, WIDTH>::PITCH, P_PITCH = Tile<T, HELD>::PITCH;
    DYNAMIC_SHARED(memory);
    T *queries = (T *)memory, *keys = queries + ROWS * PITCH, *values = keys + HELD * PITCH;
    int warp = threadIdx.x / 32, first = blockIdx.x * ROWS, mine = first + warp * 16;
    T *own = queries + warp * 16 * PITCH, *probabilities = values + HELD * PITCH + warp * 16 * P_PITCH;
    Place at = place_of(s);
    fetch_rows<T, WIDTH>(queries, q + at.queries, first, ROWS, s.queries, s.width, at.row_stride, threadIdx.x, WARPS * 32);
    A sums[WIDTH / 8][4], largest[2] = {HIDDEN, HIDDEN}, total[2] = {0, 0};
    const A scale = A(s.scale * Power<T>::UNIT);
    clear(sums);
    int end = s.causal && first + ROWS < s.keys ? first + ROWS : s.keys;
    for (int key = 0; key < end; key += HELD) {
        __syncthreads(); // nobody reads the last keys and values
        fetch_rows<T, WIDTH>(keys, k + at.keys, key, HELD, s.keys, s.width, at.row_stride, threadIdx.x, WARPS * 32);
        copies_end_group();
        fetch_rows<T, WIDTH>(values, v + at.keys, key, HELD, s.keys, s.width, at.row_stride, threadIdx.x, WARPS * 32);
        copies_end_group();
        copies_arrived<1>();
        __syncthreads();
        A scores[HELD / 8][4];
        rows_by_rows<T, WIDTH>(scores, own, PITCH, keys, PITCH);
        A before[2] = {largest[0], largest[1]};
        if (s.causal || key + HELD > s.keys)
            for (int n = 0; n < HELD / 8; n++)
                for (int i = 0; i < 4; i++)
                    if (!sees(s, mine + row_of(i), key + n * 8 + column_of(i))) scores[n][i] = A(HIDDEN);
        for (int n = 0; n < HELD / 8; n++)
            for (int i = 0; i < 4; i++) largest[i / 2] = larger(largest[i / 2], scores[n][i]);
        A rescale[2], shift[2];
        for (int half = 0; half < 2; half++) {
            largest[half] = row_largest(largest[half]);
            shift[half] = largest[half] * scale;
            rescale[half] = power<T>(before[half] * scale - shift[half]);
            total[half] *= rescale[half];
        }
        // Every row sees the first key, so that the largest is a score and what is hidden becomes zero.
        for (int n = 0; n < HELD / 8; n++)
            for (int i = 0; i < 4; i++) {
                scores[n][i] = power<T>(scores[n][i] * scale - shift[i / 2]);
                total[i / 2] += scores[n][i];
            }
        for (int n = 0; n < WIDTH / 8; n++)
            for (int i = 0; i < 4; i++) sums[n][i] *= rescale[i / 2];
        copies_arrived<0>();
        __syncthreads();
        sums_by_columns<T, HELD>(sums, scores, probabilities, P_PITCH, values, PITCH);
    }
    A factor[2];
    for (int half = 0; half < 2; half++) {
        total[half] = row_sum(total[half]);
        factor[half] = A(1) / total[half];
        int row = mine + row_of(2 * half);
        if (threadIdx.x % 4 == 0 && row < s.queries) log_sums[at.statistics + row] = largest[half] * A(s.scale) + logarithm(total[half]);
    }
    write_rows(y + at.queries, mine, s.queries, s.width, at.row_stride, sums, factor);
}

// products [n, heads, queries]: of each row of y with its gradient. A warp a row of a head.
template <class T> __device__ void attention_products(const T *y, const T *grad, Acc<T> *products, int heads, int queries, int width, u32 count) {
    u32 at = thread_place() / 32;
    if (at >= count) return; // whole warps, which meet no barrier
    u32 row = at % queries, head = at / queries % heads, n = at / queries / heads;
    i64 start = (i64(n) * queries + row) * heads * width + i64(head) * width;
    Acc<T> sum = 0;
    for (int i = threadIdx.x % 32; i < width; i += 32) sum += load(y[start + i]) * load(grad[start + i]);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) products[at] = sum;
}

// shared: queries and gradients [64], keys and values [ROWS_HELD], for each warp gradients of scores [16, ROWS_HELD].
template <class T, int WIDTH>
__device__ void attention_query_gradient(const Sizes &s, const T *q, const T *k, const T *v, const T *grad, const Acc<T> *log_sums,
                                         const Acc<T> *products, T *dq) {
    typedef Acc<T> A;
    constexpr int HELD = 32, PITCH = Tile<T, WIDTH>::PITCH, P_PITCH = Tile<T, HELD>::PITCH;
    DYNAMIC_SHARED(memory);
    T *queries = (T *)memory, *gradients = queries + ROWS * PITCH, *keys = gradients + ROWS * PITCH, *values = keys + HELD * PITCH;
    int warp = threadIdx.x / 32, first = blockIdx.x * ROWS, mine = first + warp * 16;
    T *slopes = values + HELD * PITCH + warp * 16 * P_PITCH;
    Place at = place_of(s);
    fetch_rows<T, WIDTH>(queries, q + at.queries, first, ROWS, s.queries, s.width, at.row_stride, threadIdx.x, WARPS * 32);
    fetch_rows<T, WIDTH>(gradients, grad + at.queries, first, ROWS, s.queries, s.width, at.row_stride, threadIdx.x, WARPS * 32);
    A sums[WIDTH / 8][4], log_sum[2], product[2];
    const A unit = A(Power<T>::UNIT), scale = A(s.scale) * unit;
    clear(sums);
    for (int half = 0; half < 2; half++) {
        int row = mine + row_of(2 * half);
        log_sum[half] = row < s.queries ? log_sums[at.statistics + row] * unit : A(0);
        product[half] = row < s.queries ? products[at.statistics + row] : A(0);
    }
    int end = s.causal && first + ROWS < s.keys ? first + ROWS : s.keys;
    for (int key = 0; key < end; key += HELD) {
        __syncthreads();
        fetch_rows<T, WIDTH>(keys, k + at.keys, key, HELD, s.keys, s.width, at.row_stride, threadIdx.x, WARPS * 32);
        fetch_rows<T, WIDTH>(values, v + at.keys, key, HELD, s.keys, s.width, at.row_stride, threadIdx.x, WARPS * 32);
        copies_end_group();
        copies_arrived<0>();
        __syncthreads();
        A scores[HELD / 8][4], by_probability[HELD / 8][4];
        rows_by_rows<T, WIDTH>(scores, queries + warp * 16 * PITCH, PITCH, keys, PITCH);
        rows_by_rows<T, WIDTH>(by_probability, gradients + warp * 16 * PITCH, PITCH, values, PITCH);
        // Rows beyond the last query have gradients of zero.
        bool edge = s.causal || key + HELD > s.keys;
        for (int n = 0; n < HELD / 8; n++)
            for (int i = 0; i < 4; i++) {
                A probability = power<T>(scores[n][i] * scale - log_sum[i / 2]);
                if (edge && !sees(s, mine + row_of(i), key + n * 8 + column_of(i))) probability = 0;
                scores[n][i] = probability * (by_probability[n][i] - product[i / 2]) * A(s.scale);
            }
        sums_by_columns<T, HELD>(sums, scores, slopes, P_PITCH, keys, PITCH);
    }
    A factor[2] = {1, 1};
    write_rows(dq + at.queries, mine, s.queries, s.width, at.row_stride, sums, factor);
}

// Here a block's rows are keys. shared: keys and values [64], queries and gradients [HELD], log sums and products [HELD], for
// each warp [16, HELD].
template <class T, int WIDTH>
__device__ void attention_key_gradient(const Sizes &s, const T *q, const T *k, const T *v, const T *grad, const Acc<T> *log_sums,
                                       const Acc<T> *products, T *dk, T *dv) {
    typedef Acc<T> A;
    constexpr int HELD = WIDTH > 128 ? 16 : 32, PITCH = Tile<T, WIDTH>::PITCH, P_PITCH = Tile<T, HELD>::PITCH;
    DYNAMIC_SHARED(memory);
    T *keys = (T *)memory, *values = keys + ROWS * PITCH, *queries = values + ROWS * PITCH, *gradients = queries + HELD * PITCH;
    int warp = threadIdx.x / 32, first = blockIdx.x * ROWS, mine = first + warp * 16;
    T *own = gradients + HELD * PITCH + warp * 16 * P_PITCH;
    A *log_sum = (A *)(gradients + HELD * PITCH + WARPS * 16 * P_PITCH), *product = log_sum + HELD;
    Place at = place_of(s);
    fetch_rows<T, WIDTH>(keys, k + at.keys, first, ROWS, s.keys, s.width, at.row_stride, threadIdx.x, WARPS * 32);
    fetch_rows<T, WIDTH>(values, v + at.keys, first, ROWS, s.keys, s.width, at.row_stride, threadIdx.x, WARPS * 32);
    A key_sums[WIDTH / 8][4], value_sums[WIDTH / 8][4];
    const A unit = A(Power<T>::UNIT), scale = A(s.scale) * unit;
    clear(key_sums);
    clear(value_sums);
    // With a causal mask no query before the block's first key sees any of them.
    for (int query = s.causal ? first / HELD * HELD : 0; query < s.queries; query += HELD) {
        __syncthreads();
        fetch_rows<T, WIDTH>(queries, q + at.queries, query, HELD, s.queries, s.width, at.row_stride, threadIdx.x, WARPS * 32);
        fetch_rows<T, WIDTH>(gradients, grad + at.queries, query, HELD, s.queries, s.width, at.row_stride, threadIdx.x, WARPS * 32);
        copies_end_group();
        if (threadIdx.x < HELD) {
            bool present = query + int(threadIdx.x) < s.queries;
            log_sum[threadIdx.x] = present ? log_sums[at.statistics + query + threadIdx.x] * unit : A(0);
            product[threadIdx.x] = present ? products[at.statistics + query + threadIdx.x] : A(0);
        }
        copies_arrived<0>();
        __syncthreads();
        A scores[HELD / 8][4], by_probability[HELD / 8][4];
        rows_by_rows<T, WIDTH>(scores, keys + warp * 16 * PITCH, PITCH, queries, PITCH);
        // Queries beyond the last and keys beyond the last are zeros, and so are the gradients of those queries.
        for (int n = 0; n < HELD / 8; n++)
            for (int i = 0; i < 4; i++) {
                int column = n * 8 + column_of(i);
                scores[n][i] = power<T>(scores[n][i] * scale - log_sum[column]);
                if (s.causal && mine + row_of(i) > query + column) scores[n][i] = 0;
            }
        sums_by_columns<T, HELD>(value_sums, scores, own, P_PITCH, gradients, PITCH);
        rows_by_rows<T, WIDTH>(by_probability, values + warp * 16 * PITCH, PITCH, gradients, PITCH);
        for (int n = 0; n < HELD / 8; n++)
            for (int i = 0; i < 4; i++) scores[n][i] *= (by_probability[n][i] - product[n * 8 + column_of(i)]) * A(s.scale);
        sums_by_columns<T, HELD>(key_sums, scores, own, P_PITCH, queries, PITCH);
    }
    A factor[2] = {1, 1};
    write_rows(dk + at.keys, mine, s.keys, s.width, at.row_stride, key_sums, factor);
    write_rows(dv + at.keys, mine, s.keys, s.width, at.row_stride, value_sums, factor);
}

#define PARAMETERS int heads, int queries, int keys, int width, int causal, double scale
#define HEAD_ENTRY(T, S, W)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(128)                                                                        \
        attention_forward_##W##_##S(const T *q, const T *k, const T *v, T *y, Acc<T> *log_sums, PARAMETERS) {                \
        attention_forward<T, W>({heads, queries, keys, width, causal, scale}, q, k, v, y, log_sums);                         \
    }                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(128)                                                                        \
        attention_query_gradient_##W##_##S(const T *q, const T *k, const T *v, const T *grad, const Acc<T> *log_sums,        \
                                           const Acc<T> *products, T *dq, PARAMETERS) {                                      \
        attention_query_gradient<T, W>({heads, queries, keys, width, causal, scale}, q, k, v, grad, log_sums, products, dq); \
    }                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(128)                                                                        \
        attention_key_gradient_##W##_##S(const T *q, const T *k, const T *v, const T *grad, const Acc<T> *log_sums,          \
                                         const Acc<T> *products, T *dk, T *dv, PARAMETERS) {                                 \
        attention_key_gradient<T, W>({heads, queries, keys, width, causal, scale}, q, k, v, grad, log_sums, products, dk, dv);               \
    }
#define ENTRY(T, S)                                                                                                          \
    FOR_HEADS(HEAD_ENTRY, T, S)                                                                                              \
    extern "C" __global__ void attention_products_##S(const T *y, const T *grad, Acc<T> *products, int heads, int queries, int width,        \
                                                      u32 count) {                                                           \
        attention_products(y, grad, products, heads, queries, width, count);                                                 \
    }
FOR_TYPES(ENTRY)
