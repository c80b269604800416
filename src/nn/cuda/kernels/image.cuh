// Where a convolution of channels-last images reads.
#ifndef IMAGE_CUH
#define IMAGE_CUH
#include "common.cuh"

struct Geometry {
    int images, in_h, in_w, out_h, out_w, kernel_h, kernel_w, stride, top, left;
    int depth, columns; // channels of what is read and of what is written
};

// Where an output place reads for a place of the kernel, or -1.
template <bool GRADIENT> __device__ __forceinline__ int source(int out, int tap, int before, int stride, int size) {
    int at = GRADIENT ? out + before - tap : out * stride + tap - before;
    if (GRADIENT) {
        if (at < 0 || at % stride) return -1;
        at /= stride;
    }
    return at >= 0 && at < size ? at : -1;
}

#endif
