//! Errors of all rooms, told in the user's words, once.

use std::io::ErrorKind;

use crate::library::LibraryError;
use crate::models::ModelError;
use crate::project::ProjectError;
use crate::report::{Area, Report};
use crate::schedulers::SchedulerError;
use crate::train::TrainError;
use crate::video::VideoError;

/// Why a task ends early.
#[derive(Debug)]
pub enum Halt {
    /// It was asked to stop.
    Stopped,
    /// It cannot go on.
    Failed(Report),
}

impl From<Report> for Halt {
    fn from(report: Report) -> Self {
        Self::Failed(report)
    }
}

impl From<VideoError> for Halt {
    fn from(error: VideoError) -> Self {
        if matches!(error, VideoError::Cancelled) {
            return Self::Stopped;
        }
        let area = match error {
            VideoError::TargetExists { .. }
            | VideoError::NotWritable { .. }
            | VideoError::UnknownFormat { .. }
            | VideoError::BadSetting { .. } => Area::Request,
            VideoError::EncoderMissing { .. }
            | VideoError::Encode { .. }
            | VideoError::Io { .. } => Area::Run,
            _ => Area::Clip,
        };
        let advice = error.advice();
        Self::Failed(told(area, &error).advise(advice))
    }
}

impl From<ModelError> for Halt {
    fn from(error: ModelError) -> Self {
        let area = match &error {
            ModelError::Trained(_) | ModelError::Lora { .. } => Area::Request,
            _ => Area::Model,
        };
        let advice = error.advice();
        Self::Failed(told(area, &error).advise(advice))
    }
}

impl From<LibraryError> for Halt {
    fn from(error: LibraryError) -> Self {
        let area = match &error {
            LibraryError::Cancelled => return Self::Stopped,
            LibraryError::Model(_)
            | LibraryError::NotHere { .. }
            | LibraryError::Damaged { .. } => Area::Model,
            LibraryError::Unknown { .. }
            | LibraryError::Taken { .. }
            | LibraryError::BadName { .. }
            | LibraryError::NotOurs { .. }
            | LibraryError::Offline
            | LibraryError::NoProxy { .. }
            | LibraryError::NoNetwork => Area::Request,
            _ => Area::Run,
        };
        let advice = error.advice();
        Self::Failed(told(area, &error).advise(advice))
    }
}

impl From<SchedulerError> for Halt {
    fn from(error: SchedulerError) -> Self {
        let advice = match &error {
            SchedulerError::Unsupported(_) => {
                "Use the other sampler (--sampler), or check the model's scheduler_config.json."
            }
            SchedulerError::Config(_)
            | SchedulerError::Steps { .. }
            | SchedulerError::Grid { .. } => {
                "Use fewer sampling steps, or check the model's scheduler_config.json."
            }
        };
        Self::Failed(told(Area::Model, &error).advise(advice))
    }
}

impl From<ProjectError> for Halt {
    fn from(error: ProjectError) -> Self {
        let (area, advice) = match &error {
            ProjectError::Exists { .. } => (
                Area::Request,
                "Name another folder, or go on with that run by `resume`.",
            ),
            ProjectError::NotEmpty { .. } => {
                (Area::Request, "Name a new or an empty folder for the run.")
            }
            ProjectError::NotARun { .. } => (
                Area::Request,
                "Name the folder that a training made; it holds run.toml.",
            ),
            ProjectError::NeverBegan { .. } => (
                Area::Request,
                "Nothing was learned yet and nothing is lost: train again with the same --run.",
            ),
            ProjectError::Vanished { .. } => (
                Area::Run,
                "Put the folder back where it was, then go on with `resume`; nothing was written in its place.",
            ),
            ProjectError::Locked { .. } => (
                Area::Request,
                "Wait until the other program is done, or use another run folder.",
            ),
            ProjectError::TooNew { .. } => (Area::Run, "Use a newer version of this program."),
            ProjectError::Damaged { .. } => (
                Area::Run,
                "Restore the file from a backup, or train the clip again.",
            ),
            ProjectError::Io { source, .. } => (Area::Run, advice_on(source.kind())),
        };
        Self::Failed(told(area, &error).advise(advice))
    }
}

/// What to do when the system refuses a file of a run.
fn advice_on(refused: ErrorKind) -> &'static str {
    match refused {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "Make room on that disk. A run that has begun then goes on with `resume`: its last checkpoint is whole."
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            "Use a folder where you may write, or copy the run to one."
        }
        _ => "Check that the disk is there, writable, and has free space.",
    }
}

impl From<TrainError> for Halt {
    fn from(error: TrainError) -> Self {
        let (area, advice) = match error {
            TrainError::Project(error) => return error.into(),
            TrainError::Tensor { during, source } => {
                return tensors(&format!("Training stopped: {during} failed"))(source);
            }
            TrainError::Setting(_) => (Area::Request, "Correct that setting."),
            TrainError::Clips { .. } => (Area::Clip, "Name one clip, or several of one size."),
            TrainError::NotFinite { .. } => (
                Area::Run,
                "Use a smaller learning rate; the last checkpoint is still good.",
            ),
            TrainError::Dead { .. } => (
                Area::Model,
                "The model cannot be trained by this method; please report it.",
            ),
            TrainError::NothingToTrain { .. } => (
                Area::Model,
                "Use a text-to-video model with temporal attention.",
            ),
            TrainError::Mismatch { .. } => (Area::Run, "Use the model that the run was made with."),
        };
        Self::Failed(told(area, &error).advise(advice))
    }
}

/// The error's own words as headline, what lies below as causes.
fn told(area: Area, error: &(dyn std::error::Error + 'static)) -> Report {
    let report = Report::new(area, sentence(&error.to_string()));
    match error.source() {
        Some(source) => report.because_of(source),
        None => report,
    }
}

/// For `map_err` on tensor work: the headline is the caller's.
pub(super) fn tensors(headline: &str) -> impl Fn(candle_core::Error) -> Halt + use<> {
    let headline = headline.to_owned();
    move |error| {
        let text = error.to_string();
        let full = ["out of memory", "OUT_OF_MEMORY", "allocation"]
            .iter()
            .any(|word| text.contains(word));
        let advice = if full {
            "The device's memory is full: use fewer frames, a smaller size, or --device cpu."
        } else {
            "Please report this with the line above."
        };
        Halt::Failed(
            Report::new(Area::Run, headline.clone())
                .because(text)
                .advise(advice),
        )
    }
}

/// Begins with a capital letter, unless the first word is a name or a path.
fn sentence(text: &str) -> String {
    let first = text.split_whitespace().next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(letter) if first.chars().all(char::is_alphabetic) => {
            letter.to_uppercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}
