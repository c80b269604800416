//! The transfer column, read from top to bottom like a sentence: this motion, that subject, how, go.

use std::path::Path;
use std::sync::LazyLock;

use eframe::egui;

use super::advanced::advanced_ui;
use super::clips::{add_clip_ui, more_clips_ui};
use super::control::control_ui;
use super::method;
use super::settings::{about, clip_ui, spectral_ui, training_ui};
use crate::gui::app::App;
use crate::gui::command::Command;
use crate::gui::dialogs::{Pick, accent_button};
use crate::gui::run::Run;
use crate::gui::theme;
use crate::methods::Method;
use crate::train::{Preset, TransferConfig};

/// Draws the column.
pub fn transfer_ui(app: &mut App, ui: &mut egui::Ui) {
    let go_height = 76.0;
    let room = (ui.available_height() - go_height).max(80.0);
    egui::ScrollArea::vertical()
        .max_height(room)
        .min_scrolled_height(room)
        .auto_shrink([false, false])
        .show(ui, |ui| {
            ui.set_width(ui.available_width() - 6.0);
            words_ui(app, ui);
            ui.separator();
            method::method_ui(app, ui);
            control_ui(app, ui);
            ui.separator();
            spectral_ui(app, ui);
            ui.separator();
            fold_ui(
                ui,
                "Training and sampling",
                "Steps, learning rate, seed, samples, sampler.",
                |ui| training_ui(app, ui),
            );
            fold_ui(
                ui,
                "Clip",
                "Frames, size and shape of what the model sees.",
                |ui| clip_ui(app, ui),
            );
            fold_ui(
                ui,
                "Advanced",
                "What most people leave alone. The presets set it as their authors do.",
                |ui| advanced_ui(app, ui),
            );
        });
    ui.with_layout(egui::Layout::bottom_up(egui::Align::Min), |ui| {
        go_ui(app, ui);
    });
}

/// Rows that are folded until somebody wants them.
fn fold_ui(ui: &mut egui::Ui, title: &str, hover: &str, rows: impl FnOnce(&mut egui::Ui)) {
    let fold = egui::CollapsingHeader::new(title)
        .id_salt(title)
        .show(ui, rows);
    fold.header_response.on_hover_text(hover);
}

fn words_ui(app: &mut App, ui: &mut egui::Ui) {
    let label = ui.horizontal(|ui| {
        let label = ui.label("Clip words");
        let right = egui::Layout::right_to_left(egui::Align::Center);
        ui.with_layout(right, |ui| add_clip_ui(app, ui));
        label
    });
    let label = label.inner;
    let field = egui::TextEdit::singleline(&mut app.document.subject)
        .hint_text("a car turning")
        .desired_width(f32::INFINITY);
    ui.add(field).labelled_by(label.id).on_hover_text(about(
        "What the clip shows, in a few words: subject and movement.",
        "Leave place and style out. The built-in model knows circles, squares, triangles and stars in plain colours.",
        "",
    ));
    more_clips_ui(app, ui);
    let label = ui.label("New subject");
    let field = egui::TextEdit::multiline(&mut app.document.prompt)
        .hint_text("a yellow star on a blue plain background")
        .desired_rows(2)
        .desired_width(f32::INFINITY);
    ui.add(field).labelled_by(label.id).on_hover_text(about(
        "What the result shall show, with the clip's motion.",
        "For the built-in model: \"a yellow star on a blue plain background\".",
        "",
    ));
}

/// Which model learns.
pub(super) fn model_row_ui(app: &mut App, ui: &mut egui::Ui) {
    let label = ui.label("Model");
    let name = app.model_title();
    let (mut browse, mut more) = (false, false);
    egui::ComboBox::from_id_salt("model")
        .selected_text(name)
        .width(ui.available_width())
        .truncate()
        .show_ui(ui, |ui| {
            let builtin = ui.selectable_label(app.document.model.is_none(), "built-in model");
            let tip = "The small models inside this program, one for clips and one for pictures: plain shapes, within seconds.";
            if builtin.on_hover_text(tip).clicked() {
                app.choose_model(None);
            }
            let mut chosen = None;
            for (title, folder) in app.shelf.usable() {
                let is_it = app.document.model.as_deref() == Some(folder);
                let label = ui.selectable_label(is_it, title);
                if label.on_hover_text(folder.display().to_string()).clicked() {
                    chosen = Some(folder.to_owned());
                }
            }
            if chosen.is_some() {
                app.choose_model(chosen);
            }
            let other = app.document.model.clone();
            let is_listed = |path: &Path| app.shelf.usable().any(|(_, folder)| folder == path);
            if let Some(path) = other.filter(|path| !is_listed(path)) {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                ui.selectable_label(true, name.into_owned())
                    .on_hover_text(path.display().to_string());
            }
            let list = ui.button("More models…");
            if list.on_hover_text(Command::Models.hover_text(ui.ctx())).clicked() {
                more = true;
            }
            let folder = ui.button("Choose a folder…");
            let tip = "A model in diffusers layout: the folder with model_index.json in it.";
            browse = folder.on_hover_text(tip).clicked();
        })
        .response
        .labelled_by(label.id)
        .on_hover_text(about(
            "The model that learns.",
            "The built-in one paints plain shapes within seconds. A folder in diffusers layout (ModelScope, ZeroScope; Stable Diffusion 1.x for Tune-A-Video and ControlVideo) paints anything and wants a GPU.",
            "",
        ));
    if browse {
        app.pick(Pick::Model, true);
    }
    if more {
        app.obey(Command::Models);
    }
    ui.end_row();
}

