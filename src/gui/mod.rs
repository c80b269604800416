//! The window: an eframe application over the same jobs and events as the command line. It owns no training logic.
//!
//! [`App`]'s `tick` takes the results of background work (`task`) and moves the playhead; the panes only draw and ask for
//! commands ([`command`]). Whatever takes longer than a millisecond or two has a thread of its own.

mod app;
mod autosave;
mod clips;
mod closing;
pub mod command;
mod compare;
mod dialogs;
mod estimate;
mod export;
pub mod history;
pub mod instruments;
mod latents;
mod layout;
mod leading;
mod library;
mod logic;
mod measure;
mod media;
mod model;
mod notices;
mod panels;
mod past;
mod player;
mod projects;
mod queue;
mod run;
mod sample;
mod scoring;
mod shortcuts;
mod task;
mod theme;
mod weights;

use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use eframe::wgpu::DeviceType;
use eframe::{egui, egui_wgpu};

pub use app::{App, Document, Settings};
pub use library::Shelf;
pub use queue::Queue;
pub use run::Run;
pub use sample::Sample;

use crate::job;
use crate::library::{Cache, Hub};
use crate::report::{Area, Report};

/// Size of the window at its first start, in points.
const FIRST_SIZE: [f32; 2] = [1280.0, 800.0];
/// Smallest size, in points: a screen of 1280×800 pixels at a scale of 200 %. Panes scroll there.
const SMALLEST: [f32; 2] = [640.0, 400.0];

/// What the window opens with.
#[derive(Clone, Debug, Default)]
pub struct Open {
    /// A clip, a run folder, a project or an exported film; none opens the clip that comes with the program.
    pub path: Option<PathBuf>,
    /// Model folder; none is the built-in model.
    pub model: Option<PathBuf>,
    /// Folder for runs and the autosaved project; none is the platform's place for a program's data.
    pub data: Option<PathBuf>,
    /// Train, take the time of the frames, print it and close.
    pub measure: bool,
    /// Where models are downloaded to; none is the cache that all programs for the hub share.
    pub cache: Option<Cache>,
    /// Where they come from; none is what the environment says.
    pub hub: Option<Hub>,
}

/// Whether there is a screen to draw on.
#[must_use]
pub fn has_display() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    !cfg!(all(unix, not(target_os = "macos"))) || set("DISPLAY") || set("WAYLAND_DISPLAY")
}

/// Opens the window and returns when it is closed.
///
/// # Errors
/// When there is no screen, or no way to draw on it.
pub fn open(options: Open) -> Result<(), Report> {
    if !has_display() {
        return Err(
            Report::new(Area::Request, "There is no screen for the window")
                .because("Neither DISPLAY nor WAYLAND_DISPLAY is set.")
                .advise("Use `spectral-motion transfer` for work without a window."),
        );
    }
    let begun = Instant::now();
    task::give_way();
    let native = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default()
            .with_title("Spectral Motion Studio")
            .with_app_id("spectral-motion")
            .with_inner_size(FIRST_SIZE)
            .with_min_inner_size(SMALLEST)
            .with_drag_and_drop(true),
        ..eframe::NativeOptions::default()
    };
    let made = eframe::run_native(
        "spectral-motion",
        native,
        Box::new(move |cc| {
            let drawn_by_processor = share_processor(cc.wgpu_render_state.as_ref());
            let mut app = App::new(cc, &options);
            app.drawn_by_processor = drawn_by_processor;
            if options.measure {
                app.measure_from(begun);
            }
            Ok(Box::new(app))
        }),
    );
    made.map_err(|error| {
        Report::new(Area::Run, "The window could not be opened")
            .because(error.to_string())
            .advise("Install a Vulkan driver (for a computer without a graphics card: Mesa's lavapipe), or use `spectral-motion transfer`.")
    })
}

/// Settles how many threads compute. Where the processor also draws the window, one core is left for that; the threads
/// give way to the window in any case. Says whether the processor draws.
fn share_processor(gpu: Option<&egui_wgpu::RenderState>) -> bool {
    let drawn_by_processor =
        gpu.is_none_or(|gpu| gpu.adapter.get_info().device_type == DeviceType::Cpu);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = if drawn_by_processor {
        cores.saturating_sub(1).max(1)
    } else {
        cores
    };
    // The pool's threads inherit the priority of the thread that makes them.
    let made = thread::Builder::new()
        .name("thread pool".to_owned())
        .spawn(move || {
            task::lower_priority();
            job::set_threads(threads)
        });
    if let Ok(made) = made {
        // Without it the pool makes itself at the first job, with a thread for each core.
        made.join().ok();
    }
    drawn_by_processor
}
