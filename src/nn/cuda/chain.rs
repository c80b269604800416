//! Several frozen operations as one of candle's: see [`crate::nn::kernels::chain`], of which this is the counterpart.
//!
//! Beside the memory this saves time: candle's backward pass fills a tensor with zeros and adds to it for every operation
//! it knows of, and here what follows a product (a bias, a shift, what is added at the end) is one pass over its result.

use std::sync::OnceLock;

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, DType, Device, Error, Layout, Result, Shape,
    Tensor,
};

use super::convolution::Convolved;
use super::layers;
use super::linear::FrozenLinear;
use super::planned::{Addends, Planned, add_in_place, aligned, cuda, ready, tensor};
use crate::nn::plan::Convolution;

/// One operation of a chain, and what is added to its result.
pub(crate) struct Stage {
    op: Box<dyn CustomOp1 + Send + Sync>,
    /// Whether the gradient depends on the input.
    reads_input: bool,
    bias: Option<Tensor>,
    shift: Option<Tensor>,
}

impl Stage {
    fn planned(op: Planned) -> Result<Self> {
        Ok(Self {
            reads_input: op.reads_input(),
            op: Box::new(op.aligned()?),
            bias: None,
            shift: None,
        })
    }

    /// As [`super::frozen_linear`].
    pub fn linear(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self {
            op: Box::new(FrozenLinear { weight, bias: None }),
            reads_input: false,
            bias,
            shift: None,
        }
    }

    /// As [`super::convolution()`].
    pub fn convolution(weight: &Tensor, bias: Option<Tensor>, size: Convolution) -> Result<Self> {
        let mut op = Convolved::new(weight, bias, size)?;
        let bias = op.take_bias();
        Ok(Self {
            op: Box::new(op),
            reads_input: false,
            bias,
            shift: None,
        })
    }

    /// As [`super::group_norm`], for inputs of this shape.
    pub fn group_norm(
        dtype: DType,
        dims: &[usize],
        affine: (Tensor, Tensor),
        how: (usize, f64, bool),
    ) -> Result<Self> {
        Self::planned(layers::group_norm_op(dtype, dims, affine, how)?)
    }

    /// As [`super::layer_norm`], for inputs of this shape.
    pub fn layer_norm(
        dtype: DType,
        dims: &[usize],
        affine: (Tensor, Tensor),
        eps: f64,
    ) -> Result<Self> {
        Self::planned(layers::layer_norm_op(dtype, dims, affine, eps)?)
    }

    /// As [`super::geglu`], for inputs of this shape.
    pub fn geglu(dtype: DType, dims: &[usize]) -> Result<Self> {
        Self::planned(layers::geglu_op(dtype, dims)?)
    }

    /// As [`super::upsample_nearest`], for images of this shape.
    pub fn upsample(
        dtype: DType,
        dims: (usize, usize, usize, usize),
        to: (usize, usize),
    ) -> Result<Self> {
        Self::planned(layers::upsample_op(dtype, dims, to)?)
    }

    /// `[b, p, q, c]` to `[b, q, p, c]`, as `shape`.
    pub fn swap(
        dtype: DType,
        (batch, outer, inner): (usize, usize, usize),
        width: usize,
        shape: &[usize],
    ) -> Result<Self> {
        Self::planned(layers::swap_op(dtype, (batch, outer, inner), width, shape)?)
    }

    /// Adds `[b, c]` to the result, a row to each equal share of its rows; false where something was shifted already.
    pub fn shift(&mut self, shift: &Tensor) -> Result<bool> {
        if self.shift.is_some() {
            return Ok(false);
        }
        self.shift = Some(aligned(&shift.detach())?);
        Ok(true)
    }

    /// The result, and `skip` added to it.
    fn forward(
        &self,
        (x, layout): (&CudaStorage, &Layout),
        skip: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        let (y, shape) = self.op.cuda_fwd(x, layout)?;
        let width = shape.dims().last().copied().unwrap_or(1);
        let addends = Addends {
            bias: self.bias.as_ref(),
            shift: self.shift.as_ref(),
            skip,
        };
        addends.add_to(&y, (shape.elem_count() / width.max(1), width))?;
        Ok((y, shape))
    }

    fn backward(&self, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        match self.op.bwd(x, x, grad)? {
            Some(grad) => Ok(grad),
            None => candle_core::bail!("{} has no gradient", self.op.name()),
        }
    }
}

/// What is added to the result of a chain.
pub(crate) enum Skip {
    Nothing,
    /// The chain's own input.
    Input,
    /// A linear operation of the chain's own input.
    Through(Stage),
}

/// Runs `stages` on `x` and adds `skip`, and `operand` where there is one, whose shape the sum gets then.
pub(crate) fn chain(
    x: &Tensor,
    stages: Vec<Stage>,
    skip: Skip,
    operand: Option<&Tensor>,
) -> Result<Tensor> {
    let x = ready(x)?;
    let op = Chain {
        stages,
        skip,
        recorded: x.track_op(),
        kept: OnceLock::new(),
    };
    match operand {
        None => x.apply_op1(op),
        Some(operand) => {
            let shape = operand.shape().clone();
            x.apply_op2(&ready(operand)?, op)?.reshape(shape)
        }
    }
}

