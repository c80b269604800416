//! DPM-Solver++ sampling: multistep, of second order.

use candle_core::{Result, Tensor, bail};

use super::config::{SchedulerConfig, SchedulerError, TimestepSpacing};
use super::schedule::{NoiseSchedule, evenly, rounded};

/// `abar` of the last level where the schedule leaves it no signal: a clean sample cannot be told from none.
/// Source: diffusers, `DPMSolverMultistepScheduler` with `rescale_betas_zero_snr`.
const FAINTEST_SIGNAL: f64 = 1.0 / (1 << 24) as f64;
/// Fewer steps than this end with a step of first order. Source: diffusers, `lower_order_final`.
const FEW_STEPS: usize = 15;

/// DPM-Solver++ of second order (2M, midpoint): from noise to sample.
///
/// Each step draws a line through the clean samples told at this level and the one before; the first step has only one of
/// them and is DDIM's, and so is the last one where it ends without noise. Where the last step ends is the file's
/// `final_sigmas_type`. Nothing is clamped.
///
/// Source: Lu et al. 2022 (arXiv 2211.01095), algorithm 2; spec section 5.
#[derive(Clone, Debug)]
pub struct DpmSolver {
    schedule: NoiseSchedule,
    timesteps: Vec<u32>,
    steps: Vec<Step>,
}

/// The numbers of one step, `keep x + gain (m + slope (m - before))`, with `m` the clean sample.
///
/// The equations' `alpha_u (exp(-h) - 1)` is written without `h`, so that a level without noise needs no case of its own.
#[derive(Clone, Copy, Debug)]
struct Step {
    keep: f64,
    gain: f64,
    /// None for a step of first order.
    slope: Option<f64>,
}

