//! The settings of the transfer column: the spectral terms, training and sampling, the cut.

use std::cmp::Ordering;

use eframe::egui;

use super::method::{adapters_ui, inflated_ui, memory_ui};
use super::whole_number;
use crate::gui::app::App;
use crate::gui::instruments::scale_name;
use crate::job::{GUIDANCE, SAMPLING_STEPS};
use crate::methods::Method;
use crate::models::ClipLimits;
use crate::spectral::plain::Residual;
use crate::train::{
    FitChoice, InversionPrompt, SamplerChoice, Start, TransferConfig, default_levels,
};

/// What a control says when the pointer rests on it: meaning, advice, source.
pub(super) fn about(meaning: &str, advice: &str, source: &str) -> String {
    let mut text = meaning.to_owned();
    for more in [advice, source] {
        if !more.is_empty() {
            text.push('\n');
            text.push_str(more);
        }
    }
    text
}

/// A row of name, slider and number.
fn slider_ui(ui: &mut egui::Ui, label: &str, slider: egui::Slider<'_>, hover: String) {
    // A value that a recipe or a preset brought stays as it is until somebody moves the slider.
    let slider = slider.clamping(egui::SliderClamping::Edits);
    let name = ui.label(label);
    ui.spacing_mut().slider_width = (ui.available_width() - 64.0).max(60.0);
    ui.add(slider).labelled_by(name.id).on_hover_text(hover);
    ui.end_row();
}

