//! A run as the window sees it: what its events said, its samples, its pace.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use eframe::egui;

use super::past::{self, Past};
use super::sample::Sample;
use crate::job::{Command, Event, JobHandle, Outcome, Setting, Stage, StopReason};
use crate::methods::Method;
use crate::project::{LiveSettings, RunRecord};
use crate::report::Report;
use crate::train::{StepStats, TransferConfig};
use crate::video::Frame;

/// Events read in one frame of the window; the others wait for the next one.
const EVENTS_A_FRAME: usize = 200;
/// Seconds between two changes of the same setting that are sent while a slider is dragged.
const LIVE_SECS: f64 = 0.15;

/// A setting that changed on the way, for the plots.
#[derive(Clone, Debug)]
pub struct Mark {
    /// Holds from the step after this one.
    pub step: u32,
    /// What.
    pub text: String,
}

/// What a run tells the window beside its own state.
pub enum Said {
    /// For the log.
    Note(String),
    /// For the list of problems.
    Problem(Report),
    /// A new sample is there.
    Sampled,
    /// The run's folder is known.
    Folder(PathBuf),
    /// It is over.
    Over,
}

/// How long a step takes, without the pauses for samples and checkpoints.
#[derive(Clone, Debug, Default)]
struct Pace {
    last_at: Option<f64>,
    step_secs: Option<f64>,
}

impl Pace {
    fn step(&mut self, now_secs: f64, steps: u32) {
        if let Some(last) = self.last_at.filter(|_| steps > 0) {
            let took = (now_secs - last) / f64::from(steps);
            self.step_secs = Some(self.step_secs.map_or(took, |old| 0.8 * old + 0.2 * took));
        }
        self.last_at = Some(now_secs);
    }
}

/// One run, going on or over.
pub struct Run {
    /// What it is called.
    pub title: String,
    handle: Option<JobHandle>,
    /// Its folder, once known.
    pub folder: Option<PathBuf>,
    /// What it does now.
    pub stage: Option<Stage>,
    /// Steps of the stage done.
    pub done: u32,
    /// Steps of the stage in all.
    pub total: u32,
    /// Training steps in all.
    pub steps: u32,
    /// Whether it holds.
    pub paused: bool,
    /// Whether it was asked to hold and has not come to a place where it can.
    pub pausing: bool,
    /// Every step heard of.
    pub stats: Vec<StepStats>,
    /// Norm of the newest gradient of each weight, by name.
    pub gradients: BTreeMap<String, f64>,
    /// Settings that changed on the way.
    pub marks: Vec<Mark>,
    /// The clip as the run's model saw it when the run was asked for; none for a run of an earlier day.
    pub reference: Option<Arc<[Frame]>>,
    /// What its folder says, for a run of an earlier day.
    pub record: Option<Box<RunRecord<TransferConfig>>>,
    /// What it painted.
    pub samples: Vec<Sample>,
    /// Where the film of the result is.
    pub film: Option<PathBuf>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// How the training had ended before a sample began: the sample does not change that.
    trained: Option<Outcome>,
    /// What decides how long its steps take, see `estimate.rs`.
    pub kind: String,
    /// Whether a stop was asked for.
    pub stopping: bool,
    /// Whether it was taken up again: its time is not that of a whole run.
    pub went_on: bool,
    /// Whether the job only samples from what the run has learnt.
    pub is_sampling: bool,
    /// Words and seeds of the samples that were asked for by hand and are not there yet.
    asked: VecDeque<(String, u64)>,
    /// The run's own seed.
    seed: Option<u64>,
    /// What the panel said when the training began, then what was sent: only what is moved after that is sent. A run that
    /// waited has settings of its own, and one of an earlier day those that it ended with.
    live: Option<LiveSettings>,
    live_sent_at: f64,
    pace: Pace,
    started_at: f64,
    /// Seconds it took, once over; none for a run of an earlier day.
    pub took_secs: Option<f64>,
}

