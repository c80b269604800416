//! Runs: the one going on, those that wait, those that are over, and those of earlier days that were never finished.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eframe::egui;

use super::app::App;
use super::layout::{self, Pane};
use super::notices::Action;
use super::run::{Run, Said, Sample};
use super::task::Task;
use crate::job::{
    self, Command, DeviceChoice, JobHandle, Outcome, Request, ResultRequest, ResumeRequest,
    TrainRequest, Until, Waker,
};
use crate::project::{LiveSettings, RunFolder, free_name};
use crate::report::{Area, Report};

/// Seconds an event may wait to be drawn.
const WAKE_SECS: f32 = 0.05;
/// The film a run ends with, in its folder of samples.
pub(super) const RESULT: &str = if cfg!(feature = "video") {
    "result.mp4"
} else {
    "result.gif"
};
/// Runs kept in memory with their samples.
const KEPT: usize = 8;

/// A run that waits for its turn.
pub struct Waiting {
    /// What it is called.
    pub title: String,
    request: Request,
}

/// All runs of this window.
#[derive(Default)]
pub struct Queue {
    /// Runs in the order of their start; the last one may be going on.
    pub runs: Vec<Run>,
    /// Runs that wait.
    pub waiting: VecDeque<Waiting>,
    /// Runs of earlier days that can go on.
    pub unfinished: Vec<PathBuf>,
    starting: Option<(String, Task<std::io::Result<JobHandle>>)>,
    looking: Option<Task<Vec<PathBuf>>>,
}

impl Queue {
    /// The newest run.
    #[must_use]
    pub fn current(&self) -> Option<&Run> {
        self.runs.last()
    }

    /// Whether a run is going on or about to.
    #[must_use]
    pub fn is_going(&self) -> bool {
        self.starting.is_some() || self.current().is_some_and(Run::is_going)
    }

    /// Sends a command to the run that is going on.
    pub fn send(&mut self, command: Command) -> bool {
        self.runs
            .last_mut()
            .filter(|run| run.is_going())
            .is_some_and(|run| run.send(command))
    }

    /// Holds the run, or lets it go on.
    pub fn pause_or_resume(&mut self) {
        let paused = self.current().is_some_and(|run| run.paused);
        self.send(if paused {
            Command::Resume
        } else {
            Command::Pause
        });
    }

    /// Sends changed settings to the run that is going on.
    pub fn sync_live(&mut self, wanted: &LiveSettings, now_secs: f64) {
        if let Some(run) = self.runs.last_mut() {
            run.sync_live(wanted, now_secs);
        }
    }

    /// Looks for runs that can go on, off the interface's thread.
    pub fn look_for_unfinished(&mut self, ctx: &egui::Context, runs_dir: &Path) {
        let folder = runs_dir.to_owned();
        self.looking = Task::start("unfinished runs", ctx, move |_| {
            RunFolder::unfinished(&folder)
        })
        .ok();
    }

    /// The sample that is chosen: none chosen means the newest.
    #[must_use]
    pub fn sample(&self, chosen: Option<(usize, usize)>) -> Option<&Sample> {
        match chosen {
            Some((run, sample)) => self.runs.get(run)?.samples.get(sample),
            None => self.runs.iter().rev().find_map(|run| run.samples.last()),
        }
    }

    /// The run of a sample.
    #[must_use]
    pub fn run_of(&self, chosen: Option<(usize, usize)>) -> Option<&Run> {
        match chosen {
            Some((run, _)) => self.runs.get(run),
            None => self.runs.iter().rev().find(|run| !run.samples.is_empty()),
        }
    }
}

impl App {
    /// Starts a training, or lets it wait for the one that is going on.
    pub(super) fn train(&mut self) {
        match self.train_request() {
            Ok((title, request)) => self.enqueue(title, Request::Train(Box::new(request))),
            Err(report) => self.notices.problem(report, None),
        }
    }

