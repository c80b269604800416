//! The loops over noise levels.

use candle_core::{Result, Tensor};

use super::{OnStep, Sampled};
use crate::models::UNet3DConditionModel;
use crate::nn::no_grad;
use crate::schedulers::{Inversion, Sampler};

/// Embeddings of a prompt and of what to move away from, both `[1, n, d]`.
#[derive(Clone, Debug)]
pub struct GuidedText {
    /// The prompt.
    pub cond: Tensor,
    /// The empty or negative prompt.
    pub uncond: Tensor,
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
    unet: &UNet3DConditionModel,
    sampler: &Sampler,
    latents: Tensor,
    text: GuidedText,
    guidance: f64,
    on_step: OnStep<'_>,
) -> Result<Sampled> {
    let GuidedText { cond, uncond } = text;
    let guided = guidance > 1.0;
    let text = if guided {
        Tensor::cat(&[uncond, cond], 0)?
    } else {
        cond
    };
    let predict = |x: &Tensor, t: u32| {
        if !guided {
            return unet.forward(x, &[f64::from(t)], &text);
        }
        let both = unet.forward(&Tensor::cat(&[x, x], 0)?, &[f64::from(t)], &text)?;
        let (uncond, cond) = (both.narrow(0, 0, 1)?, both.narrow(0, 1, 1)?);
        &uncond + ((cond - &uncond)? * guidance)?
    };
    let mut run = sampler.begin();
    walk(
        latents,
        sampler.timesteps(),
        |x, t| run.step(&predict(x, t)?, t, x),
        on_step,
    )
}

/// Walks a clean clip up to noise, so that sampling from the result follows the clip's motion.
///
/// Shape: `latents [1, c, f, h, w]` in the scaled range of the autoencoder, `text [1, n, d]` (the empty prompt in the
/// reference); returns the shape of `latents`. No guidance. Source: spec "Schedulers", section 4.2.
///
/// # Errors
/// When shapes do not fit the network.
pub fn invert(
    unet: &UNet3DConditionModel,
    inversion: &Inversion,
    latents: Tensor,
    text: &Tensor,
    on_step: OnStep<'_>,
) -> Result<Sampled> {
    let step = |x: &Tensor, t: u32| inversion.step(&unet.forward(x, &[f64::from(t)], text)?, t, x);
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
