//! Depth of a clip, as a model in a folder estimates it, for a ControlNet of depth.

use std::path::Path;

use candle_core::Device;

use super::cancel::break_if;
use super::context::JobContext;
use super::message::Stage;
use super::problem::{Halt, tensors};
use crate::models::DepthAnything;
use crate::pipelines::estimate_depth;
use crate::report::Report;
use crate::video::Frame;

/// As part of a job, which can be stopped and tells how far it is.
pub(super) fn of_clip(
    job: &JobContext,
    folder: &Path,
    device: &Device,
    frames: &[Frame],
) -> Result<Vec<Frame>, Halt> {
    job.stage(Stage::Estimating, Some(frames.len()));
    let cancel = job.cancel_token();
    estimate(folder, device, frames, &mut |done, total| {
        job.progress(Stage::Estimating, done, total);
        cancel.is_cancelled()
    })
}

/// On the processor, for a look at it before anything begins; none where `stop` said so.
///
/// # Errors
/// When the model cannot be read or run.
pub fn depth_of_frames(
    folder: &Path,
    frames: &[Frame],
    stop: &dyn Fn() -> bool,
) -> Result<Option<Vec<Frame>>, Report> {
    match estimate(folder, &Device::Cpu, frames, &mut |_, _| stop()) {
        Ok(frames) => Ok(Some(frames)),
        Err(Halt::Stopped) => Ok(None),
        Err(Halt::Failed(report)) => Err(report),
    }
}

fn estimate(
    folder: &Path,
    device: &Device,
    frames: &[Frame],
    stop: &mut dyn FnMut(usize, usize) -> bool,
) -> Result<Vec<Frame>, Halt> {
    let model = DepthAnything::open(folder, device)?;
    let on_step = &mut |done: usize, total: usize| break_if(stop(done, total));
    let estimated = estimate_depth(&model, frames, on_step)
        .map_err(tensors("The depth of the clip could not be estimated"))?;
    estimated.done().ok_or(Halt::Stopped)
}
