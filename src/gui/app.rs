//! The state of the window, and the frame around its panes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use eframe::egui;
use egui_tiles::Tree;
use serde::{Deserialize, Serialize};

use super::compare::Compare;
use super::dialogs::Dialog;
use super::export::ExportJob;
use super::history::History;
use super::instruments::{Instruments, View};
use super::layout::{self, Pane, Room};
use super::library::Shelf;
use super::measure::Stopwatch;
use super::media::{Cut, Loaded, ModelChoice, ModelInfo, Opened};
use super::notices::Notices;
use super::player::Player;
use super::queue::Queue;
use super::task::Task;
use super::{Open, panels, theme};
use crate::project::{Control, Project, Recipe, default_runs_dir};
use crate::report::Report;
use crate::train::{FitChoice, TransferConfig};
use crate::video::Clip;

/// What a project file keeps, and what undo takes back.
pub type Document = Project<TransferConfig>;

/// Under this name the settings of the window are kept.
const SETTINGS_KEY: &str = "settings/1";
/// Under this name the layout is kept.
const LAYOUT_KEY: &str = "layout";
/// As [`LAYOUT_KEY`], for windows with little room.
const NARROW_KEY: &str = "layout/narrow";
/// Paths kept in the list of recent ones.
const RECENT: usize = 12;

/// What the window remembers between two starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Dark rather than light.
    pub dark: bool,
    /// Scale of the interface.
    pub scale: f32,
    /// What was opened, newest first.
    pub recent: Vec<PathBuf>,
    /// Seconds that runs took here, see `estimate.rs`.
    pub pace: super::estimate::Pace,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dark: true,
            scale: 1.0,
            recent: Vec::new(),
            pace: super::estimate::Pace::default(),
        }
    }
}

impl Settings {
    /// The folder that was used last, for files that are written.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        let used = self.recent.iter().find_map(|path| path.parent());
        let home = || {
            ["HOME", "USERPROFILE"]
                .iter()
                .find_map(std::env::var_os)
                .map(PathBuf::from)
        };
        used.map(Path::to_owned)
            .or_else(home)
            .unwrap_or_else(std::env::temp_dir)
    }
}

/// The clip that is open.
pub struct Source {
    /// Where it is.
    pub path: PathBuf,
    /// Its frames.
    pub clip: Arc<Clip>,
    /// The filmstrip.
    pub thumbs: Vec<egui::TextureHandle>,
    /// Counts clips, so that what was computed for another one is told apart.
    pub generation: u64,
}

/// What the cut was computed from.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CutKey {
    clip: u64,
    model: u64,
    frames: Option<usize>,
    size: Option<(u32, u32)>,
    fps: Option<f64>,
    start_secs: f64,
    fit: FitChoice,
    loop_short: bool,
}

/// The window.
pub struct App {
    pub(super) ctx: egui::Context,
    pub(super) data: PathBuf,
    pub(super) settings: Settings,
    pub(super) document: Document,
    pub(super) history: History<Document>,
    pub(super) project_path: Option<PathBuf>,
    /// A project that waits until what is open is written.
    pub(super) next_project: Option<Box<super::projects::NextProject>>,
    /// The document as it is on disk, to tell whether there is something to save.
    pub(super) saved: Document,
    pub(super) autosave: super::autosave::Autosave,

    pub(super) opening: Option<Task<Result<Opened, Report>>>,
    pub(super) opening_name: String,
    pub(super) adding: super::clips::Adding,
    pub(super) source: Option<Source>,
    pub(super) recipe: Option<Box<Recipe<TransferConfig>>>,
    pub(super) model: Option<ModelInfo>,
    pub(super) model_generation: u64,
    pub(super) model_asked: Option<ModelChoice>,
    pub(super) reading_model: Option<Task<Result<ModelInfo, Report>>>,
    /// What the chosen model took the place of, until it is read.
    pub(super) model_before: Option<Box<super::model::Before>>,
    pub(super) cut: Option<Cut>,
    pub(super) cut_problem: Option<Report>,
    pub(super) cut_key: Option<CutKey>,
    pub(super) cutting: Option<Task<Result<Cut, Report>>>,
    /// What leads ControlVideo.
    pub(super) leading: super::leading::Leading,
    pub(super) encoding: Option<super::latents::Encoding>,
    pub(super) scoring: Option<super::scoring::Scoring>,

