//! Projects: opened, and asked about first where something would be lost.

use std::path::{Path, PathBuf};

use eframe::egui;

use super::app::{App, Document};
use super::dialogs::{Dialog, accent_button, cancel_ui};
use super::media::BUNDLED_WORDS;

/// A project that was read and takes the place of what is open.
#[derive(Clone, Debug)]
pub struct NextProject {
    path: PathBuf,
    document: Document,
}

impl App {
    /// Opens a project that was read. Changes that are in no file yet are asked about before.
    pub(super) fn meet_project(&mut self, path: PathBuf, document: Document) {
        let next = NextProject { path, document };
        if self.document == self.saved {
            self.take_project(next);
        } else {
            self.dialog = Some(Dialog::Replace(Box::new(next)));
        }
    }

    fn take_project(&mut self, next: NextProject) {
        let NextProject { path, document } = next;
        self.history.restart(document.clone());
        self.document = document;
        // A run that goes on is none of this project.
        self.queue.rebase_live(&self.document.settings.live());
        self.read_runs(self.document.runs.clone());
        if self.autosave.is_kept(&path) {
            // It is in no project file, least of all in that of the project that was open.
            self.project_path = None;
        } else {
            self.remember(&path);
            self.saved = self.document.clone();
            self.project_path = Some(path);
        }
        match self.document.clip.clone() {
            Some(clip) => self.open_path(&clip),
            None => self.open_bundled(),
        }
    }

    /// A document without a clip is one about the clip that is opened first, mostly that which comes with the program: that is no
    /// change of it, and no undo leads back to none.
    pub(super) fn fill_in_clip(&mut self, path: &Path, is_sample: bool) {
        let fill = |document: &mut Document| {
            if document.clip.is_none() {
                document.clip = Some(path.to_owned());
                (document.settings.start_secs, document.settings.fps) = (0.0, None);
                if !is_sample && document.subject == BUNDLED_WORDS {
                    // Words about another clip would teach the model something wrong.
                    document.subject.clear();
                }
            }
        };
        fill(&mut self.document);
        fill(&mut self.saved);
        self.history.amend(fill);
    }

    /// Opens the project that waits until what is open is written. Where that was not named after all, or could not be written,
    /// the question comes again.
    pub(super) fn tick_next_project(&mut self) {
        let is_named = !matches!(self.dialog, Some(Dialog::Save { .. }));
        if is_named
            && !self.autosave.is_writing()
            && let Some(next) = self.next_project.take()
        {
            self.meet_project(next.path, next.document);
        }
    }

    /// Asks what becomes of the changes. Gives whether the question stays.
    pub(super) fn replace_ui(&mut self, ui: &mut egui::Ui, next: &NextProject) -> bool {
        ui.heading("What is open has changes");
        let name = |path: &Path| {
            let name = path.file_name().unwrap_or(path.as_os_str());
            name.to_string_lossy().into_owned()
        };
        let lacks = match &self.project_path {
            Some(path) => format!("{} does not have them yet.", name(path)),
            None => "They are in no project file yet.".to_owned(),
        };
        let other = if self.autosave.is_kept(&next.path) {
            "What was open last time".to_owned()
        } else {
            name(&next.path)
        };
        ui.label(format!("{lacks} {other} takes their place."));
        ui.add_space(8.0);
        let mut stays = true;
        ui.horizontal(|ui| {
            let save = accent_button(ui, "Save and open", true);
            let tip = "Writes the project file, then opens the other one.";
            if save.on_hover_text(tip).clicked() {
                self.next_project = Some(Box::new(next.clone()));
                self.save_project(false);
                stays = false;
            }
            let leave = ui.button("Open without saving");
            let tip = "The changes are gone then.";
            if leave.on_hover_text(tip).clicked() {
                self.take_project(next.clone());
                stays = false;
            }
            cancel_ui(ui);
        });
        stays
    }
}
