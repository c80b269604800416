//! What the window has to say: toasts that go by themselves, a list of problems that stays, a log of everything.

use std::collections::VecDeque;
use std::path::PathBuf;

use eframe::egui;

use super::clips::Replaced;
use super::theme;
use crate::report::{Area, Report};

/// Lines the log keeps.
const LOG_LINES: usize = 2000;
/// Problems the list keeps.
const PROBLEMS: usize = 100;
/// Seconds a toast stays.
const TOAST_SECS: f64 = 8.0;
/// Seconds a toast with something to click stays.
const ACTION_SECS: f64 = 30.0;

/// What a toast's button does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Shows the list of problems.
    ShowProblems,
    /// Fills the panel from the recipe that came with the opened film.
    UseRecipe,
    /// Fills the panel with the words and settings of a run.
    UseRun(PathBuf),
    /// Goes on with a run.
    Resume(PathBuf),
    /// Opens what was open when the program ended unexpectedly.
    Restore(PathBuf),
    /// Runs short clips forth and back.
    LoopShort,
    /// Shows a file in the file manager.
    ShowFile(PathBuf),
    /// Learns the clips that were replaced together with the one that took their place.
    LearnBoth(Box<Replaced>),
    /// Puts the clip back that was replaced, and lets the one that took its place lead ControlVideo.
    LeadBy(Box<Replaced>),
    /// Makes a sample with a file of trained weights, which are whole ones or adapters of some strength.
    SampleWith {
        /// The file.
        file: PathBuf,
        /// Whether they take the place of the model's own.
        whole: bool,
    },
    /// Trains this model from now on.
    UseModel(PathBuf),
}

impl Action {
    fn label(&self) -> &'static str {
        match self {
            Self::ShowProblems => "Details",
            Self::UseRecipe | Self::UseRun(_) => "Use its settings",
            Self::Resume(_) => "Resume",
            Self::Restore(_) => "Restore",
            Self::LoopShort => "Loop it",
            Self::ShowFile(_) => "Show folder",
            Self::LearnBoth(_) => "Learn both",
            Self::LeadBy(_) => "Let it lead",
            Self::SampleWith { .. } => "Sample with it…",
            Self::UseModel(_) => "Use it",
        }
    }

    fn tooltip(&self) -> &'static str {
        match self {
            Self::ShowProblems => "Cause and remedy of everything that went wrong.",
            Self::UseRecipe | Self::UseRun(_) => {
                "Puts its words and settings into the panel. Undo takes them back."
            }
            Self::Resume(_) => "Trains on from its newest checkpoint.",
            Self::Restore(_) => "Opens clip, words, settings and runs as they were.",
            Self::LoopShort => "Runs a clip that is too short forth and back.",
            Self::ShowFile(_) => "Shows it in the system's file manager.",
            Self::LearnBoth(_) => {
                "Trains on the clips of before and on this one, as clips of one motion."
            }
            Self::LeadBy(_) => {
                "Puts the clip of before back; this one, of its edges, depth or poses, leads ControlVideo."
            }
            Self::SampleWith { .. } => {
                "Asks how strongly, and paints the new subject with these weights on the chosen model."
            }
            Self::UseModel(_) => "Makes it the model that learns. Undo takes that back.",
        }
    }
}

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// For the record.
    Note,
    /// Something went wrong.
    Problem,
}

/// A line of the log.
#[derive(Clone, Debug)]
pub struct Line {
    /// Seconds since the window opened.
    pub at_secs: f64,
    /// How loud.
    pub level: Level,
    /// What.
    pub text: String,
}

struct Toast {
    id: u64,
    text: String,
    problem: bool,
    actions: Vec<Action>,
    until_secs: f64,
}

/// Toasts, problems and log.
#[derive(Default)]
pub struct Notices {
    toasts: Vec<Toast>,
    /// Problems, newest last.
    pub problems: VecDeque<Report>,
    /// The log, newest last.
    pub log: VecDeque<Line>,
    /// Problems nobody has looked at yet.
    pub unseen: usize,
    now_secs: f64,
    next_id: u64,
}

impl Notices {
    /// Tells the time; old toasts go.
    pub fn tick(&mut self, now_secs: f64) {
        self.now_secs = now_secs;
        self.toasts.retain(|toast| toast.until_secs > now_secs);
    }

    /// For the record only.
    pub fn log(&mut self, text: impl Into<String>) {
        self.write(Level::Note, text.into());
    }

    fn write(&mut self, level: Level, text: String) {
        if self.log.len() == LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(Line {
            at_secs: self.now_secs,
            level,
            text,
        });
    }

    /// Something worth a glance, and what can be done about it.
    pub fn say(&mut self, text: impl Into<String>, actions: impl IntoIterator<Item = Action>) {
        let text = text.into();
        self.write(Level::Note, text.clone());
        self.toast(text, false, actions.into_iter().collect());
    }

