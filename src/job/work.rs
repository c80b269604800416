//! The jobs themselves: which stages they have, in which order.

use std::path::Path;

use super::clips::{more_records, read_clips, read_controls};
use super::context::JobContext;
use super::export::{check_target, write_result};
use super::lora::{LoraRequest, put, put_on_run};
use super::message::{Event, Stage};
use super::model::{
    check_method, check_training, latent_shape, load_unet, model_record, named_model, open_model,
    open_recorded_model, recommended,
};
use super::problem::Halt;
use super::replay::{self, Replay};
use super::request::{
    DeviceChoice, Request, ResultRequest, ResumeRequest, SampleRequest, SamplingChanges,
    TrainRequest,
};
use super::room::{foretold, foretold_again};
use super::sampling::{SampleSpec, sample};
use super::saved::{WeightsAbout, add_loras, refuse_scales};
use super::session::{Record, Session};
use super::{Preview, comparison, suite, training};
use crate::methods::{Method, Tuned};
use crate::models::{ModelFolder, ModelKind};
use crate::project::{
    ClipRecord, ProjectError, RunFolder, TensorFile, default_runs_dir, run_format, sha256_hex,
};
use crate::report::{Area, Report};
use crate::schedulers::NoiseSchedule;
use crate::train::{Start, Trainer, TransferConfig, load_weights};
use crate::video::{Clip, FPS_RANGE};

/// Rate of a film that has no clip to take it from.
const PLAIN_FPS: f64 = 8.0;

pub(super) fn run(job: &mut JobContext, request: Request) -> Result<(), Halt> {
    match request {
        Request::Train(request) => train(job, *request, None),
        Request::Replay(request) => replay::replay(job, *request),
        Request::Resume(request) => resume(job, *request),
        Request::Sample(request) => sample_only(job, &request),
        Request::Evaluate(request) => comparison::evaluate(job, &request),
        Request::Suite(request) => suite::run(job, &request),
    }
}

/// Trains and makes the film that is asked for. A replay is held against its recipe.
pub(super) fn train(
    job: &mut JobContext,
    mut request: TrainRequest,
    replay: Option<&Replay>,
) -> Result<(), Halt> {
    request.config.check()?;
    request
        .config
        .check_for_clips(1 + request.more_clips.len())?;
    if let Some(result) = &request.result {
        check_target(result)?;
    }
    job.emit(Event::Started {
        config: Box::new(request.config.clone()),
    });
    job.stage(Stage::Loading, None);
    let device = request.device.open()?;
    let controlnet = request.control.controlnet.as_deref();
    let kind = request.config.method.model_kind();
    let folder = open_model(request.model.as_deref(), controlnet, kind)?;
    check_method(request.config.method, &folder)?;
    recommended(&mut request.config, &folder)?;
    check_training(&request.config, &folder)?;
    if device.is_cpu() && request.config.steps > 0 {
        let text = foretold(&request.config, &folder)?;
        job.emit(Event::Note { text });
    }
    let (mut first, mut more) = read_clips(job, &request, &folder)?;
    let controls = read_controls(job, &request, &folder, (&mut first, &mut more), &device)?;
    let record = Record {
        format: run_format(1 + more.len()),
        program: program(),
        more_clips: more_records(&request, &more),
        subject: request.subject,
        prompt: request.result.as_ref().map(|result| result.prompt.clone()),
        clip: first.record(),
        model: model_record(&folder, request.model.as_deref())?,
        settings: request.config,
        changes: replay.map_or_else(Vec::new, Replay::changes),
    };
    if let Some(replay) = replay {
        replay.check(job, &record)?;
    }
    let mut run = match &request.run {
        Some(path) => RunFolder::create(path)?,
        None => RunFolder::create_in(&default_runs_dir(), record.clip.name.as_ref())?,
    };
    job.emit(Event::RunFolder {
        path: run.path().to_owned(),
    });
    let clips: Vec<&Clip> = std::iter::once(&first)
        .chain(&more)
        .map(|read| &read.clip)
        .collect();
    let begun =
        Session::encode(job, folder, device, record, &clips, &controls).and_then(|session| {
            session.write_cache(&run)?;
            // Written last: a folder with a record is a run that can be resumed.
            run.write_record(&session.record)?;
            Ok(session)
        });
    let mut session = match begun {
        Ok(session) => session,
        Err(halt) => {
            run.discard();
            return Err(halt);
        }
    };
    drop((first, more, controls));
    let mut trainer = trainer(&mut session)?;
    finish(
        job,
        &mut session,
        &mut run,
        &mut trainer,
        (request.result.as_ref(), replay),
    )
}

