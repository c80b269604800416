//! Cutting a clip to what a model accepts: frame count, rate, size.

use rayon::prelude::*;

use super::resample::{contained_size, place};
use super::{Clip, VideoError};

/// How a frame of another shape is brought to the wanted one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FitMode {
    /// Keep the middle and cut what sticks out.
    #[default]
    Crop,
    /// Keep everything and fill the rest with black bars.
    Contain,
    /// Keep everything and change the shape.
    Stretch,
}

/// What to do with a clip that is shorter than asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShortClip {
    /// Refuse it.
    #[default]
    Error,
    /// Run forth and back: 0 1 2 1 0 1 …, so that no jump appears where the clip ends.
    Loop,
}

/// What a clip is cut to.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Frames of the result.
    pub frames: usize,
    /// Width of the result in pixels.
    pub width: u32,
    /// Height of the result in pixels.
    pub height: u32,
    /// Rate of the result in frames per second: the frame shown at `start + i / fps` is taken. `None` spreads the
    /// frames evenly over all that follows the start.
    pub fps: Option<f64>,
    /// How the shape is matched.
    pub mode: FitMode,
    /// Where to begin, in seconds from the start of the film.
    pub start_secs: f64,
    /// What to do if the clip is too short.
    pub short: ShortClip,
}

/// A clip that fits, and what was done to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// Exactly the frames, size and rate asked for; times count from zero.
    pub clip: Clip,
    /// What was cropped, looped or resampled, in plain words. Empty if nothing was.
    pub notes: Vec<String>,
}

/// Largest side [`fit`] will make, in pixels: more is a slip of the keyboard, not a model.
const MAX_SIDE: u32 = 16_384;
/// Most frames [`fit`] will make, for the same reason.
const MAX_FRAMES: usize = 10_000;
/// Slack when a time is compared with a timestamp, in seconds: containers round to as little as a millisecond.
pub(super) const TIME_SLACK_SECS: f64 = 1.5e-3;

/// Which frames to take, and the rate of the result.
struct Choice {
    indices: Vec<usize>,
    fps: f64,
    notes: Vec<String>,
}

/// Cuts a clip to the frames, size and rate of a model.
///
/// Frames are chosen by their timestamps, so that a variable frame rate keeps its speed; they are resized with the
/// anti-aliased triangle filter of [`super::resample`].
///
/// # Errors
/// `BadSetting` for sizes, rates or starts that mean nothing, `BadClip` for a clip without frames or with frames whose
/// bytes do not match their size, `StartBeyondEnd`, and `TooShort` with [`ShortClip::Error`].
pub fn fit(clip: &Clip, fit: &Fit) -> Result<Fitted, VideoError> {
    check(clip, fit)?;
    let mut choice = match fit.fps {
        Some(fps) => at_rate(clip, fit, fps)?,
        None => spread(clip, fit)?,
    };
    if choice.indices.len() < fit.frames {
        loop_back(&mut choice, fit)?;
    }
    let frames = choice
        .indices
        .par_iter()
        .map(|&i| place(&clip.frames[i], fit.width, fit.height, fit.mode))
        .collect();
    let mut notes = choice.notes;
    notes.extend(size_note(clip, fit));
    let fitted = Clip::from_frames(frames, choice.fps, clip.source_name.clone());
    Ok(Fitted {
        clip: fitted,
        notes,
    })
}

fn bad(what: String, want: &str) -> VideoError {
    VideoError::BadSetting {
        what,
        want: want.into(),
    }
}