/// Settings by whoever found them.
pub(super) fn preset_row_ui(app: &mut App, ui: &mut egui::Ui) {
    let label = ui.label("Preset");
    let presets = [
        (
            Preset::Default,
            "This program",
            "What this program takes when nothing is chosen.",
        ),
        (
            Preset::Paper,
            "The paper",
            "Spectral Motion Alignment, arXiv 2403.15249: signed residuals, 3 levels for 8 frames and 4 for 16.",
        ),
        (
            Preset::SmaRepo,
            "The authors' code",
            "geonyeong-park/Spectral-Motion-Alignment: absolute residuals, 2 levels.",
        ),
        (
            Preset::MotionDirector,
            "MotionDirector",
            "showlab/MotionDirector on a single video: rank 32, 150 steps, half the inverted clip.",
        ),
        (
            Preset::TuneAVideo,
            "Tune-A-Video",
            "showlab/Tune-A-Video: 500 steps, guidance 12.5. For Stable Diffusion 1.x.",
        ),
        (
            Preset::ControlVideo,
            "ControlVideo",
            "thu-ml/controlvideo on edges: 80 steps, guidance 12. For Stable Diffusion 1.x with a ControlNet.",
        ),
        (
            Preset::TuneAVideoBuiltin,
            "Tune-A-Video, built-in model",
            "What suits the built-in image model.",
        ),
        (
            Preset::ControlVideoBuiltin,
            "ControlVideo, built-in model",
            "What suits the built-in image model and its ControlNet for edges.",
        ),
    ];
    let builtin = app.document.model.is_none();
    let model = app.model.clone();
    let allowed = |preset: Preset| {
        let Some(method) = preset_config(preset).map(|config| config.method) else {
            return false;
        };
        // Of a method for image models only the numbers that suit the chosen one.
        match Preset::of(method, builtin) {
            Some(fitting) if fitting != preset => false,
            _ => builtin || model.as_ref().is_none_or(|model| model.allows(method)),
        }
    };
    let current = presets
        .iter()
        .find(|(preset, ..)| is_preset(&app.document.settings, *preset));
    egui::ComboBox::from_id_salt("preset")
        .selected_text(current.map_or("Own settings", |(_, name, _)| *name))
        .width(ui.available_width())
        .show_ui(ui, |ui| {
            for (preset, name, source) in presets.into_iter().filter(|(p, ..)| allowed(*p)) {
                let chosen = current.is_some_and(|(known, ..)| *known == preset);
                if ui
                    .selectable_label(chosen, name)
                    .on_hover_text(source)
                    .clicked()
                    && let Some(config) = preset_config(preset)
                {
                    let settings = with_clip_of(config.clone(), &app.document.settings);
                    app.replace_settings(settings);
                }
            }
        })
        .response
        .labelled_by(label.id)
        .on_hover_text(about("Settings by whoever found them.", "", ""));
    ui.end_row();
}

/// The settings with another method. One that begins with an image model brings numbers of its own, and going back from it
/// brings those of this program: neither would train the other's networks.
pub fn with_method(now: &TransferConfig, method: Method, builtin: bool) -> TransferConfig {
    let of = |method| Preset::of(method, builtin);
    let preset = match (of(method), of(now.method)) {
        _ if method == now.method => None,
        (Some(preset), _) => Some(preset),
        (None, Some(_)) => Some(Preset::Default),
        (None, None) => None,
    };
    let base = match preset.and_then(preset_config) {
        Some(config) => with_clip_of(config.clone(), now),
        None => now.clone(),
    };
    TransferConfig { method, ..base }
}

