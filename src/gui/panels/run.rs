//! The run: how far it is, what it painted on the way, what its numbers say.

use std::path::Path;

use eframe::egui::{self, Rect, Sense, pos2, vec2};

use super::plots;
use crate::gui::app::App;
use crate::gui::command::Command;
use crate::gui::dialogs::Dialog;
use crate::gui::player::length;
use crate::gui::run::Run;
use crate::gui::sample::Sample;
use crate::gui::theme;
use crate::job::{Outcome, Until};

/// Width of what a run says of itself, in points.
const STATUS_WIDTH: f32 = 268.0;
/// Height of the axis below the samples, in points.
const AXIS_HEIGHT: f32 = 18.0;

/// Which numbers are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plot {
    /// The terms of the loss.
    #[default]
    Losses,
    /// The wavelet bands as curves.
    Bands,
    /// Step by band as a map.
    Map,
    /// The norm of all gradients.
    Gradients,
}

impl Plot {
    const ALL: [Self; 4] = [Self::Losses, Self::Bands, Self::Map, Self::Gradients];

    fn label(self) -> &'static str {
        match self {
            Self::Losses => "Losses",
            Self::Bands => "By band",
            Self::Map => "Map",
            Self::Gradients => "Gradients",
        }
    }

    fn tooltip(self) -> &'static str {
        match self {
            Self::Losses => {
                "What is minimised (total), and its parts: base, global (wavelets), amplitude and phase (Fourier). Each is drawn as it is, before λ."
            }
            Self::Bands => "The global term by wavelet band.",
            Self::Map => {
                "The global term, step by band: where in time the motion does not fit yet."
            }
            Self::Gradients => {
                "Norm of all gradients before clipping. Zero means that nothing is learnt."
            }
        }
    }
}

/// State of the pane.
#[derive(Default)]
pub struct RunView {
    plot: Plot,
    /// A run that was chosen; none is the newest.
    chosen: Option<usize>,
    map: Option<(usize, egui::TextureHandle)>,
}

impl RunView {
    /// Follows the newest run again.
    pub fn follow(&mut self) {
        self.chosen = None;
        self.map = None;
    }

    /// Shows one run until another one begins.
    pub fn choose(&mut self, place: usize) {
        self.chosen = Some(place);
        self.map = None;
    }

    /// The runs have moved: says where the one of a place is now; none is gone.
    pub fn moved(&mut self, to: impl Fn(usize) -> Option<usize>) {
        self.chosen = self.chosen.and_then(to);
        self.map = None;
    }

    /// The run that is shown, of so many.
    pub fn index(&self, runs: usize) -> usize {
        self.chosen
            .filter(|index| *index < runs)
            .unwrap_or(runs.saturating_sub(1))
    }
}

/// Draws the pane.
pub fn run_ui(app: &mut App, ui: &mut egui::Ui) {
    export_ui(app, ui);
    if app.queue.current().is_none() {
        ui.centered_and_justified(|ui| {
            let text = if app.queue.is_going() {
                "Starting…"
            } else {
                "Press Train: the steps, the samples and the losses of the run appear here."
            };
            ui.label(egui::RichText::new(text).color(theme::weak(ui)));
        });
        return;
    }
    let room = ui.available_size();
    ui.horizontal_top(|ui| {
        // Where the window is small, the curves need the room more.
        let status = vec2((0.22 * room.x).clamp(200.0, STATUS_WIDTH), room.y);
        ui.allocate_ui(status, |ui| {
            ui.set_min_size(status);
            ui.vertical(|ui| status_ui(app, ui));
        });
        let rest = ui.available_width();
        let samples = (rest * 0.5 - 8.0).max(120.0);
        ui.allocate_ui(vec2(samples, room.y), |ui| {
            ui.set_min_size(vec2(samples, room.y));
            samples_ui(app, ui);
        });
        ui.allocate_ui(vec2(ui.available_width(), room.y), |ui| {
            ui.vertical(|ui| plot_ui(app, ui));
        });
    });
}

fn export_ui(app: &mut App, ui: &mut egui::Ui) {
    let Some(export) = &mut app.export else {
        return;
    };
    ui.horizontal(|ui| {
        let name = export
            .path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        ui.label(format!("Exporting {name}"));
        let share = export.done as f32 / export.total.max(1) as f32;
        let bar = ui.add(egui::ProgressBar::new(share).desired_width(160.0));
        let told = format!("{} of {} frames are written", export.done, export.total);
        bar.widget_info(|| {
            egui::WidgetInfo::labeled(egui::Role::ProgressIndicator, true, told.clone())
        });
        let cancel = ui.button("Cancel export");
        if cancel.on_hover_text("Nothing is left behind.").clicked() {
            export.cancel();
        }
    });
}

