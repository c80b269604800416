//! The few things that stand before the window: open, save, export, shortcuts, problems, and the question at closing.

use std::path::{Path, PathBuf};

use eframe::egui;

use super::app::App;
use super::export::ExportForm;
use super::notices::Notices;
use super::panels::models::models_ui;
use super::panels::whole_number;
use super::shortcuts;
use super::task::Task;
use super::theme;
use crate::job;
use crate::report::Report;
use crate::video::ExportFormat;

/// What stands before the window.
pub enum Dialog {
    /// Choose a clip, a run or a project.
    Open {
        /// The typed path.
        path: String,
    },
    /// Name the project file.
    Save {
        /// The typed path.
        path: String,
        /// Whether a file of that name may be replaced.
        overwrite: bool,
    },
    /// How to write the sample.
    Export(Box<ExportForm>),
    /// How much further to train a finished run.
    Further {
        /// The run's folder.
        run: PathBuf,
        /// Training steps it has.
        steps: u32,
        /// Training steps to add.
        more: u32,
    },
    /// A sample with a file of trained weights.
    Weights {
        /// The file.
        file: PathBuf,
        /// How strongly it acts; 1 is what it was trained for.
        strength: f64,
        /// Whether the weights take the place of the model's own, so that there is no strength.
        whole: bool,
    },
    /// What each method needs, and bringing it.
    Models,
    /// Everything the keyboard can do.
    Shortcuts,
    /// Everything that went wrong.
    Problems,
    /// A run is going on and the window shall close.
    Close,
    /// The project has changes and the window shall close.
    Unsaved,
    /// What is open has changes and a project shall take its place.
    Replace(Box<super::projects::NextProject>),
}

impl Dialog {
    /// The dialog of Ctrl+O.
    #[must_use]
    pub fn open() -> Self {
        Self::Open {
            path: String::new(),
        }
    }

    /// The question that comes before a finished run of `steps` steps is trained further; at first as much again.
    #[must_use]
    pub fn further(run: PathBuf, steps: u32) -> Self {
        Self::Further {
            run,
            steps,
            more: steps.clamp(1, MORE_STEPS),
        }
    }
}

/// Most steps that a run is trained further at once.
const MORE_STEPS: u32 = 100_000;

/// What a chosen path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// To open it.
    Clip,
    /// To learn it together with the clip that is open.
    MoreClip,
    /// A model folder, to use it.
    Model,
    /// A model folder, to put it on the list.
    AddModel,
    /// A clip that leads ControlVideo.
    Leading,
    /// The folder of a ControlNet.
    ControlNet,
    /// Name of the project file.
    Project,
    /// Name of the film.
    Film,
}

/// Whether there is a file under a typed name. The disk is asked on a thread: it may be far away, or asleep.
#[derive(Default)]
pub struct Taken {
    known: Option<(String, bool)>,
    asked: Option<(String, Task<Result<bool, Report>>)>,
}

impl Taken {
    /// What is known of a name; asks about it if nothing is. A name that is not known yet counts as free: whoever
    /// writes the file looks again.
    fn is(&mut self, ctx: &egui::Context, path: &str) -> bool {
        if let Some((asked, task)) = &self.asked
            && let Some(is_taken) = task.take()
        {
            self.known = Some((asked.clone(), is_taken.unwrap_or(false)));
            self.asked = None;
        }
        if let Some((known, is_taken)) = &self.known
            && known == path
        {
            return *is_taken;
        }
        if self.asked.as_ref().is_none_or(|(asked, _)| asked != path) {
            let looked_at = PathBuf::from(path);
            let task = Task::start("name check", ctx, move |_| Ok(looked_at.exists()));
            self.asked = task.ok().map(|task| (path.to_owned(), task));
        }
        false
    }

