//! A model in diffusers' layout: a folder with one subfolder for each part.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Var};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::clip::{ClipTextConfig, ClipTextModel};
use super::error::ModelError;
use super::source::FileSource;
use super::tokenizer::ClipTokenizer;
use super::unet3d::{UNet3DConditionModel, UNet3DConfig};
use super::vae::{AutoencoderKL, VaeConfig};
use super::weight_file::{WeightNames, weight_files};
use super::weights::Weights;
use crate::schedulers::SchedulerConfig;

/// Frames of ModelScope and ZeroScope, for models whose card says nothing.
const DEFAULT_FRAMES: usize = 16;
/// Side of the latents where `unet/config.json` does not say.
const DEFAULT_LATENT_SIDE: usize = 32;

const UNET_WEIGHTS: WeightNames = WeightNames {
    folder: "unet",
    safetensors: "diffusion_pytorch_model",
    torch: "diffusion_pytorch_model",
};
const VAE_WEIGHTS: WeightNames = WeightNames {
    folder: "vae",
    ..UNET_WEIGHTS
};
const TEXT_WEIGHTS: WeightNames = WeightNames {
    folder: "text_encoder",
    safetensors: "model",
    torch: "pytorch_model",
};

/// What a model says about itself in `model_card.json`, a file of ours that other models need not have.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ModelCard {
    /// Frames it was trained on.
    pub frames: Option<usize>,
    /// Guidance scale that gives its best samples.
    pub guidance: Option<f64>,
    /// Sampling steps that give its best samples.
    pub steps: Option<usize>,
    /// Frames per second its clips play at.
    pub fps: Option<f64>,
    /// A prompt it obeys.
    pub prompt: Option<String>,
}

/// What a clip must look like for a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClipLimits {
    /// Frames it was trained on; others work less well.
    pub default_frames: usize,
    /// Width and height in pixels must be multiples of this.
    pub size_multiple: usize,
    /// Width in pixels it was trained on.
    pub width: usize,
    /// Height in pixels it was trained on.
    pub height: usize,
}

/// A text-to-video model whose configuration has been read and whose weights have not.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    source: FileSource,
    unet: UNet3DConfig,
    vae: VaeConfig,
    text: ClipTextConfig,
    scheduler: SchedulerConfig,
    card: ModelCard,
}

