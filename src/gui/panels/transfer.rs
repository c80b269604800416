//! The transfer column, read from top to bottom like a sentence: this motion, that subject, how, go.

use std::sync::LazyLock;

use eframe::egui;

use crate::gui::app::App;
use crate::gui::command::Command;
use crate::gui::dialogs::{Pick, accent_button};
use crate::gui::run::Run;
use crate::gui::theme;
use crate::methods::Method;
use crate::spectral::plain::Residual;
use crate::train::{FitChoice, InversionPrompt, Preset, Start, TransferConfig, default_levels};

/// What a control says when the pointer rests on it: meaning, advice, source.
fn about(meaning: &str, advice: &str, source: &str) -> String {
    let mut text = meaning.to_owned();
    for more in [advice, source] {
        if !more.is_empty() {
            text.push('\n');
            text.push_str(more);
        }
    }
    text
}

/// Draws the column.
pub fn transfer_ui(app: &mut App, ui: &mut egui::Ui) {
    let go_height = 92.0;
    let room = (ui.available_height() - go_height).max(80.0);
    egui::ScrollArea::vertical()
        .max_height(room)
        .min_scrolled_height(room)
        .auto_shrink([false, false])
        .show(ui, |ui| {
            ui.set_width(ui.available_width() - 6.0);
            words_ui(app, ui);
            ui.separator();
            method_ui(app, ui);
            ui.separator();
            spectral_ui(app, ui);
            ui.separator();
            egui::CollapsingHeader::new("Training and sampling")
                .id_salt("training")
                .show(ui, |ui| training_ui(app, ui));
            egui::CollapsingHeader::new("Clip").show(ui, |ui| clip_ui(app, ui));
        });
    ui.with_layout(egui::Layout::bottom_up(egui::Align::Min), |ui| {
        go_ui(app, ui);
    });
}

fn words_ui(app: &mut App, ui: &mut egui::Ui) {
    let label = ui.label("Clip words");
    let field = egui::TextEdit::singleline(&mut app.document.subject)
        .hint_text("a car turning")
        .desired_width(f32::INFINITY);
    ui.add(field).labelled_by(label.id).on_hover_text(about(
        "What the clip shows, in a few words: subject and movement.",
        "Leave place and style out. The built-in model knows circles, squares, triangles and stars in plain colours.",
        "",
    ));
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

fn method_ui(app: &mut App, ui: &mut egui::Ui) {
    egui::Grid::new("method")
        .num_columns(2)
        .spacing([8.0, 6.0])
        .show(ui, |ui| {
            let label = ui.label("Method");
            egui::ComboBox::from_id_salt("method")
                .selected_text(method_name(app.document.settings.method))
                .width(ui.available_width())
                .show_ui(ui, |ui| {
                    let method = &mut app.document.settings.method;
                    ui.selectable_value(method, Method::Vmc, method_name(Method::Vmc));
                })
                .response
                .labelled_by(label.id)
                .on_hover_text(about(
                    "How the model learns the motion: Video Motion Customization lets the temporal attention learn the direction of the frame differences.",
                    "",
                    "Jeong, Park and Ye, CVPR 2024.",
                ));
            ui.end_row();
            model_row_ui(app, ui);
            preset_row_ui(app, ui);
        });
}

fn method_name(method: Method) -> &'static str {
    match method {
        Method::Vmc => "VMC",
    }
}

fn model_row_ui(app: &mut App, ui: &mut egui::Ui) {
    let label = ui.label("Model");
    let name = app
        .model
        .as_ref()
        .map_or_else(|| "reading…".to_owned(), |model| model.name.clone());
    let mut browse = false;
    egui::ComboBox::from_id_salt("model")
        .selected_text(name)
        .width(ui.available_width())
        .truncate()
        .show_ui(ui, |ui| {
            ui.selectable_value(&mut app.document.model, None, "built-in model");
            if let Some(path) = app.document.model.clone() {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                ui.selectable_label(true, name.into_owned()).clicked();
            }
            browse = ui.button("Choose a folder…").clicked();
        })
        .response
        .labelled_by(label.id)
        .on_hover_text(about(
            "The text-to-video model that learns.",
            "The built-in one paints plain shapes within seconds. A folder in diffusers layout (ModelScope, ZeroScope) paints anything and wants a GPU.",
            "",
        ));
    if browse {
        app.pick(Pick::Model, true);
    }
    ui.end_row();
}