impl Run {
    /// Whether it learnt adapters: its folder says so, or its steps do, most of which have a pass over a single frame.
    #[must_use]
    pub fn has_adapters(&self) -> bool {
        let record = self.record.as_ref();
        record.is_some_and(|record| record.settings.method == Method::MotionDirector)
            || self.stats.iter().any(|stats| stats.spatial.is_some())
    }

    /// A run that was just started.
    #[must_use]
    pub fn new(title: String, handle: JobHandle, now_secs: f64) -> Self {
        Self {
            handle: Some(handle),
            started_at: now_secs,
            ..Self::idle(title)
        }
    }

    /// A run nobody works in.
    fn idle(title: String) -> Self {
        Self {
            title,
            handle: None,
            folder: None,
            stage: None,
            done: 0,
            total: 0,
            steps: 0,
            paused: false,
            pausing: false,
            stats: Vec::new(),
            gradients: BTreeMap::new(),
            marks: Vec::new(),
            reference: None,
            record: None,
            samples: Vec::new(),
            film: None,
            outcome: None,
            trained: None,
            kind: String::new(),
            stopping: false,
            went_on: false,
            is_sampling: false,
            asked: VecDeque::new(),
            seed: None,
            live: None,
            live_sent_at: 0.0,
            pace: Pace::default(),
            started_at: 0.0,
            took_secs: None,
        }
    }

    /// A run of an earlier day, as its folder tells it.
    #[must_use]
    pub fn of_past(ctx: &egui::Context, past: Past) -> Self {
        let record = past.record;
        let title = record.prompt.clone().unwrap_or_else(|| {
            let name = past.folder.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        });
        let marks = record.changes.iter().map(|change| Mark {
            step: change.step,
            text: format!("{} {}", past::setting_name(&change.setting), change.value),
        });
        let samples = past.samples.into_iter().map(|sample| Sample {
            film: Some(sample.path),
            ..Sample::new(ctx, sample.preview, sample.is_result)
        });
        let mut run = Self::idle(title);
        run.marks = marks.collect();
        run.samples = samples.collect();
        run.folder = Some(past.folder);
        run.steps = record.settings.steps;
        run.seed = Some(record.settings.seed);
        run.live = Some(past::settings_at_end(&record).live());
        run.stats = past.stats;
        run.record = Some(record);
        run.outcome = Some(if past.is_finished {
            Outcome::Completed
        } else {
            Outcome::Cancelled {
                reason: StopReason::Asked,
            }
        });
        run
    }

    /// A job works in this run again: it trains on, or samples from what was learnt.
    pub fn go_on(&mut self, handle: JobHandle, is_sampling: bool, now_secs: f64) {
        self.handle = Some(handle);
        self.is_sampling = is_sampling;
        if !is_sampling {
            self.went_on = true;
            // From now on the panel says what its settings are.
            self.record = None;
        }
        let ended = self.outcome.take();
        self.trained = ended.filter(|_| is_sampling);
        self.stage = None;
        (self.stopping, self.paused, self.pausing) = (false, false, false);
        self.started_at = now_secs;
        self.pace.last_at = None;
    }

    /// Its end has been told: where that was a sample's, the run is again what it was before.
    pub fn end_told(&mut self) {
        if let Some(trained) = self.trained.take() {
            self.outcome = Some(trained);
            self.stopping = false;
        }
    }

    /// Whether there is something to sample from, as far as that is known here.
    #[must_use]
    pub fn has_weights(&self) -> bool {
        let learnt = self.step() > 0 || self.outcome == Some(Outcome::Completed);
        self.folder.is_some() && learnt
    }

    /// Whether its training goes on, not only a sample.
    #[must_use]
    pub fn is_training(&self) -> bool {
        self.is_going() && !self.is_sampling
    }

    /// Notes a sample that was asked for by hand.
    pub fn ask_sample(&mut self, prompt: String, seed: u64) {
        self.asked.push_back((prompt, seed));
    }