    pub(super) player: Player,
    pub(super) instruments: Instruments,
    pub(super) compare: Compare,
    pub(super) queue: Queue,
    pub(super) export: Option<ExportJob>,
    /// A run's motion that is written for other programs.
    pub(super) saving_lora: Option<super::weights::SavingLora>,
    /// The models that are known, and what is done with them.
    pub(super) shelf: Shelf,
    /// A name for the next film or project: the one that the dialog shows, and the search for one that is free.
    pub(super) naming: Option<(PathBuf, Task<Result<PathBuf, Report>>)>,
    /// Whether there is a file under the typed name.
    pub(super) taken: super::dialogs::Taken,
    pub(super) picking: Option<super::dialogs::Picking>,
    pub(super) dialog: Option<Dialog>,
    pub(super) notices: Notices,
    pub(super) tree: Tree<Pane>,
    /// The layout for the other amount of room.
    pub(super) other_tree: Tree<Pane>,
    pub(super) room: Room,
    pub(super) closing: bool,
    pub(super) started: Instant,
    pub(super) ticked_at: f64,
    pub(super) memory: super::estimate::Gauge,
    pub(super) device_name: String,
    pub(super) device_asked: Option<Task<Result<String, Report>>>,
    /// Why the processor computes the instruments, as far as it was told.
    pub(super) drawing_note: Option<String>,
    /// Whether the focus was last moved by the keyboard.
    pub(super) by_keyboard: bool,
    /// Whether the processor draws the window: what it draws, no run can compute.
    pub(super) drawn_by_processor: bool,
    pub(super) run_view: panels::run::RunView,
    pub(super) reference_view: panels::picture::PictureView,
    pub(super) leading_view: panels::picture::PictureView,
    pub(super) result_view: panels::picture::PictureView,
    pub(super) first_clip: bool,
    pub(super) stopwatch: Option<Stopwatch>,
}

impl App {
    /// Makes the window's state and begins to open what was asked for.
    #[must_use]
    pub fn new(cc: &eframe::CreationContext<'_>, open: &Open) -> Self {
        let settings: Settings = cc
            .storage
            .and_then(|storage| storage.get_string(SETTINGS_KEY))
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default();
        let kept = |key, room| {
            cc.storage
                .and_then(|storage| storage.get_string(key))
                .and_then(|text| layout::restore(&text))
                .unwrap_or_else(|| layout::first(room))
        };
        let tree = kept(LAYOUT_KEY, Room::Wide);
        let other_tree = kept(NARROW_KEY, Room::Narrow);
        theme::install(&cc.egui_ctx);
        cc.egui_ctx.set_theme(theme_of(&settings));
        cc.egui_ctx.set_zoom_factor(settings.scale);
        let data = data_folder(open);
        let document = first_document(open.model.clone());
        let shelf = Shelf::new(&data, open);
        let mut app = Self {
            ctx: cc.egui_ctx.clone(),
            autosave: super::autosave::Autosave::new(&data),
            data,
            settings,
            history: History::new(document.clone()),
            saved: document.clone(),
            document,
            project_path: None,
            next_project: None,
            opening: None,
            opening_name: String::new(),
            adding: super::clips::Adding::default(),
            source: None,
            recipe: None,
            model: None,
            model_generation: 0,
            model_asked: None,
            reading_model: None,
            model_before: None,
            cut: None,
            cut_problem: None,
            cut_key: None,
            cutting: None,
            leading: super::leading::Leading::default(),
            encoding: None,
            scoring: None,
            player: Player::default(),
            instruments: Instruments::new(cc.wgpu_render_state.as_ref()),
            compare: Compare::default(),
            queue: Queue::default(),
            export: None,
            saving_lora: None,
            shelf,
            naming: None,
            taken: super::dialogs::Taken::default(),
            picking: None,
            dialog: None,
            notices: Notices::default(),
            tree,
            other_tree,
            room: Room::Wide,
            closing: false,
            started: Instant::now(),
            ticked_at: 0.0,
            memory: super::estimate::Gauge::default(),
            device_name: "CPU".to_owned(),
            device_asked: None,
            drawing_note: None,
            by_keyboard: false,
            drawn_by_processor: false,
            run_view: panels::run::RunView::default(),
            reference_view: panels::picture::PictureView::default(),
            leading_view: panels::picture::PictureView::default(),
            result_view: panels::picture::PictureView::default(),
            first_clip: true,
            stopwatch: None,
        };
        app.begin(open);
        app
    }

    fn begin(&mut self, open: &Open) {
        self.notices.log(format!(
            "Spectral Motion Studio {}",
            env!("CARGO_PKG_VERSION")
        ));
        if std::env::var_os("WAYLAND_DISPLAY").is_some() && std::env::var_os("DISPLAY").is_none() {
            self.notices.say(
                "Files cannot be dropped here: this desktop (Wayland) does not hand them over. Use Open, or paste a path.",
                None,
            );
        }
        match &open.path {
            Some(path) => self.open_path(path),
            None => self.open_bundled(),
        }
        self.autosave.look(&self.ctx);
        // Asking a graphics driver takes its time.
        self.device_asked = self.start("device", |_| Ok(crate::job::device_name().to_owned()));
        self.queue.look_for_unfinished(&self.ctx, &self.runs_dir());
        self.look_for_models();
    }

