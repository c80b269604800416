//! The project file: written when asked, written by itself, and offered again after a crash.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use eframe::egui;

use super::app::{App, Document};
use super::dialogs::Dialog;
use super::media;
use super::notices::Action;
use super::task::Task;
use crate::project::free_name;
use crate::report::{Area, Report};

/// Seconds between a change and its autosave.
const REST_SECS: f64 = 2.0;

/// Keeps the document on disk while the program runs. When it ends with everything saved, the file is removed.
pub struct Autosave {
    path: PathBuf,
    written: Option<Document>,
    changed_at: Option<f64>,
    /// One file after the other: two threads that write the same one would write into each other.
    writing: Option<Writing>,
    /// Project files that wait for that.
    waiting: VecDeque<Save>,
    looking: Option<Task<Result<bool, Report>>>,
}

/// The user's own project file, and what it will say.
#[derive(Clone)]
struct Save {
    path: PathBuf,
    document: Document,
    /// Whether a file that is there may go.
    replace: bool,
}

impl Save {
    fn write(&self) -> Result<(), Report> {
        // Whoever chose the name may have been faster than the look at the disk.
        if !self.replace && self.path.exists() {
            let name = self.path.file_name().unwrap_or_default().to_string_lossy();
            let headline = format!("The project was not saved: there is a {name} already");
            return Err(Report::new(Area::Request, headline)
                .because(self.path.display().to_string())
                .advise("Save it under another name, or let the file be replaced."));
        }
        write(&self.document, &self.path)
    }
}

/// A file that is being written.
struct Writing {
    task: Task<Result<(), Report>>,
    /// The project file; none is the program's own copy.
    save: Option<Save>,
}

impl Autosave {
    /// An autosave in the program's data folder.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self {
            path: data.join("unsaved.toml"),
            written: None,
            changed_at: None,
            writing: None,
            waiting: VecDeque::new(),
            looking: None,
        }
    }

    /// Whether a project file is what an earlier program left, rather than a file of the user's own.
    #[must_use]
    pub fn is_kept(&self, path: &Path) -> bool {
        path == kept(&self.path)
    }

    /// Looks whether an earlier program left something that is in no project file.
    pub fn look(&mut self, ctx: &egui::Context) {
        let path = self.path.clone();
        self.looking = Task::start("crash check", ctx, move |_| {
            // Kept under another name, so that this program's own autosave does not replace it.
            Ok(path.is_file() && std::fs::rename(&path, kept(&path)).is_ok())
        })
        .ok();
    }

    /// Whether a file is being written.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.writing.is_some() || !self.waiting.is_empty()
    }

    /// Whether one of them is the user's own project file.
    #[must_use]
    pub fn is_saving(&self) -> bool {
        let writing = self.writing.as_ref();
        writing.is_some_and(|writing| writing.save.is_some()) || !self.waiting.is_empty()
    }

    /// The program ends as it should: what is in no project file is kept for the next time. A system that shuts down asks
    /// nobody: what is being written then is waited for.
    pub fn finish(&mut self, document: &Document, saved: &Document) {
        let mut is_saved = document == saved;
        if let Some(writing) = self.writing.take() {
            let is_written = matches!(writing.task.wait(), Some(Ok(())));
            let save = writing.save.filter(|_| is_written);
            is_saved |= save.is_some_and(|save| save.document == *document);
        }
        for save in self.waiting.drain(..) {
            is_saved |= save.write().is_ok() && save.document == *document;
        }
        if is_saved {
            if self.written.is_some() {
                std::fs::remove_file(&self.path).ok();
            }
        } else {
            write(document, &self.path).ok();
        }
    }
}

fn write(document: &Document, path: &Path) -> Result<(), Report> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).ok();
    }
    document
        .write(path)
        .map_err(|error| media::report(error.into()))
}

/// Where the document that an earlier program left waits.
fn kept(path: &Path) -> PathBuf {
    path.with_file_name("restored.toml")
}

impl App {
    /// Writes the project; asks for a name where there is none, or where another one is wanted.
    pub(super) fn save_project(&mut self, ask: bool) {
        match (&self.project_path, ask) {
            (Some(path), false) => {
                let path = path.clone();
                self.write_project(path, true);
            }
            _ => {
                let stem = self.source.as_ref().map_or_else(
                    || "project".to_owned(),
                    |source| {
                        Path::new(&source.clip.source_name)
                            .file_stem()
                            .unwrap_or_default()
                            .to_string_lossy()
                            .into_owned()
                    },
                );
                let path = match &self.project_path {
                    Some(path) => path.clone(),
                    None => self.suggest_name(self.settings.folder(), stem, "toml"),
                };
                self.taken.forget();
                self.dialog = Some(Dialog::Save {
                    path: path.display().to_string(),
                    overwrite: false,
                });
            }
        }
    }

    /// Gives a name at once, to be shown; the disk is asked on a thread for one that is free, which takes its place.
    pub(super) fn suggest_name(
        &mut self,
        folder: PathBuf,
        stem: String,
        ending: &'static str,
    ) -> PathBuf {
        let shown = folder.join(format!("{stem}.{ending}"));
        self.naming = self
            .start("free name", move |_| Ok(free_name(&folder, &stem, ending)))
            .map(|task| (shown.clone(), task));
        shown
    }

    /// Puts the free name into the dialog, unless another one was typed meanwhile.
    pub(super) fn tick_naming(&mut self) {
        let Some((shown, free)) = self
            .naming
            .as_ref()
            .and_then(|(shown, task)| Some((shown.clone(), task.take()?)))
        else {
            return;
        };
        self.naming = None;
        let typed = match &mut self.dialog {
            Some(Dialog::Export(form)) => &mut form.path,
            Some(Dialog::Save { path, .. }) => path,
            _ => return,
        };
        match free {
            Ok(free) if Path::new(typed) == shown => *typed = free.display().to_string(),
            Ok(_) => {}
            Err(report) => self.notices.problem(report, None),
        }
    }