fn check(clip: &Clip, fit: &Fit) -> Result<(), VideoError> {
    let sides = [fit.width, fit.height];
    if sides.iter().any(|s| !(1..=MAX_SIDE).contains(s)) {
        let what = format!("the size is {}x{}", fit.width, fit.height);
        return Err(bad(what, "sides from 1 to 16384 pixels"));
    }
    if !(1..=MAX_FRAMES).contains(&fit.frames) {
        let what = format!("the number of frames is {}", fit.frames);
        return Err(bad(what, "1 to 10000 frames"));
    }
    if let Some(fps) = fit.fps
        && !(fps.is_finite() && (0.01..=1000.0).contains(&fps))
    {
        let what = format!("the rate is {fps} frames per second");
        return Err(bad(what, "0.01 to 1000 frames per second"));
    }
    if !fit.start_secs.is_finite() || fit.start_secs < 0.0 {
        let what = format!("the start is {} s", fit.start_secs);
        return Err(bad(what, "zero or a positive number of seconds"));
    }
    let broken = |detail: &str| {
        Err(VideoError::BadClip {
            name: clip.source_name.clone(),
            detail: detail.into(),
        })
    };
    if clip.frames.is_empty() {
        return broken("it has no frames");
    }
    if clip.times_secs.len() != clip.frames.len() {
        return broken("it has not one time for each frame");
    }
    if !clip.times_secs.is_sorted() || clip.times_secs.iter().any(|t| !t.is_finite()) {
        return broken("its times do not rise");
    }
    if !(clip.fps.is_finite() && clip.fps > 0.0) {
        return broken("its rate is not a positive number");
    }
    if !clip.frames.iter().all(super::Frame::is_valid) {
        return broken("the bytes of a frame do not match its size");
    }
    Ok(())
}

/// Index of the frame on screen at `time`; the first one for times before it.
fn shown_at(clip: &Clip, time: f64) -> usize {
    clip.times_secs
        .partition_point(|&t| t <= time + TIME_SLACK_SECS)
        .saturating_sub(1)
}

/// When the last frame leaves the screen.
fn end_secs(clip: &Clip) -> f64 {
    clip.times_secs.last().copied().unwrap_or(0.0) + 1.0 / clip.fps
}

/// The start inside the clip; a clip loaded from a later time begins with its own first frame.
fn start_secs(clip: &Clip, fit: &Fit) -> Result<f64, VideoError> {
    let end = end_secs(clip);
    if fit.start_secs >= end - TIME_SLACK_SECS {
        return Err(VideoError::StartBeyondEnd {
            start_secs: fit.start_secs,
            end_secs: end,
        });
    }
    let first = clip.times_secs.first().copied().unwrap_or(0.0);
    Ok(fit.start_secs.max(first))
}

/// The frames on screen at `start + i / fps`, as many as the clip has time for.
fn at_rate(clip: &Clip, fit: &Fit, fps: f64) -> Result<Choice, VideoError> {
    let start = start_secs(clip, fit)?;
    let end = end_secs(clip);
    let indices: Vec<usize> = (0..fit.frames)
        .map(|i| start + i as f64 / fps)
        .take_while(|&t| t < end - TIME_SLACK_SECS)
        .map(|t| shown_at(clip, t))
        .collect();
    let mut notes = Vec::new();
    if indices.windows(2).any(|pair| pair[0] == pair[1]) {
        notes.push(format!(
            "The clip has about {:.1} frames a second, fewer than {fps:.1}: some frames are repeated.",
            clip.fps
        ));
    }
    Ok(Choice {
        indices,
        fps,
        notes,
    })
}

