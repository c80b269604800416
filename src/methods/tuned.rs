//! A network made ready to learn by a method.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Var};
use serde::{Deserialize, Serialize};

use super::Method;
use super::motion_director::{self, Part};
use crate::models::{
    Adapter, Adapters, Inflating, Inflation, ModelError, ModelFolder, Network, SingleFrame,
    TemporalBias, UNet3DConditionModel, UNet3DConfig, Weights,
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
    /// 16 bits with the range of 32: what graphics cards since 2020 train in
    Bf16,
}

impl Precision {
    /// The number type on this device.
    #[must_use]
    pub fn dtype(self, device: &Device) -> DType {
        match self {
            Self::Auto => device.bf16_default_to_f32(),
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

/// What a method needs to know to prepare a network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuning {
    /// Inner width of adapters.
    pub rank: usize,
    /// Seed of their starting values.
    pub seed: u64,
    /// Sets of spatial adapters, at least 1: one for each clip, or one for all of them.
    pub spatial_sets: usize,
    /// Number type of what does not learn.
    pub precision: Precision,
    /// What the bias behind Tune-A-Video's attention over frames starts at.
    pub temporal_bias: TemporalBias,
    /// Strength of ControlVideo's ControlNet.
    pub control_scale: f64,
}

/// The sets of adapters of MotionDirector. The temporal ones are shared by all clips.
#[derive(Clone, Debug, Default)]
pub struct Branches {
    /// Beside layers that see one frame at a time: a set for each clip, or one for all; none in a file without any.
    pub spatial: Vec<Branch>,
    /// Beside layers that see all frames of a position.
    pub temporal: Branch,
}

/// How strongly adapters act in samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Strength {
    /// The temporal adapters: the motion. Trained at 1.
    pub motion: f64,
    /// The spatial adapters: the look of a clip. 0 leaves it behind.
    pub look: f64,
    /// Whose look, where every clip has a set of its own: the clip's number, from 0.
    pub clip: usize,
}

/// A network and what learns in it.
#[derive(Debug)]
pub struct Tuned {
    /// The network.
    pub unet: Network,
    /// What learns, by state-dict name.
    pub vars: BTreeMap<String, Var>,
    /// The adapters' switches; none where the network's own weights learn.
    pub branches: Option<Branches>,
}

impl Branches {
    /// Switches for this many spatial sets.
    #[must_use]
    pub fn new(spatial_sets: usize) -> Self {
        Self {
            spatial: (0..spatial_sets).map(|_| Branch::default()).collect(),
            temporal: Branch::default(),
        }
    }

    /// The spatial set of a clip: its own, or the one that all share.
    #[must_use]
    pub fn set_of(&self, clip: usize) -> usize {
        clip.min(self.spatial.len().saturating_sub(1))
    }

    /// The network as if there were no adapters.
    pub fn rest(&self) {
        self.temporal.set(0.0, false, None);
        for set in &self.spatial {
            set.set(0.0, false, None);
        }
    }

    /// What the layer of this name gets: the set that MotionDirector puts beside it, in the ranks of `rank` by set number;
    /// none leaves a set out.
    pub(super) fn beside(
        &self,
        layer: &str,
        rank: impl Fn(usize) -> Option<usize>,
    ) -> Vec<Adapter> {
        let branches = match motion_director::part_of(layer) {
            Some(Part::Temporal) => std::slice::from_ref(&self.temporal),
            Some(Part::Spatial) => &self.spatial,
            None => &[],
        };
        let adapter = |(set, branch): (usize, &Branch)| {
            Some(Adapter {
                branch: branch.clone(),
                set,
                rank: rank(set)?,
            })
        };
        branches.iter().enumerate().filter_map(adapter).collect()
    }
}

impl Tuned {
    /// A network whose own weights learn.
    #[must_use]
    pub fn plain(unet: impl Into<Network>, vars: BTreeMap<String, Var>) -> Self {
        Self {
            unet: unet.into(),
            vars,
            branches: None,
        }
    }

    /// A network with adapters beside it.
    pub(super) fn adapted(
        weights: &Weights,
        config: &UNet3DConfig,
        branches: Branches,
        adapters: Adapters,
    ) -> Result<Self, ModelError> {
        weights.set_adapters(adapters);
        let mut unet = UNet3DConditionModel::new(weights, config)?;
        // The spatial pass sees one frame, which goes past the temporal layers.
        unet.single_frame = SingleFrame::SkipTemporal;
        Ok(Self {
            unet: unet.into(),
            vars: weights.trainables(),
            branches: Some(branches),
        })
    }

    /// Switches the adapters as sampling wants them; the sets of other clips rest.
    pub fn set_for_sampling(&self, strength: Strength) {
        let Some(branches) = &self.branches else {
            return;
        };
        branches.temporal.set(strength.motion, false, None);
        let chosen = branches.set_of(strength.clip);
        for (set, branch) in branches.spatial.iter().enumerate() {
            let acts = if set == chosen { strength.look } else { 0.0 };
            branch.set(acts, false, None);
        }
    }

    /// Switches the adapters as inverting a clip wants them. MotionDirector inverts with the model as it was before the
    /// training (its data set caches the inverted latents before the first step), VMC with the weights as they are.
    pub fn set_for_inversion(&self) {
        if let Some(branches) = &self.branches {
            branches.rest();
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
        match self {
            Self::TuneAVideo | Self::ControlVideo => {
                self.load_inflated(folder, tuning, &|name| self.trains(name), device)
            }
            Self::Vmc | Self::MotionDirector => {
                let config = folder.video_config()?;
                let weights = folder.unet_weights(tuning.precision.dtype(device), device)?;
                self.build(&weights, config, tuning)
            }
        }
    }

    /// Builds a text-to-video model's denoising network of these weights with what this method trains.
    ///
    /// # Errors
    /// When the weights cannot be read or do not fit, or the method is one for image models.
    pub fn build(
        self,
        weights: &Weights,
        config: &UNet3DConfig,
        tuning: Tuning,
    ) -> Result<Tuned, ModelError> {
        match self {
            Self::Vmc => {
                weights.set_trainable(&|name| self.trains(name));
                let unet = UNet3DConditionModel::new(weights, config)?;
                Ok(Tuned::plain(unet, weights.trainables()))
            }
            Self::MotionDirector => {
                let branches = Branches::new(tuning.spatial_sets.max(1));
                let chosen = branches.clone();
                let choose = move |layer: &str| chosen.beside(layer, |_| Some(tuning.rank));
                let adapters = Adapters {
                    choose: Box::new(choose),
                    seed: tuning.seed,
                };
                Tuned::adapted(weights, config, branches, adapters)
            }
            Self::TuneAVideo | Self::ControlVideo => Err(ModelError::Unsupported {
                what: "a method for image models".to_owned(),
            }),
        }
    }

    /// Loads an image model, inflated as this method does it, with a variable for each weight of these names.
    pub(super) fn load_inflated(
        self,
        folder: &ModelFolder,
        tuning: Tuning,
        trains: &dyn Fn(&str) -> bool,
        device: &Device,
    ) -> Result<Tuned, ModelError> {
        let controlled = self.is_controlled();
        let inflating = Inflating {
            inflation: match controlled {
                true => Inflation::KeyFrame,
                false => Inflation::SparseCausal,
            },
            bias: tuning.temporal_bias,
            seed: tuning.seed,
            control: controlled.then_some(tuning.control_scale),
            dtype: tuning.precision.dtype(device),
        };
        let (network, vars) = folder.load_image_network(&inflating, trains, device)?;
        Ok(Tuned::plain(network, vars))
    }
}