/// The settings with the built-in model in place of another one, or the other way round: a method for image models brings the
/// numbers that suit it.
pub fn with_model(now: &TransferConfig, builtin: bool) -> TransferConfig {
    match Preset::of(now.method, builtin).and_then(preset_config) {
        Some(config) => with_clip_of(config.clone(), now),
        None => now.clone(),
    }
}

/// A preset says nothing about the clip, the seed and how often to look.
fn with_clip_of(preset: TransferConfig, now: &TransferConfig) -> TransferConfig {
    TransferConfig {
        frames: now.frames,
        size: now.size,
        fps: now.fps,
        start_secs: now.start_secs,
        fit: now.fit,
        loop_short: now.loop_short,
        inverted_clip: now.inverted_clip,
        negative_prompt: now.negative_prompt.clone(),
        seed: now.seed,
        preview_every: now.preview_every,
        checkpoint_every: now.checkpoint_every,
        checkpoint_secs: now.checkpoint_secs,
        keep_checkpoints: now.keep_checkpoints,
        ..preset
    }
}

fn is_preset(now: &TransferConfig, preset: Preset) -> bool {
    preset_config(preset).is_some_and(|config| with_clip_of(config.clone(), now) == *now)
}

/// The presets are parsed once: the panel asks for them in every frame.
fn preset_config(preset: Preset) -> Option<&'static TransferConfig> {
    static CONFIGS: LazyLock<Vec<(Preset, Option<TransferConfig>)>> = LazyLock::new(|| {
        Preset::ALL
            .map(|preset| (preset, preset.config().ok()))
            .to_vec()
    });
    CONFIGS
        .iter()
        .find(|(known, _)| *known == preset)
        .and_then(|(_, config)| config.as_ref())
}

/// The end of the sentence: go. Drawn from the bottom up.
fn go_ui(app: &mut App, ui: &mut egui::Ui) {
    let going = app.queue.is_going();
    let (text, colour) = match app.queue.current() {
        Some(run) if run.is_going() => (run.status(), theme::weak(ui)),
        _ => {
            let memory = app.memory.reading_mib().map(|(_, total)| total);
            let pace = &app.settings.pace;
            let estimate = pace.estimate(&app.document, app.model.as_ref(), memory);
            let colour = if estimate.is_too_large {
                theme::warning(ui)
            } else {
                theme::weak(ui)
            };
            (estimate.text, colour)
        }
    };
    ui.add(egui::Label::new(egui::RichText::new(text).color(colour).small()).wrap());
    let width = ui.available_width();
    ui.allocate_ui_with_layout(
        egui::vec2(width, 32.0),
        egui::Layout::left_to_right(egui::Align::Center),
        |ui| {
            ui.spacing_mut().button_padding = egui::vec2(16.0, 8.0);
            if going {
                running_buttons_ui(app, ui);
            } else {
                let ready = app.can(Command::Train);
                let exportable = app.queue.sample(app.compare.chosen).is_some();
                let train = if exportable {
                    ui.add_enabled(ready, egui::Button::new("Train again"))
                } else {
                    accent_button(ui, "Train", ready)
                };
                if train
                    .on_hover_text(Command::Train.hover_text(ui.ctx()))
                    .clicked()
                {
                    app.obey(Command::Train);
                }
                if exportable
                    && accent_button(ui, "Export…", app.can(Command::Export))
                        .on_hover_text(Command::Export.hover_text(ui.ctx()))
                        .clicked()
                {
                    app.obey(Command::Export);
                }
            }
        },
    );
}

fn running_buttons_ui(app: &mut App, ui: &mut egui::Ui) {
    let current = app.queue.current();
    let paused = current.is_some_and(|run| run.paused || run.pausing);
    let running = app.queue.current().is_some_and(Run::is_going);
    let label = if paused { "Resume" } else { "Pause" };
    let pause = ui.add_enabled(running, egui::Button::new(label));
    if pause
        .on_hover_text(Command::Pause.hover_text(ui.ctx()))
        .clicked()
    {
        app.obey(Command::Pause);
    }
    let stop = ui.add_enabled(running, egui::Button::new("Stop"));
    if stop
        .on_hover_text(Command::Stop.hover_text(ui.ctx()))
        .clicked()
    {
        app.obey(Command::Stop);
    }
    let queue = ui.button("Queue");
    if queue
        .on_hover_text(Command::Train.hover_text(ui.ctx()))
        .clicked()
    {
        app.obey(Command::Train);
    }
}