/// An input of a stage that has more than so many times the numbers of the chain's is computed again instead of kept: the
/// wide middle of a feed-forward layer would be most of what a block remembers.
const LARGER: usize = 4;

struct Chain {
    stages: Vec<Stage>,
    skip: Skip,
    /// Whether a backward pass will come.
    recorded: bool,
    /// What the backward pass needs of each stage's input: its shape, and its numbers where the gradient depends on them.
    kept: OnceLock<Vec<(Shape, Option<Tensor>)>>,
}

impl Chain {
    fn run(
        &self,
        (x, layout): (&CudaStorage, &Layout),
        operand: Option<(&CudaStorage, &Layout)>,
    ) -> Result<(CudaStorage, Shape)> {
        let through = match &self.skip {
            Skip::Through(stage) => Some(stage.forward((x, layout), None)?),
            _ => None,
        };
        let through = through.map(|(y, shape)| (y, Layout::contiguous(shape)));
        let skip = match (&self.skip, &through) {
            (Skip::Input, _) => Some((x, layout)),
            (_, Some((through, layout))) => Some((through, layout)),
            _ => operand,
        };
        let mut kept = vec![(layout.shape().clone(), None)];
        let mut hidden: Option<(CudaStorage, Shape)> = None;
        for (i, stage) in self.stages.iter().enumerate() {
            let skip = skip.filter(|_| i + 1 == self.stages.len());
            let next = match hidden.take() {
                None => stage.forward((x, layout), skip)?,
                Some((storage, shape)) => {
                    let next = stage.forward((&storage, &Layout::contiguous(&shape)), skip)?;
                    if self.recorded
                        && stage.reads_input
                        && shape.elem_count() <= LARGER * layout.shape().elem_count()
                        && let Some((_, place)) = kept.get_mut(i)
                    {
                        *place = Some(tensor(storage, shape));
                    }
                    next
                }
            };
            kept.push((next.1.clone(), None));
            hidden = Some(next);
        }
        let Some(done) = hidden else {
            candle_core::bail!("a chain without a stage");
        };
        // A chain runs forward once; what it kept then is what its gradient is taken at.
        self.kept.set(kept).ok();
        Ok(done)
    }

    /// The input of a stage that was not kept, computed again.
    fn input_of(&self, stage: usize, x: &Tensor) -> Result<Tensor> {
        let kept = self.kept.get().map_or(&[][..], Vec::as_slice);
        let before = kept.get(..stage).unwrap_or_default();
        let found = before.iter().enumerate().rev();
        let (first, from) = found
            .filter_map(|(i, (_, input))| Some((i, input.as_ref()?)))
            .next()
            .unwrap_or((0, x));
        let mut hidden = from.detach();
        for stage in self.stages.get(first..stage).unwrap_or_default() {
            let (y, shape) = {
                let (storage, layout) = hidden.storage_and_layout();
                stage.forward((cuda(&storage)?, layout), None)?
            };
            hidden = tensor(y, shape);
        }
        Ok(hidden)
    }

    fn gradient(&self, x: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let Some(kept) = self.kept.get() else {
            candle_core::bail!("a chain's gradient is asked for before its result");
        };
        let grad = aligned(&grad.detach())?;
        let mut hidden = grad.clone();
        for (i, stage) in self.stages.iter().enumerate().rev() {
            let Some((shape, input)) = kept.get(i) else {
                candle_core::bail!("a chain kept nothing of stage {i}");
            };
            let hidden_shape = kept.get(i + 1).map_or(shape, |(shape, _)| shape);
            let by_result = hidden.reshape(hidden_shape)?;
            hidden = match input {
                _ if i == 0 => stage.backward(x, &by_result)?,
                Some(input) => stage.backward(input, &by_result)?,
                None if stage.reads_input => stage.backward(&self.input_of(i, x)?, &by_result)?,
                None => stage.backward(&of_shape(shape, x.dtype())?, &by_result)?,
            };
        }
        match &self.skip {
            Skip::Nothing => Ok(hidden),
            Skip::Input => add_in_place(hidden, &grad),
            Skip::Through(stage) => add_in_place(hidden, &stage.backward(x, &grad)?),
        }
    }
}

/// A tensor that tells a shape and holds one number, which nobody reads.
fn of_shape(shape: &Shape, dtype: DType) -> Result<Tensor> {
    Tensor::zeros(1, dtype, &Device::Cpu)?.broadcast_as(shape)
}

fn no_cpu() -> Error {
    Error::Msg("chain: a GPU layer was given a tensor in main memory".to_owned())
}

impl CustomOp1 for Chain {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Err(no_cpu())
    }

    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.run((x, layout), None)
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.gradient(x, grad).map(Some)
    }
}

impl CustomOp2 for Chain {
    fn name(&self) -> &'static str {
        "chain"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Err(no_cpu())
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        layout: &Layout,
        operand: &CudaStorage,
        operand_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        self.run((x, layout), Some((operand, operand_layout)))
    }

    fn bwd(
        &self,
        x: &Tensor,
        operand: &Tensor,
        _: &Tensor,
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
