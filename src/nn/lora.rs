//! Low-rank adapters beside frozen linear layers (LoRA, arXiv 2106.09685), in groups that are switched together.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{DType, Device, Result, Shape, Tensor, Var};

use super::cuda;
use super::kernels::adapted::Adapted;
use super::kernels::frozen::FrozenProduct;
use super::linear::Linear;
use super::noise::NoiseStream;
use super::param::{Param, training};

/// A group of adapters: how strongly they act, and whether they learn in the pass at hand. Clones share the state.
#[derive(Clone, Debug)]
pub struct Branch(Arc<State>);

#[derive(Debug)]
struct State {
    scale: AtomicU64,
    learns: AtomicBool,
    dropout: Mutex<Option<Dropout>>,
    adapters: AtomicU32,
}

/// Dropout on what the adapters of a branch add: each number is left out with a probability, the others are enlarged so
/// that the expected sum stays.
///
/// The mask of an adapter follows from the place of the stream and the adapter's number, not from what ran before: a
/// pass that is computed again (see [`super::Tape`]) drops the same numbers.
#[derive(Clone, Debug)]
pub struct Dropout {
    probability: f64,
    stream: NoiseStream,
}

impl Dropout {
    /// Leaves numbers out with `probability`, at least 0 and below 1, as the stream says.
    #[must_use]
    pub fn new(probability: f64, stream: NoiseStream) -> Self {
        Self {
            probability: probability.clamp(0.0, 0.999),
            stream,
        }
    }

    fn apply(&self, x: &Tensor, adapter: u32) -> Result<Tensor> {
        if cuda::is_ready(x) {
            let stream = self.stream.lane(adapter);
            return cuda::dropout(x, stream.dropping(1.0 - self.probability));
        }
        let keep = self.mask(x.shape(), adapter)?.to_device(x.device())?;
        x.mul(&keep.to_dtype(x.dtype())?)
    }

    /// What an adapter's output is multiplied with: 0 where it is left out, else the factor that keeps the expected sum.
    pub(super) fn mask(&self, shape: &Shape, adapter: u32) -> Result<Tensor> {
        let mut stream = self.stream.lane(adapter);
        let mask = stream.chance(shape, 1.0 - self.probability, &Device::Cpu)?;
        mask.affine(1.0 / (1.0 - self.probability), 0.0)
    }
}

impl Default for Branch {
    /// Acts fully, learns, drops nothing.
    fn default() -> Self {
        Self(Arc::new(State {
            scale: AtomicU64::new(1.0f64.to_bits()),
            learns: AtomicBool::new(true),
            dropout: Mutex::new(None),
            adapters: AtomicU32::new(0),
        }))
    }
}

impl Branch {
    /// What the adapters' output is multiplied with; at 0 they cost nothing.
    #[must_use]
    pub fn scale(&self) -> f64 {
        f64::from_bits(self.0.scale.load(Ordering::Relaxed))
    }

    /// Whether the adapters' weights get gradients.
    #[must_use]
    pub fn learns(&self) -> bool {
        self.0.learns.load(Ordering::Relaxed)
    }

    /// Sets strength, learning and dropout for the passes to come.
    pub fn set(&self, scale: f64, learns: bool, dropout: Option<Dropout>) {
        self.0.scale.store(scale.to_bits(), Ordering::Relaxed);
        self.0.learns.store(learns, Ordering::Relaxed);
        *self
            .0
            .dropout
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = dropout;
    }

    /// The dropout of the pass at hand.
    fn dropout(&self) -> Option<Dropout> {
        let dropout = self
            .0
            .dropout
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let acts = |dropout: &&Dropout| dropout.probability > 0.0 && training();
        dropout.as_ref().filter(acts).cloned()
    }

    /// The number of a new adapter of this branch, counted from 0.
    fn enrol(&self) -> u32 {
        self.0.adapters.fetch_add(1, Ordering::Relaxed)
    }
}