    /// Takes the time of frames from now on.
    pub(super) fn measure_from(&mut self, begun: Instant) {
        self.stopwatch = Some(Stopwatch::new(begun));
    }

    /// Where runs go.
    pub(super) fn runs_dir(&self) -> PathBuf {
        self.data.join("runs")
    }

    /// Seconds since the window opened.
    pub(super) fn now_secs(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Takes over a clip that was read.
    pub(super) fn show_clip(&mut self, loaded: Loaded) {
        let generation = self.source.as_ref().map_or(0, |source| source.generation) + 1;
        let thumbs = loaded
            .thumbs
            .into_iter()
            .map(|image| {
                self.ctx
                    .load_texture("filmstrip", image, egui::TextureOptions::LINEAR)
            })
            .collect();
        for note in &loaded.clip.notes {
            self.notices.log(note.clone());
        }
        self.source = Some(Source {
            path: loaded.path,
            clip: Arc::new(loaded.clip),
            thumbs,
            generation,
        });
        // What the model sees of the clip before means nothing now.
        (self.cut, self.cut_key, self.cutting, self.cut_problem) = (None, None, None, None);
        self.player = Player::default();
        self.reference_view = panels::picture::PictureView::default();
        self.result_view = panels::picture::PictureView::default();
        self.compare.choose(None);
        // The samples of a project may be there before its clip.
        let of_project = self.queue.run_of(None);
        if of_project.is_some_and(|run| run.reference.is_none()) {
            self.show_sample();
        } else {
            self.instruments.set_sample(&self.ctx, None);
        }
    }

    /// What the present cut depends on.
    pub(super) fn wanted_cut(&self) -> Option<CutKey> {
        let source = self.source.as_ref()?;
        self.model.as_ref()?;
        let settings = &self.document.settings;
        Some(CutKey {
            clip: source.generation,
            model: self.model_generation,
            frames: settings.frames,
            size: settings.size,
            fps: settings.fps,
            start_secs: settings.start_secs,
            fit: settings.fit,
            loop_short: settings.loop_short,
        })
    }

    /// Whether the cut, or why there is none, is that of the present clip, model and settings.
    pub(super) fn is_cut_current(&self) -> bool {
        let is_read = self.current_model().is_some();
        is_read && self.cutting.is_none() && self.cut_key == self.wanted_cut()
    }

    /// Begin and end of what the model sees, in seconds of the source; the whole clip where there is no cut.
    pub(super) fn cut_range(&self) -> (f64, f64) {
        let Some(source) = &self.source else {
            return (0.0, 1.0);
        };
        let first = source.clip.times_secs.first().copied().unwrap_or(0.0);
        let end = first + source.clip.duration_secs();
        let start = self.document.settings.start_secs.max(first);
        match &self.cut {
            Some(cut) if cut.fps > 0.0 => {
                let cut_end = start + cut.frames.len() as f64 / cut.fps;
                (start.min(end), cut_end.min(end).max(start))
            }
            _ => (first, end),
        }
    }

    /// The frame of the cut under the playhead.
    pub(super) fn cut_frame(&self) -> usize {
        let Some(cut) = &self.cut else { return 0 };
        let (start, _) = self.cut_range();
        let at = ((self.player.time_secs - start) * cut.fps + 1e-6)
            .floor()
            .max(0.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative; a number beyond the frames is cut to the last"
        )]
        let index = at as usize;
        index.min(cut.frames.len().saturating_sub(1))
    }

    /// What the instruments follow.
    pub(super) fn view(&self) -> View {
        let settings = &self.document.settings;
        View {
            frame: self.cut_frame(),
            delta: settings.delta,
            cutoff: settings.cutoff,
            levels: settings.levels,
            residual: settings.residual,
            show_sample: self.compare.flipped,
        }
    }

    /// Puts a path to the front of the recent ones.
    pub(super) fn remember(&mut self, path: &Path) {
        self.settings.recent.retain(|known| known != path);
        self.settings.recent.insert(0, path.to_owned());
        self.settings.recent.truncate(RECENT);
    }

    /// Whether anything is under way that closing would cut off.
    pub(super) fn is_busy(&self) -> bool {
        self.queue.is_going() || self.export.is_some()
    }

