// The local loss of Spectral Motion Alignment: weighted L1 between amplitudes and between phases of each motion frame's
// spectrum, and its gradient. Discrete Fourier transforms of any size as plain sums in f64: frames are small.
//
// Clips are [planes, frames, h, w]; `half` is w / 2 + 1 (the other columns mirror these); `pictures` is planes (frames - 1).
// Tables `rows` and `columns` hold cos and sin of 2 pi i / w and / h. Transforms are complex, re and im side by side.
#include "common.cuh"

struct Clips {
    int planes, frames, h, w, absolute;
    __device__ int half() const { return w / 2 + 1; }
    __device__ i64 pictures() const { return i64(planes) * (frames - 1); }
    // Where the picture's frame begins in a clip.
    __device__ i64 start(i64 picture) const { return (picture / (frames - 1) * frames + picture % (frames - 1)) * h * w; }
};

// Below this |F| derivatives stop growing.
#define SILENT 1e-6
#define TURN 6.283185307179586477

__device__ __forceinline__ double sign_of(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }

// out [2 clips, pictures, h, half]: transforms of the rows of the motion; estimate second.
template <class T> __device__ void local_rows(const Clips &c, const T *reference, const T *estimate, const double *rows, double *out) {
    i64 each = c.pictures() * c.h * c.half();
    for (i64 i = thread_place(); i < 2 * each; i += thread_count()) {
        i64 line = i % each / c.half();
        int l = int(i % c.half()), place = 0;
        const T *now = (i < each ? reference : estimate) + c.start(line / c.h) + line % c.h * c.w, *next = now + i64(c.h) * c.w;
        double re = 0, im = 0;
        for (int x = 0; x < c.w; x++) {
            double d = double(next[x]) - double(now[x]);
            if (c.absolute) d = fabs(d);
            re += d * rows[2 * place];
            im -= d * rows[2 * place + 1];
            place += l;
            if (place >= c.w) place -= c.w;
        }
        out[2 * i] = re;
        out[2 * i + 1] = im;
    }
}

// One bin of a column of a picture's rows.
__device__ __forceinline__ void column_bin(const Clips &c, const double *lines, const double *columns, int l, int k, double &re, double &im) {
    int place = 0;
    re = im = 0;
    for (int y = 0; y < c.h; y++) {
        const double *z = lines + 2 * (i64(y) * c.half() + l);
        double cosine = columns[2 * place], sine = columns[2 * place + 1];
        re += z[0] * cosine + z[1] * sine;
        im += z[1] * cosine - z[0] * sine;
        place += k;
        if (place >= c.h) place -= c.h;
    }
}

// lines as local_rows gives them, weight and mask [half, h]; partial [blocks, 2] sums of both terms; slopes [pictures, half, h]
// of amplitude and phase by the estimate's bin, two complex numbers each.
__device__ void local_compare(const Clips &c, const double *lines, const double *columns, const double *weight, const double *mask,
                              double *partial, double *slopes, int wrap) {
    DYNAMIC_SHARED(memory);
    double sums[2] = {0, 0};
    i64 bins = i64(c.half()) * c.h, each = c.pictures() * bins;
    for (i64 i = thread_place(); i < each; i += thread_count()) {
        int bin = int(i % bins), l = bin / c.h, k = bin % c.h;
        const double *picture = lines + 2 * (i / bins * bins);
        double re_0, im_0, re, im;
        column_bin(c, picture, columns, l, k, re_0, im_0);
        column_bin(c, picture + 2 * each, columns, l, k, re, im);
        double real = mask[bin], w = weight[bin];
        // Adding 0 turns -0 into +0, so that a negative real number is always at +pi.
        im = im * real + 0.0;
        im_0 = im_0 * real + 0.0;
        double amplitude = sqrt(re * re + im * im), difference = amplitude - sqrt(re_0 * re_0 + im_0 * im_0);
        sums[0] += w * fabs(difference);
        double bounded = amplitude > SILENT ? amplitude : SILENT, slope = w * sign_of(difference) / bounded;
        slopes[4 * i] = re * slope;
        slopes[4 * i + 1] = im * slope;
        difference = atan2(im, re + 0.0) - atan2(im_0, re_0 + 0.0);
        if (wrap) difference -= ceil((difference - TURN / 2) / TURN) * TURN; // to (-pi, pi]
        sums[1] += w * fabs(difference);
        slope = w * sign_of(difference) / (bounded * bounded);
        slopes[4 * i + 2] = -im * slope;
        slopes[4 * i + 3] = re * real * slope;
    }
    for (int term = 0; term < 2; term++) {
        double sum = block_sum(sums[term], (double *)memory);
        if (threadIdx.x == 0) partial[2 * blockIdx.x + term] = sum;
    }
}

// values [2]: amplitude term, phase term. One block.
template <class T> __device__ void local_values(const Clips &c, const double *partial, T *values, int blocks, double amplitude_scale) {
    if (threadIdx.x > 1) return;
    double sum = 0;
    for (int i = 0; i < blocks; i++) sum += partial[2 * i + threadIdx.x];
    if (threadIdx.x == 0) sum *= amplitude_scale;
    values[threadIdx.x] = T(sum / (double(c.pictures()) * c.h * c.w));
}

