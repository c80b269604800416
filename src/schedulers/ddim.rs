//! Deterministic DDIM sampling (eta 0) and its inversion.

use candle_core::{Result, Tensor, bail};

use super::config::{PredictionType, SchedulerConfig, SchedulerError, TimestepSpacing};
use super::schedule::{NoiseSchedule, evenly, rounded};

/// What sampling and inversion share: the table, the level before the first, the stride and the clamp.
#[derive(Clone, Debug)]
struct Grid {
    schedule: NoiseSchedule,
    timesteps: Vec<u32>,
    /// Distance between a timestep and the one it comes from or goes to (`T / steps`, rounded down).
    stride: i64,
    /// `abar` before the first level.
    alpha_before_first: f64,
    clip: Option<f64>,
}

impl Grid {
    /// Timesteps in descending order, `leading` where the configuration does not say. Source: spec section 3.
    fn new(config: &SchedulerConfig, steps: usize) -> std::result::Result<Self, SchedulerError> {
        let levels = config.num_train_timesteps;
        if steps == 0 || steps > levels {
            return Err(SchedulerError::Steps { steps, levels });
        }
        let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Leading);
        let timesteps: Vec<usize> = match spacing {
            TimestepSpacing::Leading => (0..steps)
                .rev()
                .map(|i| (i * (levels / steps)).saturating_add(config.steps_offset))
                .collect(),
            TimestepSpacing::Trailing => {
                let stride = levels as f64 / steps as f64;
                // numpy rounds half to even; every value is at least stride >= 1, so the subtraction is safe
                (0..steps)
                    .map(|i| rounded(levels as f64 - i as f64 * stride) - 1)
                    .collect()
            }
            TimestepSpacing::Linspace => evenly(levels - 1, steps - 1).collect(),
        };
        if let Some(&timestep) = timesteps.iter().find(|&&t| t >= levels) {
            let offset = config.steps_offset;
            return Err(SchedulerError::Grid {
                steps,
                offset,
                timestep,
                last: levels - 1,
            });
        }
        let schedule = NoiseSchedule::new(config);
        Ok(Self {
            alpha_before_first: if config.final_is_clean() {
                1.0
            } else {
                schedule.alphas_cumprod[0]
            },
            schedule,
            timesteps: timesteps.into_iter().map(|t| t as u32).collect(),
            stride: (levels / steps) as i64,
            clip: config.clips_sample().then_some(config.clip_sample_range),
        })
    }

    /// `abar` one stride below `t`.
    fn alpha_below(&self, t: u32) -> Result<f64> {
        match u32::try_from(i64::from(t) - self.stride) {
            Ok(below) => self.schedule.alpha_bar(below),
            Err(_) => Ok(self.alpha_before_first),
        }
    }

    /// Moves `x` from level `from` to level `to` along the direction the network's output tells.
    ///
    /// `x0` and `eps` follow from the output by the prediction type, `x0` is clamped where the model asks for it, and
    /// the result is `sqrt(to) x0 + sqrt(1 - to) eps`. Source: spec 4.1 with eta 0 (Song et al., equation 12).
    fn travel(&self, out: &Tensor, x: &Tensor, from: f64, to: f64) -> Result<Tensor> {
        if out.dims() != x.dims() {
            bail!(
                "the model's output {:?} does not fit the sample {:?}",
                out.shape(),
                x.shape()
            );
        }
        // A schedule of this one level, so that the conversions are written once.
        let level = NoiseSchedule {
            alphas_cumprod: vec![from],
            prediction: self.schedule.prediction,
        };
        let mut x0 = level.predict_x0(x, out, &[0])?;
        let eps = level.predict_eps(x, out, &[0])?;
        if let Some(range) = self.clip {
            x0 = x0.clamp(-range, range)?;
        }
        (x0 * to.sqrt())? + (eps * (1.0 - to).sqrt())?
    }
}

/// DDIM sampling: from noise to sample.
#[derive(Clone, Debug)]
pub struct Ddim(Grid);

impl Ddim {
    /// Lays `steps` steps over the levels of `config`.
    ///
    /// # Errors
    /// When `steps` is 0 or more than the levels, the grid leaves the table, or a network that predicts noise would have
    /// to tell the clean sample at a level without any signal.
    pub fn new(
        config: &SchedulerConfig,
        steps: usize,
    ) -> std::result::Result<Self, SchedulerError> {
        let grid = Grid::new(config, steps)?;
        let silent = |t: &u32| grid.schedule.alphas_cumprod[*t as usize] <= 0.0;
        if config.prediction_type == PredictionType::Epsilon && grid.timesteps.iter().any(silent) {
            let what = "noise prediction from a level that holds no signal".to_owned();
            return Err(SchedulerError::Unsupported(what));
        }
        Ok(Self(grid))
    }

