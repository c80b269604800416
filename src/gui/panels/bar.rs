//! The bar on top: menus, what is open, what computes, how full the memory is.

use eframe::egui;

use crate::gui::app::App;
use crate::gui::command::{Command, Menu};
use crate::gui::estimate::gigabytes;
use crate::gui::layout::{self, Pane};
use crate::gui::run::Run;
use crate::gui::theme;
use crate::job::Until;

/// Draws the bar.
pub fn bar_ui(app: &mut App, ui: &mut egui::Ui) {
    egui::MenuBar::new().ui(ui, |ui| {
        for menu in Menu::ALL {
            ui.menu_button(menu.label(), |ui| menu_ui(app, ui, menu));
        }
        ui.separator();
        clip_name_ui(app, ui);
        ui.with_layout(egui::Layout::right_to_left(egui::Align::Center), |ui| {
            memory_ui(app, ui);
            ui.separator();
            ui.label(&app.device_name)
                .on_hover_text("What the model computes on.");
            if let Some(note) = app.instruments.note() {
                ui.separator();
                let text = egui::RichText::new("No compute shaders").color(theme::warning(ui));
                ui.label(text).on_hover_text(note);
            }
            ui.separator();
            ui.label(app.model_title())
                .on_hover_text("The model that learns the motion.");
            download_ui(app, ui);
            if app.notices.unseen > 0 {
                ui.separator();
                let text = plural(app.notices.unseen, "new problem");
                let text = egui::RichText::new(text).color(theme::error(ui));
                let button = ui.add(egui::Button::new(text).frame(false));
                let tip = "Shows everything that went wrong, with cause and remedy.";
                if button.on_hover_text(tip).clicked() {
                    app.obey(Command::Problems);
                }
            }
        });
    });
}

/// How far a download is; a click leads to the list.
fn download_ui(app: &mut App, ui: &mut egui::Ui) {
    let Some(download) = &app.shelf.download else {
        return;
    };
    ui.separator();
    let percent = download.share() * 100.0;
    let text = format!("{} {percent:.0} %", download.known.title);
    let tip = format!(
        "{} is downloaded. Shows the list of models.",
        download.known.title
    );
    let button = ui.add(egui::Button::new(text).frame(false));
    if button.on_hover_text(tip).clicked() {
        app.obey(Command::Models);
    }
}

/// `1 new problem`, `2 new problems`.
fn plural(count: usize, word: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {word}{ending}")
}

fn clip_name_ui(app: &mut App, ui: &mut egui::Ui) {
    let name = match (&app.opening, &app.source) {
        (Some(_), _) => format!("Opening {}…", app.opening_name),
        (None, Some(source)) => {
            let (width, height) = source.clip.size();
            format!("{}  {width}×{height}", source.clip.source_name)
        }
        (None, None) => "No clip. Open one, or drop it here.".to_owned(),
    };
    let changed = app.document != app.saved && app.project_path.is_some();
    let shown = ui.label(if changed { format!("{name} •") } else { name });
    if let Some(source) = &app.source {
        let mut text = source.path.display().to_string();
        if let Some(project) = &app.project_path {
            text = format!("{text}\nProject {}", project.display());
        }
        shown.on_hover_text(text);
    }
    if app.opening.is_some() {
        ui.spinner();
    }
}

fn memory_ui(app: &App, ui: &mut egui::Ui) {
    let Some((used, total)) = app.memory.reading_mib() else {
        return;
    };
    let share = (used / total).clamp(0.0, 1.0) as f32;
    let text = gigabytes(used);
    let (rect, response) = ui.allocate_exact_size(egui::vec2(72.0, 14.0), egui::Sense::hover());
    let painter = ui.painter();
    painter.rect_filled(rect, 3.0, theme::sunken(ui));
    let mut filled = rect;
    filled.set_width(rect.width() * share);
    let colour = if share > 0.85 {
        theme::warning(ui)
    } else {
        theme::accent(ui)
    };
    painter.rect_filled(filled, 3.0, colour.gamma_multiply(0.6));
    painter.text(
        rect.center(),
        egui::Align2::CENTER_CENTER,
        &text,
        egui::TextStyle::Small.resolve(ui.style()),
        ui.visuals().strong_text_color(),
    );
    let whole = format!(
        "This program uses {text} of {} of memory.",
        gigabytes(total)
    );
    response.widget_info(|| {
        egui::WidgetInfo::labeled(egui::Role::ProgressIndicator, true, whole.clone())
    });
    response.on_hover_text(whole.clone());
}

