//! Reading films with FFmpeg.

use std::path::Path;

use ffmpeg_next::codec::{self, Context as CodecContext, decoder};
use ffmpeg_next::color::TransferCharacteristic;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::frame::Video;
use ffmpeg_next::packet::side_data::Type as SideData;
use ffmpeg_next::util::error::{EAGAIN, EINVAL};
use ffmpeg_next::{Dictionary, Error, Packet, Rational, Stream, format, media};

use super::ffi::{Interrupt, allowed_readers, metadata, reader, stated_size};
use super::fit::TIME_SLACK_SECS;
use super::input::{FilmFile, describe};
use super::keep::Keep;
use super::orient::Orientation;
use super::scale::ToRgb;
use super::{Clip, ClipInfo, ClipKind, Limits, VideoError, display_name};

/// Rate assumed where a file states none, in frames per second.
const FALLBACK_FPS: f64 = 25.0;
/// Unreadable packets in a row after which a file is given up; a demuxer that resynchronises needs a handful.
const MAX_BAD_PACKETS: usize = 1000;
/// Pixel aspects outside 1/16..16 are errors of the file, not a format.
const MAX_PIXEL_ASPECT: f64 = 16.0;

/// Opens the container. The answer lives no longer than `cancel`.
fn open_container(film: FilmFile, path: &Path, interrupt: Interrupt) -> Result<Input, VideoError> {
    let io = reader(film.file).map_err(|e| decode_error(path, e))?;
    let options: Dictionary = [
        // Nothing inside the file may make FFmpeg open another file or address.
        ("protocol_whitelist", "none"),
        ("format_whitelist", allowed_readers()),
    ]
    .into_iter()
    .collect();
    format::input_from_stream_with_interrupt(io, None, Some(options), move || interrupt.cancelled())
        .map_err(|error| open_error(path, &film.head, error))
}

fn decode_error(path: &Path, error: Error) -> VideoError {
    VideoError::Decode {
        path: path.into(),
        detail: error.to_string(),
    }
}

/// Explains why a container did not open.
fn open_error(path: &Path, head: &[u8], error: Error) -> VideoError {
    let path = path.to_path_buf();
    match error {
        Error::Exit => VideoError::Cancelled,
        // An MP4 or MOV that begins rightly but whose index, often the last thing written, is missing.
        Error::InvalidData | Error::Eof if head.get(4..8) == Some(b"ftyp") => {
            VideoError::Truncated {
                path,
                frames_read: 0,
                wanted: 1,
                detail: "the index of the film is missing".into(),
            }
        }
        // What the list of allowed readers excludes.
        Error::Other { errno: EINVAL } => VideoError::NotAFilm {
            path,
            detail: "it is a script, a list or text, which are not read".into(),
        },
        Error::InvalidData | Error::Eof => VideoError::NotAFilm {
            path,
            detail: describe(head).into(),
        },
        other => decode_error(&path, other),
    }
}

/// What the container says about the film's one picture stream.
struct Track {
    index: usize,
    time_base_secs: f64,
    /// Timestamp of the film's beginning, in time base units.
    start: Option<i64>,
    fps: f64,
    duration_secs: Option<f64>,
    frames: Option<u64>,
    orientation: Orientation,
    codec: String,
}

/// Seconds a unit of a fraction lasts; `None` for the zeros and signs a broken file may hold.
fn positive(value: Rational) -> Option<f64> {
    let ratio = f64::from(value.numerator()) / f64::from(value.denominator());
    (ratio.is_finite() && ratio > 0.0).then_some(ratio)
}

/// Finds the picture stream; cover art of a song does not count.
fn find_track(input: &Input, path: &Path) -> Result<Track, VideoError> {
    let is_film = |s: &Stream| {
        s.parameters().medium() == media::Type::Video
            && !s.disposition().contains(Disposition::ATTACHED_PIC)
    };
    let best = input.streams().best(media::Type::Video).filter(is_film);
    let Some(stream) = best.or_else(|| input.streams().find(is_film)) else {
        let mut streams = input.streams();
        return Err(VideoError::NoVideoStream {
            path: path.into(),
            has_audio: streams.any(|s| s.parameters().medium() == media::Type::Audio),
        });
    };
    let time_base_secs = positive(stream.time_base()).unwrap_or(1.0 / FALLBACK_FPS);
    let fps = [stream.avg_frame_rate(), stream.rate()]
        .into_iter()
        .find_map(positive)
        .filter(|fps| *fps <= 1000.0)
        .unwrap_or(FALLBACK_FPS);
    // The film's own length; the container's also spans sound, so that it only counts where there is none.
    let own = (stream.duration() > 0).then(|| stream.duration() as f64 * time_base_secs);
    let whole = (input.nb_streams() == 1 && input.duration() > 0)
        .then(|| input.duration() as f64 / f64::from(ffmpeg_next::ffi::AV_TIME_BASE));
    let start = stream.start_time();
    Ok(Track {
        index: stream.index(),
        time_base_secs,
        start: (start != ffmpeg_next::ffi::AV_NOPTS_VALUE).then_some(start),
        fps,
        duration_secs: own.or(whole),
        frames: u64::try_from(stream.frames()).ok().filter(|&n| n > 0),
        orientation: orientation(input, &stream),
        codec: codec_name(stream.parameters().id()),
    })
}

