// The global loss of Spectral Motion Alignment: means of |bands| of the difference of two clips' motion, and their gradient.
//
// Clips are [planes, frames, positions], a plane a clip and channel. A thread takes one position of one plane: its series fits
// in its own memory. Everything is computed in f64, as on the processor; partial sums are added in order.
#include "common.cuh"

enum { LONGEST = 256, MOST_BANDS = 17 };
#define HALF_ROOT 0.70710678118654752440

__device__ __forceinline__ double sign_of(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }
__device__ __forceinline__ double motion(double now, double next, int absolute) { return absolute ? fabs(next - now) : next - now; }

// The difference of motions of one position, estimate minus reference.
template <class T>
__device__ void motion_difference(const T *reference, const T *estimate, int frames, i64 positions, int absolute, double (&series)[LONGEST]) {
    for (int f = 0; f + 1 < frames; f++) {
        double target = motion(load(reference[f * positions]), load(reference[(f + 1) * positions]), absolute);
        series[f] = motion(load(estimate[f * positions]), load(estimate[(f + 1) * positions]), absolute) - target;
    }
}

// partial [blocks, levels + 1]: sums of |A|, |D1|, ..
template <class T>
__device__ void global_sums(const T *reference, const T *estimate, double *partial, int planes, int frames, i64 positions, int levels, int absolute) {
    DYNAMIC_SHARED(memory);
    double sums[MOST_BANDS] = {}, series[LONGEST];
    for (i64 i = thread_place(); i < planes * positions; i += thread_count()) {
        i64 at = i / positions * frames * positions + i % positions;
        motion_difference(reference + at, estimate + at, frames, positions, absolute, series);
        int n = frames - 1;
        for (int level = 1; level <= levels; level++) {
            int half = (n + 1) / 2;
            for (int k = 0; k < half; k++) {
                double even = series[2 * k], odd = 2 * k + 1 < n ? series[2 * k + 1] : 0;
                sums[level] += fabs((even - odd) * HALF_ROOT);
                series[k] = (even + odd) * HALF_ROOT;
            }
            n = half;
        }
        for (int k = 0; k < n; k++) sums[0] += fabs(series[k]);
    }
    for (int band = 0; band <= levels; band++) {
        double sum = block_sum(sums[band], (double *)memory);
        if (threadIdx.x == 0) partial[blockIdx.x * (levels + 1) + band] = sum;
    }
}

// values [levels + 1]: the mean of each band. One block.
template <class T> __device__ void global_means(const double *partial, T *values, int blocks, int planes, int frames, i64 positions, int levels) {
    int band = threadIdx.x, length = frames - 1;
    if (band > levels) return;
    for (int level = 0; level < (band ? band : levels); level++) length = (length + 1) / 2;
    double sum = 0;
    for (int i = 0; i < blocks; i++) sum += partial[i * (levels + 1) + band];
    values[band] = T(sum / (double(planes) * double(positions) * length));
}

// slope: of the estimate, given that of each mean.
template <class T>
__device__ void global_gradient(const T *reference, const T *estimate, const T *by_means, T *slope, int planes, int frames, i64 positions,
                                int levels, int absolute) {
    double series[LONGEST], highs[LONGEST + MOST_BANDS];
    for (i64 i = thread_place(); i < planes * positions; i += thread_count()) {
        i64 at = i / positions * frames * positions + i % positions;
        motion_difference(reference + at, estimate + at, frames, positions, absolute, series);
        int n = frames - 1, lengths[MOST_BANDS], offset = 0;
        double count = double(planes) * double(positions);
        for (int level = 0; level < levels; level++) {
            int half = (n + 1) / 2;
            double by_high = double(by_means[level + 1]) / (count * half);
            lengths[level] = n;
            for (int k = 0; k < half; k++) {
                double even = series[2 * k], odd = 2 * k + 1 < n ? series[2 * k + 1] : 0;
                highs[offset + k] = by_high * sign_of((even - odd) * HALF_ROOT);
                series[k] = (even + odd) * HALF_ROOT;
            }
            offset += half;
            n = half;
        }
        for (int k = 0; k < n; k++) series[k] = double(by_means[0]) / (count * n) * sign_of(series[k]);
        for (int level = levels - 1; level >= 0; level--) {
            offset -= n;
            for (int k = n - 1; k >= 0; k--) {
                double low = series[k], high = highs[offset + k];
                if (2 * k + 1 < lengths[level]) series[2 * k + 1] = (low - high) * HALF_ROOT;
                series[2 * k] = (low + high) * HALF_ROOT;
            }
            n = lengths[level];
        }
        double before = 0;
        for (int f = 0; f < frames; f++) {
            double after = 0;
            if (f + 1 < frames) {
                after = series[f];
                if (absolute) after *= sign_of(double(estimate[at + (f + 1) * positions]) - double(estimate[at + f * positions]));
            }
            slope[at + f * positions] = T(before - after);
            before = after;
        }
    }
}

#define ENTRY(T, S)                                                                                                          \
    extern "C" __global__ void global_sums_##S(const T *reference, const T *estimate, double *partial, int planes, int frames, u64 positions, \
                                               int levels, int absolute) {                                                   \
        global_sums(reference, estimate, partial, planes, frames, i64(positions), levels, absolute);                         \
    }                                                                                                                        \
    extern "C" __global__ void global_means_##S(const double *partial, T *values, int blocks, int planes, int frames, u64 positions,          \
                                                int levels) {                                                                \
        global_means(partial, values, blocks, planes, frames, i64(positions), levels);                                       \
    }                                                                                                                        \
    extern "C" __global__ void global_gradient_##S(const T *reference, const T *estimate, const T *by_means, T *slope, int planes,            \
                                                   int frames, u64 positions, int levels, int absolute) {                    \
        global_gradient(reference, estimate, by_means, slope, planes, frames, i64(positions), levels, absolute);             \
    }
#ifdef FOR_TYPES_IS_ALL
ENTRY(double, f64) ENTRY(float, f32)
#else
FOR_TYPES(ENTRY)
#endif