    /// Writes the project file off the interface's thread, after what is being written now.
    pub(super) fn write_project(&mut self, path: PathBuf, replace: bool) {
        let document = self.document.clone();
        let waiting = &mut self.autosave.waiting;
        waiting.retain(|save| save.path != path);
        waiting.push_back(Save {
            path,
            document,
            replace,
        });
        self.write_next();
    }

    fn write_next(&mut self) {
        if self.autosave.writing.is_some() {
            return;
        }
        let Some(save) = self.autosave.waiting.pop_front() else {
            return;
        };
        let written = save.clone();
        match self.start("save", move |_| written.write()) {
            Some(task) => {
                let save = Some(save);
                self.autosave.writing = Some(Writing { task, save });
            }
            None => self.stay_open(),
        }
    }

    /// Says what became of a file.
    fn written(&mut self, done: Result<(), Report>, save: Option<Save>) {
        match (done, save) {
            (Ok(()), Some(Save { path, document, .. })) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                self.notices.say(format!("Saved as {name}."), None);
                self.remember(&path);
                self.saved = document;
                self.project_path = Some(path);
            }
            (Ok(()), None) => {}
            (Err(report), save) => {
                self.notices.problem(report, None);
                if save.is_some() {
                    self.stay_open();
                }
            }
        }
    }

    /// Writes the document a moment after its last change.
    pub(super) fn tick_autosave(&mut self, ctx: &egui::Context) {
        if let Some(found) = self.autosave.looking.as_ref().and_then(Task::take) {
            self.autosave.looking = None;
            match found {
                Ok(true) => self.notices.say(
                    "What was open last time is in no project file yet. It is kept.",
                    Some(Action::Restore(kept(&self.autosave.path))),
                ),
                Ok(false) => {}
                Err(report) => self.notices.problem(report, None),
            }
        }
        let done = self.autosave.writing.as_ref();
        if let Some(done) = done.and_then(|writing| writing.task.take())
            && let Some(Writing { save, .. }) = self.autosave.writing.take()
        {
            self.written(done, save);
        }
        self.write_next();
        let known = self.autosave.written.as_ref().unwrap_or(&self.saved);
        if *known == self.document || self.autosave.writing.is_some() {
            self.autosave.changed_at = None;
            return;
        }
        let now = self.now_secs();
        let changed_at = *self.autosave.changed_at.get_or_insert(now);
        if now - changed_at < REST_SECS {
            ctx.request_repaint_after_secs(REST_SECS as f32);
            return;
        }
        let document = self.document.clone();
        self.autosave.written = Some(document.clone());
        self.autosave.changed_at = None;
        let path = self.autosave.path.clone();
        let task = self.start("autosave", move |_| write(&document, &path));
        self.autosave.writing = task.map(|task| Writing { task, save: None });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::project::{Control, Project};

    fn document(prompt: &str) -> Document {
        Project {
            clip: None,
            more_clips: Vec::new(),
            model: None,
            control: Control::default(),
            subject: String::new(),
            prompt: prompt.to_owned(),
            runs: Vec::new(),
            settings: crate::train::TransferConfig::default(),
        }
    }

    #[test]
    fn a_file_that_nobody_asked_about_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken.toml");
        std::fs::write(&path, "a letter").unwrap();
        let mut save = Save {
            path: path.clone(),
            document: document("a bear"),
            replace: false,
        };
        let report = save.write().unwrap_err();
        assert!(report.headline.contains("taken.toml"), "{report}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a letter");
        save.replace = true;
        save.write().unwrap();
        assert_eq!(Document::read(&path).unwrap(), save.document);
    }

    /// Two that write one file at once would leave a mixture.
    #[test]
    fn the_end_waits_for_what_is_being_written() {
        let folder = tempfile::tempdir().unwrap();
        let (older, newer) = (document("a bear"), document("a cat"));
        let mut autosave = Autosave::new(folder.path());
        let is_written = Arc::new(AtomicBool::new(false));
        let (path, told, kept) = (
            autosave.path.clone(),
            Arc::clone(&is_written),
            older.clone(),
        );
        let task = Task::start("autosave", &egui::Context::default(), move |_| {
            // A slow disk.
            std::thread::sleep(Duration::from_millis(50));
            let written = write(&kept, &path);
            told.store(true, Ordering::SeqCst);
            written
        });
        let (task, save) = (task.unwrap(), None);
        autosave.writing = Some(Writing { task, save });
        autosave.finish(&newer, &older);
        assert!(is_written.load(Ordering::SeqCst));
        assert_eq!(Document::read(&autosave.path).unwrap(), newer);
    }

    /// A system that shuts down in the middle of a save loses none of it.
    #[test]
    fn the_end_writes_the_saves_that_wait() {
        let folder = tempfile::tempdir().unwrap();
        let (older, newer) = (document("a bear"), document("a cat"));
        let mut autosave = Autosave::new(folder.path());
        let path = folder.path().join("mine.toml");
        autosave.waiting.push_back(Save {
            path: path.clone(),
            document: newer.clone(),
            replace: false,
        });
        assert!(autosave.is_writing() && autosave.is_saving());
        autosave.finish(&newer, &older);
        assert_eq!(Document::read(&path).unwrap(), newer);
        assert!(!autosave.path.exists(), "there is nothing to offer");
    }
}
