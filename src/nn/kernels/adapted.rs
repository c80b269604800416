//! A frozen linear layer with one low-rank adapter beside it, as one operation.

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::frozen::FrozenProduct;
use super::product::{Matrix, Panels, Start, Strides, multiply};
use super::simd::Level;
use super::trained::weight_gradient;
use super::weight::{numbers, with_numbers};
use super::{Real, for_type, storage_dtype, zeros};
use crate::nn::lora::Dropout;

/// Numbers of one piece of work.
const CHUNK: usize = 1 << 14;

/// `y = x Wᵀ + b + m ∘ (s x Dᵀ) Uᵀ` for `x [.., i]`, `D [r, i]`, `U [o, r]`, with `m` the mask of a dropout or 1.
///
/// Beside the operands only `s x Dᵀ`, `[.., r]`, is kept; written with candle's operations it is five tensors of the size of
/// the result. The mask is drawn again for the gradient.
#[derive(Debug)]
pub struct Adapted {
    pub layer: FrozenProduct,
    pub scale: f64,
    pub dropout: Option<(Dropout, u32)>,
    /// Whether x gets a gradient, and whether the factors do.
    pub wanted: (bool, bool),
    pub inner: OnceLock<Tensor>,
}

/// A right matrix `[depth, columns]` out of rows of `columns` numbers, or out of its transpose.
fn packed<T: Real>(source: &[T], depth: usize, columns: usize, transposed: bool) -> Panels<T> {
    let mut panels = Panels::empty(Level::best());
    let strides = match transposed {
        true => Strides {
            tap: 0,
            depth: 1,
            column: depth,
        },
        false => Strides {
            tap: 0,
            depth: columns,
            column: 1,
        },
    };
    panels.pack(source, (1, depth, columns), strides);
    panels
}

/// `y += x ∘ m`, or of plain `x`.
fn add_masked<T: Real>(y: &mut [T], x: &[T], mask: &[f32]) {
    let pieces = y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    pieces
        .zip(mask.par_chunks(CHUNK))
        .for_each(|((y, x), mask)| {
            for ((y, &x), &m) in y.iter_mut().zip(x).zip(mask) {
                *y += x * T::from_f64(f64::from(m));
            }
        });
}

impl Adapted {
    fn mask(&self, shape: &Shape) -> Result<Option<Vec<f32>>> {
        let mask = |(dropout, adapter): &(Dropout, u32)| -> Result<Vec<f32>> {
            dropout.mask(shape, *adapter)?.flatten_all()?.to_vec1()
        };
        self.dropout.as_ref().map(mask).transpose()
    }

    fn run<T: Real>(
        &self,
        (x, layout): (&CpuStorage, &Layout),
        (down, dl): (&CpuStorage, &Layout),
        (up, ul): (&CpuStorage, &Layout),
    ) -> Result<(CpuStorage, Shape)> {
        let (rank, width) = dl.shape().dims2()?;
        let out = ul.shape().dims2()?.0;
        let (storage, shape) = self.layer.cpu_fwd(x, layout)?;
        let x = numbers::<T>("adapter", x, layout)?;
        let rows = x.len() / width.max(1);
        let scaled: Vec<T> = scaled(numbers("adapter", down, dl)?, self.scale);
        let mut inner = zeros::<T>(rows * rank);
        let panels = packed(&scaled, width, rank, true);
        let matrix = Matrix::contiguous(rows, width, rank);
        multiply(x, &matrix, &panels, Start::Zero, &mut inner);
        let panels = packed(numbers::<T>("adapter", up, ul)?, rank, out, true);
        let matrix = Matrix::contiguous(rows, rank, out);
        let mut y = T::to_owned_numbers(storage)?;
        match self.mask(&shape)? {
            None => multiply(&inner, &matrix, &panels, Start::Result, &mut y),
            Some(mask) => {
                let mut added = zeros::<T>(y.len());
                multiply(&inner, &matrix, &panels, Start::Zero, &mut added);
                add_masked(&mut y, &added, &mask);
            }
        }
        if self.wanted.0 || self.wanted.1 {
            let inner = Tensor::from_vec(inner, (rows, rank), &candle_core::Device::Cpu)?;
            // Run forward once; see `Chain`.
            self.inner.set(inner).ok();
        }
        Ok((T::to_cpu_storage_owned(y), shape))
    }

    fn gradients<T: Real>(
        &self,
        (x, down, up): (&Tensor, &Tensor, &Tensor),
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(inner) = self.inner.get() else {
            candle_core::bail!("an adapter's gradient is asked for before its result");
        };
        let ((rank, width), out) = (down.dims2()?, up.dims2()?.0);
        let rows = x.elem_count() / width.max(1);
        let grad = grad.contiguous()?;
        let masked = match self.mask(grad.shape())? {
            None => grad.clone(),
            Some(mask) => {
                let mut masked = zeros::<T>(grad.elem_count());
                with_numbers::<T, _>(&grad, |grad| add_masked(&mut masked, grad, &mask))?;
                Tensor::from_vec(masked, grad.shape(), grad.device())?
            }
        };
        // Of `s x Dᵀ`.
        let mut of_inner = zeros::<T>(rows * rank);
        let panels = with_numbers::<T, _>(up, |up| packed(up, out, rank, false))?;
        with_numbers::<T, _>(&masked, |grad| {
            let matrix = Matrix::contiguous(rows, out, rank);
            multiply(grad, &matrix, &panels, Start::Zero, &mut of_inner);
        })?;
        let (mut for_down, mut for_up) = (None, None);
        if self.wanted.1 {
            let of_up = with_numbers::<T, _>(inner, |inner| {
                with_numbers::<T, _>(&masked, |grad| {
                    weight_gradient(inner, grad, (rows, rank, out))
                })
            })??;
            for_up = Some(Tensor::from_vec(of_up, up.shape(), up.device())?);
            let of_down =
                with_numbers::<T, _>(x, |x| weight_gradient(x, &of_inner, (rows, width, rank)))?;
            let of_down = scaled(&of_down, self.scale);
            for_down = Some(Tensor::from_vec(of_down, down.shape(), down.device())?);
        }
        let mut for_input = None;
        if self.wanted.0 {
            let through = self.layer.bwd(x, x, &grad)?;
            let Some(through) = through else {
                candle_core::bail!("a linear layer without a gradient");
            };
            let panels = with_numbers::<T, _>(down, |down| {
                packed(&scaled(down, self.scale), rank, width, false)
            })?;
            let mut dx = with_numbers::<T, _>(&through, <[T]>::to_vec)?;
            let matrix = Matrix::contiguous(rows, rank, width);
            multiply(&of_inner, &matrix, &panels, Start::Result, &mut dx);
            for_input = Some(Tensor::from_vec(dx, x.shape(), x.device())?);
        }
        Ok((for_input, for_down, for_up))
    }
}

fn scaled<T: Real>(numbers: &[T], scale: f64) -> Vec<T> {
    let scale = T::from_f64(scale);
    numbers.iter().map(|&v| v * scale).collect()
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "adapted linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        down: &CpuStorage,
        dl: &Layout,
        up: &CpuStorage,
        ul: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        for_type!(
            storage_dtype(x),
            T,
            self.run::<T>((x, xl), (down, dl), (up, ul))
        )
    }

    fn bwd(
        &self,
        x: &Tensor,
        down: &Tensor,
        up: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        for_type!(x.dtype(), T, self.gradients::<T>((x, down, up), grad))
    }
}
