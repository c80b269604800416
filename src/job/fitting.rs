//! From settings and a model to the cut of a clip; jobs and the window ask the same question.

use super::problem::Halt;
use crate::models::ClipLimits;
use crate::report::{Area, Report};
use crate::train::{FitChoice, TransferConfig};
use crate::video::{self, Clip, Fit, FitMode, Fitted, ShortClip};

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

/// Cuts a clip. A refusal also says what of the clip was not read: it may be why.
///
/// # Errors
/// [`Halt::Failed`], as [`video::fit`] has it.
pub fn fit_clip(clip: &Clip, fit: &Fit) -> Result<Fitted, Halt> {
    video::fit(clip, fit).map_err(|error| match Halt::from(error) {
        Halt::Failed(report) => {
            let notes = clip.notes.iter();
            Halt::Failed(notes.fold(report, |report, note| report.because(note.as_str())))
        }
        Halt::Stopped => Halt::Stopped,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::video::Frame;

    #[test]
    fn a_refusal_says_what_was_not_read() {
        let mut clip = Clip::from_frames(vec![Frame::filled(8, 8, [9; 3]); 3], 8.0, "clip");
        clip.notes = vec!["Read the first 3 frames only: the limit is 3 frames.".to_owned()];
        let config = TransferConfig {
            fps: Some(1.0),
            ..TransferConfig::default()
        };
        let Err(Halt::Failed(report)) = fit_clip(&clip, &cut_to(&config, 4, (8, 8))) else {
            panic!("3 frames at 8 a second last no 4 s");
        };
        assert!(report.cause.contains(&clip.notes[0]), "{report}");
    }
}
