//! Models: which are known, which are here, and bringing them. All of it off the interface's thread.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Open;
use super::app::App;
use super::dialogs::Dialog;
use super::media::{ModelChoice, ModelInfo, report};
use super::notices::Action;
use super::queue::waker;
use super::task::Task;
use crate::job::{self, DownloadRequest, Event, JobHandle, Outcome, Stage};
use crate::library::{
    Cache, Entry, Hub, Kind, Known, Library, Plan, Progress, Removed, State, Suits,
};
use crate::models::ModelKind;
use crate::report::Report;
use crate::train::TransferConfig;

/// The ControlNet that leads by edges.
const EDGES: &str = "controlnet-canny";

/// What is asked before a download.
pub struct Offer {
    /// What it consists of.
    pub plan: Plan,
    /// Whether this machine can train it.
    pub suits: Suits,
    /// Where it goes.
    pub place: PathBuf,
}

/// A download that is going on.
pub struct Download {
    starting: Option<Task<std::io::Result<JobHandle>>>,
    handle: Option<JobHandle>,
    cancelled: bool,
    /// What is fetched.
    pub known: &'static Known,
    /// KiB done.
    pub done: u32,
    /// KiB in all.
    pub total: u32,
    /// The folder, when it is ready.
    ready: Option<PathBuf>,
}

impl Download {
    /// Asks it to stop; what is here is kept.
    pub fn cancel(&mut self) {
        self.cancelled = true;
        if let Some(handle) = &self.handle {
            handle.send(job::Command::Stop).ok();
        }
    }

    /// How much of it is done, 0 to 1.
    #[must_use]
    pub fn share(&self) -> f32 {
        (f64::from(self.done) / f64::from(self.total.max(1))) as f32
    }
}

/// What became of a change of the list.
pub struct Changed {
    text: String,
    /// A folder that can be used from now on.
    use_it: Option<PathBuf>,
}

/// Everything the window knows of models.
pub struct Shelf {
    library: Library,
    hub: Hub,
    /// The models as they were when somebody last looked.
    pub entries: Vec<Entry>,
    looking: Option<Task<Result<Vec<Entry>, Report>>>,
    /// The model whose size is asked for.
    planning: Option<(&'static Known, Task<Result<Plan, Report>>)>,
    /// What is asked before a download.
    pub offer: Option<Box<Offer>>,
    /// The download that is going on.
    pub download: Option<Download>,
    /// The model whose files are checked.
    checking: Option<(String, Task<Result<usize, Report>>)>,
    /// A model that turned out to be broken after the look began that is under way, which does not know of it.
    broken: Option<(String, State)>,
    changing: Option<Task<Result<Changed, Report>>>,
    /// A model and a ControlNet that were last refused together.
    pub(super) unfit: Option<ModelChoice>,
    /// A typed path of a folder to add.
    pub path: String,
}

impl Shelf {
    /// The shelf with its list in the window's data folder.
    #[must_use]
    pub fn new(data: &Path, open: &Open) -> Self {
        let cache = open.cache.clone().unwrap_or_else(Cache::from_environment);
        Self {
            library: Library::new(data, cache),
            hub: open.hub.clone().unwrap_or_else(Hub::from_environment),
            entries: Vec::new(),
            looking: None,
            planning: None,
            offer: None,
            download: None,
            checking: None,
            broken: None,
            changing: None,
            unfit: None,
            path: String::new(),
        }
    }

    /// The models that can learn: what they are called, and their folders.
    pub fn usable(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.entries.iter().filter_map(|entry| {
            let is_model = matches!(entry.kind, Some(Kind::Model(_)));
            let folder = entry.folder.as_deref()?;
            (is_model && entry.state.is_present()).then(|| (entry.title(), folder))
        })
    }

    /// The ControlNets that are here: what they are called, and their folders.
    pub fn controlnets(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.entries.iter().filter_map(|entry| {
            let folder = entry.folder.as_deref()?;
            let is_here = entry.kind == Some(Kind::ControlNet) && entry.state.is_present();
            is_here.then(|| (entry.title(), folder))
        })
    }

    /// The ControlNet for edges, which the window draws of a clip.
    fn edges(&self) -> Option<PathBuf> {
        let mut entries = self.entries.iter();
        let edges = entries.find(|entry| entry.name == EDGES && entry.state.is_present());
        edges?.folder.clone()
    }

    /// Whether something is asked of the disk or the hub for this model.
    #[must_use]
    pub fn is_busy_with(&self, name: &str) -> bool {
        let planned = self
            .planning
            .as_ref()
            .is_some_and(|(known, _)| known.name == name);
        let checked = self
            .checking
            .as_ref()
            .is_some_and(|(checked, _)| checked == name);
        planned || checked
    }

