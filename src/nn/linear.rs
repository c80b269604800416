//! Linear layers.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor};

use super::cuda::{self, Prepared};
use super::kernels::frozen::{FrozenProduct, Kind};
use super::kernels::trained::TrainedLinear;
use super::kernels::weight::{Direction, Weight};
use super::kernels::{apply1, compute_dtype, is_cpu};
use super::lora::Lora;
use super::param::{Param, grad_enabled};
use super::{composed, plan};

/// `y = x Wᵀ + b`. A frozen weight costs no weight gradient.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Param,
    bias: Option<Param>,
    out: usize,
    width: usize,
    /// For a layer with nothing to train.
    frozen: Option<Frozen>,
    loras: Vec<Lora>,
    /// A frozen bias in f32, for GPU kernels.
    wide_bias: Prepared,
}

/// Weight and bias as the kernels want them.
#[derive(Clone, Debug)]
struct Frozen {
    weight: Arc<Weight>,
    bias: Option<Arc<Vec<f64>>>,
}

impl Frozen {
    fn product(&self) -> FrozenProduct {
        FrozenProduct {
            weight: self.weight.clone(),
            bias: self.bias.clone(),
            kind: Kind::Linear,
            direction: Direction::Forward,
        }
    }
}

impl Linear {
    /// Shape: `weight [o, i]`, or `[o, i, 1, 1]`, which is how a convolution of a single pixel is written; `bias [o]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn new(weight: Param, bias: Option<Param>) -> Result<Self> {
        let (&[out, width] | &[out, width, 1, 1]) = weight.dims() else {
            candle_core::bail!(
                "linear: the weight must have two axes, got {:?}",
                weight.dims()
            );
        };
        if let Some(bias) = &bias
            && bias.dims() != [out]
        {
            candle_core::bail!(
                "linear: the bias has shape {:?}, the weight {:?}",
                bias.dims(),
                weight.dims()
            );
        }
        let trainable = weight.is_trainable() || bias.as_ref().is_some_and(Param::is_trainable);
        let frozen = if trainable {
            None
        } else {
            let bias = bias
                .as_ref()
                .map(|bias| super::conv::bias_numbers(&bias.tensor()))
                .transpose()?;
            Some(Frozen {
                weight: Arc::new(Weight::new(&matrix(&weight)?)?),
                bias,
            })
        };
        Ok(Self {
            weight,
            bias,
            out,
            width,
            frozen,
            loras: Vec::new(),
            wide_bias: Prepared::default(),
        })
    }

    /// The layer with one adapter more beside it: `y = x Wᵀ + b + Σ scale · up(down(x))`.
    #[must_use]
    pub fn with_lora(mut self, lora: Lora) -> Self {
        self.loras.push(lora);
        self
    }

    /// Shape: `[.., i]` to `[.., o]`, any number of leading axes, contiguous or not. The result has the type of
    /// `x`; half precision is computed in f32 on the CPU.
    ///
    /// # Errors
    /// When the last axis of `x` is not the weight's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.check(x.dims())?;
        if let (Some(frozen), Some(lora)) = (&self.frozen, self.only_adapter())
            && is_cpu(x)
            && x.dtype() == compute_dtype(x.dtype())
        {
            let x = if grad_enabled() {
                x.clone()
            } else {
                x.detach()
            };
            return lora.beside(frozen.product(), &x);
        }
        if let (Some(_), Some(lora)) = (&self.frozen, self.only_adapter())
            && cuda::is_ready(x)
        {
            let weight = matrix(&self.weight)?.to_dtype(x.dtype())?;
            return lora.beside_on_gpu((weight, self.gpu_bias(x.dtype())?), x);
        }
        let y = self.plain(x)?;
        self.loras.iter().try_fold(y, |y, lora| lora.add_to(y, x))
    }

    pub(super) fn check(&self, dims: &[usize]) -> Result<()> {
        if dims.last() != Some(&self.width) {
            candle_core::bail!(
                "linear: input {dims:?} does not end with the {} inputs of the layer",
                self.width
            );
        }
        Ok(())
    }

    fn plain(&self, x: &Tensor) -> Result<Tensor> {
        if cuda::is_ready(x) {
            let learns = self.bias.as_ref().filter(|bias| bias.is_trainable());
            return match learns {
                Some(bias) => beside_bias(&self.on_gpu(x, None)?, &bias.tensor()),
                None => self.on_gpu(x, self.gpu_bias(x.dtype())?),
            };
        }
        if !is_cpu(x) {
            return self.composed(x);
        }
        match &self.frozen {
            Some(frozen) => apply1(x, frozen.product()),
            None => self.trained(x),
        }
    }

    /// The layer as a kernel, where nothing in it learns and no adapter acts.
    pub(super) fn product(&self) -> Option<FrozenProduct> {
        let alone = self.loras.iter().all(Lora::rests);
        self.frozen.as_ref().filter(|_| alone).map(Frozen::product)
    }

    /// The adapter that acts, where there is exactly one.
    fn only_adapter(&self) -> Option<&Lora> {
        let mut acting = self.loras.iter().filter(|lora| !lora.rests());
        acting.next().filter(|_| acting.next().is_none())
    }

    /// Numbers out.
    pub(super) fn out(&self) -> usize {
        self.out
    }

    fn trained(&self, x: &Tensor) -> Result<Tensor> {
        let dtype = compute_dtype(x.dtype());
        let wide = if grad_enabled() {
            x.to_dtype(dtype)?
        } else {
            x.detach().to_dtype(dtype)?
        };
        let weight = matrix(&self.weight)?.to_dtype(dtype)?;
        let bias = self
            .bias
            .as_ref()
            .map(|bias| bias.tensor().to_dtype(dtype))
            .transpose()?;
        let op = TrainedLinear {
            input_gradient: wide.track_op(),
            // A weight that learns now has a graph; one inside `no_grad` or of a resting branch has none.
            weight_gradient: weight.track_op(),
            bias_gradient: bias.as_ref().is_some_and(Tensor::track_op),
        };
        op.apply(&wide, &weight, bias.as_ref())?.to_dtype(x.dtype())
    }

    fn on_gpu(&self, x: &Tensor, bias: Option<Tensor>) -> Result<Tensor> {
        if self.weight.is_trainable() {
            return cuda::trained_linear(x, &matrix(&self.weight)?, bias);
        }
        cuda::frozen_linear(x, matrix(&self.weight)?.to_dtype(x.dtype())?, bias)
    }

    /// The bias in the type in which kernels compute for activations of `dtype`.
    fn gpu_bias(&self, dtype: DType) -> Result<Option<Tensor>> {
        let Some(bias) = &self.bias else {
            return Ok(None);
        };
        let wide = || bias.tensor().to_dtype(plan::wide(dtype))?.contiguous();
        self.wide_bias.get(wide).map(Some)
    }

    /// The layer as part of a chain on the GPU, where nothing in it learns and no adapter acts.
    pub(super) fn gpu_stage(&self, dtype: DType) -> Result<Option<cuda::Stage>> {
        if self.frozen.is_none() || !self.loras.iter().all(Lora::rests) {
            return Ok(None);
        }
        let weight = matrix(&self.weight)?.to_dtype(dtype)?;
        Ok(Some(cuda::Stage::linear(weight, self.gpu_bias(dtype)?)))
    }

    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let rows = x.reshape(((), self.width))?;
        let bias = self
            .bias
            .as_ref()
            .map(|bias| bias.tensor().to_dtype(x.dtype()))
            .transpose()?;
        let y = composed::linear(
            &rows,
            &matrix(&self.weight)?.to_dtype(x.dtype())?,
            bias.as_ref(),
        )?;
        let mut shape = x.dims().to_vec();
        shape.pop();
        shape.push(self.out);
        y.reshape(shape)
    }

    /// The weight in the shape it was given.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// The bias `[o]`.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
    }
}

/// The weight `[o, i]`, with its graph.
fn matrix(weight: &Param) -> Result<Tensor> {
    let tensor = weight.tensor();
    if tensor.rank() == 2 {
        return Ok(tensor);
    }
    tensor.flatten_from(1)
}

/// `y + bias` in the type in which kernels compute, so that the gradient of a bias that learns is summed in it.
fn beside_bias(y: &Tensor, bias: &Tensor) -> Result<Tensor> {
    let wide = plan::wide(y.dtype());
    let sum = y.to_dtype(wide)?.broadcast_add(&bias.to_dtype(wide)?)?;
    sum.to_dtype(y.dtype())
}
