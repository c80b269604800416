//! Further clips of the same motion: their list, their words, and which one samples begin from.

use std::path::Path;

use eframe::egui;

use super::settings::about;
use crate::gui::app::App;
use crate::gui::dialogs::Pick;
use crate::gui::theme;
use crate::methods::Method;

/// The list below the first clip's words; nothing where there are none.
pub(super) fn more_clips_ui(app: &mut App, ui: &mut egui::Ui) {
    let mut removed = None;
    for (index, clip) in app.document.more_clips.iter_mut().enumerate() {
        let name = name_of(&clip.path);
        ui.horizontal(|ui| {
            let remove = ui.small_button(format!("Remove {name}"));
            if remove
                .on_hover_text("Learn without this clip. The file itself stays.")
                .clicked()
            {
                removed = Some(index);
            }
        })
        .response
        .on_hover_text(clip.path.display().to_string());
        let field = egui::TextEdit::singleline(&mut clip.subject)
            .hint_text("a car turning")
            .desired_width(f32::INFINITY);
        let label =
            ui.label(egui::RichText::new(format!("Words for {name}")).color(theme::weak(ui)));
        ui.add(field).labelled_by(label.id).on_hover_text(about(
            "What this clip shows, in a few words: subject and movement.",
            "The motion is what all clips have in common; the words may differ.",
            "",
        ));
    }
    if let Some(index) = removed {
        app.remove_clip(index);
    }
    if !app.document.more_clips.is_empty() {
        choices_ui(app, ui);
    }
}

/// Where a clip of the same motion is added.
pub(super) fn add_clip_ui(app: &mut App, ui: &mut egui::Ui) {
    let menu = ui.menu_button("Add a clip", |ui| {
        if ui.button("A film…").clicked() {
            app.pick(Pick::MoreClip, false);
            ui.close();
        }
        if ui.button("A folder of pictures…").clicked() {
            app.pick(Pick::MoreClip, true);
            ui.close();
        }
    });
    menu.response.on_hover_text(about(
        "Several clips of one motion teach it better than one: what they do not share is left out.",
        "A film dropped with Shift held is added too. Each clip is cut to the same size and number of frames.",
        "",
    ));
}

/// What can be chosen only where there are several clips.
fn choices_ui(app: &mut App, ui: &mut egui::Ui) {
    let first = match &app.document.clip {
        Some(path) => name_of(path),
        None => "the first clip".to_owned(),
    };
    let more = app.document.more_clips.iter();
    let names: Vec<String> = std::iter::once(first)
        .chain(more.map(|clip| name_of(&clip.path)))
        .collect();
    let settings = &mut app.document.settings;
    let chosen = settings.inverted_clip.saturating_sub(1);
    ui.horizontal(|ui| {
        let label = ui.label("Samples begin from");
        egui::ComboBox::from_id_salt("inverted clip")
            .selected_text(names.get(chosen).cloned().unwrap_or_default())
            .width(ui.available_width())
            .truncate()
            .show_ui(ui, |ui| {
                for (index, name) in names.iter().enumerate() {
                    ui.selectable_value(&mut settings.inverted_clip, index + 1, name);
                }
            })
            .response
            .labelled_by(label.id)
            .on_hover_text(about(
                "The clip whose inverted latents samples begin from.",
                "With MotionDirector it is this clip's look that \"Keep the look\" keeps.",
                "",
            ));
    });
    if settings.method == Method::MotionDirector {
        ui.checkbox(&mut settings.single_spatial_lora, "One look for all clips")
            .on_hover_text(about(
                "All clips share one set of adapters for the look, instead of having one each.",
                "Choose it where all of them show the same thing in the same place.",
                "MotionDirector's single_spatial_lora.",
            ));
    }
}

/// The last part of a path.
pub(super) fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    name.to_string_lossy().into_owned()
}
