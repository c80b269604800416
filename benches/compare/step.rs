//! One network in one process: a training step, a guided sampling step, a forward pass, and the memory they take.

use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use candle_core::{DType, Device, Tensor, Var};
use clap::Args;
use serde::{Deserialize, Serialize};
use spectral_motion::methods::{Method, Precision, Strength, Tuned, Tuning};
use spectral_motion::models::{TemporalBias, UNet3DConditionModel};
use spectral_motion::nn::{self, NoiseStream, Purpose, no_grad};
use spectral_motion::pipelines::predict_guided;
use spectral_motion::schedulers::{NoiseSchedule, SchedulerConfig};
use spectral_motion::spectral::loss::{MotionLossConfig, Residual, SpectralLoss};
use spectral_motion::train::memory::Network;
use spectral_motion::train::{Batch, Checkpointing, CosineAxis, Item, Trainer, TransferConfig};

use super::memory::Gauge;
use super::{network, ops};

/// The noise levels; the rest of a scheduler's file does not matter to a step.
const SCHEDULER: &str = r#"{"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
    "beta_end": 0.012}"#;
/// Inner width of the peer's adapters.
const RANK: usize = 32;

/// What is measured.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// `small`, `zeroscope`, `builtin`, or a model's folder
    pub model: String,
    /// Method that trains it
    #[arg(long, value_enum, default_value = "vmc")]
    pub method: Method,
    /// Frames [default: the model's]
    #[arg(long)]
    pub frames: Option<usize>,
    /// Height of the latents [default: the model's]
    #[arg(long)]
    pub height: Option<usize>,
    /// Width of the latents [default: the model's]
    #[arg(long)]
    pub width: Option<usize>,
    /// Inner width of MotionDirector's adapters
    #[arg(long, default_value_t = RANK)]
    pub rank: usize,
    /// What a training step remembers
    #[arg(long, value_enum, default_value = "off")]
    pub checkpointing: Checkpointing,
    /// Number type of what does not learn
    #[arg(long, value_enum, default_value = "f32")]
    pub precision: Precision,
    /// `cpu` or `cuda`
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Runs whose median is taken
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Runs before them
    #[arg(long, default_value_t = 2)]
    pub warmup: usize,
    /// Only the training step
    #[arg(long)]
    pub train_only: bool,
}

/// What was measured. Seconds are medians; bytes are those of [`memory`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub model: String,
    pub method: String,
    pub clip: [usize; 3],
    pub device: String,
    pub checkpointing: String,
    pub rank: usize,
    pub train_step_s: f64,
    /// MotionDirector's step with its pass over a single frame, which the peer does not have.
    pub both_passes_s: Option<f64>,
    pub cfg_sample_step_s: Option<f64>,
    pub forward_s: Option<f64>,
    /// The spectral terms and their gradient alone, on the same shapes.
    pub sma_s: f64,
    pub loaded_bytes: u64,
    pub train_working_bytes: u64,
    pub sample_working_bytes: Option<u64>,
    /// The most of all of it, minus what was held once the model was loaded.
    pub working_bytes: u64,
    /// What [`Network::need`] says of it, for what is loaded and for training.
    pub estimated_bytes: [u64; 2],
    pub threads: usize,
    /// Multiplications of one training step, those of products and of attention, in 10^9.
    pub train_step_giga: f64,
    /// What a product of two matrices of 1024 by 1024 reaches here, in 10^9 multiplications a second.
    pub gemm_giga_per_s: f64,
}

/// What is compared are text-to-video models.
fn video(tuned: &Tuned) -> Result<&UNet3DConditionModel> {
    tuned.unet.video().context("an image model")
}

/// Measures in this process.
pub fn measure(options: &Options) -> Result<Measured> {
    let device = match options.device.as_str() {
        "cpu" => Device::Cpu,
        _ => Device::new_cuda(0)?,
    };
    let tuning = Tuning {
        rank: options.rank,
        seed: 7,
        spatial_sets: 1,
        precision: options.precision,
        temporal_bias: TemporalBias::Zero,
        control_scale: 1.0,
    };
    let subject = network::load(&options.model, options.method, tuning, &device)?;
    let [frames, height, width] = subject.clip;
    let clip = [
        options.frames.unwrap_or(frames),
        options.height.unwrap_or(height),
        options.width.unwrap_or(width),
    ];
    let draw =
        |purpose, shape: &[usize]| NoiseStream::new(1, purpose).normal(shape, DType::F32, &device);
    let v0 = draw(Purpose::Posterior, &[1, 4, clip[0], clip[1], clip[2]])?;
    let text = draw(Purpose::Init, &[1, 77, subject.text_width])?;
    let gauge = Gauge::new(&options.device)?;
    let loaded = gauge.held();
    gauge.forget_peak();
    let config = config(options, clip[0]);
    let estimated = Network::new(video(&subject.tuned)?.config())?.need(&config, clip);
    let watch = Watch {
        options,
        device: &device,
    };
    let schedule = NoiseSchedule::new(&SchedulerConfig::from_json(SCHEDULER)?);
    let item = Item::new(&v0, &text);
    let mut trainer = Trainer::new(&config, subject.tuned, schedule, vec![item])?;
    let (train_step_s, train_step_giga) = watch.training_step(&mut trainer, &v0, &text)?;
    let train_peak = gauge.peak().saturating_sub(loaded);
    let mut measured = Measured {
        model: options.model.clone(),
        method: format!("{:?}", options.method),
        clip,
        device: options.device.clone(),
        checkpointing: format!("{:?}", options.checkpointing).to_lowercase(),
        rank: options.rank,
        train_step_s,
        both_passes_s: None,
        cfg_sample_step_s: None,
        forward_s: None,
        sma_s: watch.spectral_terms(&config, &v0)?,
        loaded_bytes: loaded,
        train_working_bytes: train_peak,
        sample_working_bytes: None,
        working_bytes: train_peak,
        estimated_bytes: [estimated.loaded, estimated.working],
        threads: rayon::current_num_threads(),
        train_step_giga,
        gemm_giga_per_s: ops::gemm_giga_per_s(&device)?,
    };
    if options.train_only {
        return Ok(measured);
    }
    if options.method == Method::MotionDirector {
        measured.both_passes_s = Some(watch.median(|| Ok(trainer.step().map(drop)?))?);
    }
    gauge.forget_peak();
    let (guided, forward) = watch.sampling(&trainer, &v0, &text)?;
    let sampling = gauge.peak().saturating_sub(loaded);
    measured.cfg_sample_step_s = Some(guided);
    measured.forward_s = Some(forward);
    measured.sample_working_bytes = Some(sampling);
    measured.working_bytes = train_peak.max(sampling);
    Ok(measured)
}