    /// Goes on with a run of an earlier day, or trains a finished one further.
    pub(super) fn resume(&mut self, run: PathBuf, until: Until) {
        self.queue.unfinished.retain(|known| *known != run);
        let name = run
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let request = ResumeRequest {
            result: ResultRequest {
                prompt: String::new(),
                output: Some(free_result(&run)),
                overwrite: false,
                scale_to: None,
            },
            run,
            until,
            prompt: None,
            device: DeviceChoice::Auto,
        };
        self.enqueue(name, Request::Resume(Box::new(request)));
    }

    fn train_request(&self) -> Result<(String, TrainRequest), Report> {
        let Some(source) = &self.source else {
            return Err(Report::new(Area::Request, "There is no clip yet")
                .advise("Open a film, or drop one on the window."));
        };
        if let Some(problem) = &self.cut_problem {
            return Err(problem.clone());
        }
        let words = |what: &str, text: &str| match text.trim() {
            "" => Err(Report::new(Area::Request, format!("{what} is empty"))
                .advise("Say it in a few words.")),
            text => Ok(text.to_owned()),
        };
        let settings = &self.document.settings;
        settings.check().map_err(|error| {
            Report::new(Area::Request, "A setting cannot be used").because(error.to_string())
        })?;
        let stem = Path::new(&source.clip.source_name)
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let run = free_name(&self.runs_dir(), &stem, "");
        let prompt = words("New subject", &self.document.prompt)?;
        let request = TrainRequest {
            clip: source.path.clone(),
            subject: words("Clip words", &self.document.subject)?,
            model: self.document.model.clone(),
            device: DeviceChoice::Auto,
            config: settings.clone(),
            result: Some(ResultRequest {
                prompt: prompt.clone(),
                output: Some(run.join("samples").join(RESULT)),
                overwrite: false,
                scale_to: None,
            }),
            run: Some(run),
        };
        Ok((prompt, request))
    }

    fn enqueue(&mut self, title: String, request: Request) {
        if self.queue.is_going() {
            self.notices.say(
                format!("\"{title}\" waits for the run that is going on."),
                None,
            );
            self.queue.waiting.push_back(Waiting { title, request });
        } else {
            self.start_job(title, request);
        }
    }

    /// Jobs inherit the low priority of the thread that starts them, so that they give way to the window.
    fn start_job(&mut self, title: String, mut request: Request) {
        let ctx = self.ctx.clone();
        let runs_dir = self.runs_dir();
        let waker = waker(ctx);
        let task = self.start("start job", move |_| {
            if let Request::Train(train) = &mut request {
                place_run(&runs_dir, train)?;
            }
            job::spawn(request, waker)
        });
        self.queue.starting = task.map(|task| (title, task));
    }

    /// Reads what jobs told, and starts the next one.
    pub(super) fn tick_runs(&mut self, ctx: &egui::Context, now: f64) {
        if let Some(found) = self.queue.looking.as_ref().and_then(Task::take) {
            self.queue.looking = None;
            if let Some(newest) = found.first() {
                let name = newest.file_name().unwrap_or_default().to_string_lossy();
                let text = format!("The run \"{name}\" was not finished.");
                self.notices.say(text, Some(Action::Resume(newest.clone())));
            }
            self.queue.unfinished = found;
        }
        if let Some(started) = self
            .queue
            .starting
            .as_ref()
            .and_then(|(_, task)| task.take())
        {
            let title = self.queue.starting.take().map_or(String::new(), |s| s.0);
            match started {
                Ok(handle) => self.begin_run(title, handle, now),
                Err(error) => self
                    .notices
                    .failed("The training could not be started", &error),
            }
        }
        let Some(run) = self.queue.runs.last_mut() else {
            return;
        };
        let said = run.poll(ctx, now);
        for said in said {
            self.hear(said);
        }
        if !self.queue.is_going()
            && !self.closing
            && let Some(next) = self.queue.waiting.pop_front()
        {
            self.start_job(next.title, next.request);
        }
    }

