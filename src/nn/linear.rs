//! Linear layers.

use candle_core::{Result, Tensor};

use super::composed;
use super::param::Param;

/// `y = x Wᵀ + b`. A frozen weight costs no weight gradient.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Param,
    bias: Option<Param>,
}

impl Linear {
    /// Shape: `weight [o, i]`, `bias [o]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn new(weight: Param, bias: Option<Param>) -> Result<Self> {
        let &[out, _] = weight.dims() else {
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
        Ok(Self { weight, bias })
    }

    /// Shape: `[.., i]` to `[.., o]`, any number of leading axes, contiguous or not.
    ///
    /// # Errors
    /// When the last axis of `x` is not the weight's.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [out, width] = *self.weight.dims() else {
            candle_core::bail!("linear: the weight must have two axes");
        };
        let Some((&last, leading)) = x.dims().split_last() else {
            candle_core::bail!("linear: the input is a scalar");
        };
        if last != width {
            candle_core::bail!(
                "linear: input {:?} does not end with the {width} inputs of the layer",
                x.shape()
            );
        }
        let rows = x.reshape((leading.iter().product::<usize>(), width))?;
        let bias = self.bias.as_ref().map(Param::tensor);
        let y = composed::linear(&rows, &self.weight.tensor(), bias.as_ref())?;
        let mut shape = leading.to_vec();
        shape.push(out);
        y.reshape(shape)
    }

    /// The weight `[o, i]`.
    pub fn weight(&self) -> &Param {
        &self.weight
    }

    /// The bias `[o]`.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
    }
}
