//! CPU kernels: what the layers of [`crate::nn`] run on f32 and f64 tensors in main memory.
//!
//! Everything here is deterministic: work is cut by the shape of the problem, never by the number of threads,
//! so a run repeats bit for bit on another number of cores.

pub mod adapted;
pub mod attention;
pub mod chain;
pub mod elementwise;
pub mod frozen;
pub mod group_norm;
pub mod image;
pub mod layer_norm;
pub mod math;
pub mod product;
pub mod resize;
pub mod shared;
pub mod simd;
pub mod softmax;
pub mod trained;
pub mod weight;

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Result, Tensor, WithDType};
use rayon::prelude::*;

use super::param::grad_enabled;
use simd::{Kernel, Level};
use weight::{Cache, Slots, with_numbers};

/// The two number types of the kernels; f64 is for tests by finite differences.
pub trait Real:
    WithDType
    + Copy
    + PartialOrd
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::MulAssign
    + math::Functions
{
    const ZERO: Self;
    const ONE: Self;

    /// Runs a kernel compiled for `level`.
    fn dispatch<K: Kernel<Self>>(level: Level, kernel: K) -> K::Out;

    /// Vector width at `level`, in numbers.
    fn width(level: Level) -> usize;

    /// The numbers of a storage of this type.
    fn to_owned_numbers(storage: CpuStorage) -> Result<Vec<Self>>;

    /// Where packed weights of this type are kept.
    fn slots(cache: &Cache) -> &Slots<Self>;
}

/// The type a layer computes in on the CPU for an input of type `dtype`: half precision is stored, not computed.
pub fn compute_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 {
        DType::F64
    } else {
        DType::F32
    }
}

/// Whether our kernels run on tensors of this device.
pub fn is_cpu(x: &Tensor) -> bool {
    matches!(x.device(), Device::Cpu)
}

/// Applies a kernel to `x` of any float type and layout: contiguous, in the type kernels compute in, and back.
///
/// Inside [`no_grad`](super::no_grad) nothing is recorded.
pub fn apply1<C: CustomOp1 + Send + Sync + 'static>(x: &Tensor, op: C) -> Result<Tensor> {
    let dtype = compute_dtype(x.dtype());
    let wide = if grad_enabled() {
        x.to_dtype(dtype)?
    } else {
        x.detach().to_dtype(dtype)?
    };
    wide.contiguous()?.apply_op1(op)?.to_dtype(x.dtype())
}

/// Runs generic code for the number type that `dtype` names.
macro_rules! for_type {
    ($dtype:expr, $t:ident, $body:expr) => {
        match $dtype {
            candle_core::DType::F64 => {
                type $t = f64;
                $body
            }
            _ => {
                type $t = f32;
                $body
            }
        }
    };
}
pub(crate) use for_type;

/// The type kernels read from a storage; one that is neither f32 nor f64 fails when it is read.
pub fn storage_dtype(storage: &CpuStorage) -> DType {
    match storage {
        CpuStorage::F64(_) => DType::F64,
        _ => DType::F32,
    }
}

/// Zeros. Many of them are written by all threads: the memory may be new, and then it is the system's work as well.
#[expect(unsafe_code, reason = "the length is set once everything is written")]
pub fn zeros<T: Real>(count: usize) -> Vec<T> {
    /// Numbers that one thread writes.
    const PIECE: usize = 1 << 16;
    if count <= 2 * PIECE {
        return vec![T::ZERO; count];
    }
    let mut zeros = Vec::with_capacity(count);
    let room = &mut zeros.spare_capacity_mut()[..count];
    room.par_chunks_mut(PIECE)
        .for_each(|piece| piece.fill(MaybeUninit::new(T::ZERO)));
    // SAFETY: the first `count` numbers were written.
    unsafe { zeros.set_len(count) };
    zeros
}

/// The gradient of an input, of its shape, computed from its numbers and those of the result's gradient.
pub fn gradient<T: Real>(
    x: &Tensor,
    grad: &Tensor,
    f: impl FnOnce(&[T], &[T], &mut [T]),
) -> Result<Tensor> {
    let grad = grad.contiguous()?;
    let mut dx = zeros::<T>(x.elem_count());
    with_numbers(x, |x| with_numbers(&grad, |g| f(x, g, &mut dx)))??;
    Tensor::from_vec(dx, x.shape(), x.device())
}
