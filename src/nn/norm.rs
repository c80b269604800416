//! Group norm and layer norm. Their scale and shift are frozen.

use candle_core::{Result, Tensor};

use super::{activation, composed};

/// Group norm over channels-last activations, alone or followed by SiLU.
#[derive(Clone, Debug)]
pub struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Shape: `weight [c]`, `bias [c]`.
    ///
    /// # Errors
    /// When the shapes differ or the groups do not divide the channels.
    pub fn new(weight: &Tensor, bias: &Tensor, groups: usize, eps: f64) -> Result<Self> {
        let channels = weight.dims1()?;
        if bias.dims1()? != channels || groups == 0 || !channels.is_multiple_of(groups) {
            candle_core::bail!(
                "group norm: weight {:?}, bias {:?}, {groups} groups",
                weight.shape(),
                bias.shape()
            );
        }
        Ok(Self {
            weight: weight.detach(),
            bias: bias.detach(),
            groups,
            eps,
        })
    }

    /// Shape: `[n, s, c]` to the same; statistics over `s` and the channels of a group, for each `n`. Which
    /// axes are folded into `s` decides whether frames share their statistics.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        composed::group_norm(x, &self.weight, &self.bias, self.groups, self.eps)
    }

    /// [`GroupNorm::forward`] followed by [`activation::silu`].
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        activation::silu(&self.forward(x)?)
    }
}

/// Layer norm over the last axis.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Shape: `weight [c]`, `bias [c]`.
    ///
    /// # Errors
    /// When the shapes differ.
    pub fn new(weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Self> {
        if weight.dims1()? != bias.dims1()? {
            candle_core::bail!(
                "layer norm: weight {:?}, bias {:?}",
                weight.shape(),
                bias.shape()
            );
        }
        Ok(Self {
            weight: weight.detach(),
            bias: bias.detach(),
            eps,
        })
    }

    /// Shape: `[.., c]` to the same.
    ///
    /// # Errors
    /// When the channels do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        composed::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}