    fn begin_run(&mut self, title: String, handle: JobHandle, now: f64) {
        if self.queue.runs.len() == KEPT {
            self.queue.runs.remove(0);
        }
        self.notices
            .log(format!("Training for \"{title}\" begins."));
        self.queue.runs.push(Run::new(title, handle, now));
        self.compare.choose(None);
        self.run_view.follow();
        if layout::is_shown(&self.tree, Pane::Result) {
            layout::show(&mut self.tree, Pane::Result);
        }
        self.memory.start_peak();
    }

    fn hear(&mut self, said: Said) {
        match said {
            Said::Note(text) => self.notices.log(text),
            Said::Problem(report) => self.notices.problem(report, None),
            Said::Folder(path) => {
                if !self.document.runs.contains(&path) {
                    self.document.runs.push(path.clone());
                    // A run is not a change that undo takes back.
                    self.history
                        .amend(|document| document.runs.push(path.clone()));
                }
            }
            Said::Sampled => self.show_sample(),
            Said::Over => self.run_over(),
        }
    }

    fn run_over(&mut self) {
        let Some(run) = self.queue.runs.last() else {
            return;
        };
        if let Some(secs) = run.step_secs() {
            let done = run.outcome == Some(Outcome::Completed);
            let rest = (run.took_secs - secs * f64::from(run.step())).max(0.0);
            self.settings.pace.learn(
                &super::estimate::key(&self.document, self.model.as_ref()),
                secs,
                done.then_some(rest),
                self.memory.peak_mib(),
            );
        }
        let text = run.status();
        let action = run.film.clone().map(Action::ShowFile);
        match &run.outcome {
            Some(Outcome::Completed) => self.notices.say(format!("{text}."), action),
            Some(Outcome::Cancelled { .. }) => self.notices.say(
                format!("{text}. It can go on from there."),
                run.folder.clone().map(Action::Resume),
            ),
            _ => {}
        }
    }

    /// Hands the shown sample to the instruments.
    pub(super) fn show_sample(&mut self) {
        let sample = self
            .queue
            .sample(self.compare.chosen)
            .map(|sample| (Arc::clone(&sample.frames), sample.fps));
        self.instruments.set_sample(&self.ctx, sample);
        self.compare.renew();
    }

    /// Asks for a sample: of the run that is going on, with the words and the seed of the panel.
    pub(super) fn sample_now(&mut self) {
        let prompt = self.document.prompt.trim().to_owned();
        let sent = self.queue.send(Command::SampleNow {
            prompt: (!prompt.is_empty()).then_some(prompt),
            seed: Some(self.document.settings.seed),
        });
        if !sent {
            self.notices
                .say("There is no training to sample from. Train first.", None);
        }
    }
}

/// A name for the film of a run that goes on; it may have one already.
fn free_result(run: &Path) -> PathBuf {
    let (stem, ending) = RESULT.split_once('.').unwrap_or((RESULT, ""));
    free_name(&run.join("samples"), stem, ending)
}

/// Wakes the window a moment after an event, so that many events cost one frame.
pub(super) fn waker(ctx: egui::Context) -> Waker {
    Arc::new(move || ctx.request_repaint_after_secs(WAKE_SECS))
}

/// Takes a run folder nobody has, and makes the folder that its result goes into.
fn place_run(runs_dir: &Path, train: &mut TrainRequest) -> std::io::Result<()> {
    let Some(run) = &train.run else { return Ok(()) };
    let name = run.file_name().unwrap_or_default().to_string_lossy();
    // A run that waited finds its name taken by the one before it.
    let run = free_name(runs_dir, &name, "");
    std::fs::create_dir_all(run.join("samples"))?;
    if let Some(result) = &mut train.result {
        result.output = Some(run.join("samples").join(RESULT));
    }
    train.run = Some(run);
    Ok(())
}
