// Group norm of x [images, rows, channels] over the rows and the channels of a group, alone or followed by SiLU.
//
// An image is cut into pieces of `piece` rows, a block each. Pieces give count, mean and squared deviations of every group,
// which are merged (Chan, Golub and LeVeque 1979): no difference of large sums. Pieces are summed in order: no atomics.
#include "common.cuh"

template <class A> struct Moments {
    A count, mean, squares;
    __device__ void merge(const Moments &other) {
        if (other.count == 0) return;
        A total = count + other.count, shift = other.mean - mean;
        mean += shift * other.count / total;
        squares += other.squares + shift * shift * count * other.count / total;
        count = total;
    }
};

// Sums of each channel in `sums` [channels] to those of each group in `groups_sums` [groups].
template <class A> __device__ void sum_groups(const A *sums, A *group_sums, int groups, int wide) {
    __syncthreads();
    for (int g = threadIdx.x; g < groups; g += blockDim.x) {
        A sum = 0;
        for (int c = 0; c < wide; c++) sum += sums[g * wide + c];
        group_sums[g] = sum;
    }
    __syncthreads();
}

// grid (pieces, images); shared: [channels + groups] of Acc. moments [images, pieces, groups, 2]: mean, squares.
template <class T>
__device__ void group_norm_moments(const T *x, Acc<T> *moments, int rows, int channels, int groups, int piece) {
    typedef Acc<T> A;
    DYNAMIC_SHARED(memory);
    A *sums = (A *)memory, *means = sums + channels;
    int first = blockIdx.x * piece, count = rows - first < piece ? rows - first : piece, wide = channels / groups;
    x += (i64(blockIdx.y) * rows + first) * channels;
    A *out = moments + (i64(blockIdx.y) * gridDim.x + blockIdx.x) * groups * 2;
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        A sum = 0;
        for (int r = 0; r < count; r++) sum += load(x[i64(r) * channels + c]);
        sums[c] = sum;
    }
    sum_groups(sums, means, groups, wide);
    for (int g = threadIdx.x; g < groups; g += blockDim.x) means[g] /= A(count) * wide;
    __syncthreads();
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        A sum = 0, mean = means[c / wide];
        for (int r = 0; r < count; r++) {
            A d = load(x[i64(r) * channels + c]) - mean;
            sum += d * d;
        }
        sums[c] = sum;
    }
    __syncthreads();
    for (int g = threadIdx.x; g < groups; g += blockDim.x) {
        A sum = 0;
        for (int c = 0; c < wide; c++) sum += sums[g * wide + c];
        out[2 * g] = means[g];
        out[2 * g + 1] = sum;
    }
}

template <class A> __device__ __forceinline__ Moments<A> of_lane(const Moments<A> &mine, int step) {
    return {__shfl_xor_sync(0xffffffffu, mine.count, step), __shfl_xor_sync(0xffffffffu, mine.mean, step),
            __shfl_xor_sync(0xffffffffu, mine.squares, step)};
}

// A block a group; shared: [warps, 3] of Acc. statistics [images, groups, 2]: mean and reciprocal standard deviation.
template <class A>
__device__ void group_norm_statistics(const A *moments, A *statistics, int groups, int pieces, int rows, int wide, int piece, A eps) {
    DYNAMIC_SHARED(memory);
    Moments<A> *of_warps = (Moments<A> *)memory;
    int image = blockIdx.x / groups, group = blockIdx.x % groups, lane = threadIdx.x % 32;
    Moments<A> all = {0, 0, 0};
    for (int p = threadIdx.x; p < pieces; p += blockDim.x) {
        const A *from = moments + ((i64(image) * pieces + p) * groups + group) * 2;
        int count = rows - p * piece < piece ? rows - p * piece : piece;
        Moments<A> some = {A(count) * wide, from[0], from[1]};
        all.merge(some);
    }
    for (int step = 1; step < 32; step *= 2) {
        Moments<A> other = of_lane(all, step);
        // The lower lane's first in both, so that both know the same sum.
        if (lane & step) {
            Moments<A> mine = all;
            all = other;
            other = mine;
        }
        all.merge(other);
    }
    if (lane == 0) of_warps[threadIdx.x / 32] = all;
    __syncthreads();
    if (threadIdx.x) return;
    for (int warp = 1; warp < int(blockDim.x) / 32; warp++) all.merge(of_warps[warp]);
    statistics[2 * blockIdx.x] = all.mean;
    statistics[2 * blockIdx.x + 1] = A(1) / square_root(all.squares / all.count + eps);
}