fn preset_row_ui(app: &mut App, ui: &mut egui::Ui) {
    let label = ui.label("Preset");
    let presets = [
        (
            Preset::Default,
            "This program",
            "Settings that win on drawn clips.",
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
    ];
    let current = presets
        .iter()
        .find(|(preset, ..)| is_preset(&app.document.settings, *preset));
    egui::ComboBox::from_id_salt("preset")
        .selected_text(current.map_or("Own settings", |(_, name, _)| *name))
        .width(ui.available_width())
        .show_ui(ui, |ui| {
            for (preset, name, source) in presets {
                let chosen = current.is_some_and(|(known, ..)| *known == preset);
                if ui
                    .selectable_label(chosen, name)
                    .on_hover_text(source)
                    .clicked()
                    && let Some(config) = preset_config(preset)
                {
                    app.document.settings = with_clip_of(config.clone(), &app.document.settings);
                }
            }
        })
        .response
        .labelled_by(label.id)
        .on_hover_text(about("Settings by whoever found them.", "", ""));
    ui.end_row();
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
        seed: now.seed,
        preview_every: now.preview_every,
        checkpoint_every: now.checkpoint_every,
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
        [Preset::Default, Preset::Paper, Preset::SmaRepo]
            .map(|preset| (preset, preset.config().ok()))
            .to_vec()
    });
    CONFIGS
        .iter()
        .find(|(known, _)| *known == preset)
        .and_then(|(_, config)| config.as_ref())
}

/// A row of name, slider and number.
fn slider_ui(ui: &mut egui::Ui, label: &str, slider: egui::Slider<'_>, hover: String) {
    let name = ui.label(label);
    ui.spacing_mut().slider_width = (ui.available_width() - 64.0).max(60.0);
    ui.add(slider).labelled_by(name.id).on_hover_text(hover);
    ui.end_row();
}

fn spectral_ui(app: &mut App, ui: &mut egui::Ui) {
    let frames = app.cut.as_ref().map_or(8, |cut| cut.frames.len());
    let settings = &mut app.document.settings;
    egui::Grid::new("spectral")
        .num_columns(2)
        .spacing([8.0, 6.0])
        .show(ui, |ui| {
            slider_ui(
                ui,
                "λg  global",
                egui::Slider::new(&mut settings.lambda_g, 0.0..=2.0).max_decimals(3),
                about(
                    "Weight of the global term: the motion's wavelet bands along time.",
                    "More of it keeps the course of the motion; the paper suggests 0.2 to 0.5.",
                    "Spectral Motion Alignment, equation 9.",
                ),
            );
            slider_ui(
                ui,
                "λl  local",
                egui::Slider::new(&mut settings.lambda_l, 0.0..=2.0).max_decimals(3),
                about(
                    "Weight of the local term: Fourier amplitude and phase of each motion vector.",
                    "The paper suggests 0.1 to 0.3.",
                    "Spectral Motion Alignment, equation 13.",
                ),
            );
            slider_ui(
                ui,
                "δ  bias",
                egui::Slider::new(&mut settings.delta, 0.0..=2.0)
                    .logarithmic(true)
                    .smallest_positive(0.005)
                    .max_decimals(3),
                about(
                    "Low-frequency bias δ, an exponent: how much coarse structure outweighs fine. 0 weighs all frequencies alike.",
                    "Watch the curve w(r) in the spectrum; the paper uses 0.05.",
                    "Spectral Motion Alignment, equation 12.",
                ),
            );
            cutoff_ui(ui, settings);
            levels_ui(ui, settings, frames);
            let label = ui.label("Residual");
            ui.horizontal(|ui| {
                for (value, name, hover) in [
                    (Residual::Signed, "Signed", "Frame differences with their sign, as in the paper."),
                    (Residual::Abs, "Absolute", "Without their sign, as in the authors' code."),
                ] {
                    ui.selectable_value(&mut settings.residual, value, name)
                        .labelled_by(label.id)
                        .on_hover_text(hover);
                }
            });
            ui.end_row();
        });
}

fn cutoff_ui(ui: &mut egui::Ui, settings: &mut TransferConfig) {
    let mut on = settings.cutoff.is_some();
    let hover = about(
        "Frequencies beyond this many cycles per pixel count nothing.",
        "Off is the paper. The ring on the spectrum shows it.",
        "",
    );
    if ui
        .checkbox(&mut on, "Cutoff")
        .on_hover_text(&hover)
        .changed()
    {
        settings.cutoff = on.then_some(0.25);
    }
    match &mut settings.cutoff {
        Some(cutoff) => {
            ui.spacing_mut().slider_width = (ui.available_width() - 64.0).max(60.0);
            let slider = egui::Slider::new(cutoff, 0.01..=0.707).max_decimals(3);
            ui.add(slider).on_hover_text(&hover);
        }
        None => {
            ui.weak("none");
        }
    }
    ui.end_row();
}

