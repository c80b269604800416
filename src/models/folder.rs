//! A model in diffusers' layout: a folder with one subfolder for each part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Var};
use sha2::{Digest, Sha256};

use super::clip::{ClipTextConfig, ClipTextModel};
use super::error::ModelError;
use super::image::{
    ControlNetConfig, ControlNetModel, ImageNetwork, ImageUNetConfig, InflatedUNet, Inflation,
    TemporalBias, inflate,
};
use super::layout::{ModelCard, ModelKind, check_class, check_index, check_parts, incomplete};
use super::lora::{LoraDeltas, LoraNetwork};
use super::mistake::{INDEX, is_meant, name_of, resolve, resolve_network};
use super::source::FileSource;
use super::tokenizer::{ClipTokenizer, tokenizer_files};
use super::unet3d::{UNet3DConditionModel, UNet3DConfig};
use super::vae::{AutoencoderKL, VaeConfig};
use super::weight_file::{WeightNames, weight_files};
use super::weights::Weights;
use crate::schedulers::SchedulerConfig;

/// Frames of ModelScope and ZeroScope, for models whose card says nothing.
const DEFAULT_FRAMES: usize = 16;
/// Frames for image models, which know none: what ControlVideo takes.
const IMAGE_FRAMES: usize = 8;
/// Side of the latents where `unet/config.json` does not say.
const DEFAULT_LATENT_SIDE: usize = 32;
/// The same for image models: 512 pixels.
const IMAGE_LATENT_SIDE: usize = 64;
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
const CONTROLNET_WEIGHTS: WeightNames = WeightNames {
    folder: "controlnet",
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

/// Before the names of a ControlNet's weights, where they stand beside those of its UNet.
pub const CONTROLNET_PREFIX: &str = "controlnet.";

/// Sizes of a model's denoising network.
#[derive(Clone, Debug)]
enum UNetConfig {
    Video(UNet3DConfig),
    Image(ImageUNetConfig),
}

/// Where a ControlNet is: in the model's folder, or in one of its own.
#[derive(Clone, Debug)]
struct ControlNetPart {
    source: FileSource,
    names: WeightNames,
    config: ControlNetConfig,
}

/// How an image model is made to see clips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inflating {
    /// How the frames see each other.
    pub inflation: Inflation,
    /// What the bias behind Tune-A-Video's attention over frames starts at.
    pub bias: TemporalBias,
    /// Seed of starting values.
    pub seed: u64,
    /// Strength of the ControlNet; none leaves it out.
    pub control: Option<f64>,
    /// Number type of what does not learn, in which the network then computes.
    pub dtype: DType,
}

