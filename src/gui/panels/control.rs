//! What leads ControlVideo: the clip's edges or a clip of one's own, and the ControlNet that reads it.

use eframe::egui;

use super::clips::name_of;
use super::settings::{about, number_ui};
use crate::gui::app::App;
use crate::gui::dialogs::Pick;
use crate::gui::theme;

/// What leads where nothing of the person's own does.
const EDGES: &str = "Edges (Canny), made here";

/// The rows; nothing for a method that nothing leads.
pub(super) fn control_ui(app: &mut App, ui: &mut egui::Ui) {
    if !app.document.settings.method.is_controlled() {
        return;
    }
    egui::Grid::new("control")
        .num_columns(2)
        .spacing([8.0, 6.0])
        .show(ui, |ui| {
            leading_ui(app, ui);
            if app.document.control.clip.is_none() {
                thresholds_ui(app, ui);
            }
            number_ui(
                ui,
                "Control strength",
                egui::DragValue::new(&mut app.document.settings.control_scale)
                    .range(0.01..=2.0)
                    .speed(0.01),
                "How strongly the ControlNet leads training and samples.",
            );
            // The built-in image model has a ControlNet of its own.
            if app.document.model.is_some() {
                controlnet_ui(app, ui);
            }
        });
}

fn leading_ui(app: &mut App, ui: &mut egui::Ui) {
    let label = ui.label("Led by");
    let own = app.document.control.clip.clone();
    let mut pick = None;
    egui::ComboBox::from_id_salt("led by")
        .selected_text(own.as_deref().map_or_else(|| EDGES.to_owned(), name_of))
        .width(ui.available_width())
        .truncate()
        .show_ui(ui, |ui| {
            ui.selectable_value(&mut app.document.control.clip, None, EDGES)
                .on_hover_text("The program draws the edges of each frame, as OpenCV does.");
            if let Some(path) = &own {
                ui.selectable_label(app.document.control.clip.is_some(), name_of(path))
                    .on_hover_text(path.display().to_string());
            }
            let depth = ui.button("Depth, estimated by a model…");
            let tip = "The folder of Depth Anything (config.json and model.safetensors, in the library: depth-anything-small). For a ControlNet of depth.";
            if depth.on_hover_text(tip).clicked() {
                pick = Some(true);
            }
            let film = ui.button("A film of my own…");
            let tip = "A film of edges, depth or poses, frame by frame that of the clip.";
            if film.on_hover_text(tip).clicked() {
                pick = Some(false);
            }
            let folder = ui.button("A folder of pictures of my own…");
            let tip = "Pictures of edges, depth or poses, one for each frame of the clip.";
            if folder.on_hover_text(tip).clicked() {
                pick = Some(true);
            }
        })
        .response
        .labelled_by(label.id)
        .on_hover_text(about(
            "What the ControlNet sees beside the noise. It is shown next to the clip.",
            "A clip of your own must be of the kind that the ControlNet was trained on. A film dropped on the window can be made to lead, too.",
            "ControlNet: Zhang, Rao and Agrawala, ICCV 2023.",
        ));
    if let Some(folder) = pick {
        app.pick(Pick::Leading, folder);
    }
    ui.end_row();
}

fn thresholds_ui(app: &mut App, ui: &mut egui::Ui) {
    let settings = &mut app.document.settings;
    let (mut low, mut high) = settings.canny;
    let threshold = |value| egui::DragValue::new(value).range(1.0..=2040.0).speed(1.0);
    number_ui(
        ui,
        "Edges go on above",
        threshold(&mut low),
        "The gradient at which an edge may go on.",
    );
    number_ui(
        ui,
        "Edges begin above",
        threshold(&mut high),
        "The gradient at which an edge begins.",
    );
    // Whichever was moved takes the other one along.
    settings.canny = match low > settings.canny.0 {
        true => (low, high.max(low)),
        false => (low.min(high), high),
    };
}

fn controlnet_ui(app: &mut App, ui: &mut egui::Ui) {
    let label = ui.label("ControlNet");
    let own = app.document.control.controlnet.clone();
    let inside = "In the model's folder";
    let mut browse = false;
    egui::ComboBox::from_id_salt("controlnet")
        .selected_text(own.as_deref().map_or_else(|| inside.to_owned(), name_of))
        .width(ui.available_width())
        .truncate()
        .show_ui(ui, |ui| {
            ui.selectable_value(&mut app.document.control.controlnet, None, inside)
                .on_hover_text("The folder controlnet inside the model's.");
            let chosen = &mut app.document.control.controlnet;
            for (title, folder) in app.shelf.controlnets() {
                let this = Some(folder.to_owned());
                ui.selectable_value(chosen, this, title)
                    .on_hover_text(folder.display().to_string());
            }
            // One that is on no list.
            let mut listed = app.shelf.controlnets();
            if let Some(path) = own
                .as_ref()
                .filter(|own| listed.all(|(_, folder)| folder != **own))
            {
                ui.selectable_value(chosen, own.clone(), name_of(path))
                    .on_hover_text(path.display().to_string());
            }
            let folder = ui.button("Choose a folder…");
            let tip = "A ControlNet in diffusers layout: the folder with its config.json in it.";
            browse = folder.on_hover_text(tip).clicked();
        })
        .response
        .labelled_by(label.id)
        .on_hover_text(about(
            "The network that reads what leads.",
            "It belongs to one family of models and one kind of picture: edges, depth, poses.",
            "",
        ));
    if browse {
        app.pick(Pick::ControlNet, true);
    }
    ui.end_row();
    let lacks = |model: &crate::gui::media::ModelInfo| !model.has_controlnet;
    if own.is_none() && app.current_model().is_some_and(lacks) {
        ui.label("");
        let text = "There is none: choose a folder.";
        ui.colored_label(theme::warning(ui), text);
        ui.end_row();
    }
}