fn resume(job: &mut JobContext, request: ResumeRequest) -> Result<(), Halt> {
    let mut run = RunFolder::open(&request.run)?;
    let mut record: Record = run.read_record()?;
    record.settings.steps = request.until.steps(record.settings.steps)?;
    record.settings.check()?;
    if request.prompt.is_some() {
        record.prompt.clone_from(&request.prompt);
    }
    let result = record.prompt.clone().map(|prompt| ResultRequest {
        prompt,
        ..request.result
    });
    if let Some(result) = &result {
        check_target(result)?;
    }
    job.emit(Event::Started {
        config: Box::new(record.settings.clone()),
    });
    job.emit(Event::RunFolder {
        path: run.path().to_owned(),
    });
    job.stage(Stage::Loading, None);
    let (checkpoint, damaged) = run.latest_checkpoint().map_err(no_checkpoint)?;
    for error in damaged {
        if let Halt::Failed(report) = Halt::from(error) {
            job.emit(Event::Warning(
                report.advise("An older checkpoint is used instead."),
            ));
        }
    }
    let (done, wanted) = (
        checkpoint.as_ref().map_or(0, |c| c.state.step),
        record.settings.steps,
    );
    if done > wanted {
        let headline = format!("The run has {done} steps already, more than {wanted}");
        return Err(Report::new(Area::Request, headline)
            .advise("Ask for more steps, or sample from the run as it is.")
            .into());
    }
    let folder = open_recorded_model(&record)?;
    let device = request.device.open()?;
    let mut checkpointing = None;
    if device.is_cpu() && done < wanted {
        let (remembered, text) = foretold_again(&record.settings, &folder)?;
        checkpointing = Some(remembered);
        job.emit(Event::Note { text });
    }
    let mut session = Session::from_cache(folder, device, record, &run)?;
    let mut trainer = trainer(&mut session)?;
    if let Some(checkpointing) = checkpointing {
        trainer.set_checkpointing(checkpointing);
    }
    if let Some(checkpoint) = checkpoint {
        trainer.restore(&checkpoint)?;
    }
    run.write_record(&session.record)?;
    run.keep_metrics(trainer.step_count())?;
    finish(
        job,
        &mut session,
        &mut run,
        &mut trainer,
        (result.as_ref(), None),
    )
}

/// A run of which no checkpoint is whole can still be trained again, to the same weights.
fn no_checkpoint(error: ProjectError) -> Halt {
    const ADVICE: &str = "No checkpoint of this run is whole. Restore one from a backup, or remove the run's folder `checkpoints`: `resume` then trains from the first step, to the same weights.";
    let too_new = matches!(error, ProjectError::TooNew { .. });
    match Halt::from(error) {
        Halt::Failed(report) if !too_new => report.advise(ADVICE).into(),
        halt => halt,
    }
}

/// Trains what is left, then makes the film if one is wanted.
fn finish(
    job: &mut JobContext,
    session: &mut Session,
    run: &mut RunFolder,
    trainer: &mut Trainer,
    (result, replay): (Option<&ResultRequest>, Option<&Replay>),
) -> Result<(), Halt> {
    training::train(job, session, run, trainer)?;
    let Some(result) = result else { return Ok(()) };
    let tuned = hash_file(&run.final_weights())?;
    if let Some(replay) = replay {
        replay.judge(job, &tuned);
        replay.turn_to_sampling(session);
    }
    make_film(
        job,
        session,
        Some(run),
        trainer.tuned(),
        Some(tuned),
        result,
    )
}

fn sample_only(job: &mut JobContext, request: &SampleRequest) -> Result<(), Halt> {
    check_target(&request.result)?;
    if RunFolder::is_run(&request.source) {
        sample_run(job, request)
    } else {
        sample_model(job, request)
    }
}

fn sample_run(job: &mut JobContext, request: &SampleRequest) -> Result<(), Halt> {
    let (loras, changes) = (&request.loras, &request.changes);
    let mut opened = open_run(job, &request.source, loras, changes, request.device)?;
    make_film(
        job,
        &mut opened.session,
        Some(&opened.run),
        &opened.tuned,
        Some(opened.sha256),
        &request.result,
    )
}