impl ModelFolder {
    /// Reads the configuration of the model in `dir`.
    ///
    /// # Errors
    /// [`ModelError::NotAModelFolder`] with everything that is missing, or what is wrong with a file.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        Self::from_source(FileSource::Dir(dir.to_owned()))
    }

    /// As [`Self::open`] for files that may be inside the program.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_source(source: FileSource) -> Result<Self, ModelError> {
        let needed = [
            "model_index.json",
            "unet/config.json",
            "vae/config.json",
            "text_encoder/config.json",
            "scheduler/scheduler_config.json",
        ];
        let missing: Vec<String> = needed
            .iter()
            .filter(|file| !source.has(file))
            .map(ToString::to_string)
            .collect();
        if !missing.is_empty() {
            return Err(ModelError::NotAModelFolder {
                path: source.locate(""),
                missing,
            });
        }
        check_class(&source)?;
        let read = |file: &str| source.text(file);
        let explain = |file: &'static str| {
            let source = &source;
            move |why: String| source.config_error(file, why)
        };
        let card = match source.has("model_card.json") {
            true => serde_json::from_str(&read("model_card.json")?)
                .map_err(|e| source.config_error("model_card.json", e))?,
            false => ModelCard::default(),
        };
        let unet = UNet3DConfig::from_json(&read("unet/config.json")?)
            .map_err(explain("unet/config.json"))?;
        let vae =
            VaeConfig::from_json(&read("vae/config.json")?).map_err(explain("vae/config.json"))?;
        let text = ClipTextConfig::from_json(&read("text_encoder/config.json")?)
            .map_err(explain("text_encoder/config.json"))?;
        let scheduler = SchedulerConfig::from_json(&read("scheduler/scheduler_config.json")?)?;
        if unet.in_channels != vae.latent_channels || unet.text_width != text.hidden_size {
            let why = format!(
                "the parts do not fit together: latents of {} and {} channels, text of width {} and {}",
                unet.in_channels, vae.latent_channels, unet.text_width, text.hidden_size
            );
            return Err(source.config_error("model_index.json", why));
        }
        Ok(Self {
            unet,
            vae,
            text,
            scheduler,
            card,
            source,
        })
    }

    /// Loads the denoising network, with a variable for each weight `trainable` chooses by name, in `f32`. The frozen
    /// weights are held in the device's best type.
    ///
    /// # Errors
    /// When the weights are missing, damaged or do not fit the configuration.
    pub fn load_unet(
        &self,
        trainable: &dyn Fn(&str) -> bool,
        device: &Device,
    ) -> Result<(UNet3DConditionModel, BTreeMap<String, Var>), ModelError> {
        let prepare = |weights: &Weights| weights.set_trainable(trainable);
        self.load_tuned_unet(&prepare, device.bf16_default_to_f32(), device)
    }

    /// Loads the denoising network after `prepare` has said what learns: weights of its own, or adapters beside them. The
    /// frozen weights are held as `dtype`, in which the network then computes.
    ///
    /// # Errors
    /// As [`Self::load_unet`].
    pub fn load_tuned_unet(
        &self,
        prepare: &dyn Fn(&Weights),
        dtype: DType,
        device: &Device,
    ) -> Result<(UNet3DConditionModel, BTreeMap<String, Var>), ModelError> {
        let weights = self.weights(UNET_WEIGHTS, dtype, device)?;
        prepare(&weights);
        let unet = UNet3DConditionModel::new(&weights, &self.unet)?;
        Ok((unet, weights.trainables()))
    }

    /// Loads the autoencoder, in `f32`: half precision overflows at large sizes.
    ///
    /// # Errors
    /// As [`Self::load_unet`].
    pub fn load_vae(&self, device: &Device) -> Result<AutoencoderKL, ModelError> {
        AutoencoderKL::new(&self.weights(VAE_WEIGHTS, DType::F32, device)?, &self.vae)
    }

    /// Loads the tokenizer and the text encoder, in `f32`.
    ///
    /// # Errors
    /// As [`Self::load_unet`].
    pub fn load_text(&self, device: &Device) -> Result<(ClipTokenizer, ClipTextModel), ModelError> {
        let tokenizer = ClipTokenizer::from_source(&self.source, "tokenizer")?;
        let weights = self.weights(TEXT_WEIGHTS, DType::F32, device)?;
        Ok((tokenizer, ClipTextModel::new(&weights, &self.text)?))
    }

    /// The noise schedule the model was trained with.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// Sizes of the denoising network.
    pub fn unet_config(&self) -> &UNet3DConfig {
        &self.unet
    }

    /// Sizes of the autoencoder.
    pub fn vae_config(&self) -> &VaeConfig {
        &self.vae
    }

    /// What the model recommends.
    pub fn card(&self) -> &ModelCard {
        &self.card
    }

    /// Where its files are.
    pub fn source(&self) -> &FileSource {
        &self.source
    }

    /// What a clip must look like for this model.
    pub fn clip_limits(&self) -> ClipLimits {
        let factor = self.vae.factor();
        let (h, w) = self
            .unet
            .sample_size
            .unwrap_or((DEFAULT_LATENT_SIDE, DEFAULT_LATENT_SIDE));
        ClipLimits {
            default_frames: self.card.frames.unwrap_or(DEFAULT_FRAMES),
            size_multiple: factor,
            width: w * factor,
            height: h * factor,
        }
    }

    /// SHA-256 of every weight file, in hexadecimal, by its path inside the model.
    ///
    /// # Errors
    /// When a file is missing or cannot be read.
    pub fn weights_sha256(&self) -> Result<BTreeMap<String, String>, ModelError> {
        let mut hashes = BTreeMap::new();
        for part in [UNET_WEIGHTS, VAE_WEIGHTS, TEXT_WEIGHTS] {
            for file in weight_files(&self.source, part)? {
                let digest = Sha256::digest(&*self.source.bytes(&file)?);
                hashes.insert(
                    file,
                    digest.iter().map(|byte| format!("{byte:02x}")).collect(),
                );
            }
        }
        Ok(hashes)
    }

    fn weights(
        &self,
        part: WeightNames,
        dtype: DType,
        device: &Device,
    ) -> Result<Weights, ModelError> {
        let files = weight_files(&self.source, part)?;
        Weights::from_source(&self.source, &files, dtype, device)
    }
}

/// Refuses image models and other networks by the class names in the folder's own files.
fn check_class(source: &FileSource) -> Result<(), ModelError> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(rename = "_class_name")]
        class_name: String,
    }
    for (file, expected) in [
        ("unet/config.json", "UNet3DConditionModel"),
        ("vae/config.json", "AutoencoderKL"),
    ] {
        let Named { class_name } =
            serde_json::from_str(&source.text(file)?).map_err(|e| source.config_error(file, e))?;
        if class_name != expected {
            return Err(ModelError::Unsupported {
                what: format!("a {class_name} in place of a {expected}"),
            });
        }
    }
    Ok(())
}