// A channel and its group, one after the other: a division costs as much as the rest of a number's arithmetic.
struct Channels {
    u32 channel, group, wide, left;
    __device__ __forceinline__ Channels(u32 first, u32 wide) : channel(first), group(first / wide), wide(wide) {
        left = wide - (first - group * wide);
    }
    __device__ __forceinline__ void next() {
        channel++;
        if (--left == 0) {
            group++;
            left = wide;
        }
    }
};

// grid (.., images).
template <class T, int V>
__device__ void group_norm_apply(const T *x, const Acc<T> *statistics, const Acc<T> *w, const Acc<T> *b, T *y, u32 channels, int groups,
                                 int silu, u32 runs) {
    u32 wide = channels / groups, width = channels / V;
    const Run<T, V> *from = (const Run<T, V> *)x + u64(blockIdx.y) * runs;
    Run<T, V> *to = (Run<T, V> *)y + u64(blockIdx.y) * runs;
    statistics += u64(blockIdx.y) * groups * 2;
    for (u32 i = thread_place(); i < runs; i += thread_count()) {
        Run<T, V> run = from[i];
        Channels at(i % width * V, wide);
        for (int j = 0; j < V; j++, at.next()) {
            const Acc<T> *of = statistics + at.group * 2;
            Acc<T> n = (load(run.numbers[j]) - of[0]) * of[1] * w[at.channel] + b[at.channel];
            run.numbers[j] = store<T>(silu ? gated(n, Acc<T>(1)) : n);
        }
        to[i] = run;
    }
}

// The gradient of the normed number, and the normed number.
template <class T>
__device__ __forceinline__ void gradient_of_normed(T x, T g, const Acc<T> *of, Acc<T> w, Acc<T> b, int silu, Acc<T> &h, Acc<T> &n) {
    n = (load(x) - of[0]) * of[1];
    h = load(g);
    if (silu) h *= gated_slope(n * w + b, Acc<T>(1));
    h *= w;
}

// grid (pieces, images); shared: [2 channels + groups] of Acc. sums [images, pieces, groups, 2]: of h and of h n.
template <class T>
__device__ void group_norm_sums(const T *x, const T *grad, const Acc<T> *statistics, const Acc<T> *w, const Acc<T> *b, Acc<T> *out, int rows,
                                int channels, int groups, int piece, int silu) {
    typedef Acc<T> A;
    DYNAMIC_SHARED(memory);
    A *first_sums = (A *)memory, *second_sums = first_sums + channels;
    int first = blockIdx.x * piece, count = rows - first < piece ? rows - first : piece, wide = channels / groups;
    i64 start = (i64(blockIdx.y) * rows + first) * channels;
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        const A *of = statistics + (i64(blockIdx.y) * groups + c / wide) * 2;
        A sum = 0, product = 0;
        for (int r = 0; r < count; r++) {
            i64 at = start + i64(r) * channels + c;
            A h, n;
            gradient_of_normed(x[at], grad[at], of, w[c], b[c], silu, h, n);
            sum += h;
            product += h * n;
        }
        first_sums[c] = sum;
        second_sums[c] = product;
    }
    __syncthreads();
    out += (i64(blockIdx.y) * gridDim.x + blockIdx.x) * groups * 2;
    for (int i = threadIdx.x; i < 2 * groups; i += blockDim.x) {
        const A *sums = i % 2 ? second_sums : first_sums;
        A sum = 0;
        for (int c = 0; c < wide; c++) sum += sums[i / 2 * wide + c];
        out[i] = sum;
    }
}