/// λ, δ, cutoff, levels, residual.
pub(super) fn spectral_ui(app: &mut App, ui: &mut egui::Ui) {
    let frames = app.frames();
    let settings = &mut app.document.settings;
    egui::Grid::new("spectral")
        .num_columns(2)
        .spacing([8.0, 6.0])
        .show(ui, |ui| {
            slider_ui(
                ui,
                "λg global",
                egui::Slider::new(&mut settings.lambda_g, 0.0..=2.0).max_decimals(3),
                about(
                    "Weight of the global term: the motion's wavelet bands along time.",
                    "More of it keeps the course of the motion; the paper suggests 0.2 to 0.5.",
                    "Spectral Motion Alignment, equation 9.",
                ),
            );
            slider_ui(
                ui,
                "λl local",
                egui::Slider::new(&mut settings.lambda_l, 0.0..=2.0).max_decimals(3),
                about(
                    "Weight of the local term: Fourier amplitude and phase of each motion vector.",
                    "The paper suggests 0.1 to 0.3.",
                    "Spectral Motion Alignment, equation 13.",
                ),
            );
            slider_ui(
                ui,
                "δ bias",
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
            ui.label("Residual");
            ui.horizontal(|ui| {
                for (value, name, hover) in [
                    (Residual::Signed, "Signed", "Frame differences with their sign, as in the paper."),
                    (Residual::Abs, "Absolute", "Without their sign, as in the authors' code."),
                ] {
                    ui.selectable_value(&mut settings.residual, value, name)
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
            let slider = egui::Slider::new(cutoff, 0.01..=0.707)
                .max_decimals(3)
                .clamping(egui::SliderClamping::Edits);
            ui.add(slider).on_hover_text(&hover);
        }
        None => {
            ui.weak("none");
        }
    }
    ui.end_row();
}

/// How many frames there are decides how many levels there can be; of a model that is not read yet that is not known.
fn levels_ui(ui: &mut egui::Ui, settings: &mut TransferConfig, frames: Option<usize>) {
    let most = frames.map(|frames| default_levels(frames).max(1));
    let all = most.map_or_else(|| "all".to_owned(), |most| format!("{most}, all"));
    let label = ui.label("Levels");
    let chosen = settings
        .levels
        .map_or_else(|| all.clone(), |levels| levels.to_string());
    egui::ComboBox::from_id_salt("levels")
        .selected_text(chosen)
        .width(72.0)
        .show_ui(ui, |ui| {
            ui.selectable_value(&mut settings.levels, None, all);
            for levels in 1..=most.or(settings.levels).unwrap_or(0) {
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
    if settings.level_weights.is_empty() {
        ui.label("");
        let bands = bands(settings, frames);
        let apart = ui.add_enabled(bands.is_some(), egui::Button::new("Weigh bands apart"));
        let apart = apart
            .on_hover_text("Give each wavelet band a weight of its own. Soloing bands under Motion in time, and training with that mix, does it by ear.");
        if let Some(bands) = bands.filter(|_| apart.clicked()) {
            settings.level_weights = vec![1.0; bands];
        }
        ui.end_row();
        return;
    }
    let coarsest = settings.level_weights.len() - 1;
    let label = ui.label("Band weights");
    ui.horizontal_wrapped(|ui| {
        ui.spacing_mut().item_spacing.x = 2.0;
        for (band, weight) in settings.level_weights.iter_mut().enumerate() {
            let name = format!(
                "Weight of the motion at {}, 0 leaves it out.",
                scale_name(band, coarsest)
            );
            let value = egui::DragValue::new(weight)
                .range(0.0..=10.0)
                .speed(0.02)
                .max_decimals(2);
            ui.add(value).labelled_by(label.id).on_hover_text(name);
        }
    });
    ui.end_row();
    ui.label("");
    let alike = ui.button("All alike");
    if alike
        .on_hover_text("Every band counts the same again.")
        .clicked()
    {
        settings.level_weights.clear();
    }
    ui.end_row();
}

/// How many bands the global term weighs, where that is known.
fn bands(settings: &TransferConfig, frames: Option<usize>) -> Option<usize> {
    let levels = settings.levels.or_else(|| frames.map(default_levels));
    levels.map(|levels| levels + 1)
}

impl App {
    /// Frames that the model sees, as far as that is known.
    fn frames(&self) -> Option<usize> {
        let of_model = || Some(self.current_model()?.limits.default_frames);
        self.document.settings.frames.or_else(of_model)
    }

    /// Band weights for as many bands as there are: with other levels or frames, bands come and go.
    pub(in crate::gui) fn fit_band_weights(&mut self) {
        let settings = &self.document.settings;
        let weights = settings.level_weights.len();
        if let Some(bands) = bands(settings, self.frames())
            && ![0, bands].contains(&weights)
        {
            self.follow(|document| document.settings.level_weights.resize(bands, 1.0));
        }
    }
}

/// A row of name and number.
pub(super) fn number_ui(ui: &mut egui::Ui, label: &str, number: egui::DragValue<'_>, hover: &str) {
    let name = ui.label(label);
    // A value that a recipe or a preset brought stays as it is until somebody changes it.
    let number = number.clamp_existing_to_range(false);
    ui.add(number).labelled_by(name.id).on_hover_text(hover);
    ui.end_row();
}

/// Steps, rate, seed, sampling.
pub(super) fn training_ui(app: &mut App, ui: &mut egui::Ui) {
    let card = app
        .model
        .as_ref()
        .map(|model| model.card.clone())
        .unwrap_or_default();
    let settings = &mut app.document.settings;
    let label = ui.label("Keep away from");
    let field = egui::TextEdit::singleline(&mut settings.negative_prompt)
        .hint_text("nothing")
        .desired_width(f32::INFINITY);
    ui.add(field).labelled_by(label.id).on_hover_text(about(
        "The negative prompt: what samples shall not show.",
        "Leave it empty at first. It has no effect where guidance is 1.",
        "",
    ));
    egui::Grid::new("training")
        .num_columns(2)
        .spacing([8.0, 6.0])
        .show(ui, |ui| {
            number_ui(
                ui,
                "Steps",
                whole_number(&mut settings.steps).range(0..=100_000),
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
                whole_number(&mut settings.seed),
                "Seed of all noise: the same seed gives the same film.",
            );
            saving_ui(ui, settings);
            let mut steps = settings
                .sampling_steps
                .or(card.steps)
                .unwrap_or(SAMPLING_STEPS);
            let name = ui.label("Sampling steps");
            let number = whole_number(&mut steps).range(1..=1000);
            let field = ui.add(number).labelled_by(name.id);
            if field
                .on_hover_text("Denoising steps of a sample.")
                .changed()
            {
                settings.sampling_steps = Some(steps);
            }
            ui.end_row();
            sampler_ui(ui, settings);
            let mut guidance = settings.guidance.or(card.guidance).unwrap_or(GUIDANCE);
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
            if settings.method == Method::MotionDirector {
                adapters_ui(ui, settings);
            }
            if settings.method == Method::TuneAVideo {
                inflated_ui(ui, settings);
            }
            memory_ui(ui, settings);
        });
}

/// How often to look and to save.
fn saving_ui(ui: &mut egui::Ui, settings: &mut TransferConfig) {
    number_ui(
        ui,
        "Sample every",
        whole_number(&mut settings.preview_every)
            .range(0..=10_000)
            .suffix(" steps"),
        "Training steps between two samples, 0 for none.",
    );
    number_ui(
        ui,
        "Checkpoint every",
        whole_number(&mut settings.checkpoint_every)
            .range(0..=10_000)
            .suffix(" steps"),
        "Training steps between two checkpoints, 0 for none but the last.",
    );
    number_ui(
        ui,
        "or after",
        egui::DragValue::new(&mut settings.checkpoint_secs)
            .range(0.0..=86_400.0)
            .max_decimals(0)
            .suffix(" s"),
        "Seconds after which a checkpoint is written as well, 0 for none.",
    );
}

fn sampler_ui(ui: &mut egui::Ui, settings: &mut TransferConfig) {
    let label = ui.label("Sampler");
    let name = |sampler: SamplerChoice| match sampler {
        SamplerChoice::Ddim => "DDIM",
        SamplerChoice::Dpm => "DPM-Solver++",
    };
    egui::ComboBox::from_id_salt("sampler")
        .selected_text(name(settings.sampler))
        .width(120.0)
        .show_ui(ui, |ui| {
            for sampler in [SamplerChoice::Ddim, SamplerChoice::Dpm] {
                ui.selectable_value(&mut settings.sampler, sampler, name(sampler));
            }
        })
        .response
        .labelled_by(label.id)
        .on_hover_text(about(
            "How a sample is denoised. The clip is inverted by DDIM either way.",
            "DDIM walks the inversion's levels back; DPM-Solver++ needs fewer steps.",
            "Song, Meng and Ermon, ICLR 2021; Lu and others, arXiv 2211.01095.",
        ));
    ui.end_row();
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

/// Frames, size and shape of what the model sees.
pub(super) fn clip_ui(app: &mut App, ui: &mut egui::Ui) {
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
            let number = whole_number(&mut frames).range(2..=64);
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
            ui.label("Shape");
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

fn size_ui(ui: &mut egui::Ui, settings: &mut TransferConfig, limits: &ClipLimits) {
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let native = (side(limits.width), side(limits.height));
    let multiple = side(limits.size_multiple).max(1);
    let (mut width, mut height) = settings.size.unwrap_or(native);
    let label = ui.label("Size");
    ui.horizontal(|ui| {
        let (old_width, old_height) = (width, height);
        let (mut changed, mut dragged) = (false, false);
        for value in [&mut width, &mut height] {
            let number = egui::DragValue::new(value)
                .range(multiple..=2048)
                .speed(f64::from(multiple) / 4.0);
            let field = ui.add(number).labelled_by(label.id);
            dragged |= field.dragged();
            changed |= field
                .on_hover_text(format!("In multiples of {multiple} pixels."))
                .changed();
        }
        if changed {
            let snap = |side: u32, old: u32| {
                let near = ((side + multiple / 2) / multiple * multiple).max(multiple);
                // A step of the keyboard is less than a multiple, and shall lead somewhere.
                match side.cmp(&old) {
                    Ordering::Greater if near == old && !dragged => old + multiple,
                    Ordering::Less if near == old && !dragged => {
                        old.saturating_sub(multiple).max(multiple)
                    }
                    _ => near,
                }
            };
            let size = (snap(width, old_width), snap(height, old_height));
            settings.size = (size != native).then_some(size);
        }
    });
    ui.end_row();
}
