//! Several frozen operations as one of candle's: what passes between them is let go as soon as it has been read, and what
//! is added at the end costs no tensor of its own.
//!
//! candle keeps every operand of a recorded operation, read again or not. The gradient of a product with a frozen weight
//! does not read the product's input, so a norm before a convolution, say, need not be remembered.

use std::sync::OnceLock;

use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Storage, Tensor,
    WithDType,
};
use rayon::prelude::*;

use super::elementwise::Geglu;
use super::frozen::FrozenProduct;
use super::group_norm::GroupNormOp;
use super::layer_norm::LayerNormOp;
use super::resize::Nearest;
use super::weight::{numbers, with_numbers};
use super::{Real, for_type, storage_dtype, zeros};

/// Numbers of one piece of work.
const CHUNK: usize = 1 << 14;

/// One operation of a [`Chain`].
#[derive(Debug)]
pub enum Stage {
    GroupNorm(GroupNormOp),
    LayerNorm(LayerNormOp),
    Product(FrozenProduct),
    Geglu(Geglu),
    Nearest(Nearest),
    Swap(Swap),
    /// Adds `[b, c]` to `[b * n, .., c]`: a row to all positions of a clip. It gets no gradient.
    Shift(Tensor),
}

/// `[b, p, q, c]` to `[b, q, p, c]`, contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Swap {
    pub outer: usize,
    pub inner: usize,
}

/// Operations one after the other, and what is added to the result.
#[derive(Debug)]
pub struct Chain {
    pub stages: Vec<Stage>,
    pub skip: Skip,
    /// Whether a backward pass will come.
    pub recorded: bool,
    pub kept: Kept,
}

/// What the backward pass needs of a stage's input: its shape, and its numbers where the gradient depends on them.
pub type Kept = OnceLock<Vec<(Shape, Option<Tensor>)>>;

/// What is added to the result of a [`Chain`].
#[derive(Debug)]
pub enum Skip {
    Nothing,
    /// The chain's own input.
    Input,
    /// A linear operation of the chain's own input.
    Through(FrozenProduct),
    /// A second operand.
    Operand,
}

impl Stage {
    fn op(&self) -> Option<&dyn CustomOp1> {
        match self {
            Self::GroupNorm(op) => Some(op),
            Self::LayerNorm(op) => Some(op),
            Self::Product(op) => Some(op),
            Self::Geglu(op) => Some(op),
            Self::Nearest(op) => Some(op),
            Self::Swap(op) => Some(op),
            Self::Shift(_) => None,
        }
    }

    /// Whether the gradient depends on the input.
    fn reads_input(&self) -> bool {
        matches!(
            self,
            Self::GroupNorm(_) | Self::LayerNorm(_) | Self::Geglu(_)
        )
    }

    fn forward(&self, x: &CpuStorage, shape: &Shape) -> Result<(CpuStorage, Shape)> {
        let layout = Layout::contiguous(shape);
        match (self.op(), self) {
            (Some(op), _) => op.cpu_fwd(x, &layout),
            (None, Self::Shift(shift)) => for_type!(storage_dtype(x), T, {
                let mut y = numbers::<T>("shift", x, &layout)?.to_vec();
                add_rows::<T>(&mut y, &shift.to_dtype(T::DTYPE)?)?;
                Ok((T::to_cpu_storage_owned(y), shape.clone()))
            }),
            (None, _) => candle_core::bail!("a stage without an operation"),
        }
    }

    fn backward(&self, x: &Tensor, grad: Tensor) -> Result<Tensor> {
        match self.op() {
            Some(op) => match op.bwd(x, x, &grad)? {
                Some(grad) => Ok(grad),
                None => candle_core::bail!("{} has no gradient", op.name()),
            },
            None => Ok(grad),
        }
    }
}

/// `y[b, .., c] += shift[b, c]`.
fn add_rows<T: Real>(y: &mut [T], shift: &Tensor) -> Result<()> {
    let (clips, width) = shift.dims2()?;
    let of_clip = (y.len() / clips.max(1)).max(1);
    let rows = (CHUNK / width.max(1)).max(1);
    with_numbers::<T, _>(&shift.contiguous()?, |shift| {
        for (y, shift) in y.chunks_mut(of_clip).zip(shift.chunks_exact(width.max(1))) {
            y.par_chunks_mut(rows * width).for_each(|rows| {
                for row in rows.chunks_exact_mut(width) {
                    row.iter_mut().zip(shift).for_each(|(y, &s)| *y += s);
                }
            });
        }
    })
}

/// `y += x`.
fn accumulate<T: Real>(y: &mut [T], x: &[T]) {
    y.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .for_each(|(y, x)| y.iter_mut().zip(x).for_each(|(y, &x)| *y += x));
}

/// `a + b` of contiguous tensors of one shape.
fn sum(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (a, b) = (a.contiguous()?, b.contiguous()?);
    for_type!(a.dtype(), T, {
        let y = with_numbers::<T, _>(&a, |a| {
            with_numbers::<T, _>(&b, |b| {
                let mut y = a.to_vec();
                accumulate(&mut y, b);
                y
            })
        })??;
        Tensor::from_vec(y, a.shape(), a.device())
    })
}

/// A tensor that tells a shape and holds one number.
fn of_shape(shape: &Shape, dtype: DType) -> Result<Tensor> {
    Tensor::zeros(1, dtype, &Device::Cpu)?.broadcast_as(shape)
}

