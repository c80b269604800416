//! Vector registers of the instruction sets we compile kernels for, chosen when the program runs.
//!
//! The program is built for the oldest processors of its architecture; a kernel is compiled once for each
//! [`Level`] and the best one present is taken. Loops that a compiler vectorises well by itself run inside
//! [`vectorized`]; matrix products are not among them, so their registers are written out here.

use std::sync::LazyLock;

use candle_core::CpuStorage;

use super::Real;
use super::weight::{Cache, Slots};

/// An instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Whatever the program is built for.
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 (F, BW, DQ and VL, as every processor since 2017 that has F).
    Avx512,
}

impl Level {
    /// The best level of this machine.
    pub fn best() -> Self {
        static BEST: LazyLock<Level> = LazyLock::new(|| {
            #[cfg(target_arch = "x86_64")]
            {
                let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
                let avx512 = is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl");
                match (avx2, avx512) {
                    (true, true) => Level::Avx512,
                    (true, false) => Level::Avx2,
                    (false, _) => Level::Portable,
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            Level::Portable
        });
        *BEST
    }

    /// Every level this machine can run, for tests.
    #[cfg(test)]
    pub fn available() -> Vec<Self> {
        let all = [Self::Portable, Self::Avx2, Self::Avx512];
        let best = all.iter().position(|&l| l == Self::best()).unwrap_or(0);
        all[..=best].to_vec()
    }
}

/// Runs a loop compiled for the best instruction set of this machine.
///
/// The closure and what it calls must be `#[inline(always)]`, or they keep the code of the oldest processor.
#[inline]
#[expect(
    unsafe_code,
    reason = "the level says that the processor has the instructions"
)]
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    match Level::best() {
        // SAFETY: `Level::best` has detected the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::loop_avx512(f) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::loop_avx2(f) },
        _ => f(),
    }
}

/// A vector register holding numbers of type `T`.
///
/// # Safety
/// Functions may only run where the processor has the register's instruction set, which
/// [`Real::dispatch`] makes sure of; pointers must be good for [`Simd::WIDTH`] numbers.
#[expect(
    unsafe_code,
    reason = "vector instructions are unsafe to call without a check of the processor"
)]
pub unsafe trait Simd<T>: Copy {
    /// How many numbers it holds.
    const WIDTH: usize;
    unsafe fn load(p: *const T) -> Self;
    unsafe fn store(self, p: *mut T);
    unsafe fn splat(v: T) -> Self;
    /// `self * b + c`.
    unsafe fn mul_add(self, b: Self, c: Self) -> Self;
}

/// Code that is compiled once for each level. `ROWS` is how many rows of a matrix product fit the registers.
pub trait Kernel<T> {
    type Out;
    /// Must be `#[inline(always)]`, and so must everything hot that it calls.
    fn run<S: Simd<T>, const ROWS: usize>(self) -> Self::Out;
}

/// A register's worth of numbers in plain Rust.
#[derive(Clone, Copy)]
struct Plain<T, const N: usize>([T; N]);

macro_rules! plain {
    ($t:ty, $n:literal) => {
        #[expect(
            unsafe_code,
            reason = "reads and writes through pointers the trait's contract makes good"
        )]
        // SAFETY: plain Rust, which every processor runs.
        unsafe impl Simd<$t> for Plain<$t, $n> {
            const WIDTH: usize = $n;
            #[inline(always)]
            unsafe fn load(p: *const $t) -> Self {
                // SAFETY: good for WIDTH numbers by contract; an array needs no more alignment than its items.
                unsafe { Self(*p.cast::<[$t; $n]>()) }
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut $t) {
                // SAFETY: as in `load`.
                unsafe { *p.cast::<[$t; $n]>() = self.0 }
            }
            #[inline(always)]
            unsafe fn splat(v: $t) -> Self {
                Self([v; $n])
            }
            #[inline(always)]
            unsafe fn mul_add(self, b: Self, c: Self) -> Self {
                // A fused multiply-add without an instruction for it is a slow function call.
                let fused = cfg!(any(target_feature = "fma", target_arch = "aarch64"));
                Self(std::array::from_fn(|i| {
                    if fused {
                        self.0[i].mul_add(b.0[i], c.0[i])
                    } else {
                        self.0[i] * b.0[i] + c.0[i]
                    }
                }))
            }
        }
    };
}
plain!(f32, 4);
plain!(f64, 2);