fn codec_name(id: codec::Id) -> String {
    match id {
        codec::Id::None => "an unknown codec".into(),
        known => known.name().into(),
    }
}

/// The way the film is to be turned: display matrix, or the older `rotate` tag.
fn orientation(input: &Input, stream: &Stream) -> Orientation {
    let matrix = stream
        .side_data()
        .find(|data| data.kind() == SideData::DisplayMatrix);
    if let Some(matrix) = matrix {
        return Orientation::from_display_matrix(matrix.data());
    }
    metadata(input, Some(stream.index()), "rotate")
        .and_then(|text| text.trim().parse().ok())
        .map_or(Orientation::UPRIGHT, Orientation::from_clockwise_degrees)
}

/// Opens the decoder, with the size limit set before it allocates anything.
fn open_decoder(
    input: &Input,
    track: &Track,
    path: &Path,
    limits: &Limits,
) -> Result<decoder::Video, VideoError> {
    let failed = |e| decode_error(path, e);
    let stream = input
        .stream(track.index)
        .ok_or_else(|| failed(Error::StreamNotFound))?;
    let (width, height) = stated_size(&stream.parameters());
    check_size(width, height, path, limits)?;
    let context = CodecContext::from_parameters(stream.parameters()).map_err(failed)?;
    let unsupported = || VideoError::UnsupportedCodec {
        path: path.into(),
        codec: track.codec.clone(),
    };
    let codec = decoder::find(context.id()).ok_or_else(unsupported)?;
    let mut decoder = context.decoder();
    decoder.set_packet_time_base(stream.time_base());
    let max_pixels = limits.max_pixels.min(i64::MAX as u64).to_string();
    let options = [("max_pixels", max_pixels.as_str()), ("threads", "auto")]
        .into_iter()
        .collect();
    let opened = decoder
        .open_as_with(codec, options)
        .and_then(decoder::Opened::video)
        .map_err(|error| match error {
            Error::DecoderNotFound | Error::PatchWelcome => unsupported(),
            other => failed(other),
        })?;
    check_size(opened.width(), opened.height(), path, limits)?;
    Ok(opened)
}

fn check_size(width: u32, height: u32, path: &Path, limits: &Limits) -> Result<(), VideoError> {
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(VideoError::TooLarge {
            path: path.into(),
            width,
            height,
            max_pixels: limits.max_pixels,
        });
    }
    Ok(())
}

/// Size with square pixels, before turning.
fn square_size(width: u32, height: u32, pixel_aspect: Rational) -> (u32, u32) {
    let aspect = positive(pixel_aspect)
        .filter(|a| (1.0 / MAX_PIXEL_ASPECT..=MAX_PIXEL_ASPECT).contains(a))
        .unwrap_or(1.0);
    (((f64::from(width) * aspect).round() as u32).max(1), height)
}

/// Looks at a film without decoding it.
pub(super) fn probe(film: FilmFile, path: &Path) -> Result<ClipInfo, VideoError> {
    let never = || false;
    #[expect(
        unsafe_code,
        reason = "the closure is lent to FFmpeg for the life of the input"
    )]
    // SAFETY: `input` is declared after `never`, so that it is dropped before it.
    let interrupt = unsafe { Interrupt::new(&never) };
    let input = open_container(film, path, interrupt)?;
    let track = find_track(&input, path)?;
    let decoder = open_decoder(&input, &track, path, &Limits::default())?;
    let (width, height) = square_size(decoder.width(), decoder.height(), decoder.aspect_ratio());
    let (width, height) = track.orientation.turned_size(width, height);
    let counted = track.duration_secs.map(|d| (d * track.fps).round() as u64);
    Ok(ClipInfo {
        kind: ClipKind::Film,
        width,
        height,
        fps: Some(track.fps),
        duration_secs: track.duration_secs,
        frames: track.frames.or(counted),
        container: input.format().name().to_owned(),
        codec: track.codec,
    })
}

/// The text a film carries under `comment`.
pub(super) fn comment(film: FilmFile, path: &Path) -> Result<Option<String>, VideoError> {
    let never = || false;
    #[expect(
        unsafe_code,
        reason = "the closure is lent to FFmpeg for the life of the input"
    )]
    // SAFETY: `input` is declared after `never`, so that it is dropped before it.
    let interrupt = unsafe { Interrupt::new(&never) };
    let input = open_container(film, path, interrupt)?;
    Ok(metadata(&input, None, "comment"))
}

