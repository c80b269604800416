//! The training loop: obey commands, step, tell, save.

use super::context::JobContext;
use super::message::{Command, Event, Setting, Stage};
use super::problem::Halt;
use super::sampling::{self, SampleSpec};
use super::session::Session;
use crate::project::{Change, LiveSettings, RunFolder};
use crate::report::{Area, Report};
use crate::train::Trainer;

/// Steps between two tables of gradients.
const GRADIENTS_EVERY: u32 = 10;

/// Trains to the settings' number of steps and writes the final weights.
///
/// A stop leaves a checkpoint of the last finished step.
pub(super) fn train(
    job: &mut JobContext,
    session: &mut Session,
    run: &mut RunFolder,
    trainer: &mut Trainer,
) -> Result<(), Halt> {
    let steps = session.record.settings.steps as usize;
    job.set_step(trainer.step_count());
    job.stage(Stage::Training, Some(steps));
    let mut paused = false;
    let mut saved_step = trainer.step_count();
    while !trainer.is_done() {
        while let Some(command) = job.next_command(paused) {
            match command {
                Command::Stop => {
                    if trainer.step_count() > saved_step {
                        save_checkpoint(job, session, run, trainer)?;
                    }
                    return Err(Halt::Stopped);
                }
                Command::CheckpointNow => {
                    save_checkpoint(job, session, run, trainer)?;
                    saved_step = trainer.step_count();
                }
                other => obey(job, session, run, trainer, &mut paused, other)?,
            }
        }
        let stats = trainer.step()?;
        run.append_metrics(&stats)?;
        if let Some(scale) = stats.overflowed {
            job.emit(Event::Warning(overflow_report(stats.step, scale)));
        }
        job.set_step(stats.step);
        job.emit_droppable(Event::Step(stats));
        let step = trainer.step_count();
        if step == 1 || is_due(step, GRADIENTS_EVERY) {
            job.emit_droppable(Event::Gradients {
                step,
                norms: trainer.grad_norms().clone(),
            });
        }
        if is_due(step, session.record.settings.checkpoint_every) && !trainer.is_done() {
            save_checkpoint(job, session, run, trainer)?;
            saved_step = step;
        }
        if is_due(step, trainer.live().preview_every) && !trainer.is_done() {
            preview(job, session, run, trainer, None, None)?;
        }
    }
    save_checkpoint(job, session, run, trainer)?;
    let path = run.final_weights();
    trainer.weights(session.about())?.write(&path)?;
    job.emit(Event::WeightsSaved { path });
    Ok(())
}

/// A step of half precision that moved nothing. A few at the start are usual.
fn overflow_report(step: u32, scale: f64) -> Report {
    Report::new(
        Area::Run,
        format!("Step {step} changed nothing: a gradient was too large for 16 bits"),
    )
    .because(format!("The loss was scaled up too far; its scale is {scale} now."))
    .advise("The training goes on by itself. Where it happens all the time, train with --precision f32.")
}

fn is_due(step: u32, every: u32) -> bool {
    every > 0 && step.is_multiple_of(every)
}

fn obey(
    job: &mut JobContext,
    session: &mut Session,
    run: &RunFolder,
    trainer: &mut Trainer,
    paused: &mut bool,
    command: Command,
) -> Result<(), Halt> {
    let step = trainer.step_count();
    match command {
        Command::Pause => {
            *paused = true;
            job.emit(Event::Paused { step });
        }
        Command::Resume => {
            *paused = false;
            job.emit(Event::Resumed { step });
        }
        Command::Set { setting, value } => set(job, session, run, trainer, setting, value)?,
        Command::SampleNow { prompt, seed } => preview(job, session, run, trainer, prompt, seed)?,
        // Handled by the loop itself, which must know what was saved.
        Command::CheckpointNow | Command::Stop => {}
    }
    Ok(())
}

fn set(
    job: &mut JobContext,
    session: &mut Session,
    run: &RunFolder,
    trainer: &mut Trainer,
    setting: Setting,
    value: f64,
) -> Result<(), Halt> {
    let mut live = trainer.live();
    let step = trainer.step_count();
    let changed = put(&mut live, setting, value)
        .and_then(|()| trainer.set_live(live).map_err(|error| error.to_string()));
    if let Err(cause) = changed {
        let report = Report::new(
            Area::Request,
            format!("A setting cannot be changed: {setting} to {value}"),
        )
        .because(cause)
        .advise("The training goes on with the old value.");
        job.emit(Event::Warning(report));
        return Ok(());
    }
    let setting_name = serde_json::to_value(setting)
        .ok()
        .and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_else(|| setting.to_string());
    session.record.changes.push(Change {
        step,
        setting: setting_name,
        value,
    });
    run.write_record(&session.record)?;
    job.emit(Event::Changed {
        step,
        setting,
        value,
    });
    Ok(())
}

fn put(live: &mut LiveSettings, setting: Setting, value: f64) -> Result<(), String> {
    match setting {
        Setting::LambdaG => live.lambda_g = value,
        Setting::LambdaL => live.lambda_l = value,
        Setting::Delta => live.delta = value,
        Setting::LearningRate => live.learning_rate = value,
        Setting::PreviewEvery => {
            if value.fract() != 0.0 || !(0.0..=f64::from(u32::MAX)).contains(&value) {
                return Err("It counts steps: a whole number of 0 or more.".to_owned());
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to be a whole number in range"
            )]
            {
                live.preview_every = value as u32;
            }
        }
    }
    Ok(())
}

fn save_checkpoint(
    job: &JobContext,
    session: &Session,
    run: &RunFolder,
    trainer: &Trainer,
) -> Result<(), Halt> {
    let checkpoint = trainer.checkpoint()?;
    let path = run.write_checkpoint(&checkpoint, session.record.settings.keep_checkpoints)?;
    job.emit(Event::CheckpointSaved {
        step: checkpoint.state.step,
        path,
    });
    Ok(())
}

/// Samples with the weights as they are. Only a stop ends the job; a failed preview is a warning.
fn preview(
    job: &mut JobContext,
    session: &mut Session,
    run: &RunFolder,
    trainer: &Trainer,
    prompt: Option<String>,
    seed: Option<u64>,
) -> Result<(), Halt> {
    let step = trainer.step_count();
    let config = &session.record.settings;
    let prompt = prompt
        .or_else(|| session.record.prompt.clone())
        .unwrap_or_else(|| session.record.subject.clone());
    let spec = SampleSpec::preview(config, prompt, seed);
    let done = sampling::preview(job, session, run, trainer.tuned(), &spec, step);
    // Progress goes on where it was.
    let steps = session.record.settings.steps as usize;
    match done {
        Err(Halt::Failed(report)) => job.emit(Event::Warning(report)),
        Err(Halt::Stopped) => {
            // The training loop sees the stop next and saves a checkpoint first.
        }
        Ok(()) => {}
    }
    job.stage(Stage::Training, Some(steps));
    Ok(())
}
