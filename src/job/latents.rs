//! What a model makes of a clip, for looking at.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

use super::cancel::break_if;
use super::model::open_model;
use super::problem::{Halt, tensors};
use super::request::DeviceChoice;
use crate::models::ModelKind;
use crate::pipelines;
use crate::report::Report;
use crate::video::Frame;

/// The latents of a clip, times the autoencoder's scaling factor: what the spectral losses compare.
#[derive(Clone, Debug, PartialEq)]
pub struct Latents {
    /// Channels, four for the usual models.
    pub channels: usize,
    /// Frames, as many as the clip has.
    pub frames: usize,
    /// Rows, a few times fewer than the clip's.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// In the order `[c, f, h, w]`.
    pub values: Arc<[f32]>,
}

impl Latents {
    /// One frame of one channel, `[h, w]`; empty outside the clip.
    #[must_use]
    pub fn plane(&self, channel: usize, frame: usize) -> &[f32] {
        let size = self.height * self.width;
        let start = (channel * self.frames + frame) * size;
        if channel >= self.channels || frame >= self.frames {
            return &[];
        }
        self.values.get(start..start + size).unwrap_or_default()
    }
}

/// Encodes frames that are cut to the model's size, with the model at this path; none is a built-in one, which share their
/// autoencoder. Nothing if `stop` says so.
///
/// # Errors
/// When the model cannot be read or the frames do not fit it.
pub fn clip_latents(
    frames: &[Frame],
    model: Option<&Path>,
    stop: &dyn Fn() -> bool,
) -> Result<Option<Latents>, Report> {
    match encode(frames, model, stop) {
        Ok(latents) => Ok(Some(latents)),
        Err(Halt::Stopped) => Ok(None),
        Err(Halt::Failed(report)) => Err(report),
    }
}

fn encode(
    frames: &[Frame],
    model: Option<&Path>,
    stop: &dyn Fn() -> bool,
) -> Result<Latents, Halt> {
    let failed = tensors("The clip could not be encoded");
    let device = DeviceChoice::Auto.open()?;
    let vae = open_model(model, None, ModelKind::Video)?.load_vae(&device)?;
    let encoded = pipelines::encode_clip(&vae, frames, &device, &mut |_, _| break_if(stop()));
    let latents = encoded.map_err(&failed)?.done().ok_or(Halt::Stopped)?;
    let plain = |latents: &Tensor| -> candle_core::Result<Latents> {
        let (_, channels, frames, height, width) = latents.dims5()?;
        Ok(Latents {
            channels,
            frames,
            height,
            width,
            values: latents.flatten_all()?.to_vec1::<f32>()?.into(),
        })
    };
    plain(&latents).map_err(failed)
}
