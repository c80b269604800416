//! Clips and models off the interface's thread: what is opened, how it is cut for the model, its filmstrip.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use eframe::egui::{self, ColorImage};

use super::past::{self, Past};
use crate::job::{Halt, WeightsAbout, fit_clip, fit_for};
use crate::methods::Method;
use crate::models::{
    self, ClipLimits, DepthAnything, ModelCard, ModelError, ModelFolder, ModelKind,
};
use crate::project::{Project, Recipe, RunFolder};
use crate::report::{Area, Report};
use crate::train::TransferConfig;
use crate::train::memory::Network;
use crate::video::{self, Clip, Fitted, Frame, Limits, VideoError};

/// The clip that comes with the program.
const BUNDLED: &[u8] = include_bytes!("../../assets/sample/red-circle.mp4");
/// Its name.
pub const BUNDLED_NAME: &str = "red-circle.mp4";
/// What it shows.
pub const BUNDLED_WORDS: &str = "a red circle";
/// Height of a filmstrip picture in pixels, for sharp screens.
const THUMB_HEIGHT: u32 = 96;
/// Pictures of a filmstrip at most.
const THUMBS: usize = 48;

/// A film in memory, with what the window draws of it.
#[derive(Debug)]
pub struct Loaded {
    /// Where it is on disk; the job reads it from there.
    pub path: PathBuf,
    /// Its frames.
    pub clip: Clip,
    /// Small pictures along its length.
    pub thumbs: Vec<ColorImage>,
    /// The recipe inside it, when it is an export.
    pub recipe: Option<Box<Recipe<TransferConfig>>>,
}

/// What was behind a path.
#[derive(Debug)]
pub enum Opened {
    /// A film, a GIF, pictures.
    Clip(Box<Loaded>),
    /// A run folder.
    Run(Box<Past>),
    /// A folder with a model in diffusers' layout.
    Model(PathBuf),
    /// A folder with a model that estimates depth.
    Depth(PathBuf),
    /// A file of trained weights, and what it says of itself.
    Weights(PathBuf, Option<Box<WeightsAbout>>),
    /// A project file.
    Project(PathBuf, Box<Project<TransferConfig>>),
}

/// What the window knows of a model.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The choice that it was read for.
    pub choice: ModelChoice,
    /// What to call it.
    pub name: String,
    /// What a clip must look like.
    pub limits: ClipLimits,
    /// What it recommends.
    pub card: ModelCard,
    /// What it makes of words.
    pub kind: ModelKind,
    /// Whether it has a ControlNet, in its folder or beside it.
    pub has_controlnet: bool,
    /// What decides how much memory a training takes.
    pub network: Arc<Network>,
}

impl ModelInfo {
    /// Whether a method begins with a model of this kind.
    #[must_use]
    pub fn allows(&self, method: Method) -> bool {
        method.model_kind() == self.kind
    }
}

/// Which model is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelChoice {
    /// The built-in one of this kind.
    Builtin(ModelKind),
    /// The one in this folder, with the ControlNet in another one.
    Folder(PathBuf, Option<PathBuf>),
}

/// The clip as the model sees it.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Fitted frames.
    pub frames: Arc<[Frame]>,
    /// Their rate.
    pub fps: f64,
    /// What was cropped, looped or resampled.
    pub notes: Vec<String>,
}

/// Finds out what is behind a path and reads it.
///
/// # Errors
/// A report in the user's words.
pub fn open(path: &Path, stop: &AtomicBool) -> Result<Opened, Report> {
    if RunFolder::is_run(path) {
        return past::read(path, stop).map(|past| Opened::Run(Box::new(past)));
    }
    let ends_with = |wanted: &str| {
        path.is_file()
            && path
                .extension()
                .is_some_and(|ending| ending.eq_ignore_ascii_case(wanted))
    };
    // Before models: of those, a single file is a part.
    if ends_with("safetensors") {
        let about = WeightsAbout::of_file(path).map_err(report)?;
        return Ok(Opened::Weights(path.to_owned(), about.map(Box::new)));
    }
    // What cloneofsimo and MotionDirector write; another one is a part of a model.
    if ends_with("pt")
        && let Ok(about) = WeightsAbout::of_file(path)
    {
        return Ok(Opened::Weights(path.to_owned(), about.map(Box::new)));
    }
    if DepthAnything::is_folder(path) {
        DepthAnything::check(path).map_err(|error| report(error.into()))?;
        return Ok(Opened::Depth(path.to_owned()));
    }
    if ModelFolder::is_meant(path) {
        // Read now, so that what is wrong with it is told before it takes the place of one that works.
        model(&ModelChoice::Folder(path.to_owned(), None))?;
        return Ok(Opened::Model(path.to_owned()));
    }
    if ends_with("toml") {
        let project = Project::read(path).map_err(|error| report(error.into()))?;
        return Ok(Opened::Project(path.to_owned(), Box::new(project)));
    }
    load(path, stop).map(|loaded| Opened::Clip(Box::new(loaded)))
}