/// Decodes a film.
pub(super) fn load(
    film: FilmFile,
    path: &Path,
    limits: &Limits,
    cancel: &dyn Fn() -> bool,
) -> Result<Clip, VideoError> {
    #[expect(
        unsafe_code,
        reason = "the closure is lent to FFmpeg for the life of the input"
    )]
    // SAFETY: `input` is dropped at the end of this function, before the caller's closure goes away.
    let interrupt = unsafe { Interrupt::new(cancel) };
    let mut input = open_container(film, path, interrupt)?;
    let track = find_track(&input, path)?;
    let decoder = open_decoder(&input, &track, path, limits)?;
    if limits.start_secs > 0.0 {
        seek(&mut input, &track, limits.start_secs);
    }
    let mut reading = Reading {
        track,
        decoder,
        path,
        limits,
        keep: Keep::new(limits),
        converter: None,
        last_time: None,
        end_time: 0.0,
        before_start: None,
        stopped: false,
        hdr: false,
        damaged: 0,
        detail: String::new(),
    };
    reading.run(&mut input, cancel)?;
    reading.finish()
}

/// Goes to the last key frame before the start. A container that cannot seek is read from where it stands.
fn seek(input: &mut Input, track: &Track, start_secs: f64) {
    let offset_secs = track.start.unwrap_or(0) as f64 * track.time_base_secs;
    let micros = ((start_secs + offset_secs) * f64::from(ffmpeg_next::ffi::AV_TIME_BASE)) as i64;
    // Without a frame shown at the start the frames before it are decoded and dropped, which is slower but right.
    // ffmpeg-next hands the end of the range to FFmpeg as it is, where it is still inside.
    let _ = input.seek(micros, ..micros);
}

/// One pass over a film.
struct Reading<'a> {
    track: Track,
    decoder: decoder::Video,
    path: &'a Path,
    limits: &'a Limits,
    keep: Keep<'a>,
    converter: Option<ToRgb>,
    /// Time of the last decoded frame, in seconds from the start of the film.
    last_time: Option<f64>,
    /// When the last decoded frame leaves the screen.
    end_time: f64,
    /// The frame before the start, which may still be shown there, and its time.
    before_start: Option<(Video, f64)>,
    /// A limit was reached.
    stopped: bool,
    hdr: bool,
    /// Packets that could not be read or decoded.
    damaged: usize,
    /// What FFmpeg said about the last of them.
    detail: String,
}

