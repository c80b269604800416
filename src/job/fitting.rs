//! From settings and a model to the cut of a clip; jobs and the window ask the same question.

use super::problem::Halt;
use crate::models::ClipLimits;
use crate::report::{Area, Report};
use crate::train::{FitChoice, TransferConfig};
use crate::video::{Fit, FitMode, ShortClip};

/// What a clip is cut to for a model with these settings.
///
/// # Errors
/// [`Halt::Failed`] for a size that the model cannot have.
pub fn fit_for(config: &TransferConfig, limits: &ClipLimits) -> Result<Fit, Halt> {
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let (width, height) = config
        .size
        .unwrap_or((side(limits.width), side(limits.height)));
    let multiple = side(limits.size_multiple).max(1);
    if width % multiple != 0 || height % multiple != 0 {
        let snap = |side: u32| (side / multiple * multiple).max(multiple);
        return Err(Report::new(
            Area::Request,
            format!("{width}x{height} does not fit the model"),
        )
        .because(format!("Its sizes are multiples of {multiple} pixels."))
        .advise(format!("Use --size {}x{}.", snap(width), snap(height)))
        .into());
    }
    let frames = config.frames.unwrap_or(limits.default_frames);
    Ok(cut_to(config, frames, (width, height)))
}

/// The cut of a clip to so many frames of this size, with the rest from the settings.
pub(super) fn cut_to(config: &TransferConfig, frames: usize, (width, height): (u32, u32)) -> Fit {
    Fit {
        frames,
        width,
        height,
        fps: config.fps,
        mode: match config.fit {
            FitChoice::Crop => FitMode::Crop,
            FitChoice::Contain => FitMode::Contain,
            FitChoice::Stretch => FitMode::Stretch,
        },
        start_secs: config.start_secs,
        short: if config.loop_short {
            ShortClip::Loop
        } else {
            ShortClip::Error
        },
    }
}
