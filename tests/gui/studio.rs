//! The window under test: the real engine on the micro model, driven by the names that a screen reader hears.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use eframe::egui::{self, Key, Modifiers};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use spectral_motion::gui::{App, Document, Open, Run};
use spectral_motion::library::{Cache, Hub};
use spectral_motion::project::{Control, Project};
use spectral_motion::train::TransferConfig;

use crate::common::micro_model;

/// Far longer than anything takes; machines that build at the same time are slow.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// A file that is let go over the window.
#[derive(Debug)]
struct Held(PathBuf);

impl egui::DroppedFile for Held {
    fn path(&self) -> &Path {
        &self.0
    }

    fn bytes(&self) -> Result<Vec<u8>, String> {
        fs::read(&self.0).map_err(|error| error.to_string())
    }
}

pub struct Studio {
    pub harness: Harness<'static, App>,
    pub folder: tempfile::TempDir,
}

impl Studio {
    /// The window on an empty data folder, with settings that train the micro model until somebody stops it.
    pub fn new() -> Self {
        Self::with(steps_without_end(), [1280.0, 800.0])
    }

    /// The window with other settings, of another size.
    pub fn with(settings: TransferConfig, size: [f32; 2]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("start.toml");
        document(settings).write(&project).unwrap();
        let open = open_in(Some(project), folder.path());
        Self {
            harness: window(&open, size),
            folder,
        }
    }

