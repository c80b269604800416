//! Runs of earlier days, read from their folders: what was said, what the numbers were, what was painted on the way.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::job::{Preview, Setting, Until};
use crate::project::{Control, Recipe, RunFolder, RunRecord};
use crate::report::Report;
use crate::train::{StepStats, TransferConfig};
use crate::video::{self, Limits};

use super::app::App;
use super::layout::{self, Pane};
use super::media;
use super::notices::Action;
use super::queue::KEPT;
use super::run::Run;
use super::task::Task;

/// Samples that are read back, the newest ones.
const MOST_SAMPLES: usize = 32;

/// What a run's folder keeps.
#[derive(Debug)]
pub struct Past {
    /// Where it is.
    pub folder: PathBuf,
    /// Words, clip, model, settings and their changes.
    pub record: Box<RunRecord<TransferConfig>>,
    /// Every step.
    pub stats: Vec<StepStats>,
    /// What it painted, previews first, results last.
    pub samples: Vec<PastSample>,
    /// Whether its training came to its end.
    pub is_finished: bool,
}

/// A film in a run's folder.
#[derive(Debug)]
pub struct PastSample {
    /// Its pictures.
    pub preview: Preview,
    /// The file.
    pub path: PathBuf,
    /// Whether it is what the run was for.
    pub is_result: bool,
}

/// A run that shall go on.
struct Asked {
    folder: PathBuf,
    task: Task<Result<Past, Report>>,
    /// How far.
    until: Until,
}

/// Runs that are read on threads.
#[derive(Default)]
pub struct Reading {
    /// Those that shall go on.
    asked: Vec<Asked>,
    /// Those of a project.
    all: Option<Task<Result<Vec<Past>, Report>>>,
}

/// Reads a run. A sample that cannot be read is left out: the others are worth seeing.
///
/// # Errors
/// A report in the user's words when the record or the numbers cannot be read.
pub fn read(folder: &Path, stop: &AtomicBool) -> Result<Past, Report> {
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let told = |error: crate::project::ProjectError| media::report(error.into());
    let record: RunRecord<TransferConfig> = RunFolder::look(&folder).map_err(told)?;
    let stats: Vec<StepStats> = RunFolder::look_metrics(&folder).map_err(told)?;
    Ok(Past {
        is_finished: RunFolder::is_finished(&folder, record.settings.steps),
        samples: samples(&folder, &record, stop),
        folder,
        record: Box::new(record),
        stats,
    })
}

/// The films of the newest runs of a list; runs that are gone or damaged are left out.
#[must_use]
pub fn read_all(folders: &[PathBuf], most: usize, stop: &AtomicBool) -> Vec<Past> {
    let newest = folders.iter().rev().take(most).rev();
    newest
        .filter(|folder| RunFolder::is_run(folder))
        .filter_map(|folder| read(folder, stop).ok())
        .collect()
}

/// The settings a run ended with: those of its start with what was changed on the way.
#[must_use]
pub fn settings_at_end(record: &RunRecord<TransferConfig>) -> TransferConfig {
    let mut settings = record.settings.clone();
    for change in &record.changes {
        let name = serde_json::Value::String(change.setting.clone());
        match serde_json::from_value(name) {
            Ok(Setting::LambdaG) => settings.lambda_g = change.value,
            Ok(Setting::LambdaL) => settings.lambda_l = change.value,
            Ok(Setting::Delta) => settings.delta = change.value,
            Ok(Setting::LearningRate) => settings.learning_rate = change.value,
            Ok(Setting::PreviewEvery) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a number of steps that a running training has accepted"
                )]
                let every = change.value as u32;
                settings.preview_every = every;
            }
            // A newer program's setting: there is no place for it here.
            Err(_) => {}
        }
    }
    settings
}

/// A setting as people call it.
#[must_use]
pub fn setting_name(name: &str) -> String {
    let value = serde_json::Value::String(name.to_owned());
    serde_json::from_value::<Setting>(value)
        .map_or_else(|_| name.to_owned(), |setting| setting.to_string())
}

