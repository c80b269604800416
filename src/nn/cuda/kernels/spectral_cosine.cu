// VMC's loss: one minus the mean cosine between the motion of an estimate and of a target, and its gradient, in f64.
//
// Clips are [clips, channels, frames, positions]. A vector runs along the frames of one position and channel, or over all
// channels and positions of one frame.
#include "common.cuh"

struct Motion {
    int clips, channels, frames, absolute, along_pixels;
    i64 positions;
    __device__ i64 vectors() const { return along_pixels ? i64(clips) * (frames - 1) : i64(clips) * channels * positions; }
};

// Norms are at least this before dividing.
#define LEAST_NORM 1e-8

__device__ __forceinline__ double sign_of(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }
template <class T> __device__ __forceinline__ double motion(const Motion &m, const T *x, i64 at) {
    double d = double(x[at + m.positions]) - double(x[at]);
    return m.absolute ? fabs(d) : d;
}

// sums [vectors, 3]: e t, e e, t t. A thread a vector.
template <class T> __device__ void cosine_sums_frames(const Motion &m, const T *estimate, const T *target, double *sums) {
    for (i64 i = thread_place(); i < m.vectors(); i += thread_count()) {
        i64 start = i / m.positions * m.frames * m.positions + i % m.positions;
        double et = 0, ee = 0, tt = 0;
        for (int f = 0; f + 1 < m.frames; f++) {
            double e = motion(m, estimate, start + f * m.positions), t = motion(m, target, start + f * m.positions);
            et += e * t;
            ee += e * e;
            tt += t * t;
        }
        sums[3 * i] = et;
        sums[3 * i + 1] = ee;
        sums[3 * i + 2] = tt;
    }
}
// The same, a block a vector.
template <class T> __device__ void cosine_sums_pixels(const Motion &m, const T *estimate, const T *target, double *sums) {
    DYNAMIC_SHARED(memory);
    i64 clip = blockIdx.x / (m.frames - 1), frame = blockIdx.x % (m.frames - 1);
    double own[3] = {0, 0, 0};
    for (i64 i = threadIdx.x; i < m.channels * m.positions; i += blockDim.x) {
        i64 at = ((clip * m.channels + i / m.positions) * m.frames + frame) * m.positions + i % m.positions;
        double e = motion(m, estimate, at), t = motion(m, target, at);
        own[0] += e * t;
        own[1] += e * e;
        own[2] += t * t;
    }
    for (int i = 0; i < 3; i++) {
        double sum = block_sum(own[i], (double *)memory);
        if (threadIdx.x == 0) sums[3 * i64(blockIdx.x) + i] = sum;
    }
}

__device__ __forceinline__ double cosine(const double *sums, double &norm, double &by_target) {
    norm = sqrt(sums[1]);
    double clamped = norm > LEAST_NORM ? norm : LEAST_NORM, other = sqrt(sums[2]);
    by_target = 1.0 / (clamped * (other > LEAST_NORM ? other : LEAST_NORM));
    return sums[0] * by_target;
}

// value [1]. One block.
template <class T> __device__ void cosine_value(const Motion &m, const double *sums, T *value) {
    DYNAMIC_SHARED(memory);
    double sum = 0, norm, by_target;
    for (i64 i = threadIdx.x; i < m.vectors(); i += blockDim.x) sum += cosine(sums + 3 * i, norm, by_target);
    sum = block_sum(sum, (double *)memory);
    if (threadIdx.x == 0) value[0] = T(1.0 - sum / double(m.vectors()));
}

// Derivative of the mean cosine by the estimate's motion at `at`, of frame `f`.
template <class T>
__device__ __forceinline__ double cosine_slope(const Motion &m, const T *estimate, const T *target, const double *sums, i64 at, i64 f) {
    i64 plane = at / m.positions / m.frames;
    i64 vector = m.along_pixels ? plane / m.channels * (m.frames - 1) + f : plane * m.positions + at % m.positions;
    double norm, by_target, value = cosine(sums + 3 * vector, norm, by_target);
    double by_estimate = norm == 0 ? 0 : value / ((norm > LEAST_NORM ? norm : LEAST_NORM) * norm);
    double slope = motion(m, target, at) * by_target - motion(m, estimate, at) * by_estimate;
    // The clip's derivative of |d| at 0 is 0.
    return m.absolute ? slope * sign_of(double(estimate[at + m.positions]) - double(estimate[at])) : slope;
}

template <class T>
__device__ void cosine_gradient(const Motion &m, const T *estimate, const T *target, const double *sums, const T *by_value, T *out) {
    double scale = -double(by_value[0]) / double(m.vectors());
    for (i64 i = thread_place(); i < i64(m.clips) * m.channels * m.frames * m.positions; i += thread_count()) {
        i64 f = i / m.positions % m.frames;
        double sum = 0;
        if (f > 0) sum += cosine_slope(m, estimate, target, sums, i - m.positions, f - 1);
        if (f + 1 < m.frames) sum -= cosine_slope(m, estimate, target, sums, i, f);
        out[i] = T(scale * sum);
    }
}

#define MOTION int clips, int channels, int frames, int absolute, int along_pixels, u64 positions
#define GIVEN {clips, channels, frames, absolute, along_pixels, i64(positions)}
#define ENTRY(T, S)                                                                                                          \
    extern "C" __global__ void cosine_sums_frames_##S(const T *estimate, const T *target, double *sums, MOTION) {            \
        cosine_sums_frames(GIVEN, estimate, target, sums);                                                                   \
    }                                                                                                                        \
    extern "C" __global__ void cosine_sums_pixels_##S(const T *estimate, const T *target, double *sums, MOTION) {            \
        cosine_sums_pixels(GIVEN, estimate, target, sums);                                                                   \
    }                                                                                                                        \
    extern "C" __global__ void cosine_value_##S(const double *sums, T *value, MOTION) { cosine_value(GIVEN, sums, value); }  \
    extern "C" __global__ void cosine_gradient_##S(const T *estimate, const T *target, const double *sums, const T *by_value, T *out,        \
                                                   MOTION) {                                                                 \
        cosine_gradient(GIVEN, estimate, target, sums, by_value, out);                                                       \
    }
#ifdef FOR_TYPES_IS_ALL
ENTRY(double, f64) ENTRY(float, f32)
#else
FOR_TYPES(ENTRY)
#endif
