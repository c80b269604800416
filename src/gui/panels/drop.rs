//! What the window shows while a file is held over it.

use eframe::egui;

use crate::gui::theme;

/// Says that the file can be let go.
pub fn hovering_ui(ctx: &egui::Context) {
    if ctx.input(|input| input.raw.hovered_files.is_empty()) {
        return;
    }
    egui::Area::new(egui::Id::unique("drop"))
        .order(egui::Order::Foreground)
        .fixed_pos(egui::Pos2::ZERO)
        .interactable(false)
        .show(ctx, |ui| {
            let rect = ctx.content_rect();
            ui.painter().rect_filled(rect, 0.0, theme::shade(ui));
            ui.painter().rect_stroke(
                rect.shrink(12.0),
                8.0,
                egui::Stroke::new(2.0, theme::accent(ui)),
                egui::StrokeKind::Inside,
            );
            ui.painter().text(
                rect.center(),
                egui::Align2::CENTER_CENTER,
                "Let go to open it\nWith Shift held, a film joins the one that is open",
                egui::TextStyle::Heading.resolve(ui.style()),
                ui.visuals().strong_text_color(),
            );
        });
}
