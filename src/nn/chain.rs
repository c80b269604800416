//! Layers one after the other, as one operation where that saves memory.

use std::sync::OnceLock;

use candle_core::{DType, Result, Tensor};

use super::cuda;
use super::kernels::chain::{self, Stage, Swap};
use super::kernels::elementwise::Geglu;
use super::kernels::is_cpu;
use super::kernels::resize::Nearest;
use super::layout::{batch_to_positions, positions_to_batch};
use super::param::grad_enabled;
use super::{Conv2d, GroupNorm, LayerNorm, Linear, TemporalConv, geglu, upsample_nearest};

/// A layer, or a change of shape, in a [`chain()`].
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// Group norm, `[n, .., c]`.
    Norm(&'a GroupNorm),
    /// Group norm followed by SiLU, `[n, .., c]`.
    NormSilu(&'a GroupNorm),
    /// Layer norm, `[.., c]`.
    LayerNorm(&'a LayerNorm),
    /// `[.., i]` to `[.., o]`.
    Linear(&'a Linear),
    /// `[n, h, w, i]` to `[n, h', w', o]`.
    Conv(&'a Conv2d),
    /// `[b, f, s, i]` to `[b, f, s, o]`.
    TemporalConv(&'a TemporalConv),
    /// `[.., 2c]` to `[.., c]`.
    Geglu,
    /// `[n, h, w, c]` to another height and width.
    Upsample(usize, usize),
    /// Adds `[b, c]` to `[n, .., c]`, the same to all rows of a clip. What is added gets no gradient here.
    Shift(&'a Tensor),
    /// `[b, f, s, c]` to `[b * s, f, c]`.
    PositionsToBatch,
    /// `[b * s, f, c]` to `[b, f, s, c]`, for so many clips.
    BatchToPositions(usize),
}

/// What is added to the result of a [`chain()`].
#[derive(Clone, Copy, Debug)]
pub enum Skip<'a> {
    /// Nothing.
    Nothing,
    /// The chain's input.
    Input,
    /// The chain's input after a convolution.
    Through(&'a Conv2d),
    /// Another tensor with as many numbers as the result, whose shape the sum gets.
    Tensor(&'a Tensor),
}

/// Runs `pieces` one after the other on `x` and adds `skip`.
///
/// Frozen pieces are one operation: the backward pass keeps only the inputs of norms and of [`geglu`], not what a product or
/// a change of shape reads. On the processor the numbers are those of the pieces run by themselves; on a GPU what is added
/// to a product is rounded once, together.
///
/// # Errors
/// When a shape does not fit.
pub fn chain(x: &Tensor, pieces: &[Piece<'_>], skip: Skip<'_>) -> Result<Tensor> {
    if cuda::is_ready(x)
        && let Some(stages) = gpu_stages(x, pieces)?
    {
        return on_gpu(x, stages, skip);
    }
    // Half precision rounds after every piece, which an operation of one number type does not.
    let whole = is_cpu(x) && matches!(x.dtype(), DType::F32 | DType::F64);
    let stages = match whole {
        true => stages(x.dims(), pieces)?,
        false => None,
    };
    match stages {
        Some(stages) => fused(x, stages, skip),
        None => one_by_one(x, pieces, skip),
    }
}

fn one_by_one(x: &Tensor, pieces: &[Piece<'_>], skip: Skip<'_>) -> Result<Tensor> {
    let mut hidden = x.clone();
    for piece in pieces {
        hidden = piece.alone(&hidden)?;
    }
    match skip {
        Skip::Nothing => Ok(hidden),
        Skip::Input => x + hidden.reshape(x.shape())?,
        Skip::Through(conv) => conv.forward(x)? + hidden,
        Skip::Tensor(other) => other + hidden.reshape(other.shape())?,
    }
}

fn fused(x: &Tensor, stages: Vec<Stage>, skip: Skip<'_>) -> Result<Tensor> {
    let ready = |x: &Tensor| {
        let x = if grad_enabled() {
            x.clone()
        } else {
            x.detach()
        };
        // A view into a larger buffer is copied: the stages read from the start of one.
        match x.is_contiguous() && x.layout().start_offset() == 0 {
            true => Ok(x),
            false => x.force_contiguous(),
        }
    };
    let x = ready(x)?;
    let chain = |skip, recorded| chain::Chain {
        stages,
        skip,
        recorded,
        kept: OnceLock::new(),
    };
    match skip {
        Skip::Nothing => x.apply_op1(chain(chain::Skip::Nothing, x.track_op())),
        Skip::Input => x.apply_op1(chain(chain::Skip::Input, x.track_op())),
        Skip::Through(conv) => {
            let (n, h, w, _) = x.dims4()?;
            let through = conv.product((n, h, w))?;
            x.apply_op1(chain(chain::Skip::Through(through), x.track_op()))
        }
        Skip::Tensor(other) => {
            let shape = other.shape().clone();
            let other = ready(other)?;
            let recorded = x.track_op();
            x.apply_op2(&other, chain(chain::Skip::Operand, recorded))?
                .reshape(shape)
        }
    }
}

fn on_gpu(x: &Tensor, stages: Vec<cuda::Stage>, skip: Skip<'_>) -> Result<Tensor> {
    let (skip, operand) = match skip {
        Skip::Nothing => (cuda::Skip::Nothing, None),
        Skip::Input => (cuda::Skip::Input, None),
        Skip::Tensor(other) => (cuda::Skip::Nothing, Some(other)),
        Skip::Through(conv) => {
            let (n, h, w, _) = x.dims4()?;
            match conv.gpu_stage(x.dtype(), (n, h, w))? {
                Some(stage) => (cuda::Skip::Through(stage), None),
                None => {
                    let other = conv.forward(x)?;
                    return cuda::chain(x, stages, cuda::Skip::Nothing, Some(&other));
                }
            }
        }
    };
    cuda::chain(x, stages, skip, operand)
}

/// The operations of all pieces on the GPU of `x`; none where something in them learns, or has no kernel.
fn gpu_stages(x: &Tensor, pieces: &[Piece<'_>]) -> Result<Option<Vec<cuda::Stage>>> {
    let mut dims = x.dims().to_vec();
    let mut stages = Vec::with_capacity(pieces.len());
    for piece in pieces {
        if !piece.gpu_stage(x.dtype(), &mut dims, &mut stages)? {
            return Ok(None);
        }
    }
    Ok(Some(stages))
}

/// The kernels of all pieces for an input of this shape; none where something in them learns.
fn stages(dims: &[usize], pieces: &[Piece<'_>]) -> Result<Option<Vec<Stage>>> {
    let mut dims = dims.to_vec();
    let mut stages = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let Some(stage) = piece.stage(&mut dims)? else {
            return Ok(None);
        };
        stages.push(stage);
    }
    Ok(Some(stages))
}

impl Piece<'_> {
    fn alone(&self, x: &Tensor) -> Result<Tensor> {
        match *self {
            Self::Norm(norm) => norm.forward(x),
            Self::NormSilu(norm) => norm.forward_silu(x),
            Self::LayerNorm(norm) => norm.forward(x),
            Self::Linear(linear) => linear.forward(x),
            Self::Conv(conv) => conv.forward(x),
            Self::TemporalConv(conv) => conv.forward(x),
            Self::Geglu => geglu(x),
            Self::Upsample(height, width) => upsample_nearest(x, height, width),
            Self::Shift(shift) => {
                let (clips, c) = shift.dims2()?;
                let rows = x.reshape((clips, (), c))?;
                rows.broadcast_add(&shift.unsqueeze(1)?)?.reshape(x.shape())
            }
            Self::PositionsToBatch => positions_to_batch(x),
            Self::BatchToPositions(clips) => batch_to_positions(x, clips),
        }
    }

    /// Adds the operation on the GPU for an input of shape `dims`, which becomes that of the output; false where there is none.
    fn gpu_stage(
        &self,
        dtype: DType,
        dims: &mut Vec<usize>,
        stages: &mut Vec<cuda::Stage>,
    ) -> Result<bool> {
        let stage = match *self {
            Self::Norm(norm) => norm.gpu_stage(dtype, dims, false)?,
            Self::NormSilu(norm) => norm.gpu_stage(dtype, dims, true)?,
            Self::LayerNorm(norm) => norm.gpu_stage(dtype, dims)?,
            Self::Linear(linear) => {
                linear.check(dims)?;
                let Some(stage) = linear.gpu_stage(dtype)? else {
                    return Ok(false);
                };
                if let Some(width) = dims.last_mut() {
                    *width = linear.out();
                }
                stage
            }
            Self::Conv(conv) | Self::TemporalConv(TemporalConv { conv }) => {
                let (n, h, w, _) = four(dims)?;
                conv.check(dims)?;
                let Some(stage) = conv.gpu_stage(dtype, (n, h, w))? else {
                    return Ok(false);
                };
                *dims = conv.output_dims((n, h, w))?;
                stage
            }
            Self::Geglu => {
                even(dims)?;
                let stage = cuda::Stage::geglu(dtype, dims)?;
                if let Some(width) = dims.last_mut() {
                    *width /= 2;
                }
                stage
            }
            Self::Upsample(height, width) => {
                let (n, h, w, c) = four(dims)?;
                *dims = vec![n, height, width, c];
                cuda::Stage::upsample(dtype, (n, h, w, c), (height, width))?
            }
            Self::Shift(shift) => {
                let fits = !shift.track_op() && shift.dims().last() == dims.last();
                return match stages.last_mut().filter(|_| fits) {
                    Some(before) => before.shift(&shift.to_dtype(dtype)?),
                    None => Ok(false),
                };
            }
            Self::PositionsToBatch => {
                let (b, f, s, c) = four(dims)?;
                *dims = vec![b * s, f, c];
                cuda::Stage::swap(dtype, (b, f, s), c, dims)?
            }
            Self::BatchToPositions(clips) => {
                let &[n, f, c] = dims.as_slice() else {
                    candle_core::bail!("a chain's piece wants three axes, got {dims:?}");
                };
                let s = n / clips.max(1);
                *dims = vec![clips, f, s, c];
                cuda::Stage::swap(dtype, (clips, s, f), c, dims)?
            }
        };
        stages.push(stage);
        Ok(true)
    }

    /// The kernel for an input of shape `dims`, which becomes that of the output.
    fn stage(&self, dims: &mut Vec<usize>) -> Result<Option<Stage>> {
        let rank = dims.len();
        Ok(Some(match *self {
            Self::Norm(norm) => Stage::GroupNorm(norm.checked_op(dims, false)?),
            Self::NormSilu(norm) => Stage::GroupNorm(norm.checked_op(dims, true)?),
            Self::LayerNorm(norm) => Stage::LayerNorm(norm.checked_op(dims)?),
            Self::Linear(linear) => {
                let Some(product) = linear.product() else {
                    return Ok(None);
                };
                linear.check(dims)?;
                dims[rank - 1] = linear.out();
                Stage::Product(product)
            }
            Self::Conv(conv) | Self::TemporalConv(TemporalConv { conv }) => {
                let (n, h, w, _) = four(dims)?;
                conv.check(dims)?;
                let product = conv.product((n, h, w))?;
                *dims = conv.output_dims((n, h, w))?;
                Stage::Product(product)
            }
            Self::Geglu => {
                even(dims)?;
                dims[rank - 1] /= 2;
                Stage::Geglu(Geglu)
            }
            Self::Upsample(height, width) => {
                let (n, h, w, c) = four(dims)?;
                *dims = vec![n, height, width, c];
                Stage::Nearest(Nearest {
                    from: (h, w),
                    to: (height, width),
                    channels: c,
                })
            }
            Self::Shift(shift) => {
                if shift.track_op() || shift.dims().last() != dims.last() {
                    return Ok(None);
                }
                Stage::Shift(shift.clone())
            }
            Self::PositionsToBatch => {
                let (b, f, s, c) = four(dims)?;
                *dims = vec![b * s, f, c];
                Stage::Swap(Swap { outer: f, inner: s })
            }
            Self::BatchToPositions(clips) => {
                let &[n, f, c] = dims.as_slice() else {
                    candle_core::bail!("a chain's piece wants three axes, got {dims:?}");
                };
                let s = n / clips.max(1);
                *dims = vec![clips * f, s, c];
                Stage::Swap(Swap { outer: s, inner: f })
            }
        }))
    }
}

fn four(dims: &[usize]) -> Result<(usize, usize, usize, usize)> {
    match *dims {
        [n, h, w, c] => Ok((n, h, w, c)),
        _ => candle_core::bail!("a chain's piece wants four axes, got {dims:?}"),
    }
}

fn even(dims: &[usize]) -> Result<()> {
    if dims.last().is_none_or(|width| !width.is_multiple_of(2)) {
        candle_core::bail!("geglu: the last axis of {dims:?} is odd");
    }
    Ok(())
}
