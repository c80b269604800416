//! Writing clips: which format, under which name, and never half a file.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::recipe::{self, FOLDER_RECIPE};
use super::resample::{Filter, Region, enlarge_nearest, resize};
use super::{Clip, Frame, VideoError, gif};

/// What can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// H.264 in MP4, or MPEG-4 where there is no H.264 encoder.
    Mp4,
    /// VP9 in WebM.
    WebM,
    /// Animated GIF with one palette for the whole clip.
    Gif,
    /// A folder of PNG files, `frame-0001.png` and on.
    Png,
}

impl ExportFormat {
    /// The format that a name asks for: by its ending; a name without an ending, or a folder, means PNG files.
    ///
    /// # Errors
    /// `UnknownFormat` for any other ending.
    pub fn from_path(path: &Path) -> Result<Self, VideoError> {
        if path.is_dir() {
            return Ok(Self::Png);
        }
        let Some(ending) = path.extension() else {
            return Ok(Self::Png);
        };
        match ending.to_string_lossy().to_ascii_lowercase().as_str() {
            "mp4" | "m4v" => Ok(Self::Mp4),
            "webm" => Ok(Self::WebM),
            "gif" => Ok(Self::Gif),
            _ => Err(VideoError::UnknownFormat { path: path.into() }),
        }
    }
}

/// How pixels are made larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upscale {
    /// Squares: shows exactly what the model painted.
    Nearest,
    /// Bicubic: pleasant to watch.
    #[default]
    Smooth,
}

/// Enlargement of small frames by a whole factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScaleTo {
    /// The shorter side is brought to at least this many pixels.
    pub min_side: u32,
    /// How.
    pub upscale: Upscale,
}

/// How a clip is written.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportOptions {
    /// Rate in frames per second; `None` takes the clip's.
    pub fps: Option<f64>,
    /// 0 (small) to 100 (best). GIF and PNG do not use it.
    pub quality: u8,
    /// Enlargement of small frames; `None` writes them as they are.
    pub scale_to: Option<ScaleTo>,
    /// The recipe of the run, a JSON object of at most [`super::MAX_RECIPE_BYTES`].
    pub recipe: Option<String>,
    /// Whether an existing file, or an existing folder that holds nothing but such an export, may be replaced.
    pub overwrite: bool,
    /// FFmpeg's name of an encoder to try before the usual ones (such as `h264_nvenc`).
    pub encoder: Option<String>,
}

impl Default for ExportOptions {
    fn default() -> Self {
        Self {
            fps: None,
            quality: 80,
            scale_to: Some(ScaleTo {
                min_side: 256,
                upscale: Upscale::Smooth,
            }),
            recipe: None,
            overwrite: false,
            encoder: None,
        }
    }
}

/// Where the recipe went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipePlace {
    /// There was none to write.
    Nowhere,
    /// Inside the file, as its comment.
    Metadata,
    /// In a file of its own.
    File(PathBuf),
}

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportReport {
    /// Where the recipe went.
    pub recipe_in: RecipePlace,
    /// Frames written.
    pub frames: usize,
    /// Width of the written frames, in pixels.
    pub width: u32,
    /// Height of the written frames, in pixels.
    pub height: u32,
    /// FFmpeg's name of the encoder, or the picture format.
    pub encoder: String,
    /// What a viewer should know, in plain words: enlarged, padded, another codec.
    pub notes: Vec<String>,
}

/// Slowest and fastest rate written, in frames per second.
pub const FPS_RANGE: std::ops::RangeInclusive<f64> = 0.1..=240.0;
/// Largest side written, in pixels: H.264's highest level ends near 8192.
const MAX_SIDE: u32 = 8192;

/// The parts every writer needs.
pub(super) struct Job<'a> {
    pub(super) frames: &'a [Frame],
    pub(super) fps: f64,
    /// Size of the written frames, in pixels.
    pub(super) size: (u32, u32),
    pub(super) options: &'a ExportOptions,
    /// Final name, for messages.
    pub(super) path: &'a Path,
    factor: u32,
}

impl Job<'_> {
    /// The `index`-th frame at the size to be written.
    pub(super) fn frame(&self, index: usize) -> Frame {
        let frame = &self.frames[index];
        let (width, height) = self.size;
        match self.options.scale_to {
            _ if (frame.width, frame.height) == self.size => frame.clone(),
            Some(scale) if scale.upscale == Upscale::Nearest && self.factor > 1 => {
                let large = enlarge_nearest(frame, self.factor);
                resize(&large, Region::of(&large), width, height, Filter::Triangle)
            }
            _ => resize(frame, Region::of(frame), width, height, Filter::Bicubic),
        }
    }

    pub(super) fn failed(&self, error: impl std::fmt::Display) -> VideoError {
        VideoError::Encode {
            path: self.path.into(),
            detail: error.to_string(),
        }
    }
}

/// What a writer did.
pub(super) struct Written {
    pub(super) encoder: String,
    pub(super) notes: Vec<String>,
}