/// The peer's settings: as many wavelet levels, λ, δ and residuals as it takes.
fn config(options: &Options, frames: usize) -> TransferConfig {
    let levels = ((frames - 1) as f64).log2().ceil() as usize;
    TransferConfig {
        method: options.method,
        checkpointing: options.checkpointing,
        precision: options.precision,
        rank: options.rank,
        levels: Some(levels.saturating_sub(1).max(1)),
        residual: Residual::Abs,
        cosine_axis: CosineAxis::Frame,
        learning_rate: 1e-4,
        steps: u32::MAX,
        lora_dropout: 0.0,
        ..TransferConfig::default()
    }
}

struct Watch<'a> {
    options: &'a Options,
    device: &'a Device,
}

impl Watch<'_> {
    /// Median seconds of the runs after those that warm up.
    fn median(&self, mut f: impl FnMut() -> Result<()>) -> Result<f64> {
        for _ in 0..self.options.warmup {
            f()?;
        }
        let mut times = Vec::new();
        for _ in 0..self.options.runs {
            self.device.synchronize()?;
            let start = Instant::now();
            f()?;
            self.device.synchronize()?;
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        times
            .get(times.len() / 2)
            .copied()
            .ok_or_else(|| anyhow!("nothing was run"))
    }

    /// Seconds and multiplications (10^9) of a step. The peer's is the pass over the whole clip.
    fn training_step(
        &self,
        trainer: &mut Trainer,
        v0: &Tensor,
        text: &Tensor,
    ) -> Result<(f64, f64)> {
        let mut stream = NoiseStream::new(2, Purpose::Noise);
        let frames = u32::try_from(v0.dim(2)?)?;
        let mut giga = 0.0;
        let seconds = self.median(|| {
            let batch = Batch {
                v0: v0.clone(),
                eps: stream.normal(v0.shape(), DType::F32, self.device)?,
                t: vec![stream.below(1000)],
                text: text.clone(),
                anchor: stream.below(frames) as usize,
                control: None,
            };
            let before = nn::multiplications();
            trainer.step_on(&batch)?;
            giga = (nn::multiplications() - before) as f64 * 1e-9;
            Ok(())
        })?;
        Ok((seconds, giga))
    }

    /// Seconds of a guided sampling step and of a forward pass, with the weights as they are trained.
    fn sampling(&self, trainer: &Trainer, v0: &Tensor, text: &Tensor) -> Result<(f64, f64)> {
        let tuned = trainer.tuned();
        let unet = video(tuned)?;
        tuned.set_for_sampling(Strength {
            motion: 1.0,
            look: 0.0,
            clip: 0,
        });
        let guided = self.median(|| {
            no_grad(|| predict_guided(unet, v0, 500.0, [text, text], None, 7.0))?;
            Ok(())
        })?;
        let forward = self.median(|| {
            no_grad(|| unet.forward(v0, &[500.0], text))?;
            Ok(())
        })?;
        Ok((guided, forward))
    }

    /// The spectral terms of a clip like `v0` and their gradient with respect to it.
    fn spectral_terms(&self, config: &TransferConfig, v0: &Tensor) -> Result<f64> {
        let (_, _, frames, height, width) = v0.dims5()?;
        let motion = MotionLossConfig {
            levels: config.levels.unwrap_or(1),
            residual: config.residual,
            ..MotionLossConfig::default()
        };
        let loss = SpectralLoss::new(&motion, frames, height, width, DType::F32, self.device)?;
        let estimate = Var::from_tensor(&v0.affine(0.9, 0.1)?)?;
        self.median(|| {
            let global = loss.global(v0, estimate.as_tensor())?.total;
            let local = loss.local(v0, estimate.as_tensor())?;
            let total = (global + local.amplitude)?.add(&local.phase)?;
            total.backward()?;
            Ok(())
        })
    }
}
