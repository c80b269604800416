//! What the emulator must notice, each in a kernel with that mistake: a test of kernels that cannot fail would be none.

use candle_core::DType;
use spectral_motion::nn::plan::{Arg, Buffer, Launch, Plan, Source};

use super::emulator::run_text;

const KERNELS: &str = r#"
extern "C" __global__ void right(const float *x, float *y) {
    DYNAMIC_SHARED(memory);
    float *shared = (float *)memory;
    shared[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = shared[63 - threadIdx.x];
}
extern "C" __global__ void without_a_barrier(const float *x, float *y) {
    DYNAMIC_SHARED(memory);
    float *shared = (float *)memory;
    shared[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = shared[63 - threadIdx.x];
}
extern "C" __global__ void writes_behind(const float *x, float *y) { y[threadIdx.x + 1] = x[threadIdx.x]; }
extern "C" __global__ void reads_behind(const float *x, float *y) { y[threadIdx.x] = x[threadIdx.x + 1]; }
extern "C" __global__ void shared_too_small(const float *x, float *y) {
    DYNAMIC_SHARED(memory);
    ((float *)memory)[threadIdx.x + 1] = x[threadIdx.x];
    y[threadIdx.x] = 0;
}
extern "C" __global__ void half_a_barrier(const float *x, float *y) {
    if (threadIdx.x < 40) __syncthreads();
    y[threadIdx.x] = x[threadIdx.x];
}
extern "C" __global__ void half_a_warp(const float *x, float *y) {
    float other = 0;
    if (threadIdx.x % 2) other = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 2);
    y[threadIdx.x] = other;
}
extern "C" __global__ void reads_a_copy_too_early(const float *x, float *y) {
    DYNAMIC_SHARED(memory);
    float *shared = (float *)memory;
    if (threadIdx.x < 16) copy_16_bytes(shared + 4 * threadIdx.x, x + 4 * threadIdx.x, true);
    copies_end_group();
    __syncthreads();
    y[threadIdx.x] = shared[threadIdx.x];
    copies_arrived<0>();
}
extern "C" __global__ void never_waits(const float *x, float *y) {
    DYNAMIC_SHARED(memory);
    copy_16_bytes(memory, x, true);
    copies_end_group();
    y[threadIdx.x] = 0;
}
extern "C" __global__ void leaves_some_out(const float *x, float *y) {
    if (threadIdx.x) y[threadIdx.x] = x[threadIdx.x];
}
"#;

/// Results of the kernel for 64 numbers, in both orders of threads.
fn results(kernel: &str) -> [Result<Vec<f32>, String>; 2] {
    let source = Source {
        file: "strictness",
        dtype: None,
        head: None,
        tokens: None,
    };
    let plan = Plan {
        buffers: vec![Buffer {
            dtype: DType::F32,
            len: 64,
        }],
        launches: vec![Launch {
            source,
            kernel: kernel.to_owned(),
            grid: [1, 1, 1],
            threads: 64,
            shared: 256,
            args: vec![Arg::Input(0), Arg::Buffer(0)],
        }],
    };
    let x: Vec<f32> = (0..64u8).map(f32::from).collect();
    run_text(KERNELS, &plan, &x).map(|bytes| {
        let bytes = bytes?;
        let words = bytes.as_chunks::<4>().0[64..].iter();
        Ok(words.map(|word| f32::from_le_bytes(*word)).collect())
    })
}

#[test]
fn a_right_kernel_passes() {
    let expected: Vec<f32> = (0..64u8).rev().map(f32::from).collect();
    assert_eq!(results("right"), [Ok(expected.clone()), Ok(expected)]);
}

#[test]
fn a_missing_barrier_shows_in_the_results() {
    let [backward, shuffled] = results("without_a_barrier").map(Result::unwrap);
    let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|n| n.to_bits()).collect() };
    assert_ne!(bits(&backward), bits(&shuffled));
    // Memory that nobody has written yet is NaN.
    assert!(shuffled.iter().any(|n| n.is_nan()));
}

#[test]
fn leaving_memory_ends_the_program() {
    for kernel in ["writes_behind", "reads_behind", "shared_too_small"] {
        for result in results(kernel) {
            assert!(result.is_err(), "{kernel}: {result:?}");
        }
    }
}

#[test]
fn a_barrier_that_not_all_reach_ends_the_program() {
    for kernel in ["half_a_barrier", "half_a_warp"] {
        for result in results(kernel) {
            let said = result.expect_err(kernel);
            assert!(said.contains("barrier"), "{kernel}: {said}");
        }
    }
}

#[test]
fn copies_are_made_when_they_are_waited_for() {
    for result in results("reads_a_copy_too_early") {
        // Which of them are NaN depends on who has waited by then; a right kernel leaves none.
        assert!(result.unwrap().iter().any(|n| n.is_nan()));
    }
    for result in results("never_waits") {
        assert!(result.expect_err("it waits").contains("never waited for"));
    }
}

#[test]
fn what_a_kernel_leaves_out_is_not_a_number() {
    for result in results("leaves_some_out") {
        assert!(result.unwrap()[0].is_nan());
    }
}