    /// Forgets what it knows: a file may have come or gone.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

/// The system's own dialog, waiting on a thread.
pub struct Picking {
    pub(super) task: Task<Result<Option<PathBuf>, Report>>,
    pub(super) wants: Pick,
}

impl App {
    /// Shows the system's dialog. The window goes on meanwhile; where there is none, the typed path serves.
    pub(super) fn pick(&mut self, wants: Pick, folder: bool) {
        let start = self.settings.folder();
        let dialog = rfd::AsyncFileDialog::new().set_directory(start);
        let task = match (wants, folder) {
            (Pick::Model | Pick::AddModel | Pick::ControlNet, _)
            | (Pick::Clip | Pick::MoreClip | Pick::Leading, true) => {
                self.wait_for(dialog.pick_folder())
            }
            (Pick::Clip | Pick::MoreClip | Pick::Leading, false) => {
                self.wait_for(dialog.pick_file())
            }
            (Pick::Project, _) => {
                self.wait_for(dialog.add_filter("Project", &["toml"]).save_file())
            }
            (Pick::Film, _) => self.wait_for(
                dialog
                    .add_filter("Film", &["mp4", "webm", "gif"])
                    .save_file(),
            ),
        };
        self.picking = task.map(|task| Picking { task, wants });
    }

    fn wait_for(
        &mut self,
        asked: impl Future<Output = Option<rfd::FileHandle>> + Send + 'static,
    ) -> Option<Task<Result<Option<PathBuf>, Report>>> {
        self.start("file dialog", move |_| {
            Ok(pollster::block_on(asked).map(|handle| handle.path().to_owned()))
        })
    }

    /// Draws what stands before the window.
    pub(super) fn dialogs_ui(&mut self, ctx: &egui::Context) {
        let Some(mut dialog) = self.dialog.take() else {
            return;
        };
        let width = match dialog {
            Dialog::Shortcuts => (ctx.content_rect().width() - 80.0).clamp(480.0, 960.0),
            Dialog::Problems => 520.0,
            Dialog::Models => (ctx.content_rect().width() - 80.0).clamp(480.0, 720.0),
            _ => 460.0,
        };
        let mut keep = true;
        let frame = egui::Frame::window(&ctx.global_style()).inner_margin(16);
        let modal = egui::Modal::new(egui::Id::unique("dialog")).frame(frame);
        let modal = modal.show(ctx, |ui| {
            ui.set_width(width);
            keep = match &mut dialog {
                Dialog::Open { path } => self.open_ui(ui, path),
                Dialog::Save { path, overwrite } => self.save_ui(ui, path, overwrite),
                Dialog::Export(form) => self.export_ui(ui, form),
                Dialog::Further { run, steps, more } => self.further_ui(ui, run, *steps, more),
                Dialog::Weights {
                    file,
                    strength,
                    whole,
                } => self.weights_ui(ui, file, (strength, *whole)),
                Dialog::Models => models_ui(self, ui) && !close_row(ui),
                Dialog::Shortcuts => {
                    shortcuts::shortcuts_ui(ui);
                    !close_row(ui)
                }
                Dialog::Problems => {
                    ui.heading("Problems");
                    self.notices.problems_ui(ui);
                    !close_row(ui)
                }
                Dialog::Close => self.close_ui(ui),
                Dialog::Unsaved => self.unsaved_ui(ui),
                Dialog::Replace(next) => self.replace_ui(ui, next),
            };
        });
        let keep = keep && !modal.should_close();
        // A button may have put another dialog in place of this one.
        if keep && self.dialog.is_none() {
            self.dialog = Some(dialog);
        }
    }

