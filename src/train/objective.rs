//! The loss of one training step: host loss + λg · global + λl · local.

use candle_core::{DType, Result, Tensor};

use super::config::TransferConfig;
use crate::methods::{Method, motion_director, tune_a_video, vmc};
use crate::models::{Conditioning, Denoiser};
use crate::nn::Tape;
use crate::schedulers::NoiseSchedule;
use crate::spectral::loss::{CosineAxis, GlobalTerms, LocalTerms, Residual, SpectralLoss};

/// What one step sees.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Clean clip `[b, c, f, h, w]`: latents times the VAE's scaling factor, f32.
    pub v0: Tensor,
    /// Gaussian noise of the same shape.
    pub eps: Tensor,
    /// One diffusion timestep for each clip of the batch.
    pub t: Vec<u32>,
    /// Text embeddings `[b, n, d]`.
    pub text: Tensor,
    /// The clip that steers the ControlNet, `[b, 3, f, h, w]` in 0 to 1, for a method that has one.
    pub control: Option<Tensor>,
    /// The frame that MotionDirector's loss takes the others relative to; other methods do not read it.
    pub anchor: usize,
}

impl Batch {
    /// What the network sees beside the noisy clip.
    fn seen(&self) -> Conditioning<'_> {
        Conditioning {
            text: &self.text,
            control: self.control.as_ref(),
        }
    }
}

/// The scalars of one step, each with its graph where it has a weight above 0.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The method's own loss.
    pub base: Tensor,
    /// Wavelet terms, coarse approximation first, then details from the finest; unweighted.
    pub bands: Vec<Tensor>,
    /// Weighted sum of the bands.
    pub global: Tensor,
    /// Fourier amplitude term.
    pub amplitude: Tensor,
    /// Fourier phase term.
    pub phase: Tensor,
    /// What is minimised.
    pub total: Tensor,
}

/// How the terms are computed and weighed.
pub struct Objective {
    method: Method,
    residual: Residual,
    axis: CosineAxis,
    schedule: NoiseSchedule,
    spectral: SpectralLoss,
    shape: [usize; 3],
    /// λg, weight of the global term.
    pub lambda_g: f64,
    /// λl, weight of the local term.
    pub lambda_l: f64,
}

impl Objective {
    /// For clips like `v0`, `[b, c, f, h, w]`.
    ///
    /// # Errors
    /// When the clip has fewer than two frames or the settings do not fit it.
    pub fn new(config: &TransferConfig, schedule: NoiseSchedule, v0: &Tensor) -> Result<Self> {
        let (_, _, frames, height, width) = v0.dims5()?;
        let spectral = SpectralLoss::new(
            &config.motion_loss(frames, config.delta),
            frames,
            height,
            width,
            DType::F32,
            v0.device(),
        )?;
        Ok(Self {
            method: config.method,
            residual: config.residual,
            axis: config.cosine_axis,
            schedule,
            spectral,
            shape: [frames, height, width],
            lambda_g: config.lambda_g,
            lambda_l: config.lambda_l,
        })
    }

    /// Replaces the frequency weights by those of another δ.
    ///
    /// # Errors
    /// When `delta` is not a finite number of at least 0.
    pub fn set_delta(
        &mut self,
        config: &TransferConfig,
        delta: f64,
        device: &candle_core::Device,
    ) -> Result<()> {
        let [frames, height, width] = self.shape;
        let motion = config.motion_loss(frames, delta);
        self.spectral = SpectralLoss::new(&motion, frames, height, width, DType::F32, device)?;
        Ok(())
    }

    /// The noise schedule of the training.
    #[must_use]
    pub fn schedule(&self) -> &NoiseSchedule {
        &self.schedule
    }
}

/// The loss of MotionDirector's spatial pass on frame `frame` of a batch; pure. It has no spectral terms: one frame has
/// no motion.
///
/// The gradients are asked of `tape`.
///
/// # Errors
/// When shapes do not fit the network or there is no such frame.
pub fn spatial_loss<'a>(
    unet: &'a impl Denoiser,
    tape: &mut Tape<'a>,
    batch: &Batch,
    frame: usize,
    schedule: &NoiseSchedule,
) -> Result<Tensor> {
    let (v0, eps) = (
        batch.v0.narrow(2, frame, 1)?,
        batch.eps.narrow(2, frame, 1)?,
    );
    let v_t = schedule.add_noise(&v0, &eps, &batch.t)?;
    let t: Vec<f64> = batch.t.iter().map(|t| f64::from(*t)).collect();
    let out = unet
        .predict_on(tape, &v_t, &t, batch.seen())?
        .to_dtype(DType::F32)?;
    motion_director::spatial_loss(&out, &schedule.target(&v0, &eps, &batch.t)?)
}

/// The loss terms of one batch; pure. The gradients are asked of `tape`.
///
/// Everything after the network is f32: the reference rounds x_t to half precision, which Tweedie's formula multiplies by
/// `1 / sqrt(abar_t)`.
///
/// Source: Spectral Motion Alignment (arXiv 2403.15249), equation 21: `L_align + λg L_global + λl L_local`, on the
/// one-step (Tweedie) estimate of the clean clip.
///
/// # Errors
/// When shapes do not fit the network.
pub fn losses<'a>(
    unet: &'a impl Denoiser,
    tape: &mut Tape<'a>,
    batch: &Batch,
    objective: &Objective,
) -> Result<Terms> {
    let v_t = objective
        .schedule
        .add_noise(&batch.v0, &batch.eps, &batch.t)?;
    let t: Vec<f64> = batch.t.iter().map(|t| f64::from(*t)).collect();
    let out = unet
        .predict_on(tape, &v_t, &t, batch.seen())?
        .to_dtype(DType::F32)?;
    let eps_hat = objective.schedule.predict_eps(&v_t, &out, &batch.t)?;
    let v0_hat = objective.schedule.predict_x0(&v_t, &out, &batch.t)?;
    let base = match objective.method {
        Method::Vmc => vmc::base_loss(&eps_hat, &batch.eps, objective.residual, objective.axis)?,
        Method::MotionDirector => {
            let target = objective.schedule.target(&batch.v0, &batch.eps, &batch.t)?;
            motion_director::base_loss(&out, &target, batch.anchor)?
        }
        Method::TuneAVideo | Method::ControlVideo => {
            let target = objective.schedule.target(&batch.v0, &batch.eps, &batch.t)?;
            tune_a_video::base_loss(&out, &target)?
        }
    };

    // A term without weight is still reported, but must cost no gradient (and 0 · NaN would be NaN).
    let seen = |lambda: f64| {
        if lambda > 0.0 {
            v0_hat.clone()
        } else {
            v0_hat.detach()
        }
    };
    let GlobalTerms {
        bands,
        total: global,
    } = objective
        .spectral
        .global(&batch.v0, &seen(objective.lambda_g))?;
    let LocalTerms { amplitude, phase } = objective
        .spectral
        .local(&batch.v0, &seen(objective.lambda_l))?;
    let mut total = base.clone();
    if objective.lambda_g > 0.0 {
        total = total.add(&global.affine(objective.lambda_g, 0.0)?)?;
    }
    if objective.lambda_l > 0.0 {
        total = total.add(&amplitude.add(&phase)?.affine(objective.lambda_l, 0.0)?)?;
    }
    Ok(Terms {
        base,
        bands,
        global,
        amplitude,
        phase,
        total,
    })
}
