//! The clips of a training: reading them, cutting them to what the model accepts, writing down what was used.

use std::path::Path;

use candle_core::Device;

use super::context::JobContext;
use super::depth;
use super::fitting::{fit_clip, fit_for};
use super::message::Event;
use super::problem::Halt;
use super::request::TrainRequest;
use super::session::pixels_sha256;
use crate::models::{DepthAnything, ModelFolder};
use crate::project::{ClipRecord, MoreClipRecord};
use crate::report::{Area, Report};
use crate::video::{self, Clip, Fit, Frame, Limits, ShortClip, canny};

/// A clip as the model sees it, and what was done to it.
pub(super) struct ReadClip {
    pub(super) clip: Clip,
    notes: Vec<String>,
}

impl ReadClip {
    pub(super) fn record(&self) -> ClipRecord {
        let clip = &self.clip;
        let (width, height) = clip.size();
        ClipRecord {
            name: clip.source_name.clone(),
            pixels_sha256: pixels_sha256(&clip.frames),
            frames: clip.frames.len(),
            width,
            height,
            fps: clip.fps,
            notes: self.notes.clone(),
        }
    }
}

/// Reads the clips of a request, cuts them to what the model accepts and tells what was cut. They come out in one shape:
/// the model's, or that of the settings.
pub(super) fn read_clips(
    job: &JobContext,
    request: &TrainRequest,
    folder: &ModelFolder,
) -> Result<(ReadClip, Vec<ReadClip>), Halt> {
    let fit = fit_for(&request.config, &folder.clip_limits())?;
    request.config.check_for(fit.frames)?;
    // Where the first one begins says nothing of the others.
    let whole = Fit {
        start_secs: 0.0,
        ..fit.clone()
    };
    let named = !request.more_clips.is_empty();
    let read = |path: &Path, fit: &Fit| {
        read_clip(job, path, fit).map_err(|halt| in_clip(halt, named, path))
    };
    let first = read(&request.clip, &fit)?;
    let more = request.more_clips.iter();
    let more = more
        .map(|more| read(&more.path, &whole))
        .collect::<Result<Vec<_>, Halt>>()?;
    for read in std::iter::once(&first).chain(&more) {
        for note in &read.notes {
            let text = if named {
                format!("{}: {note}", read.clip.source_name)
            } else {
                note.clone()
            };
            job.emit(Event::Note { text });
        }
    }
    Ok((first, more))
}

/// What steers the ControlNet, a list of frames for each clip: the edges of each clip, its depth as a model in a folder of the
/// person's estimates it, or the frames of a clip of theirs, cut as the first one is. Empty for a method without a ControlNet.
pub(super) fn read_controls(
    job: &JobContext,
    request: &TrainRequest,
    folder: &ModelFolder,
    (first, more): (&mut ReadClip, &mut [ReadClip]),
    device: &Device,
) -> Result<Vec<Vec<Frame>>, Halt> {
    let config = &request.config;
    if !config.method.is_controlled() {
        return Ok(Vec::new());
    }
    let note = |read: &mut ReadClip, text: String| {
        job.emit(Event::Note { text: text.clone() });
        read.notes.push(text);
    };
    let Some(path) = &request.control.clip else {
        let (low, high) = config.canny;
        let mut controls = Vec::new();
        for read in std::iter::once(first).chain(more) {
            let frames = &read.clip.frames;
            controls.push(frames.iter().map(|frame| canny(frame, low, high)).collect());
            note(read, format!("Edges lead it (Canny, {low} and {high})."));
        }
        return Ok(controls);
    };
    if DepthAnything::is_folder(path) {
        let mut controls = Vec::new();
        for read in std::iter::once(first).chain(more) {
            controls.push(depth::of_clip(job, path, device, &read.clip.frames)?);
            let name = path.file_name().unwrap_or(path.as_os_str());
            let name = name.to_string_lossy();
            note(read, format!("Depth leads it, as {name} estimates it."));
        }
        return Ok(controls);
    }
    if !more.is_empty() {
        let headline = "One control clip cannot lead several clips";
        let advice = "Leave --condition out to draw the edges of each clip, or train on one clip.";
        let report = Report::new(Area::Request, headline).advise(advice);
        return Err(report.into());
    }
    let fit = fit_for(config, &folder.clip_limits())?;
    let read = read_clip(job, path, &fit).map_err(|halt| in_clip(halt, true, path))?;
    note(first, format!("{} leads it.", read.clip.source_name));
    Ok(vec![read.clip.frames])
}

/// The records of all clips but the first, with their words.
pub(super) fn more_records(request: &TrainRequest, more: &[ReadClip]) -> Vec<MoreClipRecord> {
    let words = request.more_clips.iter().map(|more| more.subject.clone());
    words
        .zip(more)
        .map(|(subject, read)| MoreClipRecord {
            subject,
            clip: read.record(),
        })
        .collect()
}

fn read_clip(job: &JobContext, path: &Path, fit: &Fit) -> Result<ReadClip, Halt> {
    let reading = Limits {
        start_secs: fit.start_secs,
        wanted_frames: match fit.short {
            ShortClip::Loop => 1,
            ShortClip::Error => fit.frames,
        },
        ..Limits::default()
    };
    let cancel = job.cancel_token();
    let clip = video::load(path, &reading, &|| cancel.is_cancelled())?;
    let fitted = fit_clip(&clip, fit)?;
    let mut notes = clip.notes;
    notes.extend(fitted.notes);
    Ok(ReadClip {
        clip: fitted.clip,
        notes,
    })
}

/// Some problems do not name the clip, which is clear only where there is one.
fn in_clip(halt: Halt, named: bool, path: &Path) -> Halt {
    match halt {
        Halt::Failed(report) if named => {
            Halt::Failed(report.because(format!("It is the clip {}.", path.display())))
        }
        other => other,
    }
}
