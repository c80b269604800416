//! Frozen weights, packed for products on first use.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor};

use super::Real;
use super::product::{Panels, Strides};
use super::simd::Level;

/// Weights of up to this many numbers (4 MiB of f32) stay packed. Larger ones are packed again each time: it is
/// little beside the work they do, and the memory of a large model is not doubled.
const KEEP_PACKED: usize = 1 << 20;

/// Forward multiplies by the weight, backward by its transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Forward,
    Backward,
}

/// Packed weights of one number type, for both directions.
#[derive(Debug)]
pub struct Slots<T>([OnceLock<Arc<Panels<T>>>; 2]);

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self([OnceLock::new(), OnceLock::new()])
    }
}

/// Packed weights of both number types.
#[derive(Debug, Default)]
pub struct Cache {
    pub f32: Slots<f32>,
    pub f64: Slots<f64>,
}

/// A frozen weight `[o, i, kh, kw]` (or `[o, i]`) and its packed forms.
#[derive(Debug)]
pub struct Weight {
    source: Tensor,
    cache: Cache,
}

impl Weight {
    pub fn new(source: &Tensor) -> Result<Self> {
        Ok(Self {
            source: source.detach().contiguous()?,
            cache: Cache::default(),
        })
    }

    /// A weight that is not read by these kernels: kept as it is, contiguous or not.
    pub fn elsewhere(source: &Tensor) -> Self {
        Self {
            source: source.detach(),
            cache: Cache::default(),
        }
    }

    pub fn source(&self) -> &Tensor {
        &self.source
    }

    pub fn panels<T: Real>(&self, direction: Direction) -> Result<Arc<Panels<T>>> {
        let slot = &T::slots(&self.cache).0[direction as usize];
        if let Some(panels) = slot.get() {
            return Ok(panels.clone());
        }
        let panels = Arc::new(pack(&self.source, direction)?);
        if self.source.elem_count() <= KEEP_PACKED {
            // Another thread may have been first; both packed the same numbers.
            slot.set(panels.clone()).ok();
        }
        Ok(panels)
    }
}

/// Packs a weight `[o, i, kh, kw]` or `[o, i]`, any float type.
pub fn pack<T: Real>(weight: &Tensor, direction: Direction) -> Result<Panels<T>> {
    let weight = weight.detach().to_dtype(T::DTYPE)?.contiguous()?;
    let &[out, inp, ..] = weight.dims() else {
        candle_core::bail!("a weight needs two axes or more, got {:?}", weight.shape());
    };
    let taps = weight.elem_count() / (out * inp).max(1);
    let mut panels = Panels::empty(Level::best());
    with_numbers::<T, _>(&weight, |numbers| match direction {
        Direction::Forward => {
            panels.pack(
                numbers,
                (taps, inp, out),
                Strides {
                    tap: 1,
                    depth: taps,
                    column: inp * taps,
                },
            );
        }
        Direction::Backward => {
            panels.pack(
                numbers,
                (taps, out, inp),
                Strides {
                    tap: 1,
                    depth: inp * taps,
                    column: taps,
                },
            );
        }
    })?;
    Ok(panels)
}

/// The numbers of a contiguous CPU tensor.
pub fn with_numbers<T: Real, R>(x: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(numbers("kernel", storage, layout)?)),
        _ => candle_core::bail!("a CPU kernel was given a tensor of {:?}", x.device()),
    }
}

/// The numbers of a contiguous operand of `op`.
pub fn numbers<'a, T: Real>(
    op: &'static str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [T]> {
    let Some((begin, end)) = layout.contiguous_offsets() else {
        return Err(candle_core::Error::RequiresContiguous { op }.bt());
    };
    Ok(&storage.as_slice::<T>()?[begin..end])
}
