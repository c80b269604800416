//! LoRA files added up into the weights themselves.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::super::error::ModelError;
use super::names::LoraPart;
use super::{FittedLayer, FittedLora};

/// `scale · up · down`: what one LoRA adds to one weight.
#[derive(Clone, Debug)]
pub(crate) struct Delta {
    /// `[r, n]`, where `n` is the size of all axes of the weight but the first.
    down: Tensor,
    /// `[o, r]`.
    up: Tensor,
    scale: f64,
}

impl Delta {
    /// `W + strength · (alpha / r) · up · down`, in the number type of the weight. A convolution's lower factor is its kernel:
    /// the upper one, of a single pixel, sums it over the inner width, so that the product is the same with its last axes
    /// flattened.
    ///
    /// Shape: `weight [o, ..]` on the processor; returns the same.
    pub(crate) fn add_to(&self, weight: &Tensor) -> Result<Tensor> {
        let dtype = weight.dtype();
        let product = self
            .up
            .to_dtype(dtype)?
            .matmul(&self.down.to_dtype(dtype)?)?;
        weight + product.affine(self.scale, 0.0)?.reshape(weight.dims())?
    }
}

/// What LoRA files add to the weights of a model, by their names.
#[derive(Clone, Debug, Default)]
pub struct LoraDeltas {
    unet: BTreeMap<String, Vec<Delta>>,
    text: BTreeMap<String, Vec<Delta>>,
}

impl LoraDeltas {
    /// Adds a LoRA with a strength; 1 is what it was trained for.
    ///
    /// # Errors
    /// When its tensors cannot be read, or hold what is no number.
    pub fn add(&mut self, lora: &FittedLora, strength: f64) -> std::result::Result<(), ModelError> {
        for layer in &lora.layers {
            let Some(delta) = delta(layer, strength)? else {
                return Err(ModelError::Lora {
                    file: lora.file.clone(),
                    why: format!("{} holds numbers that are not finite", layer.weight),
                });
            };
            let part = match layer.part {
                LoraPart::Unet => &mut self.unet,
                LoraPart::Text => &mut self.text,
            };
            part.entry(layer.weight.clone()).or_default().push(delta);
        }
        Ok(())
    }

    /// Whether nothing is added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unet.is_empty() && self.text.is_empty()
    }

    /// Whether words mean something else with it.
    #[must_use]
    pub fn changes_words(&self) -> bool {
        !self.text.is_empty()
    }

    /// What is added to the denoising network.
    pub(crate) fn unet(&self) -> &BTreeMap<String, Vec<Delta>> {
        &self.unet
    }

    /// What is added to the text encoder, whose names begin with `prefix`.
    pub(crate) fn text(&self, prefix: &str) -> BTreeMap<String, Vec<Delta>> {
        let named = self.text.iter();
        named
            .map(|(name, deltas)| (format!("{prefix}{name}"), deltas.clone()))
            .collect()
    }

    /// Adds to variables what belongs to the denoising network's weights of their names: trained weights that took the place
    /// of the model's own.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn add_to_vars(&self, vars: &BTreeMap<String, Var>) -> Result<()> {
        for (name, var) in vars {
            let Some(deltas) = self.unet.get(name) else {
                continue;
            };
            let start = var.as_tensor().detach().to_device(&Device::Cpu)?;
            let sum = deltas
                .iter()
                .try_fold(start, |sum, delta| delta.add_to(&sum))?;
            var.set(&sum.to_device(var.device())?)?;
        }
        Ok(())
    }
}

/// None where a number is not finite.
fn delta(layer: &FittedLayer, strength: f64) -> std::result::Result<Option<Delta>, ModelError> {
    let (down, up) = layer.factors()?;
    let rank = layer.rank;
    let delta = Delta {
        down: down.reshape((rank, ()))?,
        up: up.reshape(((), rank))?,
        scale: strength * layer.scale,
    };
    let size = |factor: &Tensor| -> Result<f64> {
        let sum = factor.to_dtype(DType::F64)?.abs()?.sum_all()?;
        sum.to_scalar::<f64>()
    };
    let finite = size(&delta.down)?.is_finite() && size(&delta.up)?.is_finite();
    Ok((finite && delta.scale.is_finite()).then_some(delta))
}
