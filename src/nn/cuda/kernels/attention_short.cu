// Attention over at most 64 tokens for very many sequences (the frames of each place of a clip): a warp a head of a sequence,
// everything of it in shared memory, no barrier between warps.
#include "attention.cuh"

// X(type, suffix, head width, tokens) as FOR_HEADS, tokens 16, 32 or 64.
#ifndef FOR_LENGTHS
#define FOR_LENGTHS(X, T, S, W) X(T, S, W, 16) X(T, S, W, 32) X(T, S, W, 64)
#endif

struct Problem {
    bool present;
    i64 queries, keys, row_stride;
};

__device__ __forceinline__ Problem problem_of(const Sizes &s, u32 count) {
    u32 at = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    i64 stride = i64(s.heads) * s.width, n = at / s.heads, head = at % s.heads * i64(s.width);
    return {at < count, n * s.queries * stride + head, n * s.keys * stride + head, stride};
}

// Scores to probabilities of whole rows; gives the logarithm of each row's sum. `query` is the first row's.
template <class A, int N> __device__ __forceinline__ void softmax(const Sizes &s, int query, A (&scores)[N][4], A (&log_sum)[2]) {
    A largest[2] = {HIDDEN, HIDDEN}, total[2] = {0, 0};
    for (int n = 0; n < N; n++)
        for (int i = 0; i < 4; i++) {
            bool seen = sees(s, query + row_of(i), n * 8 + column_of(i));
            scores[n][i] = seen ? scores[n][i] * A(s.scale) : A(HIDDEN);
            largest[i / 2] = larger(largest[i / 2], scores[n][i]);
        }
    for (int half = 0; half < 2; half++) largest[half] = row_largest(largest[half]);
    for (int n = 0; n < N; n++)
        for (int i = 0; i < 4; i++) {
            scores[n][i] = scores[n][i] > A(HIDDEN) ? exponential(scores[n][i] - largest[i / 2]) : A(0);
            total[i / 2] += scores[n][i];
        }
    for (int half = 0; half < 2; half++) {
        total[half] = row_sum(total[half]);
        log_sum[half] = largest[half] + logarithm(total[half]);
    }
    for (int n = 0; n < N; n++)
        for (int i = 0; i < 4; i++) scores[n][i] /= total[i / 2];
}

// shared, for each warp: queries [16], keys and values [TOKENS], probabilities [16, TOKENS].
template <class T, int WIDTH, int TOKENS>
__device__ void attention_short_forward(const Sizes &s, const T *q, const T *k, const T *v, T *y, u32 count) {
    typedef Acc<T> A;
    constexpr int PITCH = Tile<T, WIDTH>::PITCH, P_PITCH = Tile<T, TOKENS>::PITCH, OWN = (16 + 2 * TOKENS) * PITCH + 16 * P_PITCH;
    DYNAMIC_SHARED(memory);
    T *queries = (T *)memory + threadIdx.x / 32 * OWN, *keys = queries + 16 * PITCH, *values = keys + TOKENS * PITCH, *probabilities = values + TOKENS * PITCH;
    Problem at = problem_of(s, count);
    if (!at.present) return;
    int lane = lane_of_warp();
    fetch_rows<T, WIDTH>(keys, k + at.keys, 0, TOKENS, s.keys, s.width, at.row_stride, lane, 32);
    fetch_rows<T, WIDTH>(values, v + at.keys, 0, TOKENS, s.keys, s.width, at.row_stride, lane, 32);
    for (int query = 0; query < s.queries; query += 16) {
        fetch_rows<T, WIDTH>(queries, q + at.queries, query, 16, s.queries, s.width, at.row_stride, lane, 32);
        copies_end_group();
        copies_arrived<0>();
        __syncwarp();
        A scores[TOKENS / 8][4], sums[WIDTH / 8][4], log_sum[2], factor[2] = {1, 1};
        rows_by_rows<T, WIDTH>(scores, queries, PITCH, keys, PITCH);
        softmax(s, query, scores, log_sum);
        keep(probabilities, P_PITCH, scores);
        __syncwarp();
        clear(sums);
        rows_by_columns<T, TOKENS>(sums, probabilities, P_PITCH, values, PITCH);
        write_rows(y + at.queries, query, s.queries, s.width, at.row_stride, sums, factor);
        __syncwarp(); // queries and probabilities have been read
    }
}

