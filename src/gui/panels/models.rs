//! The list of models: what each method needs, what of it is here, and bringing the rest.

use eframe::egui;

use crate::gui::app::App;
use crate::gui::dialogs::{Pick, accent_button, path_field_like};
use crate::gui::library::Offer;
use crate::gui::theme;
use crate::library::{Entry, Kind, Known, State, gigabytes};

/// Height of the list in points.
const LIST_HEIGHT: f32 = 380.0;

/// What was clicked in a row.
enum Wish {
    Download(&'static Known),
    Cancel,
    Check(String),
    Use(std::path::PathBuf),
    Forget(String),
}

/// Draws the list, or the question before a download. Whether the dialog stays open.
pub fn models_ui(app: &mut App, ui: &mut egui::Ui) -> bool {
    ui.heading("Models");
    if let Some(offer) = app.shelf.offer.take() {
        offer_ui(app, ui, offer);
        return true;
    }
    ui.weak("What each method needs, and what of it is on this computer. Nothing is downloaded before you agree to size and licence.");
    ui.add_space(4.0);
    let mut wish = None;
    let height = (ui.ctx().content_rect().height() - 260.0).clamp(120.0, LIST_HEIGHT);
    egui::ScrollArea::vertical()
        .max_height(height)
        .auto_shrink([false, true])
        .show(ui, |ui| {
            if app.shelf.entries.is_empty() && app.shelf.is_looking() {
                ui.spinner();
            }
            for entry in &app.shelf.entries {
                entry_ui(app, ui, entry, &mut wish);
                ui.separator();
            }
        });
    if let Some(wish) = wish {
        grant(app, wish);
    }
    ui.add_space(4.0);
    let mut typed = path_field_like(ui, "Path", &mut app.shelf.path, "/home/me/models/zeroscope");
    let ready = !app.shelf.path.trim().is_empty();
    ui.horizontal(|ui| {
        let add = ui.add_enabled(ready, egui::Button::new("Add this folder"));
        let tip = "Puts the folder at the path on the list. It stays where it is.";
        typed |= add.on_hover_text(tip).clicked();
        let browse = ui.button("Add a folder…");
        let tip =
            "The system's own dialog, for a model in diffusers layout that is on this computer.";
        if browse.on_hover_text(tip).clicked() {
            app.pick(Pick::AddModel, true);
        }
    });
    if typed && ready {
        app.add_model(app.shelf.path.trim().into());
    }
    true
}

fn grant(app: &mut App, wish: Wish) {
    match wish {
        Wish::Download(known) => app.plan_download(known),
        Wish::Cancel => {
            if let Some(download) = &mut app.shelf.download {
                download.cancel();
            }
        }
        Wish::Check(name) => app.check_model(&name),
        Wish::Use(folder) => app.choose_model(Some(folder)),
        Wish::Forget(name) => app.forget_model(&name),
    }
}

fn entry_ui(app: &App, ui: &mut egui::Ui, entry: &Entry, wish: &mut Option<Wish>) {
    ui.horizontal(|ui| {
        ui.strong(entry.title());
        let colour = match entry.state {
            State::Present => theme::accent(ui),
            State::Missing { .. } => theme::weak(ui),
            State::Broken { .. } => theme::error(ui),
        };
        ui.colored_label(colour, entry.state.word());
        let bytes = match (&entry.state, entry.known) {
            (State::Present, _) | (_, None) => gigabytes(entry.bytes),
            (_, Some(known)) => format!("about {}", gigabytes(known.about_bytes())),
        };
        ui.weak(bytes);
        let serves = entry
            .known
            .map(|known| format!("for {}", known.method_names()));
        ui.weak(serves.unwrap_or_default());
    });
    if let Some(known) = entry.known {
        ui.add(egui::Label::new(egui::RichText::new(known.about).weak()).wrap());
    }
    match &entry.state {
        State::Present => {}
        State::Missing { files, here_bytes } if *here_bytes > 0 => {
            let text = format!("{} of it are here already.", gigabytes(*here_bytes));
            ui.weak(text).on_hover_text(files.join("\n"));
        }
        State::Missing { files, .. } if entry.folder.is_some() => {
            ui.colored_label(theme::warning(ui), format!("Missing: {}", files.join(", ")));
        }
        State::Missing { .. } => {}
        State::Broken { why, advice } => {
            let text = egui::RichText::new(why).color(theme::error(ui));
            ui.add(egui::Label::new(text).wrap()).on_hover_text(advice);
        }
    }
    ui.horizontal_wrapped(|ui| buttons_ui(app, ui, entry, wish));
}

fn buttons_ui(app: &App, ui: &mut egui::Ui, entry: &Entry, wish: &mut Option<Wish>) {
    let title = entry.title();
    let shelf = &app.shelf;
    if let Some(download) = shelf
        .download
        .as_ref()
        .filter(|one| Some(one.known) == entry.known)
    {
        let kib = |count: u32| gigabytes(u64::from(count) << 10);
        let text = format!("{} of {}", kib(download.done), kib(download.total));
        let bar = egui::ProgressBar::new(download.share())
            .desired_width(240.0)
            .text(text.clone());
        ui.add(bar).on_hover_text(text);
        let tip =
            "Stops. What is here is kept, and the download goes on from there when you ask again.";
        if button_ui(
            ui,
            true,
            "Cancel",
            &format!("Cancel the download of {title}"),
            tip,
        ) {
            *wish = Some(Wish::Cancel);
        }
        return;
    }
    if shelf.is_busy_with(&entry.name) {
        ui.spinner();
        return;
    }
    if let (Some(known), false) = (entry.known, entry.state.is_present() || entry.is_added) {
        let tip = "Asks the hub for the exact size, then tells it with the licence. Nothing is downloaded before you agree.";
        let free = shelf.download.is_none();
        if button_ui(ui, free, "Download…", &format!("Download {title}…"), tip) {
            *wish = Some(Wish::Download(known));
        }
    }
    if let Some(folder) = &entry.folder {
        let is_model = matches!(entry.kind, Some(Kind::Model(_)));
        let is_used = app.document.model.as_ref() == Some(folder);
        if is_model && entry.state.is_present() {
            let tip = "Makes it the model that learns. Undo takes that back.";
            if button_ui(ui, !is_used, "Use", &format!("Use {title}"), tip) {
                *wish = Some(Wish::Use(folder.clone()));
            }
        }
        let tip = format!(
            "Compares names, shapes and checksums of its files in {}.",
            folder.display()
        );
        if button_ui(ui, true, "Check", &format!("Check {title}"), &tip) {
            *wish = Some(Wish::Check(entry.name.clone()));
        }
    }
    if entry.is_added {
        let tip = "Takes it off the list. The folder stays where it is.";
        if button_ui(ui, true, "Forget", &format!("Forget {title}"), tip) {
            *wish = Some(Wish::Forget(entry.name.clone()));
        }
    }
}

/// A button that says for those who cannot see the row which model it is about.
fn button_ui(ui: &mut egui::Ui, enabled: bool, text: &str, name: &str, tip: &str) -> bool {
    let button = ui.add_enabled(enabled, egui::Button::new(text));
    button.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Button, enabled, name));
    button.on_hover_text(tip).clicked()
}

