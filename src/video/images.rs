//! Folders of pictures, still pictures, and animated ones (GIF, WebP, PNG), read by the `image` crate.

use std::fs::{self, File};
use std::io::{BufReader, Seek};
use std::path::{Path, PathBuf};

use image::codecs::gif::GifDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::{AnimationDecoder, DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbaImage};

use super::keep::Keep;
use super::resample::{Filter, Region, place, resize};
use super::{
    Clip, ClipInfo, ClipKind, FitMode, Frame, Limits, PICTURE_FPS, VideoError, display_name,
    natural_cmp,
};

/// Endings of the files in a folder that count as its frames.
const ENDINGS: [&str; 8] = ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "gif"];

/// Seconds a frame of an animation stays when the file says less than 20 ms: browsers do the same, since old
/// programs wrote zero for "as usual".
const DEFAULT_DELAY_SECS: f64 = 0.1;
const SHORTEST_DELAY_SECS: f64 = 0.02;

type Animation<'a> = Box<dyn Iterator<Item = image::ImageResult<image::Frame>> + 'a>;

/// Paths of the pictures in a folder, in natural order of their names; hidden files are left out.
fn list_pictures(folder: &Path) -> Result<Vec<PathBuf>, VideoError> {
    let fail = |e| VideoError::from_io("read the folder", folder, e);
    let mut pictures = Vec::new();
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let ending = path
            .extension()
            .map(|e| e.to_string_lossy().to_ascii_lowercase());
        if !hidden && ending.is_some_and(|e| ENDINGS.contains(&e.as_str())) && path.is_file() {
            pictures.push(path);
        }
    }
    if pictures.is_empty() {
        return Err(VideoError::NoImages {
            path: folder.into(),
        });
    }
    pictures.sort_by(|a, b| natural_cmp(a.as_os_str(), b.as_os_str()));
    Ok(pictures)
}

/// Reads a folder of pictures as a clip at [`PICTURE_FPS`].
pub(super) fn load_folder(
    folder: &Path,
    limits: &Limits,
    cancel: &dyn Fn() -> bool,
) -> Result<Clip, VideoError> {
    let paths = list_pictures(folder)?;
    let first = (limits.start_secs * PICTURE_FPS).floor() as usize;
    if first >= paths.len() {
        return Err(VideoError::StartBeyondEnd {
            start_secs: limits.start_secs,
            end_secs: paths.len() as f64 / PICTURE_FPS,
        });
    }
    let mut keep = Keep::new(limits);
    let mut other_sizes = 0;
    for (i, path) in paths.iter().enumerate().skip(first) {
        if cancel() {
            return Err(VideoError::Cancelled);
        }
        let mut frame = load_still_path(path, limits)?;
        if let Some(size) = keep.size()
            && size != (frame.width, frame.height)
        {
            other_sizes += 1;
            frame = place(&frame, size.0, size.1, FitMode::Crop);
        }
        if !keep.push(frame, i as f64 / PICTURE_FPS) {
            break;
        }
    }
    if other_sizes > 0 {
        let (w, h) = keep.size().unwrap_or((0, 0));
        keep.notes.push(format!(
            "{other_sizes} of {} pictures have another size than the first; they were scaled and cropped to its {w}x{h}.",
            keep.frames.len()
        ));
    }
    Ok(keep.into_clip(PICTURE_FPS, display_name(folder)))
}

/// Looks at a folder of pictures.
pub(super) fn probe_folder(folder: &Path) -> Result<ClipInfo, VideoError> {
    let paths = list_pictures(folder)?;
    let broken = |e: image::ImageError| broken_image(&paths[0], &e);
    let file = File::open(&paths[0]).map_err(|e| VideoError::from_io("open", &paths[0], e))?;
    let reader = ImageReader::new(BufReader::new(file))
        .with_guessed_format()
        .map_err(|e| VideoError::from_io("read", &paths[0], e))?;
    let format = reader.format();
    let (width, height) = upright_size(reader.into_decoder().map_err(broken)?);
    let count = paths.len();
    Ok(ClipInfo {
        kind: ClipKind::Folder,
        width,
        height,
        fps: Some(PICTURE_FPS),
        duration_secs: Some(count as f64 / PICTURE_FPS),
        frames: Some(count as u64),
        container: "folder".into(),
        codec: format.map_or("picture", format_name).into(),
    })
}

