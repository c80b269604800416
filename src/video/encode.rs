//! Writing MP4 and WebM with FFmpeg.

use std::fs::File;

use ffmpeg_next::codec::{self, Context as CodecContext};
use ffmpeg_next::color::{Primaries, Range, Space, TransferCharacteristic};
use ffmpeg_next::encoder::{self, video::Encoder};
use ffmpeg_next::format::context::{Output, StreamIo};
use ffmpeg_next::format::{self, Pixel, flag::Flags as FormatFlags};
use ffmpeg_next::frame::Video;
use ffmpeg_next::util::error::EAGAIN;
use ffmpeg_next::{Dictionary, Error, Packet, Rational};

use super::VideoError;
use super::export::{Job, Progress, Written, report};
use super::scale::ToYuv;

/// The file formats FFmpeg writes for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Container {
    Mp4,
    WebM,
}

impl Container {
    /// FFmpeg's name of the container writer.
    fn muxer(self) -> &'static str {
        match self {
            Self::Mp4 => "mp4",
            Self::WebM => "webm",
        }
    }

    /// Encoders to try, best first. The last MP4 one is part of FFmpeg itself.
    fn encoders(self) -> &'static [&'static str] {
        match self {
            Self::Mp4 => &[
                "libx264",
                "libopenh264",
                "h264_videotoolbox",
                "h264_mf",
                "mpeg4",
            ],
            Self::WebM => &["libvpx-vp9", "libsvtav1", "libaom-av1", "libvpx"],
        }
    }

    /// What a viewer hopes to find inside.
    fn wanted(self) -> (&'static str, codec::Id) {
        match self {
            Self::Mp4 => ("H.264", codec::Id::H264),
            Self::WebM => ("VP9", codec::Id::VP9),
        }
    }
}

/// Writes the frames of a job into a file, with the recipe as the container's comment.
pub(super) fn write(
    job: &Job,
    file: File,
    container: Container,
    progress: Progress,
) -> Result<Written, VideoError> {
    let failed = |e: Error| job.failed(e);
    let io = StreamIo::from_write_seek(file).map_err(failed)?;
    let mut output = format::output_to_stream(io, None, Some(container.muxer())).map_err(failed)?;
    let global_header = output.format().flags().contains(FormatFlags::GLOBAL_HEADER);
    let (encoder, name, mut notes) = open_encoder(job, container, global_header)?;
    let size = even_size(job.size);
    if size != job.size {
        notes.push(format!(
            "Padded to even sides, {}x{}, by repeating the last row or column.",
            size.0, size.1
        ));
    }
    let stream = add_stream(&mut output, &encoder, job).map_err(failed)?;
    if let Some(text) = &job.options.recipe {
        output.set_metadata([("comment", text.as_str())].into_iter().collect());
    }
    output.write_header().map_err(failed)?;
    let mut writer = Writer {
        encoder,
        stream_time_base: output
            .stream(stream)
            .map_or(time_base(job.fps), |s| s.time_base()),
        time_base: time_base(job.fps),
        stream,
        output,
    };
    let mut to_yuv = ToYuv::new(size.0, size.1).map_err(failed)?;
    let total = job.frames.len();
    for index in 0..total {
        report(&mut *progress, index, total)?;
        // A fresh picture each time: the encoder keeps references to the ones it was given.
        let mut yuv = Video::new(Pixel::YUV420P, size.0, size.1);
        to_yuv
            .convert(&job.frame(index), &mut yuv)
            .map_err(failed)?;
        mark_colours(&mut yuv);
        yuv.set_pts(Some(index as i64));
        writer.encoder.send_frame(&yuv).map_err(failed)?;
        writer.drain().map_err(failed)?;
    }
    writer.encoder.send_eof().map_err(failed)?;
    writer.drain().map_err(failed)?;
    writer.output.write_trailer().map_err(failed)?;
    report(progress, total, total)?;
    Ok(Written {
        encoder: name,
        notes,
    })
}

/// Size rounded up to even sides, which 2x2 colour samples need.
fn even_size((width, height): (u32, u32)) -> (u32, u32) {
    (width.next_multiple_of(2), height.next_multiple_of(2))
}

/// Duration of a frame, exact to a thousandth of a frame per second.
fn time_base(fps: f64) -> Rational {
    Rational::new(1000, (fps * 1000.0).round() as i32)
}

fn mark_colours(frame: &mut Video) {
    frame.set_color_space(Space::BT709);
    frame.set_color_range(Range::MPEG);
    frame.set_color_primaries(Primaries::BT709);
    frame.set_color_transfer_characteristic(TransferCharacteristic::BT709);
}