/// The question before a download.
fn offer_ui(app: &mut App, ui: &mut egui::Ui, offer: Box<Offer>) {
    let known = offer.plan.known;
    let (bytes, left) = (offer.plan.bytes(), offer.plan.left_bytes());
    ui.strong(known.title);
    ui.weak(known.about);
    ui.add_space(4.0);
    let mut size = format!("{} in {} files", gigabytes(bytes), offer.plan.files.len());
    if left < bytes {
        size.push_str(&format!(", of which {} are left", gigabytes(left)));
    }
    let version = offer.plan.commit.get(..8).unwrap_or_default();
    row_ui(ui, "Size", &size, false);
    row_ui(ui, "Licence", known.licence.name, false);
    row_ui(ui, "", known.licence.link, false);
    row_ui(
        ui,
        "From",
        &format!("{}, version {version}", known.repo),
        false,
    );
    row_ui(ui, "Goes to", &offer.place.display().to_string(), false);
    row_ui(ui, "Memory", &offer.suits.text(), !offer.suits.fits());
    ui.add_space(8.0);
    let (mut agreed, mut back) = (false, false);
    ui.horizontal(|ui| {
        let label = match left {
            // Every file is here in its size; one of them has another content.
            0 => "Download what is damaged".to_owned(),
            left => format!("Download {}", gigabytes(left)),
        };
        let button = accent_button(ui, &label, true);
        let tip = "You agree to the licence. The window goes on meanwhile.";
        agreed = button.on_hover_text(tip).clicked();
        let button = ui.button("Back");
        back = button
            .on_hover_text("Back to the list. Nothing is downloaded.")
            .clicked();
    });
    if agreed {
        app.start_download(offer.plan);
    } else if !back {
        app.shelf.offer = Some(offer);
    }
}

/// A name, and what there is to say of it on as many lines as it takes.
fn row_ui(ui: &mut egui::Ui, name: &str, text: &str, warn: bool) {
    const NAMES: f32 = 64.0;
    ui.horizontal_top(|ui| {
        let (place, _) = ui.allocate_exact_size(egui::vec2(NAMES, 18.0), egui::Sense::hover());
        let mut column = ui.new_child(egui::UiBuilder::new().max_rect(place));
        column.weak(name);
        let text = egui::RichText::new(text);
        let text = match warn {
            true => text.color(theme::warning(ui)),
            false => text,
        };
        ui.vertical(|ui| ui.add(egui::Label::new(text).wrap()));
    });
}
