//! Host methods: what learns and what the base loss is. Spectral Motion Alignment is added on top by `train`.

pub mod control_video;
pub mod motion_director;
mod saved;
pub mod tune_a_video;
mod tuned;
pub mod vmc;

use serde::{Deserialize, Serialize};

use crate::models::{AdapterName, Factor, ModelKind};
pub use saved::{Saved, Shapes};
pub use tuned::{Branches, Precision, Strength, Tuned, Tuning};

/// A fine-tuning method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Video Motion Customization: temporal attention learns the direction of the clip's frame differences
    #[default]
    Vmc,
    /// MotionDirector: low-rank adapters, one set for the look and one for the motion, which alone is used afterwards
    MotionDirector,
    /// Tune-A-Video, on Stable Diffusion 1.x: queries and the attention over frames learn
    TuneAVideo,
    /// ControlVideo, on Stable Diffusion 1.x with a ControlNet: the clip's edges, depth or poses lead training and samples
    ControlVideo,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 4] = [
        Self::Vmc,
        Self::MotionDirector,
        Self::TuneAVideo,
        Self::ControlVideo,
    ];

    /// What to call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmc => "VMC",
            Self::MotionDirector => "MotionDirector",
            Self::TuneAVideo => "Tune-A-Video",
            Self::ControlVideo => "ControlVideo",
        }
    }

    /// The kind of model it begins with.
    #[must_use]
    pub fn model_kind(self) -> ModelKind {
        match self {
            Self::Vmc | Self::MotionDirector => ModelKind::Video,
            Self::TuneAVideo | Self::ControlVideo => ModelKind::Image,
        }
    }

    /// Whether a ControlNet and a clip for it belong to it.
    #[must_use]
    pub fn is_controlled(self) -> bool {
        self == Self::ControlVideo
    }

    /// Whether the network's own weight of this state-dict name learns.
    #[must_use]
    pub fn trains(self, name: &str) -> bool {
        match self {
            Self::Vmc => vmc::trains(name),
            Self::MotionDirector => false,
            Self::TuneAVideo => tune_a_video::trains(name),
            Self::ControlVideo => control_video::trains(name),
        }
    }
}

/// Whether a weight that learns may stand behind one that starts at zero, so that its own first gradient is zero: the lower
/// factor of an adapter, and the attention over frames of an inflated network.
#[must_use]
pub fn waits_for_another(name: &str) -> bool {
    let is_lower = AdapterName::parse(name).is_some_and(|adapter| adapter.factor == Factor::Down);
    is_lower || name.contains(".attn_temp.")
}