fn samples(
    folder: &Path,
    record: &RunRecord<TransferConfig>,
    stop: &AtomicBool,
) -> Vec<PastSample> {
    let Ok(entries) = std::fs::read_dir(folder.join("samples")) else {
        return Vec::new();
    };
    let mut found: Vec<(bool, PathBuf)> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(is_film))
        .map(|path| (step_of(&path).is_none(), path))
        .collect();
    // Previews by their step, then the results in the order of their numbers.
    found.sort_by(|(a_result, a), (b_result, b)| {
        let by_name = || video::natural_cmp(stem(a), stem(b));
        a_result.cmp(b_result).then_with(by_name)
    });
    let surplus = found.len().saturating_sub(MOST_SAMPLES);
    let cancel = || stop.load(Ordering::Relaxed);
    let read = |(is_result, path): (bool, PathBuf)| {
        let clip = video::load(&path, &Limits::default(), &cancel).ok()?;
        let recipe: Option<Recipe<TransferConfig>> = video::read_recipe(&path)
            .ok()
            .flatten()
            .and_then(|text| serde_json::from_str(&text).ok());
        let prompt = recipe
            .map(|recipe| recipe.prompt)
            .or_else(|| record.prompt.clone())
            .unwrap_or_default();
        let preview = Preview {
            step: step_of(&path).unwrap_or(record.settings.steps),
            prompt,
            frames: clip.frames,
            fps: clip.fps,
        };
        Some(PastSample {
            preview,
            path,
            is_result,
        })
    };
    found.into_iter().skip(surplus).filter_map(read).collect()
}

fn stem(path: &Path) -> &OsStr {
    path.file_stem().unwrap_or_default()
}

fn is_film(ending: &OsStr) -> bool {
    ["gif", "mp4", "webm"]
        .iter()
        .any(|known| ending.eq_ignore_ascii_case(known))
}

/// The step in the name of a preview, `step-000010.gif`.
fn step_of(path: &Path) -> Option<u32> {
    let rest = stem(path).to_str()?.strip_prefix("step-")?;
    rest.split(' ').next()?.parse().ok()
}

impl App {
    /// Puts a run of an earlier day among the others, or gives the place it has already. What is shown stays what it is,
    /// unless it has to make room.
    fn take_past(&mut self, past: Past) -> usize {
        let queue = &mut self.queue;
        if let Some(place) = queue.place_of(&past.folder) {
            return place;
        }
        // The last one may be going on, and stays the last.
        let gone = usize::from(queue.runs.len() >= KEPT);
        queue.runs.drain(..gone);
        let going = queue.current().is_some_and(Run::is_going);
        let place = queue.runs.len() - usize::from(going);
        queue.runs.insert(place, Run::of_past(&self.ctx, past));
        let now = |before: usize| {
            let kept = before.checked_sub(gone)?;
            Some(kept + usize::from(kept >= place))
        };
        self.run_view.moved(now);
        self.compare.moved(now);
        place
    }

    /// Reads a run of an earlier day, to go on with it.
    pub(super) fn read_run(&mut self, folder: PathBuf, until: Until) {
        let wanted = folder.clone();
        let Some(task) = self.start("read run", move |stop| read(&wanted, stop)) else {
            return;
        };
        let asked = &mut self.queue.reading.asked;
        // Who asks twice means it once.
        asked.retain(|asked| asked.folder != folder);
        asked.push(Asked {
            folder,
            task,
            until,
        });
    }

    /// Reads the runs of a project, the newest ones.
    pub(super) fn read_runs(&mut self, folders: Vec<PathBuf>) {
        if !self.queue.is_going() {
            self.queue.runs.clear();
            self.compare.choose(None);
            self.run_view.follow();
        }
        // Those of the project before are no longer waited for.
        self.queue.reading.all = None;
        if !folders.is_empty() {
            self.queue.reading.all =
                self.start("read runs", move |stop| Ok(read_all(&folders, KEPT, stop)));
        }
    }

