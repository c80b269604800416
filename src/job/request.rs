//! What a job is asked to do.

use std::path::PathBuf;

use candle_core::Device;

use super::lora::LoraRequest;
use super::problem::Halt;
use super::replay::ReplayRequest;
use crate::methods::Method;
use crate::nn;
use crate::project::{Control, MoreClip};
use crate::report::{Area, Report};
use crate::train::{FitChoice, SamplerChoice, Start, TransferConfig};

/// One job.
#[derive(Clone, Debug)]
pub enum Request {
    /// Learn a clip's motion and, if a result is asked for, sample it.
    Train(Box<TrainRequest>),
    /// Make a film again from what it says of itself, and its clip.
    Replay(Box<ReplayRequest>),
    /// Go on with a run.
    Resume(Box<ResumeRequest>),
    /// Sample from a run or a model.
    Sample(Box<SampleRequest>),
    /// Compare a result with its reference.
    Evaluate(Box<EvaluateRequest>),
    /// Train and compare many drawn clips.
    Suite(Box<SuiteRequest>),
}

/// Learn the motion of a clip.
#[derive(Clone, Debug)]
pub struct TrainRequest {
    /// A film, a GIF, or a folder of images.
    pub clip: PathBuf,
    /// What the clip shows, in words.
    pub subject: String,
    /// Further clips of the same motion.
    pub more_clips: Vec<MoreClip>,
    /// What leads a method with a ControlNet; others do not read it.
    pub control: Control,
    /// Model folder; none is the built-in model of the kind that the method begins with.
    pub model: Option<PathBuf>,
    /// What computes.
    pub device: DeviceChoice,
    /// Settings of training and sampling.
    pub config: TransferConfig,
    /// Run folder; none makes a new one in the platform's data folder.
    pub run: Option<PathBuf>,
    /// The film to make afterwards.
    pub result: Option<ResultRequest>,
}

/// Go on with a run.
#[derive(Clone, Debug)]
pub struct ResumeRequest {
    /// The run folder.
    pub run: PathBuf,
    /// How far it trains.
    pub until: Until,
    /// Other words for the result; none keeps the run's. Without either, the run only trains.
    pub prompt: Option<String>,
    /// Where the film goes; its prompt is not read.
    pub result: ResultRequest,
    /// What computes.
    pub device: DeviceChoice,
}

/// How far a run that goes on trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// To the run's own number of steps.
    #[default]
    Planned,
    /// To this many steps.
    Steps(u32),
    /// This many steps beyond the run's own number.
    More(u32),
}

impl Until {
    /// The number of steps, for a run whose own number is `planned`.
    pub(super) fn steps(self, planned: u32) -> Result<u32, Halt> {
        match self {
            Self::Planned => Ok(planned),
            Self::Steps(steps) => Ok(steps),
            Self::More(more) => planned.checked_add(more).ok_or_else(|| {
                Report::new(
                    Area::Request,
                    format!("{planned} and {more} steps are too many"),
                )
                .advise("Ask for fewer steps.")
                .into()
            }),
        }
    }
}

/// Sample from a run or a model.
#[derive(Clone, Debug)]
pub struct SampleRequest {
    /// A run folder, a model folder, or `builtin`: the built-in model of the method that left the weights.
    pub source: PathBuf,
    /// Files to put on the model: the weights of a training, which a run has of its own, and LoRA files of other programs.
    pub loras: Vec<LoraRequest>,
    /// The film to make.
    pub result: ResultRequest,
    /// What differs from the run's settings.
    pub changes: SamplingChanges,
    /// What computes.
    pub device: DeviceChoice,
}

/// Compare a result with its reference.
#[derive(Clone, Debug)]
pub struct EvaluateRequest {
    /// A run folder, whose result is sampled again, or a film.
    pub result: PathBuf,
    /// The clip whose motion is wanted, or the run that learned it; none takes the clip of the run that `result` is.
    pub reference: Option<PathBuf>,
    /// What the result shall show; none takes the run's words, or those of the film's recipe.
    pub prompt: Option<String>,
    /// What the reference shows; none likewise.
    pub subject: Option<String>,
    /// What differs from the cut that the run or the film's recipe names.
    pub cut: CutChanges,
    /// What computes.
    pub device: DeviceChoice,
}

/// Train and compare drawn clips: methods x {no training, base, + global, + local, + both} x clips x seeds, each training
/// sampled from the inverted clip and from noise.
#[derive(Clone, Debug)]
pub struct SuiteRequest {
    /// Where the cells and the table go. Cells that are there are not computed again.
    pub folder: PathBuf,
    /// Number of clips; their seeds count from 1.
    pub clips: u64,
    /// Number of seeds of the noise; they count from 1.
    pub seeds: u64,
    /// Host methods; without a model folder those of one kind of model.
    pub methods: Vec<Method>,
    /// Model folder; none is the built-in model of that kind.
    pub model: Option<PathBuf>,
    /// What computes.
    pub device: DeviceChoice,
    /// Settings of training and sampling; the cells set method, seed, start, λg and λl (to 0 or to these).
    pub config: TransferConfig,
}

