//! Host methods: which weights learn and what the base loss is. Spectral Motion Alignment is added on top by `train`.

pub mod vmc;

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::spectral::loss::{CosineAxis, Residual};

/// A fine-tuning method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Video Motion Customization: temporal attention learns the direction of the clip's frame differences
    #[default]
    Vmc,
}

impl Method {
    /// Whether the weight of this state-dict name learns.
    #[must_use]
    pub fn trains(self, name: &str) -> bool {
        match self {
            Self::Vmc => vmc::trains(name),
        }
    }

    /// The loss of the method alone, a scalar; see the method's module.
    ///
    /// # Errors
    /// When the shapes differ or hold a single frame.
    pub fn base_loss(
        self,
        eps_hat: &Tensor,
        eps: &Tensor,
        residual: Residual,
        axis: CosineAxis,
    ) -> Result<Tensor> {
        match self {
            Self::Vmc => vmc::base_loss(eps_hat, eps, residual, axis),
        }
    }
}
