//! Group norm and layer norm. Their scale and shift are frozen.

use std::sync::{Arc, OnceLock};

use candle_core::{DType, Result, Tensor};

use super::conv::bias_numbers;
use super::cuda::{self, Prepared};
use super::kernels::group_norm::GroupNormOp;
use super::kernels::layer_norm::LayerNormOp;
use super::kernels::{apply1, is_cpu};
use super::{activation, composed, plan};

/// Scale and shift of a norm, on their device and as numbers.
#[derive(Clone, Debug)]
struct Affine {
    weight: Tensor,
    bias: Tensor,
    numbers: (Arc<Vec<f64>>, Arc<Vec<f64>>),
    /// In f32, for GPU kernels.
    prepared: [Prepared; 2],
}

impl Affine {
    fn new(op: &'static str, weight: &Tensor, bias: &Tensor) -> Result<Self> {
        if weight.dims1()? != bias.dims1()? {
            candle_core::bail!(
                "{op}: the weight has shape {:?}, the bias {:?}",
                weight.shape(),
                bias.shape()
            );
        }
        let numbers = (bias_numbers(weight)?, bias_numbers(bias)?);
        Ok(Self {
            weight: weight.detach(),
            bias: bias.detach(),
            numbers,
            prepared: Default::default(),
        })
    }

    /// Scale and shift in the type in which kernels compute for activations of `dtype`.
    fn wide(&self, dtype: DType) -> Result<(Tensor, Tensor)> {
        let wide = plan::wide(dtype);
        let [weight, bias] = &self.prepared;
        if wide == DType::F32 {
            let weight = weight.get(|| self.weight.to_dtype(wide)?.contiguous())?;
            let bias = bias.get(|| self.bias.to_dtype(wide)?.contiguous())?;
            return Ok((weight, bias));
        }
        Ok((self.weight.to_dtype(wide)?, self.bias.to_dtype(wide)?))
    }

    fn check(&self, op: &'static str, dims: &[usize]) -> Result<()> {
        let channels = self.numbers.0.len();
        if dims.len() < 2 || dims.last() != Some(&channels) {
            candle_core::bail!(
                "{op}: input {dims:?} does not end with the {channels} channels of the layer"
            );
        }
        Ok(())
    }
}

/// Group norm over channels-last activations, alone or followed by SiLU.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    affine: Affine,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Shape: `weight [c]`, `bias [c]`.
    ///
    /// # Errors
    /// When the shapes differ or the groups do not divide the channels.
    pub fn new(weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Self> {
        let affine = Affine::new("group norm", weight, bias)?;
        if groups == 0 || !affine.numbers.0.len().is_multiple_of(groups) {
            candle_core::bail!(
                "group norm: {groups} groups do not divide {} channels",
                affine.numbers.0.len()
            );
        }
        Ok(Self {
            affine,
            groups,
            eps,
        })
    }

    /// Shape: `[n, s, c]`, or `[n, .., c]` with any axes between, to the same; statistics over `s` and the channels
    /// of a group, for each `n`. Which axes are folded into `n` decides whether frames share their statistics.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, false)
    }

    /// [`GroupNorm::forward`] followed by [`activation::silu`], in one pass.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, true)
    }

    /// The norm as a kernel for inputs of this shape.
    pub(super) fn checked_op(&self, dims: &[usize], silu: bool) -> Result<GroupNormOp> {
        self.affine.check("group norm", dims)?;
        Ok(self.op(silu))
    }

    /// The norm as part of a chain on the GPU, for inputs of this shape.
    pub(super) fn gpu_stage(
        &self,
        dtype: DType,
        dims: &[usize],
        silu: bool,
    ) -> Result<cuda::Stage> {
        self.affine.check("group norm", dims)?;
        let how = (self.groups, self.eps, silu);
        cuda::Stage::group_norm(dtype, dims, self.affine.wide(dtype)?, how)
    }

    fn op(&self, silu: bool) -> GroupNormOp {
        let (weight, bias) = self.affine.numbers.clone();
        GroupNormOp {
            weight,
            bias,
            groups: self.groups,
            eps: self.eps,
            silu,
            statistics: OnceLock::new(),
        }
    }

    fn apply(&self, x: &Tensor, silu: bool) -> Result<Tensor> {
        self.affine.check("group norm", x.dims())?;
        let Affine { weight, bias, .. } = &self.affine;
        if is_cpu(x) {
            return apply1(x, self.op(silu));
        }
        if cuda::is_ready(x) {
            let affine = self.affine.wide(x.dtype())?;
            return cuda::group_norm(x, affine, (self.groups, self.eps, silu));
        }
        let folded = x.flatten(1, x.rank() - 2)?;
        let y = composed::group_norm(&folded, weight, bias, self.groups, self.eps)?
            .reshape(x.shape())?;
        if silu { activation::silu(&y) } else { Ok(y) }
    }
}

/// Layer norm over the last axis.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    affine: Affine,
    eps: f64,
}

impl LayerNorm {
    /// Shape: `weight [c]`, `bias [c]`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn new(weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Self> {
        Ok(Self {
            affine: Affine::new("layer norm", weight, bias)?,
            eps,
        })
    }

    /// The norm as a kernel for inputs of this shape.
    pub(super) fn checked_op(&self, dims: &[usize]) -> Result<LayerNormOp> {
        self.affine.check("layer norm", dims)?;
        Ok(self.op())
    }

    /// The norm as part of a chain on the GPU, for inputs of this shape.
    pub(super) fn gpu_stage(&self, dtype: DType, dims: &[usize]) -> Result<cuda::Stage> {
        self.affine.check("layer norm", dims)?;
        cuda::Stage::layer_norm(dtype, dims, self.affine.wide(dtype)?, self.eps)
    }

    fn op(&self) -> LayerNormOp {
        let (weight, bias) = self.affine.numbers.clone();
        LayerNormOp {
            weight,
            bias,
            eps: self.eps,
        }
    }

    /// Shape: `[.., c]`, two axes or more, to the same.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.affine.check("layer norm", x.dims())?;
        if is_cpu(x) {
            apply1(x, self.op())
        } else if cuda::is_ready(x) {
            cuda::layer_norm(x, self.affine.wide(x.dtype())?, self.eps)
        } else {
            composed::layer_norm(x, &self.affine.weight, &self.affine.bias, self.eps)
        }
    }
}
