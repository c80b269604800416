//! The project file: written when asked, written by itself, and offered again after a crash.

use std::path::{Path, PathBuf};

use eframe::egui;

use super::app::{App, Document};
use super::dialogs::Dialog;
use super::media;
use super::notices::Action;
use super::task::Task;
use crate::report::Report;

/// Seconds between a change and its autosave.
const REST_SECS: f64 = 2.0;

/// Keeps the document on disk while the program runs. When it ends with everything saved, the file is removed.
pub struct Autosave {
    path: PathBuf,
    written: Option<Document>,
    changed_at: Option<f64>,
    writing: Option<Task<Result<(), Report>>>,
    /// What is being written is the user's own project file, and what it will say.
    saving: Option<(PathBuf, Document)>,
    looking: Option<Task<bool>>,
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
            saving: None,
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
            path.is_file() && std::fs::rename(&path, kept(&path)).is_ok()
        })
        .ok();
    }

    /// Whether a file is being written.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// The program ends as it should: what is in no project file is kept for the next time.
    pub fn finish(&mut self, document: &Document, saved: &Document) {
        self.writing = None;
        if document == saved {
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
                self.write_project(path);
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
                    None => self.settings.folder().join(format!("{stem}.toml")),
                };
                self.dialog = Some(Dialog::Save {
                    path: path.display().to_string(),
                });
            }
        }
    }

    /// Writes the project file off the interface's thread.
    pub(super) fn write_project(&mut self, path: PathBuf) {
        let document = self.document.clone();
        self.autosave.saving = Some((path.clone(), document.clone()));
        self.autosave.writing = self.start("save", move |_| write(&document, &path));
    }

    /// Writes the document a moment after its last change.
    pub(super) fn tick_autosave(&mut self, ctx: &egui::Context) {
        if self.autosave.looking.as_ref().and_then(Task::take) == Some(true) {
            self.autosave.looking = None;
            let kept = kept(&self.autosave.path);
            self.notices.say(
                "What was open last time is in no project file yet. It is kept.",
                Some(Action::Restore(kept)),
            );
        }
        if let Some(done) = self.autosave.writing.as_ref().and_then(Task::take) {
            self.autosave.writing = None;
            match (done, self.autosave.saving.take()) {
                (Ok(()), Some((path, document))) => {
                    let name = path.file_name().unwrap_or_default().to_string_lossy();
                    self.notices.say(format!("Saved as {name}."), None);
                    self.remember(&path);
                    self.saved = document;
                    self.project_path = Some(path);
                }
                (Ok(()), None) => {}
                (Err(report), _) => self.notices.problem(report, None),
            }
        }
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
        self.autosave.writing = self.start("autosave", move |_| write(&document, &path));
    }
}