/// Reads a still or animated picture.
pub(super) fn load_picture(
    file: File,
    format: ImageFormat,
    path: &Path,
    limits: &Limits,
    cancel: &dyn Fn() -> bool,
) -> Result<Clip, VideoError> {
    if let Some(frames) = open_animation(&file, format, path, limits)? {
        return load_animation(frames, path, limits, cancel);
    }
    let frame = load_still(file, format, path, limits)?;
    let mut keep = Keep::new(limits);
    keep.push(frame, 0.0);
    Ok(keep.into_clip(PICTURE_FPS, display_name(path)))
}

/// Looks at a still or animated picture.
pub(super) fn probe_picture(
    file: File,
    format: ImageFormat,
    path: &Path,
) -> Result<ClipInfo, VideoError> {
    let animated = open_animation(&file, format, path, &Limits::default())?.is_some();
    rewind(&file, path)?;
    let decoder = ImageReader::with_format(BufReader::new(file), format)
        .into_decoder()
        .map_err(|e| broken_image(path, &e))?;
    let (width, height) = upright_size(decoder);
    Ok(ClipInfo {
        kind: if animated {
            ClipKind::Animation
        } else {
            ClipKind::Still
        },
        width,
        height,
        fps: None,
        duration_secs: None,
        frames: (!animated).then_some(1),
        container: format_name(format).into(),
        codec: format_name(format).into(),
    })
}

fn format_name(format: ImageFormat) -> &'static str {
    format
        .extensions_str()
        .first()
        .copied()
        .unwrap_or("picture")
}

/// Size after the orientation stored in the picture.
fn upright_size(mut decoder: impl ImageDecoder) -> (u32, u32) {
    use image::metadata::Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let (width, height) = decoder.dimensions();
    match decoder.orientation() {
        Ok(Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH) => (height, width),
        _ => (width, height),
    }
}

/// Scales a frame down to the size at which it is kept.
fn within(frame: Frame, limits: &Limits) -> Frame {
    let (width, height) = limits.scaled(frame.width, frame.height);
    if (width, height) == (frame.width, frame.height) {
        return frame;
    }
    resize(&frame, Region::of(&frame), width, height, Filter::Triangle)
}

fn rewind(mut file: &File, path: &Path) -> Result<(), VideoError> {
    file.rewind()
        .map_err(|e| VideoError::from_io("read", path, e))
}

fn broken_image(path: &Path, error: &image::ImageError) -> VideoError {
    VideoError::BrokenImage {
        path: path.into(),
        detail: error.to_string(),
    }
}

fn check_size(path: &Path, size: (u32, u32), limits: &Limits) -> Result<(), VideoError> {
    if u64::from(size.0) * u64::from(size.1) > limits.max_pixels {
        return Err(VideoError::TooLarge {
            path: path.into(),
            width: size.0,
            height: size.1,
            max_pixels: limits.max_pixels,
        });
    }
    Ok(())
}

/// Memory the picture decoders may take: every accepted picture in their widest pixel, 16 bytes.
fn decoder_limits(limits: &Limits) -> image::Limits {
    let mut allowed = image::Limits::no_limits();
    allowed.max_alloc = Some(limits.max_pixels.saturating_mul(16));
    allowed
}

fn load_still_path(path: &Path, limits: &Limits) -> Result<Frame, VideoError> {
    match super::input::open(path)? {
        super::input::Source::Picture(file, format) => load_still(file, format, path, limits),
        _ => Err(VideoError::BrokenImage {
            path: path.into(),
            detail: "its content is not a picture".into(),
        }),
    }
}

/// Decodes one picture upright, over white where it is transparent, scaled to the limits.
fn load_still(
    file: File,
    format: ImageFormat,
    path: &Path,
    limits: &Limits,
) -> Result<Frame, VideoError> {
    rewind(&file, path)?;
    let broken = |e: image::ImageError| broken_image(path, &e);
    let mut reader = ImageReader::with_format(BufReader::new(file), format);
    reader.limits(decoder_limits(limits));
    let mut decoder = reader.into_decoder().map_err(broken)?;
    check_size(path, decoder.dimensions(), limits)?;
    let orientation = decoder.orientation().map_err(broken)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    picture.apply_orientation(orientation);
    let frame = if picture.color().has_alpha() {
        over_white(&picture.into_rgba8())
    } else {
        let rgb = picture.into_rgb8();
        Frame {
            width: rgb.width(),
            height: rgb.height(),
            rgb: rgb.into_raw(),
        }
    };
    Ok(within(frame, limits))
}