// shared, for each warp: queries, gradients, keys, values [TOKENS], own [16, TOKENS], log sums and products [TOKENS] of Acc.
template <class T, int WIDTH, int TOKENS>
__device__ void attention_short_backward(const Sizes &s, const T *q, const T *k, const T *v, const T *grad, T *dq, T *dk, T *dv, u32 count) {
    typedef Acc<T> A;
    constexpr int PITCH = Tile<T, WIDTH>::PITCH, P_PITCH = Tile<T, TOKENS>::PITCH, N = TOKENS / 8;
    constexpr int OWN = 4 * TOKENS * PITCH + 16 * P_PITCH + 2 * TOKENS * int(sizeof(A) / sizeof(T));
    DYNAMIC_SHARED(memory);
    T *queries = (T *)memory + threadIdx.x / 32 * OWN, *gradients = queries + TOKENS * PITCH, *keys = gradients + TOKENS * PITCH;
    T *values = keys + TOKENS * PITCH, *own = values + TOKENS * PITCH;
    A *log_sums = (A *)(own + 16 * P_PITCH), *products = log_sums + TOKENS;
    Problem at = problem_of(s, count);
    if (!at.present) return;
    int lane = lane_of_warp();
    fetch_rows<T, WIDTH>(queries, q + at.queries, 0, TOKENS, s.queries, s.width, at.row_stride, lane, 32);
    fetch_rows<T, WIDTH>(gradients, grad + at.queries, 0, TOKENS, s.queries, s.width, at.row_stride, lane, 32);
    fetch_rows<T, WIDTH>(keys, k + at.keys, 0, TOKENS, s.keys, s.width, at.row_stride, lane, 32);
    fetch_rows<T, WIDTH>(values, v + at.keys, 0, TOKENS, s.keys, s.width, at.row_stride, lane, 32);
    copies_end_group();
    copies_arrived<0>();
    __syncwarp();
    A scores[N][4], by_probability[N][4], factor[2] = {1, 1};
    for (int query = 0; query < s.queries; query += 16) {
        A log_sum[2], product[2] = {0, 0}, sums[WIDTH / 8][4];
        rows_by_rows<T, WIDTH>(scores, queries + query * PITCH, PITCH, keys, PITCH);
        softmax(s, query, scores, log_sum);
        rows_by_rows<T, WIDTH>(by_probability, gradients + query * PITCH, PITCH, values, PITCH);
        for (int n = 0; n < N; n++)
            for (int i = 0; i < 4; i++) product[i / 2] += scores[n][i] * by_probability[n][i];
        for (int half = 0; half < 2; half++) {
            product[half] = row_sum(product[half]);
            if (lane % 4 == 0) {
                log_sums[query + row_of(2 * half)] = log_sum[half];
                products[query + row_of(2 * half)] = product[half];
            }
        }
        for (int n = 0; n < N; n++)
            for (int i = 0; i < 4; i++) scores[n][i] *= (by_probability[n][i] - product[i / 2]) * A(s.scale);
        keep(own, P_PITCH, scores);
        __syncwarp();
        clear(sums);
        rows_by_columns<T, TOKENS>(sums, own, P_PITCH, keys, PITCH);
        write_rows(dq + at.queries, query, s.queries, s.width, at.row_stride, sums, factor);
        __syncwarp();
    }
    for (int key = 0; key < s.keys; key += 16) {
        A sums[WIDTH / 8][4];
        rows_by_rows<T, WIDTH>(scores, keys + key * PITCH, PITCH, queries, PITCH);
        for (int n = 0; n < N; n++)
            for (int i = 0; i < 4; i++) {
                int query = n * 8 + column_of(i);
                bool seen = query < s.queries && sees(s, query, key + row_of(i));
                scores[n][i] = seen ? exponential(scores[n][i] * A(s.scale) - log_sums[query]) : A(0);
            }
        keep(own, P_PITCH, scores);
        __syncwarp();
        clear(sums);
        rows_by_columns<T, TOKENS>(sums, own, P_PITCH, gradients, PITCH);
        write_rows(dv + at.keys, key, s.keys, s.width, at.row_stride, sums, factor);
        rows_by_rows<T, WIDTH>(by_probability, values + key * PITCH, PITCH, gradients, PITCH);
        for (int n = 0; n < N; n++)
            for (int i = 0; i < 4; i++) {
                int query = n * 8 + column_of(i);
                A slope = query < s.queries ? by_probability[n][i] - products[query] : A(0);
                scores[n][i] *= slope * A(s.scale);
            }
        __syncwarp();
        keep(own, P_PITCH, scores);
        __syncwarp();
        clear(sums);
        rows_by_columns<T, TOKENS>(sums, own, P_PITCH, queries, PITCH);
        write_rows(dk + at.keys, key, s.keys, s.width, at.row_stride, sums, factor);
        __syncwarp();
    }
}

#define PARAMETERS int heads, int queries, int keys, int width, int causal, double scale, u32 count
#define LENGTH_ENTRY(T, S, W, L)                                                                                             \
    extern "C" __global__ void __launch_bounds__(128)                                                                        \
        attention_short_forward_##W##_##L##_##S(const T *q, const T *k, const T *v, T *y, PARAMETERS) {                      \
        attention_short_forward<T, W, L>({heads, queries, keys, width, causal, scale}, q, k, v, y, count);                   \
    }                                                                                                                        \
    extern "C" __global__ void __launch_bounds__(128)                                                                        \
        attention_short_backward_##W##_##L##_##S(const T *q, const T *k, const T *v, const T *grad, T *dq, T *dk, T *dv, PARAMETERS) {       \
        attention_short_backward<T, W, L>({heads, queries, keys, width, causal, scale}, q, k, v, grad, dq, dk, dv, count);   \
    }
#define HEAD_ENTRY(T, S, W) FOR_LENGTHS(LENGTH_ENTRY, T, S, W)
#define ENTRY(T, S) FOR_HEADS(HEAD_ENTRY, T, S)
FOR_TYPES(ENTRY)