    /// Shows a run that was read.
    pub(super) fn show_past(&mut self, past: Past) {
        let (folder, is_finished) = (past.folder.clone(), past.is_finished);
        let place = self.take_past(past);
        self.choose_run(place);
        layout::show(&mut self.tree, Pane::Run);
        let Some(run) = self.queue.runs.get(place) else {
            return;
        };
        let text = format!("The run \"{}\", {}.", run.title, run.status());
        let mut actions = vec![Action::UseRun(folder.clone())];
        // A finished one can be trained further: the pane has a button for that.
        if !is_finished {
            actions.push(Action::Resume(folder));
        }
        self.notices.say(text, actions);
    }

    /// Brings a run and its newest sample to the front.
    pub(super) fn choose_run(&mut self, place: usize) {
        self.run_view.choose(place);
        let samples = self
            .queue
            .runs
            .get(place)
            .map_or(0, |run| run.samples.len());
        let newest = samples.checked_sub(1);
        self.compare.choose(newest.map(|sample| (place, sample)));
        self.show_sample();
        if newest.is_some() && layout::is_shown(&self.tree, Pane::Result) {
            layout::show(&mut self.tree, Pane::Result);
        }
    }

    /// Fills the panel with the words and settings of a run of an earlier day.
    pub(super) fn use_run(&mut self, folder: &Path) {
        let place = self.queue.place_of(folder);
        let record = place.and_then(|place| self.queue.runs[place].record.as_deref());
        // A run of this window was made with what the panel shows, or showed.
        let Some(record) = record else { return };
        self.document.subject.clone_from(&record.subject);
        if let Some(prompt) = &record.prompt {
            self.document.prompt.clone_from(prompt);
        }
        let settings = settings_at_end(record);
        self.document.model = record.model.folder.as_ref().map(PathBuf::from);
        self.document.control = Control {
            controlnet: record.model.controlnet.as_ref().map(PathBuf::from),
            clip: None,
        };
        self.replace_settings(settings);
        self.settle_inverted_clip();
    }

    /// Goes on with a run that was read.
    fn take_asked(&mut self, past: Past, asked: &Asked) {
        // One that cannot be read stays in the list: the disk may be back later.
        self.queue.unfinished.retain(|run| *run != asked.folder);
        let folder = past.folder.clone();
        let place = self.take_past(past);
        self.choose_run(place);
        self.use_run(&folder);
        self.resume_known(folder, asked.until);
    }

    /// Takes runs that were read.
    pub(super) fn take_past_runs(&mut self) {
        let mut waiting = Vec::new();
        for asked in std::mem::take(&mut self.queue.reading.asked) {
            match asked.task.take() {
                Some(Ok(past)) => self.take_asked(past, &asked),
                Some(Err(report)) => self.notices.problem(report, None),
                None => waiting.push(asked),
            }
        }
        self.queue.reading.asked.extend(waiting);
        let Some(read) = self.queue.reading.all.as_ref().and_then(Task::take) else {
            return;
        };
        self.queue.reading.all = None;
        let read = match read {
            Ok(read) => read,
            Err(report) => {
                self.notices.problem(report, None);
                return;
            }
        };
        let mut newest = None;
        for past in read {
            newest = Some(self.take_past(past));
        }
        match newest {
            Some(place) if !self.queue.is_going() => self.choose_run(place),
            // The newest sample may be one of theirs, or the chosen one may have gone.
            Some(_) => self.show_sample(),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previews_are_told_from_results_by_their_names() {
        assert_eq!(step_of(Path::new("a/step-000040.gif")), Some(40));
        assert_eq!(step_of(Path::new("a/step-000040 2.gif")), Some(40));
        assert_eq!(step_of(Path::new("a/result.mp4")), None);
        assert_eq!(step_of(Path::new("a/step-x.gif")), None);
    }
}