/// A run with its weights in place, ready to sample.
pub(super) struct OpenRun {
    pub(super) run: RunFolder,
    pub(super) session: Session,
    pub(super) tuned: Tuned,
    /// SHA-256 of the weights.
    pub(super) sha256: String,
}

/// Opens a run with its final weights, or those of its newest checkpoint, and LoRA files on its model.
pub(super) fn open_run(
    job: &mut JobContext,
    source: &Path,
    loras: &[LoraRequest],
    changes: &SamplingChanges,
    device: DeviceChoice,
) -> Result<OpenRun, Halt> {
    let run = RunFolder::open(source)?;
    let mut record: Record = run.read_record()?;
    refuse_scales(changes, record.settings.method)?;
    let trained = record.settings.clone();
    changes.apply(&mut record.settings);
    record.settings.check()?;
    record.settings.check_for_clips(record.clips())?;
    job.emit(Event::Started {
        config: Box::new(record.settings.clone()),
    });
    job.emit(Event::RunFolder {
        path: run.path().to_owned(),
    });
    job.stage(Stage::Loading, None);
    let (folder, loras) = put_on_run(job, loras, open_recorded_model(&record)?)?;
    let mut session = Session::from_cache(folder, device.open()?, record, &run)?;
    session.loras = loras;
    session.trained_settings = Some(trained).filter(|old| *old != session.record.settings);
    let tuned = load_unet(&session)?;
    let (weights, steps) = weights_of(job, &run, &session.record)?;
    session.trained_steps = steps;
    load_weights(&tuned.vars, &weights)?;
    add_loras(&session.folder, &tuned)?;
    let sha256 = sha256_hex(&weights.to_bytes(&run.final_weights())?);
    Ok(OpenRun {
        run,
        session,
        tuned,
        sha256,
    })
}

/// The weights of a run: its final ones, or the newest checkpoint's and its step while it is not trained to its number of
/// steps.
fn weights_of(
    job: &JobContext,
    run: &RunFolder,
    record: &Record,
) -> Result<(TensorFile, Option<u32>), Halt> {
    let path = run.final_weights();
    if !RunFolder::is_finished(run.path(), record.settings.steps) {
        match run.latest_checkpoint() {
            Ok((Some(checkpoint), _)) => {
                let step = checkpoint.state.step;
                let text =
                    format!("The training is not finished; the weights of step {step} are used.");
                job.emit(Event::Note { text });
                // What a run of so many steps would have left.
                let about = WeightsAbout {
                    steps: step,
                    ..WeightsAbout::of(record)
                };
                let weights = TensorFile {
                    about: about.text(),
                    ..checkpoint.weights
                };
                return Ok((weights, Some(step)));
            }
            Err(error) if !path.is_file() => return Err(error.into()),
            // What is left are the weights from before the run was trained further.
            _ => {}
        }
    }
    if !path.is_file() {
        return Err(Report::new(Area::Request, "This run has no weights yet")
            .advise("Let it train first: use `resume`.")
            .into());
    }
    Ok((TensorFile::read(&path)?, None))
}

