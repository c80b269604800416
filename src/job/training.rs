//! The training loop: obey commands, step, tell, save.

use std::time::{Duration, Instant};

use super::changes::{name_of, note, put, setting_of};
use super::context::JobContext;
use super::message::{Command, Event, Setting, Stage};
use super::problem::Halt;
use super::room::{Steps, step_within};
use super::sampling::{self, SampleSpec};
use super::session::Session;
use crate::project::{Change, RunFolder};
use crate::report::{Area, Report};
use crate::train::{Checkpointing, StepStats, TrainError, Trainer, TransferConfig};

/// Steps between two tables of gradients.
const GRADIENTS_EVERY: u32 = 10;
/// Share of the time that checkpoints by the clock take at most.
const SHARE_OF_TIME: f64 = 0.05;

/// Trains to the settings' number of steps and writes the final weights.
///
/// A stop leaves a checkpoint of the last finished step.
pub(super) fn train(
    job: &mut JobContext,
    session: &mut Session,
    run: &mut RunFolder,
    trainer: &mut Trainer,
) -> Result<(), Halt> {
    let step = trainer.step_count();
    session.record.changes.sort_by_key(|change| change.step);
    let mut replay = session.record.changes.clone();
    replay.retain(|change| change.step >= step);
    job.set_step(step);
    let training = Training {
        saved: Saved {
            // A run at step 0 has none; one that went on began at one.
            step: (step > 0).then_some(step),
            at: Instant::now(),
            took: Duration::ZERO,
        },
        paused: false,
        replay,
        job,
        session,
        run,
        trainer,
    };
    training.run()
}

impl Steps for Trainer {
    fn step(&mut self) -> Result<StepStats, TrainError> {
        Self::step(self)
    }

    fn checkpointing(&self) -> Checkpointing {
        Self::checkpointing(self)
    }

    fn set_checkpointing(&mut self, checkpointing: Checkpointing) {
        Self::set_checkpointing(self, checkpointing);
    }
}

/// A training going on.
struct Training<'a> {
    job: &'a mut JobContext,
    session: &'a mut Session,
    run: &'a mut RunFolder,
    trainer: &'a mut Trainer,
    /// What was changed after the checkpoint that this training began at, by a program that came further.
    replay: Vec<Change>,
    paused: bool,
    saved: Saved,
}

/// The newest checkpoint.
struct Saved {
    /// Of which step; none where there is no checkpoint.
    step: Option<u32>,
    /// When it was written, or the training began.
    at: Instant,
    /// How long that took.
    took: Duration,
}

impl Saved {
    fn is_due(&self, step: u32, settings: &TransferConfig) -> bool {
        // Where a checkpoint takes long, the clock asks for fewer of them: they shall not take the training's time.
        let secs = f64::max(
            settings.checkpoint_secs,
            self.took.as_secs_f64() / SHARE_OF_TIME,
        );
        let late = settings.checkpoint_secs > 0.0 && self.at.elapsed().as_secs_f64() >= secs;
        late || is_due(step, settings.checkpoint_every)
    }
}