    /// Notes what became of a model.
    fn set_state(&mut self, name: &str, state: State) {
        let mut entries = self.entries.iter_mut();
        if let Some(entry) = entries.find(|entry| entry.name == name) {
            entry.state = state;
        }
    }

    /// Whether nothing was looked for yet.
    #[must_use]
    pub fn is_looking(&self) -> bool {
        self.looking.is_some()
    }
}

/// Goes on until the work is told to stop.
fn until_stopped(stop: &AtomicBool) -> impl FnMut(&Progress<'_>) -> ControlFlow<()> {
    move |_| job::break_if(stop.load(Ordering::Relaxed))
}

impl App {
    /// Looks which models are here. Nothing is asked of the network.
    pub(super) fn look_for_models(&mut self) {
        let library = self.shelf.library.clone();
        self.shelf.broken = None;
        self.shelf.looking = self.start("models", move |_| {
            library.entries().map_err(|error| report(error.into()))
        });
    }

    /// ControlVideo on an image model without a ControlNet is led by the one for edges of the list, unless they do not fit.
    pub(super) fn lead_model(&mut self) {
        let lacks = |model: &ModelInfo| model.kind == ModelKind::Image && !model.has_controlnet;
        let is_lacking = self.current_model().is_some_and(lacks);
        let document = &self.document;
        if document.settings.method.is_controlled()
            && document.control.controlnet.is_none()
            && is_lacking
            && let Some(folder) = &document.model
            && let Some(edges) = self.shelf.edges()
        {
            let choice = ModelChoice::Folder(folder.clone(), Some(edges.clone()));
            if self.shelf.unfit.as_ref() != Some(&choice) {
                self.follow(|document| document.control.controlnet = Some(edges));
            }
        }
    }

    /// Opens the list.
    pub(super) fn models_dialog(&mut self) {
        self.look_for_models();
        self.shelf.offer = None;
        self.dialog = Some(Dialog::Models);
    }

    /// Asks the hub for the size of a model, before anything is fetched.
    pub(super) fn plan_download(&mut self, known: &'static Known) {
        let (library, hub) = (self.shelf.library.clone(), self.shelf.hub.clone());
        let task = self.start("model size", move |stop| {
            let mut go_on = until_stopped(stop);
            let plan = hub.plan(known, &library.cache, &mut go_on);
            plan.map_err(|error| report(error.into()))
        });
        self.shelf.planning = task.map(|task| (known, task));
    }

    /// Begins the download that was agreed to.
    pub(super) fn start_download(&mut self, plan: Plan) {
        let known = plan.known;
        let request = DownloadRequest {
            library: self.shelf.library.clone(),
            hub: self.shelf.hub.clone(),
            plans: vec![plan],
        };
        let waker = waker(self.ctx.clone());
        let starting = self.start("start download", move |_| {
            job::spawn_task("download job", waker, move |job| {
                job::download(job, &request)
            })
        });
        self.shelf.download = starting.map(|task| Download {
            starting: Some(task),
            handle: None,
            cancelled: false,
            known,
            done: 0,
            total: 0,
            ready: None,
        });
    }

    /// Opens a model and takes the checksums of its files.
    pub(super) fn check_model(&mut self, name: &str) {
        let (library, checked) = (self.shelf.library.clone(), name.to_owned());
        let task = self.start("model check", move |stop| {
            let mut go_on = until_stopped(stop);
            let files = library.check(&checked, &mut go_on);
            files.map_err(|error| report(error.into()))
        });
        self.shelf.checking = task.map(|task| (name.to_owned(), task));
    }

    /// Puts a folder on the list.
    pub(super) fn add_model(&mut self, folder: PathBuf) {
        let library = self.shelf.library.clone();
        self.shelf.changing = self.start("add model", move |_| {
            let added = library
                .add(&folder, None)
                .map_err(|error| report(error.into()))?;
            let kind = library.entry(&added.name).ok().and_then(|entry| entry.kind);
            let is_model = matches!(kind, Some(Kind::Model(_)));
            Ok(Changed {
                text: format!("{} is on the list.", added.name),
                use_it: is_model.then_some(added.folder),
            })
        });
    }

    /// Takes a folder off the list; it stays where it is.
    pub(super) fn forget_model(&mut self, name: &str) {
        let (library, name) = (self.shelf.library.clone(), name.to_owned());
        self.shelf.changing = self.start("remove model", move |_| {
            // Only folders: what was downloaded is removed by the command line, which asks.
            let text = match library.removal(&name) {
                Ok(Removed::Folder(folder)) => format!(
                    "{} is off the list and stays where it is.",
                    folder.display()
                ),
                Ok(Removed::Files { .. }) => {
                    return Ok(Changed {
                        text: format!("{name} was downloaded; it stays."),
                        use_it: None,
                    });
                }
                Err(error) => return Err(report(error.into())),
            };
            library
                .remove(&name)
                .map_err(|error| report(error.into()))?;
            Ok(Changed { text, use_it: None })
        });
    }

