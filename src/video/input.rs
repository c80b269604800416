//! The front door: what a path is, before any decoder sees a byte of it.

use std::fs::{self, File};
use std::io::{Read, Seek};
use std::path::Path;

use image::ImageFormat;

use super::VideoError;

/// Bytes read to recognise pictures, playlists and text.
const HEAD_BYTES: u64 = 4096;

/// An opened source, rewound to its beginning.
pub(super) enum Source {
    /// A folder of pictures.
    Folder,
    /// A picture or an animated picture.
    Picture(File, ImageFormat),
    /// Anything else: for FFmpeg to recognise.
    Film(FilmFile),
}

/// A file that may be a film.
pub(super) struct FilmFile {
    #[cfg(feature = "video")]
    pub(super) file: File,
    /// Its first bytes.
    pub(super) head: Vec<u8>,
}

/// Opens a path and tells what sort of source it is.
///
/// Only plain files are opened: opening a pipe could wait for ever, and a device has no end.
pub(super) fn open(path: &Path) -> Result<Source, VideoError> {
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        // Asked only after nothing was found on disk, so that no name a file can have is refused.
        Err(_) if looks_like_url(path) => {
            return Err(VideoError::Url {
                url: path.display().to_string(),
            });
        }
        Err(error) => return Err(VideoError::from_io("look at", path, error)),
    };
    if meta.is_dir() {
        return Ok(Source::Folder);
    }
    if !meta.is_file() {
        return Err(VideoError::NotAFile {
            path: path.into(),
            kind: special_kind(meta.file_type()),
        });
    }
    if meta.len() == 0 {
        return Err(VideoError::Empty { path: path.into() });
    }
    let mut file = File::open(path).map_err(|e| VideoError::from_io("open", path, e))?;
    let mut head = Vec::new();
    file.by_ref()
        .take(HEAD_BYTES)
        .read_to_end(&mut head)
        .and_then(|_| file.rewind())
        .map_err(|e| VideoError::from_io("read", path, e))?;
    if let Some(kind) = playlist_kind(&head) {
        return Err(VideoError::Playlist {
            path: path.into(),
            kind,
        });
    }
    match picture_format(&head) {
        Some(format) => Ok(Source::Picture(file, format)),
        None => Ok(Source::Film(FilmFile {
            #[cfg(feature = "video")]
            file,
            head,
        })),
    }
}

/// Whether a path has the form `scheme://...`.
fn looks_like_url(path: &Path) -> bool {
    let text = path.to_string_lossy();
    // `Path` keeps the double slash of an address as it was typed.
    text.split_once("://").is_some_and(|(scheme, rest)| {
        !rest.is_empty()
            && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    })
}

#[cfg(unix)]
fn special_kind(kind: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else {
        "a special file"
    }
}

#[cfg(not(unix))]
fn special_kind(_kind: fs::FileType) -> &'static str {
    "a special file"
}

/// Picture formats the `image` crate was built with, by their first bytes.
fn picture_format(head: &[u8]) -> Option<ImageFormat> {
    use ImageFormat::{Bmp, Gif, Jpeg, Png, Tiff, WebP};
    image::guess_format(head)
        .ok()
        .filter(|format| matches!(format, Png | Jpeg | Gif | WebP | Bmp | Tiff))
}

/// Names the list format that the first bytes belong to, if any.
///
/// FFmpeg is forbidden to open these in any case; knowing them here gives a clear answer.
fn playlist_kind(head: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let starts = |prefix: &str| {
        text.get(..prefix.len())
            .is_some_and(|front| front.eq_ignore_ascii_case(prefix))
    };
    let markup = starts("<");
    let lower = if markup {
        text.to_ascii_lowercase()
    } else {
        String::new()
    };
    match () {
        () if starts("#EXTM3U") => Some("an M3U playlist"),
        () if starts("ffconcat version") => Some("a list of files to join"),
        () if starts("v=0\n") || starts("v=0\r\n") => Some("a streaming session description"),
        () if starts("[playlist]") => Some("a PLS playlist"),
        () if starts("[Reference]") || starts("RTSPtext") => Some("a streaming reference"),
        () if lower.contains("<mpd") => Some("a DASH playlist"),
        () if lower.contains("<smil") || lower.contains("<asx") || lower.contains("<playlist") => {
            Some("an XML playlist")
        }
        () => None,
    }
}

/// What unrecognised content looks like, for the message.
pub(super) fn describe(head: &[u8]) -> &'static str {
    if is_plain_text(head) {
        "it holds plain text"
    } else {
        "its content is in no film format that FFmpeg knows"
    }
}

fn is_plain_text(head: &[u8]) -> bool {
    let is_utf8 = match std::str::from_utf8(head) {
        Ok(_) => true,
        // A character cut by the end of the head is not a fault.
        Err(error) => error.error_len().is_none(),
    };
    let printable = !head.iter().any(|&b| b < b' ' && !b.is_ascii_whitespace());
    is_utf8 && printable
}

/// What a build without FFmpeg can say of a file it does not read.
#[cfg(not(feature = "video"))]
pub(super) fn refuse(film: &FilmFile, path: &Path) -> VideoError {
    if is_plain_text(&film.head) {
        VideoError::NotAFilm {
            path: path.into(),
            detail: describe(&film.head).into(),
        }
    } else {
        VideoError::NoVideoSupport { path: path.into() }
    }
}