/// Tells the caller how far it is and hears whether to stop: frames done, frames in all.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// Reports progress, turning a wish to stop into the error that unwinds the export.
pub(super) fn report(progress: Progress, done: usize, total: usize) -> Result<(), VideoError> {
    match progress(done, total) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(VideoError::Cancelled),
    }
}

/// Writes a clip.
///
/// The file is written under a temporary name beside the target and renamed when it is complete, so that neither an
/// error nor a cancel leaves half a file. `progress` hears frames done and frames in all; breaking cancels.
///
/// # Errors
/// `TargetExists`, `BadClip`, `BadSetting`, `EncoderMissing`, `Encode`, `Cancelled`, `NoVideoSupport` for MP4 and WebM
/// in a build without FFmpeg, and what the file system says.
pub fn export(
    clip: &Clip,
    path: &Path,
    format: ExportFormat,
    options: &ExportOptions,
    progress: Progress,
) -> Result<ExportReport, VideoError> {
    super::init();
    let job = plan(clip, path, options)?;
    if exists(path) && (!options.overwrite || is_other_sort(path, format)) {
        return Err(VideoError::TargetExists { path: path.into() });
    }
    let mut temporary = Temporary::new(path)?;
    let written = match format {
        ExportFormat::Png => write_pngs(&job, &temporary, progress)?,
        ExportFormat::Gif => {
            let file = temporary.create()?;
            gif::write(&job, file, progress)?
        }
        ExportFormat::Mp4 | ExportFormat::WebM => {
            write_film(&job, &mut temporary, format, progress)?
        }
    };
    temporary.become_target(options.overwrite)?;
    let mut notes = written.notes;
    if job.factor > 1 {
        notes.insert(0, format!("Enlarged {} times for watching.", job.factor));
    }
    Ok(ExportReport {
        recipe_in: match (&options.recipe, format) {
            (None, _) => RecipePlace::Nowhere,
            (Some(_), ExportFormat::Png) => RecipePlace::File(path.join(FOLDER_RECIPE)),
            (Some(_), _) => RecipePlace::Metadata,
        },
        frames: job.frames.len(),
        width: job.size.0,
        height: job.size.1,
        encoder: written.encoder,
        notes,
    })
}

#[cfg(feature = "video")]
fn write_film(
    job: &Job,
    temporary: &mut Temporary,
    format: ExportFormat,
    progress: Progress,
) -> Result<Written, VideoError> {
    let container = match format {
        ExportFormat::WebM => super::encode::Container::WebM,
        _ => super::encode::Container::Mp4,
    };
    let file = temporary.create()?;
    super::encode::write(job, file, container, progress)
}

#[cfg(not(feature = "video"))]
fn write_film(
    job: &Job,
    _temporary: &mut Temporary,
    _format: ExportFormat,
    _progress: Progress,
) -> Result<Written, VideoError> {
    Err(VideoError::NoVideoSupport {
        path: job.path.into(),
    })
}

/// Checks, without writing anything that stays, that a film can go to a path.
///
/// # Errors
/// `UnknownFormat`, `NoVideoSupport`, `TargetExists`, `NotFound` for its folder, or why nothing can be written there.
pub fn check_target(path: &Path, overwrite: bool) -> Result<(), VideoError> {
    let format = ExportFormat::from_path(path)?;
    if !cfg!(feature = "video") && matches!(format, ExportFormat::Mp4 | ExportFormat::WebM) {
        return Err(VideoError::NoVideoSupport { path: path.into() });
    }
    if exists(path) {
        if !overwrite || is_other_sort(path, format) {
            return Err(VideoError::TargetExists { path: path.into() });
        }
        if path.is_dir() {
            check_old_export(path)?;
        }
    }
    check_place(path)
}

/// Checks that a file can be made at a path, by making one under another name.
///
/// # Errors
/// `NotFound` for its folder, or why not.
pub fn check_place(path: &Path) -> Result<(), VideoError> {
    Temporary::new(path)?.create().map(drop)
}

/// Checks the clip and the options and settles the size.
fn plan<'a>(
    clip: &'a Clip,
    path: &'a Path,
    options: &'a ExportOptions,
) -> Result<Job<'a>, VideoError> {
    let broken = |detail: &str| VideoError::BadClip {
        name: clip.source_name.clone(),
        detail: detail.into(),
    };
    let first = clip
        .frames
        .first()
        .ok_or_else(|| broken("it has no frames"))?;
    if !clip.frames.iter().all(Frame::is_valid) {
        return Err(broken("the bytes of a frame do not match its size"));
    }
    let fps = options.fps.unwrap_or(clip.fps);
    if !FPS_RANGE.contains(&fps) {
        return Err(VideoError::BadSetting {
            what: format!("the rate is {fps} frames per second"),
            want: "0.1 to 240 frames per second".into(),
        });
    }
    if let Some(text) = &options.recipe {
        recipe::check(text, path)?;
    }
    let short_side = first.width.min(first.height);
    let factor = options
        .scale_to
        .map_or(1, |scale| scale.min_side.div_ceil(short_side).max(1));
    let sides = [first.width, first.height].map(|side| u64::from(side) * u64::from(factor));
    if sides.iter().any(|&side| side > u64::from(MAX_SIDE)) {
        return Err(VideoError::BadSetting {
            what: format!("the frames would be {}x{} pixels", sides[0], sides[1]),
            want: format!("sides of at most {MAX_SIDE} pixels"),
        });
    }
    Ok(Job {
        frames: &clip.frames,
        fps,
        size: (first.width * factor, first.height * factor),
        options,
        path,
        factor,
    })
}

