//! What most people leave alone: everything of the settings that has no place further up in the column.

use eframe::egui;

use super::settings::{about, number_ui};
use super::whole_number;
use crate::gui::app::App;
use crate::train::{CosineAxis, FftNorm, TransferConfig};

/// Draws the rows.
pub(super) fn advanced_ui(app: &mut App, ui: &mut egui::Ui) {
    let settings = &mut app.document.settings;
    egui::Grid::new("advanced")
        .num_columns(2)
        .spacing([8.0, 6.0])
        .show(ui, |ui| {
            losses_ui(ui, settings);
            training_ui(ui, settings);
            files_ui(ui, settings);
        });
}

/// Choices in one row; each with its name and what it means.
fn choice_ui<T: Copy + PartialEq>(
    ui: &mut egui::Ui,
    label: &str,
    value: &mut T,
    choices: &[(T, &str, &str)],
) {
    ui.label(label);
    ui.horizontal(|ui| {
        for (choice, name, hover) in choices {
            ui.selectable_value(value, *choice, *name)
                .on_hover_text(*hover);
        }
    });
    ui.end_row();
}

fn check_ui(ui: &mut egui::Ui, label: &str, value: &mut bool, hover: String) {
    ui.label("");
    ui.checkbox(value, label).on_hover_text(hover);
    ui.end_row();
}

fn losses_ui(ui: &mut egui::Ui, settings: &mut TransferConfig) {
    choice_ui(
        ui,
        "Host loss",
        &mut settings.cosine_axis,
        &[
            (
                CosineAxis::Frame,
                "Over time",
                "Compares the motion of each pixel over time, as the released code does.",
            ),
            (
                CosineAxis::Pixel,
                "Whole frames",
                "Compares each motion frame as a whole, as VMC's paper writes it.",
            ),
        ],
    );
    choice_ui(
        ui,
        "Fourier scale",
        &mut settings.fft_norm,
        &[
            (
                FftNorm::Backward,
                "Plain",
                "Plain sums, as in the released code: amplitudes grow with the frame size.",
            ),
            (
                FftNorm::Ortho,
                "Even",
                "Divided by the root of the frame size: λl means the same at every size.",
            ),
        ],
    );
    check_ui(
        ui,
        "Phase around the circle",
        &mut settings.phase_wrap,
        about(
            "Takes differences of phase the short way around the circle instead of as plain numbers.",
            "Off is the paper and the released code.",
            "",
        ),
    );
    check_ui(
        ui,
        "No weight at the border",
        &mut settings.zero_border,
        about(
            "Gives the outermost row and column of the spectrum no weight.",
            "",
            "Spectral Motion Alignment, equation 12.",
        ),
    );
}

fn training_ui(ui: &mut egui::Ui, settings: &mut TransferConfig) {
    number_ui(
        ui,
        "Weight decay",
        egui::DragValue::new(&mut settings.weight_decay)
            .range(0.0..=1.0)
            .speed(1e-3),
        "How strongly AdamW pulls what learns towards zero.",
    );
    number_ui(
        ui,
        "Clip gradients at",
        egui::DragValue::new(&mut settings.clip_norm)
            .range(0.0..=1000.0)
            .speed(0.05),
        "Norm that gradients are clipped to, 0 for no clipping.",
    );
    let label = ui.label("Noise levels");
    ui.horizontal(|ui| {
        let most = settings.max_timestep;
        let least = whole_number(&mut settings.min_timestep).range(0..=most);
        ui.add(least)
            .labelled_by(label.id)
            .on_hover_text("The least noise that is trained: a diffusion timestep.");
        let least = settings.min_timestep;
        let most = whole_number(&mut settings.max_timestep).range(least..=999);
        ui.add(most)
            .labelled_by(label.id)
            .on_hover_text("The most noise that is trained: a diffusion timestep, 999 for all.");
    });
    ui.end_row();
}

fn files_ui(ui: &mut egui::Ui, settings: &mut TransferConfig) {
    number_ui(
        ui,
        "Checkpoints kept",
        whole_number(&mut settings.keep_checkpoints).range(1..=1000),
        "The newest ones; older ones are removed.",
    );
    let label = ui.label("Film speed");
    ui.horizontal(|ui| {
        let mut own = settings.play_fps.is_some();
        let hover =
            "Films play at a rate of their own instead of the clip's, at least 8 frames a second.";
        let check = ui.checkbox(&mut own, "Own");
        if check.labelled_by(label.id).on_hover_text(hover).changed() {
            settings.play_fps = own.then_some(crate::train::WATCHABLE_FPS);
        }
        if let Some(fps) = &mut settings.play_fps {
            let number = egui::DragValue::new(fps).range(0.1..=240.0).speed(0.1);
            ui.add(number.suffix(" fps"))
                .labelled_by(label.id)
                .on_hover_text("Frames a second of the films that are written.");
        }
    });
    ui.end_row();
}
