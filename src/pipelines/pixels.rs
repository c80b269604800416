//! Frames to latents and back.

use candle_core::{DType, Device, Result, Tensor};

use super::{OnStep, Sampled};
use crate::models::AutoencoderKL;
use crate::nn;
use crate::video::Frame;

/// Frames that pass the autoencoder at once; it bounds the memory of large frames.
const FRAMES_AT_ONCE: usize = 4;

/// The latents of a clip: the posterior's mean times the VAE's scaling factor.
///
/// Shape: frames of equal size; returns `[1, c, f, h, w]` in f32.
///
/// The references draw from the posterior. Its deviation is far below the latents' own, and the mean makes a run
/// independent of how often it was encoded.
///
/// # Errors
/// When frames differ in size or do not fit the network.
pub fn encode_clip(
    vae: &AutoencoderKL,
    frames: &[Frame],
    device: &Device,
    on_frame: OnStep<'_>,
) -> Result<Sampled<Tensor>> {
    nn::no_grad(|| {
        let (mut latents, mut done) = (Vec::new(), 0);
        for some in frames.chunks(FRAMES_AT_ONCE) {
            let images = some.iter().map(|frame| image_from_frame(frame, device));
            let images = Tensor::stack(&images.collect::<Result<Vec<_>>>()?, 0)?;
            latents.push(vae.encode(&images)?.mean.to_dtype(DType::F32)?);
            done += some.len();
            if on_frame(done, frames.len()).is_break() {
                return Ok(Sampled::Cancelled);
            }
        }
        let latents = Tensor::cat(&latents, 0)?.affine(vae.config().scaling_factor, 0.0)?;
        let latents = latents.transpose(0, 1)?.unsqueeze(0)?.contiguous()?;
        Ok(Sampled::Done(latents))
    })
}

/// The frames of latents, a few at a time.
///
/// Shape: `latents` `[1, c, f, h, w]` times the VAE's scaling factor.
///
/// # Errors
/// When the latents do not fit the network.
pub fn decode_latents(
    vae: &AutoencoderKL,
    latents: &Tensor,
    on_frame: OnStep<'_>,
) -> Result<Sampled<Vec<Frame>>> {
    nn::no_grad(|| {
        let latents = latents.squeeze(0)?.transpose(0, 1)?.contiguous()?;
        let latents = latents.affine(1.0 / vae.config().scaling_factor, 0.0)?;
        let total = latents.dim(0)?;
        let mut frames = Vec::with_capacity(total);
        while frames.len() < total {
            let count = FRAMES_AT_ONCE.min(total - frames.len());
            let images = vae.decode(&latents.narrow(0, frames.len(), count)?)?;
            for index in 0..count {
                frames.push(frame_from_image(&images.get(index)?)?);
            }
            if on_frame(frames.len(), total).is_break() {
                return Ok(Sampled::Cancelled);
            }
        }
        Ok(Sampled::Done(frames))
    })
}

/// A clip that steers a ControlNet.
///
/// Shape: frames of equal size; returns `[1, 3, f, h, w]` in f32.
/// Range: 0 to 1.
///
/// # Errors
/// When there is no frame or frames differ in size.
pub fn control_from_frames(frames: &[Frame], device: &Device) -> Result<Tensor> {
    let images = frames.iter().map(|frame| image_from_frame(frame, device));
    Tensor::stack(&images.collect::<Result<Vec<_>>>()?, 1)?
        .affine(0.5, 0.5)?
        .unsqueeze(0)
}

/// `[3, h, w]` in -1..=1.
fn image_from_frame(frame: &Frame, device: &Device) -> Result<Tensor> {
    let shape = (frame.height as usize, frame.width as usize, 3);
    let values: Vec<f32> = frame
        .rgb
        .iter()
        .map(|value| f32::from(*value) / 127.5 - 1.0)
        .collect();
    Tensor::from_vec(values, shape, device)?
        .permute((2, 0, 1))?
        .contiguous()
}

/// Clamps to -1..=1 and rounds to 8 bits.
fn frame_from_image(image: &Tensor) -> Result<Frame> {
    let (_, height, width) = image.dims3()?;
    let values = image
        .permute((1, 2, 0))?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    // The cast of a clamped, finite value is exact; a value that is not a number becomes 0.
    let rgb = values
        .iter()
        .map(|value| ((value.clamp(-1.0, 1.0) + 1.0) * 127.5).round() as u8);
    let side = |pixels: usize| u32::try_from(pixels).map_err(candle_core::Error::wrap);
    Ok(Frame {
        width: side(width)?,
        height: side(height)?,
        rgb: rgb.collect(),
    })
}
