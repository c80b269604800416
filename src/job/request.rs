//! What a job is asked to do.

use std::path::PathBuf;

use candle_core::Device;

use super::problem::Halt;
use crate::nn;
use crate::report::{Area, Report};
use crate::train::{SamplerChoice, Start, TransferConfig};

/// One job.
#[derive(Clone, Debug)]
pub enum Request {
    /// Learn a clip's motion and, if a result is asked for, sample it.
    Train(Box<TrainRequest>),
    /// Go on with a run.
    Resume(Box<ResumeRequest>),
    /// Sample from a run or a model.
    Sample(Box<SampleRequest>),
}

/// Learn the motion of a clip.
#[derive(Clone, Debug)]
pub struct TrainRequest {
    /// A film, a GIF, or a folder of images.
    pub clip: PathBuf,
    /// What the clip shows, in words.
    pub subject: String,
    /// Model folder; none is the built-in model.
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
    /// A run folder, a model folder, or `builtin`.
    pub source: PathBuf,
    /// The film to make.
    pub result: ResultRequest,
    /// What differs from the run's settings.
    pub changes: SamplingChanges,
    /// What computes.
    pub device: DeviceChoice,
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