/// A folder never takes the place of a file, nor a file that of a folder.
fn is_other_sort(path: &Path, format: ExportFormat) -> bool {
    path.is_dir() != (format == ExportFormat::Png)
}

/// Whether something is at the path, be it a broken link.
fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// A free name beside a target, `.NAME.part-PROCESS-COUNT`. Two exports of one process, even to one target, share none, and a
/// killed program of the same number may have left one.
fn hidden_name(target: &Path, name: &OsStr) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let mut hidden = OsString::from(".");
        hidden.push(name);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        hidden.push(format!(".part-{}-{count}", std::process::id()));
        let path = target.with_file_name(hidden);
        if !exists(&path) {
            return path;
        }
    }
}

/// A file or folder under a temporary name, removed unless it became the target.
struct Temporary {
    path: PathBuf,
    target: PathBuf,
    /// Kept to make sure that the bytes are on the disk before the name is.
    file: Option<File>,
    done: bool,
}

impl Temporary {
    fn new(target: &Path) -> Result<Self, VideoError> {
        let Some(name) = target.file_name() else {
            return Err(VideoError::UnknownFormat {
                path: target.into(),
            });
        };
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|p| !p.is_dir()) {
            return Err(VideoError::NotFound {
                path: folder.into(),
            });
        }
        Ok(Self {
            path: hidden_name(target, name),
            target: target.into(),
            file: None,
            done: false,
        })
    }

    fn create(&mut self) -> Result<File, VideoError> {
        let fail = |e| VideoError::from_io("create", &self.target, e);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&self.path)
            .map_err(fail)?;
        self.file = Some(file.try_clone().map_err(fail)?);
        Ok(file)
    }

    fn become_target(&mut self, overwrite: bool) -> Result<(), VideoError> {
        let target = &self.target;
        if let Some(file) = self.file.take() {
            file.sync_all()
                .map_err(|e| VideoError::from_io("write", target, e))?;
        }
        // Asked again, since the encoding took a while.
        if !overwrite && exists(target) {
            return Err(VideoError::TargetExists {
                path: target.into(),
            });
        }
        let fail = |e| VideoError::from_io("write", target, e);
        if target.is_dir() {
            check_old_export(target)?;
            // Both stay until the new one has the name.
            let aside = hidden_name(target, target.file_name().unwrap_or_default());
            fs::rename(target, &aside).map_err(fail)?;
            if let Err(error) = fs::rename(&self.path, target) {
                fs::rename(&aside, target).map_err(fail)?;
                return Err(fail(error));
            }
            // Frames that cannot be removed are in nobody's way.
            fs::remove_dir_all(&aside).ok();
        } else {
            fs::rename(&self.path, target).map_err(fail)?;
        }
        self.done = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.done {
            // Closed first: an open file cannot be removed on Windows. What fails here was never created.
            self.file = None;
            let _ = fs::remove_file(&self.path).or_else(|_| fs::remove_dir_all(&self.path));
        }
    }
}

/// Refuses a folder that holds anything but an earlier export.
fn check_old_export(folder: &Path) -> Result<(), VideoError> {
    let fail = |e| VideoError::from_io("read the folder", folder, e);
    for entry in fs::read_dir(folder).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        let name = name.to_string_lossy();
        let is_frame = name.starts_with("frame-") && name.ends_with(".png");
        if !is_frame && name != FOLDER_RECIPE {
            return Err(VideoError::TargetExists {
                path: folder.join(name.as_ref()),
            });
        }
    }
    Ok(())
}

fn write_pngs(job: &Job, temporary: &Temporary, progress: Progress) -> Result<Written, VideoError> {
    let folder = &temporary.path;
    let fail = |e| VideoError::from_io("create", job.path, e);
    fs::create_dir(folder).map_err(fail)?;
    let total = job.frames.len();
    let digits = total.to_string().len().max(4);
    for index in 0..total {
        report(progress, index, total)?;
        let frame = job.frame(index);
        let path = folder.join(format!("frame-{:0digits$}.png", index + 1));
        let file = File::create(&path).map_err(fail)?;
        let mut writer = BufWriter::new(file);
        PngEncoder::new(&mut writer)
            .write_image(
                &frame.rgb,
                frame.width,
                frame.height,
                ExtendedColorType::Rgb8,
            )
            .map_err(|e| job.failed(e))?;
        writer.flush().map_err(|e| job.failed(e))?;
    }
    if let Some(text) = &job.options.recipe {
        let path = folder.join(FOLDER_RECIPE);
        fs::write(&path, text).map_err(fail)?;
    }
    report(progress, total, total)?;
    Ok(Written {
        encoder: "png".into(),
        notes: Vec::new(),
    })
}
