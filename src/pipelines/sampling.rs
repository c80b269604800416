//! The loops over noise levels.

use candle_core::{Result, Tensor};

use super::{OnStep, Sampled};
use crate::models::{Conditioning, Denoiser};
use crate::nn::no_grad;
use crate::schedulers::{Inversion, Sampler};

/// What leads a sample: embeddings of a prompt and of what to move away from, both `[1, n, d]`, and a clip to follow.
#[derive(Clone, Debug)]
pub struct GuidedText {
    /// The prompt.
    pub cond: Tensor,
    /// The empty or negative prompt.
    pub uncond: Tensor,
    /// The clip that steers a ControlNet, `[1, 3, f, h, w]` in 0 to 1, with the prompt and without.
    pub control: Option<Tensor>,
}

impl GuidedText {
    /// Words alone.
    #[must_use]
    pub fn new(cond: Tensor, uncond: Tensor) -> Self {
        Self {
            cond,
            uncond,
            control: None,
        }
    }
}

/// Samples a clip: a walk of `sampler` with classifier-free guidance.
///
/// Shape: `latents [1, c, f, h, w]`, standard normal noise or an inverted clip, at the first of the sampler's levels; the
/// result has the same shape and is in the scaled range of the autoencoder.
/// `e = e_uncond + guidance (e_cond - e_uncond)`; a `guidance` of 1 or less uses the prompt alone and costs half.
/// Source: spec "Schedulers", sections 4.1, 5 and 8.
///
/// # Errors
/// When shapes do not fit the network.
pub fn text_to_video(
    unet: &impl Denoiser,
    sampler: &Sampler,
    latents: Tensor,
    text: GuidedText,
    guidance: f64,
    on_step: OnStep<'_>,
) -> Result<Sampled> {
    let GuidedText {
        cond,
        uncond,
        control,
    } = text;
    let texts = (guidance > 1.0).then_some([&uncond, &cond]);
    let predict = |x: &Tensor, t: u32| {
        let t = f64::from(t);
        match texts {
            Some(texts) => predict_guided(unet, x, t, texts, control.as_ref(), guidance),
            None => {
                let seen = Conditioning {
                    text: &cond,
                    control: control.as_ref(),
                };
                unet.predict(x, &[t], seen)
            }
        }
    };
    let mut run = sampler.begin();
    walk(
        latents,
        sampler.timesteps(),
        |x, t| run.step(&predict(x, t)?, t, x),
        on_step,
    )
}

/// `e_uncond + guidance (e_cond - e_uncond)` at the noise level `t`, for the texts `[uncond, cond]`.
///
/// Shape: `x [1, c, f, h, w]`, texts `[1, n, d]`; returns that of `x`. A graphics card does both in one pass; the processor
/// one after the other, which takes half the memory and no more time.
///
/// # Errors
/// When shapes do not fit the network.
pub fn predict_guided(
    unet: &impl Denoiser,
    x: &Tensor,
    t: f64,
    texts: [&Tensor; 2],
    control: Option<&Tensor>,
    guidance: f64,
) -> Result<Tensor> {
    let predict = |x: &Tensor, text: &Tensor| unet.predict(x, &[t], Conditioning { text, control });
    let [uncond, cond] = if x.device().is_cpu() {
        let [uncond, cond] = texts;
        [predict(x, uncond)?, predict(x, cond)?]
    } else {
        let both = predict(&Tensor::cat(&[x, x], 0)?, &Tensor::cat(&texts, 0)?)?;
        [both.narrow(0, 0, 1)?, both.narrow(0, 1, 1)?]
    };
    &uncond + ((cond - &uncond)? * guidance)?
}

/// Walks a clean clip up to noise, so that sampling from the result follows the clip's motion.
///
/// Shape: `latents [1, c, f, h, w]` in the scaled range of the autoencoder; `seen` has the text `[1, n, d]` (the empty
/// prompt in most references); returns the shape of `latents`. No guidance. Source: spec "Schedulers", section 4.2.
///
/// # Errors
/// When shapes do not fit the network.
pub fn invert(
    unet: &impl Denoiser,
    inversion: &Inversion,
    latents: Tensor,
    seen: Conditioning<'_>,
    on_step: OnStep<'_>,
) -> Result<Sampled> {
    let step = |x: &Tensor, t: u32| inversion.step(&unet.predict(x, &[f64::from(t)], seen)?, t, x);
    walk(latents, inversion.timesteps(), step, on_step)
}

/// Moves `x` through all `timesteps` without recording gradients.
fn walk(
    mut x: Tensor,
    timesteps: &[u32],
    mut step: impl FnMut(&Tensor, u32) -> Result<Tensor>,
    on_step: OnStep<'_>,
) -> Result<Sampled> {
    no_grad(|| {
        for (i, &t) in timesteps.iter().enumerate() {
            x = step(&x, t)?;
            if on_step(i + 1, timesteps.len()).is_break() {
                return Ok(Sampled::Cancelled);
            }
        }
        Ok(Sampled::Done(x))
    })
}