/// Frames spread evenly over the time from the start to the last frame.
fn spread(clip: &Clip, fit: &Fit) -> Result<Choice, VideoError> {
    let start = start_secs(clip, fit)?;
    let first = shown_at(clip, start);
    let mut times = clip.times_secs[first..].to_vec();
    let mut rate = clip.fps;
    // One that has been there for long comes at the start: the time before is no part of the cut, nor of its rate.
    if start - times[0] > 1.0 / clip.fps {
        times[0] = start;
        let span = times[times.len() - 1] - start;
        if span > 0.0 {
            rate = (times.len() - 1) as f64 / span;
        }
    }
    let available = times.len();
    let (t0, t1) = (times[0], times[available - 1]);
    if available <= fit.frames || t1 <= t0 {
        return Ok(Choice {
            indices: (first..clip.frames.len()).take(fit.frames).collect(),
            fps: rate,
            notes: Vec::new(),
        });
    }
    if fit.frames == 1 {
        return Ok(Choice {
            indices: vec![first],
            fps: clip.fps,
            notes: vec![format!("Took 1 of {available} frames.")],
        });
    }
    let step = (t1 - t0) / (fit.frames - 1) as f64;
    let indices = (0..fit.frames)
        .map(|i| first + nearest(&times, t0 + i as f64 * step))
        .collect();
    let fps = 1.0 / step;
    let notes = vec![format!(
        "Took {} of {available} frames, evenly spread over {:.2} s ({fps:.1} a second).",
        fit.frames,
        t1 - t0
    )];
    Ok(Choice {
        indices,
        fps,
        notes,
    })
}

/// Index of the time that is nearest.
fn nearest(times: &[f64], time: f64) -> usize {
    let after = times.partition_point(|&t| t < time).min(times.len() - 1);
    let before = after.saturating_sub(1);
    let distance = |i: usize| (times[i] - time).abs();
    if distance(before) < distance(after) {
        before
    } else {
        after
    }
}

/// Lengthens a choice by running it back and forth, or refuses.
fn loop_back(choice: &mut Choice, fit: &Fit) -> Result<(), VideoError> {
    let have = choice.indices.len();
    if fit.short == ShortClip::Error || have == 0 {
        return Err(VideoError::TooShort {
            have,
            need: fit.frames,
        });
    }
    let period = (2 * (have - 1)).max(1);
    choice.indices = (0..fit.frames)
        .map(|i| {
            let at = i % period;
            choice.indices[at.min(period - at).min(have - 1)]
        })
        .collect();
    choice.notes.push(if have == 1 {
        format!(
            "The clip has one frame only; it is shown {} times and does not move.",
            fit.frames
        )
    } else {
        format!(
            "The clip gives {have} frames; it runs forth and back to make {}.",
            fit.frames
        )
    });
    Ok(())
}

/// What happened to the shape and size, if anything noteworthy did.
fn size_note(clip: &Clip, fit: &Fit) -> Vec<String> {
    let frame = &clip.frames[0];
    let (w, h) = (f64::from(frame.width), f64::from(frame.height));
    let (out_w, out_h) = (f64::from(fit.width), f64::from(fit.height));
    let mut notes = Vec::new();
    // Share of one side that differs in shape; under half a percent nobody sees it.
    let shape = (w / h) / (out_w / out_h);
    let share = 1.0 - shape.min(1.0 / shape);
    let percent = (share * 100.0).round();
    if share > 0.005 {
        notes.push(match fit.mode {
            FitMode::Crop if shape > 1.0 => {
                format!("Cropped at the left and right: {percent}% of the width is left out.")
            }
            FitMode::Crop => {
                format!("Cropped at the top and bottom: {percent}% of the height is left out.")
            }
            FitMode::Contain => {
                let (inner_w, inner_h) = contained_size(frame, fit.width, fit.height);
                format!(
                    "Framed with black bars: the picture takes {inner_w}x{inner_h} of {}x{}.",
                    fit.width, fit.height
                )
            }
            FitMode::Stretch => {
                format!(
                    "Stretched from {}x{} to the shape of {}x{}.",
                    frame.width, frame.height, fit.width, fit.height
                )
            }
        });
    }
    let scale = match fit.mode {
        FitMode::Contain => (out_w / w).min(out_h / h),
        FitMode::Crop | FitMode::Stretch => (out_w / w).max(out_h / h),
    };
    if scale > 1.05 {
        notes.push(format!(
            "Enlarged {scale:.1} times: the clip, read as {}x{}, is smaller than the model's {}x{}.",
            frame.width, frame.height, fit.width, fit.height
        ));
    }
    notes
}
