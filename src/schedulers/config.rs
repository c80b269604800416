//! `scheduler_config.json` of a diffusers folder.

use serde::{Deserialize, Serialize};

use super::schedule::NoiseSchedule;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Multiples of `T / n` rounded down, plus `steps_offset`.
    Leading,
    /// From the last level down in strides of `T / n`.
    Trailing,
    /// Evenly from the last level to the first, both included.
    Linspace,
}

/// The fields of `scheduler_config.json` that matter to DDIM and DPM-Solver++; unknown fields are ignored.
///
/// Files of other schedulers (PNDM, DDPM, Euler, UniPC) describe the same noise levels and are read as diffusers'
/// `from_config` does: what the file says holds for whichever scheduler is made of it, and what it leaves out gets the
/// default of the scheduler that is *made*, not of the one that wrote the file. So a file without `timestep_spacing` is
/// walked on the `leading` grid by DDIM and on the `linspace` grid by DPM-Solver++. One deviation: where the file of
/// another scheduler than DDIM or DDPM has no `clip_sample`, DDIM clips nothing, because only those two clip by default
/// and latents must not be clipped.
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
    /// How steps are laid over the levels; none is the default of the scheduler that is made.
    #[serde(default)]
    pub timestep_spacing: Option<TimestepSpacing>,
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
    /// What only DPM-Solver++ reads.
    #[serde(flatten)]
    pub solver: SolverConfig,
}

/// The fields that only DPM-Solver++ reads; DDIM ignores them, so a value that DPM-Solver++ refuses does not keep a file
/// from being read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SolverConfig {
    /// The solver's equations, `dpmsolver++` by default.
    pub algorithm_type: Option<String>,
    /// Variant of the second-order step, `midpoint` by default.
    pub solver_type: Option<String>,
    /// Order of the solver, 2 by default.
    pub solver_order: Option<usize>,
    /// Whether the last of fewer than 15 steps is of first order; true by default.
    pub lower_order_final: Option<bool>,
    /// Whether the last step is of first order however many there are; false by default.
    pub euler_at_final: Option<bool>,
    /// Where the last step ends: `zero`, without noise (the default), or `sigma_min`, at the first noise level. diffusers
    /// before 0.26 did not have the field and always ended at the first noise level.
    pub final_sigmas_type: Option<String>,
    /// Levels whose half log signal-to-noise ratio `ln(sqrt(abar) / sqrt(1 - abar))` is below this are left out; none is
    /// minus infinity.
    pub lambda_min_clipped: Option<f64>,
    /// Noise levels spaced as Karras and others do; refused where true.
    pub use_karras_sigmas: Option<bool>,
    /// Exponentially spaced noise levels; refused where true.
    pub use_exponential_sigmas: Option<bool>,
    /// Noise levels spaced by a beta distribution; refused where true.
    pub use_beta_sigmas: Option<bool>,
    /// Levels evenly spaced in log signal-to-noise ratio; refused where true.
    pub use_lu_lambdas: Option<bool>,
    /// Noise levels of flow matching; refused where true.
    pub use_flow_sigmas: Option<bool>,
}

impl SolverConfig {
    /// Refuses what this program's DPM-Solver++ does not do.
    ///
    /// Names that diffusers takes for another (`deis` for `dpmsolver++`; `logrho`, `bh1`, `bh2` for `midpoint`, as files
    /// of DEIS and UniPC have them) are taken so here.
    pub(super) fn check(&self) -> Result<(), SchedulerError> {
        let refuse = |what: String| Err(SchedulerError::Unsupported(what));
        for (asked, field) in [
            (self.use_karras_sigmas, "use_karras_sigmas"),
            (self.use_exponential_sigmas, "use_exponential_sigmas"),
            (self.use_beta_sigmas, "use_beta_sigmas"),
            (self.use_lu_lambdas, "use_lu_lambdas"),
            (self.use_flow_sigmas, "use_flow_sigmas"),
        ] {
            if asked == Some(true) {
                return refuse(format!("DPM-Solver++ with {field}"));
            }
        }
        if let Some(order) = self.solver_order
            && !(1..=2).contains(&order)
        {
            return refuse(format!("DPM-Solver++ with solver_order {order}"));
        }
        for (value, field, known) in [
            (
                &self.algorithm_type,
                "algorithm_type",
                &["dpmsolver++", "deis"][..],
            ),
            (
                &self.solver_type,
                "solver_type",
                &["midpoint", "logrho", "bh1", "bh2"][..],
            ),
            (
                &self.final_sigmas_type,
                "final_sigmas_type",
                &["zero", "sigma_min"][..],
            ),
        ] {
            if let Some(value) = value
                && !known.contains(&value.as_str())
            {
                return refuse(format!("DPM-Solver++ with {field} \"{value}\""));
            }
        }
        Ok(())
    }
}