/// `scale · up(down(x))`: what is added to the output of a frozen layer.
#[derive(Clone, Debug)]
pub struct Lora {
    down: Linear,
    up: Linear,
    branch: Branch,
    /// Which adapter of its branch this is.
    number: u32,
}

impl Lora {
    /// Shape: `down [r, i]`, `up [o, r]`.
    ///
    /// # Errors
    /// When the shapes do not fit each other.
    pub fn new(down: &Var, up: &Var, branch: Branch) -> Result<Self> {
        if down.dims2()?.0 != up.dims2()?.1 {
            candle_core::bail!(
                "lora: down has shape {:?}, up {:?}",
                down.shape(),
                up.shape()
            );
        }
        Ok(Self {
            down: Linear::new(Param::adapter(down, branch.clone()), None)?,
            up: Linear::new(Param::adapter(up, branch.clone()), None)?,
            number: branch.enrol(),
            branch,
        })
    }

    /// The frozen layer `product` with this adapter beside it, as one kernel. Shape: `x [.., i]` to `[.., o]`.
    pub(super) fn beside(&self, product: FrozenProduct, x: &Tensor) -> Result<Tensor> {
        let dtype = x.dtype();
        let (down, up) = (self.down.weight().tensor(), self.up.weight().tensor());
        let (down, up) = (down.to_dtype(dtype)?, up.to_dtype(dtype)?);
        let op = Adapted {
            layer: product,
            scale: self.branch.scale(),
            dropout: self.branch.dropout().map(|dropout| (dropout, self.number)),
            wanted: (x.track_op(), down.track_op()),
            inner: OnceLock::new(),
        };
        x.contiguous()?.apply_op3(&down, &up, op)
    }

    /// As [`Self::beside`] on a GPU, for the layer's weight in the type of `x` and its bias in the wide type.
    pub(super) fn beside_on_gpu(
        &self,
        layer: (Tensor, Option<Tensor>),
        x: &Tensor,
    ) -> Result<Tensor> {
        let (down, up) = (self.down.weight().tensor(), self.up.weight().tensor());
        let dropping = self.branch.dropout().map(|dropout| {
            let stream = dropout.stream.lane(self.number);
            stream.dropping(1.0 - dropout.probability)
        });
        cuda::adapted_linear(x, layer, (&down, &up), self.branch.scale(), dropping)
    }

    /// Whether it adds nothing in the pass at hand.
    pub(super) fn rests(&self) -> bool {
        self.branch.scale() == 0.0
    }

    /// Shape: `x [.., i]`, `y [.., o]` the output of the layer beside it; returns their sum `[.., o]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn add_to(&self, y: Tensor, x: &Tensor) -> Result<Tensor> {
        let scale = self.branch.scale();
        if scale == 0.0 {
            return Ok(y);
        }
        let branch = self.up.forward(&self.down.forward(x)?)?;
        let branch = match self.branch.dropout() {
            Some(dropout) => dropout.apply(&branch, self.number)?,
            None => branch,
        };
        if scale == 1.0 {
            return y + branch;
        }
        y + branch.affine(scale, 0.0)?
    }
}

/// Starting values of an adapter of rank `r`: `down ~ N(0, 1/r)`, `up` zero, so that it adds nothing at first.
///
/// Source: MotionDirector's `LoraInjectedLinear` (standard deviation `1 / r`). Variables are f32 on the stream's device.
///
/// # Errors
/// When the device has no room.
pub fn starting_values(
    noise: &mut NoiseStream,
    rank: usize,
    (i, o): (usize, usize),
    device: &Device,
) -> Result<(Var, Var)> {
    let rank = rank.min(i).min(o).max(1);
    let down = noise
        .normal((rank, i), DType::F32, device)?
        .affine(1.0 / rank as f64, 0.0)?;
    let up = Tensor::zeros((o, rank), DType::F32, device)?;
    Ok((Var::from_tensor(&down)?, Var::from_tensor(&up)?))
}