    /// For tests: what the window knows.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// For tests: whether a clip is open and cut for the chosen model, and what leads it is made.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.cut.is_some()
            && self.is_cut_current()
            && self.opening.is_none()
            && self.current_model().is_some()
            && self.is_leading_current()
    }

    /// For tests: the name of the model that was read last.
    #[must_use]
    pub fn model_name(&self) -> Option<&str> {
        self.model.as_ref().map(|model| model.name.as_str())
    }

    /// For tests: what leads ControlVideo.
    #[must_use]
    pub fn leading_frames(&self) -> Option<&[crate::video::Frame]> {
        self.leading.frames().map(|frames| &**frames)
    }

    /// For tests: the runs.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// For tests: the models.
    #[must_use]
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// For tests: what went wrong.
    pub fn problems(&self) -> impl Iterator<Item = &Report> {
        self.notices.problems.iter()
    }
}

pub(super) fn theme_of(settings: &Settings) -> egui::Theme {
    if settings.dark {
        egui::Theme::Dark
    } else {
        egui::Theme::Light
    }
}

/// Where runs, what is not saved yet and the list of models are kept.
fn data_folder(open: &Open) -> PathBuf {
    open.data.clone().unwrap_or_else(|| {
        let runs = default_runs_dir();
        runs.parent().map_or(runs.clone(), Path::to_owned)
    })
}

/// The words and settings of the first start: what the built-in model does with the bundled clip.
fn first_document(model: Option<PathBuf>) -> Document {
    Document {
        clip: None,
        more_clips: Vec::new(),
        model,
        control: Control::default(),
        subject: super::media::BUNDLED_WORDS.to_owned(),
        prompt: "a yellow star on a blue plain background".to_owned(),
        runs: Vec::new(),
        settings: TransferConfig {
            // The window is for watching: a sample at every quarter of the training.
            preview_every: 10,
            // A built-in model's checkpoint is written in a moment: nothing but the unfinished step is lost when the
            // power goes.
            checkpoint_every: 1,
            ..TransferConfig::default()
        },
    }
}

impl eframe::App for App {
    fn logic(&mut self, ctx: &egui::Context, _frame: &mut eframe::Frame) {
        self.tick(ctx);
    }

    fn ui(&mut self, ui: &mut egui::Ui, _frame: &mut eframe::Frame) {
        self.measure(ui.ctx());
        self.input_ui(ui.ctx());
        let room = Room::of(ui.ctx().content_rect().size());
        if room != self.room {
            self.room = room;
            std::mem::swap(&mut self.tree, &mut self.other_tree);
        }
        let bar = egui::Frame::new()
            .fill(ui.visuals().panel_fill)
            .inner_margin(egui::Margin::symmetric(8, 4));
        egui::Panel::top("bar")
            .frame(bar)
            .show(ui, |ui| panels::bar::bar_ui(self, ui));
        let ground = egui::Frame::new()
            .fill(theme::ground(ui.visuals()))
            .inner_margin(egui::Margin::same(4));
        egui::CentralPanel::default().frame(ground).show(ui, |ui| {
            let mut tree = std::mem::replace(&mut self.tree, Tree::empty(egui::Id::unique("none")));
            let timeline = tree.tiles.find_pane(&Pane::Timeline);
            let mut panes = panels::Panes {
                app: self,
                timeline,
            };
            tree.ui(&mut panes, ui);
            // A command may have asked for another layout while the panes were drawn.
            if self.tree.is_empty() {
                self.tree = tree;
            }
        });
        let ctx = ui.ctx().clone();
        self.dialogs_ui(&ctx);
        panels::drop::hovering_ui(&ctx);
        if self.by_keyboard {
            panels::focus_ui(ui);
        }
        if let Some(action) = self.notices.toasts_ui(&ctx) {
            self.act(action);
        }
        self.settle(&ctx);
    }

    fn save(&mut self, storage: &mut dyn eframe::Storage) {
        if let Ok(text) = serde_json::to_string(&self.settings) {
            storage.set_string(SETTINGS_KEY, text);
        }
        let keys = match self.room {
            Room::Wide => [LAYOUT_KEY, NARROW_KEY],
            Room::Narrow => [NARROW_KEY, LAYOUT_KEY],
        };
        for (key, tree) in keys.into_iter().zip([&self.tree, &self.other_tree]) {
            if let Some(text) = layout::save(tree) {
                storage.set_string(key, text);
            }
        }
    }

    fn on_exit(&mut self) {
        self.autosave.finish(&self.document, &self.saved);
    }

    fn persist_egui_memory(&self) -> bool {
        false
    }

    fn clear_color(&self, visuals: &egui::Visuals) -> [f32; 4] {
        theme::ground(visuals).to_normalized_gamma_f32()
    }
}
