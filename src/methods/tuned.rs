//! A network made ready to learn by a method.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Var};
use serde::{Deserialize, Serialize};

use super::Method;
use super::motion_director::{self, Part};
use crate::models::{
    Adapters, ModelError, ModelFolder, SingleFrame, UNet3DConditionModel, Weights,
};
use crate::nn::Branch;

/// Number type of a network's frozen weights and of its activations. What learns is f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// What suits the device: f32 on the processor, bf16 on a graphics card that has it
    #[default]
    Auto,
    /// 32 bits
    F32,
    /// 16 bits: half the memory for the weights; slower on the processor, which computes in 32 bits
    F16,
}

impl Precision {
    /// The number type on this device.
    #[must_use]
    pub fn dtype(self, device: &Device) -> DType {
        match self {
            Self::Auto => device.bf16_default_to_f32(),
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }
}

/// What a method needs to know to prepare a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Inner width of adapters.
    pub rank: usize,
    /// Seed of their starting values.
    pub seed: u64,
    /// Number type of what does not learn.
    pub precision: Precision,
}

/// The two sets of adapters of MotionDirector.
#[derive(Clone, Debug, Default)]
pub struct Branches {
    /// Beside layers that see one frame at a time.
    pub spatial: Branch,
    /// Beside layers that see all frames of a position.
    pub temporal: Branch,
}

/// A network and what learns in it.
#[derive(Debug)]
pub struct Tuned {
    /// The network.
    pub unet: UNet3DConditionModel,
    /// What learns, by state-dict name.
    pub vars: BTreeMap<String, Var>,
    /// The adapters' switches; none where the network's own weights learn.
    pub branches: Option<Branches>,
}

impl Tuned {
    /// A network whose own weights learn.
    #[must_use]
    pub fn plain(unet: UNet3DConditionModel, vars: BTreeMap<String, Var>) -> Self {
        Self {
            unet,
            vars,
            branches: None,
        }
    }

    /// Switches the adapters as sampling wants them: the temporal ones act, the spatial ones with `spatial_scale`.
    pub fn set_for_sampling(&self, spatial_scale: f64) {
        if let Some(branches) = &self.branches {
            branches.temporal.set(1.0, false, None);
            branches.spatial.set(spatial_scale, false, None);
        }
    }
}

impl Method {
    /// Loads the denoising network of a model with what this method trains.
    ///
    /// # Errors
    /// When the weights cannot be read or do not fit.
    pub fn load(
        self,
        folder: &ModelFolder,
        tuning: Tuning,
        device: &Device,
    ) -> Result<Tuned, ModelError> {
        let dtype = tuning.precision.dtype(device);
        match self {
            Self::Vmc => {
                let prepare = |weights: &Weights| weights.set_trainable(&|name| self.trains(name));
                let (unet, vars) = folder.load_tuned_unet(&prepare, dtype, device)?;
                Ok(Tuned::plain(unet, vars))
            }
            Self::MotionDirector => {
                let branches = Branches::default();
                let prepare = |weights: &Weights| {
                    let branches = branches.clone();
                    weights.set_adapters(Adapters {
                        choose: Box::new(move |layer| {
                            Some(match motion_director::part_of(layer)? {
                                Part::Spatial => branches.spatial.clone(),
                                Part::Temporal => branches.temporal.clone(),
                            })
                        }),
                        rank: tuning.rank,
                        seed: tuning.seed,
                    });
                };
                let (mut unet, vars) = folder.load_tuned_unet(&prepare, dtype, device)?;
                // The spatial pass sees one frame, which goes past the temporal layers.
                unet.single_frame = SingleFrame::SkipTemporal;
                Ok(Tuned {
                    unet,
                    vars,
                    branches: Some(branches),
                })
            }
        }
    }
}
