//! How well one result follows its reference: a run's result made again, or a film.

use std::path::Path;

use super::context::JobContext;
use super::fitting::cut_to;
use super::message::{Event, Stage};
use super::model::open_recorded_model;
use super::problem::Halt;
use super::request::{DeviceChoice, EvaluateRequest, SamplingChanges};
use super::sampling::{SampleSpec, decode, sample};
use super::session::{Record, Session, pixels_sha256};
use super::work::open_run;
use crate::evaluate::{Known, Scene, Scorecard, at_one_size, score};
use crate::project::{Recipe, RunFolder};
use crate::report::{Area, Report};
use crate::train::TransferConfig;
use crate::video::{self, Clip, Fit, Frame, Limits};

/// A result, and how its reference was cut.
struct ResultFilm {
    frames: Vec<Frame>,
    prompt: Option<String>,
    subject: Option<String>,
    cut: TransferConfig,
    /// The reference that comes with it, and the SHA-256 of its pixels: those of a run.
    reference: Option<Vec<Frame>>,
    pixels_sha256: Option<String>,
}

/// Compares a result with its reference and tells the scorecard.
pub(super) fn evaluate(job: &mut JobContext, request: &EvaluateRequest) -> Result<(), Halt> {
    let result = if RunFolder::is_run(&request.result) {
        result_of_run(job, request)?
    } else {
        result_of_film(job, request)?
    };
    let full = result
        .frames
        .first()
        .map_or((0, 0), |frame| (frame.width, frame.height));
    let reference = match (&request.reference, result.reference) {
        (Some(path), _) => {
            let cut = request.cut.over(&result.cut);
            let fit = cut_to(&cut, result.frames.len(), cut.size.unwrap_or(full));
            let taken = read_reference(job, path, &fit, request.device)?;
            if result
                .pixels_sha256
                .is_some_and(|sha256| sha256 != pixels_sha256(&taken.frames))
            {
                let text = "The reference is another clip, or another cut of it, than the run learned from.";
                job.emit(Event::Note {
                    text: text.to_owned(),
                });
            }
            taken.frames
        }
        (None, Some(frames)) => frames,
        (None, None) => {
            let headline = format!("There is no reference for {}", request.result.display());
            return Err(Report::new(Area::Request, headline)
                .because("A film does not hold the clip whose motion it has.")
                .advise("Name the clip with --reference, or a run folder instead of the film.")
                .into());
        }
    };
    let prompt = request.prompt.as_deref().or(result.prompt.as_deref());
    let subject = request.subject.as_deref().or(result.subject.as_deref());
    let card = compared(&reference, &result.frames, (subject, prompt))?;
    job.emit(Event::Scored {
        score: Box::new(card),
    });
    Ok(())
}

/// The scorecard of two films of any size, with their words: the reference's, the result's.
fn compared(
    reference: &[Frame],
    result: &[Frame],
    (subject, prompt): (Option<&str>, Option<&str>),
) -> Result<Scorecard, Report> {
    let (reference, result) = at_one_size(reference, result);
    let scene = |words: Option<&str>| words.map_or_else(Scene::default, Scene::of_words);
    let known = Known {
        wanted: scene(prompt),
        shown: scene(subject),
        ..Known::default()
    };
    score(&reference, &result, &known).map_err(|error| {
        Report::new(Area::Clip, "The films cannot be compared")
            .because_of(&error)
            .advise("Compare a result with the clip it was made from.")
    })
}

/// How well a sample of a run follows these frames of its clip; none where the run learned from other frames.
///
/// # Errors
/// When the run's record cannot be read, or the films do not fit each other.
pub fn score_sample(
    run: &Path,
    reference: &[Frame],
    sample: &[Frame],
    prompt: &str,
) -> Result<Option<Scorecard>, Report> {
    let record: Record = match RunFolder::look(run).map_err(Halt::from) {
        Ok(record) => record,
        Err(Halt::Failed(report)) => return Err(report),
        Err(Halt::Stopped) => return Ok(None),
    };
    let (subject, clip) = record.clip(record.settings.strength().clip);
    if clip.pixels_sha256 != pixels_sha256(reference) {
        return Ok(None);
    }
    compared(reference, sample, (Some(subject), Some(prompt))).map(Some)
}

