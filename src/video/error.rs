//! What can go wrong with films, each with what happened, why, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// Why a clip could not be read, fitted or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VideoError {
    /// Nothing is at the path.
    #[error("There is no file or folder at {}", path.display())]
    NotFound {
        /// The path asked for.
        path: PathBuf,
    },
    /// The system refused access.
    #[error("Reading {} is not permitted", path.display())]
    Permission {
        /// The file or folder.
        path: PathBuf,
    },
    /// The system refuses to write there.
    #[error("{} cannot be written", path.display())]
    NotWritable {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An address was given in place of a file.
    #[error("{url} is an address, not a file")]
    Url {
        /// The address as given.
        url: String,
    },
    /// A pipe, a device or a socket.
    #[error("{} is not a film: it is {kind}", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// A file of zero bytes.
    #[error("{} is empty (0 bytes)", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A list of other files or addresses.
    #[error("{} is {kind}, a list that points to other files, not a film", path.display())]
    Playlist {
        /// The file.
        path: PathBuf,
        /// Which sort of list, with its article.
        kind: &'static str,
    },
    /// No reader recognises the content.
    #[error("{} is not a film: {detail}", path.display())]
    NotAFilm {
        /// The file.
        path: PathBuf,
        /// What it looks like instead.
        detail: String,
    },
    /// A media file without a moving picture.
    #[error("{} has no video in it{}", path.display(), if *has_audio { ", only sound" } else { "" })]
    NoVideoStream {
        /// The file.
        path: PathBuf,
        /// Whether there is sound.
        has_audio: bool,
    },
    /// The film's codec has no decoder in this FFmpeg.
    #[error("{} is coded with {codec}, which this FFmpeg cannot decode", path.display())]
    UnsupportedCodec {
        /// The file.
        path: PathBuf,
        /// FFmpeg's name of the codec.
        codec: String,
    },
    /// The film ends before its time.
    #[error("{} is cut off: {}", path.display(), could_be_read(*frames_read, *wanted))]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Frames that could be decoded.
        frames_read: usize,
        /// Frames asked for.
        wanted: usize,
        /// What the reader said.
        detail: String,
    },
    /// The frames are larger than allowed.
    #[error("{} has frames of {width}x{height} pixels; the limit is {max_pixels} pixels a frame", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Pixels a row.
        width: u32,
        /// Rows.
        height: u32,
        /// The limit.
        max_pixels: u64,
    },
    /// A folder in which no file is a picture.
    #[error("The folder {} holds no pictures", path.display())]
    NoImages {
        /// The folder.
        path: PathBuf,
    },
    /// A picture that cannot be decoded.
    #[error("The picture {} cannot be read: {detail}", path.display())]
    BrokenImage {
        /// The picture.
        path: PathBuf,
        /// What the reader said.
        detail: String,
    },
    /// This build has no FFmpeg.
    #[error("{} is a film, and this program was built without video support", path.display())]
    NoVideoSupport {
        /// The film.
        path: PathBuf,
    },
    /// The film opened but no frame came out.
    #[error("No frame of {} could be decoded: {detail}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// What FFmpeg said.
        detail: String,
    },
    /// The caller asked to stop.
    #[error("Cancelled")]
    Cancelled,
    /// The clip has fewer frames than asked for.
    #[error("The clip gives {have} frames; {need} are needed")]
    TooShort {
        /// Frames the clip gives at the rate asked for.
        have: usize,
        /// Frames asked for.
        need: usize,
    },
    /// The start lies behind the end.
    #[error("The start, {start_secs:.2} s, lies behind the end of the clip at {end_secs:.2} s")]
    StartBeyondEnd {
        /// The start asked for, in seconds.
        start_secs: f64,
        /// Where the clip ends, in seconds.
        end_secs: f64,
    },
    /// A setting that means nothing.
    #[error("A setting cannot be used: {what}")]
    BadSetting {
        /// The setting and its value.
        what: String,
        /// What would be right.
        want: String,
    },
    /// A clip without frames, or a frame whose bytes do not match its size.
    #[error("The clip {name} cannot be used: {detail}")]
    BadClip {
        /// Its source name.
        name: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Something is already there.
    #[error("{} exists already", path.display())]
    TargetExists {
        /// The file or folder that would be replaced.
        path: PathBuf,
    },
    /// The name does not say which format to write.
    #[error("{} does not say which format to write", path.display())]
    UnknownFormat {
        /// The target.
        path: PathBuf,
    },
    /// This FFmpeg has no encoder for the format.
    #[error("This FFmpeg has no encoder for {format} (looked for {tried})")]
    EncoderMissing {
        /// The format to write.
        format: &'static str,
        /// FFmpeg's names of the encoders that were tried.
        tried: String,
    },
    /// The encoder or the container failed.
    #[error("Writing {} failed: {detail}", path.display())]
    Encode {
        /// The target.
        path: PathBuf,
        /// What the encoder said.
        detail: String,
    },
    /// A recipe larger than allowed.
    #[error("The recipe of {} is {bytes} bytes long; the limit is {max}", path.display())]
    RecipeTooLarge {
        /// The film.
        path: PathBuf,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The file system failed.
    #[error("Could not {op} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        op: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl VideoError {
    /// Tells a missing file and a forbidden one from the rest of what the system may say.
    pub(super) fn from_io(op: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => Self::NotFound { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                if matches!(op, "create" | "write" | "replace") =>
            {
                Self::NotWritable { path, source }
            }
            io::ErrorKind::PermissionDenied => Self::Permission { path },
            _ => Self::Io { op, path, source },
        }
    }

    /// What the person can do about it: one or two plain sentences.
    pub fn advice(&self) -> String {
        match self {
            Self::NotFound { .. } => "Check the name and the folder.".into(),
            Self::Permission { .. } => "Give yourself the right to read it, or copy it to a folder of yours.".into(),
            Self::NotWritable { .. } => "Choose another place, or give yourself the right to write there.".into(),
            Self::Url { .. } => "Nothing was downloaded. Save the film on this computer and give its file.".into(),
            Self::NotAFile { .. } => "Give a film file, a picture, or a folder of pictures.".into(),
            Self::Empty { .. } => "The copy or download did not finish; fetch the file again.".into(),
            Self::Playlist { .. } => "Lists are not followed. Give the film itself.".into(),
            Self::NotAFilm { .. } => "Give a film (MP4, MOV, MKV, WebM, AVI, GIF and many more), a picture, or a folder of pictures.".into(),
            Self::NoVideoStream { .. } => "Give a file with moving pictures.".into(),
            Self::UnsupportedCodec { .. } => "Convert the film to H.264 in MP4 with any converter, then try again.".into(),
            Self::Truncated { frames_read: 0, .. } => "The copy, download or recording did not finish. Fetch the file again.".into(),
            Self::Truncated { .. } => "The copy, download or recording did not finish. Fetch it again, or ask for fewer frames.".into(),
            Self::TooLarge { .. } => "Scale the film down with any converter, then try again.".into(),
            Self::NoImages { .. } => "Put the frames there as PNG, JPEG, WebP, BMP or TIFF files.".into(),
            Self::BrokenImage { .. } => "Remove or replace that picture.".into(),
            Self::NoVideoSupport { .. } => "Build with the feature `video`, or use a folder of pictures or a GIF.".into(),
            Self::Decode { .. } => "The file may be damaged. See whether a player shows it, or convert it to H.264 in MP4.".into(),
            Self::Cancelled => "Nothing was left behind.".into(),
            Self::TooShort { have, .. } => format!("Use a longer clip, an earlier start, {} frames or fewer, or let the clip run forth and back (--loop-short).", have.max(&1)),
            Self::StartBeyondEnd { .. } => "Choose an earlier start.".into(),
            Self::BadSetting { want, .. } => format!("Use {want}."),
            Self::BadClip { .. } => "Load the clip again.".into(),
            Self::TargetExists { .. } => "Choose another name, or allow it to be overwritten. A film and a folder of pictures never take each other's place.".into(),
            Self::UnknownFormat { .. } => "End the name in .mp4, .webm or .gif, or give a folder name without an ending for PNG files.".into(),
            Self::EncoderMissing { .. } => "Write a GIF or PNG files, or install an FFmpeg with that encoder.".into(),
            Self::Encode { .. } => "Check the free space on the disk, or try another format.".into(),
            Self::RecipeTooLarge { .. } => "Nothing was read from it; the film itself can still be opened.".into(),
            Self::Io { .. } => "Check that the disk is there and has free space, then try again.".into(),
        }
    }
}

fn could_be_read(frames: usize, wanted: usize) -> String {
    if frames == 0 {
        "none of its frames can be read".to_owned()
    } else {
        format!("{frames} of the {wanted} frames needed could be read")
    }
}
