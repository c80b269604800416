//! The networks of a text-to-video model and how they are read from a diffusers folder.
//!
//! [`ModelFolder`] finds the parts; [`Weights`] hands tensors out by name and reports every key that is missing,
//! unexpected or of the wrong shape; [`UNet3DConditionModel`], [`AutoencoderKL`], [`ClipTextModel`] and
//! [`ClipTokenizer`] are ModelScope's and ZeroScope's parts under their usual names. Activations are channels last
//! inside a network and `[b, c, f, h, w]` at its border. Source: spec "Model architectures and on-disk layout".

mod builtin;
mod clip;
mod error;
mod folder;
mod resnet;
mod safetensors_file;
mod source;
mod tokenizer;
mod unet3d;
mod vae;
mod weights;

pub use builtin::builtin;
pub use clip::{ClipTextConfig, ClipTextModel};
pub use error::{KeyReport, ModelError, WrongShape};
pub use folder::{ClipLimits, ModelCard, ModelFolder};
pub use source::FileSource;
pub use tokenizer::ClipTokenizer;
pub use unet3d::{SingleFrame, UNet3DConditionModel, UNet3DConfig};
pub use vae::{AutoencoderKL, Posterior, VaeConfig};
pub use weights::{Adapters, LORA_DOWN, LORA_UP, Weights};