    /// The window with models from this hub.
    #[cfg(feature = "hub")]
    pub fn with_hub(hub: Hub) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let project = folder.path().join("start.toml");
        document(steps_without_end()).write(&project).unwrap();
        let open = Open {
            hub: Some(hub),
            ..open_in(Some(project), folder.path())
        };
        Self {
            harness: window(&open, [1280.0, 800.0]),
            folder,
        }
    }

    /// The window is gone, and another one opens.
    pub fn reopen(old: Self, path: Option<PathBuf>, data: PathBuf) -> Self {
        let Self { harness, folder } = old;
        drop(harness);
        let open = Open {
            data: Some(data),
            ..open_in(path, folder.path())
        };
        Self {
            harness: window(&open, [1280.0, 800.0]),
            folder,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn app(&self) -> &App {
        self.harness.state()
    }

    #[track_caller]
    pub fn run(&self) -> &Run {
        self.app().queue().current().expect("a run")
    }

    /// Draws frames until the window is as wanted.
    #[track_caller]
    pub fn step_until(&mut self, what: &str, wanted: impl Fn(&App) -> bool) {
        let begun = Instant::now();
        while !wanted(self.app()) {
            let problems: Vec<_> = self.app().problems().collect();
            assert!(
                begun.elapsed() < PATIENCE,
                "no {what} for too long; problems: {problems:#?}"
            );
            self.harness.step();
            std::thread::sleep(Duration::from_millis(5));
        }
        // What has just arrived is drawn, and can be found by its name.
        self.harness.run_steps(3);
    }

    /// Opens a clip of a moving square by dropping it, and waits until the model's cut of it is there.
    pub fn drop_square(&mut self, frames: u32) -> PathBuf {
        self.step_until("first clip", App::is_ready);
        let clip = crate::common::moving_square(self.folder.path(), frames);
        self.drop_file(clip.clone());
        let wanted = clip.clone();
        self.step_until("dropped clip", move |app| {
            app.is_ready() && app.document().clip.as_deref() == Some(&wanted)
        });
        clip
    }

    pub fn drop_file(&mut self, path: PathBuf) {
        let file: egui::DroppedFileHandle = Arc::new(Held(path));
        self.harness.input_mut().dropped_files.push(file);
        self.harness.step();
    }

    /// Lets files go with Shift held.
    pub fn drop_to_join(&mut self, paths: &[&Path]) {
        let files = paths
            .iter()
            .map(|path| -> egui::DroppedFileHandle { Arc::new(Held(path.to_path_buf())) });
        let input = self.harness.input_mut();
        let held = egui::Event::ModifiersChanged(Modifiers::SHIFT);
        input.events.push(held);
        input.dropped_files.extend(files);
        self.harness.step();
        let released = egui::Event::ModifiersChanged(Modifiers::NONE);
        self.harness.input_mut().events.push(released);
        self.harness.step();
    }

    pub fn more_clips(&self) -> Vec<&Path> {
        let clips = self.app().document().more_clips.iter();
        clips.map(|clip| clip.path.as_path()).collect()
    }

    /// Whether something of the window has a name with this in it, or says it.
    pub fn shows(&self, part: &str) -> bool {
        self.harness.root().children_recursive().any(|node| {
            let node = node.accesskit_node();
            let has = |text: Option<String>| text.is_some_and(|text| text.contains(part));
            has(node.label()) || has(node.value())
        })
    }

    /// Draws frames until the window shows this.
    #[track_caller]
    pub fn see(&mut self, part: &str) {
        let begun = Instant::now();
        while !self.shows(part) {
            assert!(begun.elapsed() < PATIENCE, "nothing says {part:?}");
            self.harness.step();
            std::thread::sleep(Duration::from_millis(5));
        }
        // A toast lies where the size of the frame before put it: what has just arrived is not yet where it stays.
        self.harness.run_steps(3);
    }

    #[track_caller]
    pub fn click(&mut self, name: &str) {
        self.harness
            .get_by_role_and_label(egui::Role::Button, name)
            .click();
        self.harness.run_steps(3);
    }

    /// Chooses an entry of a list.
    #[track_caller]
    pub fn choose(&mut self, list: &str, entry: &str) {
        self.harness
            .get_by_role_and_label(egui::Role::ComboBox, list)
            .click();
        self.harness.run_steps(3);
        let option = self.harness.get_all_by_label(entry).next_back();
        option.expect("an option").click();
        self.harness.run_steps(3);
    }

    /// Unfolds rows of the panel.
    #[track_caller]
    pub fn unfold(&mut self, name: &str) {
        self.harness
            .get_by_role_and_label(egui::Role::DisclosureTriangle, name)
            .click();
        self.harness.run_steps(3);
    }

    pub fn press(&mut self, modifiers: Modifiers, key: Key) {
        self.harness.key_press_modifiers(modifiers, key);
        self.harness.run_steps(3);
    }

    pub fn type_into(&mut self, field: &str, text: &str) {
        let is_field = |node: &egui_kittest::Node<'_>| {
            let role = node.accesskit_node().role();
            matches!(role, egui::Role::TextInput | egui::Role::MultilineTextInput)
        };
        let found = self.harness.query_all_by_label(field).find(is_field);
        let found = found.expect("a field of that name");
        found.set_text_value_accesskit(text);
        self.harness.run_steps(3);
    }

    pub fn type_path(&mut self, path: &Path) {
        self.type_into("Path", &path.display().to_string());
    }

    /// The desktop asks the window to close; what the window answers.
    pub fn ask_to_close(&mut self) -> Vec<egui::ViewportCommand> {
        let viewports = &mut self.harness.input_mut().viewports;
        let root = viewports.entry(egui::ViewportId::ROOT).or_default();
        root.events.push(egui::ViewportEvent::Close);
        self.harness.step();
        let commands = self.commands();
        self.harness.run_steps(3);
        commands
    }

    /// Draws frames until the window closes.
    #[track_caller]
    pub fn wait_for_close(&mut self) {
        let begun = Instant::now();
        while !self.commands().contains(&egui::ViewportCommand::Close) {
            assert!(begun.elapsed() < PATIENCE, "the window stays open");
            self.harness.step();
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the window asked of the desktop in the last frame.
    pub fn commands(&self) -> Vec<egui::ViewportCommand> {
        let output = &self.harness.output().viewport_output;
        let root = output.get(&egui::ViewportId::ROOT);
        root.map(|root| root.commands.clone()).unwrap_or_default()
    }

    /// Trains until a step is done.
    #[track_caller]
    pub fn train(&mut self) {
        self.click("Train");
        self.step_until("training step", |app| {
            app.queue().current().is_some_and(|run| run.step() > 0)
        });
    }

    #[track_caller]
    pub fn wait_for_end(&mut self) {
        self.step_until("end of the run", |app| {
            !app.queue().is_going() && app.queue().current().is_some_and(|run| !run.is_going())
        });
    }
}

/// What a window opens with that keeps everything in a folder: no model of whoever runs the tests, and no hub.
fn open_in(path: Option<PathBuf>, folder: &Path) -> Open {
    let mut nowhere = Hub::new("http://127.0.0.1:1");
    nowhere.offline = true;
    Open {
        path,
        data: Some(folder.join("data")),
        cache: Some(Cache::new(folder.join("hub"))),
        hub: Some(nowhere),
        ..Open::default()
    }
}

fn window(open: &Open, size: [f32; 2]) -> Harness<'static, App> {
    Harness::builder()
        .with_size(egui::Vec2::from(size))
        .build_eframe(|cc| App::new(cc, open))
}

pub fn steps_without_end() -> TransferConfig {
    TransferConfig {
        steps: 1_000_000,
        frames: Some(4),
        sampling_steps: Some(2),
        preview_every: 0,
        checkpoint_every: 0,
        ..TransferConfig::default()
    }
}

pub fn document(settings: TransferConfig) -> Document {
    Project {
        clip: None,
        more_clips: Vec::new(),
        model: Some(micro_model()),
        control: Control::default(),
        subject: "a red square".to_owned(),
        prompt: "a bear".to_owned(),
        runs: Vec::new(),
        settings,
    }
}
