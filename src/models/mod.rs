//! The networks of text-to-video and image models and how they are read from a diffusers folder.
//!
//! [`ModelFolder`] finds the parts; [`Weights`] hands tensors out by name and reports every key that is missing,
//! unexpected or of the wrong shape; [`UNet3DConditionModel`], [`AutoencoderKL`], [`ClipTextModel`] and
//! [`ClipTokenizer`] are ModelScope's and ZeroScope's parts under their usual names; [`InflatedUNet`] and
//! [`ControlNetModel`] are those of Stable Diffusion 1.x, made to see clips. Activations are channels last
//! inside a network and `[b, c, f, h, w]` at its border. Source: spec "Model architectures and on-disk layout".
//!
//! Weights lie in safetensors files or in PyTorch's `.bin` files (`torch_file`, over `zip_index` and `pickle`). Either is
//! mapped into memory and each tensor is read out of the map when it is asked for. Nothing in a file is ever executed.
//! LoRA files of other programs go the same way (`lora`) and are added to the weights as these are read.
//!
//! What a person may name instead of a model's folder is known by `mistake`; what the small files beside the weights say
//! is checked by `layout`. Before any weight is read the whole network is laid out with placeholders against the names
//! and shapes in the files ([`ModelFolder::check_weights`]), so that a misfit costs neither time nor memory.

mod adapter;
mod attention;
mod builtin;
mod clip;
mod denoiser;
mod depth;
mod error;
mod folder;
mod footprint;
mod image;
mod layout;
mod lora;
mod mistake;
mod pickle;
mod resnet;
mod safetensors_file;
mod source;
mod tokenizer;
mod torch_file;
mod unet3d;
mod vae;
mod weight_file;
mod weights;
mod zip_index;

pub use adapter::{Adapter, AdapterName, Adapters, ChooseAdapters, Factor};
pub use builtin::{builtin, builtin_of};
pub use clip::{ClipTextConfig, ClipTextModel};
pub use denoiser::{Conditioning, Denoiser, Network};
pub use depth::{DepthAnything, DepthAnythingConfig};
pub(crate) use error::shown;
pub use error::{KeyReport, ModelError, WeightFormat, WrongShape};
pub use folder::{CONTROLNET_PREFIX, ClipLimits, Inflating, ModelFolder};
pub(crate) use footprint::{ImageLayers, Layers, VideoLayers, Walk, activations};
pub use image::{
    ControlNetConfig, ControlNetModel, ImageNetwork, ImageUNetConfig, InflatedUNet, Inflation,
    Residuals, TemporalBias, inflate,
};
pub use layout::{ModelCard, ModelKind};
pub use lora::{FittedLora, LoraDeltas, LoraFile, LoraFormat, LoraNetwork, LoraPart};
pub use mistake::Mistake;
pub(crate) use mistake::resolve_network;
pub use source::{Embedded, EmbeddedFiles, FileSource};
pub use tokenizer::ClipTokenizer;
pub use unet3d::{SingleFrame, UNet3DConditionModel, UNet3DConfig};
pub use vae::{AutoencoderKL, Posterior, VaeConfig};
pub(crate) use weight_file::is_torch;
pub use weights::Weights;