fn sample_model(job: &mut JobContext, request: &SampleRequest) -> Result<(), Halt> {
    let (named, kind) = named_model(&request.source, &request.loras)?;
    let mut config = TransferConfig {
        start: Start::Noise,
        ..TransferConfig::default()
    };
    request.changes.apply(&mut config);
    if config.start != Start::Noise {
        return Err(
            Report::new(Area::Request, "A model alone has no clip to invert")
                .advise("Leave --start out, or name a run folder instead of a model.")
                .into(),
        );
    }
    config.check()?;
    job.emit(Event::Started {
        config: Box::new(config.clone()),
    });
    job.stage(Stage::Loading, None);
    let (folder, loras) = put(job, &request.loras, open_model(named, None, kind)?)?;
    let device = request.device.open()?;
    let file = loras.trained.as_ref().map(|(file, strength)| {
        config.lora_scale *= strength;
        config.spatial_scale *= strength;
        file
    });
    match file {
        Some(file) => file.apply(&mut config, &request.changes, &folder)?,
        // Not even adapters: a model alone.
        None => {
            refuse_scales(&request.changes, Method::Vmc)?;
            config.check_for_clips(1)?;
        }
    }
    refuse_without_clip(&config, file.is_some(), &folder)?;
    recommended(&mut config, &folder)?;
    let about = file.and_then(|file| file.about.as_ref());
    let taken_fps = about
        .map(|about| about.fps)
        .filter(|fps| FPS_RANGE.contains(fps));
    let clip = ClipRecord {
        name: String::new(),
        pixels_sha256: String::new(),
        frames: 0,
        width: 0,
        height: 0,
        fps: taken_fps.or(folder.card().fps).unwrap_or(PLAIN_FPS),
        notes: Vec::new(),
    };
    let record = Record {
        format: run_format(1),
        program: program(),
        subject: about.map_or_else(String::new, |about| about.subject.clone()),
        prompt: Some(request.result.prompt.clone()),
        clip,
        more_clips: Vec::new(),
        model: model_record(&folder, named)?,
        settings: config,
        changes: Vec::new(),
    };
    let shape = latent_shape(&record.settings, &folder)?;
    let mut session = Session::without_clip(folder, device, record, &shape)?;
    session.loras = loras.records;
    let Some(file) = file else {
        let tuned = load_unet(&session)?;
        return make_film(job, &mut session, None, &tuned, None, &request.result);
    };
    file.tell(job, &session.record);
    let tuned = file.load(&session.folder, &session.device)?;
    let sha256 = Some(file.sha256.clone());
    make_film(job, &mut session, None, &tuned, sha256, &request.result)
}

/// Refuses what an image model cannot make without a clip.
fn refuse_without_clip(
    config: &TransferConfig,
    is_trained: bool,
    folder: &ModelFolder,
) -> Result<(), Halt> {
    if folder.kind() == ModelKind::Video {
        return Ok(());
    }
    let name = folder.name();
    let report = match (is_trained, config.method.is_controlled()) {
        (true, false) => return Ok(()),
        (true, true) => Report::new(Area::Request, "ControlVideo has no clip to follow here")
            .because("Its samples are led by the edges, depth or poses of a clip, which a run keeps.")
            .advise("Sample from the run that left these weights."),
        (false, _) => Report::new(Area::Request, format!("{name} makes still pictures, not films"))
            .advise("Train it on a clip first (--method tune-a-video), or add weights that were trained on it (--lora)."),
    };
    Err(report.into())
}

fn make_film(
    job: &mut JobContext,
    session: &mut Session,
    run: Option<&RunFolder>,
    tuned: &Tuned,
    tuned_sha256: Option<String>,
    result: &ResultRequest,
) -> Result<(), Halt> {
    let settings = &session.record.settings;
    let spec = match session.preview {
        true => SampleSpec::preview(settings, result.prompt.clone(), None),
        false => SampleSpec::result(settings, result.prompt.clone(), tuned_sha256.clone()),
    };
    let frames = sample(job, session, run, tuned, &spec)?;
    let taken_fps = session.record.clip(spec.strength.clip).1.fps;
    let fps = session.record.settings.film_fps(taken_fps);
    if run.is_some() && fps > 1.05 * taken_fps {
        job.emit(Event::Note {
            text: format!(
                "The film plays at {fps:.0} frames a second, {:.1} times as fast as the clip; --play-fps {taken_fps:.2} keeps the clip's time.",
                fps / taken_fps
            ),
        });
    }
    // Whoever watches shows the pixels themselves, not what an encoder leaves of them.
    job.publish_preview(Preview {
        step: session.record.settings.steps,
        prompt: result.prompt.clone(),
        frames: frames.clone(),
        fps,
    });
    let clip = Clip::from_frames(frames, fps, result.prompt.clone());
    write_result(job, session, tuned_sha256, result, &clip)
}

fn trainer(session: &mut Session) -> Result<Trainer, Halt> {
    let tuned = load_unet(session)?;
    let schedule = NoiseSchedule::new(session.folder.scheduler());
    let items = session.items()?;
    Ok(Trainer::new(
        &session.record.settings,
        tuned,
        schedule,
        items,
    )?)
}

pub(super) fn hash_file(path: &Path) -> Result<String, Halt> {
    Ok(sha256_hex(&TensorFile::read(path)?.to_bytes(path)?))
}

fn program() -> String {
    format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
}
