// Number types and small arithmetic shared by the kernels.
#ifndef COMMON_CUH
#define COMMON_CUH
#include "hardware.cuh"

// X(type, suffix of the kernels' names) for each storage type to compile: the run-time compiler is told one, others take all.
#ifndef FOR_TYPES
#define FOR_TYPES_IS_ALL // files that know f64 and f32 only look at this
#define FOR_TYPES(X) X(double, f64) X(float, f32) X(f16, f16) X(bf16, bf16)
#endif

// What numbers of a storage type are computed in.
template <class T> struct Wide { typedef float Type; };
template <> struct Wide<double> { typedef double Type; };
template <class T> using Acc = typename Wide<T>::Type;

__device__ __forceinline__ double load(double x) { return x; }
__device__ __forceinline__ float load(float x) { return x; }
__device__ __forceinline__ float load(f16 x) { return widen(x); }
__device__ __forceinline__ float load(bf16 x) { return widen(x); }

template <class T> __device__ __forceinline__ T store(Acc<T> x);
template <> __device__ __forceinline__ double store<double>(double x) { return x; }
template <> __device__ __forceinline__ float store<float>(float x) { return x; }
template <> __device__ __forceinline__ f16 store<f16>(float x) { return round_f16(x); }
template <> __device__ __forceinline__ bf16 store<bf16>(float x) { return round_bf16(x); }

__device__ __forceinline__ float exponential(float x) { return expf(x); }
__device__ __forceinline__ double exponential(double x) { return exp(x); }
__device__ __forceinline__ float logarithm(float x) { return logf(x); }
__device__ __forceinline__ double logarithm(double x) { return log(x); }
__device__ __forceinline__ float error_function(float x) { return erff(x); }
__device__ __forceinline__ double error_function(double x) { return erf(x); }
__device__ __forceinline__ float square_root(float x) { return sqrtf(x); }
__device__ __forceinline__ double square_root(double x) { return sqrt(x); }
template <class A> __device__ __forceinline__ A larger(A a, A b) { return a > b ? a : b; }

// Neighbours that move together: sixteen bytes where the shape allows, else one number.
template <class T, int V> struct __align__(sizeof(T) * V) Run { T numbers[V]; };
template <class T> struct Packed { static constexpr int SIZE = 16 / sizeof(T); };

// Calls f<numbers in a run>(..) as the launch says. Kernels count runs in 32 bits: a 64-bit division costs more than the
// memory these kernels move.
#define BY_RUNS(T, packed, f, ...)                                                                                              \
    if (packed) f<T, Packed<T>::SIZE>(__VA_ARGS__);                                                                          \
    else f<T, 1>(__VA_ARGS__)

// This thread's place among all of the grid, and how many there are.
__device__ __forceinline__ u32 thread_place() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ u32 thread_count() { return gridDim.x * blockDim.x; }

template <class A> __device__ __forceinline__ A warp_sum(A x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

// The sum over a block of at most 1024 threads, known to all of them. `scratch` holds a number for each warp.
template <class A> __device__ A block_sum(A x, A *scratch) {
    int warps = (blockDim.x + 31) / 32;
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    A sum = 0;
    for (int i = 0; i < warps; i++) sum += scratch[i];
    return sum;
}

// x sigmoid(a x) and its derivative.
template <class A> __device__ __forceinline__ A gated(A x, A a) { return x / (A(1) + exponential(-a * x)); }
template <class A> __device__ __forceinline__ A gated_slope(A x, A a) {
    A s = A(1) / (A(1) + exponential(-a * x));
    return s + a * x * s * (A(1) - s);
}
// The normal distribution function, and its density.
template <class A> __device__ __forceinline__ A normal_below(A x) {
    return A(0.5) * (A(1) + error_function(x * A(0.70710678118654752440)));
}
template <class A> __device__ __forceinline__ A normal_density(A x) {
    return A(0.39894228040143267794) * exponential(A(-0.5) * x * x);
}

#endif