    /// Whether it goes on.
    #[must_use]
    pub fn is_going(&self) -> bool {
        self.outcome.is_none()
    }

    /// Seconds a training step takes here, once two were seen.
    #[must_use]
    pub fn step_secs(&self) -> Option<f64> {
        self.pace.step_secs
    }

    /// Training steps done.
    #[must_use]
    pub fn step(&self) -> u32 {
        self.stats.last().map_or(0, |stats| stats.step)
    }

    /// Sends a command; a job that is over takes none.
    pub fn send(&mut self, command: Command) -> bool {
        match command {
            Command::Stop => self.stopping = true,
            Command::Pause => self.pausing = true,
            Command::Resume => self.pausing = false,
            _ => {}
        }
        self.handle
            .as_ref()
            .is_some_and(|handle| handle.send(command).is_ok())
    }

    /// The panel says something else as a whole, which is not meant for this run: only what is moved from now on is sent.
    pub fn rebase_live(&mut self, panel: &LiveSettings) {
        if let Some(live) = &mut self.live {
            *live = *panel;
        }
    }

    /// Sends what the panel has changed. While a slider is dragged, a few times a second.
    pub fn sync_live(&mut self, wanted: &LiveSettings, now_secs: f64) {
        if !self.is_training() {
            return;
        }
        let live = *self.live.get_or_insert(*wanted);
        if live == *wanted || now_secs - self.live_sent_at < LIVE_SECS {
            return;
        }
        let settings = [
            (Setting::LambdaG, live.lambda_g, wanted.lambda_g),
            (Setting::LambdaL, live.lambda_l, wanted.lambda_l),
            (Setting::Delta, live.delta, wanted.delta),
            (
                Setting::LearningRate,
                live.learning_rate,
                wanted.learning_rate,
            ),
            (
                Setting::PreviewEvery,
                f64::from(live.preview_every),
                f64::from(wanted.preview_every),
            ),
        ];
        let sent = settings
            .into_iter()
            .filter(|(_, old, new)| old != new)
            .all(|(setting, _, value)| self.send(Command::Set { setting, value }));
        if sent {
            self.live = Some(*wanted);
            self.live_sent_at = now_secs;
        }
    }

    /// Uploads small pictures that are ready, and gives why others cannot be.
    pub fn poll_samples(&mut self, ctx: &egui::Context) -> Vec<Report> {
        let samples = self.samples.iter_mut();
        samples.filter_map(|sample| sample.poll(ctx)).collect()
    }

    /// Reads what the job told since the last time.
    pub fn poll(&mut self, ctx: &egui::Context, now_secs: f64) -> Vec<Said> {
        let mut said = Vec::new();
        for _ in 0..EVENTS_A_FRAME {
            let Some(event) = self
                .handle
                .as_ref()
                .and_then(|handle| handle.events().try_recv().ok())
            else {
                return said;
            };
            self.hear(ctx, event, now_secs, &mut said);
        }
        ctx.request_repaint();
        said
    }

