//! The list of shortcuts, made from the list of commands.

use eframe::egui;

use super::command::{Command, Menu};

/// Draws every shortcut by menu; a bar at the side appears where the window is too low for them.
pub(super) fn shortcuts_ui(ui: &mut egui::Ui) {
    ui.heading("Shortcuts");
    let room = (ui.ctx().content_rect().height() - 140.0).max(160.0);
    egui::ScrollArea::vertical()
        .max_height(room)
        .show(ui, |ui| {
            // The bar at the side hides no key.
            egui::Frame::NONE
                .inner_margin(egui::Margin {
                    right: 16,
                    ..Default::default()
                })
                .show(ui, shortcut_columns_ui);
        });
}

/// As many columns as fit, about equally long.
fn shortcut_columns_ui(ui: &mut egui::Ui) {
    use Menu::{Edit, File, Help, Play, Run, View};
    let columns: &[&[Menu]] = if ui.available_width() > 800.0 {
        &[&[File, Edit, Help], &[Run, View], &[Play]]
    } else {
        &[&[File, Edit, Run, Help], &[Play, View]]
    };
    ui.spacing_mut().item_spacing.x = 40.0;
    ui.spacing_mut().interact_size.y = 18.0;
    ui.columns(columns.len(), |uis| {
        for (ui, menus) in uis.iter_mut().zip(columns) {
            for menu in *menus {
                shortcuts_of_ui(ui, *menu);
            }
        }
    });
}

fn shortcuts_of_ui(ui: &mut egui::Ui, menu: Menu) {
    let line = |ui: &mut egui::Ui, label: &str, keys: &str| {
        ui.horizontal(|ui| {
            ui.label(label);
            let right = egui::Layout::right_to_left(egui::Align::Center);
            ui.with_layout(right, |ui| ui.monospace(keys));
        })
        .response
    };
    ui.add_space(4.0);
    ui.label(egui::RichText::new(menu.label()).strong());
    for command in Command::ALL {
        let about = command.about();
        if about.menu != menu || about.keys.is_empty() {
            continue;
        }
        let keys = command.all_keys(ui.ctx());
        line(ui, about.label.trim_end_matches('…'), &keys).on_hover_text(about.tooltip);
    }
    if menu == Menu::Play {
        // Held, not pressed: no command.
        line(ui, "Flip reference and sample, held", "C");
    }
}
