//! Films in, films out: the only room that speaks to FFmpeg.
//!
//! [`load`] reads any film FFmpeg can decode, a folder of pictures, an animated or a still picture into a [`Clip`];
//! [`fit()`] cuts a clip to the frame count, size and rate a model accepts; [`export()`] writes MP4, WebM, GIF or a folder
//! of PNG files and puts the recipe of the run inside; [`read_recipe`] takes it out again.
//!
//! A file is treated as a stranger's. It is opened here, as a plain file, and handed to FFmpeg as bytes: no path or
//! address ever reaches FFmpeg, its own protocols are switched off, playlists and scripts are refused, and sizes are
//! checked before memory is taken ([`Limits`]). Pictures and GIF are read by the `image` crate in every build; without
//! the feature `video` films are answered with [`VideoError::NoVideoSupport`].

use std::path::Path;

mod edges;
mod error;
mod export;
mod fit;
mod gif;
mod images;
mod input;
mod keep;
mod natural;
mod palette;
mod recipe;
pub mod resample;

#[cfg(feature = "video")]
mod decode;
#[cfg(feature = "video")]
mod encode;
#[cfg(feature = "video")]
#[expect(
    unsafe_code,
    reason = "the few FFmpeg calls that ffmpeg-next does not wrap, or wraps without checking"
)]
mod ffi;
#[cfg(feature = "video")]
mod orient;
#[cfg(feature = "video")]
mod scale;

pub use edges::canny;
pub use error::VideoError;
pub use export::{
    ExportFormat, ExportOptions, ExportReport, FPS_RANGE, RecipePlace, ScaleTo, Upscale,
    check_place, check_target, export,
};
pub use fit::{Fit, FitMode, Fitted, ShortClip, fit};
pub use natural::natural_cmp;
pub use recipe::{MAX_RECIPE_BYTES, read_recipe};

/// Rate given to a folder of pictures, which carries none, in frames per second.
///
/// Eight is the rate at which the published clips of this kind are sampled.
pub const PICTURE_FPS: f64 = 8.0;

/// One picture: 8-bit sRGB, three bytes a pixel, row major from the top left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// Pixels a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `width * height * 3` bytes.
    pub rgb: Vec<u8>,
}

impl Frame {
    /// A picture of one colour.
    pub fn filled(width: u32, height: u32, colour: [u8; 3]) -> Self {
        let pixels = width as usize * height as usize;
        Self {
            width,
            height,
            rgb: colour.repeat(pixels),
        }
    }

    /// Whether there is at least one pixel and the bytes match the size.
    pub fn is_valid(&self) -> bool {
        let pixels = u64::from(self.width) * u64::from(self.height);
        pixels > 0 && pixels.checked_mul(3) == Some(self.rgb.len() as u64)
    }

    /// The colour at column `x`, row `y`; black outside the picture.
    pub fn pixel(&self, x: u32, y: u32) -> [u8; 3] {
        if x >= self.width || y >= self.height {
            return [0; 3];
        }
        let at = (y as usize * self.width as usize + x as usize) * 3;
        match self.rgb.get(at..at + 3) {
            Some(&[r, g, b]) => [r, g, b],
            _ => [0; 3],
        }
    }
}

/// Decoded frames with the time at which each one appears.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clip {
    /// The pictures, all of one size when they come from [`load`] or [`fit()`].
    pub frames: Vec<Frame>,
    /// Seconds from the start of the film, one for each frame, rising.
    pub times_secs: Vec<f64>,
    /// Mean rate in frames per second.
    pub fps: f64,
    /// File or folder name, for display.
    pub source_name: String,
    /// What a viewer should know about the reading, in plain words: cut short, damaged, scaled down.
    pub notes: Vec<String>,
}

impl Clip {
    /// A clip whose frames are `1 / fps` seconds apart, starting at zero.
    pub fn from_frames(frames: Vec<Frame>, fps: f64, source_name: impl Into<String>) -> Self {
        Self {
            times_secs: (0..frames.len()).map(|i| i as f64 / fps).collect(),
            frames,
            fps,
            source_name: source_name.into(),
            notes: Vec::new(),
        }
    }

    /// Width and height of the first frame, in pixels; zeros for an empty clip.
    pub fn size(&self) -> (u32, u32) {
        self.frames.first().map_or((0, 0), |f| (f.width, f.height))
    }

    /// Seconds from the first frame to the end of the last, which is taken to last `1 / fps`.
    pub fn duration_secs(&self) -> f64 {
        match (self.times_secs.first(), self.times_secs.last()) {
            (Some(first), Some(last)) => last - first + 1.0 / self.fps,
            _ => 0.0,
        }
    }
}

