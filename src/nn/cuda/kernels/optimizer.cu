// An update of trained weights without a question to the device: norms, clipping, and AdamW, which stands still where a number
// is not finite. Weights, gradients and moments are f32; sums are f64.
#include "common.cuh"

// Squares of one gradient, in PIECES pieces: squares[slot, PIECES]. grid (PIECES).
extern "C" __global__ void gradient_squares(const float *grad, double *squares, int slot, u64 count) {
    DYNAMIC_SHARED(memory);
    double sum = 0;
    for (u64 i = thread_place(); i < count; i += thread_count()) sum += double(grad[i]) * double(grad[i]);
    sum = block_sum(sum, (double *)memory);
    if (threadIdx.x == 0) squares[u64(slot) * gridDim.x + blockIdx.x] = sum;
}

// totals [tensors]: squares of each gradient; scale [1]: what gradients are multiplied with (max_norm / (norm + 1e-6), at most
// 1; no clipping where max_norm is 0), or NaN where a square or one of the losses is not finite. One block.
extern "C" __global__ void update_scale(const double *squares, const double *losses, double *totals, double *scale, int tensors, int pieces,
                                        int loss_count, double max_norm) {
    for (int t = threadIdx.x; t < tensors; t += blockDim.x) {
        double sum = 0;
        for (int p = 0; p < pieces; p++) sum += squares[i64(t) * pieces + p];
        totals[t] = sum;
    }
    __syncthreads();
    if (threadIdx.x > 0) return;
    double sum = 0, doubt = 0;
    for (int t = 0; t < tensors; t++) sum += totals[t];
    for (int i = 0; i < loss_count; i++) doubt += losses[i] - losses[i]; // 0, or NaN
    double factor = max_norm > 0 ? max_norm / (sqrt(sum) + 1e-6) : 1.0;
    if (factor > 1) factor = 1;
    scale[0] = factor + (sum - sum) + doubt;
}

// torch.optim.AdamW: decay, moments, then a step along m / (sqrt(v) / root_correction + eps).
extern "C" __global__ void adamw(float *weight, const float *grad, float *first, float *second, const double *scale, double beta1, double beta2,
                                 double eps, double decay, double step_size, double root_correction, u64 count) {
    double factor = scale[0];
    if (!(factor == factor)) return;
    for (u64 i = thread_place(); i < count; i += thread_count()) {
        float g = grad[i] * float(factor);
        float m = first[i] * float(beta1) + g * float(1.0 - beta1), v = second[i] * float(beta2) + g * g * float(1.0 - beta2);
        first[i] = m;
        second[i] = v;
        weight[i] = weight[i] * float(decay) - m / (sqrtf(v) * float(1.0 / root_correction) + float(eps)) * float(step_size);
    }
}
