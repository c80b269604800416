//! The settings of a transfer: one struct for flags, presets, run files and (later) the window.

use clap::builder::PossibleValue;
use clap::{Args, Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::methods::{Method, Precision, Strength, Tuning};
use crate::models::TemporalBias;
use crate::nn::Checkpointing;
use crate::project::LiveSettings;
use crate::spectral::loss::{CosineAxis, FftNorm, MotionLossConfig, Residual};

/// Films play at this rate or faster unless told otherwise: what the published text-to-video models were trained at.
pub const WATCHABLE_FPS: f64 = 8.0;
/// Highest rate of a film that is written, in frames per second.
pub(super) const MOST_FPS: f64 = 240.0;

/// Settings of training and sampling. `Default` is what the command line takes without flags.
#[derive(Clone, Debug, PartialEq, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransferConfig {
    /// How the model learns the motion. tune-a-video and control-video bring their preset: the defaults below are those of the
    /// other two
    #[arg(long, value_enum, default_value = "vmc", help_heading = "Training")]
    pub method: Method,
    /// Training steps; 0 samples with the model as it is
    #[arg(long, default_value_t = 40, help_heading = "Training")]
    pub steps: u32,
    /// Learning rate of AdamW
    #[arg(long, default_value_t = 1e-3, help_heading = "Training")]
    pub learning_rate: f64,
    /// Weight decay of AdamW
    #[arg(long, default_value_t = 1e-2, help_heading = "Training")]
    pub weight_decay: f64,
    /// Norm that gradients are clipped to, 0 for no clipping
    #[arg(long, default_value_t = 1.0, help_heading = "Training")]
    pub clip_norm: f64,
    /// Smallest diffusion timestep that is trained
    #[arg(long, default_value_t = 0, help_heading = "Training")]
    pub min_timestep: u32,
    /// Largest diffusion timestep that is trained, at most the model's last
    #[arg(long, default_value_t = 999, help_heading = "Training")]
    pub max_timestep: u32,
    /// MotionDirector: inner width of the adapters
    #[arg(long, default_value_t = 32, help_heading = "Training")]
    pub rank: usize,
    /// MotionDirector: share of the adapters' output that is left out while training, 0 to below 1
    #[arg(long, default_value_t = 0.1, help_heading = "Training")]
    pub lora_dropout: f64,
    /// MotionDirector: dropout ends after this many steps; in the authors' code the first validation ends it [default: never]
    #[arg(long, value_name = "STEPS", help_heading = "Training")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout_until: Option<u32>,
    /// MotionDirector with several clips: one set of spatial adapters for all, instead of one for each
    #[arg(long, help_heading = "Training")]
    pub single_spatial_lora: bool,
    /// Tune-A-Video: what the bias behind the attention over frames starts at
    #[arg(long, value_enum, default_value = "zero", help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default")]
    pub temporal_bias: TemporalBias,
    /// ControlVideo: how strongly the ControlNet leads training and samples
    #[arg(long, default_value_t = 1.0, help_heading = "Training")]
    #[serde(skip_serializing_if = "is_one")]
    pub control_scale: f64,
    /// ControlVideo: gradient at which an edge may go on, and at which one begins, where the program draws the edges itself
    #[arg(long, value_name = "LOW,HIGH", value_parser = parse_thresholds, default_value = "100,100", help_heading = "Training")]
    #[serde(skip_serializing_if = "is_default_canny")]
    pub canny: (f32, f32),
    /// Seed of all noise
    #[arg(long, default_value_t = 1, help_heading = "Training")]
    pub seed: u64,
    /// Compute parts of the model again in each step instead of remembering them: less memory, for a forward pass more
    #[arg(long, value_enum, default_value = "off", help_heading = "Training")]
    pub checkpointing: Checkpointing,
    /// Number type of what does not learn; what learns, and the losses, are 32 bits wide
    #[arg(long, value_enum, default_value = "auto", help_heading = "Training")]
    pub precision: Precision,

    /// λg, weight of the global term (wavelets along time); the paper suggests 0.2 to 0.5
    #[arg(
        long,
        default_value_t = 0.4,
        help_heading = "Spectral motion alignment"
    )]
    pub lambda_g: f64,
    /// λl, weight of the local term (Fourier amplitude and phase); the paper suggests 0.1 to 0.3
    #[arg(
        long,
        default_value_t = 0.2,
        help_heading = "Spectral motion alignment"
    )]
    pub lambda_l: f64,
    /// δ, low-frequency bias of the local term: an exponent, 0 weighs all frequencies alike
    #[arg(
        long,
        default_value_t = 0.05,
        help_heading = "Spectral motion alignment"
    )]
    pub delta: f64,
    /// Frequencies beyond this many cycles per latent pixel count nothing [default: none]
    #[arg(long, help_heading = "Spectral motion alignment")]
    pub cutoff: Option<f64>,
    /// Wavelet levels [default: as many as the frames allow, 3 for 8 frames and 4 for 16]
    #[arg(long, help_heading = "Spectral motion alignment")]
    pub levels: Option<usize>,
    /// Weight of each wavelet band, approximation first, then details from the finest [default: all 1]
    #[arg(
        long,
        value_delimiter = ',',
        help_heading = "Spectral motion alignment"
    )]
    pub level_weights: Vec<f64>,
    /// Frame differences with their sign (the paper) or without (the authors' code)
    #[arg(
        long,
        value_enum,
        default_value = "signed",
        help_heading = "Spectral motion alignment"
    )]
    pub residual: Residual,
    /// What the host loss compares: each pixel along time, or each frame as a whole
    #[arg(
        long,
        value_enum,
        default_value = "frame",
        help_heading = "Spectral motion alignment"
    )]
    pub cosine_axis: CosineAxis,
    /// Take phase differences around the circle instead of as plain numbers
    #[arg(long, help_heading = "Spectral motion alignment")]
    pub phase_wrap: bool,
    /// Give the outermost row and column of the spectrum no weight, as the paper writes it
    #[arg(long, help_heading = "Spectral motion alignment")]
    pub zero_border: bool,
    /// Scale of the Fourier transform
    #[arg(
        long,
        value_enum,
        default_value = "backward",
        help_heading = "Spectral motion alignment"
    )]
    pub fft_norm: FftNorm,

    /// Frames taken from the clip [default: what the model was made for]
    #[arg(long, help_heading = "Clip")]
    pub frames: Option<usize>,
    /// Size the clip is fitted to, WIDTHxHEIGHT in pixels [default: what the model was made for]
    #[arg(long, value_parser = parse_size, help_heading = "Clip")]
    #[serde(with = "size_text", skip_serializing_if = "Option::is_none")]
    pub size: Option<(u32, u32)>,
    /// Frames per second taken from the clip [default: spread over the whole clip]
    #[arg(long, help_heading = "Clip")]
    pub fps: Option<f64>,
    /// Where in the clip to begin, in seconds; of several clips this applies to the first one
    #[arg(long, default_value_t = 0.0, help_heading = "Clip")]
    pub start_secs: f64,

    /// How frames of another shape are brought to the model's
    #[arg(long, value_enum, default_value = "crop", help_heading = "Clip")]
    pub fit: FitChoice,
    /// Play a clip that is too short forwards, then backwards, instead of refusing it
    #[arg(long, help_heading = "Clip")]
    pub loop_short: bool,

    /// What sampling starts from
    #[arg(
        long,
        value_enum,
        default_value = "inverted",
        help_heading = "Sampling"
    )]
    pub start: Start,
    /// Share p of the inverted clip with `--start mixed`: sqrt(p) inverted + sqrt(1 - p) noise
    #[arg(long, default_value_t = 0.5, help_heading = "Sampling")]
    pub noise_prior: f64,
    /// Which of several clips samples begin from, from 1; with `--spatial-scale` it is this one's look that is kept
    #[arg(
        long,
        value_name = "NUMBER",
        default_value_t = 1,
        help_heading = "Sampling"
    )]
    pub inverted_clip: usize,
    /// Words used while inverting the clip
    #[arg(long, value_enum, default_value = "empty", help_heading = "Sampling")]
    pub inversion_prompt: InversionPrompt,
    /// Denoising steps of a sample, and inversion steps [default: what the model recommends, else 30]
    #[arg(long, help_heading = "Sampling")]
    pub sampling_steps: Option<usize>,
    /// How a sample is denoised; the clip is inverted by DDIM either way
    #[arg(long, value_enum, default_value = "ddim", help_heading = "Sampling")]
    pub sampler: SamplerChoice,
    /// How strongly the sample obeys its words, 1 for no guidance [default: what the model recommends, else 9]
    #[arg(long, help_heading = "Sampling")]
    pub guidance: Option<f64>,
    /// What samples shall keep away from; has no effect without guidance
    #[arg(
        long,
        value_name = "WORDS",
        default_value = "",
        help_heading = "Sampling"
    )]
    pub negative_prompt: String,

    /// MotionDirector: how strongly the learned motion acts in samples
    #[arg(long, default_value_t = 1.0, help_heading = "Sampling")]
    pub lora_scale: f64,
    /// MotionDirector: how much of the clip's look is kept in samples, 0 for none
    #[arg(long, default_value_t = 0.0, help_heading = "Sampling")]
    pub spatial_scale: f64,
    /// Frames per second of the films that are written [default: those taken from the clip, at least 8]
    #[arg(long, help_heading = "Sampling")]
    pub play_fps: Option<f64>,

    /// Training steps between two previews, 0 for none
    #[arg(long, default_value_t = 100, help_heading = "Run")]
    pub preview_every: u32,
    /// Training steps between two checkpoints, 0 for none but the last
    #[arg(long, default_value_t = 50, help_heading = "Run")]
    pub checkpoint_every: u32,
    /// Seconds after which a checkpoint is written as well, 0 for none
    #[arg(long, default_value_t = 60.0, help_heading = "Run")]
    pub checkpoint_secs: f64,
    /// Checkpoints kept, the newest ones
    #[arg(long, default_value_t = 3, help_heading = "Run")]
    pub keep_checkpoints: usize,
}

