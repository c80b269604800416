//! Host methods: what learns and what the base loss is. Spectral Motion Alignment is added on top by `train`.

pub mod motion_director;
mod saved;
mod tuned;
pub mod vmc;

use serde::{Deserialize, Serialize};

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
}

impl Method {
    /// Whether the network's own weight of this state-dict name learns.
    #[must_use]
    pub fn trains(self, name: &str) -> bool {
        match self {
            Self::Vmc => vmc::trains(name),
            Self::MotionDirector => false,
        }
    }
}