/// The result of a run, sampled again from its weights: a run does not keep the film it once wrote, and the same seed
/// gives the same pictures. Its clip, of several the one that samples begin from, is what its latents decode to.
fn result_of_run(job: &mut JobContext, request: &EvaluateRequest) -> Result<ResultFilm, Halt> {
    let mut opened = open_run(
        job,
        &request.result,
        &[],
        &SamplingChanges::default(),
        request.device,
    )?;
    let record = &opened.session.record;
    let settings = record.settings.clone();
    let number = settings.strength().clip;
    let (subject, clip) = record.clip(number);
    let (subject, clip) = (subject.to_owned(), clip.clone());
    let prompt = request
        .prompt
        .clone()
        .or_else(|| record.prompt.clone())
        .ok_or_else(|| {
            Report::new(Area::Request, "This run has no words for a result")
                .advise("Say with --prompt what the result shall show.")
        })?;
    let spec = SampleSpec::result(&settings, prompt.clone(), Some(opened.sha256.clone()));
    let frames = sample(
        job,
        &mut opened.session,
        Some(&opened.run),
        &opened.tuned,
        &spec,
    )?;
    let reference = match request.reference {
        Some(_) => None,
        None => Some(decoded_clip(job, &mut opened.session, number)?),
    };
    Ok(ResultFilm {
        frames,
        prompt: Some(prompt),
        subject: Some(subject),
        cut: TransferConfig {
            frames: Some(clip.frames),
            size: Some((clip.width, clip.height)),
            ..cut_of_clip(number, settings)
        },
        reference,
        pixels_sha256: Some(clip.pixels_sha256),
    })
}

/// A film with what its recipe says, where it has one.
fn result_of_film(job: &JobContext, request: &EvaluateRequest) -> Result<ResultFilm, Halt> {
    job.emit(Event::Started {
        config: Box::new(request.cut.over(&TransferConfig::default())),
    });
    job.stage(Stage::Loading, None);
    let cancel = job.cancel_token();
    let clip = video::load(&request.result, &Limits::default(), &|| {
        cancel.is_cancelled()
    })?;
    for text in &clip.notes {
        job.emit(Event::Note { text: text.clone() });
    }
    // A film without a recipe, or with one that cannot be read, is a film like any other.
    let text = video::read_recipe(&request.result).ok().flatten();
    let recipe: Option<Recipe<TransferConfig>> =
        text.and_then(|text| serde_json::from_str(&text).ok());
    let (prompt, subject, cut) = match recipe {
        Some(recipe) => {
            let number = recipe.settings.strength().clip;
            let more = number.checked_sub(1);
            let subject = match more.and_then(|more| recipe.more_clips.into_iter().nth(more)) {
                Some(more) => Some(more.subject),
                None => recipe.subject,
            };
            let cut = cut_of_clip(number, recipe.settings);
            (Some(recipe.prompt), subject, cut)
        }
        None => (None, None, TransferConfig::default()),
    };
    Ok(ResultFilm {
        cut,
        frames: clip.frames,
        prompt,
        subject,
        reference: None,
        pixels_sha256: None,
    })
}

/// How a clip by its number was cut: of several clips the start belongs to the first.
fn cut_of_clip(number: usize, settings: TransferConfig) -> TransferConfig {
    TransferConfig {
        start_secs: if number == 0 {
            settings.start_secs
        } else {
            0.0
        },
        ..settings
    }
}

/// The clip as it was cut for the result, or the clip of a run.
fn read_reference(
    job: &mut JobContext,
    path: &Path,
    fit: &Fit,
    device: DeviceChoice,
) -> Result<Clip, Halt> {
    if RunFolder::is_run(path) {
        let run = RunFolder::open(path)?;
        let record: Record = run.read_record()?;
        let number = record.settings.strength().clip;
        let fps = record.clip(number).1.fps;
        let folder = open_recorded_model(&record)?;
        let mut session = Session::from_cache(folder, device.open()?, record, &run)?;
        let decoded = decoded_clip(job, &mut session, number)?;
        return Ok(Clip::from_frames(decoded, fps, path.to_string_lossy()));
    }
    let reading = Limits {
        start_secs: fit.start_secs,
        ..Limits::default()
    };
    let cancel = job.cancel_token();
    let clip = video::load(path, &reading, &|| cancel.is_cancelled())?;
    let fitted = video::fit(&clip, fit)?;
    for text in clip.notes.into_iter().chain(fitted.notes) {
        job.emit(Event::Note { text });
    }
    Ok(fitted.clip)
}

/// What the latents of a run's clip decode to: the clip by its number, but for what the model's autoencoder loses.
fn decoded_clip(
    job: &mut JobContext,
    session: &mut Session,
    number: usize,
) -> Result<Vec<Frame>, Halt> {
    let latents = session.latents(number).clone();
    decode(job, session, &latents)
}
