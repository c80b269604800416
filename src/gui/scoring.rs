//! The scorecard under the result: how well it follows the clip and its words, computed off the interface's thread.

use std::path::PathBuf;
use std::sync::Arc;

use eframe::egui;

use super::app::App;
use super::task::Task;
use super::theme;
use crate::evaluate::{Line, Scorecard, lines};
use crate::job;
use crate::report::Report;
use crate::video::Frame;

/// What a scorecard is of.
#[derive(Clone)]
struct Pair {
    run: PathBuf,
    reference: Arc<[Frame]>,
    sample: Arc<[Frame]>,
    prompt: String,
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        // Frames do not change once they are there: the same place is the same film.
        Arc::ptr_eq(&self.reference, &other.reference)
            && Arc::ptr_eq(&self.sample, &other.sample)
            && self.prompt == other.prompt
            && self.run == other.run
    }
}

/// A scorecard, or its computation.
pub(super) struct Scoring {
    of: Pair,
    task: Option<Task<Result<Option<Scorecard>, Report>>>,
    lines: Vec<Line>,
    /// Why there are no numbers.
    note: Option<String>,
}

impl App {
    /// What the shown result can be compared with. Samples are not, while the training needs the processor.
    fn scored_pair(&self) -> Option<Pair> {
        let sample = self.queue.sample(self.compare.chosen)?;
        let run = self.queue.run_of(self.compare.chosen)?;
        let is_quiet = sample.is_result || !self.queue.is_going();
        is_quiet.then_some(Pair {
            run: run.folder.clone()?,
            reference: Arc::clone(&self.cut.as_ref()?.frames),
            sample: Arc::clone(&sample.frames),
            prompt: sample.prompt.clone(),
        })
    }

    /// Takes the numbers of the shown result, or begins to compute them.
    pub(super) fn tick_score(&mut self) {
        let Some(pair) = self.scored_pair() else {
            self.scoring = None;
            return;
        };
        if let Some(scoring) = self.scoring.as_mut().filter(|scoring| scoring.of == pair) {
            scoring.take();
            return;
        }
        let of = pair.clone();
        let task = self.start("scorecard", move |_| {
            job::score_sample(&of.run, &of.reference, &of.sample, &of.prompt)
        });
        self.scoring = Some(Scoring {
            of: pair,
            note: task.is_some().then(|| "Comparing…".to_owned()),
            task,
            lines: Vec::new(),
        });
    }
}

impl Scoring {
    fn take(&mut self) {
        let Some(done) = self.task.as_ref().and_then(Task::take) else {
            return;
        };
        self.task = None;
        (self.lines, self.note) = match done {
            Ok(Some(card)) => (lines(&card), None),
            Ok(None) => {
                let text = "This result was made from another clip, or from another cut of it.";
                (Vec::new(), Some(text.to_owned()))
            }
            Err(report) => (Vec::new(), Some(report.to_string())),
        };
    }

    /// One row: as many of the main numbers as it has room for, what each means on hover, and a place with all of them.
    pub(super) fn ui(&self, ui: &mut egui::Ui) {
        let right_to_left = egui::Layout::right_to_left(egui::Align::Center);
        ui.with_layout(right_to_left, |ui| {
            ui.spacing_mut().item_spacing.x = 3.0 * theme::GRID;
            if !self.lines.is_empty() {
                let all: Vec<String> = self.lines.iter().map(explained).collect();
                let text = egui::RichText::new("All numbers").small();
                ui.label(text.color(theme::weak(ui)))
                    .on_hover_text(all.join("\n\n"));
            }
            let left_to_right = egui::Layout::left_to_right(egui::Align::Center);
            ui.with_layout(left_to_right, |ui| self.main_ui(ui));
        });
    }

    fn main_ui(&self, ui: &mut egui::Ui) {
        if let Some(note) = &self.note {
            let first = note.lines().next().unwrap_or_default();
            let text = egui::RichText::new(first).small().color(theme::weak(ui));
            ui.add(egui::Label::new(text).truncate())
                .on_hover_text(note);
        }
        for line in &self.lines {
            let Some(short) = line.short else { continue };
            let text = egui::RichText::new(format!("{short}: {}", line.value)).small();
            let galley = egui::WidgetText::from(text).into_galley(
                ui,
                Some(egui::TextWrapMode::Extend),
                f32::INFINITY,
                egui::TextStyle::Small,
            );
            // Half a number says nothing.
            if galley.size().x > ui.available_width() {
                break;
            }
            ui.label(galley).on_hover_text(explained(line));
        }
    }
}

fn explained(line: &Line) -> String {
    format!("{}: {}\n{}", line.title, line.value, line.meaning)
}