#[cfg(target_arch = "x86_64")]
mod x86 {
    #![expect(unsafe_code, reason = "vector instructions")]
    use std::arch::x86_64::*;

    use super::{Kernel, Simd};

    macro_rules! register {
        ($register:ty, $t:ty, $width:literal, $load:ident, $store:ident, $splat:ident, $fma:ident) => {
            // SAFETY: each function is the one instruction it is named after.
            unsafe impl Simd<$t> for $register {
                const WIDTH: usize = $width;
                #[inline(always)]
                unsafe fn load(p: *const $t) -> Self {
                    // SAFETY: by the contract of the trait.
                    unsafe { $load(p) }
                }
                #[inline(always)]
                unsafe fn store(self, p: *mut $t) {
                    // SAFETY: by the contract of the trait.
                    unsafe { $store(p, self) }
                }
                #[inline(always)]
                unsafe fn splat(v: $t) -> Self {
                    // SAFETY: by the contract of the trait.
                    unsafe { $splat(v) }
                }
                #[inline(always)]
                unsafe fn mul_add(self, b: Self, c: Self) -> Self {
                    // SAFETY: by the contract of the trait.
                    unsafe { $fma(self, b, c) }
                }
            }
        };
    }
    register!(
        __m256,
        f32,
        8,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_fmadd_ps
    );
    register!(
        __m256d,
        f64,
        4,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_set1_pd,
        _mm256_fmadd_pd
    );
    register!(
        __m512,
        f32,
        16,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_fmadd_ps
    );
    register!(
        __m512d,
        f64,
        8,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_set1_pd,
        _mm512_fmadd_pd
    );

    // Rows by two registers of columns: 12 accumulators of 16 registers, and 24 of 32; measured best of 4 to 14.

    /// # Safety
    /// The processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2<T, S: Simd<T>, K: Kernel<T>>(kernel: K) -> K::Out {
        kernel.run::<S, 6>()
    }

    /// # Safety
    /// The processor has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn loop_avx2<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    /// # Safety
    /// The processor has AVX-512F, BW, DQ and VL.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub unsafe fn loop_avx512<R>(f: impl FnOnce() -> R) -> R {
        f()
    }

    /// # Safety
    /// The processor has AVX-512F, BW, DQ and VL.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub unsafe fn avx512<T, S: Simd<T>, K: Kernel<T>>(kernel: K) -> K::Out {
        kernel.run::<S, 12>()
    }
}

macro_rules! real {
    ($t:ident, $storage:ident, $plain:literal, $m256:ident, $m512:ident) => {
        impl Real for $t {
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;

            #[expect(
                unsafe_code,
                reason = "the level says that the processor has the instructions"
            )]
            fn dispatch<K: Kernel<Self>>(level: Level, kernel: K) -> K::Out {
                match level {
                    // SAFETY: a level other than Portable only comes from `Level::best`, after detection.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx512 => unsafe {
                        x86::avx512::<$t, std::arch::x86_64::$m512, K>(kernel)
                    },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Level::Avx2 => unsafe { x86::avx2::<$t, std::arch::x86_64::$m256, K>(kernel) },
                    _ => kernel.run::<Plain<$t, $plain>, 4>(),
                }
            }

            fn width(level: Level) -> usize {
                match level {
                    Level::Portable => $plain,
                    Level::Avx2 => 32 / size_of::<$t>(),
                    Level::Avx512 => 64 / size_of::<$t>(),
                }
            }

            fn to_owned_numbers(storage: CpuStorage) -> candle_core::Result<Vec<Self>> {
                match storage {
                    CpuStorage::$storage(numbers) => Ok(numbers),
                    _ => candle_core::bail!("a kernel was given numbers of another type"),
                }
            }

            fn slots(cache: &Cache) -> &Slots<Self> {
                &cache.$t
            }
        }
    };
}
real!(f32, F32, 4, __m256, __m512);
real!(f64, F64, 2, __m256d, __m512d);