/// The name of the shown run; with several of them, a list to choose from.
fn title_ui(app: &mut App, ui: &mut egui::Ui) {
    let runs = &app.queue.runs;
    let index = app.run_view.index(runs.len());
    let Some(run) = runs.get(index) else { return };
    if runs.len() < 2 {
        let title = egui::RichText::new(&run.title).strong();
        ui.add(egui::Label::new(title).truncate())
            .on_hover_text(&run.title);
        return;
    }
    let name = |index: usize, run: &Run| format!("{}. {}", index + 1, run.title);
    let mut wanted = index;
    egui::ComboBox::from_id_salt("runs")
        .selected_text(name(index, run))
        .width(ui.available_width())
        .truncate()
        .show_ui(ui, |ui| {
            for (other, run) in runs.iter().enumerate() {
                ui.selectable_value(&mut wanted, other, name(other, run));
            }
        })
        .response
        .on_hover_text("Runs of this window.");
    if wanted != index {
        app.choose_run(wanted);
    }
}

fn status_ui(app: &mut App, ui: &mut egui::Ui) {
    title_ui(app, ui);
    let Some(run) = app.queue.runs.get(app.run_view.index(app.queue.runs.len())) else {
        return;
    };
    let share = match &run.outcome {
        Some(Outcome::Completed) => 1.0,
        Some(_) => run.step() as f32 / run.steps.max(1) as f32,
        None => run.done as f32 / run.total.max(1) as f32,
    };
    let bar = egui::ProgressBar::new(share)
        .desired_height(8.0)
        .fill(theme::accent(ui));
    let bar = ui.add(bar);
    let status = run.status();
    bar.widget_info(|| {
        egui::WidgetInfo::labeled(egui::Role::ProgressIndicator, true, status.clone())
    });
    let pace = pace_text(run);
    if pace.is_empty() {
        ui.add(egui::Label::new(&status).wrap());
    } else {
        let text = format!("{status}, {pace}");
        let label = egui::Label::new(egui::RichText::new(&text).small()).truncate();
        ui.add(label).on_hover_text(text);
    }
    ui.horizontal_wrapped(|ui| {
        buttons_ui(app, ui);
        waiting_ui(app, ui);
    });
}

/// What can be asked of the shown run.
fn buttons_ui(app: &mut App, ui: &mut egui::Ui) {
    let Some(run) = app.queue.runs.get(app.run_view.index(app.queue.runs.len())) else {
        return;
    };
    let (training, sampling) = (run.is_training(), run.is_going() && run.is_sampling);
    let stopped = matches!(
        run.outcome,
        Some(Outcome::Cancelled { .. } | Outcome::Failed(_))
    );
    let resume = run.folder.clone().filter(|_| stopped && run.step() > 0);
    let finished = run
        .folder
        .as_ref()
        .filter(|_| run.outcome == Some(Outcome::Completed))
        .and_then(|folder| Some((folder.clone(), steps_of(app, folder)?)));
    let can_sample = run.has_weights() && !run.is_going();
    let has_adapters = run.has_adapters();
    let mut command_ui = |ui: &mut egui::Ui, command: Command, label: &str| {
        let hover = command.hover_text(ui.ctx());
        if ui.button(label).on_hover_text(hover).clicked() {
            app.obey(command);
        }
    };
    if training || can_sample {
        command_ui(ui, Command::SampleNow, "Sample now");
    }
    if training {
        command_ui(ui, Command::CheckpointNow, "Checkpoint");
    }
    if sampling {
        command_ui(ui, Command::Stop, "Stop sampling");
    }
    if let Some(folder) = resume {
        let tip = "Train on from the newest checkpoint.";
        if ui.button("Resume").on_hover_text(tip).clicked() {
            app.resume(folder, Until::Planned);
        }
    }
    if let Some((folder, steps)) = finished {
        let tip = "More steps for this run, from its last checkpoint on.";
        if ui.button("Train further…").on_hover_text(tip).clicked() {
            app.dialog = Some(Dialog::further(folder.clone(), steps));
        }
        let tip = "Writes what it learnt of the motion as a LoRA into the run's folder, for diffusers and other programs.";
        let can_save = app.saving_lora.is_none();
        let save = has_adapters.then(|| ui.add_enabled(can_save, egui::Button::new("LoRA file")));
        if save.is_some_and(|save| save.on_hover_text(tip).clicked()) {
            app.save_lora(&folder);
        }
    }
}

