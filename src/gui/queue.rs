//! Runs: the one going on, those that wait, those that are over, and those of earlier days that were never finished.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use eframe::egui;

use super::app::{App, Source};
use super::layout::{self, Pane};
use super::notices::Action;
use super::past::Reading;
use super::run::{Run, Said};
use super::sample::Sample;
use super::task::Task;
use crate::job::{
    self, Command, DeviceChoice, JobHandle, Outcome, Request, ResultRequest, ResumeRequest,
    SampleRequest, SamplingChanges, TrainRequest, Until, Waker,
};
use crate::project::{LiveSettings, MoreClip, RunFolder, free_name};
use crate::report::{Area, Report};
use crate::video::Frame;

/// Seconds an event may wait to be drawn.
const WAKE_SECS: f32 = 0.1;
/// The film a run ends with, in its folder of samples.
pub(super) const RESULT: &str = if cfg!(feature = "video") {
    "result.mp4"
} else {
    "result.gif"
};
/// Runs kept in memory with their samples.
pub(super) const KEPT: usize = 8;

/// A job that waits for its turn.
pub struct Waiting {
    /// What it is called.
    pub title: String,
    request: Request,
    told: Told,
}

/// What the panel said when a job was asked for. Until the job begins it may say something else.
struct Told {
    /// The clip as the model sees it.
    reference: Option<Arc<[Frame]>>,
    /// What decides how long a step takes.
    kind: String,
}

impl Waiting {
    /// The run that the job works in, where there is one already.
    fn run(&self) -> Option<&Path> {
        match &self.request {
            Request::Train(_) | Request::Replay(_) => None,
            Request::Resume(request) => Some(&request.run),
            Request::Sample(request) => Some(&request.source),
            // Asked for on the command line only.
            Request::Evaluate(_) | Request::Suite(_) => None,
        }
    }
}

/// A job that is about to begin.
struct Starting {
    title: String,
    /// The run that goes on.
    run: Option<PathBuf>,
    is_sampling: bool,
    told: Told,
    task: Task<std::io::Result<JobHandle>>,
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
    starting: Option<Starting>,
    looking: Option<Task<Result<Vec<PathBuf>, Report>>>,
    /// Runs of earlier days that are read.
    pub(super) reading: Reading,
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
        let paused = self.current().is_some_and(|run| run.paused || run.pausing);
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

    /// The panel has other settings as a whole. They are for the next run: the one that goes on, and those that wait to go on,
    /// are told only of what is moved from now on.
    pub fn rebase_live(&mut self, panel: &LiveSettings) {
        for run in &mut self.runs {
            run.rebase_live(panel);
        }
    }

    /// The place of the run in a folder.
    #[must_use]
    pub fn place_of(&self, folder: &Path) -> Option<usize> {
        let is_there = |run: &Run| run.folder.as_deref() == Some(folder);
        self.runs.iter().position(is_there)
    }