/// A text-to-video or image model whose configuration has been read and whose weights have not.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    source: FileSource,
    unet: UNetConfig,
    controlnet: Option<ControlNetPart>,
    vae: VaeConfig,
    text: ClipTextConfig,
    scheduler: SchedulerConfig,
    card: ModelCard,
    /// Added to the weights as they are read.
    loras: Arc<LoraDeltas>,
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
        let kind = match source.has(INDEX) {
            true => check_index(&source)?,
            false => ModelKind::Video,
        };
        check_presence(&source)?;
        check_parts(&source, kind)?;
        let read = |file: &str| source.text(file);
        let explain = |file: &'static str| {
            let source = &source;
            move |why: String| source.config_error(file, why)
        };
        let card = ModelCard::read(&source)?;
        let unet = read("unet/config.json")?;
        let unet = match kind {
            ModelKind::Video => UNet3DConfig::from_json(&unet).map(UNetConfig::Video),
            ModelKind::Image => ImageUNetConfig::from_json(&unet).map(UNetConfig::Image),
        };
        let unet = unet.map_err(explain("unet/config.json"))?;
        let vae =
            VaeConfig::from_json(&read("vae/config.json")?).map_err(explain("vae/config.json"))?;
        let text = ClipTextConfig::from_json(&read("text_encoder/config.json")?)
            .map_err(explain("text_encoder/config.json"))?;
        let scheduler = SchedulerConfig::from_json(&read("scheduler/scheduler_config.json")?)?;
        let mut folder = Self {
            unet,
            controlnet: None,
            vae,
            text,
            scheduler,
            card,
            source,
            loras: Arc::default(),
        };
        if let Some(why) = folder.misfit() {
            return Err(folder.source.config_error(INDEX, why));
        }
        if kind == ModelKind::Image && folder.source.has("controlnet/config.json") {
            let part = ControlNetPart::read(folder.source.clone(), CONTROLNET_WEIGHTS)?;
            folder.put_controlnet(part)?;
        }
        Ok(folder)
    }

    /// The same image model with the ControlNet in this folder, in place of one of its own.
    ///
    /// # Errors
    /// When it is no ControlNet in diffusers layout, or does not fit the model.
    pub fn with_controlnet(mut self, dir: &Path) -> Result<Self, ModelError> {
        let part = ControlNetPart::of_folder(dir)?;
        self.put_controlnet(part)?;
        Ok(self)
    }

    /// The same model with LoRA files added to its weights, in place of those it had.
    #[must_use]
    pub fn with_loras(mut self, loras: LoraDeltas) -> Self {
        self.loras = Arc::new(loras);
        self
    }

    /// What LoRA files add to its weights.
    #[must_use]
    pub fn loras(&self) -> &LoraDeltas {
        &self.loras
    }

    /// Names and shapes of what a LoRA may change, from the configuration alone. An image model is taken as the image model
    /// that it is: LoRA files know nothing of what a method adds to it.
    ///
    /// # Errors
    /// When the configuration describes no network.
    pub fn lora_network(&self) -> Result<LoraNetwork, ModelError> {
        let unet = Weights::recorder();
        match &self.unet {
            UNetConfig::Video(config) => drop(UNet3DConditionModel::new(&unet, config)?),
            UNetConfig::Image(config) => as_pictures(&unet, config)?,
        }
        let text = Weights::recorder();
        ClipTextModel::new(&text, &self.text)?;
        Ok(LoraNetwork {
            unet: unet.asked(),
            text: text.asked(),
        })
    }

    /// Whether a folder holds a ControlNet whose weight files have the names and shapes of its configuration. No weight is
    /// read.
    ///
    /// # Errors
    /// When it is no ControlNet in diffusers layout, or a file is missing or does not fit.
    pub fn check_controlnet(dir: &Path) -> Result<(), ModelError> {
        let part = ControlNetPart::of_folder(dir)?;
        part.weights(DType::F32, &Device::Cpu).map(drop)
    }

    fn put_controlnet(&mut self, part: ControlNetPart) -> Result<(), ModelError> {
        let Some(unet) = self.image_config() else {
            let what = "an image model beside its ControlNet".to_owned();
            return Err(ModelError::Unsupported { what });
        };
        let sides = |unet: &ImageUNetConfig| {
            let levels = (unet.block_out_channels.clone(), unet.layers_per_block);
            (unet.in_channels, unet.text_width, levels)
        };
        let config = &part.config;
        let same = sides(unet) == sides(&config.unet);
        if !same || config.factor() != self.vae.factor() || config.conditioning_channels != 3 {
            let why = "it was made for another model than this one: their sizes differ";
            let file = format!("{}/config.json", part.names.folder);
            return Err(part.source.config_error(&file, why));
        }
        for file in weight_files(&part.source, part.names)? {
            part.source.refuse_pointer(&file)?;
        }
        self.controlnet = Some(part);
        Ok(())
    }

    /// Why the parts do not make one model.
    fn misfit(&self) -> Option<String> {
        let (vae, text) = (&self.vae, &self.text);
        let (takes, gives, text_width) = match &self.unet {
            UNetConfig::Video(unet) => (unet.in_channels, unet.out_channels, unet.text_width),
            UNetConfig::Image(unet) => (unet.in_channels, unet.out_channels, unet.text_width),
        };
        if takes != vae.latent_channels || text_width != text.hidden_size {
            return Some(format!(
                "the parts do not fit together: latents of {takes} and {} channels, text of width {text_width} and {}",
                vae.latent_channels, text.hidden_size
            ));
        }
        if gives != takes {
            return Some(format!(
                "the network takes {takes} channels and gives {gives}, which no sampler here can use"
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
        self.weights(UNET_WEIGHTS, f32, cpu, &|w| match &self.unet {
            UNetConfig::Video(unet) => UNet3DConditionModel::new(w, unet).map(drop),
            UNetConfig::Image(unet) => as_pictures(w, unet),
        })?;
        if let Some(part) = &self.controlnet {
            part.weights(f32, cpu)?;
        }
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
        let config = self.video_config()?;
        let weights = self.unet_weights(dtype, device)?;
        prepare(&weights);
        let unet = UNet3DConditionModel::new(&weights, config)?;
        Ok((unet, weights.trainables()))
    }

    /// The weights of a text-to-video model's denoising network, held against its configuration; they are read as `dtype` when
    /// a network is built of them.
    ///
    /// # Errors
    /// As [`Self::load_unet`].
    pub fn unet_weights(&self, dtype: DType, device: &Device) -> Result<Weights, ModelError> {
        let config = self.video_config()?;
        self.weights(UNET_WEIGHTS, dtype, device, &|w| {
            UNet3DConditionModel::new(w, config).map(drop)
        })
    }

    /// Loads the denoising network of an image model, inflated, with a variable for each weight `trainable` chooses by
    /// name, in `f32`. A ControlNet's weights have [`CONTROLNET_PREFIX`] before their names.
    ///
    /// # Errors
    /// As [`Self::load_unet`], for a text-to-video model, and where a ControlNet is wanted that is not there.
    pub fn load_image_network(
        &self,
        inflating: &Inflating,
        trainable: &dyn Fn(&str) -> bool,
        device: &Device,
    ) -> Result<(ImageNetwork, BTreeMap<String, Var>), ModelError> {
        let &Inflating {
            inflation, dtype, ..
        } = inflating;
        let Some(config) = self.image_config() else {
            let what = "a method for text-to-video models".to_owned();
            return Err(ModelError::Unsupported { what });
        };
        let weights = self.weights(UNET_WEIGHTS, dtype, device, &|w| as_pictures(w, config))?;
        let weights = inflate(&weights, config, inflation, inflating.bias, inflating.seed)?;
        weights.set_trainable(trainable);
        let unet = InflatedUNet::new(&weights, config, inflation)?;
        let mut vars = weights.trainables();
        let controlnet = match (&self.controlnet, inflating.control) {
            (Some(part), Some(_)) => {
                let weights = part.weights(dtype, device)?;
                let prefixed = |name: &str| trainable(&format!("{CONTROLNET_PREFIX}{name}"));
                weights.set_trainable(&prefixed);
                let model = ControlNetModel::new(&weights, &part.config, inflation)?;
                let named = weights.trainables().into_iter();
                vars.extend(named.map(|(name, var)| (format!("{CONTROLNET_PREFIX}{name}"), var)));
                Some(model)
            }
            (None, Some(_)) => {
                let path = self.source.locate("controlnet");
                return Err(ModelError::NotAControlNet { path });
            }
            (_, None) => None,
        };
        let network = ImageNetwork {
            unet,
            controlnet,
            control_scale: inflating.control.unwrap_or_default(),
        };
        Ok((network, vars))
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

    /// What the model makes of words.
    pub fn kind(&self) -> ModelKind {
        match &self.unet {
            UNetConfig::Video(_) => ModelKind::Video,
            UNetConfig::Image(_) => ModelKind::Image,
        }
    }

    /// Sizes of the denoising network of a text-to-video model.
    pub fn unet_config(&self) -> Option<&UNet3DConfig> {
        match &self.unet {
            UNetConfig::Video(unet) => Some(unet),
            UNetConfig::Image(_) => None,
        }
    }

    /// As [`Self::unet_config`].
    ///
    /// # Errors
    /// For an image model.
    pub fn video_config(&self) -> Result<&UNet3DConfig, ModelError> {
        self.unet_config().ok_or_else(|| ModelError::Unsupported {
            what: "a method for image models".to_owned(),
        })
    }

    /// Sizes of the denoising network of an image model.
    pub fn image_config(&self) -> Option<&ImageUNetConfig> {
        match &self.unet {
            UNetConfig::Video(_) => None,
            UNetConfig::Image(unet) => Some(unet),
        }
    }

    /// Sizes of the ControlNet, where there is one.
    pub fn controlnet_config(&self) -> Option<&ControlNetConfig> {
        self.controlnet.as_ref().map(|part| &part.config)
    }

    /// Folder of a ControlNet that is not the model's own.
    pub fn controlnet_dir(&self) -> Option<PathBuf> {
        let part = self.controlnet.as_ref()?;
        match &part.source {
            FileSource::Dir(dir) if part.names.folder != CONTROLNET_WEIGHTS.folder => {
                Some(dir.clone())
            }
            _ => None,
        }
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
        let (sample_size, side, frames) = match &self.unet {
            UNetConfig::Video(unet) => (unet.sample_size, DEFAULT_LATENT_SIDE, DEFAULT_FRAMES),
            UNetConfig::Image(unet) => (unet.sample_size, IMAGE_LATENT_SIDE, IMAGE_FRAMES),
        };
        let (h, w) = sample_size.unwrap_or((side, side));
        ClipLimits {
            default_frames: self.card.frames.unwrap_or(frames),
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
        let own = [UNET_WEIGHTS, VAE_WEIGHTS, TEXT_WEIGHTS].map(|names| (&self.source, names));
        let control = self.controlnet.iter();
        let control = control.map(|part| (&part.source, part.names));
        for (source, names) in own.into_iter().chain(control) {
            for file in weight_files(source, names)? {
                let digest = Sha256::digest(&*source.bytes(&file)?);
                let digest = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                // A ControlNet of its own folder goes by the name it would have inside the model's.
                let name = match file.strip_prefix("./") {
                    Some(name) => format!("{}/{name}", CONTROLNET_WEIGHTS.folder),
                    None => file,
                };
                hashes.insert(name, digest);
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
        let weights = checked_weights(&self.source, part, (dtype, device), build)?;
        Ok(match part.folder {
            _ if self.loras.is_empty() => weights,
            folder if folder == UNET_WEIGHTS.folder => weights.with_merged(self.loras.unet()),
            folder if folder == TEXT_WEIGHTS.folder => {
                let prefix = ClipTextModel::prefix(&weights);
                weights.with_merged(&self.loras.text(prefix))
            }
            _ => weights,
        })
    }
}

impl ControlNetPart {
    /// The ControlNet in a folder of its own, or in Hugging Face's cache.
    fn of_folder(dir: &Path) -> Result<Self, ModelError> {
        let source = FileSource::Dir(resolve_network(dir)?);
        if !source.has("config.json") {
            return Err(ModelError::NotAControlNet {
                path: dir.to_owned(),
            });
        }
        let names = WeightNames {
            folder: ".",
            ..CONTROLNET_WEIGHTS
        };
        Self::read(source, names)
    }

    fn read(source: FileSource, names: WeightNames) -> Result<Self, ModelError> {
        let file = format!("{}/config.json", names.folder);
        check_class(&source, &file, "ControlNetModel")?;
        let config = ControlNetConfig::from_json(&source.text(&file)?)
            .map_err(|why| source.config_error(&file, why))?;
        Ok(Self {
            source,
            names,
            config,
        })
    }

    fn weights(&self, dtype: DType, device: &Device) -> Result<Weights, ModelError> {
        checked_weights(&self.source, self.names, (dtype, device), &|w| {
            ControlNetModel::new(w, &self.config, Inflation::Pictures).map(drop)
        })
    }
}

fn checked_weights(
    source: &FileSource,
    part: WeightNames,
    (dtype, device): (DType, &Device),
    build: &dyn Fn(&Weights) -> Result<(), ModelError>,
) -> Result<Weights, ModelError> {
    let files = weight_files(source, part)?;
    let weights = Weights::from_source(source, &files, dtype, device)?;
    build(&weights.without_reading())?;
    Ok(weights)
}

/// Builds the network as the files have it, without anything between the frames.
fn as_pictures(weights: &Weights, config: &ImageUNetConfig) -> Result<(), ModelError> {
    InflatedUNet::new(weights, config, Inflation::Pictures).map(drop)
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