/// Reads a film.
///
/// # Errors
/// A report in the user's words.
pub fn load(path: &Path, stop: &AtomicBool) -> Result<Loaded, Report> {
    let told = |error: VideoError| report(error.into());
    // Jobs may run in another folder than the one a relative name was typed in.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let cancel = || stop.load(Ordering::Relaxed);
    let clip = video::load(&path, &Limits::default(), &cancel).map_err(told)?;
    if clip.frames.len() < 2 {
        return Err(still_picture(&clip.source_name));
    }
    // A stranger's text: what cannot be understood is no recipe.
    let recipe = video::read_recipe(&path)
        .ok()
        .flatten()
        .and_then(|text| serde_json::from_str(&text).ok());
    Ok(Loaded {
        thumbs: thumbnails(&clip),
        path,
        clip,
        recipe,
    })
}

/// Whether a path leads to a clip, without reading all of it; gives the path as a job can use it.
///
/// # Errors
/// A report in the user's words.
pub fn look_at_clip(path: &Path) -> Result<PathBuf, Report> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let info = video::probe(&path).map_err(|error| report(error.into()))?;
    if info.frames.is_some_and(|frames| frames < 2) {
        return Err(still_picture(
            &path.file_name().unwrap_or_default().to_string_lossy(),
        ));
    }
    Ok(path)
}

fn still_picture(name: &str) -> Report {
    Report::new(Area::Clip, format!("{name} is a still picture"))
        .because("Motion needs at least two frames.")
        .advise("Open a film, a GIF or a folder of pictures.")
}

/// Puts the clip that comes with the program where a job can read it.
///
/// # Errors
/// When the folder cannot be written.
pub fn bundled_clip(data: &Path) -> Result<PathBuf, Report> {
    let path = data.join("sample").join(BUNDLED_NAME);
    if fs::read(&path).is_ok_and(|bytes| bytes == BUNDLED) {
        return Ok(path);
    }
    let written = fs::create_dir_all(data.join("sample")).and_then(|()| fs::write(&path, BUNDLED));
    match written {
        Ok(()) => Ok(path),
        Err(error) => Err(Report::new(
            Area::Run,
            format!("The sample clip cannot be put into {}", data.display()),
        )
        .because_of(&error)
        .advise("Open a clip of your own, or make the folder writable.")),
    }
}

/// Reads what a model says about itself.
///
/// # Errors
/// A report in the user's words.
pub fn model(choice: &ModelChoice) -> Result<ModelInfo, Report> {
    let told = |error: ModelError| report(error.into());
    let folder = match choice {
        ModelChoice::Builtin(kind) => models::builtin_of(*kind).map_err(told)?,
        ModelChoice::Folder(path, controlnet) => {
            let mut folder = ModelFolder::open(path).map_err(told)?;
            if let Some(controlnet) = controlnet {
                folder = folder.with_controlnet(controlnet).map_err(told)?;
            }
            folder.check_weights().map_err(told)?;
            folder
        }
    };
    Ok(ModelInfo {
        choice: choice.clone(),
        name: folder.name(),
        limits: folder.clip_limits(),
        card: folder.card().clone(),
        kind: folder.kind(),
        has_controlnet: folder.controlnet_config().is_some(),
        network: Arc::new(Network::of(&folder).map_err(told)?),
    })
}

/// Cuts a clip as a job would.
///
/// # Errors
/// A report in the user's words.
pub fn cut(clip: &Clip, config: &TransferConfig, limits: &ClipLimits) -> Result<Cut, Report> {
    let fit = fit_for(config, limits).map_err(report)?;
    let Fitted {
        clip: fitted,
        notes,
    } = fit_clip(clip, &fit).map_err(report)?;
    Ok(Cut {
        frames: fitted.frames.into(),
        fps: fitted.fps,
        notes,
    })
}

/// The words of an error; a stop has none worth showing.
#[must_use]
pub fn report(halt: Halt) -> Report {
    match halt {
        Halt::Failed(report) => report,
        Halt::Stopped => Report::new(Area::Run, "It was cancelled"),
    }
}

/// Pictures spread evenly over the frames, so that the strip runs along the time axis.
fn thumbnails(clip: &Clip) -> Vec<ColorImage> {
    let count = clip.frames.len().min(THUMBS);
    (0..count)
        .filter_map(|index| clip.frames.get(index * clip.frames.len() / count))
        .map(|frame| {
            let width = (frame.width * THUMB_HEIGHT).div_ceil(frame.height.max(1));
            let small = video::resample::resize(
                frame,
                video::resample::Region::of(frame),
                width.clamp(1, THUMB_HEIGHT * 4),
                THUMB_HEIGHT,
                video::resample::Filter::Triangle,
            );
            image_of(&small)
        })
        .collect()
}

/// A frame as egui draws it.
#[must_use]
pub fn image_of(frame: &Frame) -> ColorImage {
    ColorImage::from_rgb([frame.width as usize, frame.height as usize], &frame.rgb)
}

/// Uploads a frame into a texture, reusing the one that is there. Small frames keep hard pixels when enlarged: they are
/// what the model painted.
pub fn show_frame(
    ctx: &egui::Context,
    slot: &mut Option<egui::TextureHandle>,
    name: &str,
    frame: &Frame,
) -> egui::TextureId {
    let options = egui::TextureOptions::LINEAR;
    let image = image_of(frame);
    match slot {
        Some(texture) => {
            texture.set(image, options);
            texture.id()
        }
        None => slot.insert(ctx.load_texture(name, image, options)).id(),
    }
}