    /// Looks for runs that can go on, off the interface's thread.
    pub fn look_for_unfinished(&mut self, ctx: &egui::Context, runs_dir: &Path) {
        let folder = runs_dir.to_owned();
        self.looking = Task::start("unfinished runs", ctx, move |_| {
            Ok(RunFolder::unfinished(&folder))
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
        // While something is typed, the document is not settled.
        self.fit_band_weights();
        match self.train_request() {
            Ok((title, request)) => self.enqueue(title, Request::Train(Box::new(request))),
            Err(report) => self.notices.problem(report, None),
        }
    }

    /// Goes on with a run, or trains a finished one further. One of an earlier day is read first: its numbers and samples are
    /// worth seeing, and the panel takes its settings, so that what is shown is what is trained.
    pub(super) fn resume(&mut self, run: PathBuf, until: Until) {
        if self.queue.place_of(&run).is_some() {
            self.queue.unfinished.retain(|known| *known != run);
            self.use_run(&run);
            self.resume_known(run, until);
        } else {
            self.read_run(run, until);
        }
    }

    /// Goes on with a run that is among those of the window.
    pub(super) fn resume_known(&mut self, run: PathBuf, until: Until) {
        let name = run
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let request = ResumeRequest {
            result: ResultRequest {
                prompt: String::new(),
                output: None,
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

    /// The clip that is open, when it is the one that the document asks for. After an undo, or with a project whose clip is gone,
    /// another one is still there: the words are not about it.
    pub(super) fn wanted_source(&self) -> Option<&Source> {
        let wanted = self.document.clip.as_ref();
        self.source
            .as_ref()
            .filter(|source| wanted == Some(&source.path))
    }

    /// Why there is no clip to learn from.
    fn no_clip(&self) -> Report {
        if self.opening.is_some() {
            return Report::new(Area::Request, "The clip is still being opened")
                .advise("Press Train again when it is shown.");
        }
        match &self.document.clip {
            Some(clip) => {
                let name = clip.file_name().unwrap_or(clip.as_os_str());
                let headline = format!("{} could not be opened", name.to_string_lossy());
                Report::new(Area::Request, headline)
                    .because(
                        "The words and the cut are for this clip, not for the one that is shown.",
                    )
                    .because(format!("It is looked for at {}.", clip.display()))
                    .advise("Put it back to where it was and open it again, or open another clip.")
            }
            None => Report::new(Area::Request, "There is no clip yet")
                .advise("Open a film, or drop one on the window."),
        }
    }

    /// Puts the command that does what Train does into the clipboard.
    pub(super) fn copy_command(&mut self) {
        match self.train_request() {
            Ok((_, request)) => {
                self.ctx.copy_text(job::command_line(&request));
                self.notices.say("The command is in the clipboard.", None);
            }
            Err(report) => self.notices.problem(report, None),
        }
    }

    fn train_request(&self) -> Result<(String, TrainRequest), Report> {
        let Some(source) = self.wanted_source() else {
            return Err(self.no_clip());
        };
        // While a cut is made, nothing is known of it: the job itself finds out.
        if let Some(problem) = self.cut_problem.as_ref().filter(|_| self.is_cut_current()) {
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
        self.check_control()?;
        let stem = Path::new(&source.clip.source_name)
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // The thread that starts the job finds a name that is free.
        let run = self.runs_dir().join(stem);
        let prompt = words("New subject", &self.document.prompt)?;
        let more_clips = self.document.more_clips.iter().map(|clip| {
            let name = clip.path.file_name().unwrap_or_default().to_string_lossy();
            Ok(MoreClip {
                path: clip.path.clone(),
                subject: words(&format!("Words for {name}"), &clip.subject)?,
            })
        });
        let more_clips = more_clips.collect::<Result<Vec<_>, Report>>()?;
        let request = TrainRequest {
            clip: source.path.clone(),
            subject: words("Clip words", &self.document.subject)?,
            more_clips,
            control: self.document.control.clone(),
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

    pub(super) fn enqueue(&mut self, title: String, request: Request) {
        let told = Told {
            reference: self.cut.as_ref().map(|cut| Arc::clone(&cut.frames)),
            kind: super::estimate::key(&self.document, self.model.as_ref()),
        };
        let next = Waiting {
            title,
            request,
            told,
        };
        if self.queue.is_going() {
            self.notices.say(
                format!("\"{}\" waits for the run that is going on.", next.title),
                None,
            );
            self.queue.waiting.push_back(next);
        } else {
            self.start_job(next);
        }
    }

    /// Jobs inherit the low priority of the thread that starts them, so that they give way to the window.
    fn start_job(&mut self, next: Waiting) {
        let ctx = self.ctx.clone();
        let runs_dir = self.runs_dir();
        let waker = waker(ctx);
        let run = next.run().map(Path::to_owned);
        let is_sampling = matches!(next.request, Request::Sample(_));
        let Waiting {
            title,
            mut request,
            told,
        } = next;
        let task = self.start("start job", move |_| {
            match &mut request {
                Request::Train(train) => place_run(&runs_dir, train)?,
                Request::Resume(resume) => resume.result.output = Some(free_result(&resume.run)),
                Request::Sample(sample) if !sample.loras.is_empty() => place_film(sample)?,
                Request::Sample(sample) => {
                    sample.result.output = Some(free_result(&sample.source));
                }
                Request::Replay(_) | Request::Evaluate(_) | Request::Suite(_) => {}
            }
            job::spawn(request, waker)
        });
        self.queue.starting = task.map(|task| Starting {
            title,
            run,
            is_sampling,
            told,
            task,
        });
    }

    /// Reads what jobs told, and starts the next one.
    pub(super) fn tick_runs(&mut self, ctx: &egui::Context, now: f64) {
        if let Some(found) = self.queue.looking.as_ref().and_then(Task::take) {
            self.queue.looking = None;
            match found {
                Ok(found) => self.offer_unfinished(found),
                Err(report) => self.notices.problem(report, None),
            }
        }
        self.take_past_runs();
        let started = self.queue.starting.as_ref().and_then(|s| s.task.take());
        if let Some(started) = started
            && let Some(starting) = self.queue.starting.take()
        {
            match started {
                Ok(handle) => self.begin_run(starting, handle, now),
                Err(error) => self.notices.failed("The run could not be started", &error),
            }
        }
        for run in &mut self.queue.runs {
            for report in run.poll_samples(ctx) {
                self.notices.problem(report, None);
            }
        }
        let said = match self.queue.runs.last_mut() {
            Some(run) => run.poll(ctx, now),
            None => Vec::new(),
        };
        for said in said {
            self.hear(said);
        }
        if !self.queue.is_going()
            && !self.closing
            && let Some(next) = self.queue.waiting.pop_front()
        {
            self.start_job(next);
        }
    }

    fn offer_unfinished(&mut self, found: Vec<PathBuf>) {
        if let Some(newest) = found.first() {
            let name = newest.file_name().unwrap_or_default().to_string_lossy();
            let text = format!("The run \"{name}\" was not finished.");
            self.notices.say(text, Some(Action::Resume(newest.clone())));
        }
        self.queue.unfinished = found;
    }

    fn begin_run(&mut self, starting: Starting, handle: JobHandle, now: f64) {
        let title = &starting.title;
        let known = starting.run.as_ref();
        match known.and_then(|folder| self.queue.place_of(folder)) {
            Some(place) => {
                // The one that is going on is the last.
                let mut run = self.queue.runs.remove(place);
                run.go_on(handle, starting.is_sampling, now);
                if starting.is_sampling {
                    self.notices.log(format!("A sample of \"{title}\" begins."));
                } else {
                    self.notices.log(format!("The run \"{title}\" goes on."));
                }
                self.queue.runs.push(run);
            }
            None => {
                if self.queue.runs.len() >= KEPT {
                    self.queue.runs.remove(0);
                }
                self.notices.log(format!("The run for \"{title}\" begins."));
                let mut run = Run::new(title.clone(), handle, now);
                run.is_sampling = starting.is_sampling;
                run.reference = starting.told.reference;
                run.kind = starting.told.kind;
                self.queue.runs.push(run);
            }
        }
        // The window was told to close before there was a run that could be stopped.
        if self.closing {
            self.queue.send(Command::Stop);
        }
        self.compare.choose(None);
        self.run_view.follow();
        if !starting.is_sampling {
            self.memory.start_peak();
        }
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
            Said::Sampled => {
                self.show_sample();
                // Until now the motion stood in its place.
                let first = self
                    .queue
                    .current()
                    .is_some_and(|run| run.samples.len() == 1);
                if first && layout::is_shown(&self.tree, Pane::Result) {
                    layout::show(&mut self.tree, Pane::Result);
                }
            }
            Said::Over => self.run_over(),
        }
    }

    fn run_over(&mut self) {
        let Some(run) = self.queue.runs.last_mut() else {
            return;
        };
        // A run that went on did only some of its steps now, and a sample none.
        let whole = !run.is_sampling && !run.went_on;
        if let Some(secs) = run.step_secs().filter(|_| whole) {
            let done = run.outcome == Some(Outcome::Completed);
            let took = run.took_secs.unwrap_or_default();
            let rest = (took - secs * f64::from(run.step())).max(0.0);
            self.settings.pace.learn(
                &run.kind,
                secs,
                done.then_some(rest),
                self.memory.peak_mib(),
            );
        }
        let text = if run.is_sampling {
            "The sample is done".to_owned()
        } else {
            run.status()
        };
        let action = run.film.clone().map(Action::ShowFile);
        match &run.outcome {
            Some(Outcome::Completed) => self.notices.say(format!("{text}."), action),
            Some(Outcome::Cancelled { .. }) if run.is_sampling => {
                self.notices.say("The sample was stopped.", None);
            }
            Some(Outcome::Cancelled { .. }) => self.notices.say(
                format!("{text}. It can go on from there."),
                run.folder.clone().map(Action::Resume),
            ),
            _ => {}
        }
        run.end_told();
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

    /// Asks for a sample with the words and the seed of the panel: of the training that goes on, else of the shown run.
    pub(super) fn sample_now(&mut self) {
        let prompt = self.document.prompt.trim().to_owned();
        let seed = self.document.settings.seed;
        if let Some(run) = self.queue.runs.last_mut().filter(|run| run.is_training()) {
            let words = (!prompt.is_empty()).then(|| prompt.clone());
            let sent = run.send(Command::SampleNow {
                prompt: words,
                seed: Some(seed),
            });
            if sent {
                run.ask_sample(prompt, seed);
            }
            return;
        }
        let shown = self
            .queue
            .runs
            .get(self.run_view.index(self.queue.runs.len()));
        let source = shown
            .filter(|run| run.has_weights())
            .and_then(|run| run.folder.clone());
        match source {
            Some(source) if !prompt.is_empty() => self.sample_of(source, prompt),
            Some(_) => self.notices.problem(
                Report::new(Area::Request, "New subject is empty").advise("Say it in a few words."),
                None,
            ),
            None => self
                .notices
                .say("There is no training to sample from. Train first.", None),
        }
    }

    /// Samples from what a run has learnt.
    fn sample_of(&mut self, source: PathBuf, prompt: String) {
        let settings = &self.document.settings;
        let changes = SamplingChanges {
            seed: Some(settings.seed),
            start: Some(settings.start),
            noise_prior: Some(settings.noise_prior),
            sampling_steps: settings.sampling_steps,
            sampler: Some(settings.sampler),
            guidance: settings.guidance,
            negative_prompt: Some(settings.negative_prompt.clone()),
            ..SamplingChanges::default()
        };
        let request = SampleRequest {
            source,
            loras: Vec::new(),
            result: ResultRequest {
                prompt: prompt.clone(),
                output: None,
                overwrite: false,
                scale_to: None,
            },
            changes,
            device: DeviceChoice::Auto,
        };
        self.enqueue(prompt, Request::Sample(Box::new(request)));
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

/// Takes a name nobody has for the film of a sample without a run.
fn place_film(sample: &mut SampleRequest) -> std::io::Result<()> {
    if let Some(output) = &mut sample.result.output {
        let folder = output.parent().unwrap_or(Path::new("")).to_owned();
        std::fs::create_dir_all(&folder)?;
        let (stem, ending) = RESULT.split_once('.').unwrap_or((RESULT, ""));
        *output = free_name(&folder, stem, ending);
    }
    Ok(())
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