    /// Timesteps in sampling order, from the noisiest down.
    pub fn timesteps(&self) -> &[u32] {
        &self.0.timesteps
    }

    /// The noise levels.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.0.schedule
    }

    /// One step: the sample one stride below `t`.
    ///
    /// Shape: `out` (the network's output at `x` and `t`) and `x` are equal, for example `[b, c, f, h, w]`.
    /// Source: spec 4.1.
    pub fn step(&self, out: &Tensor, t: u32, x: &Tensor) -> Result<Tensor> {
        self.0.travel(
            out,
            x,
            self.0.schedule.alpha_bar(t)?,
            self.0.alpha_below(t)?,
        )
    }
}

/// DDIM inversion as diffusers' `DDIMInverseScheduler` does it: from sample to noise.
#[derive(Clone, Debug)]
pub struct DdimInverse(Grid);

impl DdimInverse {
    /// Lays `steps` steps over the levels of `config`.
    ///
    /// # Errors
    /// As [`Ddim::new`]; `linspace` grids have no inversion in diffusers and are refused.
    pub fn new(
        config: &SchedulerConfig,
        steps: usize,
    ) -> std::result::Result<Self, SchedulerError> {
        if config.timestep_spacing == Some(TimestepSpacing::Linspace) {
            let what = "inversion on a linspace grid (use the reference inversion)".to_owned();
            return Err(SchedulerError::Unsupported(what));
        }
        let mut grid = Grid::new(config, steps)?;
        grid.timesteps.reverse();
        Ok(Self(grid))
    }

    /// Timesteps in inversion order, from the cleanest up.
    pub fn timesteps(&self) -> &[u32] {
        &self.0.timesteps
    }

    /// One step: the sample at level `t`, from `x` one stride below it. `out` is the network's output at `x` and `t`.
    pub fn step(&self, out: &Tensor, t: u32, x: &Tensor) -> Result<Tensor> {
        self.0.travel(
            out,
            x,
            self.0.alpha_below(t)?,
            self.0.schedule.alpha_bar(t)?,
        )
    }
}

/// DDIM inversion as the loop of VMC, MotionDirector, Tune-A-Video and ControlVideo does it.
///
/// It walks the sampling grid backwards, whatever its spacing, and never clamps the clean sample; the network is told
/// the *next* level `t` while the sample still is at the level below. Source: spec 4.2.
#[derive(Clone, Debug)]
pub struct ReferenceInversion(Grid);

impl ReferenceInversion {
    /// Lays `steps` steps over the levels of `config`.
    ///
    /// # Errors
    /// As [`Ddim::new`].
    pub fn new(
        config: &SchedulerConfig,
        steps: usize,
    ) -> std::result::Result<Self, SchedulerError> {
        let mut grid = Grid::new(config, steps)?;
        grid.timesteps.reverse();
        grid.clip = None;
        // The first step begins at the level before the grid's lowest.
        let first = grid.timesteps.first().map(|&t| grid.alpha_below(t));
        if config.prediction_type == PredictionType::Sample
            && first.is_some_and(|alpha| alpha.is_ok_and(|alpha| alpha >= 1.0))
        {
            let what = "inversion from a level without noise by a network that predicts the sample, which cannot tell the noise there".to_owned();
            return Err(SchedulerError::Unsupported(what));
        }
        Ok(Self(grid))
    }

    /// Timesteps in inversion order, from the cleanest up.
    pub fn timesteps(&self) -> &[u32] {
        &self.0.timesteps
    }

    /// One step: the sample at level `t`, from `x` one stride below it. `out` is the network's output at `x` and `t`.
    pub fn step(&self, out: &Tensor, t: u32, x: &Tensor) -> Result<Tensor> {
        self.0.travel(
            out,
            x,
            self.0.alpha_below(t)?,
            self.0.schedule.alpha_bar(t)?,
        )
    }
}

/// Either way to invert.
#[derive(Clone, Debug)]
pub enum Inversion {
    /// diffusers' scheduler.
    Diffusers(DdimInverse),
    /// The methods' own loop.
    Reference(ReferenceInversion),
}

impl Inversion {
    /// Timesteps in inversion order.
    pub fn timesteps(&self) -> &[u32] {
        match self {
            Self::Diffusers(inverse) => inverse.timesteps(),
            Self::Reference(inverse) => inverse.timesteps(),
        }
    }

    /// One step up to level `t`; see [`DdimInverse::step`].
    pub fn step(&self, out: &Tensor, t: u32, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Diffusers(inverse) => inverse.step(out, t, x),
            Self::Reference(inverse) => inverse.step(out, t, x),
        }
    }
}