    /// Something went wrong: a toast now, the list for later.
    pub fn problem(&mut self, report: Report, action: Option<Action>) {
        self.write(Level::Problem, report.to_string());
        let text = match report.what_to_do.as_str() {
            "" => report.headline.clone(),
            advice => format!("{}\n{advice}", report.headline),
        };
        self.toast(text, true, vec![action.unwrap_or(Action::ShowProblems)]);
        if self.problems.len() == PROBLEMS {
            self.problems.pop_front();
        }
        self.problems.push_back(report);
        self.unseen += 1;
    }

    /// As [`Self::problem`] where the system refused something.
    pub fn failed(&mut self, headline: &str, error: &(dyn std::error::Error + 'static)) {
        self.problem(Report::new(Area::Run, headline).because_of(error), None);
    }

    fn toast(&mut self, text: String, problem: bool, actions: Vec<Action>) {
        let stay = if actions.is_empty() {
            TOAST_SECS
        } else {
            ACTION_SECS
        };
        // The same words again only stay longer.
        self.toasts.retain(|toast| toast.text != text);
        self.next_id += 1;
        self.toasts.push(Toast {
            id: self.next_id,
            text,
            problem,
            actions,
            until_secs: self.now_secs + stay,
        });
    }

    /// Draws the toasts in the corner; gives the action that was clicked.
    pub fn toasts_ui(&mut self, ctx: &egui::Context) -> Option<Action> {
        let mut clicked = None;
        let mut closed = None;
        if self.toasts.is_empty() {
            return None;
        }
        egui::Area::new(egui::Id::unique("toasts"))
            // Over the plots: everywhere else stands something that is clicked.
            .anchor(egui::Align2::RIGHT_BOTTOM, egui::vec2(-12.0, -12.0))
            .order(egui::Order::Foreground)
            .show(ctx, |ui| {
                ui.set_max_width(420.0);
                for toast in self.toasts.iter().rev().take(4).rev() {
                    egui::Frame::popup(ui.style()).show(ui, |ui| {
                        ui.horizontal(|ui| {
                            let colour = if toast.problem {
                                theme::error(ui)
                            } else {
                                theme::accent(ui)
                            };
                            let (rect, _) =
                                ui.allocate_exact_size(egui::vec2(4.0, 32.0), egui::Sense::hover());
                            ui.painter().rect_filled(rect, 2.0, colour);
                            let buttons = if toast.actions.is_empty() { 0.0 } else { 110.0 };
                            let width = 400.0 - 60.0 - buttons;
                            ui.scope(|ui| {
                                ui.set_max_width(width);
                                ui.add(egui::Label::new(&toast.text).wrap());
                            });
                            ui.vertical(|ui| {
                                for action in &toast.actions {
                                    let button = ui.button(action.label());
                                    if button.on_hover_text(action.tooltip()).clicked() {
                                        clicked = Some(action.clone());
                                        closed = Some(toast.id);
                                    }
                                }
                            });
                            let close = egui::Button::new("×").frame(false);
                            let close = ui.add(close.min_size(egui::Vec2::splat(theme::HIT_SIZE)));
                            let close = close.on_hover_text("Close this message");
                            if close.clicked() {
                                closed = Some(toast.id);
                            }
                        });
                    });
                }
            });
        if let Some(closed) = closed {
            self.toasts.retain(|toast| toast.id != closed);
        }
        clicked
    }

    /// Draws the list of problems.
    pub fn problems_ui(&mut self, ui: &mut egui::Ui) {
        self.unseen = 0;
        if self.problems.is_empty() {
            ui.weak("Nothing went wrong so far.");
            return;
        }
        egui::ScrollArea::vertical()
            .max_height(360.0)
            .show(ui, |ui| {
                for report in self.problems.iter().rev() {
                    ui.label(egui::RichText::new(&report.headline).strong());
                    for cause in &report.cause {
                        ui.weak(format!("• {cause}"));
                    }
                    if !report.what_to_do.is_empty() {
                        ui.label(&report.what_to_do);
                    }
                    ui.separator();
                }
            });
        let copy = ui.button("Copy all");
        let tip = "Puts everything above on the clipboard, for a report.";
        if copy.on_hover_text(tip).clicked() {
            let text: Vec<String> = self.problems.iter().map(ToString::to_string).collect();
            ui.ctx().copy_text(text.join("\n\n"));
        }
    }

    /// Draws the log.
    pub fn log_ui(&self, ui: &mut egui::Ui) {
        egui::ScrollArea::vertical()
            .auto_shrink(false)
            .stick_to_bottom(true)
            .show(ui, |ui| {
                for line in &self.log {
                    let text = egui::RichText::new(format!("{:8.1}  {}", line.at_secs, line.text))
                        .monospace();
                    ui.label(match line.level {
                        Level::Note => text,
                        Level::Problem => text.color(theme::error(ui)),
                    });
                }
            });
    }
}