fn levels_ui(ui: &mut egui::Ui, settings: &mut TransferConfig, frames: usize) {
    let most = default_levels(frames).max(1);
    let label = ui.label("Levels");
    let chosen = settings
        .levels
        .map_or_else(|| format!("{most}, all"), |levels| levels.to_string());
    egui::ComboBox::from_id_salt("levels")
        .selected_text(chosen)
        .width(72.0)
        .show_ui(ui, |ui| {
            ui.selectable_value(&mut settings.levels, None, format!("{most}, all"));
            for levels in 1..=most {
                ui.selectable_value(&mut settings.levels, Some(levels), levels.to_string());
            }
        })
        .response
        .labelled_by(label.id)
        .on_hover_text(about(
            "Wavelet levels of the global term: each one sees motion twice as slow.",
            "All that the frames allow is the paper's choice.",
            "",
        ));
    ui.end_row();
    let bands = settings.levels.unwrap_or(most) + 1;
    if settings.level_weights.is_empty() {
        ui.label("");
        if ui
            .small_button("Weigh bands apart")
            .on_hover_text("Give each wavelet band a weight of its own.")
            .clicked()
        {
            settings.level_weights = vec![1.0; bands];
        }
        ui.end_row();
        return;
    }
    settings.level_weights.resize(bands, 1.0);
    let label = ui.label("Band weights");
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 2.0;
        for (band, weight) in settings.level_weights.iter_mut().enumerate() {
            let name = if band == 0 {
                "slowest band, the mean motion".to_owned()
            } else {
                format!("detail band {band}, 1 is the fastest")
            };
            let value = egui::DragValue::new(weight)
                .range(0.0..=10.0)
                .speed(0.02)
                .max_decimals(2);
            ui.add(value).labelled_by(label.id).on_hover_text(name);
        }
    });
    if settings.level_weights.iter().all(|weight| *weight == 1.0)
        && ui.small_button("×").on_hover_text("All alike").clicked()
    {
        settings.level_weights.clear();
    }
    ui.end_row();
}

/// A row of name and number.
fn number_ui(ui: &mut egui::Ui, label: &str, number: egui::DragValue<'_>, hover: &str) {
    let name = ui.label(label);
    ui.add(number).labelled_by(name.id).on_hover_text(hover);
    ui.end_row();
}

fn training_ui(app: &mut App, ui: &mut egui::Ui) {
    let card = app
        .model
        .as_ref()
        .map(|model| model.card.clone())
        .unwrap_or_default();
    let settings = &mut app.document.settings;
    egui::Grid::new("training")
        .num_columns(2)
        .spacing([8.0, 6.0])
        .show(ui, |ui| {
            number_ui(
                ui,
                "Steps",
                egui::DragValue::new(&mut settings.steps).range(0..=100_000),
                "Training steps; 0 samples with the model as it is.",
            );
            let rate = egui::DragValue::new(&mut settings.learning_rate)
                .range(1e-7..=1.0)
                .speed(1e-5)
                .custom_formatter(|value, _| format!("{value:.1e}"));
            number_ui(
                ui,
                "Learning rate",
                rate,
                "Learning rate of AdamW. Changes act at once during a run.",
            );
            number_ui(
                ui,
                "Seed",
                egui::DragValue::new(&mut settings.seed),
                "Seed of all noise: the same seed gives the same film.",
            );
            number_ui(
                ui,
                "Sample every",
                egui::DragValue::new(&mut settings.preview_every)
                    .range(0..=10_000)
                    .suffix(" steps"),
                "Training steps between two samples, 0 for none.",
            );
            number_ui(
                ui,
                "Checkpoint every",
                egui::DragValue::new(&mut settings.checkpoint_every)
                    .range(0..=10_000)
                    .suffix(" steps"),
                "Training steps between two checkpoints, 0 for none but the last.",
            );
            let mut steps = settings.sampling_steps.or(card.steps).unwrap_or(30);
            let name = ui.label("Sampling steps");
            let number = egui::DragValue::new(&mut steps).range(1..=1000);
            let field = ui.add(number).labelled_by(name.id);
            if field
                .on_hover_text("Denoising steps of a sample.")
                .changed()
            {
                settings.sampling_steps = Some(steps);
            }
            ui.end_row();
            let mut guidance = settings.guidance.or(card.guidance).unwrap_or(9.0);
            let name = ui.label("Guidance");
            let number = egui::DragValue::new(&mut guidance)
                .range(0.0..=30.0)
                .speed(0.1);
            let field = ui.add(number).labelled_by(name.id);
            let hover = "How strongly the sample obeys its words, 1 for no guidance.";
            if field.on_hover_text(hover).changed() {
                settings.guidance = Some(guidance);
            }
            ui.end_row();
            start_ui(ui, settings);
        });
}