fn is_due(step: u32, every: u32) -> bool {
    every > 0 && step.is_multiple_of(every)
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

impl Training<'_> {
    fn run(mut self) -> Result<(), Halt> {
        self.job.stage(Stage::Training, Some(self.steps()));
        while !self.trainer.is_done() {
            self.repeat_changes();
            while let Some(command) = self.job.next_command(self.paused) {
                self.obey(command)?;
            }
            self.step()?;
        }
        self.save()?;
        let path = self.run.final_weights();
        let weights = self.trainer.weights(self.session.about())?;
        self.run.still_there()?;
        weights.write(&path)?;
        self.job.emit(Event::WeightsSaved { path });
        Ok(())
    }

    fn steps(&self) -> usize {
        self.session.record.settings.steps as usize
    }

    fn step(&mut self) -> Result<(), Halt> {
        let next = self.trainer.step_count() + 1;
        let (job, settings) = (&*self.job, &mut self.session.record.settings);
        let mut less = false;
        let stats = step_within(self.trainer, next, |checkpointing, report| {
            settings.checkpointing = checkpointing;
            less = true;
            job.emit(Event::Warning(report));
        })?;
        if less {
            // A run that is taken up again begins with what fits.
            self.run.still_there()?;
            self.run.write_record(&self.session.record)?;
        }
        self.run.still_there()?;
        self.run.append_metrics(&stats)?;
        if let Some(scale) = stats.overflowed {
            let report = overflow_report(stats.step, scale);
            self.job.emit(Event::Warning(report));
        }
        self.job.set_step(stats.step);
        self.job.emit_droppable(Event::Step(stats));
        let step = self.trainer.step_count();
        if step == 1 || is_due(step, GRADIENTS_EVERY) {
            self.job.emit_droppable(Event::Gradients {
                step,
                norms: self.trainer.grad_norms().clone(),
            });
        }
        // The last step's are written when the training is over.
        if self.trainer.is_done() {
            return Ok(());
        }
        if self.saved.is_due(step, &self.session.record.settings) {
            self.save()?;
        }
        if is_due(step, self.trainer.live().preview_every) {
            self.preview(None, None)?;
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<(), Halt> {
        let step = self.trainer.step_count();
        match command {
            Command::Pause => {
                self.paused = true;
                self.job.emit(Event::Paused { step });
            }
            Command::Resume => {
                self.paused = false;
                self.job.emit(Event::Resumed { step });
            }
            Command::Set { setting, value } => self.set(setting, value)?,
            Command::SampleNow { prompt, seed } => self.preview(prompt, seed)?,
            Command::CheckpointNow => {
                // Asked for by a person: answered also where the step is saved already.
                self.saved.step = None;
                self.save()?;
            }
            Command::Stop => {
                if step > 0 {
                    self.save()?;
                }
                return Err(Halt::Stopped);
            }
        }
        Ok(())
    }

    fn set(&mut self, setting: Setting, value: f64) -> Result<(), Halt> {
        if let Err(cause) = self.put(setting, value) {
            let report = Report::new(
                Area::Request,
                format!("A setting cannot be changed: {setting} to {value}"),
            )
            .because(cause)
            .advise("The training goes on with the old value.");
            self.job.emit(Event::Warning(report));
            return Ok(());
        }
        let change = Change {
            step: self.trainer.step_count(),
            setting: name_of(setting),
            value,
        };
        self.replay.retain(|later| later.setting != change.setting);
        note(&mut self.session.record.changes, change);
        self.run.still_there()?;
        self.run.write_record(&self.session.record)?;
        self.tell_changed(setting, value);
        Ok(())
    }

    /// Obeys again what was changed at this step in an earlier life of the run.
    fn repeat_changes(&mut self) {
        let step = self.trainer.step_count();
        let due = self
            .replay
            .extract_if(.., |change| change.step == step)
            .collect::<Vec<_>>();
        for change in due {
            let repeated = setting_of(&change.setting)
                .ok_or_else(|| "This version does not know it.".to_owned())
                .and_then(|setting| self.put(setting, change.value).map(|()| setting));
            match repeated {
                Ok(setting) => self.tell_changed(setting, change.value),
                Err(cause) => {
                    let (name, value) = (&change.setting, change.value);
                    let headline = format!("A recorded change is left out: {name} to {value}");
                    let report = Report::new(Area::Run, headline).because(cause);
                    self.job.emit(Event::Warning(report));
                }
            }
        }
    }

    fn put(&mut self, setting: Setting, value: f64) -> Result<(), String> {
        let mut live = self.trainer.live();
        put(&mut live, setting, value)?;
        self.trainer
            .set_live(live)
            .map_err(|error| error.to_string())
    }

    fn tell_changed(&self, setting: Setting, value: f64) {
        self.job.emit(Event::Changed {
            step: self.trainer.step_count(),
            setting,
            value,
        });
    }

    /// Writes a checkpoint, unless this step has one.
    fn save(&mut self) -> Result<(), Halt> {
        if self.saved.step == Some(self.trainer.step_count()) {
            return Ok(());
        }
        let begun = Instant::now();
        let checkpoint = self.trainer.checkpoint()?;
        let step = checkpoint.state.step;
        let keep = self.session.record.settings.keep_checkpoints;
        let path = self.run.write_checkpoint(&checkpoint, keep)?;
        self.saved = Saved {
            step: Some(step),
            at: Instant::now(),
            took: begun.elapsed(),
        };
        self.job.emit(Event::CheckpointSaved { step, path });
        Ok(())
    }

    /// Samples with the weights as they are. Only a stop ends the job; a failed preview is a warning.
    fn preview(&mut self, prompt: Option<String>, seed: Option<u64>) -> Result<(), Halt> {
        let step = self.trainer.step_count();
        let record = &self.session.record;
        let prompt = prompt
            .or_else(|| record.prompt.clone())
            .unwrap_or_else(|| record.subject.clone());
        let spec = SampleSpec::preview(&record.settings, prompt, seed);
        self.run.still_there()?;
        let tuned = self.trainer.tuned();
        let done = sampling::preview(self.job, self.session, self.run, tuned, &spec, step);
        match done {
            Err(Halt::Failed(report)) => self.job.emit(Event::Warning(report)),
            // The training loop sees the stop next and saves a checkpoint first.
            Err(Halt::Stopped) | Ok(()) => {}
        }
        // Progress goes on where it was.
        self.job.stage(Stage::Training, Some(self.steps()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_due_by_steps_and_by_the_clock() {
        let saved = |secs_ago: f64, took_secs: f64| Saved {
            step: None,
            at: Instant::now() - Duration::from_secs_f64(secs_ago),
            took: Duration::from_secs_f64(took_secs),
        };
        let settings = |checkpoint_every, checkpoint_secs| TransferConfig {
            checkpoint_every,
            checkpoint_secs,
            ..TransferConfig::default()
        };
        assert!(saved(0.0, 0.0).is_due(10, &settings(5, 0.0)));
        assert!(!saved(1e3, 0.0).is_due(11, &settings(5, 0.0)));
        assert!(!saved(1e3, 0.0).is_due(10, &settings(0, 0.0)));
        assert!(saved(61.0, 1.0).is_due(11, &settings(0, 60.0)));
        assert!(!saved(30.0, 1.0).is_due(11, &settings(0, 60.0)));
        // One that took 6 s is due again after 120 s.
        assert!(!saved(100.0, 6.0).is_due(11, &settings(0, 60.0)));
        assert!(saved(121.0, 6.0).is_due(11, &settings(0, 60.0)));
    }
}