// A warp for each of [images, groups, 2]: the mean over an image's pieces.
template <class A> __device__ void group_norm_means(const A *sums, A *means, int images, int groups, int pieces, A count) {
    int at = int(thread_place() / 32);
    if (at >= images * groups * 2) return;
    int image = at / (2 * groups), place = at % (2 * groups);
    A sum = 0;
    for (int p = threadIdx.x % 32; p < pieces; p += 32) sum += sums[(i64(image) * pieces + p) * groups * 2 + place];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) means[at] = sum / count;
}

// dx = (h - mean(h) - n mean(h n)) rate; grid (.., images).
template <class T, int V>
__device__ void group_norm_gradient(const T *x, const T *grad, const Acc<T> *statistics, const Acc<T> *means, const Acc<T> *w, const Acc<T> *b,
                                    T *dx, u32 channels, int groups, int silu, u32 runs) {
    u32 wide = channels / groups, width = channels / V;
    u64 image = u64(blockIdx.y) * runs;
    statistics += u64(blockIdx.y) * groups * 2;
    means += u64(blockIdx.y) * groups * 2;
    for (u32 i = thread_place(); i < runs; i += thread_count()) {
        Run<T, V> run = ((const Run<T, V> *)x)[image + i], slope = ((const Run<T, V> *)grad)[image + i];
        Channels at(i % width * V, wide);
        for (int j = 0; j < V; j++, at.next()) {
            u32 group = at.group * 2;
            Acc<T> h, n;
            gradient_of_normed(run.numbers[j], slope.numbers[j], statistics + group, w[at.channel], b[at.channel], silu, h, n);
            run.numbers[j] = store<T>((h - means[group] - n * means[group + 1]) * statistics[group + 1]);
        }
        ((Run<T, V> *)dx)[image + i] = run;
    }
}

#define ENTRY(T, S)                                                                                                          \
    extern "C" __global__ void group_norm_moments_##S(const T *x, Acc<T> *moments, int rows, int channels, int groups, int piece) {          \
        group_norm_moments(x, moments, rows, channels, groups, piece);                                                       \
    }                                                                                                                        \
    extern "C" __global__ void group_norm_statistics_##S(const Acc<T> *moments, Acc<T> *statistics, int groups, int pieces, int rows,        \
                                                         int wide, int piece, double eps) {                                  \
        group_norm_statistics(moments, statistics, groups, pieces, rows, wide, piece, Acc<T>(eps));                          \
    }                                                                                                                        \
    extern "C" __global__ void group_norm_apply_##S(const T *x, const Acc<T> *statistics, const Acc<T> *w, const Acc<T> *b, T *y,            \
                                                    int packed, u32 channels, int groups, int silu, u32 runs) {              \
        BY_RUNS(T, packed, group_norm_apply, x, statistics, w, b, y, channels, groups, silu, runs);                          \
    }                                                                                                                        \
    extern "C" __global__ void group_norm_sums_##S(const T *x, const T *grad, const Acc<T> *statistics, const Acc<T> *w, const Acc<T> *b,    \
                                                   Acc<T> *sums, int rows, int channels, int groups, int piece, int silu) {  \
        group_norm_sums(x, grad, statistics, w, b, sums, rows, channels, groups, piece, silu);                               \
    }                                                                                                                        \
    extern "C" __global__ void group_norm_means_##S(const Acc<T> *sums, Acc<T> *means, int images, int groups, int pieces, u64 count) {      \
        group_norm_means(sums, means, images, groups, pieces, Acc<T>(count));                                                \
    }                                                                                                                        \
    extern "C" __global__ void group_norm_gradient_##S(const T *x, const T *grad, const Acc<T> *statistics, const Acc<T> *means,             \
                                                       const Acc<T> *w, const Acc<T> *b, T *dx, int packed, u32 channels, int groups,        \
                                                       int silu, u32 runs) {                                                 \
        BY_RUNS(T, packed, group_norm_gradient, x, grad, statistics, means, w, b, dx, channels, groups, silu, runs);         \
    }
FOR_TYPES(ENTRY)