/// How frames of another shape are brought to the model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FitChoice {
    /// Keep the middle and cut what sticks out
    Crop,
    /// Keep everything and fill the rest with black bars
    Contain,
    /// Keep everything and change the shape
    Stretch,
}

/// What sampling starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Fresh noise: only the fine-tuning carries the motion
    Noise,
    /// The clip, inverted by DDIM: carries the most motion, and some of the clip's look
    Inverted,
    /// Both, mixed by `--noise-prior`
    Mixed,
}

/// How a sample is denoised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerChoice {
    /// DDIM, which walks the inversion's levels back
    Ddim,
    /// DPM-Solver++ of second order, which needs fewer steps
    Dpm,
}

/// Words used while inverting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InversionPrompt {
    /// No words, as the reference implementations do
    Empty,
    /// The words for the clip
    Subject,
}

impl Default for TransferConfig {
    fn default() -> Self {
        #[derive(Parser)]
        struct NoFlags {
            #[command(flatten)]
            config: TransferConfig,
        }
        NoFlags::parse_from([""]).config
    }
}

impl TransferConfig {
    /// The settings of the spectral terms for a clip of `frames` frames.
    #[must_use]
    pub fn motion_loss(&self, frames: usize, delta: f64) -> MotionLossConfig {
        MotionLossConfig {
            levels: self.levels.unwrap_or_else(|| default_levels(frames)),
            level_weights: self.level_weights.clone(),
            delta,
            base: 1.0,
            cutoff: self.cutoff,
            residual: self.residual,
            phase_wrap: self.phase_wrap,
            zero_border: self.zero_border,
            fft_norm: self.fft_norm,
        }
    }