    fn hear(&mut self, ctx: &egui::Context, event: Event, now_secs: f64, said: &mut Vec<Said>) {
        match event {
            Event::Started { config } => {
                self.steps = config.steps;
                self.seed = Some(config.seed);
            }
            Event::RunFolder { path } => {
                said.push(Said::Note(format!(
                    "The run is kept in {}.",
                    path.display()
                )));
                said.push(Said::Folder(path.clone()));
                self.folder = Some(path);
            }
            Event::Stage { stage, total } => {
                self.stage = Some(stage);
                self.total = total.unwrap_or(0);
                self.done = if stage == Stage::Training {
                    self.step()
                } else {
                    0
                };
                self.pace.last_at = None;
            }
            Event::Progress { done, total, .. } => (self.done, self.total) = (done, total),
            Event::Step(stats) => self.step_done(stats, now_secs),
            Event::Gradients { norms, .. } => self.gradients = norms,
            Event::Note { text } => said.push(Said::Note(text)),
            Event::Paused { step } => {
                (self.paused, self.pausing) = (true, false);
                said.push(Said::Note(format!("Paused after step {step}.")));
            }
            Event::Resumed { step } => {
                self.paused = false;
                self.pace.last_at = None;
                said.push(Said::Note(format!("Goes on after step {step}.")));
            }
            Event::Changed {
                step,
                setting,
                value,
            } => {
                let text = format!("{setting} {value}");
                said.push(Said::Note(format!("From step {}: {text}.", step + 1)));
                // A run that went back to its checkpoint is told again what was changed since.
                self.marks
                    .retain(|mark| (mark.step, &mark.text) != (step, &text));
                self.marks.push(Mark { step, text });
            }
            Event::PreviewReady { prompt, path, .. } => {
                let seed = self.seed_of(&prompt);
                self.take_sample(ctx, (false, path, seed), said);
            }
            Event::CheckpointSaved { step, path } => said.push(Said::Note(format!(
                "Checkpoint of step {step}: {}.",
                path.display()
            ))),
            Event::WeightsSaved { path } => said.push(Said::Note(format!(
                "Fine-tuned weights: {}.",
                path.display()
            ))),
            Event::Exported { path, .. } => {
                said.push(Said::Note(format!("The film is {}.", path.display())));
                self.film = Some(path.clone());
                self.take_sample(ctx, (true, path, self.seed), said);
            }
            // The window trains and samples; comparisons as jobs are the command line's.
            Event::Scored { .. }
            | Event::Suite { .. }
            | Event::Cell { .. }
            | Event::Table { .. } => {}
            // Downloads have a place of their own, see `library.rs`.
            Event::ModelReady { .. } => {}
            Event::Warning(report) => said.push(Said::Problem(report)),
            Event::Finished(outcome) => self.over(outcome, now_secs, said),
        }
    }

    fn over(&mut self, outcome: Outcome, now_secs: f64, said: &mut Vec<Said>) {
        if let Outcome::Failed(report) = &outcome {
            said.push(Said::Problem(report.clone()));
        }
        self.outcome = Some(outcome);
        (self.paused, self.pausing) = (false, false);
        if !self.is_sampling {
            self.took_secs = Some(now_secs - self.started_at);
        }
        self.asked.clear();
        self.handle = None;
        said.push(Said::Over);
    }

    fn step_done(&mut self, stats: StepStats, now_secs: f64) {
        self.pace
            .step(now_secs, stats.step.saturating_sub(self.step()));
        (self.done, self.total, self.steps) = (stats.step, stats.steps, stats.steps);
        // A resume repeats what came after its checkpoint.
        let known = self.stats.partition_point(|old| old.step < stats.step);
        self.stats.truncate(known);
        self.stats.push(stats);
    }

    /// The seed of a preview: one that was asked for by hand has its own.
    fn seed_of(&mut self, prompt: &str) -> Option<u64> {
        let asked = self
            .asked
            .pop_front_if(|(words, _)| words.as_str() == prompt);
        asked.map(|(_, seed)| seed).or(self.seed)
    }

    fn take_sample(
        &mut self,
        ctx: &egui::Context,
        (is_result, film, seed): (bool, PathBuf, Option<u64>),
        said: &mut Vec<Said>,
    ) {
        let preview = self.handle.as_ref().and_then(JobHandle::preview);
        match preview {
            Some(preview) => {
                self.samples.push(Sample {
                    film: Some(film),
                    seed,
                    ..Sample::new(ctx, preview, is_result)
                });
                said.push(Said::Sampled);
            }
            // The slot keeps only the newest: an earlier event took the result already.
            None => {
                if let Some(last) = self.samples.last_mut().filter(|_| is_result) {
                    (last.is_result, last.film, last.seed) = (true, Some(film), seed);
                }
            }
        }
    }

