//! The table of noise levels and the conversions between noise, velocity and clean sample.

use candle_core::{Result, Tensor, bail};

use super::config::{BetaSchedule, PredictionType, SchedulerConfig};

/// Noise levels of a model: `abar[t]` is the share of signal variance left at timestep `t`.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    /// `abar`, cumulative product of `1 - beta`, from almost 1 down to almost 0.
    pub alphas_cumprod: Vec<f64>,
    /// What the network's output means.
    pub prediction: PredictionType,
}

impl NoiseSchedule {
    /// Builds the table. Source: spec section 1.
    pub fn new(config: &SchedulerConfig) -> Self {
        let mut alphas_cumprod = cumulative_product(betas(config).iter().map(|b| 1.0 - b));
        if config.rescale_betas_zero_snr {
            alphas_cumprod = zero_terminal_snr(&alphas_cumprod);
        }
        Self {
            alphas_cumprod,
            prediction: config.prediction_type,
        }
    }

    /// Number of noise levels.
    pub fn levels(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// `abar` at timestep `t`.
    ///
    /// # Errors
    /// When `t` is beyond the table.
    pub fn alpha_bar(&self, t: u32) -> Result<f64> {
        match self.alphas_cumprod.get(t as usize) {
            Some(&a) => Ok(a),
            None => bail!(
                "noise level {t} does not exist: this schedule has levels 0 to {}",
                self.levels() - 1
            ),
        }
    }

    /// Forward process: `x_t = sqrt(abar) x0 + sqrt(1 - abar) eps`.
    ///
    /// Shape: `x0`, `eps` are `[b, ..]`; `t` has one entry a batch element or a single one for all. Returns `[b, ..]`.
    /// Source: spec section 2.
    pub fn add_noise(&self, x0: &Tensor, eps: &Tensor, t: &[u32]) -> Result<Tensor> {
        self.mix(t, (x0, |a| a.sqrt()), (eps, |a| (1.0 - a).sqrt()))
    }

    /// Velocity target `sqrt(abar) eps - sqrt(1 - abar) x0`; shapes as [`Self::add_noise`].
    pub fn velocity(&self, x0: &Tensor, eps: &Tensor, t: &[u32]) -> Result<Tensor> {
        self.mix(t, (eps, |a| a.sqrt()), (x0, |a| -(1.0 - a).sqrt()))
    }

    /// What a network of this kind should say: the noise, the velocity or the clean sample; shapes as [`Self::add_noise`].
    pub fn target(&self, x0: &Tensor, eps: &Tensor, t: &[u32]) -> Result<Tensor> {
        match self.prediction {
            PredictionType::Epsilon => Ok(eps.clone()),
            PredictionType::Velocity => self.velocity(x0, eps, t),
            PredictionType::Sample => Ok(x0.clone()),
        }
    }

    /// Clean sample told by the network's output `out` at `x_t` (Tweedie's formula for noise prediction).
    ///
    /// Shapes as [`Self::add_noise`]. Differentiable with respect to `out` and `x_t`.
    pub fn predict_x0(&self, x_t: &Tensor, out: &Tensor, t: &[u32]) -> Result<Tensor> {
        match self.prediction {
            PredictionType::Epsilon => self.mix(
                t,
                (x_t, |a| a.sqrt().recip()),
                (out, |a| -((1.0 - a) / a).sqrt()),
            ),
            PredictionType::Velocity => {
                self.mix(t, (x_t, |a| a.sqrt()), (out, |a| -(1.0 - a).sqrt()))
            }
            PredictionType::Sample => Ok(out.clone()),
        }
    }

    /// Noise told by the network's output `out` at `x_t`; shapes as [`Self::add_noise`].
    pub fn predict_eps(&self, x_t: &Tensor, out: &Tensor, t: &[u32]) -> Result<Tensor> {
        match self.prediction {
            PredictionType::Epsilon => Ok(out.clone()),
            PredictionType::Velocity => {
                self.mix(t, (out, |a| a.sqrt()), (x_t, |a| (1.0 - a).sqrt()))
            }
            PredictionType::Sample => self.mix(
                t,
                (x_t, |a| (1.0 - a).sqrt().recip()),
                (out, |a| -(a / (1.0 - a)).sqrt()),
            ),
        }
    }

    /// `f(abar_t) x + g(abar_t) y`, with one level a batch element.
    fn mix(
        &self,
        t: &[u32],
        x: (&Tensor, fn(f64) -> f64),
        y: (&Tensor, fn(f64) -> f64),
    ) -> Result<Tensor> {
        let alphas = t
            .iter()
            .map(|&t| self.alpha_bar(t))
            .collect::<Result<Vec<_>>>()?;
        scale(x.0, &alphas, x.1)? + scale(y.0, &alphas, y.1)?
    }
}

/// `x` times `f(abar)` of its batch element.
fn scale(x: &Tensor, alphas: &[f64], f: fn(f64) -> f64) -> Result<Tensor> {
    match alphas {
        // A plain scalar where all levels are equal: no broadcast, and no gradient for the factor.
        [first, rest @ ..] if rest.iter().all(|a| a == first) => x.affine(f(*first), 0.0),
        _ if alphas.len() == x.dim(0)? => {
            let factors: Vec<f64> = alphas.iter().map(|&a| f(a)).collect();
            let mut dims = vec![1; x.rank()];
            dims[0] = factors.len();
            x.broadcast_mul(&Tensor::from_vec(factors, dims, x.device())?.to_dtype(x.dtype())?)
        }
        _ => bail!(
            "{} noise levels for a batch of shape {:?}",
            alphas.len(),
            x.shape()
        ),
    }
}

fn betas(config: &SchedulerConfig) -> Vec<f64> {
    if let Some(betas) = &config.trained_betas {
        return betas.clone();
    }
    let levels = config.num_train_timesteps;
    let (start, end) = (config.beta_start, config.beta_end);
    match config.beta_schedule {
        BetaSchedule::Linear => linspace(start, end, levels),
        BetaSchedule::ScaledLinear => linspace(start.sqrt(), end.sqrt(), levels)
            .iter()
            .map(|b| b * b)
            .collect(),
        BetaSchedule::SquaredcosCapV2 => {
            let signal = |s: f64| {
                ((s + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2)
                    .cos()
                    .powi(2)
            };
            let level = |i: usize| i as f64 / levels as f64;
            (0..levels)
                .map(|i| (1.0 - signal(level(i + 1)) / signal(level(i))).min(0.999))
                .collect()
        }
    }
}

/// `n` evenly spaced numbers from `start` to `end`, both included.
fn linspace(start: f64, end: f64, n: usize) -> Vec<f64> {
    let last = (n.max(2) - 1) as f64;
    (0..n)
        .map(|i| start + (end - start) * (i as f64 / last))
        .collect()
}

/// `intervals + 1` levels evenly spaced from `top` down to 0, both included; no interval is level 0 alone.
///
/// Product and rounding as numpy's `linspace` and `round` do them, because ties fall to either side otherwise.
pub(super) fn evenly(top: usize, intervals: usize) -> impl Iterator<Item = usize> {
    let stride = top as f64 / intervals.max(1) as f64;
    (0..=intervals)
        .rev()
        .map(move |i| rounded(i as f64 * stride))
}

/// The nearest level, ties to the even one, 0 for anything below.
pub(super) fn rounded(x: f64) -> usize {
    x.round_ties_even() as usize
}

fn cumulative_product(factors: impl Iterator<Item = f64>) -> Vec<f64> {
    factors
        .scan(1.0, |product, f| {
            *product *= f;
            Some(*product)
        })
        .collect()
}

/// Shifts and scales `sqrt(abar)` so that the first level stays and the last holds no signal.
/// Source: Lin et al. 2023 (arXiv 2305.08891), algorithm 1; spec section 2.
fn zero_terminal_snr(alphas_cumprod: &[f64]) -> Vec<f64> {
    let (Some(&first), Some(&last)) = (alphas_cumprod.first(), alphas_cumprod.last()) else {
        return Vec::new();
    };
    let (first, last) = (first.sqrt(), last.sqrt());
    alphas_cumprod
        .iter()
        .map(|a| ((a.sqrt() - last) * first / (first - last)).powi(2))
        .collect()
}