    fn open_ui(&mut self, ui: &mut egui::Ui, path: &mut String) -> bool {
        ui.heading("Open");
        ui.weak("A film, a GIF, a folder of pictures, a run, a project, a model, a film made here, or trained weights. You can also drop it on the window.");
        ui.add_space(4.0);
        ui.horizontal(|ui| {
            let file = ui.button("Browse for a file…");
            let tip = "The system's own dialog, for films, GIFs, projects.";
            if file.on_hover_text(tip).clicked() {
                self.pick(Pick::Clip, false);
            }
            let folder = ui.button("Browse for a folder…");
            let tip = "The system's own dialog, for pictures, runs, models.";
            if folder.on_hover_text(tip).clicked() {
                self.pick(Pick::Clip, true);
            }
            let bundled = ui.button("The sample clip");
            let tip = "The red circle that comes with the program.";
            if bundled.on_hover_text(tip).clicked() {
                self.open_bundled();
                self.dialog = None;
                ui.close();
            }
        });
        ui.add_space(4.0);
        let typed = path_field(ui, "Path", path);
        let mut chosen = typed.then(|| PathBuf::from(path.trim()));
        if !self.settings.recent.is_empty() {
            ui.add_space(4.0);
            ui.weak("Recent");
            for recent in &self.settings.recent {
                let name = recent.file_name().unwrap_or(recent.as_os_str());
                let button = egui::Button::new(name.to_string_lossy().into_owned()).frame(false);
                let shown = ui.add(button).on_hover_text(recent.display().to_string());
                if shown.clicked() {
                    chosen = Some(recent.clone());
                }
            }
        }
        ui.add_space(8.0);
        ui.horizontal(|ui| {
            let ready = !path.trim().is_empty();
            let open = ui.add_enabled(ready, egui::Button::new("Open file"));
            if open.on_hover_text("Opens what is at the path.").clicked() {
                chosen = Some(PathBuf::from(path.trim()));
            }
            cancel_ui(ui);
        });
        match chosen {
            Some(path) => {
                self.open_path(&path);
                false
            }
            None => true,
        }
    }

    fn save_ui(&mut self, ui: &mut egui::Ui, path: &mut String, overwrite: &mut bool) -> bool {
        ui.heading("Save project");
        ui.weak(
            "Clip, cut, words, settings and the list of runs. Clips and runs stay where they are.",
        );
        ui.add_space(4.0);
        let mut save = path_field(ui, "Path", path);
        let file = project_file(path.trim());
        // The project's own file is there to be written again.
        let is_own = self.project_path.as_ref() == Some(&file);
        let exists = !is_own && self.taken.is(ui.ctx(), &file.display().to_string());
        if exists {
            overwrite_ui(ui, overwrite);
        }
        ui.add_space(8.0);
        let ready = !path.trim().is_empty() && (!exists || *overwrite);
        save &= ready;
        ui.horizontal(|ui| {
            let button = accent_button(ui, "Save", ready);
            let tip = "Writes the project file under this name.";
            save |= button.on_hover_text(tip).clicked();
            let browse = ui.button("Browse…");
            if browse.on_hover_text("The system's own dialog.").clicked() {
                self.pick(Pick::Project, false);
            }
            cancel_ui(ui);
        });
        if save {
            self.write_project(file, *overwrite || is_own);
        }
        !save
    }

    fn export_ui(&mut self, ui: &mut egui::Ui, form: &mut ExportForm) -> bool {
        ui.heading("Export");
        let mut export = path_field(ui, "Path", &mut form.path);
        let format = ExportFormat::from_path(Path::new(&form.path));
        ui.horizontal(|ui| {
            for (label, ending) in [
                ("MP4", "mp4"),
                ("WebM", "webm"),
                ("GIF", "gif"),
                ("PNG files", ""),
            ] {
                let wanted = Path::new(&form.path)
                    .extension()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                let chosen = wanted == ending;
                let tip = match ending {
                    "mp4" => "H.264: plays everywhere.",
                    "webm" => "VP9: small, for the web.",
                    "gif" => "256 colours, plays in any message.",
                    _ => "A folder with one picture a frame, without loss.",
                };
                let button = ui.selectable_label(chosen, label);
                if button.on_hover_text(tip).clicked() {
                    form.path = PathBuf::from(&form.path)
                        .with_extension(ending)
                        .display()
                        .to_string();
                }
            }
        });
        ui.add_space(4.0);
        export_fields_ui(ui, form, format.as_ref().ok());
        if let Err(error) = &format {
            ui.colored_label(theme::warning(ui), error.advice());
        }
        let exists = self.taken.is(ui.ctx(), &form.path);
        if exists {
            overwrite_ui(ui, &mut form.overwrite);
        }
        ui.add_space(8.0);
        let ready = format.is_ok() && (!exists || form.overwrite);
        export &= ready;
        ui.horizontal(|ui| {
            let button = accent_button(ui, "Export film", ready);
            let tip = "Writes the film. The window goes on meanwhile.";
            export |= button.on_hover_text(tip).clicked();
            let browse = ui.button("Browse…");
            if browse.on_hover_text("The system's own dialog.").clicked() {
                self.pick(Pick::Film, false);
            }
            cancel_ui(ui);
        });
        if export {
            self.start_export(form.clone());
        }
        !export
    }