fn start_ui(ui: &mut egui::Ui, settings: &mut TransferConfig) {
    let label = ui.label("Start from");
    let names = [
        (Start::Inverted, "the clip, inverted"),
        (Start::Mixed, "clip and noise"),
        (Start::Noise, "fresh noise"),
    ];
    let name = names
        .iter()
        .find(|(start, _)| *start == settings.start)
        .map_or("", |(_, name)| *name);
    egui::ComboBox::from_id_salt("start")
        .selected_text(name)
        .width(120.0)
        .show_ui(ui, |ui| {
            for (start, name) in names {
                ui.selectable_value(&mut settings.start, start, name);
            }
        })
        .response
        .labelled_by(label.id)
        .on_hover_text("What sampling starts from. The inverted clip carries the most motion, and some of the clip's look.");
    ui.end_row();
    if settings.start == Start::Mixed {
        number_ui(
            ui,
            "Share of the clip",
            egui::DragValue::new(&mut settings.noise_prior)
                .range(0.0..=1.0)
                .speed(0.01),
            "Share p of the inverted clip: √p inverted + √(1 − p) noise.",
        );
    }
    if settings.start != Start::Noise {
        ui.label("");
        let mut with_words = settings.inversion_prompt == InversionPrompt::Subject;
        if ui
            .checkbox(&mut with_words, "Invert with the clip words")
            .on_hover_text("The reference implementations invert without words.")
            .changed()
        {
            settings.inversion_prompt = if with_words {
                InversionPrompt::Subject
            } else {
                InversionPrompt::Empty
            };
        }
        ui.end_row();
    }
}

fn clip_ui(app: &mut App, ui: &mut egui::Ui) {
    let Some(limits) = app.model.as_ref().map(|model| model.limits) else {
        return;
    };
    let settings = &mut app.document.settings;
    egui::Grid::new("clip")
        .num_columns(2)
        .spacing([8.0, 6.0])
        .show(ui, |ui| {
            let mut frames = settings.frames.unwrap_or(limits.default_frames);
            let name = ui.label("Frames");
            let number = egui::DragValue::new(&mut frames).range(2..=64);
            let hover = format!(
                "Frames the model sees. It was made for {}; others work less well.",
                limits.default_frames
            );
            if ui
                .add(number)
                .labelled_by(name.id)
                .on_hover_text(hover)
                .changed()
            {
                settings.frames = (frames != limits.default_frames).then_some(frames);
            }
            ui.end_row();
            size_ui(ui, settings, &limits);
            let label = ui.label("Shape");
            ui.horizontal(|ui| {
                for (fit, name, hover) in [
                    (
                        FitChoice::Crop,
                        "Crop",
                        "Keep the middle and cut what sticks out.",
                    ),
                    (
                        FitChoice::Contain,
                        "Bars",
                        "Keep everything and fill the rest with black bars.",
                    ),
                    (
                        FitChoice::Stretch,
                        "Stretch",
                        "Keep everything and change the shape.",
                    ),
                ] {
                    ui.selectable_value(&mut settings.fit, fit, name)
                        .labelled_by(label.id)
                        .on_hover_text(hover);
                }
            });
            ui.end_row();
            ui.label("");
            ui.checkbox(&mut settings.loop_short, "Loop short clips")
                .on_hover_text(
                    "Run a clip that is too short forth and back instead of refusing it.",
                );
            ui.end_row();
        });
}

fn size_ui(ui: &mut egui::Ui, settings: &mut TransferConfig, limits: &crate::models::ClipLimits) {
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let native = (side(limits.width), side(limits.height));
    let multiple = side(limits.size_multiple).max(1);
    let (mut width, mut height) = settings.size.unwrap_or(native);
    let label = ui.label("Size");
    ui.horizontal(|ui| {
        let mut changed = false;
        for value in [&mut width, &mut height] {
            let number = egui::DragValue::new(value)
                .range(multiple..=2048)
                .speed(f64::from(multiple) / 4.0);
            let field = ui.add(number).labelled_by(label.id);
            changed |= field
                .on_hover_text(format!("In multiples of {multiple} pixels."))
                .changed();
        }
        if changed {
            let snap = |side: u32| ((side + multiple / 2) / multiple * multiple).max(multiple);
            let size = (snap(width), snap(height));
            settings.size = (size != native).then_some(size);
        }
    });
    ui.end_row();
}

/// The end of the sentence: go. Drawn from the bottom up.
fn go_ui(app: &mut App, ui: &mut egui::Ui) {
    let going = app.queue.is_going();
    let text = match app.queue.current() {
        Some(run) if run.is_going() => run.status(),
        _ => app.settings.pace.words(&app.document, app.model.as_ref()),
    };
    ui.add(egui::Label::new(egui::RichText::new(text).color(theme::weak(ui)).small()).wrap());
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
                let exportable = app.can(Command::Export);
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
                    && accent_button(ui, "Export…", app.export.is_none())
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
    let paused = app.queue.current().is_some_and(|run| run.paused);
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
