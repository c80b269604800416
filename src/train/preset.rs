//! Named settings.

use clap::ValueEnum;

use super::config::TransferConfig;
use super::error::TrainError;
use crate::methods::Method;

/// Named settings; flags given beside a preset win over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// This program's own settings
    Default,
    /// The paper: signed residuals, 3 levels for 8 frames and 4 for 16, λg 0.4, λl 0.2, δ 0.05
    Paper,
    /// The authors' code: absolute residuals, 2 levels
    SmaRepo,
    /// MotionDirector as its authors train it on a single video, with the paper's spectral terms
    MotionDirector,
    /// Tune-A-Video as its authors train it, with the paper's spectral terms
    TuneAVideo,
    /// ControlVideo as its authors train it on edges, with the paper's spectral terms
    ControlVideo,
    /// Tune-A-Video with the built-in image model
    TuneAVideoBuiltin,
    /// ControlVideo with the built-in image model
    ControlVideoBuiltin,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 8] = [
        Self::Default,
        Self::Paper,
        Self::SmaRepo,
        Self::MotionDirector,
        Self::TuneAVideo,
        Self::ControlVideo,
        Self::TuneAVideoBuiltin,
        Self::ControlVideoBuiltin,
    ];

    /// The settings that a method has where none are named: of those that begin with an image model. Their authors' are for
    /// Stable Diffusion; the small built-in model learns faster.
    #[must_use]
    pub fn of(method: Method, with_builtin_model: bool) -> Option<Self> {
        match (method, with_builtin_model) {
            (Method::Vmc | Method::MotionDirector, _) => None,
            (Method::TuneAVideo, false) => Some(Self::TuneAVideo),
            (Method::ControlVideo, false) => Some(Self::ControlVideo),
            (Method::TuneAVideo, true) => Some(Self::TuneAVideoBuiltin),
            (Method::ControlVideo, true) => Some(Self::ControlVideoBuiltin),
        }
    }

    /// The preset's file.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Default => include_str!("../../assets/presets/default.toml"),
            Self::Paper => include_str!("../../assets/presets/paper.toml"),
            Self::SmaRepo => include_str!("../../assets/presets/sma-repo.toml"),
            Self::MotionDirector => include_str!("../../assets/presets/motion-director.toml"),
            Self::TuneAVideo => include_str!("../../assets/presets/tune-a-video.toml"),
            Self::ControlVideo => include_str!("../../assets/presets/control-video.toml"),
            Self::TuneAVideoBuiltin => {
                include_str!("../../assets/presets/tune-a-video-builtin.toml")
            }
            Self::ControlVideoBuiltin => {
                include_str!("../../assets/presets/control-video-builtin.toml")
            }
        }
    }

    /// The preset's settings; what its file does not name is the default.
    ///
    /// # Errors
    /// When the file is not a valid settings table; a test reads each one.
    pub fn config(self) -> Result<TransferConfig, TrainError> {
        toml::from_str(self.text()).map_err(|error| TrainError::Setting(error.to_string()))
    }
}