impl Reading<'_> {
    fn run(&mut self, input: &mut Input, cancel: &dyn Fn() -> bool) -> Result<(), VideoError> {
        let mut packet = Packet::empty();
        let mut bad_in_a_row = 0;
        while !self.stopped {
            if cancel() {
                return Err(VideoError::Cancelled);
            }
            match packet.read(input) {
                Ok(()) => {
                    bad_in_a_row = 0;
                    if packet.stream() == self.track.index {
                        let sent = self.decoder.send_packet(&packet);
                        self.note_damage(sent);
                        self.drain()?;
                    }
                }
                Err(Error::Eof) => break,
                Err(Error::Exit) => return Err(VideoError::Cancelled),
                Err(error) => {
                    self.note_damage(Err(error));
                    bad_in_a_row += 1;
                    if error != Error::InvalidData || bad_in_a_row >= MAX_BAD_PACKETS {
                        break;
                    }
                }
            }
        }
        if !self.stopped {
            let sent = self.decoder.send_eof();
            self.note_damage(sent);
            self.drain()?;
            self.take_last()?;
        }
        Ok(())
    }

    fn note_damage(&mut self, result: Result<(), Error>) {
        if let Err(error) = result {
            self.damaged += 1;
            self.detail = error.to_string();
        }
    }

    /// Takes every frame the decoder has ready.
    fn drain(&mut self) -> Result<(), VideoError> {
        let mut frame = Video::empty();
        while !self.stopped {
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => self.take(&mut frame)?,
                Err(Error::Eof | Error::Other { errno: EAGAIN }) => return Ok(()),
                Err(error) => {
                    self.note_damage(Err(error));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Time of a frame; missing or falling timestamps are continued by the frame duration.
    fn time_of(&mut self, frame: &Video) -> f64 {
        let stamp = frame.timestamp();
        if self.track.start.is_none() {
            self.track.start = stamp;
        }
        let start = self.track.start.unwrap_or(0);
        let stated = stamp.map(|s| (s as f64 - start as f64) * self.track.time_base_secs);
        let time = match (stated, self.last_time) {
            (Some(time), None) => time.max(0.0),
            (Some(time), Some(last)) if time > last => time,
            (_, Some(last)) => last + 1.0 / self.track.fps,
            (None, None) => 0.0,
        };
        self.last_time = Some(time);
        let stated = frame.packet().duration as f64 * self.track.time_base_secs;
        self.end_time = time + stated.max(1.0 / self.track.fps);
        time
    }

    /// Takes a frame; those that are gone from the screen by the start are left out. One that came long before it and is still
    /// there comes at the start, as far as the clip is concerned: the time before is no part of it.
    fn take(&mut self, frame: &mut Video) -> Result<(), VideoError> {
        let time = self.time_of(frame);
        let start = self.limits.start_secs;
        if time + 1.0 / self.track.fps <= start {
            let held = std::mem::replace(frame, Video::empty());
            self.before_start = Some((held, time));
            return Ok(());
        }
        // Where frames come at no even rate one may stay longer.
        if let Some((held, since)) = self.before_start.take()
            && time > start + TIME_SLACK_SECS
        {
            self.keep_frame(&held, since.max(start))?;
        }
        if self.stopped {
            return Ok(());
        }
        self.keep_frame(frame, time)
    }

    /// What is shown at the start where the film has no later frame.
    fn take_last(&mut self) -> Result<(), VideoError> {
        match self.before_start.take() {
            Some((held, since)) if self.end_time > self.limits.start_secs + TIME_SLACK_SECS => {
                self.keep_frame(&held, since.max(self.limits.start_secs))
            }
            _ => Ok(()),
        }
    }

    fn keep_frame(&mut self, frame: &Video, time: f64) -> Result<(), VideoError> {
        check_size(frame.width(), frame.height(), self.path, self.limits)?;
        self.hdr |= matches!(
            frame.color_transfer_characteristic(),
            TransferCharacteristic::SMPTE2084 | TransferCharacteristic::ARIB_STD_B67
        );
        let limits = self.limits;
        let converter = self.converter.get_or_insert_with(|| {
            let (width, height) = square_size(frame.width(), frame.height(), frame.aspect_ratio());
            let (width, height) = limits.scaled(width, height);
            ToRgb::new(width, height)
        });
        match converter.convert(frame) {
            Ok(picture) => {
                let upright = self.track.orientation.apply(picture);
                self.stopped = !self.keep.push(upright, time);
            }
            Err(error) => self.note_damage(Err(error)),
        }
        Ok(())
    }

    /// Whether the film ends clearly before its stated length.
    fn ends_early(&self) -> bool {
        let Some(stated) = self
            .track
            .duration_secs
            .filter(|_| self.last_time.is_some())
        else {
            return false;
        };
        // A twentieth and two frames of slack: stated lengths are rounded, and some count a gap at the end.
        let slack = 2.0 / self.track.fps + stated / 20.0;
        !self.stopped && self.end_time < stated - slack
    }

    fn finish(mut self) -> Result<Clip, VideoError> {
        let (read, wanted) = (self.keep.frames.len(), self.limits.wanted_frames.max(1));
        let cut = self.ends_early();
        if read == 0 && self.damaged == 0 && self.limits.start_secs > 0.0 {
            let decoded_end = self.last_time.map(|_| self.end_time);
            return Err(VideoError::StartBeyondEnd {
                start_secs: self.limits.start_secs,
                end_secs: decoded_end.or(self.track.duration_secs).unwrap_or(0.0),
            });
        }
        if read == 0 && !cut {
            let detail = if self.detail.is_empty() {
                "it holds no frames".into()
            } else {
                self.detail
            };
            return Err(VideoError::Decode {
                path: self.path.into(),
                detail,
            });
        }
        if read < wanted && (cut || self.damaged > 0) {
            return Err(VideoError::Truncated {
                path: self.path.into(),
                frames_read: read,
                wanted,
                detail: self.detail,
            });
        }
        if cut {
            self.keep.notes.push(format!(
                "The film is cut off: it should last {:.1} s, and {read} frames ({:.1} s) could be read.",
                self.track.duration_secs.unwrap_or(0.0),
                self.end_time
            ));
        } else if self.damaged > 0 {
            self.keep.notes.push(format!(
                "The film is damaged in {} places ({}); {read} frames could be read.",
                self.damaged, self.detail
            ));
        }
        if self.hdr {
            self.keep
                .notes
                .push("The film is HDR; its colours are read as they are and look pale.".into());
        }
        let fps = mean_fps(&self.keep.times_secs).unwrap_or(self.track.fps);
        Ok(self.keep.into_clip(fps, display_name(self.path)))
    }
}

/// Frames per second over rising times; `None` for fewer than two.
fn mean_fps(times_secs: &[f64]) -> Option<f64> {
    let span = times_secs.last()? - times_secs.first()?;
    (span > 0.0).then(|| (times_secs.len() - 1) as f64 / span)
}