/// Settings of a cut that replace a run's own where they are given.
#[derive(Clone, Debug, Default)]
pub struct CutChanges {
    /// Width and height in pixels.
    pub size: Option<(u32, u32)>,
    /// Frames per second taken from the clip.
    pub fps: Option<f64>,
    /// Where in the clip to begin, in seconds.
    pub start_secs: Option<f64>,
    /// How frames of another shape are brought to the size.
    pub fit: Option<FitChoice>,
    /// Whether a clip that is too short runs forth and back.
    pub loop_short: Option<bool>,
}

impl CutChanges {
    /// The settings with the changes in them.
    pub(super) fn over(&self, config: &TransferConfig) -> TransferConfig {
        TransferConfig {
            size: self.size.or(config.size),
            fps: self.fps.or(config.fps),
            start_secs: self.start_secs.unwrap_or(config.start_secs),
            fit: self.fit.unwrap_or(config.fit),
            loop_short: self.loop_short.unwrap_or(config.loop_short),
            ..config.clone()
        }
    }
}

/// Sampling settings that replace a run's own where they are given.
#[derive(Clone, Debug, Default)]
pub struct SamplingChanges {
    /// Seed of the starting noise.
    pub seed: Option<u64>,
    /// What sampling starts from.
    pub start: Option<Start>,
    /// Share of the inverted clip.
    pub noise_prior: Option<f64>,
    /// Denoising steps.
    pub sampling_steps: Option<usize>,
    /// How a sample is denoised.
    pub sampler: Option<SamplerChoice>,
    /// Guidance scale.
    pub guidance: Option<f64>,
    /// What guidance leads away from.
    pub negative_prompt: Option<String>,
    /// Which of several clips the sample begins from, from 1.
    pub inverted_clip: Option<usize>,
    /// How strongly learned adapters act.
    pub lora_scale: Option<f64>,
    /// How much of a clip's look is kept.
    pub spatial_scale: Option<f64>,
}

impl SamplingChanges {
    /// Puts the changes into the settings.
    pub(super) fn apply(&self, config: &mut TransferConfig) {
        config.seed = self.seed.unwrap_or(config.seed);
        config.start = self.start.unwrap_or(config.start);
        config.noise_prior = self.noise_prior.unwrap_or(config.noise_prior);
        config.sampling_steps = self.sampling_steps.or(config.sampling_steps);
        config.sampler = self.sampler.unwrap_or(config.sampler);
        config.guidance = self.guidance.or(config.guidance);
        if let Some(words) = &self.negative_prompt {
            config.negative_prompt.clone_from(words);
        }
        config.inverted_clip = self.inverted_clip.unwrap_or(config.inverted_clip);
        config.lora_scale = self.lora_scale.unwrap_or(config.lora_scale);
        config.spatial_scale = self.spatial_scale.unwrap_or(config.spatial_scale);
    }
}

/// A film to make.
#[derive(Clone, Debug)]
pub struct ResultRequest {
    /// What it shall show.
    pub prompt: String,
    /// Where it goes; none makes a new name from clip and prompt in the current folder.
    pub output: Option<PathBuf>,
    /// Whether an existing file may be replaced.
    pub overwrite: bool,
    /// Smallest length of the film's shorter side in pixels.
    pub scale_to: Option<u32>,
}

/// What computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if this build supports one and there is one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// An Apple GPU.
    Metal,
}

impl DeviceChoice {
    /// Opens the device.
    pub(super) fn open(self) -> Result<Device, Halt> {
        let refused = |name: &str, error: &candle_core::Error| {
            Report::new(Area::Request, format!("{name} cannot be used"))
                .because(error.to_string())
                .advise(
                    "Use --device cpu, or a build of this program with support for that device.",
                )
        };
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => Device::new_cuda(0).map_err(|e| refused("CUDA", &e).into()),
            Self::Metal => Device::new_metal(0).map_err(|e| refused("Metal", &e).into()),
            Self::Auto => Ok(Device::new_cuda(0)
                .or_else(|_| Device::new_metal(0))
                .unwrap_or(Device::Cpu)),
        }
    }
}

/// What [`DeviceChoice::Auto`] computes on here. Asks the graphics driver, where this build knows one.
#[must_use]
pub fn device_name() -> &'static str {
    match DeviceChoice::Auto.open() {
        Ok(Device::Cuda(_)) => "CUDA",
        Ok(Device::Metal(_)) => "Metal",
        Ok(Device::Cpu) | Err(_) => "CPU",
    }
}

/// Sets how many processor threads all jobs of this process share. Works once, before the first job.
///
/// # Errors
/// When the number is 0 or threads are already running.
pub fn set_threads(threads: usize) -> Result<(), Report> {
    let refused = |cause: String| {
        Report::new(Area::Request, format!("{threads} threads cannot be used")).because(cause)
    };
    if threads == 0 {
        return Err(refused("It must be 1 or more.".to_owned()));
    }
    nn::threads(threads).map_err(|error| refused(error.to_string()))
}