impl Chain {
    fn run<T: Real>(
        &self,
        (x, layout): (&CpuStorage, &Layout),
        operand: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let name = "chain";
        // Each stage reads its input from the start of a buffer.
        numbers::<T>(name, x, layout)?;
        if layout.start_offset() != 0 {
            candle_core::bail!("a chain's input begins inside its buffer");
        }
        let mut kept = vec![(layout.shape().clone(), None)];
        let mut hidden: Option<(CpuStorage, Shape)> = None;
        for (i, stage) in self.stages.iter().enumerate() {
            let next = match (hidden.take(), stage) {
                (None, stage) => stage.forward(x, layout.shape())?,
                (Some((storage, shape)), Stage::Shift(shift)) => {
                    let mut y = T::to_owned_numbers(storage)?;
                    add_rows::<T>(&mut y, &shift.to_dtype(T::DTYPE)?)?;
                    (T::to_cpu_storage_owned(y), shape)
                }
                (Some((storage, shape)), stage) => {
                    let next = stage.forward(&storage, &shape)?;
                    if self.recorded && stage.reads_input() {
                        let storage = Storage::Cpu(storage);
                        let input = Tensor::from_storage(storage, shape, BackpropOp::none(), false);
                        if let Some((_, place)) = kept.get_mut(i) {
                            *place = Some(input);
                        }
                    }
                    next
                }
            };
            kept.push((next.1.clone(), None));
            hidden = Some(next);
        }
        let Some((storage, shape)) = hidden else {
            candle_core::bail!("a chain without a stage");
        };
        let mut y = T::to_owned_numbers(storage)?;
        match (&self.skip, operand) {
            (Skip::Nothing, _) => {}
            (Skip::Input, _) => accumulate(&mut y, numbers::<T>(name, x, layout)?),
            (Skip::Through(product), _) => {
                let (through, _) = product.cpu_fwd(x, layout)?;
                accumulate(&mut y, through.as_slice::<T>()?);
            }
            (Skip::Operand, Some((operand, layout))) => {
                accumulate(&mut y, numbers::<T>(name, operand, layout)?);
            }
            (Skip::Operand, None) => candle_core::bail!("a chain without its second operand"),
        }
        // A chain runs forward once; what it kept then is what its gradient is taken at.
        self.kept.set(kept).ok();
        Ok((T::to_cpu_storage_owned(y), shape))
    }

    fn gradient(&self, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let Some(kept) = self.kept.get() else {
            candle_core::bail!("a chain's gradient is asked for before its result");
        };
        let grad = grad.contiguous()?;
        let mut hidden = grad.clone();
        for (i, stage) in self.stages.iter().enumerate().rev() {
            hidden = match &kept[i] {
                _ if i == 0 => stage.backward(x, hidden)?,
                (_, Some(input)) => stage.backward(input, hidden)?,
                (shape, None) => stage.backward(&of_shape(shape, x.dtype())?, hidden)?,
            };
        }
        match &self.skip {
            Skip::Nothing | Skip::Operand => Ok(hidden),
            Skip::Input => sum(&hidden, &grad),
            Skip::Through(product) => match product.bwd(x, x, &grad)? {
                Some(through) => sum(&hidden, &through),
                None => Ok(hidden),
            },
        }
    }
}

impl CustomOp1 for Chain {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        for_type!(storage_dtype(x), T, self.run::<T>((x, layout), None))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.gradient(x, grad).map(Some)
    }
}

impl CustomOp2 for Chain {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        operand: &CpuStorage,
        ol: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        for_type!(
            storage_dtype(x),
            T,
            self.run::<T>((x, xl), Some((operand, ol)))
        )
    }

    fn bwd(
        &self,
        x: &Tensor,
        operand: &Tensor,
        _y: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let for_input = match x.track_op() {
            true => Some(self.gradient(x, grad)?),
            false => None,
        };
        let for_operand = match operand.track_op() {
            true => Some(grad.reshape(operand.shape())?),
            false => None,
        };
        Ok((for_input, for_operand))
    }
}

impl Swap {
    fn forward<T: Real>(self, x: &[T], y: &mut [T], width: usize) {
        let (p, q) = (self.outer, self.inner);
        y.par_chunks_mut((p * width).max(1))
            .enumerate()
            .for_each(|(row, y)| {
                let (b, j) = (row / q, row % q);
                for (i, y) in y.chunks_exact_mut(width).enumerate() {
                    let from = ((b * p + i) * q + j) * width;
                    y.copy_from_slice(&x[from..from + width]);
                }
            });
    }
}

impl CustomOp1 for Swap {
    fn name(&self) -> &'static str {
        "swap"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = layout.dims().last().copied().unwrap_or(1).max(1);
        for_type!(storage_dtype(storage), T, {
            let x = numbers::<T>(self.name(), storage, layout)?;
            let mut y = zeros::<T>(x.len());
            self.forward(x, &mut y, width);
            let clips = x.len() / (self.outer * self.inner * width).max(1);
            // Frames and positions fold into the batch as the next stage wants them: see `Piece`.
            let shape = (clips * self.inner, self.outer, width);
            Ok((T::to_cpu_storage_owned(y), shape.into()))
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a gradient of the gradient is not wanted"
    )]
    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let back = Self {
            outer: self.inner,
            inner: self.outer,
        };
        let grad = grad.contiguous()?.apply_op1_no_bwd(&back)?;
        grad.reshape(x.shape()).map(Some)
    }
}