/// Lays a picture with transparency over white, as paper and browsers do.
fn over_white(picture: &RgbaImage) -> Frame {
    let mut rgb = Vec::with_capacity(picture.len() / 4 * 3);
    for image::Rgba([r, g, b, a]) in picture.pixels() {
        let blend = |v: &u8| {
            let (v, a) = (u32::from(*v), u32::from(*a));
            ((v * a + 255 * (255 - a) + 127) / 255) as u8
        };
        rgb.extend([blend(r), blend(g), blend(b)]);
    }
    Frame {
        width: picture.width(),
        height: picture.height(),
        rgb,
    }
}

/// Opens the frames of an animated picture; `None` for a still one.
fn open_animation<'a>(
    file: &'a File,
    format: ImageFormat,
    path: &Path,
    limits: &Limits,
) -> Result<Option<Animation<'a>>, VideoError> {
    let broken = |e: image::ImageError| broken_image(path, &e);
    rewind(file, path)?;
    let reader = BufReader::new(file);
    let allowed = decoder_limits(limits);
    Ok(match format {
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(reader).map_err(broken)?;
            check_size(path, decoder.dimensions(), limits)?;
            decoder.set_limits(allowed).map_err(broken)?;
            Some(Box::new(decoder.into_frames()))
        }
        ImageFormat::WebP => {
            let mut decoder = WebPDecoder::new(reader).map_err(broken)?;
            check_size(path, decoder.dimensions(), limits)?;
            decoder.set_limits(allowed).map_err(broken)?;
            decoder
                .has_animation()
                .then(|| Box::new(decoder.into_frames()) as Animation)
        }
        ImageFormat::Png => {
            let decoder = PngDecoder::with_limits(reader, allowed).map_err(broken)?;
            check_size(path, decoder.dimensions(), limits)?;
            if decoder.is_apng().map_err(broken)? {
                Some(Box::new(decoder.apng().map_err(broken)?.into_frames()))
            } else {
                None
            }
        }
        _ => None,
    })
}

fn load_animation(
    frames: Animation,
    path: &Path,
    limits: &Limits,
    cancel: &dyn Fn() -> bool,
) -> Result<Clip, VideoError> {
    let mut keep = Keep::new(limits);
    let (mut time, mut end) = (0.0, 0.0);
    let mut damage = None;
    for frame in frames {
        if cancel() {
            return Err(VideoError::Cancelled);
        }
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => {
                damage = Some(error.to_string());
                break;
            }
        };
        let (numerator, denominator) = frame.delay().numer_denom_ms();
        let stated = f64::from(numerator) / f64::from(denominator.max(1)) / 1000.0;
        let delay = if stated < SHORTEST_DELAY_SECS {
            DEFAULT_DELAY_SECS
        } else {
            stated
        };
        let shown_from = time;
        time += delay;
        if time <= limits.start_secs {
            continue;
        }
        let picture = within(over_white(frame.buffer()), limits);
        if !keep.push(picture, shown_from) {
            break;
        }
        end = time;
    }
    if let Some(detail) = damage {
        if keep.frames.len() < limits.wanted_frames.max(1) {
            return Err(VideoError::Truncated {
                path: path.into(),
                frames_read: keep.frames.len(),
                wanted: limits.wanted_frames.max(1),
                detail,
            });
        }
        keep.notes.push(format!(
            "The file is damaged or cut off; {} frames could be read.",
            keep.frames.len()
        ));
    }
    let Some(&first) = keep.times_secs.first() else {
        return Err(VideoError::StartBeyondEnd {
            start_secs: limits.start_secs,
            end_secs: time,
        });
    };
    let fps = keep.frames.len() as f64 / (end - first);
    Ok(keep.into_clip(fps, display_name(path)))
}