/// Opens the first encoder that is there and works, and says so if it is not the usual one.
fn open_encoder(
    job: &Job,
    container: Container,
    global_header: bool,
) -> Result<(Encoder, String, Vec<String>), VideoError> {
    let asked = job.options.encoder.as_deref();
    let candidates = asked
        .into_iter()
        .chain(container.encoders().iter().copied());
    let (format, id) = container.wanted();
    let mut tried = Vec::new();
    let mut notes = Vec::new();
    for name in candidates {
        let opened = encoder::find_by_name(name)
            .ok_or(Error::EncoderNotFound)
            .and_then(|codec| Ok((open(codec, name, job, global_header)?, codec.id())));
        match opened {
            Ok((encoder, actual)) => {
                if actual != id {
                    notes.push(format!(
                        "Written as {} with the encoder {name}, since {} {} not to be had; some players may refuse it.",
                        actual.name(),
                        if tried.is_empty() { format } else { "the encoders before it" },
                        if tried.is_empty() { "was" } else { "were" },
                    ));
                }
                return Ok((encoder, name.to_owned(), notes));
            }
            Err(error) => {
                if asked == Some(name) {
                    notes.push(format!("The encoder {name} could not be used ({error})."));
                }
                tried.push(name);
            }
        }
    }
    Err(VideoError::EncoderMissing {
        format,
        tried: tried.join(", "),
    })
}

fn open(
    codec: ffmpeg_next::Codec,
    name: &str,
    job: &Job,
    global_header: bool,
) -> Result<Encoder, Error> {
    let (width, height) = even_size(job.size);
    let mut video = CodecContext::new_with_codec(codec).encoder().video()?;
    video.set_width(width);
    video.set_height(height);
    video.set_format(Pixel::YUV420P);
    video.set_time_base(time_base(job.fps));
    video.set_frame_rate(Some(time_base(job.fps).invert()));
    video.set_colorspace(Space::BT709);
    video.set_color_range(Range::MPEG);
    video.set_color_primaries(Primaries::BT709);
    video.set_color_transfer_characteristic(TransferCharacteristic::BT709);
    let mut flags = codec::Flags::empty();
    if global_header {
        flags |= codec::Flags::GLOBAL_HEADER;
    }
    let options = rate_options(name, job, &mut flags);
    video.set_flags(flags);
    if name == "mpeg4" {
        video.set_global_quality(
            mpeg4_quantiser(job.options.quality) * ffmpeg_next::ffi::FF_QP2LAMBDA,
        );
    } else if options.get("crf").is_none() {
        video.set_bit_rate(bit_rate(job));
    }
    video.open_as_with(codec, options)
}

/// Quality 0..100 on the encoder's own scale, which runs downwards from `worst` to `best`.
fn on_scale(quality: u8, worst: f64, best: f64) -> i32 {
    let share = f64::from(quality.min(100)) / 100.0;
    (worst + (best - worst) * share).round() as i32
}

/// MPEG-4's quantiser: 2 is the best it offers that is worth its size, 31 the worst.
fn mpeg4_quantiser(quality: u8) -> i32 {
    on_scale(quality, 20.0, 2.0)
}

/// Bits per second for encoders without a constant-quality mode: up to a quarter of a bit a pixel.
fn bit_rate(job: &Job) -> usize {
    let pixels_a_second = f64::from(job.size.0) * f64::from(job.size.1) * job.fps;
    let bits_a_pixel = 0.02 + 0.0023 * f64::from(job.options.quality.min(100));
    ((pixels_a_second * bits_a_pixel) as usize).max(200_000)
}

/// Options for constant quality, for the encoders known to have it.
fn rate_options(name: &str, job: &Job, flags: &mut codec::Flags) -> Dictionary<'static> {
    let quality = job.options.quality;
    let mut options = Dictionary::new();
    match name {
        "libx264" => {
            options.set("crf", &on_scale(quality, 38.0, 12.0).to_string());
            options.set("preset", "medium");
        }
        "libvpx-vp9" | "libaom-av1" | "libsvtav1" => {
            options.set("crf", &on_scale(quality, 56.0, 14.0).to_string());
            options.set("b", "0");
            options.set("cpu-used", "4");
            options.set("row-mt", "1");
        }
        "mpeg4" => *flags |= codec::Flags::QSCALE,
        _ => {}
    }
    options
}

fn add_stream(output: &mut Output, encoder: &Encoder, job: &Job) -> Result<usize, Error> {
    let mut stream = output.add_stream_with(encoder)?;
    stream.set_time_base(time_base(job.fps));
    stream.set_avg_frame_rate(time_base(job.fps).invert());
    Ok(stream.index())
}

struct Writer {
    encoder: Encoder,
    output: Output,
    stream: usize,
    time_base: Rational,
    stream_time_base: Rational,
}

impl Writer {
    /// Writes every packet the encoder has ready.
    fn drain(&mut self) -> Result<(), Error> {
        let mut packet = Packet::empty();
        loop {
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {
                    packet.set_stream(self.stream);
                    // Encoders leave it open, and then the last frame would last no time.
                    packet.set_duration(1);
                    packet.rescale_ts(self.time_base, self.stream_time_base);
                    packet.write_interleaved(&mut self.output)?;
                }
                Err(Error::Eof | Error::Other { errno: EAGAIN }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}
