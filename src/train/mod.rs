//! Training: settings, one pure step, the optimiser, checkpoints. No thread, no channel and no clock live here.

mod config;
mod error;
mod flags;
mod items;
pub mod memory;
mod objective;
mod on_device;
mod optim;
mod part;
mod preset;
mod ranges;
mod scale;
mod state;
mod step;

pub use crate::nn::Checkpointing;
pub use crate::spectral::loss::{CosineAxis, FftNorm};
pub use config::{
    FitChoice, InversionPrompt, SamplerChoice, Start, TransferConfig, WATCHABLE_FPS, default_levels,
};
pub use error::TrainError;
pub use flags::{explicit_over_preset, flags_of, owner_of, refuse_idle, typed_names};
pub use items::Item;
pub use objective::{Batch, Objective, Terms, losses, spatial_loss};
pub use optim::{AdamW, AdamWConfig, clip_coefficient};
pub use preset::Preset;
pub use state::{plain_from_tensor, tensor_from_plain};
pub use step::{StepStats, Trainer, load_weights};