    fn further_ui(&mut self, ui: &mut egui::Ui, run: &Path, steps: u32, more: &mut u32) -> bool {
        ui.heading("Train further");
        let name = run.file_name().unwrap_or_default().to_string_lossy();
        ui.label(format!("The run \"{name}\" has its {steps} steps."));
        ui.add_space(4.0);
        ui.horizontal(|ui| {
            let label = ui.label("Steps more");
            let number = whole_number(more).range(1..=MORE_STEPS);
            ui.add(number).labelled_by(label.id).on_hover_text(
                "The run goes on from its last checkpoint, as if it had been this long from the start.",
            );
        });
        ui.add_space(8.0);
        let mut go = false;
        ui.horizontal(|ui| {
            go = accent_button(ui, "Train further", true).clicked();
            if ui.button("Cancel").clicked() {
                ui.close();
            }
        });
        if go {
            self.resume(run.to_owned(), job::Until::More(*more));
        }
        !go
    }
}

/// Leaves a dialog without doing anything.
pub(super) fn cancel_ui(ui: &mut egui::Ui) {
    let cancel = ui.button("Cancel");
    if cancel
        .on_hover_text("Closes this and changes nothing.")
        .clicked()
    {
        ui.close();
    }
}

/// Asks whether a file that is there may go.
fn overwrite_ui(ui: &mut egui::Ui, overwrite: &mut bool) {
    ui.checkbox(overwrite, "Replace the file that is there")
        .on_hover_text("There is a file of this name. Choose another name to keep it.");
}

/// Where a project of a typed name goes. Only an ending of its own is one: what follows a dot in a name belongs to the name.
fn project_file(typed: &str) -> PathBuf {
    let path = PathBuf::from(typed);
    let is_project = |ending: &std::ffi::OsStr| ending.eq_ignore_ascii_case("toml");
    if typed.is_empty() || path.extension().is_some_and(is_project) {
        return path;
    }
    PathBuf::from(format!("{typed}.toml"))
}

fn export_fields_ui(ui: &mut egui::Ui, form: &mut ExportForm, format: Option<&ExportFormat>) {
    let film = matches!(format, Some(ExportFormat::Mp4 | ExportFormat::WebM));
    egui::Grid::new("export fields")
        .num_columns(2)
        .spacing([12.0, 6.0])
        .show(ui, |ui| {
            let label = ui.label("Quality");
            ui.add_enabled(film, egui::Slider::new(&mut form.quality, 0..=100))
                .labelled_by(label.id)
                .on_hover_text("0 is small, 100 is best. GIF and PNG do not use it.");
            ui.end_row();
            let label = ui.label("Frames per second");
            ui.add(
                egui::DragValue::new(&mut form.fps)
                    .range(0.1..=240.0)
                    .speed(0.1)
                    .max_decimals(2),
            )
            .labelled_by(label.id)
            .on_hover_text("How fast the film plays. Fewer frames a second make it slower, not shorter in frames.");
            ui.end_row();
            let label = ui.label("Play it");
            ui.add(
                egui::DragValue::new(&mut form.repeats)
                    .range(1..=50)
                    .suffix(" times"),
            )
            .labelled_by(label.id)
            .on_hover_text("The clip is short: repeated, players show it for longer.");
            ui.end_row();
            let label = ui.label("Shorter side");
            ui.horizontal(|ui| {
                ui.add(
                    egui::DragValue::new(&mut form.min_side)
                        .range(0..=4096)
                        .suffix(" px"),
                )
                .labelled_by(label.id)
                .on_hover_text("At least this, by whole factors; 0 keeps the model's size.");
                ui.checkbox(&mut form.hard_pixels, "Hard pixels")
                    .on_hover_text("Shows exactly what the model painted, without smoothing.");
            });
            ui.end_row();
            ui.label("");
            ui.checkbox(&mut form.side_by_side, "Reference beside it")
                .on_hover_text("The clip to the left of the result, frame by frame.");
            ui.end_row();
            ui.label("");
            ui.checkbox(&mut form.recipe, "Recipe inside")
                .on_hover_text("Words, settings, names and checksums, no paths. Dropped on this window, the film gives them back.");
            ui.end_row();
        });
}

/// A field for the path of a film or project; true when Enter was pressed in it. It has the keyboard when its dialog appears.
fn path_field(ui: &mut egui::Ui, label: &str, path: &mut String) -> bool {
    path_field_like(ui, label, path, "/home/me/films/dance.mp4")
}

/// A field for a path that looks like the example; true when Enter was pressed in it.
pub(super) fn path_field_like(
    ui: &mut egui::Ui,
    label: &str,
    path: &mut String,
    example: &str,
) -> bool {
    let name = ui.label(label);
    let field = egui::TextEdit::singleline(path)
        .desired_width(f32::INFINITY)
        .hint_text(example);
    let field = ui.add(field).labelled_by(name.id);
    let field = field.on_hover_text("Where the file is or goes. It can be pasted.");
    let now = ui.ctx().cumulative_frame_nr();
    let drawn = egui::Id::unique("path field drawn");
    let before = ui.data_mut(|data| std::mem::replace(data.get_temp_mut_or(drawn, 0), now));
    if before + 1 < now {
        field.request_focus();
    }
    field.lost_focus() && ui.input(|input| input.key_pressed(egui::Key::Enter))
}

/// The button that a pane is for.
pub(super) fn accent_button(ui: &mut egui::Ui, label: &str, enabled: bool) -> egui::Response {
    let text = egui::RichText::new(label).strong();
    let button = if enabled {
        egui::Button::new(text.color(theme::on_accent(ui))).fill(theme::accent(ui))
    } else {
        egui::Button::new(text)
    };
    ui.add_enabled(enabled, button)
}

fn close_row(ui: &mut egui::Ui) -> bool {
    ui.add_space(8.0);
    let close = ui.button("Close");
    close
        .on_hover_text("Back to the window. Escape does the same.")
        .clicked()
}

/// Shows the folder of a file in the system's own file manager.
pub(super) fn show_in_files(notices: &mut Notices, path: &Path) {
    let folder = if path.is_dir() {
        path
    } else {
        path.parent().unwrap_or(path)
    };
    let program = if cfg!(target_os = "macos") {
        "open"
    } else if cfg!(windows) {
        "explorer"
    } else {
        "xdg-open"
    };
    let (folder, name) = (folder.to_owned(), folder.display().to_string());
    // Starting a program can take its time, and somebody must wait for its end.
    let started = std::thread::Builder::new()
        .name("show folder".to_owned())
        .spawn(move || std::process::Command::new(program).arg(folder).status());
    if started.is_err() {
        notices.say(format!("It is in {name}."), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_keeps_the_name_that_was_typed() {
        for (typed, file) in [
            ("/films/dance", "/films/dance.toml"),
            ("/films/dance.toml", "/films/dance.toml"),
            ("/films/dance.TOML", "/films/dance.TOML"),
            ("/films/dance.v2", "/films/dance.v2.toml"),
            ("", ""),
        ] {
            assert_eq!(project_file(typed), PathBuf::from(file));
        }
    }
}
