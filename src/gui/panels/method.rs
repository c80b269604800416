//! The choice of the host method, and what only one of them has.

use eframe::egui;

use super::settings::{about, number_ui};
use super::transfer::{model_row_ui, preset_row_ui, with_method};
use super::whole_number;
use crate::gui::app::App;
use crate::methods::{Method, Precision};
use crate::models::TemporalBias;
use crate::train::{Checkpointing, TransferConfig};

/// Method, model and preset.
pub(super) fn method_ui(app: &mut App, ui: &mut egui::Ui) {
    egui::Grid::new("method")
        .num_columns(2)
        .spacing([8.0, 6.0])
        .show(ui, |ui| {
            let label = ui.label("Method");
            let mut wanted = None;
            egui::ComboBox::from_id_salt("method")
                .selected_text(app.document.settings.method.name())
                .width(ui.available_width())
                .show_ui(ui, |ui| {
                    // There is a built-in model for each of them.
                    let builtin = app.document.model.is_none();
                    let now = app.document.settings.method;
                    let model = app.model.as_ref();
                    let allowed =
                        |method| builtin || model.is_none_or(|model| model.allows(method));
                    for (value, hover) in METHODS.into_iter().filter(|(m, _)| allowed(*m)) {
                        let label = ui.selectable_label(now == value, value.name());
                        if label.on_hover_text(hover).clicked() {
                            wanted = Some(with_method(&app.document.settings, value, builtin));
                        }
                    }
                })
                .response
                .labelled_by(label.id)
                .on_hover_text(about(
                    "How the model learns the motion.",
                    "VMC trains the model's own attention over time; MotionDirector trains small adapters, one set for the look and one for the motion, and uses only the latter. Tune-A-Video and ControlVideo make an image model see clips, the built-in one or Stable Diffusion 1.x; the latter follows the clip's edges through a ControlNet (File, Models… brings those for Stable Diffusion).",
                    "",
                ));
            if let Some(settings) = wanted {
                app.replace_settings(settings);
            }
            ui.end_row();
            model_row_ui(app, ui);
            preset_row_ui(app, ui);
        });
}

const METHODS: [(Method, &str); 4] = [
    (
        Method::Vmc,
        "Video Motion Customization: Jeong, Park and Ye, CVPR 2024.",
    ),
    (
        Method::MotionDirector,
        "MotionDirector: Zhao and others, ECCV 2024.",
    ),
    (
        Method::TuneAVideo,
        "Tune-A-Video: Wu and others, ICCV 2023. Begins with an image model.",
    ),
    (
        Method::ControlVideo,
        "ControlVideo: Zhao and others, arXiv 2305.17098. Begins with an image model and a ControlNet.",
    ),
];

/// What saves memory where a model is large.
pub(super) fn memory_ui(ui: &mut egui::Ui, settings: &mut TransferConfig) {
    choice_ui(
        ui,
        "Checkpointing",
        &mut settings.checkpointing,
        &[
            (Checkpointing::Off, "off"),
            (Checkpointing::Block, "by block"),
            (Checkpointing::Level, "by level"),
        ],
        &about(
            "Parts of the model are computed again in each step instead of being remembered.",
            "By block needs the least memory. A step takes one more forward pass; the result is the same.",
            "Chen and others, arXiv 1604.06174.",
        ),
    );
    choice_ui(
        ui,
        "Precision",
        &mut settings.precision,
        &[
            (Precision::Auto, "automatic"),
            (Precision::F32, "32 bits"),
            (Precision::F16, "16 bits"),
            (Precision::Bf16, "16 bits (bf16)"),
        ],
        &about(
            "Number type of what does not learn.",
            "16 bits halve the memory of a large model's weights; on the processor they are slower. bf16 is rounder and never too small for a number; automatic takes it on NVIDIA cards.",
            "",
        ),
    );
}

fn choice_ui<T: Copy + PartialEq>(
    ui: &mut egui::Ui,
    label: &str,
    value: &mut T,
    choices: &[(T, &str)],
    hover: &str,
) {
    let name = ui.label(label);
    let shown = choices.iter().find(|(choice, _)| choice == value);
    egui::ComboBox::from_id_salt(label)
        .selected_text(shown.map_or("", |(_, text)| *text))
        .width(120.0)
        .show_ui(ui, |ui| {
            for (choice, text) in choices {
                ui.selectable_value(value, *choice, *text);
            }
        })
        .response
        .labelled_by(name.id)
        .on_hover_text(hover);
    ui.end_row();
}

/// What only Tune-A-Video has.
pub(super) fn inflated_ui(ui: &mut egui::Ui, settings: &mut TransferConfig) {
    choice_ui(
        ui,
        "Temporal bias",
        &mut settings.temporal_bias,
        &[
            (TemporalBias::Zero, "zero"),
            (TemporalBias::Random, "random"),
        ],
        &about(
            "What the bias behind the attention over frames starts at.",
            "Random is the authors' code; with zero the network begins as the image model.",
            "",
        ),
    );
}

/// What only MotionDirector has.
pub(super) fn adapters_ui(ui: &mut egui::Ui, settings: &mut TransferConfig) {
    number_ui(
        ui,
        "Rank",
        whole_number(&mut settings.rank).range(1..=1024),
        "Inner width of the adapters: more learns more, and copies more.",
    );
    number_ui(
        ui,
        "Dropout",
        egui::DragValue::new(&mut settings.lora_dropout)
            .range(0.0..=0.9)
            .speed(0.01),
        "Share of the adapters' output that is left out while training.",
    );
    let mut until = settings.dropout_until.unwrap_or(0);
    number_ui(
        ui,
        "Dropout until",
        whole_number(&mut until)
            .range(0..=1_000_000)
            .suffix(" steps"),
        "Steps after which dropout ends, 0 for never. The authors' code ends it after 50.",
    );
    settings.dropout_until = (until > 0).then_some(until);
    number_ui(
        ui,
        "Motion strength",
        egui::DragValue::new(&mut settings.lora_scale)
            .range(0.0..=2.0)
            .speed(0.01),
        "How strongly the learned motion acts in samples; it is trained at 1.",
    );
    number_ui(
        ui,
        "Keep the look",
        egui::DragValue::new(&mut settings.spatial_scale)
            .range(0.0..=2.0)
            .speed(0.01),
        "How much of the clip's look the samples keep, 0 for none.",
    );
}