    /// The settings that may change while a run goes on.
    #[must_use]
    pub fn live(&self) -> LiveSettings {
        LiveSettings {
            lambda_g: self.lambda_g,
            lambda_l: self.lambda_l,
            delta: self.delta,
            learning_rate: self.learning_rate,
            preview_every: self.preview_every,
        }
    }

    /// These settings with the live ones replaced.
    #[must_use]
    pub fn with_live(self, live: &LiveSettings) -> Self {
        Self {
            lambda_g: live.lambda_g,
            lambda_l: live.lambda_l,
            delta: live.delta,
            learning_rate: live.learning_rate,
            preview_every: live.preview_every,
            ..self
        }
    }

    /// Timesteps that are trained, as a half-open range within a schedule of `levels` timesteps; never empty.
    #[must_use]
    pub fn timestep_range(&self, levels: u32) -> (u32, u32) {
        let end = self.max_timestep.saturating_add(1).min(levels.max(1));
        (self.min_timestep.min(end - 1), end)
    }

    /// Share of the inverted clip in the starting latents.
    #[must_use]
    pub fn inverted_share(&self) -> f64 {
        match self.start {
            Start::Noise => 0.0,
            Start::Inverted => 1.0,
            Start::Mixed => self.noise_prior,
        }
    }

    /// Rate at which a film of frames taken at `taken_fps` plays. A long clip gives a few frames a second or less, a
    /// slide show; its film plays at [`WATCHABLE_FPS`] unless another rate is asked for. One of a high-speed camera gives
    /// more than a film can have.
    #[must_use]
    pub fn film_fps(&self, taken_fps: f64) -> f64 {
        self.play_fps
            .unwrap_or_else(|| taken_fps.clamp(WATCHABLE_FPS, MOST_FPS))
    }