/// What waits for its turn, to be moved up or taken out.
fn waiting_ui(app: &mut App, ui: &mut egui::Ui) {
    let waiting = &mut app.queue.waiting;
    if waiting.is_empty() {
        return;
    }
    let (mut up, mut out) = (None, None);
    let title = format!("{} waiting", waiting.len());
    let menu = ui.menu_button(title, |ui| {
        ui.set_min_width(280.0);
        for (index, next) in waiting.iter().enumerate() {
            ui.horizontal(|ui| {
                let moves = ui.add_enabled(index > 0, egui::Button::new("Earlier"));
                let tip = format!("Let \"{}\" have its turn one place earlier.", next.title);
                if moves.on_hover_text(tip).clicked() {
                    up = Some(index);
                }
                let tip = format!("Take \"{}\" out of the queue.", next.title);
                if ui.button("Remove").on_hover_text(tip).clicked() {
                    out = Some(index);
                }
                ui.add(egui::Label::new(format!("{}. {}", index + 1, next.title)).truncate());
            });
        }
    });
    let tip = "Runs that wait for the one that is going on.";
    menu.response.on_hover_text(tip);
    if let Some(index) = up {
        waiting.swap(index, index - 1);
    }
    if let Some(index) = out {
        waiting.remove(index);
    }
}

/// Training steps of a finished run, which may have been trained further since; none while it is.
fn steps_of(app: &App, folder: &Path) -> Option<u32> {
    let lives = || {
        let runs = app.queue.runs.iter();
        runs.filter(|run| run.folder.as_deref() == Some(folder))
    };
    if lives().any(Run::is_going) {
        return None;
    }
    lives().map(|run| run.steps).max()
}

fn pace_text(run: &Run) -> String {
    let mut parts = Vec::new();
    if let Some(secs) = run.step_secs().filter(|secs| *secs > 0.0) {
        parts.push(if secs < 1.0 {
            format!("{:.1} steps/s", 1.0 / secs)
        } else {
            format!("{secs:.1} s a step")
        });
    }
    if let Some(eta) = run.eta_secs() {
        parts.push(format!("{} left", length(eta)));
    }
    parts.join(", ")
}

/// Where a step stands.
fn step_x(run: &Run, area: Rect, step: u32) -> f32 {
    let steps = run.steps.max(run.step()).max(1);
    area.min.x + area.width() * step as f32 / steps as f32
}

/// The line of steps with what changed on the way.
fn axis_ui(run: &Run, ui: &egui::Ui, area: Rect, line: f32) {
    let steps = run.steps.max(run.step()).max(1);
    let x = |step: u32| step_x(run, area, step);
    let painter = ui.painter_at(area.expand(4.0));
    let weak = theme::weak(ui);
    let font = egui::TextStyle::Small.resolve(ui.style());
    painter.hline(
        area.x_range(),
        line,
        egui::Stroke::new(2.0, theme::line(ui)),
    );
    painter.hline(
        area.min.x..=x(run.step()),
        line,
        egui::Stroke::new(2.0, theme::accent(ui)),
    );
    for (step, align) in [
        (0, egui::Align2::LEFT_TOP),
        (steps, egui::Align2::RIGHT_TOP),
    ] {
        let text = if step == 0 {
            "step 0".to_owned()
        } else {
            step.to_string()
        };
        painter.text(pos2(x(step), line + 3.0), align, text, font.clone(), weak);
    }
    for mark in &run.marks {
        let at = pos2(x(mark.step), line);
        painter.circle_filled(at, 3.0, theme::warning(ui));
        let grab = Rect::from_center_size(at, vec2(10.0, 14.0));
        let id = ui.scope_id().with(("mark", mark.step, &mark.text));
        ui.interact(grab, id, Sense::hover()).on_hover_text(format!(
            "From step {}: {}",
            mark.step + 1,
            mark.text
        ));
    }
}