// slopes of both terms, and the gradient of each, to lines [pictures, h, half]: columns transformed back.
template <class T>
__device__ void local_columns_back(const Clips &c, const double *slopes, const T *by_values, const double *columns, double *lines, double amplitude_scale) {
    double count = double(c.pictures()) * c.h * c.w;
    double by_amplitude = double(by_values[0]) * amplitude_scale / count, by_phase = double(by_values[1]) / count;
    for (i64 i = thread_place(); i < c.pictures() * c.h * c.half(); i += thread_count()) {
        i64 line = i / c.half();
        int l = int(i % c.half()), y = int(line % c.h), place = 0;
        const double *column = slopes + 4 * ((line / c.h * c.half() + l) * c.h);
        double re = 0, im = 0;
        for (int k = 0; k < c.h; k++) {
            double a = column[4 * k] * by_amplitude + column[4 * k + 2] * by_phase;
            double b = column[4 * k + 1] * by_amplitude + column[4 * k + 3] * by_phase;
            double cosine = columns[2 * place], sine = columns[2 * place + 1];
            re += a * cosine - b * sine;
            im += b * cosine + a * sine;
            place += y;
            if (place >= c.h) place -= c.h;
        }
        lines[2 * i] = re;
        lines[2 * i + 1] = im;
    }
}

// lines to the gradient by motion [pictures, h, w]: rows transformed back, real parts.
__device__ void local_rows_back(const Clips &c, const double *lines, const double *rows, double *by_motion) {
    for (i64 i = thread_place(); i < c.pictures() * c.h * c.w; i += thread_count()) {
        const double *line = lines + 2 * (i / c.w * c.half());
        int x = int(i % c.w), place = 0;
        double sum = 0;
        for (int l = 0; l < c.half(); l++) {
            sum += line[2 * l] * rows[2 * place] - line[2 * l + 1] * rows[2 * place + 1];
            place += x;
            if (place >= c.w) place -= c.w;
        }
        by_motion[i] = sum;
    }
}

// by_motion to the gradient by the estimate. The derivative of |d| at 0 is 0.
template <class T> __device__ void local_pull_back(const Clips &c, const T *estimate, const double *by_motion, T *slope) {
    i64 size = i64(c.h) * c.w;
    for (i64 i = thread_place(); i < i64(c.planes) * c.frames * size; i += thread_count()) {
        i64 frame = i / size % c.frames, plane = i / size / c.frames, at = (plane * (c.frames - 1) + frame) * size + i % size;
        double sum = 0;
        if (frame > 0) {
            double d = double(estimate[i]) - double(estimate[i - size]);
            sum += by_motion[at - size] * (c.absolute ? sign_of(d) : 1);
        }
        if (frame + 1 < c.frames) {
            double d = double(estimate[i + size]) - double(estimate[i]);
            sum -= by_motion[at] * (c.absolute ? sign_of(d) : 1);
        }
        slope[i] = T(sum);
    }
}

#define CLIPS int planes, int frames, int h, int w, int absolute
#define ENTRY(T, S)                                                                                                          \
    extern "C" __global__ void local_rows_##S(const T *reference, const T *estimate, const double *rows, double *out, CLIPS) {               \
        local_rows({planes, frames, h, w, absolute}, reference, estimate, rows, out);                                        \
    }                                                                                                                        \
    extern "C" __global__ void local_compare_##S(const double *lines, const double *columns, const double *weight, const double *mask,       \
                                                 double *partial, double *slopes, int wrap, CLIPS) {                         \
        local_compare({planes, frames, h, w, absolute}, lines, columns, weight, mask, partial, slopes, wrap);                \
    }                                                                                                                        \
    extern "C" __global__ void local_values_##S(const double *partial, T *values, int blocks, double amplitude_scale, CLIPS) {               \
        local_values({planes, frames, h, w, absolute}, partial, values, blocks, amplitude_scale);                            \
    }                                                                                                                        \
    extern "C" __global__ void local_columns_back_##S(const double *slopes, const T *by_values, const double *columns, double *lines,        \
                                                      double amplitude_scale, CLIPS) {                                       \
        local_columns_back({planes, frames, h, w, absolute}, slopes, by_values, columns, lines, amplitude_scale);            \
    }                                                                                                                        \
    extern "C" __global__ void local_rows_back_##S(const double *lines, const double *rows, double *by_motion, CLIPS) {      \
        local_rows_back({planes, frames, h, w, absolute}, lines, rows, by_motion);                                           \
    }                                                                                                                        \
    extern "C" __global__ void local_pull_back_##S(const T *estimate, const double *by_motion, T *slope, CLIPS) {            \
        local_pull_back({planes, frames, h, w, absolute}, estimate, by_motion, slope);                                       \
    }
#ifdef FOR_TYPES_IS_ALL
ENTRY(double, f64) ENTRY(float, f32)
#else
FOR_TYPES(ENTRY)
#endif