    /// Seconds to go in this stage, where that can be said.
    #[must_use]
    pub fn eta_secs(&self) -> Option<f64> {
        if self.stage != Some(Stage::Training) || self.paused {
            return None;
        }
        let left = f64::from(self.steps.saturating_sub(self.step()));
        self.pace.step_secs.map(|secs| secs * left)
    }

    /// What it does, in words.
    #[must_use]
    pub fn status(&self) -> String {
        match &self.outcome {
            Some(Outcome::Completed) => match self.took_secs {
                Some(secs) => format!("Done in {}", super::player::length(secs)),
                None => format!("Done, {} steps", self.step()),
            },
            Some(Outcome::Cancelled { .. }) => format!("Stopped after step {}", self.step()),
            Some(Outcome::Failed(report)) => report.headline.clone(),
            None if self.stopping => "Stopping…".to_owned(),
            None if self.paused => format!("Paused after step {}", self.step()),
            None if self.pausing && self.stage == Some(Stage::Training) => {
                "Pausing after this step…".to_owned()
            }
            None if self.pausing => "Pausing…".to_owned(),
            None => match self.stage {
                Some(Stage::Training) => format!("Step {} of {}", self.step(), self.steps),
                Some(stage) if self.total > 0 => {
                    format!("{} {} of {}", stage_name(stage), self.done, self.total)
                }
                Some(stage) => stage_name(stage).to_owned(),
                None => "Starting".to_owned(),
            },
        }
    }
}

/// A stage in words.
#[must_use]
pub fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Loading => "Reading clip and model",
        Stage::Estimating => "Estimating depth",
        Stage::Encoding => "Encoding the clip",
        Stage::Training => "Training",
        Stage::Inverting => "Inverting the clip",
        Stage::Sampling => "Sampling",
        Stage::Decoding => "Decoding the sample",
        Stage::Exporting => "Writing the film",
        Stage::Downloading => "Downloading",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{self, Halt};

    /// A pause waits for the step that is going on, and the window says so.
    #[test]
    fn a_run_says_what_it_does() {
        let mut run = Run::idle("a bear".to_owned());
        (run.stage, run.steps) = (Some(Stage::Training), 40);
        assert_eq!(run.status(), "Step 0 of 40");
        run.pausing = true;
        assert_eq!(run.status(), "Pausing after this step…");
        run.stage = Some(Stage::Sampling);
        assert_eq!(run.status(), "Pausing…", "a sample has no such step");
        (run.paused, run.pausing) = (true, false);
        assert_eq!(run.status(), "Paused after step 0");
        run.stopping = true;
        assert_eq!(run.status(), "Stopping…");
        run.outcome = Some(Outcome::Completed);
        run.took_secs = Some(75.0);
        assert!(run.status().starts_with("Done in 1"), "{}", run.status());
    }

    /// A sample that is stopped leaves a finished run finished, and one that succeeds a stopped run stopped.
    #[test]
    fn a_sample_does_not_change_how_the_training_ended() {
        let stopped = Outcome::Cancelled {
            reason: StopReason::Asked,
        };
        for (trained, sampled) in [
            (Outcome::Completed, stopped.clone()),
            (stopped, Outcome::Completed),
        ] {
            let completes = sampled == Outcome::Completed;
            let job = job::spawn_task("sample", Arc::new(|| {}), move |_| match completes {
                true => Ok(()),
                false => Err(Halt::Stopped),
            });
            let mut run = Run::idle("a bear".to_owned());
            run.outcome = Some(trained.clone());
            run.go_on(job.unwrap(), true, 0.0);
            assert!(run.is_going() && !run.is_training());
            let ctx = egui::Context::default();
            while run.is_going() {
                run.poll(&ctx, 1.0);
                std::thread::yield_now();
            }
            assert_eq!(run.outcome, Some(sampled), "what is told");
            run.end_told();
            assert_eq!(run.outcome, Some(trained), "what the run is");
        }
    }
}
