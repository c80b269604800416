//! `scheduler_config.json` of a diffusers folder.

use serde::{Deserialize, Serialize};

/// Why a scheduler cannot be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SchedulerError {
    /// The file is not valid JSON or a field has a value that no known scheduler knows.
    #[error("the scheduler's configuration could not be read: {0}")]
    Config(String),
    /// More steps than noise levels, or none at all.
    #[error("{steps} steps were asked for; this model's schedule allows 1 to {levels}")]
    Steps {
        /// How many were asked for.
        steps: usize,
        /// How many there can be.
        levels: usize,
    },
    /// The grid leaves the table, for example 1000 steps with an offset of 1.
    #[error(
        "{steps} steps with an offset of {offset} reach noise level {timestep}, beyond the last one ({last}); ask for fewer steps"
    )]
    Grid {
        /// How many steps were asked for.
        steps: usize,
        /// `steps_offset` of the configuration.
        offset: usize,
        /// The level the grid would need.
        timestep: usize,
        /// The last level there is.
        last: usize,
    },
    /// A valid file that asks for something this program does not do.
    #[error("the scheduler's configuration asks for {0}, which is not supported")]
    Unsupported(String),
}

/// How the noise variances grow over the levels (spec section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Evenly spaced variances.
    Linear,
    /// Evenly spaced square roots of the variances.
    ScaledLinear,
    /// Variances that make the signal follow a squared cosine, at most 0.999.
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredcosCapV2,
}

/// What the network's output means (spec section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PredictionType {
    /// The noise.
    #[default]
    #[serde(rename = "epsilon")]
    Epsilon,
    /// `sqrt(abar) eps - sqrt(1 - abar) x0`.
    #[serde(rename = "v_prediction")]
    Velocity,
    /// The clean sample.
    #[serde(rename = "sample")]
    Sample,
}

/// How a few steps are laid over the noise levels (spec section 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Multiples of `T / n` rounded down, plus `steps_offset`.
    #[default]
    Leading,
    /// From the last level down in strides of `T / n`.
    Trailing,
    /// Evenly from the last level to the first, both included.
    Linspace,
}

/// The fields of `scheduler_config.json` that matter to DDIM; unknown fields are ignored.
///
/// Files of other schedulers (PNDM, DDPM, DPM-Solver, Euler) describe the same noise levels and are read as DDIM,
/// as diffusers does with `DDIMScheduler.from_config`. One deviation: where the file of such a scheduler has no
/// `clip_sample`, nothing is clipped, because only DDIM and DDPM clip by default and latents must not be clipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SchedulerConfig {
    /// Scheduler class the file was written for.
    #[serde(rename = "_class_name", default = "default_class")]
    pub class_name: String,
    /// Number of noise levels of the training.
    #[serde(default = "default_levels")]
    pub num_train_timesteps: usize,
    /// First variance of the schedule.
    #[serde(default = "default_beta_start")]
    pub beta_start: f64,
    /// Last variance of the schedule.
    #[serde(default = "default_beta_end")]
    pub beta_end: f64,
    /// Shape of the schedule between the two.
    #[serde(default = "default_beta_schedule")]
    pub beta_schedule: BetaSchedule,
    /// Variances given one by one; they replace the schedule above.
    #[serde(default)]
    pub trained_betas: Option<Vec<f64>>,
    /// What the network's output means.
    #[serde(default)]
    pub prediction_type: PredictionType,
    /// How steps are laid over the levels.
    #[serde(default)]
    pub timestep_spacing: TimestepSpacing,
    /// Added to every timestep of the `leading` grid.
    #[serde(default)]
    pub steps_offset: usize,
    /// Whether the level "before the first" is noiseless; otherwise it is the first level itself.
    #[serde(default)]
    pub set_alpha_to_one: Option<bool>,
    /// Clamp the predicted clean sample to plus or minus `clip_sample_range`.
    #[serde(default)]
    pub clip_sample: Option<bool>,
    /// Limit of the predicted clean sample where it is clamped.
    #[serde(default = "one")]
    pub clip_sample_range: f64,
    /// Shift the levels so that the last one holds no signal at all.
    #[serde(default)]
    pub rescale_betas_zero_snr: bool,
    /// Dynamic thresholding; refused where true.
    #[serde(default)]
    pub thresholding: bool,
}

fn default_class() -> String {
    "DDIMScheduler".to_owned()
}
fn default_levels() -> usize {
    1000
}
fn default_beta_start() -> f64 {
    1e-4
}
fn default_beta_end() -> f64 {
    0.02
}
fn default_beta_schedule() -> BetaSchedule {
    BetaSchedule::Linear
}
fn one() -> f64 {
    1.0
}

impl SchedulerConfig {
    /// Reads the text of a `scheduler_config.json` and checks that every level is a usable number.
    ///
    /// # Errors
    /// [`SchedulerError::Config`] for broken text or values, [`SchedulerError::Unsupported`] for thresholding.
    pub fn from_json(text: &str) -> Result<Self, SchedulerError> {
        let config: Self =
            serde_json::from_str(text).map_err(|e| SchedulerError::Config(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// Stable Diffusion's schedule, which ModelScope and ZeroScope share: `scaled_linear` from 0.00085 to 0.012.
    pub fn stable_diffusion() -> Self {
        Self {
            class_name: default_class(),
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            trained_betas: None,
            prediction_type: PredictionType::Epsilon,
            timestep_spacing: TimestepSpacing::Leading,
            steps_offset: 1,
            set_alpha_to_one: Some(false),
            clip_sample: Some(false),
            clip_sample_range: 1.0,
            rescale_betas_zero_snr: false,
            thresholding: false,
        }
    }

    /// Whether the predicted clean sample is clamped. Default of the class where the file does not say.
    pub fn clips_sample(&self) -> bool {
        let by_class = matches!(
            self.class_name.as_str(),
            "DDIMScheduler" | "DDIMInverseScheduler" | "DDPMScheduler"
        );
        self.clip_sample.unwrap_or(by_class)
    }

    /// Whether the level before the first holds no noise. Default of the class where the file does not say.
    pub fn final_is_clean(&self) -> bool {
        self.set_alpha_to_one
            .unwrap_or(self.class_name != "PNDMScheduler")
    }

    fn check(&self) -> Result<(), SchedulerError> {
        let bad = |text: String| Err(SchedulerError::Config(text));
        if self.thresholding {
            return Err(SchedulerError::Unsupported(
                "dynamic thresholding".to_owned(),
            ));
        }
        // The upper bound only keeps a hostile file from asking for a table of gigabytes.
        if !(1..=100_000).contains(&self.num_train_timesteps) {
            return bad(format!(
                "num_train_timesteps is {}, expected 1 to 100000",
                self.num_train_timesteps
            ));
        }
        if let Some(betas) = &self.trained_betas
            && betas.len() != self.num_train_timesteps
        {
            return bad(format!(
                "trained_betas has {} values for {} levels",
                betas.len(),
                self.num_train_timesteps
            ));
        }
        let inside = |b: f64| b > 0.0 && b < 1.0;
        let given = self.trained_betas.iter().flatten().copied();
        if let Some(beta) = given
            .chain([self.beta_start, self.beta_end])
            .find(|&b| !inside(b))
        {
            return bad(format!(
                "a noise variance is {beta}, expected a number between 0 and 1"
            ));
        }
        if !(self.clip_sample_range.is_finite() && self.clip_sample_range > 0.0) {
            return bad(format!(
                "clip_sample_range is {}, expected a positive number",
                self.clip_sample_range
            ));
        }
        Ok(())
    }
}