/// The samples on the step axis, playing.
fn samples_ui(app: &mut App, ui: &mut egui::Ui) {
    let run_index = app.run_view.index(app.queue.runs.len());
    let Some(run) = app.queue.runs.get(run_index) else {
        return;
    };
    let area = ui.available_rect_before_wrap().shrink2(vec2(4.0, 0.0));
    let line = area.max.y - AXIS_HEIGHT;
    axis_ui(run, ui, area, line);
    let x = |step: u32| step_x(run, area, step);
    if run.samples.is_empty() {
        ui.painter().text(
            pos2(area.center().x, area.min.y + (line - area.min.y) / 2.0),
            egui::Align2::CENTER_CENTER,
            "Samples appear here while it trains.",
            egui::TextStyle::Small.resolve(ui.style()),
            theme::weak(ui),
        );
        return;
    }
    let frame = app.cut_frame();
    let chosen = app
        .compare
        .chosen
        .unwrap_or((run_index, run.samples.len() - 1));
    let height = (line - area.min.y - 8.0).max(16.0);
    let mut clicked = None;
    let mut free_from = area.min.x;
    // Newest last: where they would overlap, each one moves right of the one before.
    let widths: Vec<f32> = run
        .samples
        .iter()
        .map(|sample| (height * sample.aspect()).min(area.width() * 0.3))
        .collect();
    let all: f32 = widths.iter().map(|width| width + 4.0).sum();
    let shrink = (area.width() / all.max(1.0)).min(1.0);
    for (index, sample) in run.samples.iter().enumerate() {
        let width = (widths[index] * shrink).max(8.0);
        let later: f32 = widths[index..]
            .iter()
            .map(|width| (width + 4.0) * shrink)
            .sum();
        let wanted = x(sample.step) - width / 2.0;
        let left = wanted.min(area.max.x - later).max(free_from);
        free_from = left + width + 4.0 * shrink;
        let rect = Rect::from_min_size(pos2(left, area.min.y), vec2(width, height));
        let response = sample_ui(
            ui,
            sample,
            rect,
            (index, frame),
            chosen == (run_index, index),
        );
        ui.painter().line_segment(
            [
                pos2(rect.center().x, rect.max.y),
                pos2(x(sample.step), line),
            ],
            egui::Stroke::new(1.0, theme::line(ui)),
        );
        if response.clicked() {
            clicked = Some(index);
        }
    }
    if let Some(index) = clicked {
        app.compare.choose(Some((run_index, index)));
        app.show_sample();
    }
}

fn sample_ui(
    ui: &egui::Ui,
    sample: &Sample,
    rect: Rect,
    (index, frame): (usize, usize),
    chosen: bool,
) -> egui::Response {
    let id = ui.scope_id().with(("sample", index));
    let response = ui.interact(rect, id, Sense::click());
    let name = if sample.is_result {
        format!("Result: {}", sample.prompt)
    } else {
        format!("Sample of step {}: {}", sample.step, sample.prompt)
    };
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, true, &name));
    let painter = ui.painter();
    painter.rect_filled(rect, 2.0, theme::sunken(ui));
    if let Some(texture) = &sample.texture {
        let count = sample.frames.len().max(1) as f32;
        let at = (frame.min(sample.frames.len().saturating_sub(1))) as f32;
        let uv = Rect::from_min_max(pos2(at / count, 0.0), pos2((at + 1.0) / count, 1.0));
        painter.image(texture.id(), rect, uv, theme::untinted());
    }
    let stroke = if chosen {
        egui::Stroke::new(2.0, theme::accent(ui))
    } else if response.hovered() || response.has_focus() {
        egui::Stroke::new(1.0, ui.visuals().strong_text_color())
    } else {
        egui::Stroke::new(1.0, theme::line(ui))
    };
    painter.rect_stroke(rect, 2.0, stroke, egui::StrokeKind::Outside);
    response.on_hover_text(name)
}

fn plot_ui(app: &mut App, ui: &mut egui::Ui) {
    let index = app.run_view.index(app.queue.runs.len());
    let Some(run) = app.queue.runs.get(index) else {
        return;
    };
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 2.0;
        for plot in Plot::ALL {
            let chosen = app.run_view.plot == plot;
            let button = egui::Button::new(plot.label()).selected(chosen);
            if ui.add(button).on_hover_text(plot.tooltip()).clicked() {
                app.run_view.plot = plot;
            }
        }
    });
    match app.run_view.plot {
        Plot::Losses => plots::losses_ui(run, ui),
        Plot::Bands => plots::bands_ui(run, ui),
        Plot::Gradients => plots::gradients_ui(run, ui),
        Plot::Map => plots::map_ui(run, &mut app.run_view.map, ui),
    }
}