/// How much of a file is read. What lies beyond is left out with a note, or refused where that makes no sense.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Reading begins at the frame shown at this time, in seconds.
    pub start_secs: f64,
    /// Frames kept; reading stops there.
    pub max_frames: usize,
    /// Fewest frames a damaged film must still give; with fewer it is an error, otherwise a note.
    pub wanted_frames: usize,
    /// Longer side of the kept frames in pixels; larger ones are scaled down while reading.
    pub max_side: u32,
    /// A long frame keeps this many pixels of its shorter side, for a model of another shape, and may be twice as long.
    pub short_side: u32,
    /// Pixels a frame of the file may have; more is refused before memory is taken.
    pub max_pixels: u64,
    /// Bytes of all kept frames together; reading stops there.
    pub max_bytes: u64,
    /// Seconds read from `start_secs` on; reading stops there.
    pub max_duration_secs: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            start_secs: 0.0,
            max_frames: 600,
            wanted_frames: 1,
            max_side: 1024,
            short_side: 576,
            max_pixels: 8192 * 8192,
            max_bytes: 2 << 30,
            max_duration_secs: 3600.0,
        }
    }
}

impl Limits {
    /// The size at which a frame is kept.
    fn scaled(&self, width: u32, height: u32) -> (u32, u32) {
        let side = f64::from(self.max_side) / f64::from(width.max(height));
        let short = f64::from(self.short_side) / f64::from(width.min(height));
        let scale = short.min(2.0 * side).max(side).min(1.0);
        let scaled = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
        (scaled(width), scaled(height))
    }
}

/// What kind of thing a path holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClipKind {
    /// A film in a container, read by FFmpeg.
    Film,
    /// An animated picture: GIF, WebP or PNG.
    Animation,
    /// A single picture.
    Still,
    /// A folder of pictures in natural order of their names.
    Folder,
}

/// What is known about a file before its frames are decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipInfo {
    /// What it is.
    pub kind: ClipKind,
    /// Width in pixels as shown: after rotation and pixel aspect.
    pub width: u32,
    /// Height in pixels as shown.
    pub height: u32,
    /// Mean rate in frames per second, where the file says so.
    pub fps: Option<f64>,
    /// Length in seconds, where the file says so.
    pub duration_secs: Option<f64>,
    /// Number of frames, where the file says so; an estimate for films.
    pub frames: Option<u64>,
    /// FFmpeg's name of the container, or of the picture format.
    pub container: String,
    /// FFmpeg's name of the codec, or of the picture format.
    pub codec: String,
}

/// Makes FFmpeg ready and silences its own messages, so that the only ones are ours.
///
/// [`load`], [`probe`], [`export()`] and [`read_recipe`] call it; calling it again costs nothing.
pub fn init() {
    #[cfg(feature = "video")]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            // Registers the error texts; it has no way to fail in the FFmpeg versions the crate supports.
            if ffmpeg_next::init().is_ok() {
                ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Quiet);
            }
        });
    }
}

/// Reads a film, a folder of pictures or a picture into memory.
///
/// Frames are upright (rotation and mirroring applied), have square pixels, are 8-bit sRGB and no larger than
/// `limits` says; their times are the file's own timestamps, counted from the start of the film. `cancel` is asked
/// at every packet and during FFmpeg's own reads.
///
/// # Errors
/// Every way in which a path can fail to be a readable clip has its own [`VideoError`].
pub fn load(path: &Path, limits: &Limits, cancel: &dyn Fn() -> bool) -> Result<Clip, VideoError> {
    init();
    if !limits.start_secs.is_finite() || limits.start_secs < 0.0 {
        return Err(VideoError::BadSetting {
            what: format!("the start is {} s", limits.start_secs),
            want: "zero or a positive number of seconds".into(),
        });
    }
    match input::open(path)? {
        input::Source::Folder => images::load_folder(path, limits, cancel),
        input::Source::Picture(file, format) => {
            images::load_picture(file, format, path, limits, cancel)
        }
        #[cfg(feature = "video")]
        input::Source::Film(film) => decode::load(film, path, limits, cancel),
        #[cfg(not(feature = "video"))]
        input::Source::Film(film) => Err(input::refuse(&film, path)),
    }
}

/// Looks at a file without decoding its frames.
///
/// # Errors
/// As [`load`], as far as they show without decoding.
pub fn probe(path: &Path) -> Result<ClipInfo, VideoError> {
    init();
    match input::open(path)? {
        input::Source::Folder => images::probe_folder(path),
        input::Source::Picture(file, format) => images::probe_picture(file, format, path),
        #[cfg(feature = "video")]
        input::Source::Film(film) => decode::probe(film, path),
        #[cfg(not(feature = "video"))]
        input::Source::Film(film) => Err(input::refuse(&film, path)),
    }
}

/// The last part of a path, for display.
fn display_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || path.display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
