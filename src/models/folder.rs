//! A model in diffusers' layout: a folder with one subfolder for each part.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Var};
use sha2::{Digest, Sha256};

use super::clip::{ClipTextConfig, ClipTextModel};
use super::error::ModelError;
use super::layout::{ModelCard, check_index, check_parts, incomplete};
use super::mistake::{INDEX, is_meant, name_of, resolve};
use super::source::FileSource;
use super::tokenizer::{ClipTokenizer, tokenizer_files};
use super::unet3d::{UNet3DConditionModel, UNet3DConfig};
use super::vae::{AutoencoderKL, VaeConfig};
use super::weight_file::{WeightNames, weight_files};
use super::weights::Weights;
use crate::schedulers::SchedulerConfig;

/// Frames of ModelScope and ZeroScope, for models whose card says nothing.
const DEFAULT_FRAMES: usize = 16;
/// Side of the latents where `unet/config.json` does not say.
const DEFAULT_LATENT_SIDE: usize = 32;
/// Numbers in the latents of one clip; 128 frames of 1024x1024 pixels have a hundredth of it.
const MOST_LATENTS: usize = 1 << 28;
/// Files every model has.
const CONFIGURATIONS: &[&str] = &[
    INDEX,
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
];

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
    /// Reads the configuration of the model in `dir`, and looks whether its other files are there. `dir` may also be the
    /// folder of one model in Hugging Face's cache (`models--OWNER--NAME`); its main version is taken then.
    ///
    /// # Errors
    /// What is missing, what is wrong with a file, or what was named in place of a model's folder.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        Self::from_source(FileSource::Dir(resolve(dir)?))
    }

    /// Whether a person who names this path means a model, be it a wrong one or a part of one.
    #[must_use]
    pub fn is_meant(path: &Path) -> bool {
        is_meant(path)
    }

    /// As [`Self::open`] for files that may be inside the program.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn from_source(source: FileSource) -> Result<Self, ModelError> {
        // The index first: of another kind of model other files are missing as well, and that is not its fault.
        if source.has(INDEX) {
            check_index(&source)?;
        }
        check_presence(&source)?;
        check_parts(&source)?;
        let read = |file: &str| source.text(file);
        let explain = |file: &'static str| {
            let source = &source;
            move |why: String| source.config_error(file, why)
        };
        let card = ModelCard::read(&source)?;
        let unet = UNet3DConfig::from_json(&read("unet/config.json")?)
            .map_err(explain("unet/config.json"))?;
        let vae =
            VaeConfig::from_json(&read("vae/config.json")?).map_err(explain("vae/config.json"))?;
        let text = ClipTextConfig::from_json(&read("text_encoder/config.json")?)
            .map_err(explain("text_encoder/config.json"))?;
        let scheduler = SchedulerConfig::from_json(&read("scheduler/scheduler_config.json")?)?;
        let folder = Self {
            unet,
            vae,
            text,
            scheduler,
            card,
            source,
        };
        match folder.misfit() {
            Some(why) => Err(folder.source.config_error(INDEX, why)),
            None => Ok(folder),
        }
    }

    /// Why the parts do not make one model.
    fn misfit(&self) -> Option<String> {
        let (unet, vae, text) = (&self.unet, &self.vae, &self.text);
        if unet.in_channels != vae.latent_channels || unet.text_width != text.hidden_size {
            return Some(format!(
                "the parts do not fit together: latents of {} and {} channels, text of width {} and {}",
                unet.in_channels, vae.latent_channels, unet.text_width, text.hidden_size
            ));
        }
        if unet.out_channels != unet.in_channels {
            return Some(format!(
                "the network takes {} channels and gives {}, which no sampler here can use",
                unet.in_channels, unet.out_channels
            ));
        }
        let limits = self.clip_limits();
        let sides = (limits.width / vae.factor()).saturating_mul(limits.height / vae.factor());
        let numbers = [limits.default_frames, vae.latent_channels]
            .into_iter()
            .fold(sides, usize::saturating_mul);
        (numbers > MOST_LATENTS).then(|| {
            format!(
                "its clips have {} frames of {}x{} pixels, more than any model",
                limits.default_frames, limits.width, limits.height
            )
        })
    }

    /// Holds the names and shapes in the weight files of all parts against the networks their configurations describe. No
    /// weight is read: this takes a moment and the memory of the files' tables of contents.
    ///
    /// # Errors
    /// As [`Self::load_unet`].
    pub fn check_weights(&self) -> Result<(), ModelError> {
        let (f32, cpu) = (DType::F32, &Device::Cpu);
        self.weights(UNET_WEIGHTS, f32, cpu, &|w| {
            UNet3DConditionModel::new(w, &self.unet).map(drop)
        })?;
        self.weights(VAE_WEIGHTS, f32, cpu, &|w| {
            AutoencoderKL::new(w, &self.vae).map(drop)
        })?;
        self.weights(TEXT_WEIGHTS, f32, cpu, &|w| {
            ClipTextModel::new(w, &self.text).map(drop)
        })?;
        Ok(())
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
        let weights = self.unet_weights(dtype, device)?;
        prepare(&weights);
        let unet = UNet3DConditionModel::new(&weights, &self.unet)?;
        Ok((unet, weights.trainables()))
    }

    /// The weights of the denoising network, held against its configuration; they are read as `dtype` when a network is built
    /// of them.
    ///
    /// # Errors
    /// As [`Self::load_unet`].
    pub fn unet_weights(&self, dtype: DType, device: &Device) -> Result<Weights, ModelError> {
        self.weights(UNET_WEIGHTS, dtype, device, &|w| {
            UNet3DConditionModel::new(w, &self.unet).map(drop)
        })
    }

    /// Loads the autoencoder, in `f32`: half precision overflows at large sizes.
    ///
    /// # Errors
    /// As [`Self::load_unet`].
    pub fn load_vae(&self, device: &Device) -> Result<AutoencoderKL, ModelError> {
        let build = |weights: &Weights| AutoencoderKL::new(weights, &self.vae);
        let weights = self.weights(VAE_WEIGHTS, DType::F32, device, &|w| build(w).map(drop))?;
        build(&weights)
    }

    /// Loads the tokenizer and the text encoder, in `f32`.
    ///
    /// # Errors
    /// As [`Self::load_unet`].
    pub fn load_text(&self, device: &Device) -> Result<(ClipTokenizer, ClipTextModel), ModelError> {
        let tokenizer = ClipTokenizer::from_source(&self.source, "tokenizer")?;
        let build = |weights: &Weights| ClipTextModel::new(weights, &self.text);
        let weights = self.weights(TEXT_WEIGHTS, DType::F32, device, &|w| build(w).map(drop))?;
        Ok((tokenizer, build(&weights)?))
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

    /// What to call it: its folder's name, or its name on the hub where it lies in Hugging Face's cache.
    #[must_use]
    pub fn name(&self) -> String {
        name_of(&self.source.locate(""))
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

    /// The weights of one part. `build` lays the network out once without reading any, so that what does not fit is
    /// refused before memory is asked for.
    fn weights(
        &self,
        part: WeightNames,
        dtype: DType,
        device: &Device,
        build: &dyn Fn(&Weights) -> Result<(), ModelError>,
    ) -> Result<Weights, ModelError> {
        let files = weight_files(&self.source, part)?;
        let weights = Weights::from_source(&self.source, &files, dtype, device)?;
        build(&weights.without_reading())?;
        Ok(weights)
    }
}

/// Looks whether every file is there, and is more than a note of Git LFS.
fn check_presence(source: &FileSource) -> Result<(), ModelError> {
    let mut missing: Vec<String> = CONFIGURATIONS
        .iter()
        .filter(|file| !source.has(file))
        .map(ToString::to_string)
        .collect();
    let mut present = Vec::new();
    let files = [UNET_WEIGHTS, VAE_WEIGHTS, TEXT_WEIGHTS]
        .map(|part| weight_files(source, part))
        .into_iter()
        .chain([tokenizer_files(source, "tokenizer")]);
    for files in files {
        match files {
            Ok(files) => present.extend(files),
            Err(ModelError::Incomplete { missing: more, .. }) => missing.extend(more),
            Err(error) => return Err(error),
        }
    }
    if missing.is_empty() {
        return present
            .iter()
            .try_for_each(|file| source.refuse_pointer(file));
    }
    if source.has(INDEX) {
        return Err(incomplete(source, missing));
    }
    let path = source.locate("");
    Err(ModelError::NotAModelFolder { path, missing })
}