    /// What the method needs to know to prepare a network for this many clips.
    #[must_use]
    pub fn tuning(&self, clips: usize) -> Tuning {
        let spatial_sets = if self.single_spatial_lora { 1 } else { clips };
        Tuning {
            rank: self.rank,
            seed: self.seed,
            spatial_sets: spatial_sets.max(1),
            precision: self.precision,
            temporal_bias: self.temporal_bias,
            control_scale: self.control_scale,
        }
    }

    /// How strongly adapters act in samples.
    #[must_use]
    pub fn strength(&self) -> Strength {
        Strength {
            motion: self.lora_scale,
            look: self.spatial_scale,
            clip: self.inverted_clip.saturating_sub(1),
        }
    }
}

/// Wavelet levels that a clip of `frames` frames allows: `ceil(log2(frames - 1))`, the paper's 3 for 8 and 4 for 16.
#[must_use]
pub fn default_levels(frames: usize) -> usize {
    let residuals = frames.saturating_sub(1).max(1);
    residuals.next_power_of_two().trailing_zeros() as usize
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let parsed = text
        .split_once(['x', 'X', '×'])
        .and_then(|(width, height)| {
            Some((
                width.trim().parse::<u32>().ok()?,
                height.trim().parse::<u32>().ok()?,
            ))
        });
    match parsed {
        Some((width, height)) if width > 0 && height > 0 => Ok((width, height)),
        _ => Err("write it as WIDTHxHEIGHT in pixels, for example 64x64".to_owned()),
    }
}

fn parse_thresholds(text: &str) -> Result<(f32, f32), String> {
    let parsed = text
        .split_once(',')
        .and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)));
    parsed.ok_or_else(|| "write it as LOW,HIGH, for example 100,200".to_owned())
}

/// A setting of a method that few runs have is written where it says something.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_one(value: &f64) -> bool {
    value.to_bits() == 1.0_f64.to_bits()
}

fn is_default_canny(thresholds: &(f32, f32)) -> bool {
    *thresholds == (100.0, 100.0)
}

/// A size as `64x48` in files, as it is typed.
mod size_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::ref_option, reason = "the signature that serde calls")]
    pub(super) fn serialize<S: Serializer>(
        size: &Option<(u32, u32)>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match size {
            Some((width, height)) => serializer.serialize_some(&format!("{width}x{height}")),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(
        deserializer: D,
    ) -> Result<Option<(u32, u32)>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::parse_size(&text).map_err(D::Error::custom))
            .transpose()
    }
}

/// The flag values of an enum of the losses: their names and what they mean.
macro_rules! flag_values {
    ($type:ty, $($variant:ident => $name:literal, $help:literal;)+) => {
        impl ValueEnum for $type {
            fn value_variants<'a>() -> &'a [Self] {
                &[$(Self::$variant),+]
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                Some(match self { $(Self::$variant => PossibleValue::new($name).help($help)),+ })
            }
        }
    };
}

flag_values! { Checkpointing,
    Off => "off", "Remember everything";
    Block => "block", "Remember what goes into each block: the least memory";
    Level => "level", "Remember what goes into each level, all blocks of one resolution";
}
flag_values! { TemporalBias,
    Zero => "zero", "Zero: the network begins as the image model";
    Random => "random", "Random, as in the authors' code: every block adds a constant at first";
}
flag_values! { CosineAxis,
    Frame => "frame", "Each pixel along the frames, as the authors' code does";
    Pixel => "pixel", "Each frame over its pixels, as the VMC paper writes it";
}
flag_values! { FftNorm,
    Backward => "backward", "Unscaled, as the paper's weights expect";
    Ortho => "ortho", "Divided by the root of the number of pixels";
}
flag_values! { Residual,
    Signed => "signed", "Differences of frames, as the paper writes them";
    Abs => "abs", "Their absolute values, as the authors' code does";
}