fn menu_ui(app: &mut App, ui: &mut egui::Ui, menu: Menu) {
    ui.set_min_width(240.0);
    for command in Command::ALL {
        if command.about().menu == menu {
            entry_ui(app, ui, command);
        }
        if command == Command::Open && menu == Menu::File {
            recent_ui(app, ui);
        }
    }
    if menu == Menu::View {
        scale_ui(app, ui);
        ui.separator();
        for pane in Pane::ALL {
            // While the bar is drawn the layout is in place.
            let mut shown = layout::is_shown(&app.tree, pane);
            if ui.checkbox(&mut shown, pane.title()).changed() {
                if shown {
                    layout::show(&mut app.tree, pane);
                } else {
                    layout::hide(&mut app.tree, pane);
                }
            }
        }
    }
    if menu == Menu::Run && !app.queue.unfinished.is_empty() {
        ui.separator();
        ui.menu_button("Unfinished runs", |ui| {
            for run in app.queue.unfinished.clone() {
                let name = run.file_name().unwrap_or_default().to_string_lossy();
                if ui.button(name.into_owned()).clicked() {
                    app.resume(run, Until::Planned);
                }
            }
        });
    }
}

/// The scales that screens usually ask for.
fn scale_ui(app: &mut App, ui: &mut egui::Ui) {
    const SCALES: [f32; 6] = [0.75, 1.0, 1.25, 1.5, 1.75, 2.0];
    let now = app.settings.scale;
    ui.menu_button(format!("Interface size: {:.0} %", 100.0 * now), |ui| {
        for scale in SCALES {
            let chosen = (scale - now).abs() < 0.005;
            let label = format!("{:.0} %", 100.0 * scale);
            if ui.selectable_label(chosen, label).clicked() {
                app.scale_to(scale);
                ui.close();
            }
        }
    });
}

fn recent_ui(app: &mut App, ui: &mut egui::Ui) {
    if app.settings.recent.is_empty() {
        return;
    }
    ui.menu_button("Recent", |ui| {
        for recent in app.settings.recent.clone() {
            let name = recent.file_name().unwrap_or(recent.as_os_str());
            let entry = ui.button(name.to_string_lossy().into_owned());
            if entry.on_hover_text(recent.display().to_string()).clicked() {
                app.open_path(&recent);
            }
        }
        ui.separator();
        let clear = ui.button("Clear list");
        if clear
            .on_hover_text("Forgets these names; the files stay.")
            .clicked()
        {
            app.settings.recent.clear();
        }
    });
}

fn entry_ui(app: &mut App, ui: &mut egui::Ui, command: Command) {
    let about = command.about();
    let mut button = egui::Button::new(about.label);
    let keys = command.shortcut_text(ui.ctx());
    if !keys.is_empty() {
        button = button.shortcut_text(keys);
    }
    let response = ui.add_enabled(app.can(command), button);
    if response.on_hover_text(about.tooltip).clicked() {
        app.obey(command);
        ui.close();
    }
}

impl App {
    /// Whether a command would do something now.
    pub(in crate::gui) fn can(&self, command: Command) -> bool {
        let current = self.queue.current();
        let going = current.is_some_and(Run::is_going);
        let training = current.is_some_and(Run::is_training);
        let shown = self
            .queue
            .runs
            .get(self.run_view.index(self.queue.runs.len()));
        match command {
            // One film after the other.
            Command::Export if self.export.is_some() => false,
            Command::Undo => self.history.can_undo(),
            Command::Redo => self.history.can_redo(),
            Command::Export => self.queue.sample(self.compare.chosen).is_some(),
            Command::Train => self.cut.is_some() && self.wanted_source().is_some(),
            Command::Pause | Command::Stop => going,
            Command::CheckpointNow => training,
            Command::SampleNow => training || shown.is_some_and(Run::has_weights),
            _ => true,
        }
    }
}
