//! The networks of a text-to-video model and how they are read from a diffusers folder.
//!
//! [`ModelFolder`] finds the parts; [`Weights`] hands tensors out by name and reports every key that is missing,
//! unexpected or of the wrong shape; [`UNet3DConditionModel`], [`AutoencoderKL`], [`ClipTextModel`] and
//! [`ClipTokenizer`] are ModelScope's and ZeroScope's parts under their usual names. Activations are channels last
//! inside a network and `[b, c, f, h, w]` at its border. Source: spec "Model architectures and on-disk layout".
//!
//! Weights lie in safetensors files or in PyTorch's `.bin` files (`torch_file`, over `zip_index` and `pickle`). Either is
//! mapped into memory and each tensor is read out of the map when it is asked for. Nothing in a file is ever executed.

mod adapter;
mod builtin;
mod clip;
mod error;
mod folder;
mod pickle;
mod resnet;
mod source;
mod tokenizer;
mod torch_file;
mod unet3d;
mod vae;
mod weight_file;
mod weights;
mod zip_index;

pub use adapter::{Adapter, AdapterName, Adapters, ChooseAdapters, Factor};
pub use builtin::builtin;
pub use clip::{ClipTextConfig, ClipTextModel};
pub(crate) use error::shown;
pub use error::{KeyReport, ModelError, WeightFormat, WrongShape};
pub use folder::{ClipLimits, ModelCard, ModelFolder};
pub use source::FileSource;
pub use tokenizer::ClipTokenizer;
pub use unet3d::{SingleFrame, UNet3DConditionModel, UNet3DConfig};
pub use vae::{AutoencoderKL, Posterior, VaeConfig};
pub use weights::Weights;