    /// Takes what came of all this.
    pub(super) fn tick_library(&mut self) {
        if let Some(found) = self.shelf.looking.as_ref().and_then(Task::take) {
            self.shelf.looking = None;
            let broken = self.shelf.broken.take();
            match found {
                Ok(entries) => {
                    self.shelf.entries = entries;
                    if let Some((name, state)) = broken {
                        self.shelf.set_state(&name, state);
                    }
                }
                Err(report) => self.notices.problem(report, None),
            }
        }
        let planned = self
            .shelf
            .planning
            .as_ref()
            .and_then(|(_, task)| task.take());
        if let Some(planned) = planned {
            self.shelf.planning = None;
            match planned {
                Ok(plan) => self.offer_download(plan),
                Err(report) => self.notices.problem(report, None),
            }
        }
        let checked = self
            .shelf
            .checking
            .as_ref()
            .and_then(|(_, task)| task.take());
        if let Some(checked) = checked
            && let Some((name, _)) = self.shelf.checking.take()
        {
            match checked {
                Ok(files) => {
                    let text = match files {
                        0 => format!("{name} is whole: names and shapes fit."),
                        files => format!("{name} is whole, with the checksums of {files} files."),
                    };
                    self.notices.say(text, None);
                    self.look_for_models();
                }
                // Its list of files looks whole, its content is not: that is shown until somebody looks again.
                Err(report) => {
                    let state = State::Broken {
                        why: report.headline.clone(),
                        advice: report.what_to_do.clone(),
                    };
                    self.shelf.set_state(&name, state.clone());
                    self.shelf.broken = self.shelf.looking.is_some().then_some((name, state));
                    self.notices.problem(report, None);
                }
            }
        }
        if let Some(changed) = self.shelf.changing.as_ref().and_then(Task::take) {
            self.shelf.changing = None;
            match changed {
                Ok(changed) => {
                    self.shelf.path.clear();
                    self.notices
                        .say(changed.text, changed.use_it.map(Action::UseModel));
                }
                Err(report) => self.notices.problem(report, None),
            }
            self.look_for_models();
        }
        self.tick_download();
    }

    fn offer_download(&mut self, plan: Plan) {
        let settings = &self.document.settings;
        let settings = TransferConfig {
            frames: settings.frames,
            size: settings.size,
            checkpointing: settings.checkpointing,
            method: plan.known.methods().next().unwrap_or_default(),
            ..TransferConfig::default()
        };
        let suits = Suits::of(plan.known, &settings);
        let place = self.shelf.library.cache.entry(plan.known.repo);
        self.shelf.offer = Some(Box::new(Offer { plan, suits, place }));
        self.dialog.get_or_insert(Dialog::Models);
    }

    fn tick_download(&mut self) {
        let Some(download) = &mut self.shelf.download else {
            return;
        };
        if let Some(started) = download.starting.as_ref().and_then(Task::take) {
            download.starting = None;
            match started {
                Ok(handle) => {
                    download.handle = Some(handle);
                    if download.cancelled {
                        download.cancel();
                    }
                }
                Err(error) => {
                    self.shelf.download = None;
                    let headline = "The download could not be started";
                    self.notices.failed(headline, &error);
                    return;
                }
            }
        }
        let Some(handle) = &download.handle else {
            return;
        };
        let mut finished = None;
        for event in handle.events().try_iter().take(100) {
            match event {
                Event::Stage {
                    stage: Stage::Downloading,
                    total,
                } => {
                    download.total = total.unwrap_or_default();
                }
                Event::Progress { done, total, .. } => {
                    (download.done, download.total) = (done, total);
                }
                Event::ModelReady { path, .. } => download.ready = Some(path),
                Event::Finished(outcome) => finished = Some(outcome),
                _ => {}
            }
        }
        let Some(outcome) = finished else { return };
        let Some(Download { known, ready, .. }) = self.shelf.download.take() else {
            return;
        };
        match outcome {
            Outcome::Completed => {
                let usable = ready.filter(|_| matches!(known.kind, Kind::Model(_)));
                let text = format!("{} is here now.", known.title);
                self.notices.say(text, usable.map(Action::UseModel));
            }
            Outcome::Cancelled { .. } => self.notices.say(
                format!(
                    "The download of {} was cancelled. It goes on from there when you ask again.",
                    known.title
                ),
                None,
            ),
            Outcome::Failed(report) => self.notices.problem(report, None),
        }
        self.look_for_models();
    }
}