impl DpmSolver {
    /// Lays `steps` steps over the levels of `config`, on the `linspace` grid where it does not say. The `trailing` grid
    /// may have fewer where `lambda_min_clipped` leaves levels out.
    ///
    /// # Errors
    /// [`SchedulerError::Unsupported`] for another solver than this one, [`SchedulerError::Steps`] or
    /// [`SchedulerError::Grid`] when the steps do not fit the levels, [`SchedulerError::Config`] when a level holds no
    /// noise.
    pub fn new(
        config: &SchedulerConfig,
        steps: usize,
    ) -> std::result::Result<Self, SchedulerError> {
        config.solver.check()?;
        let schedule = levels(config);
        let lowest = config
            .solver
            .lambda_min_clipped
            .unwrap_or(f64::NEG_INFINITY);
        let alphas = schedule.alphas_cumprod.iter();
        let usable = alphas.filter(|a| half_log_snr(**a) >= lowest).count();
        let spacing = config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace);
        let most = match spacing {
            TimestepSpacing::Trailing if usable > 0 => schedule.levels(),
            _ => usable.saturating_sub(1),
        };
        check_steps(steps, most)?;
        let timesteps: Vec<usize> = match spacing {
            TimestepSpacing::Linspace => evenly(usable - 1, steps).take(steps).collect(),
            TimestepSpacing::Leading => {
                let stride = usable / (steps + 1);
                (1..=steps)
                    .rev()
                    .map(|i| (i * stride).saturating_add(config.steps_offset))
                    .collect()
            }
            TimestepSpacing::Trailing => {
                let stride = schedule.levels() as f64 / steps as f64;
                (0..steps)
                    .map(|i| rounded(usable as f64 - i as f64 * stride))
                    .take_while(|&above| above > 0)
                    .map(|above| above - 1)
                    .collect()
            }
        };
        Self::over(config, schedule, timesteps)
    }

    /// Lays `steps` steps evenly from `level` down, for a sample that is at that level already, such as an inverted clip.
    ///
    /// Neither the spacing nor `lambda_min_clipped` of `config` matters: both say where fresh noise begins.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_level(
        config: &SchedulerConfig,
        steps: usize,
        level: u32,
    ) -> std::result::Result<Self, SchedulerError> {
        config.solver.check()?;
        check_steps(steps, level as usize)?;
        let timesteps = evenly(level as usize, steps).take(steps).collect();
        Self::over(config, levels(config), timesteps)
    }

    /// The numbers of every step over strictly descending `timesteps`.
    fn over(
        config: &SchedulerConfig,
        schedule: NoiseSchedule,
        timesteps: Vec<usize>,
    ) -> std::result::Result<Self, SchedulerError> {
        let solver = &config.solver;
        let count = timesteps.len();
        let ends_clean = solver.final_sigmas_type.as_deref() != Some("sigma_min");
        let mut alphas = Vec::with_capacity(count + 1);
        for &timestep in &timesteps {
            match schedule.alphas_cumprod.get(timestep) {
                Some(&a) if a > 0.0 && a < 1.0 => alphas.push(a),
                Some(a) => {
                    return Err(SchedulerError::Config(format!(
                        "noise level {timestep} has a share of {a} of the signal, expected a number between 0 and 1"
                    )));
                }
                None => {
                    return Err(SchedulerError::Grid {
                        steps: count,
                        offset: config.steps_offset,
                        timestep,
                        last: schedule.levels() - 1,
                    });
                }
            }
        }
        alphas.push(if ends_clean {
            1.0
        } else {
            schedule.alphas_cumprod[0]
        });
        let euler = solver.euler_at_final == Some(true)
            || solver.lower_order_final != Some(false) && count < FEW_STEPS;
        let steps = (0..count)
            .map(|i| {
                let (from, to) = (alphas[i], alphas[i + 1]);
                let first_order = i == 0
                    || solver.solver_order == Some(1)
                    || i + 1 == count && (euler || to >= 1.0);
                let keep = ((1.0 - to) / (1.0 - from)).sqrt();
                let slope = || {
                    let here = half_log_snr(from);
                    0.5 * (half_log_snr(to) - here) / (here - half_log_snr(alphas[i - 1]))
                };
                Step {
                    keep,
                    gain: to.sqrt() - from.sqrt() * keep,
                    // Levels that a schedule of its own numbers puts on top of each other have no line through them.
                    slope: (!first_order).then(slope).filter(|s| s.is_finite()),
                }
            })
            .collect();
        Ok(Self {
            schedule,
            timesteps: timesteps.into_iter().map(|t| t as u32).collect(),
            steps,
        })
    }

    /// Timesteps in sampling order, from the noisiest down.
    pub fn timesteps(&self) -> &[u32] {
        &self.timesteps
    }

    /// The noise levels.
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }

    /// One step: the sample at the level that follows `t`, and the clean sample told at `t`, which the next step takes as
    /// `before`. Without it a step is of first order.
    ///
    /// Shape: `out` (the network's output at `x` and `t`), `x`, `before` and both results are equal, for example
    /// `[b, c, f, h, w]`. Source: spec section 5.
    ///
    /// # Errors
    /// When the shapes differ or `t` is none of the timesteps.
    pub fn step(
        &self,
        out: &Tensor,
        t: u32,
        x: &Tensor,
        before: Option<&Tensor>,
    ) -> Result<(Tensor, Tensor)> {
        if out.dims() != x.dims() {
            bail!(
                "the model's output {:?} does not fit the sample {:?}",
                out.shape(),
                x.shape()
            );
        }
        let Some(i) = self.timesteps.iter().position(|&known| known == t) else {
            bail!("noise level {t} is none of this sampler's steps");
        };
        let Step { keep, gain, slope } = self.steps[i];
        let clean = self.schedule.predict_x0(x, out, &[t])?;
        let line = match (before, slope) {
            (Some(before), Some(slope)) => clean.add(&clean.sub(before)?.affine(slope, 0.0)?)?,
            _ => clean.clone(),
        };
        let next = x.affine(keep, 0.0)?.add(&line.affine(gain, 0.0)?)?;
        Ok((next, clean))
    }
}

/// The schedule's levels, the last one with a trace of signal at least.
fn levels(config: &SchedulerConfig) -> NoiseSchedule {
    let mut schedule = NoiseSchedule::new(config);
    if config.rescale_betas_zero_snr
        && let Some(last) = schedule.alphas_cumprod.last_mut()
    {
        *last = FAINTEST_SIGNAL;
    }
    schedule
}

/// λ, half the logarithm of the signal-to-noise ratio: `ln(sqrt(abar) / sqrt(1 - abar))`.
fn half_log_snr(abar: f64) -> f64 {
    0.5 * (abar / (1.0 - abar)).ln()
}

fn check_steps(steps: usize, most: usize) -> std::result::Result<(), SchedulerError> {
    if (1..=most).contains(&steps) {
        Ok(())
    } else {
        let levels = most;
        Err(SchedulerError::Steps { steps, levels })
    }
}
