//! The end of the window: what is asked before it closes, and what it waits for.

use std::path::Path;

use eframe::egui;

use super::app::App;
use super::dialogs::{Dialog, accent_button, cancel_ui};
use super::past::Reading;
use crate::job;

/// What is under way when the window shall close.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// A run goes on, or a film is written: it is stopped when that was agreed to.
    is_busy: bool,
    /// The project file has changes.
    is_changed: bool,
    /// The project file is being written, and may have the changes soon.
    is_saving: bool,
    /// Any file is being written, which the end of the program would cut off.
    is_writing: bool,
}

/// What happens to a window that shall close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Close,
    Wait,
    AskToStop,
    AskToSave,
}

impl Held {
    /// What comes next; `agreed` says that somebody knows that the window closes and what is stopped for it.
    fn next(self, agreed: bool) -> Next {
        match self {
            Self { is_busy: true, .. } if agreed => Next::Wait,
            Self { is_busy: true, .. } => Next::AskToStop,
            Self {
                is_changed: true,
                is_saving: false,
                ..
            } => Next::AskToSave,
            Self {
                is_writing: true, ..
            } => Next::Wait,
            _ => Next::Close,
        }
    }
}

impl App {
    /// A run that goes on and a project with changes are asked about before the window goes, and nothing that is being
    /// written is cut off.
    pub(super) fn tick_close(&mut self, ctx: &egui::Context) {
        let asked = ctx.input(|input| input.viewport().close_requested());
        if !asked && !self.closing {
            return;
        }
        let held = Held {
            is_busy: self.is_busy(),
            is_changed: self.project_path.is_some() && self.document != self.saved,
            is_saving: self.autosave.is_saving(),
            is_writing: self.autosave.is_writing() || self.saving_lora.is_some(),
        };
        let next = held.next(self.closing);
        match next {
            // The system's own request goes on by itself.
            Next::Close if asked => return,
            Next::Close => ctx.send_viewport_cmd(egui::ViewportCommand::Close),
            Next::Wait => self.closing = true,
            Next::AskToStop => {}
            Next::AskToSave => {
                self.closing = false;
                self.dialog = Some(Dialog::Unsaved);
            }
        }
        if asked {
            ctx.send_viewport_cmd(egui::ViewportCommand::CancelClose);
            // Whoever waits sees for what.
            if next != Next::AskToSave {
                self.dialog = Some(Dialog::Close);
            }
        }
    }

    /// The window does not close after all: something went wrong that somebody should see.
    pub(super) fn stay_open(&mut self) {
        self.closing = false;
        if matches!(self.dialog, Some(Dialog::Close | Dialog::Unsaved)) {
            self.dialog = None;
        }
    }

    /// Stops everything, and closes the window when it has stopped.
    fn stop_and_close(&mut self) {
        self.closing = true;
        self.queue.waiting.clear();
        self.queue.reading = Reading::default();
        self.queue.send(job::Command::Stop);
        if let Some(export) = &mut self.export {
            export.cancel();
        }
    }

    /// The question while something is going on, and what is waited for after it. Gives whether it stays open.
    pub(super) fn close_ui(&mut self, ui: &mut egui::Ui) -> bool {
        let training = self.queue.is_going();
        ui.heading(match (training, &self.export) {
            (true, _) => "A run is going on",
            (false, Some(_)) => "A film is being written",
            (false, None) => "A file is being written",
        });
        if self.closing {
            ui.label("Stopping. The window closes when what must be kept is on disk.");
            ui.spinner();
            return true;
        }
        if !self.is_busy() {
            // It came to its end before anybody answered.
            return false;
        }
        ui.label(if training {
            "Stopping leaves a checkpoint, from which the run can go on later."
        } else {
            "Stopping leaves nothing of the film."
        });
        ui.add_space(8.0);
        ui.horizontal(|ui| {
            let stop = accent_button(ui, "Stop and close", true);
            let tip = "The window closes as soon as everything has stopped.";
            if stop.on_hover_text(tip).clicked() {
                self.stop_and_close();
            }
            let keep = ui.button("Keep it running");
            if keep.on_hover_text("The window stays open.").clicked() {
                ui.close();
            }
        });
        true
    }

    /// The question about a project with changes. Gives whether it stays open.
    pub(super) fn unsaved_ui(&mut self, ui: &mut egui::Ui) -> bool {
        ui.heading("The project has changes");
        let name = self
            .project_path
            .as_deref()
            .and_then(Path::file_name)
            .unwrap_or_default()
            .to_string_lossy();
        if self.closing {
            ui.label(format!(
                "{name} is being written. The window closes after that."
            ));
            ui.spinner();
            return true;
        }
        ui.label(format!("{name} does not have them yet."));
        ui.add_space(8.0);
        ui.horizontal(|ui| {
            let save = accent_button(ui, "Save and close", true);
            let tip = "Writes the project file, then closes the window.";
            if save.on_hover_text(tip).clicked() {
                self.closing = true;
                self.save_project(false);
            }
            let leave = ui.button("Close without saving");
            let tip = "The project file stays as it was.";
            if leave.on_hover_text(tip).clicked() {
                self.document = self.saved.clone();
                self.closing = true;
            }
            cancel_ui(ui);
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_cut_off_and_nothing_is_lost_without_a_question() {
        let nothing = Held::default();
        let busy = Held {
            is_busy: true,
            ..nothing
        };
        let changed = Held {
            is_changed: true,
            ..nothing
        };
        let autosaving = Held {
            is_writing: true,
            ..nothing
        };
        let saving = Held {
            is_saving: true,
            ..autosaving
        };
        for (held, first, agreed) in [
            (nothing, Next::Close, Next::Close),
            // Asked again while it stops, the window still waits.
            (busy, Next::AskToStop, Next::Wait),
            (
                Held {
                    is_changed: true,
                    ..busy
                },
                Next::AskToStop,
                Next::Wait,
            ),
            // A run that has stopped leaves a project with changes.
            (changed, Next::AskToSave, Next::AskToSave),
            (autosaving, Next::Wait, Next::Wait),
            (saving, Next::Wait, Next::Wait),
            (
                Held {
                    is_changed: true,
                    ..saving
                },
                Next::Wait,
                Next::Wait,
            ),
            // Of the autosave the project file gets nothing.
            (
                Held {
                    is_changed: true,
                    ..autosaving
                },
                Next::AskToSave,
                Next::AskToSave,
            ),
        ] {
            assert_eq!(held.next(false), first, "{held:?}");
            assert_eq!(held.next(true), agreed, "{held:?}");
        }
    }
}