/// Schedulers whose files describe noise levels by variances, as diffusers names them, without the word at their end. Others
/// (flow matching, VQ, consistency models) walk between other ends; read as this one their files would give nothing but noise.
const KNOWN_CLASSES: &[&str] = &[
    "DDIM",
    "DDIMInverse",
    "DDIMParallel",
    "DDPM",
    "DDPMParallel",
    "DEISMultistep",
    "DPMSolverMultistep",
    "DPMSolverMultistepInverse",
    "DPMSolverSDE",
    "DPMSolverSinglestep",
    "EulerAncestralDiscrete",
    "EulerDiscrete",
    "HeunDiscrete",
    "KDPM2AncestralDiscrete",
    "KDPM2Discrete",
    "LCM",
    "LMSDiscrete",
    "PNDM",
    "SASolver",
    "TCD",
    "UniPCMultistep",
];

/// What a parser says about a file, which may repeat any of its text: cut, and without what a terminal obeys.
fn said(error: &serde_json::Error) -> SchedulerError {
    const SHOWN: usize = 400;
    let letters = error.to_string();
    let plain = letters.chars().filter(|letter| !letter.is_control());
    SchedulerError::Config(plain.take(SHOWN).collect())
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
    /// Python writes an unbounded `lambda_min_clipped` as `-Infinity`, which is no JSON; it is read as not given, which
    /// means the same.
    ///
    /// # Errors
    /// [`SchedulerError::Config`] for broken text or values, [`SchedulerError::Unsupported`] for thresholding.
    pub fn from_json(text: &str) -> Result<Self, SchedulerError> {
        let config: Self =
            serde_json::from_str(&text.replace("-Infinity", "null")).map_err(|e| said(&e))?;
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
            timestep_spacing: None,
            steps_offset: 1,
            set_alpha_to_one: Some(false),
            clip_sample: Some(false),
            clip_sample_range: 1.0,
            rescale_betas_zero_snr: false,
            thresholding: false,
            solver: SolverConfig::default(),
        }
    }

    /// Whether DDIM clamps the predicted clean sample. Where the file does not say, DDIM's default holds for files of DDIM
    /// and DDPM only; see the type's own words.
    pub fn clips_sample(&self) -> bool {
        let by_class = matches!(
            self.class_name.as_str(),
            "DDIMScheduler" | "DDIMInverseScheduler" | "DDPMScheduler"
        );
        self.clip_sample.unwrap_or(by_class)
    }

    /// Whether the level before the first holds no noise for DDIM; its default is yes, whoever wrote the file.
    pub fn final_is_clean(&self) -> bool {
        self.set_alpha_to_one.unwrap_or(true)
    }

    /// Whether a training can tell the clean sample at every level below `end`: predicted noise says nothing about it where no
    /// signal is left, as at the last level of a file with `rescale_betas_zero_snr`.
    ///
    /// # Errors
    /// [`SchedulerError::Unsupported`] where it cannot.
    pub fn check_training(&self, end: u32) -> Result<(), SchedulerError> {
        let table = NoiseSchedule::new(self).alphas_cumprod;
        let last = table.get(..end as usize).unwrap_or(&table).last();
        if self.prediction_type == PredictionType::Epsilon && last.is_some_and(|&abar| abar <= 0.0)
        {
            let what = "a training by noise prediction at a level that holds no signal".to_owned();
            return Err(SchedulerError::Unsupported(what));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), SchedulerError> {
        let bad = |text: String| Err(SchedulerError::Config(text));
        let class = self.class_name.strip_suffix("Scheduler").unwrap_or("");
        if !KNOWN_CLASSES.contains(&class) {
            let shown: String = self
                .class_name
                .chars()
                .filter(|c| !c.is_control())
                .take(100)
                .collect();
            return Err(SchedulerError::Unsupported(format!(
                "the scheduler {shown}"
            )));
        }
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
